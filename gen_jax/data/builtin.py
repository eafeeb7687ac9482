"""Data sets that need no download: those of scikit-learn, and those that gen_jax generates."""

import numpy as np

from gen_jax.data import points, text, ranges
from gen_jax.data.faces import faces
from gen_jax.data.source import Source
from gen_jax.data.sprites import sprites
from gen_jax.types import BadInput, Batch

BAND = 128  # columns of a photograph; of five bands, every photograph's second is for testing


def digits():
    """1,797 handwritten digits, 8x8 pixels, 17 grey levels; every fifth is in the test split."""
    from sklearn.datasets import load_digits
    x, label = load_digits(return_X_y=True)
    return split(np.round(x * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), label)


def breast_cancer():
    """569 tumours with 30 measurements, standardised by the training split: real vectors; every
    fifth is in the test split.
    """
    from sklearn.datasets import load_breast_cancer
    x, label = load_breast_cancer(return_X_y=True)
    return ranges.standardise(*split(x, label))


def photos(size: int = 32):
    """8,000 training and 1,000 test crops of two colour photographs of 427x640 pixels (label 0 is a
    temple in China, label 1 a flower). The test crops come from a vertical band that no training
    crop touches.
    """
    from sklearn.datasets import load_sample_images
    if not 4 <= size <= BAND:
        raise BadInput(f'data.size of photos must be between 4 and {BAND} pixels, not {size}')
    images = load_sample_images().images
    chance = np.random.default_rng(0)

    def crops(count, bands):
        label = np.arange(count, dtype=np.int32) % len(images)
        band = chance.choice(bands, count) * BAND
        left = band + chance.integers(0, BAND - size + 1, count)
        top = chance.integers(0, images[0].shape[0] - size + 1, count)
        return Batch(np.stack([images[i][t:t + size, k:k + size]
                               for i, t, k in zip(label, top, left)]), label)

    return crops(8000, [0, 2, 3, 4]), crops(1000, [1])


def prose(size: int = 32):
    """Pieces of Python's documentation with `size` characters, see text.text_set."""
    return Source(*text.text_set(size), read=text.text, write=lambda s: text.ids(s, size))


def split(x, label):
    test = np.arange(len(x)) % 5 == 4
    label = label.astype(np.int32)
    return Batch(x[~test], label[~test]), Batch(x[test], label[test])


def cartoon_faces(size: int = 64):
    """Drawn faces of four identities with known expression and pose, for face swapping."""
    return faces(size=size)


SETS = dict(digits=digits, breast_cancer=breast_cancer,
            ring=points.ring, grid=points.grid, spiral=points.spiral)
SIZED = dict(photos=photos, faces=cartoon_faces, sprites=sprites, text=prose)
