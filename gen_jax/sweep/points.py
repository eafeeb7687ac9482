"""Points: combinations of values for keys of a config."""
import copy
import hashlib
import itertools
from typing import Any

from ml_collections import ConfigDict

from gen_jax import train
from gen_jax.types import BadInput

LATENT, SEED = 'model.latent', 'seed'


def grid(values: dict[str, list]) -> list[dict[str, Any]]:
    """Every combination, as dotted key -> value; the last key changes fastest.

    >>> grid({'model.beta': [1., 4.], 'seed': [0]})
    [{'model.beta': 1.0, 'seed': 0}, {'model.beta': 4.0, 'seed': 0}]
    """
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


def numbers(config: ConfigDict, key: str, words: str) -> list:
    """Parses `words`, values of `key` separated by commas.

    Raises BadInput if the key is not in the config or not a number, or for values that are not
    numbers.
    """
    part, _, name = key.rpartition('.')
    known = train.leaves(config.to_dict())
    if key not in known:
        raise BadInput(f'unknown key {key!r} to sweep{train.closest_match(key, known)}')
    kind = (config[part] if part else config).get_type(name)
    if kind not in (int, float):
        raise BadInput(f'{key} cannot be swept: it is no number but {known[key]!r}')
    if not words.strip():
        raise BadInput(f'give values to sweep {key} over, as --sweep.{key}=1,2')
    try:
        values = list(dict.fromkeys(kind(word) for word in words.split(',')))
    except ValueError:
        raise BadInput(f'{words!r} are not values of {key}, which is '
                       f'{"an integer" if kind is int else "a number"}') from None
    if kind is int and max(map(abs, values)) >= 2 ** 31:
        raise BadInput(f'{key} must be below {2 ** 31:,}, not {max(values, key=abs)}')
    return values


def changed(config: ConfigDict, values: dict[str, Any]) -> ConfigDict:
    config = copy.deepcopy(config)
    train.update(config, values)
    return config


def name(point: dict[str, Any]) -> str:
    """The name of a point in tables and files.

    >>> name({'model.beta': 4., 'seed': 0})
    'beta=4.0,seed=0'
    """
    return ','.join(f'{k.removeprefix("model.")}={v}' for k, v in point.items())


def label(points: list[dict[str, Any]]) -> str:
    """A folder name for points that are trained together."""
    return hashlib.sha256(';'.join(map(name, points)).encode()).hexdigest()[:12]
