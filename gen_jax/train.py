"""The host's side of a run: restore, epoch, evaluate, record, save."""
import difflib
import functools
import importlib
import inspect
import json
import os
from pathlib import Path
import pkgutil
import time
import types
import typing
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict, config_dict
import numpy as np

from gen_jax import checkpoint, data, loop, models, parallel, record, samplers
from gen_jax.data import points
from gen_jax.types import Array, BadInput, Batch, Model, State

POINTS = points.NAMES
PRECISIONS = 'default', 'float32', 'tensorfloat32', 'bfloat16'
FREE = 'epochs', 'eval', 'data.dir', 'sampler'  # may differ between two commands on one workdir


def defaults(model: str, dataset: str, **changed) -> ConfigDict:
    """The config of a run of models/`model`: every key there is, with its default.

    `changed` are the model's hyper-parameters that differ from those of its `make`.
    """
    make = find(model).make
    hyper = {}
    for name, p in inspect.signature(make).parameters.items():
        if name not in ('example', 'axis', 'source', 'size', 'batch'):
            hyper[name] = changed.pop(name, p.default)
            if hyper[name] is None:  # a typed hole, so that the command line can fill it
                hyper[name] = config_dict.placeholder(typing.get_args(p.annotation)[0])
    assert not changed, f'make of {model} has no {", ".join(changed)}'
    return ConfigDict(dict(
        seed=0, epochs=10, batch=128,
        parallel='jit',   # or shard_map, pmap
        scan=0,           # steps in one compiled call; 0: a whole epoch
        precision='default',  # of matrix products in training; or float32, tensorfloat32, bfloat16
        init='',          # a trained run's workdir, whose encoder to start from
        sampler='prior',  # for --mode=sample; or gmm, aggregate, flow, twostage
        data=dict(name=dataset, dir=config_dict.placeholder(str), binarize='none', identities=(),
                  limit=0, size=0),
        model=dict(name=model, **hyper),
        eval=dict(batch=500, every=1, best='test/loss', checkpoint='latest', samples=64,
                  text='',    # to reconstruct, where the data set is text
                  metrics='', # of gen_jax.metrics for --mode=evaluate; empty: all that fit
                  k=5000,     # codes of each example for the nll
                  features='pixels',  # to compare samples in; or classifier, inception
                  weights='')))       # of inception, a file


def find(name: str) -> types.ModuleType:
    """The module of models/`name`.  Raises BadInput where there is none."""
    known = sorted(m.name for m in pkgutil.iter_modules(models.__path__))
    if name not in known:
        raise BadInput(f'unknown model {name!r}{near(name, known)}; there are {", ".join(known)}')
    return importlib.import_module(f'gen_jax.models.{name}')


def near(word: str, known) -> str:
    match = difflib.get_close_matches(word, list(known), 1, cutoff=.4)
    return f', did you mean {match[0]!r}?' if match else ''


class Run(NamedTuple):
    """What a config means: its data, model, key and layout, and a state to start from."""
    config: ConfigDict
    data: data.Dataset
    model: Model
    layout: parallel.Layout
    key: Array
    state: State
    per_epoch: int


def prepare(config: ConfigDict) -> Run:
    """Loads the data and makes the model.  Raises BadInput for what does not fit together."""
    for name in 'epochs', 'batch', 'eval.batch', 'eval.every', 'eval.samples', 'eval.k':
        value = config[name] if '.' not in name else config.eval[name.split('.')[1]]
        if value < 1:
            raise BadInput(f'{name} must be at least 1, not {value}')
    if config.scan < 0:
        raise BadInput(f'scan must be 0 (an epoch a call) or a number of steps, not {config.scan}')
    if config.precision not in PRECISIONS:
        raise BadInput(f'unknown precision {config.precision!r}'
                       f'{near(config.precision, PRECISIONS)}; there are {", ".join(PRECISIONS)}')
    if config.eval.checkpoint not in ('latest', 'best'):
        raise BadInput(f'eval.checkpoint is latest or best, not {config.eval.checkpoint!r}')
    if config.sampler not in samplers.SAMPLERS:
        raise BadInput(f'unknown sampler {config.sampler!r}'
                       f'{near(config.sampler, samplers.SAMPLERS)}; '
                       f'there are {", ".join(samplers.SAMPLERS)}')
    dataset = data.load(**config.data)
    size = len(dataset.train.x)
    if config.batch > size:
        raise BadInput(f'batch {config.batch} is larger than {config.data.name}, '
                       f'which has {size} training examples')
    if config.eval.text and dataset.write is None:
        raise BadInput(f'eval.text is for a data set of text, but {config.data.name} is none')
    if config.eval.text:
        dataset.write(config.eval.text)
    layout = parallel.layout(config.parallel, config.batch)
    key = jax.random.key(config.seed)
    make, example = maker(config, dataset, layout, key)
    model = make()
    state = layout.place(jax.jit(model.init)(key, example))
    found = jax.eval_shape(model.evaluate, state, tested(dataset, 1, key), key)
    best, named = config.eval.best, [f'test/{k}' for k, v in sorted(found.items()) if v.ndim == 1]
    if best and best not in named:
        raise BadInput(f'eval.best {best!r} is not measured{near(best, named)}; '
                       f'there are {", ".join(named)}, or nothing for none')
    return Run(config, dataset, model, layout, key, state, size // config.batch)


def maker(config: ConfigDict, dataset: data.Dataset, layout: parallel.Layout,
          key: Array) -> tuple[typing.Callable[..., Model], Batch]:
    """make(**changed) -> the config's model, but for hyper-parameters that are changed; and the
    examples that it is made for.  Raises BadInput for what does not fit together."""
    module = find(config.model.name)
    hyper = {k: v for k, v in config.model.items() if k != 'name'}
    known = set(inspect.signature(module.make).parameters)
    if extra := [k for k in hyper if k not in known]:
        raise BadInput(f'model {config.model.name} has no {", ".join(extra)}; '
                       f'use --config=configs/{config.model.name}.py')
    example = seen(dataset, key)
    if 'source' in known:
        hyper['source'] = source(config, example) if config.init else None
    elif config.init:
        raise BadInput(f'model {config.model.name} cannot start from another run; leave init empty')
    if 'size' in known:
        hyper['size'] = len(dataset.train.x)
    if 'batch' in known:  # as one call of the step sees it
        hyper['batch'] = config.batch // (jax.device_count() if layout.axis else 1)
    return functools.partial(module.make, example, axis=layout.axis, **hyper), example


def seen(dataset: data.Dataset, key: Array) -> Batch:
    """What `make` sees of the data: 1,024 training examples, and one more of every label that is
    not among them."""
    rows = np.arange(min(1024, len(dataset.train.x)))
    if dataset.train.label is not None:
        first = np.unique(dataset.train.label, return_index=True)[1]
        rows = np.concatenate([rows, np.setdiff1d(first, rows)])
    batch = jax.tree.map(lambda a: a[rows], dataset.train)
    return jax.tree.map(jax.numpy.asarray, dataset.prepare(batch, key))


def tested(dataset: data.Dataset, n: int, key: Array) -> Batch:
    """The first n test examples, prepared."""
    batch = jax.tree.map(lambda a: jax.numpy.asarray(a[:n]), dataset.test)
    return dataset.prepare(batch, key)


def source(config: ConfigDict, example: Batch) -> tuple[Model, State]:
    """The trained model to start from.  Raises BadInput unless it encodes such examples."""
    run, state = load(Path(config.init), data_dir=config.data.dir)
    theirs, ours = tested(run.data, 1, run.key).x.shape[1:], example.x.shape[1:]
    if theirs != ours:
        raise BadInput(f'the run in {config.init} was trained on examples of shape {theirs}, but '
                       f'those of {config.data.name} have shape {ours}; give another init')
    if run.model.encode is None:
        raise BadInput(f'the run in {config.init} has no encoder; give another init')
    return run.model, jax.device_get(state)


def load(workdir: Path, config: ConfigDict | None = None, data_dir: str | None = None):
    """(Run, State) of a trained run: the newest state, or the best where eval.checkpoint says so.

    Its own config is used where none is given.  Raises BadInput where there is no such run.
    """
    stored = stored_config(workdir)
    if stored is None:
        raise BadInput(f'there is no run in {workdir}; train one first, by --mode=train')
    if config is None:
        config = ConfigDict(stored)
        config.data.dir = data_dir or config.data.dir
    match(workdir, stored, json.loads(config.to_json()))
    run = prepare(config)
    state = checkpoint.restore(workdir / 'checkpoints', run.state,
                               best=config.eval.best if config.eval.checkpoint == 'best' else None)
    if state is None:
        raise BadInput(f'there is no checkpoint in {workdir}; train first, by --mode=train')
    return run, state


def evaluator(run: Run):
    """A function state -> test metrics, named floats; compiled at its first call."""
    compiled, test = over(run, run.model.evaluate, run.data.test, loop.evaluation)
    return lambda state: record.flat(compiled(state, test, run.key), 'test')


def over(run: Run, evaluate, examples: Batch, how) -> tuple[typing.Callable, Batch]:
    """(state, data, key) -> what loop.evaluation or loop.collection gives of all examples, on all
    devices; and the data as it lies there."""
    size, devices = len(examples.x), jax.device_count()
    batch = -(-min(run.config.eval.batch, size) // devices) * devices
    layout = parallel.layout('jit', batch)
    whole = how(evaluate, run.data.prepare, size, batch, layout.share)
    return layout.compile(whole, ()), layout.place(examples)


def collector(run: Run, state: State) -> typing.Callable:
    """(f, split, most) -> the arrays of f(state, batch, key) over the first `most` examples of the
    `train` or `test` split, or over all."""
    def collect(evaluate, split, most):
        examples = jax.tree.map(lambda a: a[:most], getattr(run.data, split))
        compiled, placed = over(run, evaluate, examples, loop.collection)
        return jax.device_get(compiled(state, placed, run.key))

    return collect


class Trainer:
    """Compiled epochs of a run; `compile_seconds` and `seconds` of training add up as it works."""

    def __init__(self, run: Run):
        self.run, self.compiled = run, {}
        self.data = run.layout.place(run.data.train)
        self.seconds = self.compile_seconds = 0.

    def call(self, state: State, steps: int):
        """The compiled call of so many steps."""
        run = self.run
        if steps not in self.compiled:
            start = time.perf_counter()
            chunk = loop.training(run.model, run.data.prepare, len(run.data.train.x),
                                  run.config.batch, steps, run.layout.share)
            with jax.default_matmul_precision(run.config.precision):
                lowered = run.layout.compile(chunk, (0,)).lower(state, self.data, run.key)
            self.compiled[steps] = lowered.compile()
            self.compile_seconds += time.perf_counter() - start
        return self.compiled[steps](state, self.data, run.key)

    def epoch(self, state: State) -> tuple[State, dict[str, float]]:
        """A whole epoch.  Raises FloatingPointError with the first step of a loss not finite."""
        per_epoch, at_once = self.run.per_epoch, self.run.config.scan or self.run.per_epoch
        start, compiled = time.perf_counter(), self.compile_seconds
        sums = {}
        for done in range(0, per_epoch, at_once):
            steps = min(at_once, per_epoch - done)
            state, metrics, bad = self.call(state, steps)
            if int(bad) >= 0:
                raise FloatingPointError(int(bad))
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.) + float(value) * steps / per_epoch
        self.seconds += time.perf_counter() - start - (self.compile_seconds - compiled)
        return state, record.flat(sums, 'train')


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes workdir this config's.  Raises BadInput where it is another's or cannot be written."""
    file, ours = workdir / 'config.json', json.loads(config.to_json())
    theirs = stored_config(workdir)
    if theirs is not None:
        match(workdir, theirs, ours)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        record.write_json(file, ours)
        if not os.access(workdir, os.W_OK):
            raise PermissionError('not writable')
    except OSError as e:
        raise BadInput(f'workdir {workdir} cannot be written ({e.strerror or e}); '
                       'give another by --workdir') from e


def stored_config(workdir: Path) -> dict | None:
    """The config.json of a workdir, None where there is none; keys that did not exist when it was
    written have their defaults."""
    file = workdir / 'config.json'
    try:
        if not file.exists():
            return None
        stored = json.loads(file.read_text())
        known = defaults(stored['model']['name'], stored['data']['name'])
        return filled(stored, json.loads(known.to_json()))
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise BadInput(f'{file} cannot be read ({e}); give another --workdir') from e


def filled(tree: dict, default: dict) -> dict:
    """A nested dict with what it lacks of a default."""
    return default | {k: filled(v, default[k]) if isinstance(v, dict) and k in default else v
                      for k, v in tree.items()}


def leaves(tree: Any, path: str = '', but=()) -> dict[str, Any]:
    """The values of a nested dict by their dotted keys, without the keys `but` and those below."""
    if path in but:
        return {}
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items()
                for k, v in leaves(sub, f'{path}.{name}'.lstrip('.'), but).items()}
    return {path: tree}


def match(workdir: Path, theirs: dict, ours: dict) -> None:
    """Raises BadInput with the keys in which two configs differ, but for the FREE ones."""
    theirs, ours = (leaves(tree, but=FREE) for tree in (theirs, ours))
    differ = [f'{k} (there {theirs.get(k)!r}, here {ours.get(k)!r})'
              for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
    if differ:
        raise BadInput(f'workdir {workdir} holds a run of another config: it differs in '
                       f'{", ".join(differ)}; give another --workdir')


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains until config.epochs, from the newest checkpoint in workdir where there is one."""
    run = prepare(config)
    claim(workdir, config)
    state = checkpoint.restore(workdir / 'checkpoints', run.state)
    saves = checkpoint.manager(workdir / 'checkpoints', best=config.eval.best)
    epoch = 0 if state is None else int(state.step) // run.per_epoch
    if min(epoch, summary(workdir).get('epochs', 0)) >= config.epochs:
        print(f'this run is finished: {epoch} epochs, see {workdir}/summary.json; '
              'for more, raise --config.epochs')
        return
    if state is None:
        state = run.state
    else:
        print(f'going on after epoch {epoch}')
    spent = summary(workdir).get('seconds', 0.) if epoch else 0.
    log = record.Record(workdir, int(state.step))
    progress = record.Progress(config.epochs, epoch)
    trainer, evaluate = Trainer(run), evaluator(run)
    measured = {}

    def summarise(epoch):
        seconds, examples = spent + trainer.seconds, int(state.step) * config.batch
        record.write_json(workdir / 'summary.json', dict(
            model=config.model.name, dataset=config.data.name, epochs=epoch, steps=int(state.step),
            seconds=seconds, compile_seconds=trainer.compile_seconds,
            examples_per_second=examples / seconds if seconds else 0.,
            metrics=named_at_end(log.lines) | (measured or evaluate(state))))

    while epoch < config.epochs:
        try:
            state, named = trainer.epoch(state)
        except FloatingPointError as e:
            log.close()
            saves.wait_until_finished()
            kept = saves.latest_step()
            kept = 'nothing was saved' if kept is None else f'the checkpoint of step {kept} is kept'
            raise BadInput(f'the loss is not finite at step {e}; {kept}; '
                           'try a lower --config.model.rate') from None
        epoch += 1
        due = epoch % config.eval.every == 0 or epoch == config.epochs
        if due:
            measured = evaluate(state)
            named |= measured
            checkpoint.save(saves, state, measured)
        log.metrics(int(state.step), epoch, named)
        if due and epoch < config.epochs:  # so that a run that is killed knows its time
            summarise(epoch)
        done = epoch - progress.done
        progress(epoch, named, done * run.per_epoch * config.batch / trainer.seconds)
    saves.wait_until_finished()
    summarise(epoch)
    curves = record.curves(workdir / 'images' / 'curves.png', log.lines)
    drawn = [curves, *draw(run, state, workdir)]
    log.close()
    saves.close()
    print('pictures: ' + ', '.join(str(p) for p in drawn))


def named_at_end(lines: list[dict]) -> dict[str, float]:
    return {k: v for k, v in (lines[-1] if lines else {}).items() if '/' in k}


def summary(workdir: Path) -> dict:
    file = workdir / 'summary.json'
    return json.loads(file.read_text()) if file.exists() else {}


def draw(run: Run, state: State, workdir: Path, only: str | None = None) -> list[Path]:
    """Samples and reconstructions as pictures or text, as far as the model has them."""
    n, files = run.config.eval.samples, []
    columns = max(1, round(n ** .5))
    sampler = run.config.sampler if only == 'sample' else 'prior'
    if only == 'sample' or run.model.prior and only != 'reconstruct':
        title = 'samples' if sampler == 'prior' else f'samples-{sampler}'
        parts = {title: samples(run, state, sampler, n)}
        if parts[title].ndim < 3 and not run.data.read:
            parts = {'test data': tested(run.data, n, run.key).x, **parts}
        files.append(filed(run, workdir, title, parts, columns))
    if can_reconstruct(run.model) and only != 'sample':
        batch = tested(run.data, n, run.key)
        if run.config.eval.text:
            batch = Batch(jax.numpy.asarray(run.data.write(run.config.eval.text))[None])
        files.append(filed(run, workdir, 'reconstructions', shown(run, state, batch), columns))
    return files


def filed(run: Run, workdir: Path, name: str, parts: dict[str, Array], columns: int) -> Path:
    """The file in which examples are kept: text, or a picture."""
    if run.data.read:
        lines = {title: [run.data.read(x) for x in part] for title, part in parts.items()}
        return record.texts(workdir / f'{name}.txt', lines)
    return record.pictures(workdir / 'images' / f'{name}.png', parts, columns)


def samples(run: Run, state: State, sampler: str, n: int) -> Array:
    """n decoded codes of the model's prior, or of a density fitted to its codes."""
    key = jax.random.fold_in(run.key, 1)
    if sampler == 'prior':
        z = jax.jit(run.model.prior, static_argnums=2)(state, key, n)
    else:
        codes = collector(run, state)(samplers.codes(run.model), 'train', None)
        z = samplers.fit(sampler, codes, jax.random.fold_in(run.key, 2))(key, n)
    return jax.jit(run.model.decode)(state, z)


def shown(run: Run, state: State, batch: Batch) -> dict[str, Array]:
    """What the model does to a batch, compiled, titles in the model's own order."""
    show, titles = run.model.show or functools.partial(reconstructions, run.model), []

    def values(*args):
        parts = show(*args)
        titles[:] = parts  # jit would sort a dict
        return list(parts.values())

    parts = jax.jit(values)(state, batch, run.key)
    return dict(zip(titles, parts))


def can_reconstruct(model: Model) -> bool:
    return bool(model.show or model.encode and model.decode)


def reconstructions(model: Model, state: State, batch: Batch, key: Array) -> dict[str, Array]:
    y = model.decode(state, model.encode(state, batch.x))
    return {'test data': batch.x, 'reconstructions': y}
