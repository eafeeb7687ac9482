"""The pictures of the documentation, from finished runs.

    python experiments/gallery.py [--data_dir=DIR] RUN ...

For each run of a model on images: docs/pictures/MODEL.png, with a row for the first test examples,
one for each thing that the model makes of them, and samples.  docs/pictures/commands.json keeps the
commands of the runs for the pages of the models.  If the runs of FRONT are all there, it also draws
docs/pictures/front.png, the README's picture.  Nothing is selected by hand: examples are the first
ones of the test split, codes those of the run's seed.
"""
import json
from pathlib import Path

import jax
from ml_collections import ConfigDict
import numpy as np
from readme import command, quantise
from study import guarded, parser

from gen_jax import record, train
from gen_jax.types import BadInput

PICTURES = Path(__file__).parents[1] / 'docs' / 'pictures'
COLUMNS, ROWS = 10, 6
SPREAD = 2.  # a traversal goes this many standard deviations of the prior each way


def pairs(run, state) -> np.ndarray:
    """Rows of test examples, each above the row of their reconstructions."""
    batch = train.test_examples(run.data, COLUMNS * ROWS // 2, run.key)
    shown = list(train.reconstruction_rows(run, state, batch).values())[:2]
    rows = [np.asarray(x).reshape(-1, COLUMNS, *x.shape[1:]) for x in shown]
    return np.stack(rows, 1).reshape(-1, *shown[0].shape[1:])


def shown(run, state) -> np.ndarray:
    """A row of test examples, and rows of what the model makes of them."""
    batch = train.test_examples(run.data, COLUMNS, run.key)
    parts = list(train.reconstruction_rows(run, state, batch).values())
    return np.concatenate(parts[:ROWS - 1])


def samples(run, state) -> np.ndarray:
    return np.asarray(train.samples(run, state, 'prior', COLUMNS * ROWS))


def traversals(run, state) -> np.ndarray:
    """A row for each latent dimension, those whose codes vary most first: the first test example
    with this dimension from -SPREAD to SPREAD."""
    x = train.test_examples(run.data, 500, run.key).x
    codes = np.asarray(jax.jit(run.model.encode)(state, x))
    z = np.tile(codes[0], (ROWS, COLUMNS, 1))
    for row, dimension in enumerate(np.argsort(-codes.var(0))[:ROWS]):
        z[row, :, dimension] = np.linspace(-SPREAD, SPREAD, COLUMNS)
    return np.asarray(jax.jit(run.model.decode)(state, z.reshape(ROWS * COLUMNS, -1)))


def points(run, state) -> np.ndarray:
    return np.asarray(train.samples(run, state, 'prior', 2000))


FRONT = {'test digits and reconstructions (VAE)': ('vae-mnist', pairs),
         'samples (VAE)': ('vae-mnist', samples),
         'digits as other digits (conditional VAE)': ('cvae-mnist', shown),
         'faces, each as four people (deepfake)': ('deepfake-faces', shown),
         'latent dimensions (beta-TCVAE)': ('tcvae-sprites', traversals),
         'samples of eight modes (GAN)': ('gan-ring', points)}


def front(folders: dict[str, Path], data_dir: str | None) -> None:
    fig = record.figure(12, 6)
    for axes, (title, (name, draw)) in zip(fig.subplots(2, 3).ravel(), FRONT.items()):
        examples = draw(*train.load(folders[name], data_dir=data_dir))
        record.show(axes, examples, COLUMNS, title)
        if draw is points:
            axes.set(xlabel='', ylabel='', aspect='equal')
            axes.axis('off')
    save(fig, 'front')


def page(folder: Path, data_dir: str | None) -> ConfigDict | None:
    """Draws the picture of the run's model; its config, or None if there is nothing to draw."""
    run, state = train.load(folder, data_dir=data_dir)
    if run.known.test.x.ndim != 4:
        return None
    rows = []
    if train.can_reconstruct(run.model):
        batch = train.test_examples(run.data, COLUMNS, run.key)
        rows = [(title, np.asarray(x)[:COLUMNS])
                for title, x in train.reconstruction_rows(run, state, batch).items()
                if x is not None]
    if run.model.prior:
        images = samples(run, state)
        rows += [('samples', images[:COLUMNS])]
        if len(rows) < 4:
            rows += [('', images[i * COLUMNS:(i + 1) * COLUMNS]) for i in (1, 2)]
    if not rows:
        return None
    fig = record.figure(8, .64 * len(rows))
    fig.get_layout_engine().set(hspace=0, h_pad=.01)
    for axes, (title, images) in zip(fig.subplots(len(rows), 1, squeeze=False).ravel(), rows):
        record.show(axes, images, COLUMNS, '')
        axes.text(-.02, .5, title, transform=axes.transAxes, ha='right', va='center')
    save(fig, run.config.model.name)
    return run.config


def save(fig, name: str) -> None:
    file = PICTURES / f'{name}.png'
    fig.savefig(file, dpi=110, bbox_inches='tight', pad_inches=.05)
    quantise(file, file)


def main():
    p = parser('gallery', __doc__)
    p.add_argument('runs', nargs='+', type=Path, metavar='RUN')
    p.add_argument('--data_dir', help='TFDS directory')
    a = p.parse_args()
    folders = {run.name: run for run in a.runs}
    for run in a.runs:
        if not (run / 'config.json').exists():
            raise BadInput(f'{run} holds no run')
    file = PICTURES / 'commands.json'
    commands = json.loads(file.read_text()) if file.exists() else {}
    for folder in a.runs:
        if config := page(folder, a.data_dir):
            commands[config.model.name] = command(config)
    record.write_json(file, dict(sorted(commands.items())))
    if {name for name, _ in FRONT.values()} <= folders.keys():
        front(folders, a.data_dir)


if __name__ == '__main__':
    guarded('gallery', main)
