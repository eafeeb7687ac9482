"""The files of a run: metrics.jsonl, TensorBoard events, summary.json, pictures. Only the first
process writes them.
"""
import functools
import json
import os
from pathlib import Path
import platform
import shutil
import sys
import time

import jax
import numpy as np


def once(write):
    """Makes write(file, ...) run in the first process only."""
    @functools.wraps(write)
    def written(file: Path, *args, **options):
        return file if jax.process_index() else write(file, *args, **options)
    return written


def flat(metrics, prefix: str) -> dict[str, float]:
    """Metrics as named floats: `prefix/name`, a vector as `prefix/name/00`, `prefix/name/01` ...

    >>> flat(dict(loss=1., kl=[2., 3.]), 'test')
    {'test/kl/00': 2.0, 'test/kl/01': 3.0, 'test/loss': 1.0}
    """
    named = {}
    for name, value in sorted(metrics.items()):
        value = np.asarray(value)
        if value.ndim:
            named |= {f'{prefix}/{name}/{i:02d}': float(v) for i, v in enumerate(value.ravel())}
        else:
            named[f'{prefix}/{name}'] = float(value)
    return named


@once
def write(file: Path, text: str) -> None:
    """Writes a file atomically."""
    part = file.with_suffix('.part')
    part.write_text(text)
    os.replace(part, file)


def write_json(file: Path, content) -> None:
    write(file, json.dumps(content, indent=1) + '\n')


def read_json(file: Path, then: str) -> dict:
    """The content of a JSON file; {} if it does not exist. For a damaged file it prints this and
    what happens `then`, and returns {}.
    """
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (ValueError, TypeError):
        print(f'{file} cannot be read; {then}')
        return {}


def machine() -> dict[str, str]:
    """The version of jax and the processor or device, for summaries."""
    device = jax.devices()[0]
    return dict(jax=jax.__version__,
                hardware=processor() if device.platform == 'cpu' else device.device_kind)


def processor() -> str:
    file = Path('/proc/cpuinfo')
    names = [line.split(':')[1].strip() for line in file.read_text().splitlines()
             if line.startswith('model name')] if file.exists() else []
    return f'{os.cpu_count()} x {names[0] if names else platform.processor()}'


@once
def append(file: Path, line: dict) -> None:
    with file.open('a') as f:
        f.write(json.dumps(line) + '\n')


def read_lines(file: Path, *counts: str) -> list[dict]:
    """The lines of a metrics.jsonl that have all `counts`. Damaged lines are reported and left out,
    a last line cut short by a crash silently.
    """
    lines, damaged = [], []
    text = file.read_text(errors='replace') if file.exists() else ''
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            if not all(type(entry[name]) is int for name in counts):
                raise ValueError(line)
            lines.append(entry)
        except (ValueError, LookupError, TypeError):
            damaged.append(number)
    if damaged and (damaged != [number] or text.endswith('\n')):
        print(f'{file} is damaged in line {", ".join(map(str, damaged))}, which is left out')
    return lines


class Record:
    """The metrics of a run in `workdir`. Keeps lines up to `step`; later ones, left by a crash, are
    dropped. last: a list with the last line, or empty; all lines are in the file only.
    """

    def __init__(self, workdir: Path, step: int):
        from tensorboardX import SummaryWriter
        self.file = workdir / 'metrics.jsonl'
        kept = [line for line in read_lines(self.file, 'step', 'epoch') if line['step'] <= step]
        write(self.file, ''.join(json.dumps(line) + '\n' for line in kept))
        self.last = kept[-1:]
        self.events = SummaryWriter(str(workdir), purge_step=step + 1 if step else None,
                                    write_to_disk=jax.process_index() == 0)

    def metrics(self, step: int, epoch: int, named: dict[str, float]) -> None:
        self.last = [dict(step=step, epoch=epoch, **named)]
        append(self.file, *self.last)
        for name, value in named.items():
            self.events.add_scalar(name, value, step)

    def close(self) -> None:
        self.events.close()


EXPLODED = 1e3  # a loss so many times what it was at first is no longer learning


def alarms(named: dict[str, float], start: float = float('nan')) -> list[str]:
    """Warnings about a training, from metrics of train/ and test/ and the loss of its first step.
    """
    def of(name):
        return named.get(name, float('nan'))

    loss = max((of(f'{side}/loss') for side in ('train', 'test')), key=lambda v: (v == v, v))
    wrong = {
        'the discriminator wins outright':
            of('train/accuracy_real') > .99 and of('train/accuracy_fake') > .99,
        'samples are nearly all alike':
            of('test/pairwise_distance_fake') < .1 * of('test/pairwise_distance_real'),
        'no unit of the code is in use': of('train/active_units') == 0,
        f'the loss, {loss:.2g}, is far above {start:.2g}, where it began':
            loss > start + EXPLODED * max(abs(start), 1)}
    return [words for words, is_so in wrong.items() if is_so]


def clock(seconds: float) -> str:
    return f'{round(seconds) // 60}:{round(seconds) % 60:02d}'


class Progress:
    """A row that shows the progress of training: rewritten after each epoch on a terminal,
    otherwise a plain line when one is due. of: what is trained, for the row.
    """

    def __init__(self, epochs: int, done: int, out=None, of: str = ''):
        self.epochs, self.done, self.out, self.of = epochs, done, out or sys.stdout, of
        self.start, self.live, self.open = time.perf_counter(), self.out.isatty(), False

    def __call__(self, epoch: int, named: dict[str, float], rate: float,
                 began: float = float('nan'), due: bool = True) -> None:
        if not (self.live or due):
            return
        spent = time.perf_counter() - self.start
        left = clock(spent / (epoch - self.done) * (self.epochs - epoch))
        parts = [(0, f'epoch {epoch}/{self.epochs}{self.of}'),
                 *((rank(name), f'{name} {value:.4g}') for name, value in named.items()
                   if name.count('/') == 1),
                 (3, f'{rate:,.0f} examples/s'), (1, f'{left} left'),
                 *((0, f'! {words}') for words in alarms(named, began))]
        self.open = self.live and epoch < self.epochs
        print('\r\x1b[K' * self.live + row(parts), end='' if self.open else '\n', file=self.out,
              flush=True)

    def end(self) -> None:
        """Ends the row, so that the next output starts on a new line."""
        if self.open:
            print(file=self.out, flush=True)
        self.open = False


def rank(name: str) -> int:
    """The order in which metrics are left out of a row that is too long: losses last, and test
    before training.
    """
    return 2 if name.endswith('loss') else 4 if name.startswith('test/') else 5


def row(parts: list[tuple[int, str]]) -> str:
    """Joins texts with ranks to a row that fits the terminal, or 80 columns. If it is too long, it
    drops `train/`, and then the texts with the highest ranks, but never rank 0.
    """
    width = shutil.get_terminal_size().columns - 1  # some terminals wrap at the last column
    order = sorted(range(len(parts)), key=lambda i: parts[i][0])
    for n in range(len(parts), sum(rank == 0 for rank, _ in parts) - 1, -1):
        line = '  '.join(parts[i][1] for i in sorted(order[:n]))
        line = line if len(line) <= width else line.replace('train/', '')
        if len(line) <= width:
            break
    return line[:width]


def figure(width: float, height: float):
    """An empty matplotlib figure, size in inches, that needs no display."""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout='constrained')


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Tiles images (n, h, w, c) in rows of `columns`, one white pixel apart."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    canvas = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, c))
    for i, image in enumerate(images):
        r, k = divmod(i, columns)
        canvas[r * (h + 1):r * (h + 1) + h, k * (w + 1):k * (w + 1) + w] = image
    return canvas


def show(axes, examples: np.ndarray, columns: int, title: str) -> None:
    """Draws images and sequences as a tiling, vectors as points in their first two dimensions."""
    axes.set_title(title)
    if examples.ndim == 3:
        examples = examples[..., None]
    if examples.ndim == 4:
        canvas = np.clip(tile(examples, columns), 0, 1)
        colour = canvas if canvas.shape[-1] == 3 else canvas[..., 0]
        axes.imshow(colour, cmap='gray', vmin=0, vmax=1, interpolation='nearest')
        axes.axis('off')
    else:
        axes.scatter(*examples.reshape(len(examples), -1)[:, :2].T, s=8)
        axes.set(xlabel='first dimension', ylabel='second')


@once
def pictures(file: Path, parts: dict[str, np.ndarray | None], columns: int) -> Path:
    """One PNG with a titled panel for each part, examples (n, ...) in [0, 1] or vectors.

    More than four panels go into two rows; None leaves a panel empty.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = [np.asarray(x) for x in parts.values() if x is not None]
    points = kept[0].ndim < 3
    across = len(parts) if len(parts) <= 4 else -(-len(parts) // 2)
    wide = 3.6 if points else 4.2
    high = max(max(1., wide * -(-len(x) // columns) / columns) for x in kept) + .4
    fig = figure(wide * across, high * -(-len(parts) // across))
    fig.get_layout_engine().set(w_pad=.08)
    panels = fig.subplots(-(-len(parts) // across), across, squeeze=False).ravel()
    for axes in panels:
        axes.axis('off')
    for axes, (title, examples) in zip(panels, parts.items()):
        if examples is None:
            continue
        axes.axis('on')
        show(axes, np.asarray(examples), columns, title)
        if points:  # all panels to one scale, or they could not be compared
            axes.sharex(panels[0])
            axes.sharey(panels[0])
    fig.savefig(file, dpi=150)
    return file


@once
def texts(file: Path, parts: dict[str, list[str]], count: int = 8) -> Path:
    """Writes the texts of each example below each other, under their titles, and prints the first
    ones.
    """
    wide = max(map(len, parts))
    blocks = ['\n'.join(f'{title:{wide}}  {text}' for title, text in zip(parts, example))
              for example in zip(*parts.values())]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n\n'.join(blocks) + '\n')
    print('\n\n'.join(blocks[:count]))
    return file


@once
def curves(file: Path, lines: list[dict]) -> Path:
    """Draws the metrics over the epochs, a panel for each name, with training and test."""
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = {key for line in lines for key in line if key.count('/') == 1}
    names = sorted({key.split('/')[1] for key in keys})
    fig = figure(3.4 * min(len(names), 3), 2.6 * -(-len(names) // 3))
    panels = fig.subplots(-(-len(names) // 3), min(len(names), 3), squeeze=False).ravel()
    for axes, name in zip(panels, names):
        for side in 'train', 'test':
            points = [(line['epoch'], line[f'{side}/{name}']) for line in lines
                      if f'{side}/{name}' in line]
            if points:
                marker = 'o' if len(points) == 1 else None  # which no line shows
                axes.plot(*zip(*points), marker=marker, label=side)
        axes.set(title=name.replace('_', ' '), xlabel='epoch')
        axes.legend(frameon=False)
    for axes in panels[len(names):]:
        axes.axis('off')
    fig.savefig(file, dpi=150)
    return file
