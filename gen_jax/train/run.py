"""Builds a run from a config: data, model, layout and state; and evaluates functions over all
examples.
"""
import inspect
import json
from pathlib import Path
from typing import Callable, NamedTuple

from absl import flags
import jax
from ml_collections import ConfigDict

from gen_jax import checkpoint, data, loop, parallel, parts, record, samplers
from gen_jax.data import streaming
from gen_jax.train import model_info, batch_coupling, config_from_workdir, streamed, argument_checks
from gen_jax.train.model_info import ModelInfo, LazyDataset
from gen_jax.train.config import BATCH, find_model, leaves, check_same_config
from gen_jax.types import Array, BadInput, Batch, Context, Model, State, closest_match

NAN = 'stop', 'skip', 'rollback'
PRECISIONS = 'default', 'float32', 'tensorfloat32', 'bfloat16'


class Run(NamedTuple):
    """What a config defines: its data, model, key and layout, and an initial state. `known` is what
    the model is built for, `per_epoch` the number of steps of an epoch.
    """
    config: ConfigDict
    data: data.Dataset
    model: Model
    layout: parallel.Layout
    key: Array
    state: State
    per_epoch: int
    known: ModelInfo


def prepare(config: ConfigDict) -> Run:
    """Loads the data and builds the model and its initial state.
    Raises: BadInput for a config that is inconsistent.
    """
    check(config)
    dataset = read(config)
    key = jax.random.key(config.seed)
    run, make = assemble(batched(config, len(dataset.train.x)), dataset,
                          model_info.model_info(dataset, key), key)
    streamed.check(run.config, dataset)
    example = run.known.example
    run = run._replace(state=run.layout.init_sharded(run.model.init, key, example))
    if run.layout.axis:
        for player in batch_coupling.coupled_players(config, make, run.state, example, key):
            raise BadInput(f'the loss of {player} in model {config.model.name} takes the whole '
                           'batch, of which a device sees its share under parallel=shard_map and '
                           'pmap; use --config.parallel=jit')
    return run


def assemble(config: ConfigDict, dataset: data.Dataset, known: ModelInfo, key: Array):
    """(Run, make): a Run whose state has only shapes, and the function that builds its model, see
    `maker`.
    """
    layout = parallel.layout(config.parallel, config.batch_size)
    make = maker(config, known, layout)
    model = make()
    if config.init_from and not model.from_source:
        raise BadInput(f'model {config.model.name} cannot start from another run; leave init empty')
    state = layout.like(model.init, key, known.example)
    metrics = jax.eval_shape(model.evaluate, state, known.test, key)
    best, named = config.eval.best, [f'test/{k}' for k, v in sorted(metrics.items()) if v.ndim == 1]
    if best and best not in named:
        raise BadInput(f'eval.best {best!r} is not measured{closest_match(best, named)}; '
                       f'there are {", ".join(named)}, or nothing for none')
    return Run(config, dataset, model, layout, key, state, known.train_size // config.batch_size,
               known), make


def read(config: ConfigDict) -> data.Dataset:
    """The data set of a config.
    Raises: BadInput if it is not available, or does not fit the config.
    """
    if config.data.workers > 0 and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain's processes require it, and a notebook has no flags
    dataset = data.load(**config.data)
    if config.eval.text and dataset.write is None:
        raise BadInput(f'eval.text is for a data set of text, but {config.data.name} is none')
    if config.eval.text:
        dataset.write(config.eval.text)
    return dataset


def check(config: ConfigDict) -> None:
    """Raises BadInput for values that are invalid in every run."""
    for name, value in leaves(config.to_dict()).items():
        if isinstance(value, tuple) and not all(type(v) is int for v in value):
            raise BadInput(f'{name} must be whole numbers, as (256,), not {value!r}')
        if any(type(v) is int and abs(v) >= 2 ** 31
               for v in (value if isinstance(value, tuple) else [value])):
            raise BadInput(f'{name} must be below {2 ** 31:,}, not {value}')
    for name in 'epochs', 'batch_size', 'eval.batch_size', 'eval.every', 'eval.samples', 'eval.k':
        value = config[name] if '.' not in name else config.eval[name.split('.')[1]]
        if value is not None and value < 1:
            raise BadInput(f'{name} must be at least 1, not {value}')
    if config.steps_per_call < 0:
        raise BadInput('steps_per_call must be 0 (an epoch a call) or a number of steps, not '
                       f'{config.steps_per_call}')
    if config.precision not in PRECISIONS:
        raise BadInput(
            f'unknown precision {config.precision!r}'
            f'{closest_match(config.precision, PRECISIONS)}; there are {", ".join(PRECISIONS)}')
    if config.on_nan not in NAN:
        raise BadInput(f'unknown on_nan {config.on_nan!r}{closest_match(config.on_nan, NAN)}; '
                       f'there are {", ".join(NAN)}')
    if config.eval.checkpoint not in ('latest', 'best'):
        raise BadInput(f'eval.checkpoint is latest or best, not {config.eval.checkpoint!r}')
    if config.sampler not in samplers.SAMPLERS:
        raise BadInput(f'unknown sampler {config.sampler!r}'
                       f'{closest_match(config.sampler, samplers.SAMPLERS)}; '
                       f'there are {", ".join(samplers.SAMPLERS)}')


def batched(config: ConfigDict, size: int) -> ConfigDict:
    """The config with its batch size set, for `size` training examples. If none is given it is
    BATCH, or all examples if there are fewer, rounded down to a multiple of the number of devices.
    Raises: BadInput if the given batch size is larger than the data, or if there are fewer examples
    than devices.
    """
    name, devices = config.data.name, jax.device_count()
    if config.batch_size is None:
        config = config.copy_and_resolve_references()
        config.batch_size = min(BATCH, size) // devices * devices
        if not config.batch_size:
            raise BadInput(f'{name} has {size} training examples, fewer than the {devices} devices '
                           'that are to share a batch; use fewer devices')
        if config.batch_size < BATCH:
            print(f'batch_size {config.batch_size} rather than {BATCH}, as {name} has {size} '
                  f'training examples' if size < BATCH else
                  f'batch_size {config.batch_size} rather than {BATCH}, for {devices} devices')
    if config.batch_size > size:
        raise BadInput(
            f'batch_size {config.batch_size} is larger than {name}, which has {size} training '
            'examples; give a smaller --config.batch_size')
    return config


def announce(config: ConfigDict, workdir: Path) -> None:
    """Prints model, data set and workdir, before loading and compilation, which take seconds."""
    print(f'{config.model.name} on {config.data.name}, in {workdir}', flush=True)


def described(run: Run) -> str:
    """One line with the number of parameters, the size of the data and the devices."""
    size = sum(a.size for a in jax.tree.leaves(run.state.params))
    train, test = run.known.train_size, run.known.test_size
    shape = 'x'.join(map(str, run.known.test.x.shape[1:]))
    count = f'{jax.device_count()} x ' if jax.device_count() > 1 else ''
    return f'{size:,} parameters, {train:,} training and {test:,} test examples of {shape}, on ' \
           f'{count}{jax.devices()[0].device_kind}'


def maker(config: ConfigDict, known: ModelInfo, layout: parallel.Layout) -> Callable[..., Model]:
    """make(**changed): builds the config's model, with the dotted keys in `changed` replaced.
    Raises: BadInput for a config that is inconsistent.
    """
    module = find_model(config.model.name)
    groups = ['model', *parts.find_parts(module.make)]
    keys = {k: v for k, v in leaves(config.to_dict()).items()
            if k.partition('.')[0] in groups and k != 'model.name'}
    names = set(inspect.signature(module.make).parameters)
    if extra := [k for k in config.model if k not in names | {'name'}]:
        raise BadInput(f'model {config.model.name} has no {", ".join(extra)}; '
                       f'use --config=configs/{config.model.name}.py')
    context = Context(layout.axis, config.batch_size // (jax.device_count() if layout.axis else 1),
                      known.train_size, source(config, known) if config.init_from else None)

    def make(axis=layout.axis, **changed):
        tree = {group: {} for group in groups}
        for key, value in (keys | changed).items():
            group, _, name = key.partition('.')
            tree[group][name] = value
        hyper = tree.pop('model')
        return parts.build_model(module.make, known.example, context=context._replace(axis=axis),
                                 groups=tree, **hyper)

    return make


def source(config: ConfigDict, known: ModelInfo) -> tuple[Model, State]:
    """The trained (Model, State) of config.init_from.
    Raises: BadInput if it has no encoder, or takes examples of another shape.
    """
    run, state = load(Path(config.init_from), data_dir=config.data.dir)
    source_shape, shape = (a.example.x.shape[1:] for a in (run.known, known))
    if source_shape != shape:
        raise BadInput(
            f'the run in {config.init_from} was trained on examples of shape {source_shape}, but '
            f'those of {config.data.name} have shape {shape}; give another --config.init_from')
    if not run.model.encode:
        raise BadInput(
            f'the run in {config.init_from} has no encoder; give another --config.init_from')
    return run.model, jax.device_get(state)


def load(workdir: str | Path, config: ConfigDict | None = None, data_dir: str | None = None):
    """(Run, State) of a trained run. The state is the newest, or the best if eval.checkpoint is
    `best`.

    Without `config` the stored config is used, and the stored data.dir if no other is given. The
    data are loaded at their first use. The model checks its arguments, see argument_checks.
    Raises: BadInput if there is no such run.
    """
    workdir, stored_config = Path(workdir), config_from_workdir.get_config(workdir)
    config = stored_config if config is None else config.copy_and_resolve_references()
    stored, given = (json.loads(c.to_json()) for c in (stored_config, config))
    remedy = 'leave that out, as a run has its own without --config, or give another --workdir'
    check_same_config(workdir, stored,
                      given | dict(batch_size=given['batch_size'] or stored['batch_size']), remedy)
    config.data.dir = data_dir or config.data.dir or stored_config.data.dir
    config.batch_size = config.batch_size or stored_config.batch_size
    check(config)
    key, known = jax.random.key(config.seed), model_info.load(workdir)
    if known and not config.eval.text:
        dataset = LazyDataset(known, lambda: read(config))
    else:
        dataset = read(config)
        known = model_info.model_info(dataset, key)
    run, _ = assemble(batched(config, known.train_size), dataset, known, key)
    check_same_config(workdir, stored, json.loads(run.config.to_json()), remedy)
    state = checkpoint.restore(workdir / 'checkpoints', run.state,
                               best=config.eval.best if config.eval.checkpoint == 'best' else None)
    if state is None:
        raise BadInput(f'there is no checkpoint in {workdir}; train first, by --mode=train')
    run, state, x = run._replace(state=state), parallel.to_host(state), known.example.x
    model = argument_checks.checked_model(run.model, config.model.name, state, x,
                                          argument_checks.limits(known))
    return run._replace(model=model), state


def evaluator(run: Run):
    """A function state -> test metrics, as floats by name. Compiles at its first call."""
    compiled, test = compile_evaluation(run, run.model.evaluate, run.data.test, loop.evaluation)
    return lambda state: record.flat(compiled(state, test, run.key), 'test')


def compile_evaluation(run: Run, evaluate, examples: Batch, make_loop) -> tuple[Callable, Batch]:
    """(f, data): f(state, data, key) gives what loop.evaluation or loop.collection computes over
    all examples, on all devices; `data` are the examples, placed on the devices unless they are
    streamed.
    """
    batch = min(run.config.eval.batch_size, len(examples.x))
    layout = parallel.layout('jit')  # XLA pads unequal shares, so the noise is that of one device

    def compiled(size):
        return layout.compile(make_loop(evaluate, run.data.prepare, size, batch, layout.share), ())

    if not streaming.streamed(examples):
        return compiled(len(examples.x)), layout.place(examples)
    join = streamed.mean if make_loop is loop.evaluation else streamed.joined
    return streamed.evaluate_stream(run.config, compiled, layout.place, batch, join), examples


def collector(run: Run, state: State) -> Callable:
    """A function (f, split, most) -> the arrays of f(state, batch, key) over the first `most`
    examples of the `train` or `test` split, or over all if it is None.
    """
    def collect(evaluate, split, most):
        examples = jax.tree.map(lambda a: a[:most], getattr(run.data, split))
        compiled, placed = compile_evaluation(run, evaluate, examples, loop.collection)
        return jax.device_get(compiled(state, placed, run.key))

    return collect
