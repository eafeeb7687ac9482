"""The parts of models, as values: nets, latents, optimisers, discriminators.

A part stores the keys it was made with, so that a config, a sweep or a script can change them
without the model's help: a model takes a part as a keyword, whose default is the paper's.
"""
import functools
import importlib
import inspect
import pkgutil
import types
from typing import Any, Callable, NamedTuple

from gen_jax.types import BadInput, closest_match


class Spec(NamedTuple):
    """How a part was made: `make(**keys)` makes it again; keys holds all of them."""
    make: Callable
    keys: dict[str, Any]


def with_spec(make: Callable) -> Callable:
    """`make`, whose values (NamedTuples with a field `spec`) remember their keys."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def remembering(**keys):
        given = signature.bind(**keys)
        given.apply_defaults()
        return make(**given.arguments)._replace(spec=Spec(remembering, given.arguments))

    return remembering


def replace(value: Any, **keys) -> Any:
    """The part with some keys changed; where `name` is, with the defaults of what has that name.

    Raises BadInput for a key that it does not have, or a value that it refuses.

    >>> from gen_jax import nets
    >>> net = replace(nets.make('mlp'), width=(32,))
    >>> net.spec.keys['width']
    (32,)
    """
    make, current = value.spec
    if keys.get('name', current.get('name')) != current.get('name'):
        current = make(name=keys['name']).spec.keys
    if unknown := keys.keys() - current.keys():
        raise BadInput(f'there is no {min(unknown)} among {", ".join(current)}')
    return make(**current | keys)


def find_module(package: types.ModuleType, what: str, name: str, but=()) -> types.ModuleType:
    """The file called so of a package; a name with dots is a module from anywhere that Python
    finds.  Raises BadInput where there is none, or it fails."""
    known = sorted({m.name for m in pkgutil.iter_modules(package.__path__)} - set(but))
    if '.' in name:
        try:
            module = importlib.import_module(name)
            module.make  # noqa: B018
            return module
        except Exception as e:  # of anybody's program
            raise BadInput(f'{what} {name!r} cannot be imported: {type(e).__name__}: '
                           f'{" ".join(str(e).split())}') from e
    if name not in known:
        raise BadInput(
            f'unknown {what} {name!r}{closest_match(name, known)}; there are {", ".join(known)}, '
            'or a module of your own, as my.module')
    return importlib.import_module(f'{package.__name__}.{name}')


def find_parts(make: Callable) -> dict[str, Any]:
    """The parts that a model's `make` takes, by parameter, with their defaults."""
    return {name: p.default for name, p in inspect.signature(make).parameters.items()
            if hasattr(p.default, 'spec')}


def build_model(make: Callable, *args, groups: dict[str, dict[str, Any]], **hyper) -> Any:
    """make(*args, **own) with the keys of its parts changed as `groups` says."""
    defaults = find_parts(make)
    return make(*args, **hyper, **{name: replace(defaults[name], **keys)
                                   for name, keys in groups.items()})
