"""Many trainings as one program: points of a grid that differ in numbers share a compilation.

A point's numbers are arrays in its state, so that the loop, the measures and checkpoints see a
Model like any other; of a latent size below the largest, what lies beyond it is held at zero.
"""
from gen_jax.sweep.groups import Group, plan
from gen_jax.sweep.evaluator import Evaluator
from gen_jax.sweep.points import LATENT, SEED, changed, grid, label, name, numbers
from gen_jax.sweep.traced import embedded, traceable
from gen_jax.sweep.training import init_states, fitting, follow, memory, programs
