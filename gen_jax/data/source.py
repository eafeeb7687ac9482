"""A data set before options are applied."""
import importlib.util
import inspect
from typing import Callable, NamedTuple

import numpy as np

from gen_jax.types import Array, BadInput, Batch


class Mixture(NamedTuple):
    """Round Gaussians of equal weight: centres (m, 2), standard deviation sigma."""
    centres: np.ndarray
    sigma: float


class Source(NamedTuple):
    """A data set as it is stored.

    train, test: stored Batches. draw: (x, key) -> examples, a traced function, for sets that are
    drawn on the device; their stored x is int32 (n,). read, write: characters -> str and the
    inverse, for text. factors, mixture: see Dataset. names: the names of the labels 0, 1, ..
    """
    train: Batch
    test: Batch
    draw: Callable[[Array, Array], Array] | None = None
    read: Callable[[Array], str] | None = None
    write: Callable[[str], np.ndarray] | None = None
    factors: dict[str, int] | None = None
    mixture: Mixture | None = None
    names: tuple[str, ...] = ()


def outside(name: str) -> Callable | None:
    """The function `load` of the module with this name, for data sets of your own: load(size=0) or
    load() returns a Source or (train, test).

    None if there is no such module. Raises BadInput if the module fails or has no `load`.
    """
    words = name.split('.')
    if len(words) < 2 or not all(map(str.isidentifier, words)):
        return None
    try:
        if importlib.util.find_spec(name) is None:
            return None
        load = importlib.import_module(name).load
    except ModuleNotFoundError:
        return None
    except Exception as e:  # from any user's program
        raise BadInput(f'data set {name!r} cannot be imported: {type(e).__name__}: '
                       f'{" ".join(str(e).split())}') from e
    if 'size' in inspect.signature(load).parameters:
        return load

    def of_one_size(size=0):
        if size:
            raise BadInput(f'{name} has one size; leave out data.size')
        return load()

    return of_one_size
