"""dSprites (Matthey et al. 2017), drawn on the device: 737,280 binary images with five known
factors.

An image is stored as its index in the grid of factors. Its side has length 1. A sprite of scale 1
extends RADIUS from its centre of mass, which is at its position.
"""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.data.source import Source
from gen_jax.types import Array, BadInput, Batch

GRID = dict(shape=np.arange(3), scale=np.linspace(.5, 1, 6),  # the first changes most slowly
            orientation=np.linspace(0, 2 * np.pi, 40), x=np.linspace(0, 1, 32),
            y=np.linspace(0, 1, 32))
FACTORS = {name: len(values) for name, values in GRID.items()}
SIZES = tuple(FACTORS.values())
RADIUS = 15.3 / 64  # not 15, so that outlines miss the pixels' middles and 2 pi looks just like 0
LOW, SPAN = 16.5 / 64, 31 / 64  # position 0, and 1 from there: 32 pixels' middles at 64 pixels


def square(u, v):
    return jnp.maximum(jnp.abs(u), jnp.abs(v)) <= .5 ** .5


def ellipse(u, v):
    return u * u + 4 * v * v <= 1


def heart(u, v):
    """A square of side 2 a on its corner, and a disc on the middle of each of its upper sides."""
    centre = (np.pi + 4 / 3) / (np.sqrt(2) * (np.pi + 4))  # of mass above that of the square, in a
    a = 1 / (np.sqrt(2) + centre)
    v = v + a * centre
    p, q = (v + jnp.abs(u)) * .5 ** .5, (v - jnp.abs(u)) * .5 ** .5
    return (jnp.maximum(jnp.abs(p), jnp.abs(q)) <= a) | ((p - a) ** 2 + q * q <= a * a)


def picture(shape, scale, orientation, x, y, size: int = 64) -> Array:
    """Binary images float32 (n, size, size, 1) of factors (n,), also for values between those of
    the grid.

    x points to the right and y down, from 0 to 1; the orientation, in radians, is anticlockwise.
    """
    shape, scale, orientation, x, y = (
        jnp.asarray(factor)[:, None, None] for factor in (shape, scale, orientation, x, y))
    axis = (np.arange(size, dtype=np.float32) + .5) / size
    dx, dy = axis - LOW - SPAN * x, LOW + SPAN * y - axis[:, None]
    cos, sin = (f(orientation) / (scale * RADIUS) for f in (jnp.cos, jnp.sin))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    inside = jnp.select([shape == 0, shape == 1], [square(u, v), ellipse(u, v)], heart(u, v))
    return inside[..., None].astype(jnp.float32)


@partial(jax.jit, static_argnames='size')
def draw(index: Array, size: int = 64) -> Array:
    """The binary images float32 (n, size, size, 1) at indices (n,) in the grid."""
    places = jnp.unravel_index(index, SIZES)
    return picture(*(jnp.asarray(g, jnp.float32)[i] for g, i in zip(GRID.values(), places)), size)


def index(values) -> np.ndarray:
    """The indices int32 (n,) in the grid of factor values, integers (n, 5) that count from 0.

    Raises ValueError for a value that is not in the grid.
    """
    return np.ravel_multi_index(np.transpose(values), SIZES).astype(np.int32)


def values(index) -> np.ndarray:
    """The factor values int32 (n, 5) at indices (n,) in the grid, the inverse of `index`."""
    return np.stack(np.unravel_index(index, SIZES), -1).astype(np.int32)


def sprites(size: int = 64) -> Source:
    """dSprites drawn on the device: 737,280 binary images of five known factors (Matthey et al.
    2017).

    x is the index int32 (n,) of an image in the grid of factors; the label is the shape. 10,000
    random images are for testing, all others for training; both are shuffled, so that a part of
    them covers all factors. Raises BadInput for a size in pixels that `draw` does not support.
    """
    if not 8 <= size <= 128:
        raise BadInput(f'data.size of sprites must be between 8 and 128 pixels, not {size}')
    order = np.random.default_rng(0).permutation(np.prod(SIZES)).astype(np.int32)
    test, train = np.split(order, [10_000])
    return Source(*(Batch(x, values(x)[:, 0]) for x in (train, test)),
                  lambda x, key: draw(x, size), factors=dict(FACTORS))
