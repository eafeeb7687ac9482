"""What stays on disk between runs: decoded images with checksums, and compiled programs."""
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
    """The user's cache directory of gen_jax."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'gen_jax'


def decoded(dir: str | None) -> Path:
    """The directory for decoded images: `dir`, or the default beside the compiled programs."""
    return Path(dir).expanduser() if dir else folder() / 'data'


def keep_compiled() -> None:
    """Stores compiled programs in the cache from now on; JAX_COMPILATION_CACHE_DIR overrides the
    place.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(folder() / 'compiled'))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', .2)
    warnings.filterwarnings('ignore', 'Error writing persistent compilation cache')  # not fatal


def piece(shape) -> int:
    """The number of examples in PIECE bytes, at least one."""
    return max(1, PIECE // math.prod(shape))


class Cache(NamedTuple):
    """A decoded split on disk: images, labels, and one checksum for each image with its label."""
    file: Path
    x: np.ndarray
    label: np.ndarray
    sums: np.ndarray

    def damaged(self, rows: np.ndarray | slice, x: np.ndarray) -> bool:
        return not np.array_equal(checksums(x, self.label[rows]), self.sums[rows])

    def is_complete(self) -> bool:
        """Whether all images and labels match their checksums."""
        step = piece(self.x.shape[1:])
        pieces = [slice(i, i + step) for i in range(0, len(self.x), step)]
        return not any(self.damaged(rows, self.x[rows]) for rows in pieces)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of these rows. Raises BadInput if they do not match their checksums."""
        x = self.x[rows]
        if self.damaged(rows, x):
            self.file.unlink(missing_ok=True)
            raise BadInput(f'the cache {self.file} was damaged and has been removed; the same '
                           'command makes it again and goes on')
        return x


def checksums(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The CRC-32 of each example, initialised with its label: uint32 (n,)."""
    rows = np.ascontiguousarray(x).reshape(len(x), -1)
    return np.fromiter(map(zlib.crc32, rows, label.astype(np.uint32).tolist()), np.uint32, len(x))


def decode(decoder, title: str, names: list[Path], workers: int) -> None:
    """Writes the images, labels and checksums of a tfds_files.Decoder, piece by piece."""
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
    """A context in which there is space to write these files of the set `name`, `needed` bytes in
    all. Removes the decoded sets used longest ago until everything takes at most `limit` megabytes.

    Raises BadInput if these files alone are larger, or if they cannot be written.
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
    """Removes decoded splits below a folder, those used longest ago first, until all except the
    files `but` take at most `limit` bytes.
    """
    splits = {}
    for file in set(folder.rglob('gen_jax-*')) - set(but):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
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
    with contextlib.suppress(OSError):  # it belongs to another user
        os.utime(file)


def write(file: Path, array: np.ndarray) -> None:
    """Writes a file atomically, also if several processes write it at the same time."""
    with replaced(file) as part:
        np.save(part, array, allow_pickle=False)


@contextlib.contextmanager
def replaced(file: Path):
    """A new temporary file that replaces `file` once it is written."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f'{file.name}.', suffix='.part',
                                     delete=False) as part:
        try:
            yield part
            part.flush()
            os.chmod(part.name, 0o644)  # by default only the owner can read it
            os.replace(part.name, file)
        except BaseException:
            os.unlink(part.name)
            raise
