"""Many trainings as one program: points of a grid that differ in numbers share a compilation.

A point's numbers are arrays in its state, so that the loop, the measures and checkpoints see a
Model like any other; of a latent size below the largest, what lies beyond it is held at zero.
"""
import copy
import functools
import hashlib
import itertools
import json
import operator
import os
from pathlib import Path
import time
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from gen_jax import checkpoint, loop, metrics, parallel, record, train, trained
from gen_jax.types import Array, BadInput, Density, Model, State

POINT, LATENT, SEED = 'point', 'model.latent', 'seed'


class Group(NamedTuple):
    """Points that one compiled program trains.  run: its model is `swept`; make: (**numbers) ->
    Model; traced: the keys in which its points differ; extents: see `extents`, of model.latent."""
    run: train.Run
    make: Callable[..., Model]
    points: list[dict[str, Any]]
    traced: tuple[str, ...]
    extents: list | None


def grid(values: dict[str, list]) -> list[dict[str, Any]]:
    """Every combination, as dotted key -> value; the last key changes fastest."""
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


def numbers(config: ConfigDict, key: str, words: str) -> list:
    """The values of `key` that `words`, separated by commas, give.

    Raises BadInput for a key that is not in the config or no number, or values that are none.
    """
    part, _, name = key.rpartition('.')
    known = train.leaves(config.to_dict())
    if key not in known:
        raise BadInput(f'unknown key {key!r} to sweep{train.near(key, known)}')
    kind = (config[part] if part else config).get_type(name)
    if kind not in (int, float):
        raise BadInput(f'{key} cannot be swept: it is no number but {known[key]!r}')
    if not words.strip():
        raise BadInput(f'give values to sweep {key} over, as --sweep.{key}=1,2')
    try:
        return list(dict.fromkeys(kind(word) for word in words.split(',')))
    except ValueError:
        raise BadInput(f'{words!r} are not values of {key}, which is '
                       f'{"an integer" if kind is int else "a number"}') from None


def changed(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(values)
    return config


def name(point: dict[str, Any]) -> str:
    return ','.join(f'{k.removeprefix("model.")}={v}' for k, v in point.items())


def label(points: list[dict[str, Any]]) -> str:
    """A folder's name for points trained together."""
    return hashlib.sha256(';'.join(map(name, points)).encode()).hexdigest()[:12]


def plan(config: ConfigDict, points: list[dict[str, Any]]) -> list[Group]:
    """The points in as few groups as there must be programs.  Raises BadInput for a point that
    cannot be trained."""
    run = train.prepare(changed(config, points[0]))
    traced = [k for k in points[0] if k == SEED]
    for key in (k for k in points[0] if k not in (SEED, LATENT)):
        if key.startswith('model.') and traceable(run, numbered(points[0], (*traced, key))):
            traced.append(key)
    if LATENT in points[0]:
        sizes = sorted({point[LATENT] for point in points})
        others = [numbered(point, traced) for point in points]
        others = list({tuple(values.items()): values for values in others}.values())
        if len(sizes) > 1 and alike(run, sizes[0], sizes[-1], others):
            traced.append(LATENT)
    groups = {}
    for point in points:
        fixed = tuple((k, v) for k, v in point.items() if k not in traced)
        groups.setdefault(fixed, []).append(point)
    return [group(changed(config, dict(fixed)), members, tuple(traced))
            for fixed, members in groups.items()]


def numbered(point: dict[str, Any], traced) -> dict[str, Any]:
    """A point's hyper-parameters among the traced keys, by the names that `make` has for them."""
    return {k.removeprefix('model.'): point[k] for k in traced if k not in (SEED, LATENT)}


def group(config: ConfigDict, points: list[dict[str, Any]], traced: tuple[str, ...]) -> Group:
    if LATENT in traced:
        config = changed(config, {LATENT: max(point[LATENT] for point in points)})
    run = train.prepare(config)
    make, _ = train.maker(config, run.data, run.layout, run.key)
    for point in points:  # which says what is wrong with a number, as a traced one cannot
        make(**numbered(point, traced), **{'latent': point[LATENT]} if LATENT in traced else {})
    sizes = extents(make, run, config.model.latent) if LATENT in traced else None
    return Group(run._replace(model=swept(make, make(), sizes, config.model.get('latent'))), make,
                 points, traced, sizes)


def traceable(run: train.Run, values: dict[str, Any]) -> bool:
    """Whether one program can train the model for any values of these hyper-parameters."""
    make, example = train.maker(run.config, run.data, run.layout, run.key)

    def once(values):
        model = make(**values)
        state, found = model.step(model.init(run.key, example), example, run.key)
        return state, found, model.evaluate(state, example, run.key)

    try:
        jax.eval_shape(once, {k: jnp.asarray(v) for k, v in values.items()})
    except (jax.errors.JAXTypeError, TypeError, ValueError):
        return False
    return True


def swept(make: Callable[..., Model], like: Model, sizes: list | None, latent: int | None) -> Model:
    """The Model whose numbers are in its state, buffers['point']['values'], and of whose `latent`
    dimensions, where `sizes` are given, buffers['point']['latent'] are in use; `like` has the
    functions that it is to have."""
    def opened(state):
        point = state.buffers[POINT]
        rest = {k: v for k, v in state.buffers.items() if k != POINT}
        return make(**point['values']), state._replace(buffers=rest)

    def lifted(path):
        def run(state, *args):
            model, state = opened(state)
            return operator.attrgetter(path)(model)(state, *args)
        return run

    def step(state, batch, key):
        point = state.buffers[POINT]
        model, state = opened(state)
        state, found = model.step(state, batch, key)
        if sizes:
            state = held(state, sizes, point['latent'], latent)
        return state._replace(buffers=state.buffers | {POINT: point}), found

    maps = {f: lifted(f) for f in Model._fields if getattr(like, f)}
    if like.density:
        maps['density'] = Density(**{f: lifted(f'density.{f}') for f in Density._fields
                                     if getattr(like.density, f)})
    return Model(**maps | dict(init=like.init, step=step))


def extents(make: Callable[..., Model], run: train.Run, latent: int) -> list | None:
    """For each leaf of a state, {axis: b} of the axes that hold b blocks of `latent` numbers; None
    where the latent size has shaped one otherwise."""
    example = train.seen(run.data, run.key)
    ours, more = (jax.tree.flatten(jax.eval_shape(make(latent=n).init, run.key, example))
                  for n in (latent, latent + 1))
    if ours[1] != more[1]:
        return None
    found = [{axis: n - m for axis, (m, n) in enumerate(zip(a.shape, b.shape)) if n != m}
             for a, b in zip(ours[0], more[0])]
    right = all(b * latent == a.shape[axis] for a, axes in zip(ours[0], found)
                for axis, b in axes.items())
    return found if right else None


def held(state: State, sizes: list, used: Array, latent: int) -> State:
    """The state with zeros beyond the dimensions in use."""
    leaves, tree = jax.tree.flatten(state)
    for i, axes in enumerate(sizes):
        for axis in axes:
            here = jnp.arange(leaves[i].shape[axis]) % latent < used
            leaves[i] = jnp.where(jnp.expand_dims(here, range(1, leaves[i].ndim - axis)),
                                  leaves[i], 0)
    return tree.unflatten(leaves)


def embedded(state: State, sizes: list, used: int, latent: int) -> State:
    """The state of a model of fewer latent dimensions as one of `latent`."""
    leaves, tree = jax.tree.flatten(state)
    for i, axes in enumerate(sizes):
        for axis, blocks in axes.items():
            shape = leaves[i].shape
            parts = leaves[i].reshape(*shape[:axis], blocks, used, *shape[axis + 1:])
            wide = [(0, 0)] * parts.ndim
            wide[axis + 1] = 0, latent - used
            leaves[i] = jnp.pad(parts, wide).reshape(
                *shape[:axis], blocks * latent, *shape[axis + 1:])
    return tree.unflatten(leaves)


def alike(run: train.Run, used: int, latent: int, others: list[dict[str, Any]]) -> bool:
    """Whether a model of `latent` dimensions of which so many are in use is, to float tolerance,
    one made with these, whichever of `others` its traced numbers are: by its metrics in two steps
    and an evaluation after."""
    make, example = train.maker(run.config, run.data, run.layout, run.key)
    sizes = extents(make, run, latent)
    if sizes is None:
        return False
    example = jax.tree.map(lambda a: a[:32], example)

    @functools.partial(jax.jit, static_argnums=0,
                       compiler_options={'xla_backend_optimization_level': 0})
    def measured(inside, values, key):
        model = make(latent=used, **values)
        state = model.init(key, example)
        if inside:
            state = embedded(state, sizes, used, latent)
            state = state._replace(buffers=state.buffers | {
                POINT: dict(values=values, latent=jnp.int32(used))})
            model = swept(functools.partial(make, latent=latent), make(latent=latent, **values),
                          sizes, latent)
        found = []
        for i in range(2):
            state, metrics_of = model.step(state, example, jax.random.fold_in(key, i))
            found.append(metrics_of)
        found.append(model.evaluate(state, example, key))
        return [{k: v for k, v in f.items() if v.ndim < 2 and not k.startswith('gradient_')}
                for f in found]

    def same(values):
        values = {k: jnp.asarray(v) for k, v in values.items()}
        ours, theirs = (jax.tree.leaves(measured(inside, values, run.key))
                        for inside in (True, False))
        return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(ours, theirs))

    return all(map(same, others))


def born(g: Group, points: list[dict[str, Any]]) -> tuple[State, Array]:
    """States, one behind the other, and keys of points, each as its own training would have it."""
    values = {k: jnp.asarray([numbered(p, g.traced)[k] for p in points])
              for k in numbered(points[0], g.traced)}
    keys = jax.vmap(jax.random.key)(jnp.asarray([p.get(SEED, g.run.config.seed) for p in points]))
    latent = g.run.config.model.get('latent')
    size = np.array([p[LATENT] if g.extents else 0 for p in points])

    def one(values, key, used):
        size = dict(latent=used) if g.extents else {}
        state = g.make(**values, **size).init(key, train.seen(g.run.data, key))
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
    """What trains and evaluates n points: (states, data, keys) -> ...; and the bytes it takes."""
    layout: parallel.Layout
    train: Callable
    evaluate: Callable
    bytes: int


def programs(g: Group, points: list[dict[str, Any]], how: str) -> Programs:
    run = g.run
    layout = parallel.beside(how, len(points), run.config.batch)
    states, keys = jax.eval_shape(functools.partial(born, g, points))
    data, test = (layout.place(getattr(run.data, split)) for split in ('train', 'test'))
    batch = min(run.config.eval.batch, len(test.x))
    chunk = loop.training(run.model, run.data.prepare, len(data.x), run.config.batch, run.per_epoch,
                          layout.share)
    whole = loop.evaluation(run.model.evaluate, run.data.prepare, len(test.x), batch)
    with jax.default_matmul_precision(run.config.precision):
        compiled = layout.compile(chunk, (0,)).lower(states, data, keys).compile()
    tested = layout.compile(whole, ())
    used = compiled.memory_analysis()
    needed = sum(getattr(used, f'{part}_size_in_bytes') for part in ('argument', 'output', 'temp'))
    return Programs(layout, lambda states, keys: compiled(states, data, keys),
                    lambda states, keys: tested(states, test, keys),
                    needed - used.alias_size_in_bytes)


def memory() -> float:
    """Bytes for a program, most of what its device has."""
    found = jax.devices()[0].memory_stats() or {}
    here = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return .8 * found.get('bytes_limit', here)


def fitting(g: Group, how: str, limit: float) -> list[tuple[Programs, list[dict[str, Any]]]]:
    """The group's points in parts that take at most `limit` bytes each, by XLA's own analysis, with
    what trains each.  Raises BadInput where one alone takes more."""
    n = len(g.points)
    while True:
        made = programs(g, g.points[:n], how)
        if made.bytes <= limit:
            break
        if n == 1:
            raise BadInput(f'a point takes {made.bytes / 1e9:.3f} GB, more than the '
                           f'{limit / 1e9:.3f} GB there are; use a smaller model or batch')
        n = min(n - 1, max(1, int(n * limit / made.bytes)))
    parts = [g.points[i:i + n] for i in range(0, len(g.points), n)]
    return [(made if len(part) == n else programs(g, part, how), part) for part in parts]


def follow(g: Group, made: Programs, points: list[dict[str, Any]], folder: Path,
           say: Callable = print) -> list[tuple[list[dict], State | None]]:
    """Trains points side by side until config.epochs, from the newest checkpoint in `folder` where
    there is one.  Of each its metrics, a row per epoch, and its state at the end, None where the
    loss was not finite: such a point stops, and no other."""
    config, file = g.run.config, folder / 'rows.jsonl'
    folder.mkdir(parents=True, exist_ok=True)
    states, keys = born(g, points)
    kept = checkpoint.restore(folder / 'checkpoints', states)
    states = states if kept is None else kept
    saves = checkpoint.manager(folder / 'checkpoints', keep=2)
    done = int(states.step[0]) // g.run.per_epoch
    rows = [row for row in record.read_lines(file) if row['epoch'] <= done]
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    lost = {row['point'] for row in rows if 'stopped' in row}
    since = time.perf_counter()
    for epoch in range(done + 1, config.epochs + 1):
        states, found, bad = made.train(states, keys)
        found, bad = jax.device_get((found, bad))
        due = epoch % config.eval.every == 0 or epoch == config.epochs
        tested = jax.device_get(made.evaluate(states, keys)) if due else {}
        new = []
        for i, point in enumerate(points):
            about = dict(point=name(point), epoch=epoch)
            if bad[i] >= 0 and about['point'] not in lost:
                lost.add(about['point'])
                new.append(about | dict(stopped=int(bad[i])))
                say(f'{about["point"]}: the loss is not finite at step {bad[i]}')
            elif about['point'] not in lost:
                new.append(about | record.flat({k: v[i] for k, v in found.items()}, 'train')
                           | record.flat({k: v[i] for k, v in tested.items()}, 'test'))
        rows += new
        with file.open('a') as f:
            f.write(''.join(json.dumps(row) + '\n' for row in new))
        if due:
            checkpoint.save(saves, states, {})
        spent = (time.perf_counter() - since) / (epoch - done)
        rate = len(points) * g.run.per_epoch * config.batch / spent
        say(f'epoch {epoch}/{config.epochs} of {len(points)} points  {rate:,.0f} examples/s  '
            f'{record.clock(spent * (config.epochs - epoch))} left')
    saves.wait_until_finished()
    saves.close()
    return [([row for row in rows if row['point'] == name(p)],
             None if name(p) in lost else jax.tree.map(lambda a, i=i: a[i], states))
            for i, p in enumerate(points)]


class Judge:
    """Measures the points of a group, each by programs that are compiled for the first.

    asked: names of gen_jax.metrics; without any nll and active units, or of a model without a
    density the Frechet distance of samples.  most: look at so many examples, None for all.
    """

    def __init__(self, g: Group, asked: list[str], most: int | None = None):
        self.g, self.most, self.compiled, self.features = g, most, {}, trained.features(g.run)
        self.start = jax.tree.map(lambda a: a[0], born(g, g.points[:1])[0])
        fit = metrics.chosen(asked, self._subject(g.points[0], self.start))
        few = [n for n in ('nll', 'units') if n in fit] or [n for n in fit if n == 'frechet']
        self.names = asked or few

    def __call__(self, point: dict[str, Any], state: State) -> dict[str, float]:
        found, subject = {}, self._subject(point, state)
        for measure in self.names:
            found |= metrics.MEASURES[measure][1](subject)
        return {f'test/{k}': float(v) for k, v in found.items()}

    def known(self) -> list[str]:
        """What is known of a point in the end: by measuring it untrained."""
        run = self.g.run
        shapes = jax.eval_shape(run.model.evaluate, self.start, train.tested(run.data, 1, run.key),
                                run.key)
        return [f'test/{k}' for k, v in shapes.items() if v.ndim == 1] + list(
            self(self.g.points[0], self.start))

    def samples(self, state: State, n: int) -> np.ndarray | None:
        """Decoded codes of the prior, the same for every point; None where a model has no prior."""
        run = self.g.run
        if not run.model.prior or not run.model.decode or run.data.read:
            return None
        if 'samples' not in self.compiled:
            self.compiled['samples'] = jax.jit(lambda state, key: run.model.decode(
                state, run.model.prior(state, key, n)))
        return np.asarray(self.compiled['samples'](state, jax.random.key(0)))

    def _subject(self, point, state):
        run, calls = self.g.run, itertools.count()
        key = jax.random.key(point.get(SEED, run.config.seed))

        def collect(evaluate, split, most):
            at = next(calls)
            if at not in self.compiled:
                least = min(filter(None, (most, self.most)), default=None)
                examples = jax.tree.map(lambda a: a[:least], getattr(run.data, split))
                self.compiled[at] = train.over(run, evaluate, examples, loop.collection)
            program, placed = self.compiled[at]
            return jax.device_get(program(state, placed, key))

        return metrics.Subject(run.model, state, run.data, key, run.config.eval.k, collect,
                               self.features, {})
