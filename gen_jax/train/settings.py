"""What a config may say: its keys and defaults, and the config.json of a workdir."""
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
from gen_jax.train.faults import alone, room
from gen_jax.types import BadInput

HERE = ('data.dir', 'data.memory_limit', 'data.workers', 'data.cache', 'data.cache_dir',
        'data.cache_limit')  # nothing of the data itself
BATCH = 128
FREE = 'epochs', 'eval', 'sampler', *HERE  # may differ between two commands on one workdir


def defaults(model: str, dataset: str, **changed) -> ConfigDict:
    """The config of a run of models/`model`: every key there is, with its default.

    `changed` are the model's hyper-parameters that differ from those of its `make`; of its parts,
    which become groups of the config beside `model`, dicts of the keys that differ, with the name
    of another net as `name`.
    """
    make = find(model).make
    hyper, groups = {}, {}
    for name, p in inspect.signature(make).parameters.items():
        if name in ('example', 'context'):
            continue
        if hasattr(p.default, 'made'):
            groups[name] = parts.changed(p.default, **changed.pop(name, {})).made.keys
            continue
        hyper[name] = changed.pop(name, p.default)
        if hyper[name] is None:  # a typed hole, so that the command line can fill it
            hyper[name] = config_dict.placeholder(typing.get_args(p.annotation)[0])
    assert not changed, f'make of {model} has no {", ".join(changed)}'
    return ConfigDict(dict(
        seed=0, epochs=10,
        batch=config_dict.placeholder(int),  # BATCH, or what the data give where they are fewer
        parallel='jit',   # or fsdp, shard_map, pmap
        scan=0,           # steps in one compiled call; 0: a whole epoch
        nan='stop',       # at a loss not finite; or skip the step, or rollback to what was saved
        precision='default',  # of matrix products in training; or float32, tensorfloat32, bfloat16
        init='',          # a trained run's workdir, whose encoder to start from
        sampler='prior',  # for --mode=sample; or gmm, aggregate, flow, twostage
        data=dict(name=dataset, dir=config_dict.placeholder(str), binarize='none', identities=(),
                  limit=0, size=0,
                  range='',            # bits, 8bit, 16bit, unit, real; empty: as the data tell
                  standardise=False,   # real numbers, by the training split
                  memory_limit=8000.,  # megabytes; a TFDS split that is larger is streamed
                  workers=0,           # processes that decode; 0: this one
                  cache=True,          # whether what is streamed is decoded once, to disk
                  cache_dir=config_dict.placeholder(str),  # for decoded TFDS sets
                  cache_limit=50_000.),  # megabytes there; used longest ago is removed first
        model=dict(name=model, **hyper), **groups,
        eval=dict(batch=500, every=1, best='test/loss', checkpoint='latest', samples=64,
                  text='',    # to reconstruct, where the data set is text
                  metrics='', # of gen_jax.metrics for --mode=evaluate; empty: all that fit
                  k=5000,     # codes of each example for the nll
                  features='pixels',  # to compare samples in; or classifier, inception
                  weights='')))       # of inception, a file


def like(config: dict) -> ConfigDict:
    """The defaults of the model, data set and nets that a config names."""
    groups = parts.of(find(config['model']['name']).make)
    named = {group: dict(name=config[group]['name']) for group in groups
             if 'name' in config.get(group, {})}
    return defaults(config['model']['name'], config['data']['name'], **named)


def choose(config: ConfigDict, group: str, name: str) -> None:
    """Makes `name` the part of a group, with that one's own keys and defaults.  Raises BadInput
    where there is none."""
    part = parts.changed(parts.of(find(config.model.name).make)[group], name=name)
    if name != config[group].name:
        del config[group]
        config[group] = ConfigDict(part.made.keys)


def update(config: ConfigDict, values: dict[str, Any]) -> None:
    """Sets dotted keys, names of parts first, as these decide which other keys there are."""
    for key, value in values.items():
        group, _, name = key.rpartition('.')
        if name == 'name' and group not in ('model', 'data'):
            choose(config, group, value)
    config.update_from_flattened_dict(values)


def find(name: str) -> types.ModuleType:
    """The module of models/`name`, or of a name with dots.  Raises BadInput where there is none."""
    return parts.module(models, 'model', name)


@contextlib.contextmanager
def claim(workdir: Path, config: ConfigDict):
    """Makes workdir this config's, and this program's alone; the first of several processes before
    the others look.  Raises BadInput where it is another's, cannot be written, or is not the same
    place for all."""
    with contextlib.ExitStack() as held:
        parallel.together(lambda: jax.process_index() or own(workdir, config, held))
        parallel.together(lambda: jax.process_index() and look(workdir, config))
        with room(workdir):
            yield


def look(workdir: Path, config: ConfigDict) -> None:
    theirs = stored_config(workdir)
    if theirs is None:
        raise BadInput(f'workdir {workdir} is not seen by every process; give one on a disk that '
                       'they share, by --workdir')
    match(workdir, theirs, json.loads(config.to_json()))


def own(workdir: Path, config: ConfigDict, held: contextlib.ExitStack) -> None:
    file, ours = workdir / 'config.json', json.loads(config.to_json())
    theirs = stored_config(workdir)
    if theirs is not None:
        match(workdir, theirs, ours)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError('not writable')
        checkpoint.spare(workdir)
    except OSError as e:
        raise BadInput(f'workdir {workdir} cannot be written ({e.strerror or e}); '
                       'give another by --workdir') from e
    held.enter_context(alone(workdir))
    with room(workdir):
        record.write_json(file, ours)


def stored_config(workdir: Path) -> dict | None:
    """The config.json of a workdir, None where there is none; keys that did not exist when it was
    written have their defaults."""
    file = workdir / 'config.json'
    try:
        if not file.exists():
            return None
        stored = json.loads(file.read_text())
        known = json.loads(like(stored).to_json())
        if unknown := leaves(stored).keys() - leaves(known).keys():
            raise ValueError(f'unknown key {min(unknown)!r}, of another version of gen_jax')
        return filled(stored, known)
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise BadInput(f'{file} cannot be read ({" ".join(str(e).split())}); put back a copy of '
                       'it, or give another --workdir, or --config.init where it is that') from e


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


def match(workdir: Path, theirs: dict, ours: dict, remedy='give another --workdir') -> None:
    """Raises BadInput with the keys in which two configs differ, but for the FREE ones."""
    theirs, ours = (leaves(tree, but=FREE) for tree in (theirs, ours))
    differ = [f'{k} (there {theirs.get(k)!r}, here {ours.get(k)!r})'
              for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
    if differ:
        raise BadInput(f'workdir {workdir} holds a run of another config: it differs in '
                       f'{", ".join(differ)}; {remedy}')
