"""What the experiments share: their flags, work that is not repeated, and the table at the end.

An experiment is one file with `main(study)`; started again it goes on where it stopped.
"""
import argparse
import csv
import json
from pathlib import Path
import runpy
import signal
import sys
import time

from ml_collections import ConfigDict

from gen_jax import record, train
from gen_jax.data import cache
from gen_jax.help import folded
from gen_jax.train.faults import interrupted
from gen_jax.types import BadInput

ROOT = Path(__file__).parents[1]
MAY_DIFFER = 'workdir', 'data_dir', 'epochs', 'rows', 'seed'  # between commands on one workdir
WHICH = '', 'which, with commas; all where empty'  # of --rows
REST = 'what is finished is kept, and the same command goes on with the rest'


def both(**keys) -> dict:
    """Keys of both players' optimisers."""
    return {f'{group}.{k}': v for group in ('optimiser', 'discriminator_optimiser')
            for k, v in keys.items()}


class Study:
    """An experiment's workdir: its runs, its measured points, its table and its figure."""

    def __init__(self, name: str, flags: argparse.Namespace, command: str):
        self.name, self.flags, self.command, self.count = name, flags, command, 0
        size = '-quick' if flags.quick else ''
        self.workdir = Path(flags.workdir or f'runs/{name}-{flags.dataset.replace(":", "-")}{size}')
        self.figure = self.workdir / f'{name}.png'
        self.ours = json.dumps({k: v for k, v in vars(flags).items()
                                if k not in MAY_DIFFER})
        theirs = self.workdir / 'study.json'
        if theirs.exists() and theirs.read_text(errors='replace') != self.ours:
            raise BadInput(f'{self.workdir} holds this experiment with other flags '
                           f'({theirs.read_text(errors="replace").strip()}); give another '
                           '--workdir')
        self.before, self.since = train.summary(self.workdir), time.perf_counter()

    def rows(self, known) -> list[str]:
        """Those of the known that --rows names.  Raises BadInput where it names others."""
        names = self.flags.rows.split(',') if self.flags.rows else list(known)
        if unknown := [n for n in names if n not in known]:
            raise BadInput(f'unknown row {unknown[0]!r}; there are {", ".join(known)}')
        return names

    def config(self, model: str, dataset: str | None = None, **changed) -> ConfigDict:
        """The config of configs/`model`.py for this experiment's data set; `changed` holds dotted
        keys as `**{'model.latent': 2}`."""
        config = runpy.run_path(str(ROOT / 'configs' / f'{model}.py'))['get_config'](
            dataset or self.flags.dataset)
        config.data.dir = self.flags.data_dir
        config.eval.every = 10 ** 9  # only at the end
        train.update(config, changed)
        return config

    def run(self, label: str, config: ConfigDict) -> tuple[train.Run, train.State]:
        """The trained run of a config; trained here unless it has been for so many epochs, and kept
        under `label`."""
        folder = self.workdir / label
        if train.summary(folder).get('epochs', 0) < config.epochs:
            self.say(f'training {label}')
            train.train(config, folder)
        return train.load(folder, config)

    def point(self, label: str, measure) -> dict:
        """What measure() gives, a dict of plain values; measured once and kept under `label`.

        Its `seconds` are added where it names none itself.
        """
        file = self.workdir / 'points' / f'{label}.json'
        if not record.read_json(file, 'it is measured again'):
            self.say(f'measuring {label}')
            start = time.perf_counter()
            result = measure()
            file.parent.mkdir(parents=True, exist_ok=True)
            record.write_json(file, dict(seconds=time.perf_counter() - start) | result)
        return json.loads(file.read_text())

    def summary(self, **result) -> None:
        """Keeps what is known of the whole experiment, and the time it has taken so far."""
        spent = self.before.get('seconds', 0.)
        spent += time.perf_counter() - self.since if self.count else 0.
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            (self.workdir / 'study.json').write_text(self.ours)
            record.write_json(self.workdir / 'summary.json', self.before | dict(
                command=self.command, seconds=spent, **result))
        except OSError as e:
            raise BadInput(f'workdir {self.workdir} cannot be written ({e.strerror}); '
                           'give another by --workdir') from e

    def say(self, what: str) -> None:
        self.count += 1
        self.summary()
        print(f'[{self.name} {self.count}] {what}', flush=True)

    def table(self, rows: list[dict], headline: str, digits: int = 4) -> None:
        """Writes the rows as NAME.csv and NAME.md (numbers to so many digits) and prints them.

        headline: what came out, in a line.
        """
        with (self.workdir / f'{self.name}.csv').open('w', newline='') as f:
            writer = csv.DictWriter(f, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        displayed = [[f'{v:.{digits}g}' if isinstance(v, float) else str(v) for v in row.values()]
                     for row in rows]
        lines = [list(rows[0]), ['---'] * len(rows[0]), *displayed]
        text = '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'
        (self.workdir / f'{self.name}.md').write_text(text)
        self.summary(headline=headline, **record.machine())
        print(f'{text}\n{headline}')
        print(f'{self.workdir}/{self.name}.csv, .md' + ', .png' * self.figure.exists())


def start(main, doc: str, name: str, dataset: str = 'digits', **more) -> None:
    """Parses the flags, `more` of them as name=(default, help), and runs main(study); bad input
    becomes one line and status 1."""
    p = parser(name, doc)
    p.add_argument('--dataset', default=dataset, help='[%(default)s]')
    p.add_argument('--data_dir', help='TFDS directory')
    p.add_argument('--workdir', help='where all of it is kept; default: runs/NAME-DATASET')
    p.add_argument('--quick', action='store_true', help='a small size, for minutes')
    for flag, (default, text) in more.items():
        p.add_argument(f'--{flag}', type=type(default), default=default,
                       help=text + ' [%(default)s]' * bool(default))
    flags = p.parse_args()
    given = [f'--{k}' + ('' if v is True else f'={v}') for k, v in vars(flags).items()
             if v != p.get_default(k) and k not in ('workdir', 'data_dir')]
    command = ' '.join([f'python experiments/{name}.py', *given])
    guarded(name, lambda: main(Study(name, flags, command)))


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """Its help is the docstring at 80 columns, and the flags; what it cannot parse is one line and
    status 1."""
    p = argparse.ArgumentParser(
        prog=f'python experiments/{name}.py', description=folded(doc),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=79))
    p.error = lambda message: sys.exit(f'{name}: {message}; --help says which flags there are')
    return p


def guarded(name: str, run, kept: str = REST) -> None:
    """run(), with compiled programs kept; bad input becomes one line and status 1, an interruption
    a word that says what is kept."""
    cache.keep_compiled()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    try:
        run()
    except BadInput as e:
        sys.exit(f'{name}: {e}')
    except KeyboardInterrupt as e:
        sys.exit(f'\n{e}' if str(e) else f'\nstopped; {kept}')
