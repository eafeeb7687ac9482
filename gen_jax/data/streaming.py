"""Examples that are read on demand, for data sets larger than memory.

Each read depends only on its position, so a stream can start anywhere.
"""
from concurrent.futures import ThreadPoolExecutor
import functools
import itertools
import mmap
import signal
from typing import Any, Callable, Iterator

import jax
import numpy as np

from gen_jax.types import Array, BadInput, Batch

READERS = 4  # threads, each with a batch
CHUNKS = 5   # in memory at a time: in training, on the way to the device, and batches read ahead
MOST = 64    # batches in a chunk, the data of one compiled call


class Rows:
    """Examples (n, ...) that are read when they are indexed. A slice is Rows again, a selection is
    an array. read: (row numbers) -> examples; workers: number of processes that read, 0 for this
    one.
    """

    def __init__(self, read: Callable[[np.ndarray], np.ndarray], shape, rows: np.ndarray,
                 workers: int = 0, dtype=np.uint8):
        self.read, self.shape, self.rows = read, (len(rows), *shape), rows
        self.workers = workers
        self.ndim, self.dtype = len(self.shape), np.dtype(dtype)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return Rows(self.read, self.shape[1:], self.rows[rows], self.workers, self.dtype)
        return self.read(self.rows[np.asarray(rows)])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(self.rows), dtype)

    def through(self, inspect: Callable[[np.ndarray, np.ndarray], None]) -> 'Rows':
        """The same Rows, which call inspect(rows, x) for everything they read."""
        return Rows(functools.partial(_read_and_inspect, self.read, inspect), self.shape[1:],
                    self.rows, self.workers, self.dtype)


def _read_and_inspect(read, inspect, rows):
    x = read(rows)
    inspect(rows, x)
    return x


def streamed(batch: Batch) -> bool:
    return isinstance(batch.x, Rows)


class Batches:
    """A sequence of Batches; the i-th holds the examples rows(i)."""

    def __init__(self, examples: Batch, rows: Callable[[int], np.ndarray], count: int):
        self.examples, self.rows, self.count = examples, rows, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        rows = self.rows(int(i))
        return jax.tree.map(lambda a: a[rows], self.examples)


def ahead(source, first: int = 0, *, workers: int = 0, most: int = READERS) -> Iterator[Any]:
    """Iterates over source[first], source[first + 1], ... and reads up to `most` items ahead, in
    `workers` processes or, for 0, in threads.
    """
    import grain
    workers = workers if len(source) > first + 1 else 0  # a process does not pay for one batch
    threads = 0 if workers else min(READERS, most)
    batches = grain.MapDataset.source(source)[first:].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=most if threads else 0))
    if workers:
        batches = batches.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(
            num_workers=workers, per_worker_buffer_size=max(1, most // workers)), on_the_host)
    return iter(batches)


def on_the_host(worker: int, workers: int) -> None:
    """Makes a worker process use the CPU only, and ignore Ctrl-C."""
    jax.config.update('jax_platforms', 'cpu')
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def chunk(x: Rows, batch: int, limit: float) -> int:
    """The number of batches in a chunk such that everything in memory at a time fits into `limit`
    megabytes. Raises BadInput if not even one batch fits.
    """
    bytes = batch * np.prod(x.shape[1:], dtype=float) * x.dtype.itemsize
    fit = int((limit * 1e6 / bytes - 2 * x.workers) // CHUNKS)
    if fit < 1:
        raise BadInput(f'data.memory_limit={limit:g} (megabytes) is too little for batches of '
                       f'{batch} examples of shape {x.shape[1:]}; raise it to '
                       f'{np.ceil(bytes * (CHUNKS + 2 * x.workers) / 1e4) / 100:g} or more, or '
                       'take a smaller batch and eval.batch_size')
    return min(fit, MOST)


def local_rows(sharding: jax.sharding.Sharding, batch: int, process: int) -> np.ndarray:
    """The rows of a batch on the devices of a process, for chunks (steps, batch) with this
    sharding.
    """
    spans = {rows.indices(batch)[:2] for device, (_, rows) in
             sharding.devices_indices_map((1, batch)).items() if device.process_index == process}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def mapped(shape, dtype) -> np.ndarray:
    """An array in memory mapped for it alone. Unlike memory of malloc, it is freed at once."""
    return np.ndarray(shape, dtype, mmap.mmap(-1, int(np.prod(shape)) * dtype.itemsize))


class Feed:
    """(step, steps) -> the Batch (steps, batch, ...) of these steps, on the devices.

    Reads the next chunk while the current one is trained on. source: the i-th item holds this
    process's rows of the batch of step i; at_once: steps in a call, fewer at the end of an epoch of
    `per_epoch`.
    """

    def __init__(self, source: Batches, per_epoch: int, at_once: int, batch: int,
                 sharding: jax.sharding.Sharding):
        self.source, self.per_epoch, self.at_once = source, per_epoch, at_once
        self.batch, self.sharding = batch, sharding
        self.pool, self.place, self.batches = ThreadPoolExecutor(1), None, None

    def __call__(self, step: int, steps: int) -> Batch:
        if self.place != (step, steps):
            self.begin(step, steps, anew=True)
        chunk_read = self.pending.result()
        step += steps
        self.begin(step, min(self.at_once, self.per_epoch - step % self.per_epoch))
        return chunk_read

    def begin(self, step: int, steps: int, anew: bool = False) -> None:
        self.place = step, steps
        self.pending = self.pool.submit(self.read, step, steps, anew)

    def read(self, step: int, steps: int, anew: bool) -> Batch:
        if anew:
            self.close()
            self.batches = ahead(self.source, step, workers=self.source.examples.x.workers,
                                 most=min(self.at_once, 4 * READERS))
        chunk = None
        for i, batch in enumerate(itertools.islice(self.batches, steps)):
            chunk = chunk or jax.tree.map(lambda a: mapped((steps, *a.shape), a.dtype), batch)
            for stacked, part in zip(jax.tree.leaves(chunk), jax.tree.leaves(batch)):
                stacked[i] = part
        return jax.tree.map(self.put, chunk)

    def put(self, a: np.ndarray) -> Array:
        stacked = len(a), self.batch, *a.shape[2:]
        return jax.make_array_from_process_local_data(self.sharding, a, stacked)

    def close(self) -> None:
        """Stops the worker processes."""
        if self.batches is not None:
            self.batches.close()
