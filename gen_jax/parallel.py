"""The devices, of one process or of several: how a loop over (state, data, key) is compiled for all
of them.

`jit` shards each batch over a mesh and sees the global batch: any model gives one device's result.
`fsdp` does so too, and shards the state: no device holds the whole of it.
`shard_map` and `pmap` run the loop once per device on its share of each batch, with its own noise;
gradients are averaged by game's `axis`, while what couples a batch (batch statistics) stays local.
"""
import contextlib
import math
import os
import socket
import threading
import time
from typing import Any, Callable, NamedTuple

import jax
from jax import lax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import numpy as np

from gen_jax.types import BadInput, State, Tree

MODES = 'jit', 'fsdp', 'shard_map', 'pmap'
SIDE_BY_SIDE = 'vmap', 'map', 'shard'
AXIS = 'data'
SMALL = 1024  # numbers in an array that fsdp leaves whole: sharing it costs more than it saves


class ProcessLost(Exception):
    """Other processes never came or are gone; what waits for them, as JAX does at exit, hangs."""


def join(coordinator: str | None = None, process: int | None = None, processes: int | None = None,
         patience: int = 100) -> None:
    """Makes this one of several processes whose devices compute as one; call it before any device
    is touched.  Who they are is found on a TPU pod and under Slurm, and given elsewhere, the
    coordinator as the HOST:PORT of process 0, which alone writes to stdout from here on.

    A process silent for `patience` seconds ends the others.  Raises BadInput for what cannot be,
    and Lost where not all have come within that time.
    """
    given = dict(coordinator=coordinator, process=process, processes=processes)
    if lacking := [name for name, value in given.items() if value is None]:
        if len(lacking) < len(given):
            raise BadInput('--coordinator=HOST:PORT, --process=I and --processes=N go together; '
                           f'there is no --{", --".join(lacking)}')
    else:
        port = coordinator.rpartition(':')[2]
        if ':' not in coordinator or not port.isdecimal():
            raise BadInput(f'--coordinator is HOST:PORT of process 0, not {coordinator!r}')
        if not 0 <= process < processes:
            raise BadInput(f'--process counts from 0: it is less than --processes={processes}, '
                           f'not {process}')
        try:  # JAX' own service would crash
            if process == 0:
                socket.create_server(('', int(port))).close()
        except (OSError, OverflowError) as e:
            raise BadInput(f'port {port} of --coordinator cannot be opened ({e}); '
                           'give another to all processes') from None
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.config.update('jax_enable_preemption_service', False)  # it would make SIGTERM ineffective
    failed = []

    def connect():
        try:
            jax.distributed.initialize(
                coordinator, processes, process, initialization_timeout=10 * patience,
                cluster_detection_method='deactivate' if coordinator else None,
                heartbeat_timeout_seconds=patience, shutdown_timeout_seconds=patience)
        except Exception as e:  # of whatever looks for a cluster
            failed.append(e)

    waiting = threading.Thread(target=connect, daemon=True)  # JAX would abort at its own timeout
    waiting.start()
    waiting.join(patience)
    if waiting.is_alive():
        raise ProcessLost(
            f'not all processes have come within {patience} s; start this command on all'
            f'{f", where {coordinator} can be reached" if coordinator else ""}, '
            'or give a larger --patience')
    if failed:
        raise BadInput(f'no TPU pod or Slurm is found here ({" ".join(str(failed[0]).split())}); '
                       'give --coordinator=HOST:PORT --process=I --processes=N')
    if jax.process_index():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def heartbeat():
    """Within, what breaks the computation of several processes is Lost."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, TimeoutError) as e:  # orbax' own is the second
        if jax.process_count() == 1:
            raise
        time.sleep(2 * (jax.process_index() == 0))  # JAX ends all where the first is gone
        raise ProcessLost(
            f'the processes can no longer compute together ({str(e).splitlines()[0]}); the '
            'same command in all of them goes on from the newest checkpoint, or begins anew '
            'where there is none') from None


def exit_process(code: int) -> int:
    """code, to exit with; one of several processes ends here, since JAX would wait for the others
    at exit."""
    if jax.distributed.is_initialized():
        os._exit(code)
    return code


def collectively(check: Callable, *args) -> Any:
    """check(*args); what it raises as BadInput in one process, it raises in all of them."""
    result, problem = None, ''
    try:
        result = check(*args)
    except BadInput as e:
        problem = str(e)
    said = np.frombuffer(problem.encode()[:500].ljust(500), np.uint8)
    said = [bytes(words).decode(errors='ignore').strip()
            for words in multihost_utils.process_allgather(said).reshape(-1, 500)]
    if problem := problem or next(filter(None, said), ''):
        raise BadInput(problem)
    return result


def any_process(so: bool) -> bool:
    """Whether it is so in any of the processes."""
    if jax.process_count() == 1:
        return so
    return bool(np.any(multihost_utils.process_allgather(np.asarray(so))))


def to_host(tree: Tree) -> Tree:
    """A copy of its own for each of several processes, of arrays over the devices of all."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda a: jnp.asarray(
        np.asarray(a) if a.is_fully_replicated else
        multihost_utils.process_allgather(a, tiled=True)), tree)


class Layout(NamedTuple):
    """axis: what game needs; share: what loop needs; place: data and state onto the devices;
    compile: (run, donate) -> a jitted function of (state, data, key); born: (init, *args) -> the
    state init(*args) on the devices, of one training; like: the same, but its shapes and places."""
    axis: str | None
    share: Callable
    place: Callable
    compile: Callable
    init_sharded: Callable | None = None
    like: Callable | None = None


def layout(mode: str, batch: int = 0) -> Layout:
    """The Layout of `mode` over all devices.  Raises BadInput for an unknown mode, pmap in several
    processes, or a batch, where one is given, that the devices cannot share equally."""
    if mode not in MODES:
        raise BadInput(f'unknown parallel {mode!r}; choose one of {", ".join(MODES)}')
    devices = jax.devices()
    if batch % len(devices):
        raise BadInput(f'batch {batch} cannot be shared equally by {len(devices)} devices; '
                       f'use a multiple of {len(devices)}')
    if mode == 'pmap' and jax.process_count() > 1:
        raise BadInput('pmap is for one process; use --config.parallel=shard_map, which computes '
                       'the same')
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, P())

    def place(tree):
        if jax.process_count() == 1:
            return jax.device_put(tree, everywhere)
        return jax.tree.map(lambda a: jax.make_array_from_callback(  # device_put would send it
            a.shape, everywhere, lambda i: np.asarray(a)[i]), tree)

    # a birth runs once: on a CPU the same bits for a third of the compilation
    easily = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else None

    def init_replicated(init, *args):
        return place(jax.jit(init, compiler_options=easily)(*args))

    def sharded(rows, key):
        return lax.with_sharding_constraint(rows, NamedSharding(mesh, P(AXIS))), key

    def sharded_rows(rows, key):
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

    def split(tree):
        return jax.tree.map(lambda a: NamedSharding(mesh, spec(a.shape, len(devices))), tree)

    def fsdp(run, donate):
        def pinned(*args):  # jit alone might give back what it did not get
            return jax.tree.map(
                lambda out: lax.with_sharding_constraint(
                    out, split(out) if isinstance(out, State) else everywhere),
                run(*args), is_leaf=lambda out: isinstance(out, State))
        return jax.jit(pinned, donate_argnums=donate)

    def init_split(init, *args):
        return jax.jit(init, out_shardings=split(jax.eval_shape(init, *args)),
                       compiler_options=easily)(*args)

    def like(init, *args):
        shapes = jax.eval_shape(init, *args)
        places = split(shapes) if mode == 'fsdp' else jax.tree.map(lambda _: everywhere, shapes)
        return jax.tree.map(lambda a, at: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at),
                            shapes, places)

    if mode == 'fsdp':
        return Layout(None, sharded, place, fsdp, init_split, like)
    if mode == 'jit':
        return Layout(None, sharded, place, jit, init_replicated, like)
    return Layout(AXIS, sharded_rows, place,
                  dict(shard_map=shard_map, pmap=pmap)[mode], init_replicated, like)


def spec(shape: tuple[int, ...], devices: int) -> P:
    """Where fsdp splits an array: along the largest axis that the devices share equally; nowhere
    where there is none, or the array is small."""
    shared = [n for n in shape if n % devices == 0]
    if not shared or math.prod(shape) < SMALL:
        return P()
    return P(*[None] * shape.index(max(shared)), AXIS)


def side_by_side(how: str, points: int, batch: int) -> Layout:
    """The Layout of so many trainings side by side, whose loop takes a leading axis of states and
    of keys: `vmap`, each operation over all of them; `map`, one after the other; `shard`, over the
    devices, a mesh with axes `sweep`, of the points, and `data`, of each one's batches.

    Raises BadInput for another way, or devices that cannot share points and batch equally.
    """
    if how not in SIDE_BY_SIDE:
        raise BadInput(
            f'unknown way {how!r} to train points; choose one of {", ".join(SIDE_BY_SIDE)}')
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
            return lax.map(lambda pair: run(pair[0], data, pair[1]), (states, keys))

        every = jax.vmap(run, (0, None, 0), spmd_axis_name='sweep')
        return jax.jit(one_by_one if how == 'map' else every, donate_argnums=donate,
                       in_shardings=(spread, NamedSharding(mesh, P()), spread),
                       out_shardings=spread)

    return Layout(None, share, lambda tree: jax.device_put(tree, NamedSharding(mesh, P())), compile)
