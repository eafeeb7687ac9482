"""What the numbers and labels of a data set mean, and whether they can be used."""
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
    """Both splits, looked through, and which of RANGES their numbers are; '' for symbols, that is
    text and what is drawn when seen.

    bool, and integers of which none is but 0 and 1, are `bits`; other uint8 is `8bit`; uint16
    beyond 255 is `16bit`; floats are `unit` where all lie in [0, 1], else `real`, which stand for
    themselves.  `asked` says so for what cannot be told.  Raises BadInput for that, for numbers
    beyond the range, and for what is not finite; of a stream this is found when it is read.
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
    """What numbers from `low` to `high` of this type are.  Raises BadInput where it is unclear."""
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
    """The batch in the type that devices keep: whole numbers as uint8 or uint16, others float32,
    symbols int32."""
    if streaming.streamed(batch):
        return batch
    small = {'bits': np.uint8, '8bit': np.uint8, '16bit': np.uint16, '': np.int32}
    dtype = np.float32 if batch.x.dtype.kind == 'f' else small.get(meaning, np.float32)
    return batch._replace(x=batch.x.astype(dtype, copy=False))


def scale(x: Array, meaning: str) -> Array:
    """Stored numbers as models see them, float32: in [0, 1] but for real ones.  Traced."""
    x = x.astype(jnp.float32)
    return x if meaning == 'real' else x / FULL[meaning]


def pieces(x) -> list[slice]:
    """The rows of x, some at a time."""
    step = 64 if isinstance(x, streaming.Rows) else max(
        1, PIECE // max(1, int(np.prod(x.shape[1:]))))
    return [slice(i, i + step) for i in range(0, len(x), step)]


def span(x, enough: float = np.inf) -> tuple:
    """The least and the largest of x, up to the first above `enough`; nan where there is one.  Of
    a stream, those of its first examples."""
    lows, highs = [], []
    for rows in pieces(x[:SOME] if isinstance(x, streaming.Rows) else x):
        part = np.asarray(x[rows])
        lows.append(part.min())
        highs.append(part.max())
        if highs[-1] > enough:
            break
    return np.min(lows), np.max(highs)


def in_range(meaning: str, low, high) -> bool:
    """Whether all numbers between can be what they are said to be; a nan cannot."""
    if meaning in FULL:
        return bool(low >= 0 and high <= FULL[meaning])
    return bool(np.isfinite(low) and np.isfinite(high))


def check(name: str, split: str, meaning: str, rows: np.ndarray, x: np.ndarray) -> None:
    """Raises BadInput with the first number of these rows that cannot be what it should."""
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
    """Both with labels 0 .. k - 1, int32, for the k numbers or names among the training labels in
    their order, and these as words, those at these places in `called` where it is given.  Without
    labels, of which -1 is none, where a split has none.

    Raises BadInput for labels that are fractions, and for one of the test split alone.
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
    """Both, as float32, less the mean of the training examples and over their standard deviation,
    by dimension; over 1 where that is 0."""
    mean, sd = (f(train.x, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    sd = np.where(sd > 1e-12 * np.abs(mean), sd, 1)
    return tuple(batch._replace(x=((batch.x - mean) / sd).astype(np.float32))
                 for batch in (train, test))


def warn_of_size(x, name: str) -> None:
    """Says so where real numbers are much larger or smaller than 1, by the root of the mean square
    of the dimension where that is largest."""
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
