"""Finds players whose loss is not a mean over examples, so that devices cannot compute it on
shares.
"""
from typing import Callable

import jax
from ml_collections import ConfigDict
import numpy as np

from gen_jax import loop
from gen_jax.types import Array, Batch, State

STEPS = 0, 10 ** 6    # by the second, every schedule has ended
HALF_BATCH, TOLERANCE = 8, 1e-5  # examples; relative to the largest gradient, rounding is 2e-7
PERTURBATION = .02    # of the initial parameters, where much is symmetric


def coupled_players(config: ConfigDict, make: Callable, state: State, example: Batch,
                    key: Array) -> list[str]:
    """The players of make() whose gradient contains terms that couple the examples of a batch.

    Let g be the gradient for a batch of two halves, the first a or c, the second b or d, always
    with the same key and hence the same noise. If the loss is a mean over examples,
    g(a, b) - g(a, d) - g(c, b) + g(c, d) = 0. Batch norm, whose statistics are local to each
    device, is not checked: layer norm replaces it here.
    """
    options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
    overrides = {f'{group}.norm': 'layer' for group, keys in config.items()
                 if isinstance(keys, ConfigDict) and keys.get('norm') == 'batch'}
    model = make(axis=None, **overrides)
    if not model.gradients:
        return []
    if overrides:
        state = jax.jit(model.init, compiler_options=options)(key, example)
    rng, pack = np.random.default_rng(0), config.get('discriminator', {}).get('packing', 1)
    state = jax.tree.map(np.asarray, state)
    state = state._replace(params=jax.tree.map(
        lambda p: p + np.float32(PERTURBATION) * rng.standard_normal(p.shape, p.dtype),
        state.params))
    a, c, b, d = rng.integers(len(example.x), size=(4, pack * -(-HALF_BATCH // pack)))
    gradients = jax.jit(model.gradients, compiler_options=options)

    def gradients_of(step, *halves):
        batch = loop.take(example, np.concatenate(halves))
        return jax.device_get(gradients(state._replace(step=np.int32(step)), batch, key))

    coupled = set()
    with jax.default_matmul_precision('float32'):
        for step in STEPS:
            values = (gradients_of(step, a, b), gradients_of(step, a, d),
                      gradients_of(step, c, b), gradients_of(step, c, d))
            for player in state.params:
                residual = jax.tree.map(lambda ab, ad, cb, cd: ab - ad - cb + cd,
                                        *(g[player] for g in values))
                if largest(residual) > TOLERANCE * max(largest(g[player]) for g in values):
                    coupled.add(player)
    return sorted(coupled)


def largest(tree) -> float:
    return max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(tree))
