"""Runs with streamed data: the rows of each step, and evaluation in pieces."""
import functools
import threading
from typing import Callable, NamedTuple

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from ml_collections import ConfigDict
import numpy as np

from gen_jax import data, loop, parallel
from gen_jax.data import streaming
from gen_jax.types import BadInput, Batch

FOREVER = 2 ** 40  # steps
ORDER_LOCK = threading.Lock()  # else every reader would compute the order of a new epoch


class Order(NamedTuple):
    """step -> the rows of its batch that belong to this process, in the order of loop.training."""
    key: tuple[int, ...]
    size: int
    batch: int
    local_rows: np.ndarray

    def __call__(self, step: int) -> np.ndarray:
        epoch, i = divmod(step, self.size // self.batch)
        with ORDER_LOCK:
            return ordered(self.key, epoch, self.size, self.batch)[i, self.local_rows]


@functools.lru_cache(2)
def ordered(key: tuple[int, ...], epoch: int, size: int, batch: int) -> np.ndarray:
    return np.asarray(loop.order(jax.random.wrap_key_data(np.uint32(key)), epoch, size, batch))


def feed(run) -> streaming.Feed | None:
    """A function (step, steps) -> the batches for loop.streaming; None for data in memory."""
    config, train = run.config, run.data.train
    if not streaming.streamed(train):
        return None
    mesh = jax.make_mesh((jax.device_count(),), (parallel.AXIS,), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, P(None, parallel.AXIS))
    order = Order(tuple(jax.random.key_data(run.key).tolist()), len(train.x), config.batch_size,
                  streaming.local_rows(sharding, config.batch_size, jax.process_index()))
    at_once = min(config.steps_per_call or run.per_epoch, run.per_epoch,
                  chunk(config, train, config.batch_size))
    return streaming.Feed(streaming.Batches(train, order, FOREVER), run.per_epoch, at_once,
                          config.batch_size, sharding)


def chunk(config: ConfigDict, examples: Batch, batch: int) -> int:
    """The number of batches that are streamed together."""
    return streaming.chunk(examples.x, batch, config.data.memory_limit)


def check(config: ConfigDict, dataset: data.Dataset) -> None:
    """Raises BadInput if a streamed data set does not fit the config."""
    for part in filter(streaming.streamed, (dataset.train, dataset.test)):
        chunk(config, part, max(config.batch_size, min(config.eval.batch_size, len(part.x))))
        if config.parallel in ('shard_map', 'pmap'):  # which take the whole set to each device
            raise BadInput(f'{config.data.name} is streamed, being larger than data.memory_limit='
                           f'{config.data.memory_limit:g}; use parallel=jit or fsdp, or raise that')


def evaluate_stream(config: ConfigDict, compiled: Callable, place: Callable, batch: int,
                    join: Callable) -> Callable:
    """A function (state, examples, key) that evaluates streamed examples in pieces. compiled(size)
    evaluates a piece of `size` examples; join(values, sizes) combines the results of the pieces.
    """
    compiled = functools.cache(compiled)

    def run(state, examples, key):
        size, at_once = len(examples.x), chunk(config, examples, batch)
        piece_size, parts, sizes = at_once * batch, [], []

        def rows(i):
            return np.arange(i * piece_size, min((i + 1) * piece_size, size))

        source = streaming.Batches(examples, rows, -(-size // piece_size))
        for i, piece in enumerate(streaming.ahead(source, workers=examples.x.workers, most=1)):
            sizes.append(len(piece.x))
            parts.append(jax.device_get(
                compiled(sizes[-1])(state, place(piece), key, i * at_once)))
        return jax.tree.map(lambda *values: join(values, sizes), *parts)

    return run


def mean(values, sizes):
    return np.average(values, axis=0, weights=sizes)


def joined(values, sizes):
    return np.concatenate(values)
