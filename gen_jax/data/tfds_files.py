"""The files of a prepared TFDS set. Damage is reported in one line that names the file."""
from concurrent.futures import ThreadPoolExecutor
import json
import os
import re
import zlib

import numpy as np

from gen_jax.types import BadInput

DESCRIPTIONS = 'dataset_info.json', 'features.json'
READERS = 64  # files that are looked at together, which matters in a bucket


def remote(dir) -> bool:
    return '://' in str(dir)


def builder(name: str, dir: str):
    """The TFDS builder of a set below the directory `dir`.

    Raises BadInput if the set exists but its descriptions are damaged; the error of TFDS if it does
    not exist.
    """
    import tensorflow_datasets as tfds
    try:
        return tfds.builder(name, data_dir=dir, file_format='array_record')
    except Exception as e:  # TFDS, protobuf and json have types of their own
        if not (remote(dir) and isinstance(e, (ImportError, OSError))):
            explain(dir, name, e)
        raise


def explain(dir: str, name: str, error: Exception) -> None:
    """Raises BadInput that says which files of a set are damaged, if there are any."""
    from etils import epath
    if not re.fullmatch(r'\w+(/\w[\w.-]*)*(:[\w.*]+)?', name):  # would be looked for anywhere
        return
    place = epath.Path(dir) / name.partition(':')[0]
    folders = sorted({file.parent for depth in ('*/*', '*/*/*') for file in place.glob(depth)
                      if file.name == DESCRIPTIONS[0] or '.array_record' in file.name})
    for folder in folders:
        for file in (folder / part for part in DESCRIPTIONS):
            if not file.exists():
                raise damaged(file, 'is missing')
            try:
                description = dict(json.loads(file.read_text()))
            except (OSError, ValueError, TypeError):
                raise damaged(file, 'is damaged: it is no JSON') from None
            if file.name == DESCRIPTIONS[0] and description.get('fileFormat') != 'array_record':
                raise damaged(
                    file, f'says that the set is in {description.get("fileFormat")!r} files, '
                    "but 'array_record' is what can be read")
    if folders:
        raise damaged(folders[-1] / DESCRIPTIONS[0], f'cannot be used ({words(error)})')


def damaged(file, what: str) -> BadInput:
    return BadInput(f'{file} {what}; remove {file.parent} and prepare the set again')


def words(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


def files(builder, split: str) -> tuple[list, list[int]]:
    """The files of a split, and the number of examples in each."""
    split_info = builder.info.splits[split]
    try:
        return list(split_info.filepaths), list(split_info.shard_lengths)
    except Exception as e:  # what a name is to be made of may be anything
        from etils import epath
        raise damaged(epath.Path(builder.data_dir, DESCRIPTIONS[0]),
                      f'cannot be used ({words(e)})') from None


def identity(builder, split: str) -> str:
    """Eight hexadecimal digits that identify the files of a split: a hash of the descriptions of
    the set and of the names, sizes and times of the files. Raises BadInput if a file is missing.
    """
    from etils import epath
    contents = [file.read_bytes() for part in DESCRIPTIONS
                if (file := epath.Path(builder.data_dir, part)).exists()]

    def about(file):
        try:
            if remote(file):
                status = epath.Path(file).stat()
                return file.name, status.length, status.mtime
            status = os.stat(file)
            return file.name, status.st_size, status.st_mtime_ns
        except FileNotFoundError:
            raise damaged(file, 'is missing') from None
        except OSError as e:
            raise BadInput(f'{file} cannot be read ({e.strerror or e})') from None

    with ThreadPoolExecutor(READERS) as pool:
        contents += [str(status).encode() for status in pool.map(about, files(builder, split)[0])]
    return f'{zlib.crc32(b"".join(contents)):08x}'


class Records:
    """The examples of a split by number. Examples in a damaged file raise BadInput."""

    def __init__(self, builder, split: str, **decoding):
        self.files, self.counts = files(builder, split)
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(counted, self.files, self.counts))
        self.source = builder.as_data_source(split=split, **decoding)

    def __len__(self):
        return len(self.source)

    def __getitems__(self, rows: list[int]):
        try:
            return self.source.__getitems__(rows)
        except Exception:  # array_record, protobuf, PIL and TFDS have types of their own
            for row in rows:
                self.read(row)
            raise

    def read(self, row: int) -> None:
        try:
            self.source.__getitems__([row])
        except Exception as e:
            ends = np.cumsum(self.counts)
            at = int(np.searchsorted(ends, row, 'right'))
            place = row - int(ends[at]) + self.counts[at]
            raise damaged(self.files[at], f'is damaged: its example {place} cannot be read '
                          f'({words(e)})') from None


def counted(file, count: int) -> None:
    """Raises BadInput unless a file has this number of records."""
    from array_record.python.array_record_module import ArrayRecordReader
    if not file.exists():
        raise damaged(file, 'is missing')
    try:
        reader = ArrayRecordReader(os.fspath(file))
        records = reader.num_records()
        reader.close()
    except Exception as e:  # of its own type
        raise damaged(file, f'is damaged ({words(e)})') from None
    if records != count:
        raise damaged(file, f'holds {records:,} examples, but {count:,} by dataset_info.json')
