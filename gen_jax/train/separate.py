"""Whether a model's losses are means over examples, of which devices can take shares."""
from typing import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from gen_jax import loop, parallel
from gen_jax.types import Array, Batch, Model

STEPS = 0, 10 ** 6     # at the second, schedules are over
LEAST, NEAR = 8, 1e-4  # examples in half a batch; what rounding is below, of the largest gradient
AWAY = .02             # from the parameters' start, where much is symmetric


def coupled(config: ConfigDict, make: Callable[..., Model], example: Batch,
            key: Array) -> list[str]:
    """The players of make() to whose gradients an example adds what depends on the others.

    Where it does not, those of batches of two halves, with the same noise as the key is one, have
    g(a, b) - g(a, d) - g(c, b) + g(c, d) = 0.  Batch statistics, which devices have of their own,
    are left out: layer normalisation takes their place.
    """
    model = make(axis=None, **{k: 'layer' for k in ('norm', 'critic_norm')
                               if config.model.get(k) == 'batch'})
    if not model.gradients:
        return []
    pack = config.model.get('pack', 1)
    size = 4, pack * -(-LEAST // pack)
    a, c, b, d = np.random.default_rng(0).integers(len(example.x), size=size)
    rows = np.array([np.concatenate(pair) for pair in ((a, b), (a, d), (c, b), (c, d))])

    def look(example, key):
        """{player: (what should be 0, the largest gradient)} at each step."""
        state = model.init(key, example)
        state = state._replace(params=jax.tree.map(
            lambda p: p + AWAY * jax.random.normal(key, p.shape, p.dtype), state.params))

        def at(step):
            def add(sums, one):
                sign, rows = one
                found = model.gradients(state._replace(step=step), loop.take(example, rows), key)
                return jax.tree.map(lambda s, g: s + sign * g, sums, found), {
                    name: largest(of) for name, of in found.items()}

            zeros = jax.tree.map(jnp.zeros_like, state.params)
            sums, most = jax.lax.scan(add, zeros, (np.float32([1, -1, -1, 1]), rows))
            return {name: (largest(sums[name]), most[name].max()) for name in sums}

        return jax.lax.map(at, np.int32(STEPS))

    with jax.default_matmul_precision('float32'):
        found = jax.jit(look, compiler_options=parallel.easily())(example, key)
    return [name for name, (apart, most) in jax.device_get(found).items()
            if (apart > NEAR * most).any()]


def largest(tree) -> Array:
    return jnp.stack([abs(a).max() for a in jax.tree.leaves(tree)]).max()
