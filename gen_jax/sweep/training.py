"""Trains the points of a group side by side in one program."""
import functools
import json
import os
from pathlib import Path
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import checkpoint, loop, parallel, record, train
from gen_jax.sweep.groups import Group, numbered
from gen_jax.sweep.points import LATENT, SEED, name
from gen_jax.sweep.traced import POINT, embedded
from gen_jax.types import Array, BadInput, State


def init_states(g: Group, points: list[dict[str, Any]]) -> tuple[State, Array]:
    """The initial states of the points, stacked, and their keys: those of separate trainings."""
    values = {k: jnp.asarray([numbered(p, g.traced)[k] for p in points])
              for k in numbered(points[0], g.traced)}
    keys = jax.vmap(jax.random.key)(jnp.asarray([p.get(SEED, g.run.config.seed) for p in points]))
    latent = g.run.config.model.get('latent')
    size = np.array([p[LATENT] if g.extents else 0 for p in points])

    def one(values, key, used):
        size = {LATENT: used} if g.extents else {}
        state = g.make(**values, **size).init(key, train.example_batch(g.run.data, key))
        state = embedded(state, g.extents, used, latent) if g.extents else state
        point = dict(values=values) | ({'latent': jnp.int32(used)} if g.extents else {})
        return state._replace(buffers=state.buffers | {POINT: point})

    @jax.jit
    def all_of_them(values, keys):
        rows = [np.flatnonzero(size == n) for n in np.unique(size)]
        parts = [jax.vmap(functools.partial(one, used=int(size[r[0]])))(
            jax.tree.map(lambda a, r=r: a[r], values), keys[r]) for r in rows]
        order = np.argsort(np.concatenate(rows))
        return jax.tree.map(lambda *a: jnp.concatenate(a)[order], *parts)

    return all_of_them(values, keys), keys


class Programs(NamedTuple):
    """Compiled functions (states, data, keys) -> ... that train and evaluate n points, and the
    bytes they need.
    """
    layout: parallel.Layout
    train: Callable
    evaluate: Callable
    bytes: int


def programs(g: Group, points: list[dict[str, Any]], how: str) -> Programs:
    run = g.run
    layout = parallel.side_by_side(how, len(points), run.config.batch_size)
    states, keys = jax.eval_shape(functools.partial(init_states, g, points))
    data, test = (layout.place(getattr(run.data, split)) for split in ('train', 'test'))
    batch = min(run.config.eval.batch_size, len(test.x))
    chunk = loop.training(run.model, run.data.prepare, len(data.x), run.config.batch_size,
                          run.per_epoch, layout.share)
    test_chunk = loop.evaluation(run.model.evaluate, run.data.prepare, len(test.x), batch)
    with jax.default_matmul_precision(run.config.precision):
        compiled = layout.compile(chunk, (0,)).lower(states, data, keys).compile()
    tested = layout.compile(test_chunk, ())
    used = compiled.memory_analysis()
    needed = sum(getattr(used, f'{part}_size_in_bytes') for part in ('argument', 'output', 'temp'))
    return Programs(layout, lambda states, keys: compiled(states, data, keys),
                    lambda states, keys: tested(states, test, keys),
                    needed - used.alias_size_in_bytes)


def memory() -> float:
    """The bytes that a program may use: most of the memory of the device."""
    stats = jax.devices()[0].memory_stats() or {}
    here = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return .8 * stats.get('bytes_limit', here)


def fitting(g: Group, how: str, limit: float) -> list[tuple[Programs, list[dict[str, Any]]]]:
    """Splits the points of a group into parts that need at most `limit` bytes each by XLA's
    analysis. Returns the programs and the points of each part. Raises BadInput if a single point
    needs more.
    """
    n = len(g.points)
    while True:
        compiled = programs(g, g.points[:n], how)
        if compiled.bytes <= limit:
            break
        if n == 1:
            raise BadInput(f'a point takes {compiled.bytes / 1e9:.3f} GB, more than the '
                           f'{limit / 1e9:.3f} GB there are; use a smaller model or batch')
        n = min(n - 1, max(1, int(n * limit / compiled.bytes)))
    parts = [g.points[i:i + n] for i in range(0, len(g.points), n)]
    return [(compiled if len(part) == n else programs(g, part, how), part) for part in parts]


def follow(g: Group, compiled: Programs, points: list[dict[str, Any]], folder: Path,
           say: Callable = print) -> list[tuple[list[dict], State | None]]:
    """Trains points side by side until config.epochs, from the newest checkpoint in `folder` if
    there is one. Returns for each point its metrics, a row per epoch, and its final state; None if
    its metrics were not finite or out of bounds. Such a point stops; the others continue.
    """
    config, file = g.run.config, folder / 'rows.jsonl'
    folder.mkdir(parents=True, exist_ok=True)
    states, keys = init_states(g, points)
    kept = checkpoint.restore(folder / 'checkpoints', states)
    states = states if kept is None else kept
    done = int(states.step[0]) // g.run.per_epoch
    rows = [row for row in record.read_lines(file, 'epoch') if row['epoch'] <= done]
    record.write(file, ''.join(json.dumps(row) + '\n' for row in rows))
    lost = {row['point'] for row in rows if 'stopped' in row}
    progress = record.Progress(config.epochs, done, of=f' of {len(points)} points')
    since = time.perf_counter()
    with (checkpoint.manager(folder / 'checkpoints', keep=2) as saves,
          train.stop_signals() as asked):
        for epoch in range(done + 1, config.epochs + 1):
            states, metrics, bad = compiled.train(states, keys)
            metrics, bad = jax.device_get((metrics, bad))
            metrics.pop('start', None)
            due = epoch % config.eval.every == 0 or epoch == config.epochs
            tested = jax.device_get(compiled.evaluate(states, keys)) if due else {}
            new = []
            for i, point in enumerate(points):
                about = dict(point=name(point), epoch=epoch)
                if bad[i] >= 0 and about['point'] not in lost:
                    lost.add(about['point'])
                    new.append(about | dict(stopped=int(bad[i])))
                    progress.end()
                    wrong = loop.trouble(
                        {k: float(v[i])
                         for k, v in metrics.items() if v.ndim == 1}, g.run.model.bounds)
                    say(f'{about["point"]}: {wrong} at step {bad[i]}')
                elif about['point'] not in lost:
                    new.append(about | record.flat({k: v[i] for k, v in metrics.items()}, 'train')
                               | record.flat({k: v[i] for k, v in tested.items()}, 'test'))
            rows += new
            for row in new:
                record.append(file, row)
            stop = bool(asked) and epoch < config.epochs
            if due or stop:
                checkpoint.save(saves, states, {})
            spent = (time.perf_counter() - since) / (epoch - done)
            rate = len(points) * g.run.per_epoch * config.batch_size / spent
            tenth = 10 * epoch // config.epochs > 10 * (epoch - 1) // config.epochs
            progress(epoch, {}, rate, due=tenth)
            if stop:
                checkpoint.finish(saves)
                progress.end()
                raise train.Stopped(f'stopped by {asked[0]} after epoch {epoch}, which is saved; '
                                    'the same command goes on from there')
    return [([row for row in rows if row['point'] == name(p)],
             None if name(p) in lost else jax.tree.map(lambda a, i=i: a[i], states))
            for i, p in enumerate(points)]
