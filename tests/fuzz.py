"""Feeds random overrides, and runs with a damaged file, to the command line.

    python tests/fuzz.py [--trials=500] [--seed=0]

Each must end in training, or in one line that says what is wrong; never in a traceback.  What is
refused must leave every file as it was.  Imports are done once: each trial is a fork of this.
"""
import argparse
import collections
import os
from pathlib import Path
import random
import runpy
import shutil
import sys
import tempfile
import traceback

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
from conftest import snapshot  # noqa: E402
from gen_jax import main as cli, train  # noqa: E402

MODELS = 'ae', 'vae', 'gan', 'cvae', 'denoising', 'classifier', 'iwae', 'vq', 'colorize', 'text'
VALUES = ('', '-1', '0', '1', '2', '3', '1e9', '-0.5', '.3', 'nan', 'inf', '1e-400', '100000000000',
          '9' * 30, 'None', 'True', '()', '(0,)', '(1,)', '(8, 8)', '[1', "'", 'a', 'mlp', 'conv',
          'digits', 'breast_cancer', 'rows:digits', 'stacked:', ':', '../..', '/dev/null', 'É ß\n',
          '%s{}', '--help', 'bernoulli', 'gaussian', 'wasserstein', 'batch', 'spectral', 'skip')
SMALL = ['--config.epochs=1', '--config.data.limit=150', '--config.eval.samples=2']


def forked(argv: list[str], out: Path) -> int:
    """The status of the command line with these arguments, in a process of its own."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with out.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        sys.argv = ['gen_jax', *argv]  # where overrides of a config are looked for too
        status = cli.guarded(sys.argv)
    except SystemExit as e:
        status = e.code or 0
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def overrides(chance: random.Random) -> list[str]:
    """A config and some keys of it, and of none, with values that may or may not do."""
    model = chance.choice(MODELS)
    known = list(train.leaves(runpy.run_path(str(ROOT / f'configs/{model}.py'))[
        'get_config']().to_dict(), but=('data.dir', 'init_from')))
    data = chance.choice(['', '', '', ':digits', ':breast_cancer', ':photos', ':', ':ring', ':x'])
    words = [f'--config=configs/{model}.py{data}', *SMALL]
    for _ in range(chance.randint(1, 3)):
        key = chance.choice(known)
        if chance.random() < .1:
            key = key[:-1] + chance.choice('xyz.')
        words.append(f'--config.{key}={chance.choice(VALUES)}')
    if chance.random() < .05:
        words.append(chance.choice(['--mode=play', '--workdir=', 'word', '--cofig=a', '--config=']))
    return words


def damage(chance: random.Random, workdir: Path) -> str:
    """Damages a file of a run; says which, and how."""
    file = chance.choice(sorted(p for p in workdir.rglob('*') if p.is_file()))
    how, raw = chance.choice(['cut', 'flip', 'garbage', 'gone', 'empty']), file.read_bytes()
    if how == 'gone':
        file.unlink()
    elif how == 'flip' and raw:
        at = chance.randrange(len(raw))
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << chance.randrange(8)]) + raw[at + 1:])
    else:
        file.write_bytes(dict(cut=raw[:chance.randrange(len(raw) + 1)], garbage=chance.randbytes(99)
                              ).get(how, b''))
    return f'{how} {file.relative_to(workdir)}'


def main(trials: int, seed: int) -> bool:
    chance, counts = random.Random(seed), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        out, complete, workdir = (folder / name for name in ('out', 'whole', 'run'))
        flags = ['--config=configs/vae.py', '--config.data.limit=150', '--config.net.width=(8,)',
                 '--config.eval.every=1']
        status = forked([*flags, '--config.epochs=3', f'--workdir={complete}'], out)
        assert status == 0, out.read_text()
        for trial in range(trials):
            shutil.rmtree(workdir, ignore_errors=True)
            if damaged := trial % 5 == 4:
                shutil.copytree(complete, workdir)
                about = damage(chance, workdir)
                argv = [*flags, '--config.epochs=4', f'--workdir={workdir}',
                        f'--mode={chance.choice(["train", "train", "evaluate", "sample"])}',
                        '--config.eval.metrics=active_units']
            else:
                argv = overrides(chance)
                about = ' '.join(argv)
                argv = [argv[0], f'--workdir={workdir}', *argv[1:]]
            before = snapshot(workdir) if workdir.exists() else {}
            status = forked(argv, out)
            said = out.read_text()
            wrong = 'Traceback' in said or status not in (0, 1)
            if status and not wrong:
                wrong = not said.strip().splitlines()[-1].startswith('gen_jax: ')
                after = snapshot(workdir) if workdir.exists() else before
                wrong |= any(after.get(k) != v for k, v in before.items() if k != 'config.json')
            if wrong:
                print(f'{about}: status {status}\n{said}', flush=True)
            end = 'wrong' if wrong else 'refused' if status else 'done'
            counts['damaged' if damaged else 'overrides', end] += 1
    print(f'{trials} trials: ' + ', '.join(f'{n} {a} {b}' for (a, b), n in sorted(counts.items())))
    return any(end == 'wrong' for _, end in counts)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--trials', type=int, default=500)
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    sys.exit(main(a.trials, a.seed))
