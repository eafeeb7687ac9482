"""What docs/results.md shows: tables of results and pictures, from finished runs and experiments.

    python experiments/readme.py FOLDER ...

A FOLDER is a run's workdir or an experiment's.  For every run, experiments/results/FOLDER.json is
written (command, commit, seed, hardware, summary), for every experiment FOLDER.json and FOLDER.csv,
and its figure goes to docs/ where the page shows it; then the tables from all the files there.
docs/MODEL.png shows the runs of PICTURED; experiments/gallery.py draws the other pictures.
"""
import json
from pathlib import Path
import runpy
import shlex
import shutil
import subprocess

from ml_collections import ConfigDict
from PIL import Image
from study import parser

from gen_jax import record, train

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'experiments' / 'results'
BOUND = ['elbo', 'recon', 'kl', 'nll', 'nll_se']
SHOWN = dict(
    ae=['mse'], vae=BOUND, cvae=BOUND, iwae=['iwae', 'elbo', 'nll', 'nll_se'],
    ladder=['iwae', 'elbo', 'nll', 'nll_se'], factor=['elbo', 'tc',
                                                      'nll'], tcvae=['elbo', 'mi', 'tc', 'nll'],
    mmd=['recon', 'kl', 'mmd', 'nll'], vq=['elbo', 'recon', 'prior_nll', 'perplexity'], **{
        name: [
            'accuracy_real', 'accuracy_fake', 'psnr', 'frechet_distance_pixels',
            'frechet_distance_pixels_floor', 'frechet_distance_classifier',
            'frechet_distance_classifier_floor', 'modes', 'high_quality', 'category_accuracy'
        ]
        for name in ('gan', 'infogan', 'vaegan', 'aae', 'bigan')
    }, denoising=['noisy_psnr', 'psnr', 'noisy_ssim',
                  'ssim'], colorize=['grey_chroma_psnr', 'chroma_psnr', 'psnr_gain'], contractive=[
                      'mse', 'jacobian'
                  ], sparse=['mse', 'active_fraction'], rae=['mse', 'squared_norm'], deepfake=[
                      'copy_psnr', 'swap_psnr', 'psnr'
                  ], classifier=['accuracy'], text=['accuracy', 'teacher_forced_accuracy'])
PICTURED = {'colorize-photos': 'colorize', 'deepfake-faces': 'deepfake', 'cvae-mnist': 'cvae',
            'infogan-digits': 'infogan'}


def commit(built: Path) -> str:
    """The commit at which a file was made."""
    then = ['git', 'log', '-1', '--format=%h', f'--until=@{built.stat().st_mtime:.0f}']
    return subprocess.run(then, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def command(config: ConfigDict) -> str:
    """What makes a run of this config: the file it comes from, and the keys that differ."""
    name, dataset = config.model.name, config.data.name
    given = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config']
    source = '' if given().data.name == dataset else f':{dataset}'
    theirs = train.leaves(json.loads(given(dataset).to_json()))
    theirs['batch_size'] = theirs['batch_size'] or train.BATCH
    ours = train.leaves(json.loads(config.to_json()))
    if ours.keys() != theirs.keys():
        raise SystemExit(f'readme: this run of {name} on {dataset} was made by another version; '
                         'make it again')
    changed = ' '.join(shlex.quote(f'--config.{k}={tuple(v) if isinstance(v, list) else v}')
                       for k, v in ours.items() if v != theirs[k] and k != 'data.dir')
    return f'python -m gen_jax.main --config=configs/{name}.py{source} {changed}'.strip()


def result(folder: Path) -> dict:
    """A run's or an experiment's summary with what it takes to repeat it."""
    if (folder / 'study.json').exists():
        built = folder / f'{folder.name.split("-")[0]}.csv'
        return dict(commit=commit(built)) | train.summary(folder)
    config = ConfigDict(train.stored_config(folder))
    return dict(command=command(config), seed=config.seed,
                commit=commit(folder / 'summary.json')) | train.summary(folder)


def quantise(source: Path, target: Path) -> None:
    """Saves a picture as a PNG of 256 colours, no larger than it is shown in docs/."""
    image = Image.open(source).convert('RGB')
    if image.width > 3000:
        image.thumbnail((1600, 1600))
    image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def picture(source: Path, name: str) -> None:
    quantise(source, ROOT / 'docs' / f'{name}.png')


def keep(folder: Path) -> None:
    """The results of a folder among those in the repository."""
    record.write_json(RESULTS / f'{folder.name}.json', result(folder))
    if (folder / 'study.json').exists():
        name = folder.name.split('-')[0]
        shutil.copy(folder / f'{name}.csv', RESULTS / f'{folder.name}.csv')
        if f'({folder.name}.png)' in (ROOT / 'docs' / 'results.md').read_text():
            picture(folder / f'{name}.png', folder.name)


def tables() -> str:
    runs = ['| command | epochs | training time | test |', '|---|---|---|---|']
    studies, machines = ['| command | time | result |', '|---|---|---|'], set()
    for file in sorted(RESULTS.glob('*.json')):
        r = json.loads(file.read_text())
        machines.add(r['hardware'])
        if 'headline' in r:
            studies.append(f'| `{r["command"]}` | {r["seconds"]:.0f} s | {r["headline"]} |')
            continue
        tested = {k.replace('_', ' '): r['metrics'].get(f'test/{k}')
                  for k in SHOWN.get(r['model'], ['loss'])}
        tested = ', '.join(f'{k} {v:.4g}' for k, v in tested.items() if v is not None)
        took = f'{r["seconds"]:.0f} s' if r['seconds'] else '(interrupted)'
        runs.append(f'| `{r["command"]}` | {r["epochs"]} | {took} | {tested} |')
    note = f'Seed 0 where no other is given, {" or ".join(sorted(machines))}; ' \
           'experiments/results/ holds each in full. elbo, recon and kl are nats per example, ' \
           'mse is the mean over dimensions, psnr and gain are dB. Other programs ran beside, so ' \
           'the times are too long rather than too short.'
    return '\n'.join([*runs, '', *studies, '', note])


def main():
    p = parser('readme', __doc__)
    p.add_argument('folders', nargs='*', type=Path, metavar='FOLDER')
    a = p.parse_args()
    for folder in a.folders:
        keep(folder)
        if folder.name in PICTURED:
            picture(folder / 'images' / 'reconstructions.png', PICTURED[folder.name])
    before, _, rest = (ROOT / 'docs' / 'results.md').read_text().partition('<!-- results -->\n')
    after = rest.partition('<!-- end -->\n')[2]
    (ROOT / 'docs' / 'results.md').write_text(
        f'{before}<!-- results -->\n{tables()}\n<!-- end -->\n{after}')


if __name__ == '__main__':
    main()
