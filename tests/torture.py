"""Kills a run at random moments until it is done, again and again: it must end as if undisturbed.

    python tests/torture.py [--kills=200] [--seed=0] [FLAGS of gen_jax.main]

The run trains, evaluates, saves and draws; a kill -9 comes at a moment drawn uniformly from the
time that an undisturbed run takes.  A run that ends is compared with that one, its parameters, its
optimisers' state and metrics.jsonl bit by bit, and the next begins.
"""
import argparse
import os
from pathlib import Path
import random
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(Path(__file__).parent))
from test_resume import same_runs  # noqa: E402

FLAGS = ['--config=configs/vae.py', '--config.epochs=40', '--config.net.width=(64,)',
         '--config.net.norm=batch', '--config.steps_per_call=4']


def started(flags: list[str], workdir: Path) -> subprocess.Popen:
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')]))
    return subprocess.Popen([sys.executable, '-m', 'gen_jax.main', *flags, f'--workdir={workdir}'],
                            cwd=root, env=os.environ | dict(PYTHONPATH=path), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(flags: list[str], workdir: Path) -> float:
    """The seconds a run takes that is left alone."""
    since = time.monotonic()
    child = started(flags, workdir)
    out = child.communicate()[0]
    assert child.returncode == 0 and 'Traceback' not in out, out
    return time.monotonic() - since


def main(kills: int, seed: int, flags: list[str]) -> str:
    chance, built, runs = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        complete = Path(folder) / 'whole'
        finished(flags, Path(folder) / 'warm')  # so that programs are compiled
        takes = finished(flags, complete)
        while built < kills:
            workdir, runs = Path(folder) / f'{runs}', runs + 1
            while built < kills:
                child = started(flags, workdir)
                try:
                    out = child.communicate(timeout=chance.uniform(0, takes))[0]
                except subprocess.TimeoutExpired:
                    child.kill()
                    out, built = child.communicate()[0], built + 1
                assert 'Traceback' not in out, out
                assert child.returncode in (0, -9), out
                if child.returncode == 0:
                    break
            finished(flags, workdir)  # goes on, or says that it is done
            same_runs(complete, workdir)
            print(f'{built} kills, {runs} runs ended as the undisturbed one', flush=True)
    return f'{built} kills, {runs} runs'


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--kills', type=int, default=200)
    p.add_argument('--seed', type=int, default=0)
    a, more = p.parse_known_args()
    print(main(a.kills, a.seed, more or FLAGS))
