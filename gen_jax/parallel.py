"""Layouts over devices of one or several processes: how a loop over (state, data, key) is compiled
for all of them.

`jit` shards each batch over a mesh and computes on the global batch: every model gives the result
of one device. `fsdp` does the same and also shards the state: no device holds all of it.
`shard_map` and `pmap` run the loop once per device on its share of each batch, with its own noise.
Gradients are averaged over the `axis` of `game`; what couples a batch (batch statistics) stays
local.
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
SMALL = 1024  # size below which fsdp replicates an array: sharding would cost more than it saves


class ProcessLost(Exception):
    """Other processes did not start or have died; JAX would wait for them forever, also at exit."""


def join(coordinator: str | None = None, process: int | None = None, processes: int | None = None,
         patience: int = 100) -> None:
    """Joins several processes whose devices compute together. Call it before any device is used. A
    TPU pod or Slurm supplies the arguments; elsewhere give them, with the coordinator as HOST:PORT
    of process 0. From here on only process 0 writes to stdout.

    A process that is silent for `patience` seconds ends the others.
    Raises: BadInput for invalid arguments; ProcessLost if not all processes start within this time.
    """
    given = dict(coordinator=coordinator, process=process, processes=processes)
    if missing := [name for name, value in given.items() if value is None]:
        if len(missing) < len(given):
            raise BadInput('--coordinator=HOST:PORT, --process=I and --processes=N go together; '
                           f'there is no --{", --".join(missing)}')
    else:
        port = coordinator.rpartition(':')[2]
        if ':' not in coordinator or not port.isdecimal():
            raise BadInput(f'--coordinator is HOST:PORT of process 0, not {coordinator!r}')
        if not 0 <= process < processes:
            raise BadInput(f'--process counts from 0: it is less than --processes={processes}, '
                           f'not {process}')
        try:  # JAX's own service would crash
            if process == 0:
                socket.create_server(('', int(port))).close()
        except (OSError, OverflowError) as e:
            raise BadInput(f'port {port} of --coordinator cannot be opened ({e}); '
                           'give another to all processes') from None
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.config.update('jax_enable_preemption_service', False)  # it would make SIGTERM ineffective
    errors = []

    def connect():
        try:
            jax.distributed.initialize(
                coordinator, processes, process, initialization_timeout=10 * patience,
                cluster_detection_method='deactivate' if coordinator else None,
                heartbeat_timeout_seconds=patience, shutdown_timeout_seconds=patience)
        except Exception as e:  # of many types, from the cluster detection
            errors.append(e)

    waiting = threading.Thread(target=connect, daemon=True)  # JAX would abort at its own timeout
    waiting.start()
    waiting.join(patience)
    if waiting.is_alive():
        raise ProcessLost(
            f'not all processes have come within {patience} s; start this command on all'
            f'{f", where {coordinator} can be reached" if coordinator else ""}, '
            'or give a larger --patience')
    if errors:
        raise BadInput(f'no TPU pod or Slurm is found here ({" ".join(str(errors[0]).split())}); '
                       'give --coordinator=HOST:PORT --process=I --processes=N')
    if jax.process_index():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def heartbeat():
    """A context that converts failures of a computation of several processes to ProcessLost."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, TimeoutError) as e:  # orbax raises the second
        if jax.process_count() == 1:
            raise
        time.sleep(2 * (jax.process_index() == 0))  # JAX ends all processes once the first is gone
        raise ProcessLost(
            f'the processes can no longer compute together ({str(e).splitlines()[0]}); the '
            'same command in all of them goes on from the newest checkpoint, or begins anew '
            'where there is none') from None


def exit_process(code: int) -> int:
    """Returns `code`, to exit with. If there are several processes, exits at once, because JAX
    would wait for the others.
    """
    if jax.distributed.is_initialized():
        os._exit(code)
    return code


def collectively(check: Callable, *args) -> Any:
    """check(*args); a BadInput in one process is raised in all processes."""
    result, problem = None, ''
    try:
        result = check(*args)
    except BadInput as e:
        problem = str(e)
    encoded = np.frombuffer(problem.encode()[:500].ljust(500), np.uint8)
    messages = [bytes(words).decode(errors='ignore').strip()
                for words in multihost_utils.process_allgather(encoded).reshape(-1, 500)]
    if problem := problem or next(filter(None, messages), ''):
        raise BadInput(problem)
    return result


def any_process(condition: bool) -> bool:
    """Whether the condition holds in any process."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.asarray(condition))))


def to_host(tree: Tree) -> Tree:
    """A full copy in each process of arrays that are sharded over the devices of all processes."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda a: jnp.asarray(
        np.asarray(a) if a.is_fully_replicated else
        multihost_utils.process_allgather(a, tiled=True)), tree)


class Layout(NamedTuple):
    """How a loop runs on the devices.

    axis: the mapped axis for `game`; share: maps rows and key of a batch, for `loop`; place: puts
    data and state on the devices; compile: (run, donate) -> a jitted function of (state, data,
    key). For a single training: init_sharded: (init, *args) -> the state init(*args) on the
    devices; like: the same, but only shapes and shardings.
    """
    axis: str | None
    share: Callable
    place: Callable
    compile: Callable
    init_sharded: Callable | None = None
    like: Callable | None = None


def layout(mode: str, batch: int = 0) -> Layout:
    """The Layout of `mode` over all devices.
    Raises: BadInput for an unknown mode, for pmap with several processes, or for a batch size, if
    given, that is not a multiple of the number of devices.
    """
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
    replicated = NamedSharding(mesh, P())

    def place(tree):
        if jax.process_count() == 1:
            return jax.device_put(tree, replicated)
        return jax.tree.map(lambda a: jax.make_array_from_callback(  # device_put would transfer it
            a.shape, replicated, lambda i: np.asarray(a)[i]), tree)

    # init runs once: this gives the same bits on a CPU for a third of the compile time
    options = {'xla_backend_optimization_level': 1} if jax.default_backend() == 'cpu' else None

    def init_replicated(init, *args):
        return place(jax.jit(init, compiler_options=options)(*args))

    def sharded(rows, key):
        return lax.with_sharding_constraint(rows, NamedSharding(mesh, P(AXIS))), key

    def sharded_rows(rows, key):
        i = lax.axis_index(AXIS)
        return rows.reshape(len(devices), -1)[i], jax.random.fold_in(key, i)

    def jit(run, donate):
        return jax.jit(run, donate_argnums=donate, out_shardings=replicated)

    def shard_map(run, donate):
        # check_vma would add a psum of its own to the gradients of replicated parameters
        return jit(jax.shard_map(run, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False),
                   donate)

    def pmap(run, donate):
        # pmap requires one mapped argument; jit around it donates and compiles ahead of time
        mapped = jax.pmap(lambda _, *args: run(*args), AXIS, in_axes=(0, None, None, None),
                          out_axes=None)
        return jax.jit(lambda *args: mapped(np.arange(len(devices)), *args), donate_argnums=donate)

    def split(tree):
        return jax.tree.map(lambda a: NamedSharding(mesh, spec(a.shape, len(devices))), tree)

    def fsdp(run, donate):
        def constrained(*args):  # jit alone might return other shardings than it got
            return jax.tree.map(
                lambda out: lax.with_sharding_constraint(
                    out, split(out) if isinstance(out, State) else replicated),
                run(*args), is_leaf=lambda out: isinstance(out, State))
        return jax.jit(constrained, donate_argnums=donate)

    def init_split(init, *args):
        return jax.jit(init, out_shardings=split(jax.eval_shape(init, *args)),
                       compiler_options=options)(*args)

    def like(init, *args):
        shapes = jax.eval_shape(init, *args)
        places = split(shapes) if mode == 'fsdp' else jax.tree.map(lambda _: replicated, shapes)
        return jax.tree.map(lambda a, at: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=at),
                            shapes, places)

    if mode == 'fsdp':
        return Layout(None, sharded, place, fsdp, init_split, like)
    if mode == 'jit':
        return Layout(None, sharded, place, jit, init_replicated, like)
    return Layout(AXIS, sharded_rows, place,
                  dict(shard_map=shard_map, pmap=pmap)[mode], init_replicated, like)


def spec(shape: tuple[int, ...], devices: int) -> P:
    """The PartitionSpec of an array for fsdp: its largest axis that is divisible by the number of
    devices; replicated if there is none, or if the array is small.
    """
    shared = [n for n in shape if n % devices == 0]
    if not shared or math.prod(shape) < SMALL:
        return P()
    return P(*[None] * shape.index(max(shared)), AXIS)


def side_by_side(mode: str, points: int, batch: int) -> Layout:
    """The Layout for training `points` runs in one program, whose loop has a leading axis of states
    and of keys. `vmap` vectorises each operation over the runs; `map` trains one after the other;
    `shard` shards them over the devices, in a mesh with axes `sweep` for the runs and `data` for
    the batch of each.

    Raises: BadInput for an unknown mode, or if the devices cannot share the points and the batch
    equally.
    """
    if mode not in SIDE_BY_SIDE:
        raise BadInput(
            f'unknown way {mode!r} to train points; choose one of {", ".join(SIDE_BY_SIDE)}')
    devices = jax.device_count() if mode == 'shard' else 1
    side = math.gcd(points, devices)
    if batch % (devices // side):
        raise BadInput(f'{points} points of batch {batch} cannot be shared by {devices} devices; '
                       f'use a multiple of {devices} points')
    mesh = jax.make_mesh((side, devices // side), ('sweep', AXIS), axis_types=(AxisType.Auto,) * 2,
                         devices=jax.devices()[:devices])
    points_sharding = NamedSharding(mesh, P('sweep'))

    def share(rows, key):
        return lax.with_sharding_constraint(rows, NamedSharding(mesh, P(AXIS))), key

    def compile(run, donate):
        def one_by_one(states, data, keys):
            return lax.map(lambda pair: run(pair[0], data, pair[1]), (states, keys))

        vmapped = jax.vmap(run, (0, None, 0), spmd_axis_name='sweep')
        return jax.jit(one_by_one if mode == 'map' else vmapped, donate_argnums=donate,
                       in_shardings=(points_sharding, NamedSharding(mesh, P()), points_sharding),
                       out_shardings=points_sharding)

    return Layout(None, share, lambda tree: jax.device_put(tree, NamedSharding(mesh, P())), compile)
