"""Loads a data set by name as a Dataset: stored arrays, and `prepare`, which runs on the device.

Built in are `digits`, `breast_cancer` and `photos` (scikit-learn), `faces` and `sprites` (drawn),
`ring`, `grid` and `spiral` (points) and `text` (Python's documentation). A name with dots is a
module with a function `load`, see source.outside. Any other name is a TFDS image set. `rows:NAME`
reads images row by row, as sequences (h, w * c). `stacked:NAME` uses three images, combined anew in
each epoch, as the colours of one (Metz et al. 2017).
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.data import streaming, ranges
from gen_jax.data.source import Mixture, Source, outside
from gen_jax.types import Array, BadInput, Batch

BINARIZE = 'none', 'dynamic', 'static'
IMAGES, VECTORS, TEXT = 'images', 'real vectors', 'text'
PLACES = 'what is drawn when seen, binary pictures or points'


class Dataset(NamedTuple):
    """A data set.

    train, test: Batches of stored arrays with labels 0 .. k - 1: uint8, uint16 or float32 for
    images (n, h, w, c), or streaming.Rows if they do not fit into memory; float32 for vectors;
    int32 for characters (n, t) and for the indices (n,) of examples that are drawn on the device.
    prepare: (stored batch, key) -> Batch for the model, with images as float32 in [0, 1] unless
    they are real numbers; a traced function.
    read, write: characters -> str and the inverse, for text.
    factors: name -> number of values, in the order of the grid, indexed as by np.ravel_multi_index.
    mixture: the density of points, if it is known. stacked: whether an example combines three
    stored ones. names: the names of the labels.
    """
    train: Batch
    test: Batch
    prepare: Callable[[Batch, Array], Batch]
    read: Callable[[Array], str] | None = None
    write: Callable[[str], np.ndarray] | None = None
    factors: dict[str, int] | None = None
    mixture: Mixture | None = None
    stacked: bool = False
    names: tuple[str, ...] = ()


def load(name: str, *, dir: str | None = None, binarize: str = 'none', identities=(),
         limit: int = 0, size: int = 0, range: str = '', standardise: bool = False,
         memory_limit: float = 8000., workers: int = 0, cache: bool = True,
         cache_dir: str | None = None, cache_limit: float = 50_000.) -> Dataset:
    """The data set `name`, from the TFDS directory `dir` unless it is built in.

    binarize: `dynamic` samples the bit of each pixel anew in each epoch (Burda et al. 2015),
    `static` only once, both with the grey value as probability. identities: the labels to keep,
    which become 0, 1, ..; empty for all. limit: number of training examples, balanced over the
    labels; 0 for all.
    size: side of the pictures of faces, photos, sprites and of TFDS sets with images of many sizes,
    or characters of a piece of text; 0 for the default. range: the range of the stored numbers, see
    ranges.infer_range; empty to infer it. standardise: subtract the mean and divide by the standard
    deviation of the training split, for each dimension of real numbers. memory_limit: megabytes
    (10^6 bytes) of decoded images of a TFDS split beyond which they are streamed: from a cache on
    disk, or, without `cache`, decoded whenever they are read, by `workers` processes (0: in this
    process).
    cache_dir: directory for decoded images, None for the user's cache. cache_limit: its size in
    megabytes; the sets used longest ago are removed first.

    Raises BadInput for an unknown name or option, for options that do not fit the set, for invalid
    numbers or labels, and for a set that is missing or damaged.
    """
    if binarize not in BINARIZE:
        raise BadInput(f'unknown data.binarize {binarize!r}; choose one of {", ".join(BINARIZE)}')
    kind, _, name = name.rpartition(':')
    if kind not in ('', 'rows', 'stacked'):
        raise BadInput(f'unknown view {kind!r} of {name}; there are rows:{name} and stacked:{name}')
    for key, value in dict(memory_limit=memory_limit, workers=workers,
                           cache_limit=cache_limit).items():
        if value < 0:
            raise BadInput(f'data.{key} must be at least 0, not {value:g}')
    source = read(name, dir, size, limit=memory_limit, workers=workers, cache=cache,
                  cache_dir=cache_dir, cache_limit=cache_limit)
    called = source.names
    train, test, meaning = ranges.infer_range(source.train, source.test, name, range)
    for key, asked in {'data.identities': identities, 'data.standardise': standardise,
                       'data.binarize=static': binarize == 'static'}.items():
        for batch in (train, test) if asked else ():
            require_fit(batch, len(batch.x), key, name, memory_limit)
    require_fit(train, limit, 'data.limit', name, memory_limit)
    if identities:
        train, test = (keep_identities(b, identities, name) for b in (train, test))
        names = tuple(called[i] if called else str(i) for i in identities)
    else:
        train, test, names = ranges.number_labels(train, test, name, called)
    if standardise and meaning not in ('unit', 'real'):
        raise BadInput(f'data.standardise is for real numbers, but those of {name} are '
                       f'{meaning or "symbols"}')
    if standardise:
        (train, test), meaning = ranges.standardise(train, test), 'real'
    elif meaning == 'real':
        ranges.warn_of_size(train.x, name)
    train, test = (ranges.as_stored(b, meaning) for b in (train, test))
    kind_of_data = dataset_of(train.x)
    if limit:
        train, test = limit_examples(train, test, limit, name, names)
    if kind_of_data != IMAGES and (kind or binarize != 'none'):
        raise BadInput(f'{f"{kind}:" if kind else f"data.binarize={binarize}"} needs images, but '
                       f'{name} holds {kind_of_data}')
    if meaning == 'real' and binarize != 'none':
        raise BadInput(f'data.binarize={binarize} needs images in [0, 1], but those of {name} are '
                       'real numbers; say what they are by --config.data.range')
    if kind == 'stacked':
        if train.x.shape[-1] != 1:
            raise BadInput(f'stacked: needs grey images, which {name} does not hold')
        train, test = (Batch(b.x) for b in (train, test))
    if binarize == 'static':
        train, test = (b._replace(x=binarize_with_noise(b.x, seed, ranges.FULL[meaning]))
                       for seed, b in enumerate((train, test)))
        meaning = '8bit'

    def prepare(batch: Batch, key: Array) -> Batch:
        if source.draw:
            return batch._replace(x=source.draw(batch.x, key))
        if kind == 'stacked':
            batch = Batch(stacked(batch.x, jax.random.fold_in(key, 1)))
        if kind_of_data == TEXT:
            return batch
        x, swapped = jax.tree.map(lambda a: ranges.scale(a, meaning), (batch.x, batch.swapped))
        if binarize == 'dynamic':
            x = jax.random.bernoulli(key, x).astype(jnp.float32)
        if kind == 'rows':
            x = x.reshape(*x.shape[:2], -1)
        return batch._replace(x=x, swapped=swapped)

    return Dataset(train, test, prepare, source.read, source.write, source.factors, source.mixture,
                   kind == 'stacked', names)


def stacked(x: Array, key: Array) -> Array:
    """Colour images (n, h, w, 3) from grey ones (n, h, w, 1): the first colour is the image itself,
    the other two are random images of the batch.
    """
    more = [jax.random.permutation(k, x) for k in jax.random.split(key)]
    return jnp.concatenate([x, *more], -1)


def dataset_of(x) -> str:
    """The kind of the stored examples x: images, vectors, text, or indices."""
    if x.dtype == np.int32:
        return PLACES if x.ndim == 1 else TEXT
    return VECTORS if x.dtype == np.float32 and x.ndim != 4 else IMAGES


def read(name, dir, size, **how) -> Source:
    """The data set as it is stored."""
    from gen_jax.data import builtin, tfds_sets
    source = builtin.SETS.get(name) or builtin.SIZED.get(name) or outside(name)
    if size and name in builtin.SETS:
        raise BadInput(f'{name} has one size; data.size is for {", ".join(sorted(builtin.SIZED))}')
    if source:
        loaded = source(size) if size else source()
        return loaded if isinstance(loaded, Source) else Source(*loaded)
    return tfds_sets.read(name, dir, sorted(builtin.SETS | builtin.SIZED),
                          tfds_sets.ReadOptions(size, **how))


def require_fit(batch: Batch, count: int, key: str, name: str, memory_limit: float) -> None:
    """Raises BadInput if option `key` would load more than memory_limit of a streamed set."""
    size = count * np.prod(batch.x.shape[1:], dtype=float) * batch.x.dtype.itemsize / 1e6
    if streaming.streamed(batch) and size > memory_limit:
        raise BadInput(f'{key} takes {name} into memory, {size:,.0f} megabytes, more than '
                       f'data.memory_limit={memory_limit:g}; raise that, or leave it out')


def keep_identities(batch: Batch, identities, name: str) -> Batch:
    """The examples with these labels, which become 0, 1, .. in this order."""
    there = [] if batch.label is None else np.unique(batch.label).tolist()
    if missing := [i for i in identities if i not in there]:
        raise BadInput(f'data.identities: {name} has no label {missing[0]!r}; there are '
                       f'{", ".join(map(str, there)) or "none"}')
    if len(set(identities)) < len(identities):
        raise BadInput(f'data.identities names a label twice: {tuple(identities)}')
    order = np.asarray(identities)
    rows = np.flatnonzero(np.isin(batch.label, order))
    label = (batch.label[rows][:, None] == order).argmax(1).astype(np.int32)
    swapped = None if batch.swapped is None else batch.swapped[rows][:, order]
    return Batch(batch.x[rows], label, swapped)


def balanced(batch: Batch, limit: int, name: str) -> Batch:
    """The first `limit` examples, taken from the labels in turn."""
    if not 0 < limit <= len(batch.x):
        raise BadInput(f'data.limit must be between 1 and the {len(batch.x)} training examples of '
                       f'{name}, or 0 for all, not {limit}')
    turn = np.zeros(len(batch.x), int)
    for label in () if batch.label is None else np.unique(batch.label):
        turn[batch.label == label] = np.arange((batch.label == label).sum())
    rows = np.sort(np.argsort(turn, kind='stable')[:limit])
    return jax.tree.map(lambda a: a[rows], batch)


def limit_examples(train: Batch, test: Batch, limit: int, name: str, names) -> tuple[Batch, Batch]:
    """Limits the training examples, see `balanced`. Removes the labels of both splits if a label
    has no training example left.
    """
    train = balanced(train, limit, name)
    lost = np.setdiff1d(np.arange(len(names)), train.label) if names else ()
    if not len(lost):
        return train, test
    print(f'data.limit={limit} leaves label {", ".join(names[i] for i in lost[:20])} of {name} '
          'without a training example, so no labels are used')
    return train._replace(label=None), test._replace(label=None)


def binarize_with_noise(x: np.ndarray, seed: int, full: int = 255) -> np.ndarray:
    """Images of 0 and 255 from grey images: 255 with probability grey / full."""
    chance = np.random.default_rng(seed)

    def draw(shape):
        if x.dtype.kind == 'f':
            return full * chance.random(shape)
        return chance.integers(0, full, shape)

    bits = [draw(part.shape) < part for part in np.array_split(x, 64)]
    return np.concatenate(bits).astype(np.uint8) * 255
