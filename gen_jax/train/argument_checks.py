"""Checks the arguments of a trained model's functions before they run; an error is one line."""
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
SLACK = .45  # of the range: allows noise of a tenth of it, but not data centred on 0


class Absent:
    """Stands for a function that the model does not have: false, and BadInput when called."""

    def __init__(self, words: str):
        self.words = words

    def __bool__(self):
        return False

    def __call__(self, *args, **kwargs):
        raise BadInput(self.words)


def checked_model(model: Model, name: str, state: State, x: Array,
                  limits: tuple[int, int] | None) -> Model:
    """The model `name` with functions that raise BadInput for arguments that do not fit, and for
    functions that it does not have. `x` holds examples as the model takes them; for `limits` see
    the function of this name.

    Shapes and types are checked under jit as well; values only when they are concrete.
    """
    available = ', '.join(m for m in MAPS if getattr(model, m))
    state_shapes, x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (state, x))

    def examples():
        return x

    @functools.cache
    def codes():
        if model.encode:
            return jax.eval_shape(model.encode, state_shapes, x)
        if model.prior:
            return jax.eval_shape(lambda s: model.prior(s, jax.random.key(0), 1), state_shapes)

    def checked(what: str, expected: Callable[[], Tree], limits=None):
        def run(state, given, *args, **kwargs):
            if expected() is not None:
                check(f'{what} of {name}', expected(), given, limits)
            return getattr(model, what)(state, given, *args, **kwargs)
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
        m: f if getattr(model, m) else Absent(f'model {name} has no {m}, only {available}')
        for m, f in maps.items()})


def limits(known: ModelInfo) -> tuple[int, int] | None:
    """The smallest and largest value of the data, or None if there is no limit. Models use the same
    rule, see losses.in_unit_interval: real numbers that all lie in [0, 1] are limited to it.
    """
    if known.text:
        return 0, len(text.ALPHABET) - 1
    return (0, 1) if losses.in_unit_interval(known.example.x) else None


def check(what: str, expected: Tree, given: Any, limits: tuple[int, int] | None) -> None:
    """Raises BadInput if `given` does not have the structure, shapes and types of `expected`; the
    number of examples is free.
    """
    leaves, problem = jax.tree.leaves(given), kind(given)
    if jax.tree.structure(given) == jax.tree.structure(expected):
        pairs = zip(jax.tree.leaves(expected), leaves)
        problem = next(filter(None, (mismatch(*pair, limits) for pair in pairs)), '')
        if not problem and len({len(leaf) for leaf in leaves}) > 1:
            problem = f'parts of {" and ".join(str(len(leaf)) for leaf in leaves)} examples'
    if problem:
        shapes = str(jax.tree.map(lambda a: f'{a.dtype} {("n", *a.shape[1:])}', expected))
        shapes = shapes.replace("'", '').replace('"', '')
        values = f' of values from {limits[0]} to {limits[1]}' if limits else ''
        raise BadInput(f'{what} takes {shapes}{values}, not {problem}')


def mismatch(expected: Array, given: Any, limits: tuple[int, int] | None) -> str:
    """Describes how an array of examples does not fit, and the remedy; '' if it fits."""
    if not isinstance(given, ARRAY):
        return f'{kind(given)}: give an array'
    if given.shape == expected.shape[1:]:
        return f'one example, {kind(given)}: give it the axis of examples, by [None]'
    if given.shape[1:] != expected.shape[1:]:
        return kind(given)
    is_float = jnp.issubdtype(expected.dtype, jnp.floating)
    if not jnp.issubdtype(given.dtype, jnp.floating if is_float else jnp.integer):
        is_pixels = given.dtype == jnp.uint8 and limits == (0, 1)
        remedy = 'divide 0..255 by 255' if is_pixels else f'use .astype("{expected.dtype}")'
        return f'{kind(given)}: {remedy}'
    if limits and given.size and not isinstance(given, jax.core.Tracer):
        least, most = float(given.min()), float(given.max())
        slack = SLACK * (limits[1] - limits[0]) if is_float else 0
        if not limits[0] - slack <= least <= most <= limits[1] + slack:
            return f'from {least:g} to {most:g}: bring them to that range'
    return ''


def kind(given: Any) -> str:
    """The dtype and shape of an array; the name of the type of anything else."""
    return f'{given.dtype} {given.shape}' if isinstance(given, ARRAY) else type(given).__name__
