"""An epoch as one compiled `lax.scan`, and exact evaluation with a ragged last batch.

All randomness comes from the key of the run and the step: the order of an epoch from (key, epoch),
the noise of a step from (key, step). So a run can stop and continue anywhere.
"""
import functools
import math
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from gen_jax.types import Array, Batch, Model, State

ORDER, NOISE, TEST, AGAIN = range(4)
SLACK = 1e-3  # what rounding may add to a bound


def take(data: Batch, rows: Array) -> Batch:
    return jax.tree.map(lambda a: a[rows], data)


def stream(key: Array, purpose: int, count: Array) -> Array:
    """The key for one purpose and one count."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), count)


def order(key: Array, epoch: Array, size: int, batch: int) -> Array:
    """The rows (steps, batch) of an epoch: a new permutation of all examples, in full batches."""
    rows = jax.random.permutation(stream(key, ORDER, epoch), size)
    return rows[:size // batch * batch].reshape(-1, batch)


def sound(metrics: dict[str, Array], bounds: dict[str, tuple[float, float]]) -> Array:
    """Whether all metrics, of one or of several steps, are finite and within bounds."""
    fine = [jnp.isfinite(m) for m in metrics.values()]
    fine += [(low - SLACK <= metrics[name]) & (metrics[name] <= high + SLACK)
             for name, (low, high) in bounds.items() if name in metrics]
    return jnp.stack(fine).all(0)


def trouble(metrics: dict[str, float], bounds: dict[str, tuple[float, float]]) -> str:
    """Which metrics are not finite or out of bounds, for a message; '' if none."""
    for name, value in metrics.items():
        low, high = bounds.get(name, (-math.inf, math.inf))
        if not math.isfinite(value):
            return f'{name} is not finite'
        if value < low - SLACK:
            return f'{name} is {value:.4g}, which cannot be below {low:g}'
        if value > high + SLACK:
            return f'{name} is {value:.4g}, which cannot be above {high:g}'
    return ''


def training(model: Model, prepare: Callable, size: int, batch: int, steps: int,
             share: Callable = lambda rows, key: (rows, key), skip: bool = False) -> Callable:
    """(state, data, key) -> (state, metrics, bad): trains `steps` steps from the step of the state.

    data holds `size` stored examples. An epoch is a new permutation of them in full batches; the
    steps must not cross its end. bad: the first step with metrics that are not finite or out of
    bounds, else -1. metrics: means over the steps, or the metrics of the bad step. With `skip` a
    bad step changes only the step count; the means are then over the other steps, if any, and
    include `skipped`. start: the loss of the first step, for models with a metric `loss`. share:
    maps the rows (batch,) and the key of a batch to those of this device.
    """
    per_epoch = size // batch

    def run(state: State, data: Batch, key: Array):
        rows = order(key, state.step // per_epoch, size, batch)
        rows = lax.dynamic_slice_in_dim(rows, state.step % per_epoch, steps)
        return _scan(model, prepare, share, skip, state, rows, lambda rows: take(data, rows), key)

    return run


def streaming(model: Model, prepare: Callable,
              share: Callable = lambda batch, key: (batch, key), skip: bool = False) -> Callable:
    """(state, data, key) -> (state, metrics, bad) as in `training`, with a step for each stored
    batch in data (steps, batch, ...). `share` is that of a layout with global batches.
    """
    def run(state: State, data: Batch, key: Array):
        return _scan(model, prepare, share, skip, state, data, lambda batch: batch, key)

    return run


def _scan(model, prepare, share, skip, state, each, batch_of, key):
    """Scans over `each`, with a step on batch_of(share of it)."""
    def step(state, one):
        ours, noise = share(one, stream(key, NOISE, state.step))
        prepared, played = jax.random.split(noise)
        new, metrics = model.step(state, prepare(batch_of(ours), prepared), played)
        if skip:
            fine = sound(metrics, model.bounds)
            kept = jax.tree.map(functools.partial(jnp.where, fine), new, state)
            new = kept._replace(step=new.step)
        return new, metrics

    first = state.step
    state, metrics = lax.scan(step, state, each)
    fine = sound(metrics, model.bounds)
    bad = jnp.where(fine.all(), -1, first + fine.argmin())
    some = fine.any() if skip else fine.all()
    # divided by counts, as XLA takes 1 / n for division by a constant n, which is inexact
    mean = {name: jnp.where(some, jnp.where(fine, m, 0).sum() / jnp.maximum(1, fine.sum()),
                            m[fine.argmin()]) for name, m in metrics.items()}
    if skip:
        mean |= dict(skipped=(~fine).sum() / (state.step - first))
    if 'loss' in metrics:
        mean |= dict(start=metrics['loss'][0])
    return state, mean, bad


def evaluation(evaluate: Callable, prepare: Callable, size: int, batch: int,
               share: Callable = lambda rows, key: (rows, key)) -> Callable:
    """(state, data, key) -> metrics averaged over all `size` examples, each counted once.

    evaluate: (state, batch, key) -> a tree of arrays with a row for each example. If data are one
    piece of several, an additional last argument is the number of batches before it.
    """
    def run(state: State, data: Batch, key: Array, before: Array = 0):
        def step(_, i):
            values, counts = one(state, data, key, i, before)
            return None, (counts.sum(), jax.tree.map(lambda v: jnp.tensordot(
                counts.astype(v.dtype), v, 1, precision='highest'), values))

        # divided by a count, as XLA takes 1 / n for division by a constant n, which is inexact
        counts, sums = lax.scan(step, None, jnp.arange(-(-size // batch)))[1]
        return jax.tree.map(lambda s: s.sum(0) / counts.sum(), sums)

    one = _batches(evaluate, prepare, size, batch, share)
    return run


def collection(evaluate: Callable, prepare: Callable, size: int, batch: int,
               share: Callable = lambda rows, key: (rows, key)) -> Callable:
    """(state, data, key) -> the rows of `evaluate` for all `size` examples."""
    def run(state: State, data: Batch, key: Array, before: Array = 0):
        rows = lax.map(lambda i: one(state, data, key, i, before)[0],
                       jnp.arange(-(-size // batch)))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:size], rows)

    one = _batches(evaluate, prepare, size, batch, share)
    return run


def _batches(evaluate, prepare, size, batch, share):
    """(state, data, key, i, before) -> (rows of the i-th batch, a mask of those that count)."""
    def one(state, data, key, i, before):
        rows = i * batch + jnp.arange(batch)
        rows, noise = share(rows, stream(key, TEST, before + i))
        prepared, noise_of_model = jax.random.split(noise)
        examples = prepare(take(data, jnp.minimum(rows, size - 1)), prepared)
        return evaluate(state, examples, noise_of_model), rows < size

    return one
