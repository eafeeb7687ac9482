"""TFDS image sets, decoded once into .npy files in the cache and memory-mapped afterwards.

Nothing is written into the directory of the set, which may be shared or read-only.
"""
import contextlib
import difflib
import importlib.util
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gen_jax.data import cache, builtin, tfds_files, streaming
from gen_jax.data.source import Source
from gen_jax.types import BadInput, Batch


class ReadOptions(NamedTuple):
    """size: side to which images of many sizes are resized, 0 if they have one size; limit:
    megabytes that a split may take in memory; workers: processes that decode; cache: whether a
    larger split is decoded once, to disk, instead of whenever it is read; cache_dir: directory for
    decoded splits, None for the user's cache; cache_limit: megabytes that they may take.
    """
    size: int = 0
    limit: float = math.inf
    workers: int = 0
    cache: bool = True
    cache_dir: str | None = None
    cache_limit: float = math.inf

    def streams(self, builder, split: str) -> bool:
        """Whether a split is larger than the limit."""
        shape, dtype = described(builder, self.size)[2:]
        size = builder.info.splits[split].num_examples * math.prod(shape) * dtype.itemsize
        return size > self.limit * 1e6

    def keeps(self, builder, split: str) -> bool:
        """Whether a split is decoded to disk."""
        return self.cache or not self.streams(builder, split)


IN_MEMORY = ReadOptions()


def read(name: str, dir: str | None = None, known=(),
         how: ReadOptions = IN_MEMORY) -> Source:
    """The train and test Batch of the TFDS set `name`: images (n, h, w, c) as uint8, uint16 or
    float32, and int32 labels, -1 for none; and the names of the labels.

    `dir` is the TFDS data_dir (default: $TFDS_DATA_DIR, else that of TFDS), which may be in a
    bucket, gs://... A missing set is downloaded and prepared, which needs TensorFlow. The images of
    a split larger than how.limit are streaming.Rows. Raises BadInput with the remedy.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    from etils import epath
    import tensorflow_datasets as tfds
    dir = dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    dir = os.fspath(epath.Path(dir).expanduser())
    try:
        builder = tfds_files.builder(name, dir)
    except BadInput:
        raise
    except (tfds.core.registered.DatasetNotFoundError, ValueError):  # or no name at all
        there = [*known, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, there, 1)
        hint = f', did you mean {close[0]!r}?' if close else ';'
        raise BadInput(f'unknown data set {name!r}{hint} Embedded are {", ".join(known)}; '
                       'every other name is looked up in TFDS') from None
    except (ImportError, OSError) as e:
        hint = 'for gs:// install gcsfs, for s3:// s3fs' if tfds_files.remote(dir) else \
            'give another by --config.data.dir or TFDS_DATA_DIR'
        raise BadInput(f'{dir} cannot be read ({" ".join(str(e).split())}); {hint}') from None
    label, _, dtype = described(builder, how.size)[1:]
    if dtype == np.uint16 and importlib.util.find_spec('cv2') is None:
        raise BadInput(f'{name} holds 16-bit images, which TFDS reads by OpenCV alone: run pip '
                       'install opencv-python-headless')
    if not epath.Path(builder.data_dir, 'dataset_info.json').exists():
        prepare(builder, name, dir)
    splits = builder.info.splits
    test = next((s for s in ('test', 'validation') if s in splits), None)
    if 'train' not in splits or test is None:
        raise BadInput(f'{name} has the splits {", ".join(splits)}; a train and a test are needed')
    label = label and builder.info.features[label]
    names = tuple(label.names) if label and label.num_classes else ()
    return Source(examples(builder, 'train', how, test), examples(builder, test, how, 'train'),
                  names=names)


def described(builder, size: int = 0) -> tuple[str, str | None, tuple[int, ...], np.dtype]:
    """The names of the image and label features (None for no label), and the shape and type of an
    image.

    Raises BadInput if there are no images of one size, and none that can be resized to `size`.
    """
    features = builder.info.features
    image, label = (next((k for k, f in features.items() if type(f).__name__ == kind), None)
                    for kind in ('Image', 'ClassLabel'))
    if image is None:
        raise BadInput(f'{builder.name} holds no images; choose a set that does')
    shape, dtype = tuple(features[image].shape), np.dtype(features[image].np_dtype)
    if size and None not in shape:
        raise BadInput(f'{builder.name} has one size; data.size is for '
                       f'{", ".join(sorted(builtin.SIZED))} and images of many sizes')
    if None in shape and dtype != np.uint8:
        raise BadInput(f'the images of {builder.name} have many sizes; only 8-bit ones can be '
                       f'brought to one, not {dtype}; choose another set')
    if None in shape and size < 1:
        raise BadInput(f'the images of {builder.name} have many sizes; give the one to which they '
                       'are to be brought, by --config.data.size=64')
    return image, label, (size, size, shape[-1]) if size else shape, dtype


def prepare(builder, name, dir):
    """Downloads and prepares a set; raises at once if something is missing for that."""
    if importlib.util.find_spec('tensorflow') is None:
        raise BadInput(f'{name} is not prepared in {dir}, and preparing it needs TensorFlow: run '
                       "pip install '.[prepare]' here and then this command again, or give a "
                       'directory that holds it by --config.data.dir or TFDS_DATA_DIR')
    import tensorflow_datasets as tfds
    tfds.core.download.downloader.MAX_RETRIES = 0  # its ten retries wait for minutes
    print(f'preparing {name} in {dir} (once)', flush=True)
    try:
        with quiet():
            builder.download_and_prepare()
    except Exception as e:  # TFDS and its HTTP library raise types of their own
        files = ', '.join(sorted({Path(url).name for url in builder.url_infos})) or 'its files'
        raise BadInput(f'{name} could not be prepared ({type(e).__name__}); without a network, put '
                       f'{files} into {dir}/downloads/manual and run this command again') from e


@contextlib.contextmanager
def quiet():
    with open(os.devnull, 'w') as null, contextlib.redirect_stderr(null), \
            contextlib.redirect_stdout(null):
        yield


class Decoder:
    """Row numbers -> decoded examples of a split: images (n, h, w, c), or (n, 0) if `images` is
    false, and labels (n,), -1 for none.
    """

    def __init__(self, builder, split: str, size: int = 0, images: bool = True):
        self.image, self.label, shape, self.dtype = described(builder, size)
        self.size, self.shape, self.piece = size, shape if images else (0,), cache.piece(shape)
        self.name = builder.name
        skipped = {}
        if not images:
            import tensorflow_datasets as tfds
            skipped = dict(decoders={self.image: tfds.decode.SkipDecoding()})
        self.source = tfds_files.Records(builder, split, **skipped)

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = np.empty((len(rows), *self.shape), self.dtype)
        label = np.full(len(rows), -1, np.int32)
        for i, example in enumerate(self.source.__getitems__(rows.tolist())):
            if x.size:
                image = example[self.image]
                image = center_crop(image, self.size) if self.size else image
                if image.shape != self.shape:
                    raise BadInput(f'{self.name} holds an image of shape {image.shape}, but by its '
                                   f'features.json {self.shape}; prepare the set again')
                x[i] = image
            if self.label:
                label[i] = example[self.label]
        return x, label

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self(rows)[0]

    def __len__(self):
        """The number of pieces that are decoded one by one."""
        return -(-len(self.source) // self.piece)

    def __getitem__(self, i):
        return self(np.arange(i * self.piece, min((i + 1) * self.piece, len(self.source))))


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The largest central square of an image, resized to this size, bicubic."""
    from PIL import Image
    h, w, c = image.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = image[top:top + side, left:left + side]
    square = Image.fromarray(square[..., 0] if c == 1 else square)
    return np.asarray(square.resize((size, size))).reshape(size, size, c)


def examples(builder, split: str, how: ReadOptions, other: str) -> Batch:
    """A split, read as `how` says; `other`: the other split of the set."""
    if how.keeps(builder, split):
        return cached(builder, split, how, [other] * how.keeps(builder, other))
    decoder = Decoder(builder, split, how.size)
    labels = streaming.ahead(Decoder(builder, split, how.size, images=False), workers=how.workers)
    rows = np.arange(builder.info.splits[split].num_examples)
    return Batch(streaming.Rows(decoder.images, decoder.shape, rows, how.workers, decoder.dtype),
                 np.concatenate([label for _, label in labels]))


def cached(builder, split: str, how: ReadOptions = IN_MEMORY, others=()) -> Batch:
    """The decoded split from its cache, which is first written if it is missing or damaged. Space
    is made without removing `others`.
    """
    count = builder.info.splits[split].num_examples
    shape, dtype = described(builder, how.size)[2:]
    names, large = home(builder, split, how), how.streams(builder, split)
    for attempt in 'found', 'made':
        try:
            x, label, sums = (np.load(file, mmap_mode='r', allow_pickle=False) for file in names)
            right = x.shape == (count, *shape) and label.shape == sums.shape == (count,)
            if right and (x.dtype, label.dtype, sums.dtype) == (dtype, np.int32, np.uint32):
                cache.used(names[0])
                copy = cache.Cache(names[0], x, np.asarray(label), np.asarray(sums))
                if large:  # each example is checked when it is read
                    rows = streaming.Rows(copy.read, shape, np.arange(count), dtype=dtype)
                    return Batch(rows, copy.label)
                if copy.is_complete():
                    return Batch(x, copy.label)
                problem = 'is damaged'
            else:
                problem = 'has another shape'
        except FileNotFoundError:
            problem = None
        except Exception:  # what numpy makes of a damaged header
            problem = 'is damaged'
        if attempt == 'made':
            raise BadInput(f'the cache {names[0]} {problem or "vanished"} just after it was '
                           'written; is the disk full?')
        if problem:
            print(f'the cache {names[0].name} in {names[0].parent} {problem}; making it again',
                  flush=True)
        decoder, kept = Decoder(builder, split, how.size), [split, *others]
        size = math.prod(shape) * dtype.itemsize + 8
        needed = size * sum(builder.info.splits[s].num_examples for s in kept)
        kept = [file for s in kept for file in home(builder, s, how)]
        with cache.make_space(kept, builder.name, needed, how.cache_dir, how.cache_limit):
            cache.decode(decoder, f'{builder.name} {split}', names, how.workers)


def home(builder, split: str, how: ReadOptions) -> list[Path]:
    """The files of a decoded split: images, labels and checksums."""
    folder = cache.decoded(how.cache_dir) / builder.info.full_name
    stem = f'gen_jax-{split}-{how.size}' if how.size else f'gen_jax-{split}'
    digits = tfds_files.identity(builder, split)
    return [folder / f'{stem}-{digits}-{part}.npy' for part in ('image', 'label', 'sum')]
