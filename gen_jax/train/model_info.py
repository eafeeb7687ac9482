"""What a run keeps of its data, so that its model can be made again without them."""
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
SEEN = 1024


class ModelInfo(NamedTuple):
    """What a model is made for: example, SEEN training examples as models see them, and one more of
    every label that is not among them; test: one of the test split; train_size, test_size: how many
    there are; names: what the labels are called; text: whether examples are characters."""
    example: Batch
    test: Batch
    train_size: int
    test_size: int
    names: tuple[str, ...] = ()
    text: bool = False


class LazyDataset:
    """A Dataset that is read when more is asked of it than what is known."""

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
    """The example of Known."""
    rows = np.arange(min(SEEN, len(dataset.train.x)))
    if dataset.train.label is not None:
        first = np.unique(dataset.train.label, return_index=True)[1]
        rows = np.concatenate([rows, np.setdiff1d(first, rows)])
    batch = jax.tree.map(lambda a: a[rows], dataset.train)
    return jax.tree.map(jnp.asarray, dataset.prepare(batch, key))


def test_examples(dataset: data.Dataset, n: int, key: Array) -> Batch:
    """The first n test examples, prepared."""
    batch = jax.tree.map(lambda a: jnp.asarray(a[:n]), dataset.test)
    return dataset.prepare(batch, key)


def model_info(dataset: data.Dataset, key: Array) -> ModelInfo:
    return ModelInfo(example_batch(dataset, key), test_examples(dataset, 1, key),
                     len(dataset.train.x), len(dataset.test.x), dataset.names, dataset.read
                     is not None)


def save(workdir: Path, info: ModelInfo) -> None:
    """Writes it, as a whole or not at all; nothing where it is kept already."""
    if (workdir / FILE).exists():
        return
    arrays = {f'{split}_{name}': small(np.asarray(a)) for split in ('example', 'test')
              for name, a in getattr(info, split)._asdict().items() if a is not None}
    about = dict(train_size=info.train_size, test_size=info.test_size, names=info.names,
                 text=info.text)
    part = workdir / f'{FILE}.part'
    with part.open('wb') as out:
        np.savez_compressed(out, about=json.dumps(about), **arrays)
    os.replace(part, workdir / FILE)


def small(x: np.ndarray) -> np.ndarray:
    """Grey values from 0 to 1 as uint8, where these say the same to the last bit."""
    if x.dtype != np.float32 or x.size == 0 or x.min() < 0 or x.max() > 1:
        return x
    grey = np.round(x * 255).astype(np.uint8)
    return grey if np.array_equal(large(grey), x) else x


def large(x: np.ndarray) -> np.ndarray:
    return np.asarray(jnp.float32(x) / 255) if x.dtype == np.uint8 else x


def load(workdir: Path) -> ModelInfo | None:
    """What is kept there; None where nothing is, or where it is damaged, which is said."""
    if not (workdir / FILE).exists():
        return None
    try:
        with np.load(workdir / FILE, allow_pickle=False) as file:
            about = json.loads(str(file['about']))
            batches = {split: Batch(**{name: jnp.asarray(large(file[f'{split}_{name}']))
                                       for name in Batch._fields if f'{split}_{name}' in file})
                       for split in ('example', 'test')}
        return ModelInfo(**batches, **about | dict(names=tuple(about['names'])))
    except Exception as e:  # zipfile, zlib, numpy and json have errors of their own
        print(f'{workdir / FILE} cannot be read ({type(e).__name__}), so the data are')
        return None
