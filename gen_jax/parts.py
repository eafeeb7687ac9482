"""The parts that models are made of, as values: nets, latents, optimisers, discriminators.

A part remembers the keys it was made by, so that a config, a sweep or a script can change them
without the model knowing: a model takes a part as a keyword, whose default is the paper's.
"""
import functools
import inspect
from typing import Any, Callable, NamedTuple

from gen_jax.types import BadInput


class Made(NamedTuple):
    """How a part was made: `make(**keys)` makes it again; keys holds all of them."""
    make: Callable
    keys: dict[str, Any]


def part(make: Callable) -> Callable:
    """`make`, whose values (NamedTuples with a field `made`) remember their keys."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def remembering(**keys):
        given = signature.bind(**keys)
        given.apply_defaults()
        return make(**given.arguments)._replace(made=Made(remembering, given.arguments))

    return remembering


def changed(value: Any, **keys) -> Any:
    """The part with some keys changed; where `name` is, with the defaults of what has that name.

    Raises BadInput for a key that it does not have, or a value that it refuses.
    """
    make, own = value.made
    if keys.get('name', own.get('name')) != own.get('name'):
        own = make(name=keys['name']).made.keys
    if unknown := keys.keys() - own.keys():
        raise BadInput(f'there is no {min(unknown)} among {", ".join(own)}')
    return make(**own | keys)


def of(make: Callable) -> dict[str, Any]:
    """The parts that a model's `make` takes, by parameter, with their defaults."""
    return {name: p.default for name, p in inspect.signature(make).parameters.items()
            if hasattr(p.default, 'made')}


def build(make: Callable, *args, groups: dict[str, dict[str, Any]], **own) -> Any:
    """make(*args, **own) with the keys of its parts changed as `groups` says."""
    defaults = of(make)
    return make(*args, **own, **{name: changed(defaults[name], **keys)
                                 for name, keys in groups.items()})
