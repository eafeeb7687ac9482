"""What the maps of a trained model take: checked before they are used, and said in one line."""
import functools
import numbers
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import losses
from gen_jax.data import text
from gen_jax.train.model_info import ModelInfo
from gen_jax.types import Array, BadInput, Model, State, Tree

ARRAY = jax.Array, np.ndarray
MAPS = 'encode', 'decode', 'prior', 'show', 'classify'
SLACK = .45  # of the range: noise of a tenth of it may leave it, data centred on 0 may not


class Absent:
    """In the place of a map that a model has not: false, and BadInput where it is called."""

    def __init__(self, words: str):
        self.words = words

    def __bool__(self):
        return False

    def __call__(self, *args, **how):
        raise BadInput(self.words)


def checked_model(model: Model, name: str, state: State, x: Array,
                  limits: tuple[int, int] | None) -> Model:
    """The model called `name` with maps that raise BadInput for what they cannot take, and where
    there is none.  x: examples as it takes them; limits: see limits.

    Shapes and types are checked under jit, too; values only where they are known.
    """
    has = ', '.join(m for m in MAPS if getattr(model, m))
    like, x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (state, x))

    def examples():
        return x

    @functools.cache
    def codes():
        if model.encode:
            return jax.eval_shape(model.encode, like, x)
        if model.prior:
            return jax.eval_shape(lambda s: model.prior(s, jax.random.key(0), 1), like)

    def checked(what: str, expected: Callable[[], Tree], limits=None):
        def run(state, given, *more, **how):
            if expected() is not None:
                check(f'{what} of {name}', expected(), given, limits)
            return getattr(model, what)(state, given, *more, **how)
        return run

    def prior(state, key, n):
        if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            raise BadInput(f'prior of {name} takes a key, as jax.random.key(0), not {kind(key)}')
        if not isinstance(n, numbers.Integral) or n < 1:
            raise BadInput(f'prior of {name} takes a number of codes, at least 1, not {n!r}')
        return model.prior(state, key, n)

    maps = dict(encode=checked('encode', examples, limits), decode=checked('decode', codes),
                prior=prior, show=model.show, classify=checked('classify', examples, limits))
    return model._replace(**{
        m: f if getattr(model, m) else Absent(f'model {name} has no {m}, only {has}')
        for m, f in maps.items()})


def limits(known: ModelInfo) -> tuple[int, int] | None:
    """The least and the greatest value of data; None where there is none.  As models have it, see
    losses.in_unit: real numbers all in [0, 1] stay there."""
    if known.text:
        return 0, len(text.ALPHABET) - 1
    return (0, 1) if losses.in_unit_interval(known.example.x) else None


def check(what: str, expected: Tree, given: Any, limits: tuple[int, int] | None) -> None:
    """Raises BadInput where `given` is not like `wanted`, but for the number of examples."""
    leaves, problem = jax.tree.leaves(given), kind(given)
    if jax.tree.structure(given) == jax.tree.structure(expected):
        pairs = zip(jax.tree.leaves(expected), leaves)
        problem = next(filter(None, (wrong(*pair, limits) for pair in pairs)), '')
        if not problem and len({len(leaf) for leaf in leaves}) > 1:
            problem = f'parts of {" and ".join(str(len(leaf)) for leaf in leaves)} examples'
    if problem:
        takes = str(jax.tree.map(lambda a: f'{a.dtype} {("n", *a.shape[1:])}', expected))
        takes = takes.replace("'", '').replace('"', '')
        values = f' of values from {limits[0]} to {limits[1]}' if limits else ''
        raise BadInput(f'{what} takes {takes}{values}, not {problem}')


def wrong(expected: Array, given: Any, limits: tuple[int, int] | None) -> str:
    """What is wrong with an array of examples, and what to do about it; '' for nothing."""
    if not isinstance(given, ARRAY):
        return f'{kind(given)}: give an array'
    if given.shape == expected.shape[1:]:
        return f'one example, {kind(given)}: give it the axis of examples, by [None]'
    if given.shape[1:] != expected.shape[1:]:
        return kind(given)
    real = jnp.issubdtype(expected.dtype, jnp.floating)
    if not jnp.issubdtype(given.dtype, jnp.floating if real else jnp.integer):
        grey = given.dtype == jnp.uint8 and limits == (0, 1)
        remedy = 'divide 0..255 by 255' if grey else f'use .astype("{expected.dtype}")'
        return f'{kind(given)}: {remedy}'
    if limits and given.size and not isinstance(given, jax.core.Tracer):
        least, most = float(given.min()), float(given.max())
        beyond = SLACK * (limits[1] - limits[0]) if real else 0
        if not limits[0] - beyond <= least <= most <= limits[1] + beyond:
            return f'from {least:g} to {most:g}: bring them to that range'
    return ''


def kind(given: Any) -> str:
    """Type and shape of an array, the type of anything else."""
    return f'{given.dtype} {given.shape}' if isinstance(given, ARRAY) else type(given).__name__
