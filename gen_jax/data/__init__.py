"""name -> a Dataset: arrays as they are stored, and `prepare`, what is done to them on the device.

`digits` and `breast_cancer` are embedded (scikit-learn's); any other name is a TFDS image set.
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.types import Array, BadInput, Batch

BINARIZE = 'none', 'dynamic', 'static'


class Dataset(NamedTuple):
    """train and test: Batches of stored arrays, uint8 for images (n, h, w, c), float32 for vectors;
    prepare: (stored batch, key) -> Batch of float32 as models see it, a traced function."""
    train: Batch
    test: Batch
    prepare: Callable[[Batch, Array], Batch]


def load(name: str, *, dir: str | None = None, binarize: str = 'none') -> Dataset:
    """The data set `name`, from the TFDS directory `dir` unless it is embedded.

    binarize: `dynamic` draws each pixel's bit anew whenever it is seen (Burda et al. 2015),
    `static` once and for all, both with the grey value as probability.  Raises BadInput for an
    unknown name or option, for a set that holds no images of one size, or where it is not at hand.
    """
    if binarize not in BINARIZE:
        raise BadInput(f'unknown data.binarize {binarize!r}; choose one of {", ".join(BINARIZE)}')
    from gen_jax.data import embedded, stored
    source = embedded.SETS.get(name)
    train, test = source() if source else stored.read(name, dir, known=sorted(embedded.SETS))
    grey = train.x.dtype == np.uint8
    if binarize != 'none' and not grey:
        raise BadInput(f'data.binarize={binarize} needs images, but {name} holds real vectors')
    if binarize == 'static':
        train, test = (b._replace(x=coin_flips(b.x, seed)) for seed, b in enumerate((train, test)))

    def prepare(batch: Batch, key: Array) -> Batch:
        x = batch.x.astype(jnp.float32) / (255 if grey else 1)
        if binarize == 'dynamic':
            x = jax.random.bernoulli(key, x).astype(jnp.float32)
        return batch._replace(x=x)

    return Dataset(train, test, prepare)


def coin_flips(x: np.ndarray, seed: int) -> np.ndarray:
    """Grey images (uint8) to images of 0 and 255, 255 with probability grey / 255."""
    chance = np.random.default_rng(seed)
    bits = [chance.integers(0, 255, part.shape) < part for part in np.array_split(x, 64)]
    return np.concatenate(bits).astype(np.uint8) * 255
