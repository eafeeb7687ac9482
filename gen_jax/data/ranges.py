"""The range of the numbers and the labels of a data set, and checks that they can be used."""
import functools

import jax.numpy as jnp
import numpy as np

from gen_jax.data import streaming
from gen_jax.types import Array, BadInput, Batch

FULL = {'bits': 1, '8bit': 255, '16bit': 65535, 'unit': 1}  # the number that stands for 1
RANGES = *FULL, 'real'
ENOUGH = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 255}  # a larger number says what all are
PIECE = 2 ** 22      # numbers that are looked at together
SOME = 1_000         # examples of a stream that are looked at before the others are read
SMALL, LARGE = .1, 10.  # sizes of real numbers that go without a warning
SPLITS = 'training', 'test'


def infer_range(train: Batch, test: Batch, name: str, asked: str = '') -> tuple[Batch, Batch, str]:
    """Both splits, checked, and the range of their numbers, one of RANGES; '' for symbols: text and
    examples that are drawn on the device.

    bool, and integers that are all 0 or 1, are `bits`; other uint8 is `8bit`; uint16 beyond 255 is
    `16bit`; floats are `unit` if all are in [0, 1], else `real`, which are used as they are.
    `asked` decides if the range cannot be inferred. Raises BadInput if it is needed and missing,
    for numbers beyond the range, and for values that are not finite; for a stream these are found
    when they are read.
    """
    if asked and asked not in RANGES:
        raise BadInput(f'unknown data.range {asked!r}; choose one of {", ".join(RANGES)}')
    both, kind = (train, test), train.x.dtype.kind
    for split, batch in zip(SPLITS, both):
        if not len(batch.x):
            raise BadInput(f'the {split} split of {name} is empty')
        if batch.x.dtype.kind not in 'buif':
            raise BadInput(f'{name} holds {batch.x.dtype}, but numbers are needed')
    if asked and train.x.ndim == 1:
        raise BadInput(f'data.range is for stored numbers, but {name} is drawn when seen')
    enough = np.inf if asked else ENOUGH.get(train.x.dtype, np.inf)
    spans = [span(batch.x, enough) for batch in both]
    low, high = min(s[0] for s in spans), max(s[1] for s in spans)
    kind_of_range = asked or meaning(train.x, low, high, name)
    batches = []
    for split, batch, ends in zip(SPLITS, both, spans):
        check_rows = functools.partial(check, name, split, kind_of_range)
        x = batch.x
        if not in_range(kind_of_range, *ends):
            for rows in pieces(x):
                check_rows(np.arange(len(x))[rows], np.asarray(x[rows]))
        if streaming.streamed(batch) and (kind == 'f' or kind_of_range == 'bits'):
            x = x.through(check_rows)
        batches.append(batch._replace(x=x))
    return *batches, kind_of_range


def meaning(x, low, high, name: str) -> str:
    """The range of numbers of this type between `low` and `high`. Raises BadInput if it is
    ambiguous.
    """
    kind = x.dtype.kind
    if kind == 'f':
        return 'unit' if low >= 0 and high <= 1 else 'real'
    if kind == 'i' and (x.ndim == 1 or x.ndim == 2 and high > 1):
        return ''
    if low >= 0 and high <= 1:
        return 'bits'
    if x.dtype == np.uint8:
        return '8bit'
    if x.dtype == np.uint16 and high > 255:
        return '16bit'
    raise BadInput(f'{name} holds {x.dtype} from {low} to {high}, and which number stands for 1 '
                   'cannot be told; say so by --config.data.range=8bit (255), 16bit (65535) or '
                   'real (as they are)')


def as_stored(batch: Batch, meaning: str) -> Batch:
    """The batch in its type on the device: integers as uint8 or uint16, others as float32, symbols
    as int32.
    """
    if streaming.streamed(batch):
        return batch
    small = {'bits': np.uint8, '8bit': np.uint8, '16bit': np.uint16, '': np.int32}
    dtype = np.float32 if batch.x.dtype.kind == 'f' else small.get(meaning, np.float32)
    return batch._replace(x=batch.x.astype(dtype, copy=False))


def scale(x: Array, meaning: str) -> Array:
    """Stored numbers as float32 for the model, in [0, 1] unless they are real numbers; a traced
    function.
    """
    x = x.astype(jnp.float32)
    return x if meaning == 'real' else x / FULL[meaning]


def pieces(x) -> list[slice]:
    """Blocks of the rows of x."""
    step = 64 if isinstance(x, streaming.Rows) else max(
        1, PIECE // max(1, int(np.prod(x.shape[1:]))))
    return [slice(i, i + step) for i in range(0, len(x), step)]


def span(x, enough: float = np.inf) -> tuple:
    """The smallest and the largest value of x; stops at the first value above `enough`; nan if
    there is one. For a stream, only of its first examples.
    """
    lows, highs = [], []
    for rows in pieces(x[:SOME] if isinstance(x, streaming.Rows) else x):
        part = np.asarray(x[rows])
        lows.append(part.min())
        highs.append(part.max())
        if highs[-1] > enough:
            break
    return np.min(lows), np.max(highs)


def in_range(meaning: str, low, high) -> bool:
    """Whether all numbers between two values are valid for a range; false for nan."""
    if meaning in FULL:
        return bool(low >= 0 and high <= FULL[meaning])
    return bool(np.isfinite(low) and np.isfinite(high))


def check(name: str, split: str, meaning: str, rows: np.ndarray, x: np.ndarray) -> None:
    """Raises BadInput with the first number of these rows that is not valid for the range."""
    if not x.size or in_range(meaning, x.min(), x.max()):
        return
    wrong = ~np.isfinite(x)
    if not wrong.any():
        wrong = (x < 0) | (x > FULL[meaning])
    row, *place = np.argwhere(wrong)[0]
    where = f'row {rows[row]}' + (f', place {", ".join(map(str, place))}' if place else '')
    value = x[(row, *place)]
    if np.isfinite(value):
        raise BadInput(
            f'the {split} split of {name} holds {value} in {where} (from 0), but '
            f'data.range={meaning} is from 0 to {FULL[meaning]}; say what the numbers are '
            'by --config.data.range=8bit, 16bit or real')
    raise BadInput(f'the {split} split of {name} holds {value} in {where} (from 0); mend or leave '
                   'out what is not a finite number')


def number_labels(train: Batch, test: Batch, name: str,
                  called=()) -> tuple[Batch, Batch, tuple[str, ...]]:
    """Both splits with int32 labels 0 .. k - 1 for the k sorted numbers or names among the training
    labels, and the names of these labels, taken from `called` if it is given. If a split has no
    labels (-1 means none), both are returned without labels.

    Raises BadInput for labels that are fractions, and for a label that only the test split has.
    """
    both, none = (train, test), []
    for split, batch in zip(SPLITS, both):
        label = batch.label
        if label is None or label.dtype.kind in 'if' and (label == -1).all():
            none.append(split)
        elif label.dtype.kind == 'f' and not (label == np.round(label)).all():
            row = np.flatnonzero(label != np.round(label))[0]
            raise BadInput(f'the {split} split of {name} has label {label[row]} in row {row} (from '
                           '0); labels are names or whole numbers')
    if none:
        if len(none) == 1:
            print(f'the {none[0]} split of {name} has no labels, so none are used')
        return train._replace(label=None), test._replace(label=None), ()
    known = np.unique(train.label)
    numbers, places = (np.searchsorted(known, b.label).clip(max=len(known) - 1).astype(np.int32)
                       for b in both)

    def word(label):
        label = int(label) if known.dtype.kind == 'f' else label
        return called[label] if called and 0 <= label < len(called) else str(label)

    words = tuple(map(word, known))
    strange = np.flatnonzero(known[places] != test.label)
    if len(strange):
        keep = ' or name those to keep by --config.data.identities' * (known.dtype.kind in 'iuf')
        raise BadInput(f'the test split of {name} has label {word(test.label[strange[0]])} in row '
                       f'{strange[0]} (from 0), which no training example has; there are '
                       f'{", ".join(words[:20])}{", .." * (len(words) > 20)}: mend it{keep}')
    return train._replace(label=numbers), test._replace(label=places), words


def standardise(train: Batch, test: Batch) -> tuple[Batch, Batch]:
    """Both splits as float32, minus the mean and divided by the standard deviation of the training
    split, for each dimension; a deviation of 0 counts as 1.
    """
    mean, sd = (f(train.x, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    sd = np.where(sd > 1e-12 * np.abs(mean), sd, 1)
    return tuple(batch._replace(x=((batch.x - mean) / sd).astype(np.float32))
                 for batch in (train, test))


def warn_of_size(x, name: str) -> None:
    """Prints a warning if real numbers are much larger or smaller than 1, by the root mean square
    of the largest dimension.
    """
    x = np.asarray(x[:SOME], np.float64)
    size = np.sqrt(np.square(x).mean(0)).max()
    if SMALL <= size <= LARGE or size == 0:
        return
    grey = x.ndim == 4 and x.min() >= 0 and x.max() <= 65535
    full = '8bit' if x.max() <= 255 else '16bit'
    print(f'warning: {name} holds real numbers of size {size:.3g}, far from the 1 that networks '
          'and likelihoods expect; give ' + (
              f'--config.data.range={full} if they are grey values' if grey and size > LARGE else
              '--config.data.standardise to bring each dimension there'))
