"""Many trainings in one program: points of a grid that differ in numbers share a compilation.

The numbers of a point are arrays in its state, so the loop, metrics and checkpoints handle a Model
as usual. For a latent size below the largest one, the unused dimensions are kept at zero.
"""
from gen_jax.sweep.groups import Group, plan
from gen_jax.sweep.evaluator import Evaluator
from gen_jax.sweep.points import LATENT, SEED, changed, grid, label, name, numbers
from gen_jax.sweep.traced import embedded, traceable
from gen_jax.sweep.training import init_states, fitting, follow, memory, programs
