"""The keys and defaults of a config, and the config.json of a workdir."""
import contextlib
import inspect
import json
import os
from pathlib import Path
import types
import typing
from typing import Any

import jax
from ml_collections import ConfigDict, config_dict

from gen_jax import checkpoint, models, parallel, parts, record
from gen_jax.train.faults import exclusive, report_full_disk
from gen_jax.types import BadInput, closest_match

HERE = ('data.dir', 'data.memory_limit', 'data.workers', 'data.cache', 'data.cache_dir',
        'data.cache_limit')  # do not change the data themselves
BATCH = 128
FREE = 'epochs', 'eval', 'sampler', *HERE  # may differ between commands on the same workdir


def defaults(model: str, dataset: str, **changed) -> ConfigDict:
    """The config of a run of models/`model`: every key, with its default.

    `changed` holds the hyper-parameters of the model that differ from the defaults of its `make`. A
    part of the model becomes a group of the config next to `model`; its value in `changed` is a
    dict of the keys that differ, where `name` selects another net.

    Args:
        seed: of initialisation, order and noise.
        epochs: passes over the training data.
        batch_size: examples of a step, of all devices together; None for 128, or fewer where the
            data are fewer.
        parallel: jit, fsdp, shard_map or pmap.
        steps_per_call: steps of one compiled call; 0 for a whole epoch.
        on_nan: at a loss that is not finite or not possible: stop; skip the step; or rollback to
            the newest checkpoint.
        precision: of matrix products in training: default, float32, tensorfloat32 or bfloat16.
        init_from: workdir of a trained run whose encoder to start from.
        sampler: for --mode=sample: prior, gmm, aggregate, flow or twostage.
        data.name: a data set of --list, rows:NAME, stacked:NAME, a TFDS image set, or a module of
            yours, as my.shapes.
        data.dir: where TFDS sets are prepared; None for TFDS_DATA_DIR.
        data.binarize: none; dynamic, new bits whenever an example is used; or static.
        data.identities: labels to keep; () for all.
        data.limit: training examples to use; 0 for all.
        data.size: side of the images, in pixels; 0 for the data set's own.
        data.range: what stored numbers are: bits, 8bit, 16bit, unit or real; empty for what they
            look like.
        data.standardise: real numbers, by the training split's mean and deviation.
        data.memory_limit: megabytes; a larger TFDS split is streamed.
        data.workers: processes that decode; 0 for this one.
        data.cache: whether a streamed set is decoded once, to disk.
        data.cache_dir: for decoded TFDS sets; None for the user's cache.
        data.cache_limit: megabytes there; the least recently used set is removed first.
        eval.batch_size: examples evaluated at once.
        eval.every: epochs between evaluations.
        eval.best: metric whose lowest value marks the best checkpoint; empty for none.
        eval.checkpoint: latest or best, for --mode other than train.
        eval.samples: samples in the pictures.
        eval.text: text to reconstruct, where the data set is text.
        eval.metrics: of --list, with commas, for --mode=evaluate; empty for all that fit.
        eval.k: importance samples of each example for the nll.
        eval.features: to compare samples in: pixels, classifier or inception.
        eval.weights: file of Inception's weights.

    >>> config = defaults('vae', 'digits', latent=2)
    >>> config.model.latent, config.net.name
    (2, 'mlp')
    """
    make = find_model(model).make
    hyper, groups = {}, {}
    for name, p in inspect.signature(make).parameters.items():
        if name in ('example', 'context'):
            continue
        if hasattr(p.default, 'spec'):
            groups[name] = parts.replace(p.default, **changed.pop(name, {})).spec.keys
            continue
        hyper[name] = changed.pop(name, p.default)
        if hyper[name] is None:  # has a type, so that the command line can set it
            hyper[name] = config_dict.placeholder(typing.get_args(p.annotation)[0])
    assert not changed, f'make of {model} has no {", ".join(changed)}'
    return ConfigDict(dict(
        seed=0, epochs=10, batch_size=config_dict.placeholder(int), parallel='jit',
        steps_per_call=0, on_nan='stop', precision='default', init_from='', sampler='prior',
        data=dict(name=dataset, dir=config_dict.placeholder(str), binarize='none', identities=(),
                  limit=0, size=0, range='', standardise=False, memory_limit=8000., workers=0,
                  cache=True, cache_dir=config_dict.placeholder(str), cache_limit=50_000.),
        model=dict(name=model, **hyper), **groups,
        eval=dict(batch_size=500, every=1, best='test/loss', checkpoint='latest', samples=64,
                  text='', metrics='', k=5000, features='pixels', weights=''))).lock()


def defaults_like(config: dict) -> ConfigDict:
    """The default config for the model, the data set and the nets that a config names."""
    groups = parts.find_parts(find_model(config['model']['name']).make)
    named = {group: dict(name=config[group]['name']) for group in groups
             if 'name' in config.get(group, {})}
    return defaults(config['model']['name'], config['data']['name'], **named)


def choose(config: ConfigDict, group: str, name: str) -> None:
    """Makes `name` the part of a group, with the keys and defaults of that part.
    Raises: BadInput if there is no such part.
    """
    part = parts.replace(parts.find_parts(find_model(config.model.name).make)[group], name=name)
    if name != config[group].name:
        with config.unlocked():
            del config[group]
            config[group] = ConfigDict(part.spec.keys)


def update(config: ConfigDict, values: dict[str, Any]) -> None:
    """Sets dotted keys. Sets the names of parts first, because they determine which other keys
    exist.
    Raises: BadInput for an unknown key.
    """
    for key, value in values.items():
        group, _, name = key.rpartition('.')
        if name == 'name' and group not in ('model', 'data'):
            choose(config, group, value)
    known = leaves(config.to_dict())
    for key in values.keys() - known.keys():
        raise BadInput(f'unknown config key {key!r}{closest_match(key, known)}')
    config.update_from_flattened_dict(values)


def find_model(name: str) -> types.ModuleType:
    """The module models/`name`, or the module of a dotted name.
    Raises: BadInput if there is none.
    """
    return parts.find_module(models, 'model', name)


@contextlib.contextmanager
def lock_workdir(workdir: Path, config: ConfigDict):
    """Creates workdir for this config and locks it against other programs. Of several processes the
    first does this, before the others check it.
    Raises: BadInput if the workdir belongs to another config, is in use, cannot be written, or is
    not the same directory for all processes.
    """
    with contextlib.ExitStack() as locks:
        parallel.collectively(lambda: jax.process_index() or create_workdir(workdir, config, locks))
        parallel.collectively(lambda: jax.process_index() and check_workdir(workdir, config))
        with report_full_disk(workdir):
            yield


def check_workdir(workdir: Path, config: ConfigDict) -> None:
    stored = stored_config(workdir)
    if stored is None:
        raise BadInput(f'workdir {workdir} is not seen by every process; give one on a disk that '
                       'they share, by --workdir')
    check_same_config(workdir, stored, json.loads(config.to_json()))


def create_workdir(workdir: Path, config: ConfigDict, locks: contextlib.ExitStack) -> None:
    file, current = workdir / 'config.json', json.loads(config.to_json())
    stored = stored_config(workdir)
    if stored is not None:
        check_same_config(workdir, stored, current)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError('not writable')
        checkpoint.require_space(workdir)
    except OSError as e:
        raise BadInput(f'workdir {workdir} cannot be written ({e.strerror or e}); '
                       'give another by --workdir') from e
    locks.enter_context(exclusive(workdir))
    with report_full_disk(workdir):
        record.write_json(file, current)


def stored_config(workdir: Path) -> dict | None:
    """The config.json of a workdir, or None if there is none. A key that did not exist when the
    file was written has its default.
    Raises: BadInput if the file cannot be read or has an unknown key.
    """
    file = workdir / 'config.json'
    try:
        if not file.exists():
            return None
        stored = json.loads(file.read_text())
        known = json.loads(defaults_like(stored).to_json())
        if unknown := leaves(stored).keys() - leaves(known).keys():
            raise ValueError(f'unknown key {min(unknown)!r}, of another version of gen_jax')
        return fill_defaults(stored, known)
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise BadInput(
            f'{file} cannot be read ({" ".join(str(e).split())}); put back a copy of '
            'it, or give another --workdir, or --config.init_from where it is that') from e


def fill_defaults(tree: dict, default: dict) -> dict:
    """A nested dict, with missing keys taken from `default`."""
    return default | {k: fill_defaults(v, default[k]) if isinstance(v, dict) and k in default else v
                      for k, v in tree.items()}


def leaves(tree: Any, path: str = '', but=()) -> dict[str, Any]:
    """The values of a nested dict by dotted key, without the keys in `but` and those below them."""
    if path in but:
        return {}
    if isinstance(tree, dict):
        return {k: v for name, sub in tree.items()
                for k, v in leaves(sub, f'{path}.{name}'.lstrip('.'), but).items()}
    return {path: tree}


def check_same_config(workdir: Path, stored: dict, current: dict,
                      remedy='give another --workdir') -> None:
    """Raises BadInput that lists the keys in which two configs differ; the FREE keys may differ."""
    stored, current = (leaves(tree, but=FREE) for tree in (stored, current))
    differ = [f'{k} (there {stored.get(k)!r}, here {current.get(k)!r})'
              for k in sorted(stored.keys() | current.keys()) if stored.get(k) != current.get(k)]
    if differ:
        raise BadInput(f'workdir {workdir} holds a run of another config: it differs in '
                       f'{", ".join(differ)}; {remedy}')
