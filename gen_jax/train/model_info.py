"""What a run stores about its data, so that its model can be built without them."""
import json
import os
from pathlib import Path
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import data
from gen_jax.types import Array, Batch

FILE = 'example.npz'
NUM_EXAMPLES = 1024


class ModelInfo(NamedTuple):
    """What a model is built for.

    `example` holds up to NUM_EXAMPLES training examples as the model takes them, and one more of
    every label that they lack. `test` is one test example. `train_size` and `test_size` count the
    examples of each split, `names` are the names of the labels, and `text` says whether examples
    are characters.
    """
    example: Batch
    test: Batch
    train_size: int
    test_size: int
    names: tuple[str, ...] = ()
    text: bool = False


class LazyDataset:
    """A Dataset that is loaded at the first access to anything that ModelInfo does not hold."""

    def __init__(self, model_info: ModelInfo, load: Callable[[], data.Dataset]):
        self.names, self._load, self._dataset_read = model_info.names, load, None
        self.read = (lambda x: self._dataset().read(x)) if model_info.text else None

    def _dataset(self) -> data.Dataset:
        if self._dataset_read is None:
            self._dataset_read = self._load()
        return self._dataset_read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset(), name)


def example_batch(dataset: data.Dataset, key: Array) -> Batch:
    """The `example` of ModelInfo."""
    rows = np.arange(min(NUM_EXAMPLES, len(dataset.train.x)))
    if dataset.train.label is not None:
        first = np.unique(dataset.train.label, return_index=True)[1]
        rows = np.concatenate([rows, np.setdiff1d(first, rows)])
    batch = jax.tree.map(lambda a: a[rows], dataset.train)
    return jax.tree.map(jnp.asarray, dataset.prepare(batch, key))


def test_examples(dataset: data.Dataset, n: int, key: Array) -> Batch:
    """The first n test examples, prepared for the model."""
    batch = jax.tree.map(lambda a: jnp.asarray(a[:n]), dataset.test)
    return dataset.prepare(batch, key)


def model_info(dataset: data.Dataset, key: Array) -> ModelInfo:
    return ModelInfo(example_batch(dataset, key), test_examples(dataset, 1, key),
                     len(dataset.train.x), len(dataset.test.x), dataset.names,
                     dataset.read is not None)


def save(workdir: Path, info: ModelInfo) -> None:
    """Writes the file atomically; does nothing if it exists."""
    if (workdir / FILE).exists():
        return
    arrays = {f'{split}_{name}': small(np.asarray(a)) for split in ('example', 'test')
              for name, a in getattr(info, split)._asdict().items() if a is not None}
    metadata = dict(train_size=info.train_size, test_size=info.test_size, names=info.names,
                    text=info.text)
    temporary = workdir / f'{FILE}.part'
    with temporary.open('wb') as out:
        np.savez_compressed(out, about=json.dumps(metadata), **arrays)
    os.replace(temporary, workdir / FILE)


def small(x: np.ndarray) -> np.ndarray:
    """Converts grey values in [0, 1] to uint8 if this is exact to the last bit; else returns x."""
    if x.dtype != np.float32 or x.size == 0 or x.min() < 0 or x.max() > 1:
        return x
    grey = np.round(x * 255).astype(np.uint8)
    return grey if np.array_equal(large(grey), x) else x


def large(x: np.ndarray) -> np.ndarray:
    return np.asarray(jnp.float32(x) / 255) if x.dtype == np.uint8 else x


def load(workdir: Path) -> ModelInfo | None:
    """The stored ModelInfo; None if there is none, or if it is damaged. Prints a message if
    damaged.
    """
    if not (workdir / FILE).exists():
        return None
    try:
        with np.load(workdir / FILE, allow_pickle=False) as file:
            metadata = json.loads(str(file['about']))
            batches = {split: Batch(**{name: jnp.asarray(large(file[f'{split}_{name}']))
                                       for name in Batch._fields if f'{split}_{name}' in file})
                       for split in ('example', 'test')}
        return ModelInfo(**batches, **metadata | dict(names=tuple(metadata['names'])))
    except Exception as e:  # zipfile, zlib, numpy and json raise errors of their own types
        print(f'{workdir / FILE} cannot be read ({type(e).__name__}), so the data are')
        return None
