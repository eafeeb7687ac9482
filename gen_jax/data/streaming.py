"""Examples that are read when they are seen, for data sets that are larger than memory.

What is read is a function of its place alone, so a stream begins anywhere, whatever came before.
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
CHUNKS = 5   # in memory at a time: trained on, put on the device, and batches read ahead
MOST = 64    # batches in a chunk, which is what one compiled call sees


class Rows:
    """Examples (n, ...) that are read when they are indexed, otherwise like an array: a slice of
    them is Rows again, a selection is an array.  read: (numbers of rows) -> these examples;
    workers: the processes in which that is to be done, 0 for this one."""

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
        """The same, at whose numbers and examples look(rows, x) looks whenever they are read."""
        return Rows(functools.partial(_read_and_inspect, self.read, inspect), self.shape[1:],
                    self.rows, self.workers, self.dtype)


def _read_and_inspect(read, inspect, rows):
    x = read(rows)
    inspect(rows, x)
    return x


def streamed(batch: Batch) -> bool:
    return isinstance(batch.x, Rows)


class Batches:
    """A sequence of Batches, the i-th of which has the rows(i) of the examples."""

    def __init__(self, examples: Batch, rows: Callable[[int], np.ndarray], count: int):
        self.examples, self.rows, self.count = examples, rows, count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        rows = self.rows(int(i))
        return jax.tree.map(lambda a: a[rows], self.examples)


def ahead(source, first: int = 0, *, workers: int = 0, most: int = READERS) -> Iterator[Any]:
    """source[first], source[first + 1], ... to the end, up to `most` of which are read ahead: by so
    many worker processes, or without any by threads."""
    import grain
    workers = workers if len(source) > first + 1 else 0  # one alone is not worth a process
    threads = 0 if workers else min(READERS, most)
    batches = grain.MapDataset.source(source)[first:].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=most if threads else 0))
    if workers:
        batches = batches.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(
            num_workers=workers, per_worker_buffer_size=max(1, most // workers)), on_the_host)
    return iter(batches)


def on_the_host(worker: int, workers: int) -> None:
    """A worker process leaves the accelerator, and what to do at Ctrl-C, to the one that trains."""
    jax.config.update('jax_platforms', 'cpu')
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def chunk(x: Rows, batch: int, limit: float) -> int:
    """How many batches there are in a chunk, so that all that is in memory at a time fits into
    `limit` megabytes.  Raises BadInput where not even one does."""
    bytes = batch * np.prod(x.shape[1:], dtype=float) * x.dtype.itemsize
    fit = int((limit * 1e6 / bytes - 2 * x.workers) // CHUNKS)
    if fit < 1:
        raise BadInput(f'data.memory_limit={limit:g} (megabytes) is too little for batches of '
                       f'{batch} examples of shape {x.shape[1:]}; raise it to '
                       f'{np.ceil(bytes * (CHUNKS + 2 * x.workers) / 1e4) / 100:g} or more, or '
                       'take a smaller batch and eval.batch_size')
    return min(fit, MOST)


def local_rows(sharding: jax.sharding.Sharding, batch: int, process: int) -> np.ndarray:
    """The rows of a batch that lie on the devices of a process, where chunks (steps, batch) are
    laid out by `sharding`."""
    spans = {rows.indices(batch)[:2] for device, (_, rows) in
             sharding.devices_indices_map((1, batch)).items() if device.process_index == process}
    return np.concatenate([np.arange(*span) for span in sorted(spans)])


def mapped(shape, dtype) -> np.ndarray:
    """An array in memory of its own, which is given back at once, unlike that of malloc."""
    return np.ndarray(shape, dtype, mmap.mmap(-1, int(np.prod(shape)) * dtype.itemsize))


class Feed:
    """(step, steps) -> the Batch (steps, batch, ...) of these steps, on the devices.

    While it is trained on, the next one is read and put there.  source: the i-th is the batch of
    step i, those rows of it that this process has; at_once: the steps a call, fewer at the end of
    an epoch of `per_epoch`.
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
        """Ends the worker processes."""
        if self.batches is not None:
            self.batches.close()
