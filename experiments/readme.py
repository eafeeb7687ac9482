"""What README shows: its table of results and its picture, from finished runs.

    python experiments/readme.py [--data_dir=DIR] RUN_DIR ...

Writes experiments/results/MODEL-DATASET.json (command, commit, seed, hardware, summary) for every
RUN_DIR, then README's table from all the files there; and docs/mnist.png from the RUN_DIRs that
are on mnist.  A run must have been made by its config as it stands.
"""
import argparse
import json
import os
from pathlib import Path
import platform
import runpy
import subprocess

import jax
from ml_collections import ConfigDict

from gen_jax import record, train

ROOT = Path(__file__).parents[1]
SHOWN = dict(ae=['test/mse'], vae=['test/elbo', 'test/recon', 'test/kl'],
             gan=['test/accuracy_real', 'test/accuracy_fake'])


def processor() -> str:
    names = [line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines()
             if line.startswith('model name')] if Path('/proc/cpuinfo').exists() else []
    return f'{os.cpu_count()} x {names[0] if names else platform.processor()}'


def result(folder: Path) -> dict:
    """A run's summary with what it takes to repeat it."""
    config = ConfigDict(json.loads((folder / 'config.json').read_text()))
    name, dataset = config.model.name, config.data.name
    ours = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config'](dataset)
    train.match(folder, config.to_dict(), json.loads(ours.to_json()))
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout.strip()
    source = '' if dataset == 'digits' else f':{dataset}'
    device = jax.devices()[0]
    return dict(command=f'python -m gen_jax.main --config=configs/{name}.py{source}',
                commit=commit, seed=config.seed, jax=jax.__version__,
                hardware=processor() if device.platform == 'cpu' else device.device_kind,
                ) | train.summary(folder)


def table() -> str:
    rows = ['| command | epochs | training time | test |', '|---|---|---|---|']
    for file in sorted((ROOT / 'experiments' / 'results').glob('*-*.json')):
        r = json.loads(file.read_text())
        tested = ', '.join(f'{k.removeprefix("test/").replace("_", " ")} {r["metrics"][k]:.4g}'
                           for k in SHOWN[r['model']])
        rows.append(f'| `{r["command"]}` | {r["epochs"]} | {r["seconds"]:.0f} s | {tested} |')
    note = f'Seed 0, {r["hardware"]}; experiments/results/ holds each in full. elbo, recon and ' \
           'kl are nats per example, mse is the mean over pixels.'
    return '\n'.join([*rows, '', note])


def picture(folders: dict[str, Path], data_dir: str | None) -> None:
    n, parts = 50, {}
    for name, folder in sorted(folders.items()):
        run, state = train.load(folder, data_dir=data_dir)
        if run.model.encode:
            x = run.data.prepare(jax.tree.map(lambda a: a[:n], run.data.test), run.key).x
            parts['test digits'] = x
            parts[f'{name}: reconstructions'] = run.model.decode(state, run.model.encode(state, x))
        if run.model.prior:
            parts[f'{name}: samples'] = run.model.decode(state, run.model.prior(run.key, n))
    record.pictures(ROOT / 'docs' / 'mnist.png', parts, columns=10)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('runs', nargs='*', type=Path)
    p.add_argument('--data_dir')
    a = p.parse_args()
    folders = {}
    for folder in a.runs:
        found = result(folder)
        name = f'{found["model"]}-{found["dataset"]}'
        record.write_json(ROOT / 'experiments' / 'results' / f'{name}.json', found)
        folders |= {found['model']: folder} if found['dataset'] == 'mnist' else {}
    before, _, rest = (ROOT / 'README.md').read_text().partition('<!-- results -->\n')
    after = rest.partition('<!-- end -->\n')[2]
    (ROOT / 'README.md').write_text(
        f'{before}<!-- results -->\n{table()}\n<!-- end -->\n{after}')
    if folders:
        picture(folders, a.data_dir)


if __name__ == '__main__':
    main()
