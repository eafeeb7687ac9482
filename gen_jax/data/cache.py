"""What is kept on disk between runs: decoded images with their checksums, and compiled programs."""
import contextlib
import math
import os
from pathlib import Path
import tempfile
import warnings
from typing import NamedTuple
import zlib

import jax
import numpy as np

from gen_jax.data import streaming
from gen_jax.types import BadInput

PIECE = 2 ** 23  # bytes that are decoded, or checked, at a time


def folder() -> Path:
    """The user's folder for what is kept between runs."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'gen_jax'


def decoded(dir: str | None) -> Path:
    """The folder for decoded images: `dir`, or that beside the compiled programs."""
    return Path(dir).expanduser() if dir else folder() / 'data'


def keep_compiled() -> None:
    """From here on, compiled programs are kept in the cache, unless JAX_COMPILATION_CACHE_DIR says
    where else."""
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(folder() / 'compiled'))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', .2)
    warnings.filterwarnings('ignore', 'Error writing persistent compilation cache')  # do without


def piece(shape) -> int:
    """How many examples are PIECE, at least one."""
    return max(1, PIECE // math.prod(shape))


class Cache(NamedTuple):
    """A decoded split on disk: its images, labels, and a checksum of each of them together."""
    file: Path
    x: np.ndarray
    label: np.ndarray
    sums: np.ndarray

    def damaged(self, rows: np.ndarray | slice, x: np.ndarray) -> bool:
        return not np.array_equal(checksums(x, self.label[rows]), self.sums[rows])

    def is_complete(self) -> bool:
        """Whether all is as it was written."""
        step = piece(self.x.shape[1:])
        pieces = [slice(i, i + step) for i in range(0, len(self.x), step)]
        return not any(self.damaged(rows, self.x[rows]) for rows in pieces)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These images.  Raises BadInput where they are not what was written."""
        x = self.x[rows]
        if self.damaged(rows, x):
            self.file.unlink(missing_ok=True)
            raise BadInput(f'the cache {self.file} was damaged and has been removed; the same '
                           'command makes it again and goes on')
        return x


def checksums(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The CRC-32 of each example, begun with its label: uint32 (n,)."""
    rows = np.ascontiguousarray(x).reshape(len(x), -1)
    return np.fromiter(map(zlib.crc32, rows, label.astype(np.uint32).tolist()), np.uint32, len(x))


def decode(decoder, title: str, names: list[Path], workers: int) -> None:
    """Writes what a stored.Decoder gives: images, labels and checksums, piece by piece."""
    count, end = len(decoder.source), 0
    print(f'decoding {count:,} images of {title} (once)', flush=True)
    label, sums = np.empty(count, np.int32), np.empty(count, np.uint32)
    with replaced(names[0]) as part:
        np.lib.format.write_array_header_1_0(part, dict(
            descr=decoder.dtype.str, fortran_order=False, shape=(count, *decoder.shape)))
        for images, labels in streaming.ahead(decoder, workers=workers):
            rows = slice(end, end := end + len(labels))
            label[rows], sums[rows] = labels, checksums(images, labels)
            part.write(images.tobytes())
    write(names[1], label)
    write(names[2], sums)


@contextlib.contextmanager
def make_space(files: list[Path], name: str, needed: int, dir: str | None, limit: float):
    """Within, there is room to write these files of the set `name`, which take so many bytes
    together: what else is decoded and was used longest ago is removed until all takes at most
    `limit` megabytes.

    Raises BadInput for files that alone are larger, and where they cannot be written.
    """
    if needed > limit * 1e6:
        raise BadInput(f'{name} takes {needed / 1e6:,.0f} megabytes decoded, more than '
                       f'data.cache_limit={limit:g}; raise that, or give data.cache=False where '
                       'the set is larger than data.memory_limit')
    place = files[0].parent
    try:
        if not place.exists():
            place.mkdir(parents=True, exist_ok=True)
            print(f'decoded images of {name} are kept in {place} (data.cache_dir)', flush=True)
        remove(decoded(dir), limit * 1e6 - needed, files)
        yield
    except OSError as e:
        raise BadInput(f'{place} cannot be written ({e.strerror or e}); make room there, or give '
                       'another directory by --config.data.cache_dir') from e


def remove(folder: Path, limit: float, but: list[Path]) -> None:
    """Removes decoded splits below a folder, those first that were used longest ago, until all
    `but` these files take at most `limit` bytes."""
    splits = {}
    for file in set(folder.rglob('gen_jax-*')) - set(but):
        with contextlib.suppress(FileNotFoundError):  # removed by another process just now
            splits.setdefault(str(file).rpartition('-')[0], []).append((file, file.stat()))
    total = sum(status.st_size for parts in splits.values() for _, status in parts)
    for stem, parts in sorted(splits.items(), key=lambda of: max(t.st_mtime for _, t in of[1])):
        if total <= limit:
            return
        print(f'removing {stem}-*, used longest ago, for data.cache_limit', flush=True)
        for file, status in parts:
            file.unlink(missing_ok=True)
            total -= status.st_size


def used(file: Path) -> None:
    """Marks a file as used now."""
    with contextlib.suppress(OSError):  # of another user, who keeps it
        os.utime(file)


def write(file: Path, array: np.ndarray) -> None:
    """Whole or not at all, also when several processes write at the same time."""
    with replaced(file) as part:
        np.save(part, array, allow_pickle=False)


@contextlib.contextmanager
def replaced(file: Path):
    """A new file beside, which takes the place of `file` once it is written."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f'{file.name}.', suffix='.part',
                                     delete=False) as part:
        try:
            yield part
            part.flush()
            os.chmod(part.name, 0o644)  # a temporary file is its owner's alone
            os.replace(part.name, file)
        except BaseException:
            os.unlink(part.name)
            raise
