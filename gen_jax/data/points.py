"""Points in the plane, drawn anew in each epoch. The modes that a GAN finds can be counted."""
import functools
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.data.source import Mixture, Source
from gen_jax.types import Array, Batch

NAMES = 'ring', 'grid', 'spiral'
TRAIN, TEST = 100_000, 10_000
ANGLES = 2 * np.pi * np.arange(8) / 8


# the two of PacGAN (Lin et al. 2018), as in Srivastava et al. 2017
MIXTURES = dict(
    ring=Mixture(np.float32([np.cos(ANGLES), np.sin(ANGLES)]).T, .01),
    grid=Mixture(np.float32([(a, b) for a in range(-4, 5, 2) for b in range(-4, 5, 2)]), .05))


def draw(name: str, mode: Array, key: Array) -> Array:
    """Points (n, 2) of the modes (n,): of the Gaussians of a mixture, or of the arms of `spiral`.
    """
    keys = jax.random.split(key)
    noise = jax.random.normal(keys[0], (len(mode), 2))
    if name in MIXTURES:
        centres, sigma = MIXTURES[name]
        return jnp.asarray(centres)[mode] + sigma * noise
    turn = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(keys[1], (len(mode), 1)))
    angle = turn + jnp.pi * mode[:, None]
    return turn / 8 * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], 1) + .02 * noise


def points(name: str) -> Source:
    """A split: x and label are the modes int32 (n,), equally many of each, shuffled."""
    modes = len(MIXTURES[name].centres) if name in MIXTURES else 2
    chance = np.random.default_rng(0)
    modes_of_split = [chance.permutation(n).astype(np.int32) % modes for n in (TRAIN, TEST)]
    return Source(*(Batch(mode, mode) for mode in modes_of_split), functools.partial(draw, name),
                  mixture=MIXTURES.get(name))


def ring() -> Source:
    """Points of eight Gaussians on a circle, drawn anew in each epoch."""
    return points('ring')


def grid() -> Source:
    """Points of 25 Gaussians on a grid, drawn anew in each epoch."""
    return points('grid')


def spiral() -> Source:
    """Points on a spiral with two arms, drawn anew in each epoch."""
    return points('spiral')
