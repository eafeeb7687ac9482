"""Whether a model's losses are means over examples, of which devices can take shares."""
from typing import Callable

import jax
from ml_collections import ConfigDict
import numpy as np

from gen_jax import loop
from gen_jax.types import Array, Batch, State

STEPS = 0, 10 ** 6     # at the second, schedules are over
LEAST, NEAR = 8, 1e-5  # examples in half a batch; above rounding, 2e-7 of the largest gradient
AWAY = .02             # from the parameters' start, where much is symmetric


def coupled_players(config: ConfigDict, make: Callable, state: State, example: Batch,
                    key: Array) -> list[str]:
    """The players of make() to whose gradients an example adds what depends on the others.

    Where it does not, those of batches of two halves, with the same noise as the key is one, have
    g(a, b) - g(a, d) - g(c, b) + g(c, d) = 0.  Batch statistics, which devices have of their own,
    are left out: layer normalisation takes their place.
    """
    quickly = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
    other = {f'{group}.norm': 'layer' for group, keys in config.items()
             if isinstance(keys, ConfigDict) and keys.get('norm') == 'batch'}
    model = make(axis=None, **other)
    if not model.gradients:
        return []
    if other:
        state = jax.jit(model.init, compiler_options=quickly)(key, example)
    chance, pack = np.random.default_rng(0), config.get('discriminator', {}).get('packing', 1)
    state = jax.tree.map(np.asarray, state)
    state = state._replace(params=jax.tree.map(
        lambda p: p + np.float32(AWAY) * chance.standard_normal(p.shape, p.dtype), state.params))
    a, c, b, d = chance.integers(len(example.x), size=(4, pack * -(-LEAST // pack)))
    gradients = jax.jit(model.gradients, compiler_options=quickly)

    def of(step, *halves):
        batch = loop.take(example, np.concatenate(halves))
        return jax.device_get(gradients(state._replace(step=np.int32(step)), batch, key))

    coupled = set()
    with jax.default_matmul_precision('float32'):
        for step in STEPS:
            four = of(step, a, b), of(step, a, d), of(step, c, b), of(step, c, d)
            for player in state.params:
                apart = jax.tree.map(lambda ab, ad, cb, cd: ab - ad - cb + cd,
                                     *(g[player] for g in four))
                if largest(apart) > NEAR * max(largest(g[player]) for g in four):
                    coupled.add(player)
    return sorted(coupled)


def largest(tree) -> float:
    return max(np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(tree))
