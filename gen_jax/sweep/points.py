"""Points: combinations of values of a config's keys."""
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
    """The values of `key` that `words`, separated by commas, give.

    Raises BadInput for a key that is not in the config or no number, or values that are none.
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
    """What a point is called in tables and files.

    >>> name({'model.beta': 4., 'seed': 0})
    'beta=4.0,seed=0'
    """
    return ','.join(f'{k.removeprefix("model.")}={v}' for k, v in point.items())


def label(points: list[dict[str, Any]]) -> str:
    """A folder's name for points trained together."""
    return hashlib.sha256(';'.join(map(name, points)).encode()).hexdigest()[:12]
