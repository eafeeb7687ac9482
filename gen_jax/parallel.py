"""The devices: how a loop over (state, data, key) is compiled for all of them.

`jit` shards each batch over a mesh and sees the global batch: any model gives one device's result.
`shard_map` and `pmap` run the loop once per device on its share of each batch, with its own noise;
gradients are averaged by game's `axis`, while what couples a batch (batch statistics) stays local.
"""
import math
from typing import Callable, NamedTuple

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import numpy as np

from gen_jax.types import BadInput

MODES = 'jit', 'shard_map', 'pmap'
BESIDE = 'vmap', 'map', 'shard'
AXIS = 'data'


class Layout(NamedTuple):
    """axis: what game needs; share: what loop needs; place: data and state onto the devices;
    compile: (run, donate) -> a jitted function of (state, data, key)."""
    axis: str | None
    share: Callable
    place: Callable
    compile: Callable


def layout(mode: str, batch: int) -> Layout:
    """The Layout of `mode` over all devices.  Raises BadInput for an unknown mode, or a batch that
    the devices cannot share equally."""
    if mode not in MODES:
        raise BadInput(f'unknown parallel {mode!r}; choose one of {", ".join(MODES)}')
    devices = jax.devices()
    if batch % len(devices):
        raise BadInput(f'batch {batch} cannot be shared equally by {len(devices)} devices; '
                       f'use a multiple of {len(devices)}')
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, P())
    place = lambda tree: jax.device_put(tree, everywhere)

    def sharded(rows, key):
        return lax.with_sharding_constraint(rows, NamedSharding(mesh, P(AXIS))), key

    def own(rows, key):
        i = lax.axis_index(AXIS)
        return rows.reshape(len(devices), -1)[i], jax.random.fold_in(key, i)

    def jit(run, donate):
        return jax.jit(run, donate_argnums=donate, out_shardings=everywhere)

    def shard_map(run, donate):
        # check_vma would add a psum of its own to the gradients of replicated parameters
        return jit(jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False),
                   donate)

    def pmap(run, donate):
        # pmap wants one argument that is mapped; jit around it donates and compiles ahead of time
        mapped = jax.pmap(lambda _, *args: run(*args), AXIS, in_axes=(0, None, None, None),
                          out_axes=None)
        return jax.jit(lambda *args: mapped(np.arange(len(devices)), *args), donate_argnums=donate)

    if mode == 'jit':
        return Layout(None, sharded, place, jit)
    return Layout(AXIS, own, place, dict(shard_map=shard_map, pmap=pmap)[mode])


def beside(how: str, points: int, batch: int) -> Layout:
    """The Layout of so many trainings side by side, whose loop takes a leading axis of states and
    of keys: `vmap`, each operation over all of them; `map`, one after the other; `shard`, over the
    devices, a mesh with axes `sweep`, of the points, and `data`, of each one's batches.

    Raises BadInput for another way, or devices that cannot share points and batch equally.
    """
    if how not in BESIDE:
        raise BadInput(f'unknown way {how!r} to train points; choose one of {", ".join(BESIDE)}')
    devices = jax.device_count() if how == 'shard' else 1
    side = math.gcd(points, devices)
    if batch % (devices // side):
        raise BadInput(f'{points} points of batch {batch} cannot be shared by {devices} devices; '
                       f'use a multiple of {devices} points')
    mesh = jax.make_mesh((side, devices // side), ('sweep', AXIS), axis_types=(AxisType.Auto,) * 2,
                         devices=jax.devices()[:devices])
    spread = NamedSharding(mesh, P('sweep'))

    def share(rows, key):
        return lax.with_sharding_constraint(rows, NamedSharding(mesh, P(AXIS))), key

    def compile(run, donate):
        def one_by_one(states, data, keys):
            return lax.map(lambda own: run(own[0], data, own[1]), (states, keys))

        every = jax.vmap(run, (0, None, 0), spmd_axis_name='sweep')
        return jax.jit(one_by_one if how == 'map' else every, donate_argnums=donate,
                       in_shardings=(spread, NamedSharding(mesh, P()), spread),
                       out_shardings=spread)

    return Layout(None, share, lambda tree: jax.device_put(tree, NamedSharding(mesh, P())), compile)
