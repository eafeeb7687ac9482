"""TFDS image sets, decoded once into .npy files that are memory-mapped from then on."""
import contextlib
import difflib
import importlib.util
import os
from pathlib import Path
import tempfile
import warnings

import jax
import numpy as np

from gen_jax.types import BadInput, Batch


def read(name: str, dir: str | None = None, known=()) -> tuple[Batch, Batch]:
    """The train and test Batch of the TFDS set `name`: uint8 images (n, h, w, c), int32 labels.

    `dir` is the TFDS data_dir (default: $TFDS_DATA_DIR, else TFDS' own).  A set that is not there
    is downloaded and prepared, which needs TensorFlow.  Raises BadInput with the remedy.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    import tensorflow_datasets as tfds
    dir = dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    dir = str(Path(dir).expanduser())
    try:
        builder = tfds.builder(name, data_dir=dir, file_format='array_record')
    except (tfds.core.registered.DatasetNotFoundError, ValueError):  # or no name at all
        there = [*known, *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(name, there, 1)
        hint = f', did you mean {near[0]!r}?' if near else ';'
        raise BadInput(f'unknown data set {name!r}{hint} Embedded are {", ".join(known)}; '
                       'every other name is looked up in TFDS') from None
    if not Path(builder.data_dir, 'dataset_info.json').exists():
        prepare(builder, name, dir)
    splits = builder.info.splits
    test = next((s for s in ('test', 'validation') if s in splits), None)
    if 'train' not in splits or test is None:
        raise BadInput(f'{name} has the splits {", ".join(splits)}; a train and a test are needed')
    return cached(builder, 'train'), cached(builder, test)


def prepare(builder, name, dir):
    """Downloads and prepares a set, or says at once what is missing."""
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


def cached(builder, split: str) -> Batch:
    """The decoded split from its cache, which is made first where it is missing or damaged."""
    count = builder.info.splits[split].num_examples
    folder = home(builder)
    names = [folder / f'gen_jax-{split}-{part}.npy' for part in ('image', 'label')]
    for attempt in 'found', 'made':
        try:
            x, label = (np.load(file, mmap_mode='r', allow_pickle=False) for file in names)
            if x.dtype == np.uint8 and x.ndim == 4 and len(x) == len(label) == count:
                return Batch(x, np.asarray(label))
            problem = 'has another shape'
        except FileNotFoundError:
            problem = None
        except (OSError, ValueError, EOFError):
            problem = 'is damaged'
        if attempt == 'made':
            raise BadInput(f'the cache {names[0]} {problem or "vanished"} just after it was '
                           'written; is the disk full?')
        if problem:
            print(f'the cache {names[0].name} in {folder} {problem}; making it again', flush=True)
        for file, array in zip(names, decode(builder, split)):
            write(file, array)


def cache() -> Path:
    """The user's folder for what is kept between runs."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'gen_jax'


def keep_compiled() -> None:
    """From here on, compiled programs are kept in the cache, unless JAX_COMPILATION_CACHE_DIR says
    where else."""
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(cache() / 'compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', .2)
    warnings.filterwarnings('ignore', 'Error writing persistent compilation cache')  # do without


def home(builder) -> Path:
    """Beside the data set where that can be written, else in the user's cache directory."""
    beside = Path(builder.data_dir)
    if beside.stat().st_mode & 0o222 and os.access(beside, os.W_OK):
        return beside
    folder = cache() / builder.info.full_name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def decode(builder, split):
    features = builder.info.features
    image, label = (next((k for k, f in features.items() if type(f).__name__ == kind), None)
                    for kind in ('Image', 'ClassLabel'))
    if image is None or None in features[image].shape or features[image].np_dtype != np.uint8:
        raise BadInput(f'{builder.name} holds no 8-bit images of one size; choose a set that does')
    source = builder.as_data_source(split=split)
    print(f'decoding {len(source):,} images of {builder.name} {split} (once)', flush=True)
    x = np.empty((len(source), *features[image].shape), np.uint8)
    y = np.full(len(source), -1, np.int32)
    for i, example in enumerate(source):
        x[i] = example[image]
        if label:
            y[i] = example[label]
    return x, y


def write(file: Path, array: np.ndarray) -> None:
    """Whole or not at all, also when several processes write at the same time."""
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix='.part', delete=False) as part:
        try:
            np.save(part, array, allow_pickle=False)
            os.chmod(part.name, 0o644)  # a temporary file is its owner's alone
            os.replace(part.name, file)
        except BaseException:
            os.unlink(part.name)
            raise
