"""What a data set is before anything is done to it."""
import importlib.util
import inspect
from typing import Callable, NamedTuple

import numpy as np

from gen_jax.types import Array, BadInput, Batch


class Mixture(NamedTuple):
    """Equally likely round Gaussians: centres (m, 2), standard deviation sigma."""
    centres: np.ndarray
    sigma: float


class Source(NamedTuple):
    """train and test: as they are stored; draw: (x, key) -> examples, of a set that is drawn
    whenever it is seen, whose stored x is int32 (n,), a traced function; read and write: characters
    <-> str, of text; factors, mixture: see Dataset; names: what the labels 0, 1, .. are called."""
    train: Batch
    test: Batch
    draw: Callable[[Array, Array], Array] | None = None
    read: Callable[[Array], str] | None = None
    write: Callable[[str], np.ndarray] | None = None
    factors: dict[str, int] | None = None
    mixture: Mixture | None = None
    names: tuple[str, ...] = ()


def outside(name: str) -> Callable | None:
    """`load` of the module called so, by which anybody brings a data set: load(size=0), or load(),
    -> Source or (train, test).  None where there is no such module; BadInput where it has none, or
    fails."""
    words = name.split('.')
    if len(words) < 2 or not all(map(str.isidentifier, words)):
        return None
    try:
        if importlib.util.find_spec(name) is None:
            return None
        load = importlib.import_module(name).load
    except ModuleNotFoundError:
        return None
    except Exception as e:  # of anybody's program
        raise BadInput(f'data set {name!r} cannot be imported: {type(e).__name__}: '
                       f'{" ".join(str(e).split())}') from e
    if 'size' in inspect.signature(load).parameters:
        return load

    def of_one_size(size=0):
        if size:
            raise BadInput(f'{name} has one size; leave out data.size')
        return load()

    return of_one_size
