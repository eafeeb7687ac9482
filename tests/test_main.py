"""The command line as a user runs it: the files of a run, resuming it, and errors in one line."""
import importlib.util
import json
import os
from pathlib import Path
import pkgutil
import pty
import re
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from conftest import ROOT, snapshot, thorough
from gen_jax import help, metrics, nets, samplers, train
from gen_jax.data import builtin
from gen_jax.metrics import inception
from gen_jax.types import BadInput, Batch

EPOCHS = 3
STEPS = 11  # an epoch of digits: 1438 // 128
SMALL = dict(
    ae=('--config.eval.samples=9', '--config.eval.every=1'),
    vae=('--config.eval.every=1',),
    gan=('--config.eval.every=1', '--config.model.latent=8', *(
        f'--config.{group}.{key}' for group in ('net', 'discriminator_net')
        for key in ('name=mlp', 'width=(16,)'))),
    denoising=('--config.eval.every=1', '--config.net.width=(8,4)'),
    classifier=('--config.eval.every=1',))
METRICS = dict(ae={'loss', 'mse', 'psnr', 'ssim'}, vae={'loss', 'elbo', 'recon', 'kl'},
               gan={'discriminator_loss', 'generator_loss', 'accuracy_real', 'accuracy_fake'},
               denoising={'loss', 'mse', 'noisy_mse', 'psnr', 'noisy_ssim'},
               classifier={'loss', 'accuracy'})
TESTED = {'mse', 'psnr', 'ssim', 'noisy_mse', 'noisy_ssim'}  # in evaluation only
PICTURES = dict(ae={'curves', 'reconstructions'}, vae={'curves', 'reconstructions', 'samples'},
                gan={'curves', 'samples'}, denoising={'curves', 'reconstructions'},
                classifier={'curves'})
MODEL_NAMES = sorted(m.name for m in pkgutil.iter_modules([str(ROOT / 'gen_jax' / 'models')]))
MODELS = thorough(sorted(SMALL), 'vae')


def config(name, *flags):
    return f'--config=configs/{name}.py', *SMALL[name], *flags


@pytest.fixture(scope='module')
def runs(run_main, tmp_path_factory):
    """name -> (workdir, Result) of a run of EPOCHS epochs; tests must not change it."""
    built = {}

    def get(name):
        if name not in built:
            workdir = tmp_path_factory.mktemp('runs') / name
            start = [f'--config.init_from={get("ae")[0]}',
                     f'--config.data.dir={tmp_path_factory.mktemp("unused")}'
                     ] if name == 'classifier' else []
            built[name] = workdir, run_main(*config(name, f'--config.epochs={EPOCHS}'), *start,
                                            f'--workdir={workdir}')
        return built[name]
    return get


@pytest.fixture
def copied(runs, tmp_path):
    """name -> a copy of that run's workdir, which a test may change."""
    def get(name):
        shutil.copytree(runs(name)[0], tmp_path / name)
        return tmp_path / name
    return get


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def steps_of(workdir):
    return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())


def one_line(result, *words):
    """Checks that the run was refused in one line that contains all `words`."""
    assert result.code in (1, 2), result
    assert 'Traceback' not in result.err + result.out
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith('gen_jax: ')
    for word in words:
        assert word in result.err, result.err


# Files and output of a run


@pytest.mark.parametrize('name', MODELS)
def test_training_succeeds_and_leaves_the_promised_files(runs, name):
    workdir, result = runs(name)
    assert (result.code, result.err) == (0, ''), result
    assert {p.name for p in workdir.iterdir() if 'tfevents' not in p.name} == {
        'config.json', 'example.npz', 'metrics.jsonl', 'summary.json', 'checkpoints', 'images'}
    assert steps_of(workdir) == [STEPS, 2 * STEPS, 3 * STEPS]
    assert json.loads((workdir / 'config.json').read_text())['model']['name'] == name


@pytest.mark.parametrize('name', MODELS)
def test_metrics_are_one_object_a_line_of_named_floats(runs, name):
    lines = lines_of(runs(name)[0])
    assert [(line['step'], line['epoch']) for line in lines] == [(STEPS * e, e) for e in (1, 2, 3)]
    for line in lines:
        scalars = {k: v for k, v in line.items() if k not in ('step', 'epoch')}
        assert all(isinstance(v, float) and np.isfinite(v) for v in scalars.values())
        assert all(k.startswith(('train/', 'test/')) for k in scalars)
        for side in 'train', 'test':
            expected = METRICS[name] - (TESTED if side == 'train' else set())
            assert {f'{side}/{m}' for m in expected} <= scalars.keys()


def test_elbo_is_that_of_recon_and_kl_in_nats(runs):
    for line in lines_of(runs('vae')[0]):
        for side in 'train', 'test':
            elbo, recon, kl = (line[f'{side}/{m}'] for m in ('elbo', 'recon', 'kl'))
            assert elbo == pytest.approx(-(recon + kl), rel=1e-5)
            assert line[f'{side}/loss'] == pytest.approx(-elbo, rel=1e-5)
            assert 15 < recon < 64 * np.log(2)  # the sum over 64 pixels, better than a coin


@pytest.mark.parametrize('name', MODELS)
def test_summary_tells_what_was_run(runs, name):
    workdir, _ = runs(name)
    values = json.loads((workdir / 'summary.json').read_text())
    assert set(values) == {'model', 'dataset', 'epochs', 'steps', 'seconds', 'compile_seconds',
                           'examples_per_second', 'jax', 'hardware', 'alarms', 'metrics'}
    assert (values['model'], values['dataset']) == (name, 'digits')
    assert (values['epochs'], values['steps']) == (EPOCHS, EPOCHS * STEPS)
    assert values['seconds'] > 0 and values['compile_seconds'] > 0
    assert values['examples_per_second'] == pytest.approx(EPOCHS * STEPS * 128 / values['seconds'])
    last = lines_of(workdir)[-1]
    assert values['metrics'] == {k: v for k, v in last.items() if '/' in k}


@pytest.mark.parametrize('name', MODELS)
def test_pictures_are_valid_and_not_blank(runs, name):
    files = list((runs(name)[0] / 'images').iterdir())
    assert {f.name for f in files} == {f'{p}.png' for p in PICTURES[name]}
    for file in files:
        with Image.open(file) as image:
            assert image.format == 'PNG'
            grey = np.asarray(image.convert('L'))
        h, w = grey.shape
        assert 200 < h < 4000 and 400 < w < 4000
        centre = grey[h // 4:-h // 4, w // 4:-w // 4]
        assert centre.std() > 5 and len(np.unique(centre)) > 10, file


def test_reconstructions_show_the_test_data_beside_them(runs):
    with Image.open(runs('vae')[0] / 'images' / 'reconstructions.png') as image:
        grey = np.asarray(image.convert('L'), float)
    h, w = grey.shape
    left, right = grey[h // 4:-h // 4, :w // 2], grey[h // 4:-h // 4, w // 2:]
    assert left.std() > 40 and right.std() > 10


@pytest.mark.parametrize('name', MODELS)
def test_tensorboard_events_hold_the_metrics(runs, name):
    file, = (p for p in runs(name)[0].iterdir() if 'tfevents' in p.name)
    content = file.read_bytes()
    assert len(content) > 300
    for metric in METRICS[name]:
        assert f'test/{metric}'.encode() in content


@pytest.mark.parametrize('name', MODELS)
def test_progress_is_plain_lines_without_a_terminal(runs, name):
    workdir, result = runs(name)
    assert '\r' not in result.out and '\x1b' not in result.out
    first, description, *progress, last = result.out.splitlines()
    assert first == f'{name} on digits, in {workdir}'
    assert re.fullmatch(r'[\d,]+ parameters, 1,438 training and 359 test examples of 8x8x1, on cpu',
                        description), description
    assert len(progress) == EPOCHS
    for epoch, line in enumerate(progress, 1):
        # two losses of a GAN, or a warning, leave no room for the rest
        displayed = r'.*' if name == 'gan' else r'.*train/loss \S+ .*  [\d,]+ examples/s  '
        assert re.match(fr'epoch {epoch}/{EPOCHS}  {displayed}\d+:\d\d left(  ! [a-z ]+)*$',
                        line), line
        assert len(line) < 80
    assert last.startswith('pictures: ')
    assert all(f'{workdir}/images/{p}.png' in last for p in PICTURES[name])


def test_progress_is_rewritten_in_place_on_a_terminal(environment, tmp_path):
    parent_fd, child_fd = pty.openpty()
    command = [sys.executable, '-m', 'gen_jax.main', *config('vae'), '--config.epochs=2',
               f'--workdir={tmp_path}/run']
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                             stdout=child_fd, stderr=subprocess.PIPE)
    os.close(child_fd)
    displayed = b''
    try:
        while part := os.read(parent_fd, 4096):
            displayed += part
    except OSError:  # on Linux: the other end is closed
        pass
    assert child.wait() == 0, child.stderr.read()
    child.stderr.close()
    first, *updates = displayed.decode().split('\r\x1b[Kepoch ')
    assert first.startswith('vae on digits, in ') and first.count('\n') == 2 and len(updates) == 2
    assert updates[0].startswith('1/2 ') and '\n' not in updates[0]
    assert updates[1].startswith('2/2 ') and '\npictures: ' in updates[1]


@pytest.mark.full
def test_workdir_is_by_default_named_after_config_and_data(run_main, tmp_path):
    result = run_main(f'--config={ROOT}/configs/vae.py:breast_cancer', '--config.epochs=1',
                      '--config.latents.likelihood=gaussian', cwd=tmp_path)
    assert result.code == 0, result
    assert [p.name for p in (tmp_path / 'runs').iterdir()] == ['vae-breast_cancer']
    assert {p.name for p in (tmp_path / 'runs' / 'vae-breast_cancer' / 'images').iterdir()} == {
        'curves.png', 'samples.png', 'reconstructions.png'}


@pytest.mark.full
def test_row_images_are_plotted_and_their_workdir_has_no_colon(run_main, tmp_path):
    result = run_main(f'--config={ROOT}/configs/ae.py:rows:digits', '--config.epochs=1',
                      '--config.net.name=recurrent', '--config.model.latent=4',
                      '--config.net.width=(8,)', cwd=tmp_path)
    assert (result.code, result.err) == (0, ''), result
    assert [p.name for p in (tmp_path / 'runs').iterdir()] == ['ae-rows-digits']
    grey, _ = picture(tmp_path / 'runs' / 'ae-rows-digits' / 'images' / 'reconstructions.png')
    assert grey[len(grey) // 3:-len(grey) // 3].std() > 20


def picture(file):
    """The lightness and the distance from grey of a picture, both (h, w)."""
    with Image.open(file) as image:
        rgb = np.asarray(image.convert('RGB'), float)
    return rgb.mean(2), np.ptp(rgb, 2)


@pytest.mark.full
def test_colorize_shows_grey_coloured_and_true_in_this_order(run_main, tmp_path):
    flags = ('--config=configs/colorize.py', '--config.data.size=8', '--config.data.limit=512',
             '--config.net.width=(8,8)', '--config.epochs=4', f'--workdir={tmp_path}')
    result = run_main(*flags)
    assert (result.code, result.err) == (0, ''), result
    values = json.loads((tmp_path / 'summary.json').read_text())
    assert values['dataset'] == 'photos' and values['steps'] == 16
    metrics = values['metrics']
    assert metrics['test/psnr_gain'] == pytest.approx(
        metrics['test/chroma_psnr'] - metrics['test/grey_chroma_psnr'], abs=1e-3)
    _, colour = picture(tmp_path / 'images' / 'reconstructions.png')
    h, w = colour.shape
    grey, coloured, true = (colour[h // 4:-h // 4, i * w // 3:(i + 1) * w // 3] for i in range(3))
    assert grey.max() == 0 and coloured.max() > 8 and true.mean() > 10


@pytest.mark.full
def test_faces_are_decoded_with_every_label(run_main, tmp_path):
    """The true swapped pictures have a row of their own."""
    result = run_main('--config=configs/deepfake.py', '--config.data.size=16', '--config.epochs=1',
                      '--config.data.limit=128', '--config.data.identities=(0,1)',
                      '--config.net.width=(8,8)', f'--workdir={tmp_path}')
    assert (result.code, result.err) == (0, ''), result
    metrics = json.loads((tmp_path / 'summary.json').read_text())['metrics']
    assert np.isfinite([metrics[f'test/{k}'] for k in ('recon', 'swap_psnr', 'copy_psnr')]).all()
    grey, colour = picture(tmp_path / 'images' / 'reconstructions.png')
    h, w = grey.shape
    parts = [grey[i * h // 2:(i + 1) * h // 2, j * w // 3:(j + 1) * w // 3]
             for i in (0, 1) for j in range(3)]
    blank = [part.std() < 1 for part in parts]
    assert blank == [False, False, False, True, False, False] and colour.mean() > 5


# Starting from another run


@pytest.mark.full
def test_classifier_holds_its_sources_encoder(runs):
    """The config.json of the run names the workdir of its source."""
    workdir, result = runs('classifier')
    assert result.code == 0, result
    values = json.loads((workdir / 'config.json').read_text())
    assert values['init_from'] == str(runs('ae')[0]) and values['model']['encoder'] == 'frozen'
    first, *_, last = lines_of(workdir)
    assert last['train/loss'] < first['train/loss'] and 0 <= last['test/accuracy'] <= 1


@pytest.mark.parametrize(
    'flags, start, message',
    [(['--config=configs/classifier.py'], 'nowhere', ['no run in', 'nowhere', '--mode=train']),
     pytest.param(['--config=configs/classifier.py'], 'gan',
                  ['gan', 'has no encoder', 'another --config.init_from'], marks=pytest.mark.full),
     (['--config=configs/classifier.py:breast_cancer'], 'vae', ['(8, 8, 1)', '(30,)', 'vae']),
     pytest.param(['--config=configs/vae.py'], 'ae', ['model vae cannot start', 'init'],
                  marks=pytest.mark.full),
     (['--config=configs/classifier.py', '--config.model.encoder=finetuned'
       ], '', ['finetuned encoder', '--config.init_from=DIR', 'scratch'])],
    ids=['nowhere', 'no encoder', 'other shape', 'model', 'none'])
def test_start_that_cannot_be_is_refused(run_main, runs, tmp_path, flags, start, message):
    source = runs(start)[0] if start in SMALL else start and tmp_path / start
    before = snapshot(source) if start in SMALL else {}
    result = run_main(*flags, f'--config.init_from={source}', f'--workdir={tmp_path}/run')
    one_line(result, *message)
    assert not (tmp_path / 'run').exists() and not (tmp_path / 'nowhere').exists()
    if before:
        assert snapshot(source) == before


@pytest.mark.full
def test_run_that_lacks_a_newer_key_goes_on_with_its_default(run_main, copied, tmp_path):
    """A config.json from before a key of the config existed: the run resumes, and another run can
    start from it.
    """
    workdir = copied('ae')
    stored = json.loads((workdir / 'config.json').read_text())
    del stored['init_from'], stored['data']['limit'], stored['eval']['text']
    del stored['optimiser']['clip_norm']
    (workdir / 'config.json').write_text(json.dumps(stored))
    result = run_main(*config('ae', f'--config.epochs={EPOCHS}'), f'--workdir={workdir}')
    assert 'finished' in result.out and not result.err, result
    result = run_main(*config('classifier', '--config.epochs=1'), f'--config.init_from={workdir}',
                      f'--workdir={tmp_path}/run')
    assert (result.code, result.err) == (0, ''), result


@pytest.mark.full
def test_text_given_is_written_beside_its_reconstruction(run_main, tmp_path):
    flags = ('--config=configs/text.py', '--config.data.size=8', '--config.data.limit=128',
             '--config.model.width=8', '--config.model.latent=4', f'--workdir={tmp_path}/run')
    assert run_main(*flags, '--config.epochs=1').code == 0
    result = run_main(*flags, '--mode=reconstruct', '--config.eval.text=a cat.')
    file = tmp_path / 'run' / 'reconstructions.txt'
    assert (result.code, result.err) == (0, '') and str(file) in result.out, result
    assert 'a cat.' in file.read_text()
    one_line(run_main(*flags, '--mode=reconstruct', '--config.eval.text=many a cat'), '8')


# Modes that use a run


@pytest.mark.full
def test_evaluate_gives_the_metrics_of_the_end_again_and_those_asked_for(run_main, copied):
    workdir = copied('vae')
    before = json.loads((workdir / 'summary.json').read_text())
    result = run_main(*config('vae'), f'--workdir={workdir}', '--mode=evaluate',
                      '--config.eval.metrics=nll,active_units,linear_probe', '--config.eval.k=50')
    assert result.code == 0, result
    assert f'step {EPOCHS * STEPS}, 359 test examples' in result.out
    after = json.loads((workdir / 'summary.json').read_text())
    values = after.pop('metrics')
    assert before.pop('metrics').items() <= values.items() and after == before
    for name in *METRICS['vae'], 'nll', 'nll_se', 'active_units', 'knn_accuracy':
        displayed = float(re.search(fr'^test/{name} +(\S+)$', result.out, re.MULTILINE)[1])
        assert displayed == pytest.approx(values[f'test/{name}'], abs=1e-4)
    assert values['test/nll'] < -values['test/elbo'] and 'test/mutual_information' not in values


@pytest.mark.parametrize('name', thorough(['vae', 'ae', 'gan'], 'vae'))
def test_evaluate_measures_by_itself_all_that_fits(run_main, copied, name):
    result = run_main(*config(name), f'--workdir={copied(name)}', '--mode=evaluate',
                      '--config.eval.k=20')
    assert (result.code, result.err) == (0, ''), result
    for metric, models in dict(nll=['vae'], mutual_information=['vae'], active_units=['vae', 'ae'],
                               probe_accuracy=['vae', 'ae'], frechet_distance_pixels=['vae', 'gan'],
                               mig=[], modes=[]).items():
        assert (f'test/{metric} ' in result.out) == (name in models), metric


@pytest.mark.parametrize('name, flag, message', [
    ('vae', 'metrics=nil', ['nil', "did you mean 'nll'"]),
    ('vae', 'metrics=mig', ['mig', 'factors']),
    ('gan', 'features=pixel', ["'pixel'", 'pixels, classifier or inception']),
    ('vae', 'k=0', ['eval.k', 'at least 1']),
    *(pytest.param(*case, marks=pytest.mark.full) for case in [
        ('ae', 'metrics=active_units,nll', ['nll', 'a density', 'leave it out']),
        ('ae', 'metrics=frechet_distance', ['frechet_distance', 'samples', 'this model has not']),
        ('gan', 'metrics=modes', ['modes', 'a known mixture', 'this data set has not']),
        ('gan', 'metrics=stacked', ['needs stacked images', 'this data set has not']),
        ('gan', 'features=inception', ['--config.eval.weights', 'experiments/inception.py'])])])
def test_measure_that_cannot_be_is_refused(run_main, copied, name, flag, message):
    workdir = copied(name)
    before = snapshot(workdir)
    one_line(run_main(*config(name), f'--workdir={workdir}', '--mode=evaluate',
                      f'--config.eval.{flag}'), *message)
    assert snapshot(workdir) == before


@pytest.mark.parametrize('damage, message', [
    (None, ['there is no file', 'experiments/inception.py']),
    (b'weights', ['is not a safetensors file', 'experiments/inception.py']),
    ('checksum', ['another checksum', '(000000000000)', 'experiments/inception.py'])])
def test_weights_of_inception_that_cannot_be_are_refused(run_main, copied, tmp_path, damage,
                                                         message):
    file, workdir = tmp_path / 'weights.safetensors', copied('gan')
    if damage == 'checksum':
        numpy = pytest.importorskip('safetensors.numpy')
        numpy.save_file({name: np.zeros(shape, np.float32) for name, shape in
                         inception.SHAPES.items()}, file, metadata=dict(sha256=64 * '0'))
    elif damage:
        file.write_bytes(damage)
    before = snapshot(workdir)
    one_line(run_main(*config('gan'), f'--workdir={workdir}', '--mode=evaluate',
                      '--config.eval.features=inception', f'--config.eval.weights={file}'),
             str(file), *message)
    assert snapshot(workdir) == before
    file.unlink(missing_ok=True)  # 87 MB


COMPARED = ('frechet_distance_{}', 'frechet_distance_{}_floor', 'kernel_distance_{}',
            'kernel_distance_{}_se', 'kernel_distance_{}_floor', 'precision_{}', 'recall_{}',
            'density_{}', 'coverage_{}')


def measured(result, workdir):
    """The metrics and features of an evaluation, equal on standard output and in summary.json."""
    assert (result.code, result.err) == (0, ''), result
    values = json.loads((workdir / 'summary.json').read_text())
    features = values['features']
    assert result.out.splitlines()[-1] == 'features: ' + ', '.join(
        f'{k} {v}' for k, v in features.items())
    return values['metrics'], features


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """Environment variables for a cache folder that only these tests use."""
    return dict(XDG_CACHE_HOME=str(tmp_path_factory.mktemp('cache')))


@pytest.mark.full
def test_evaluate_compares_samples_in_pixels_and_by_a_classifier_trained_once(
        run_main, copied, cache):
    workdir, digests = copied('gan'), []
    flags = (*config('gan'), f'--workdir={workdir}', '--mode=evaluate',
             '--config.eval.metrics=frechet_distance,kernel_distance,precision_recall')
    for i, name in enumerate(['pixels', 'classifier', 'classifier']):
        result = run_main(*flags, f'--config.eval.features={name}', env=cache)
        metrics, features = measured(result, workdir)
        digests.append(features.pop('sha256'))
        assert features == dict(name=name, resizer='none', split='test', examples=359, samples=359)
        assert ('training the classifier of digits once' in result.out) == (i == 1)
        for key in COMPARED:
            displayed = float(re.search(fr'^test/{key.format(name)} +(\S+)$', result.out, re.M)[1])
            assert displayed == pytest.approx(metrics[f'test/{key.format(name)}'], abs=1e-4)
        scores = {key: metrics[f'test/{key.format(name)}'] for key in COMPARED}
        assert 0 <= scores['frechet_distance_{}_floor'] < scores['frechet_distance_{}']
        assert scores['kernel_distance_{}_floor'] < scores['kernel_distance_{}'] and scores[
            'kernel_distance_{}_se'] > 0
        assert 0 <= scores['precision_{}'] <= 1 and 0 <= scores['coverage_{}'] <= 1
    assert digests[0] == 'none' and digests[1] == digests[2] and len(digests[1]) == 64
    classifier_dir, = Path(cache['XDG_CACHE_HOME'], 'gen_jax', 'classifiers').iterdir()
    assert classifier_dir.name.startswith('digits-')
    assert json.loads(
        (classifier_dir / 'summary.json').read_text())['metrics']['test/accuracy'] > .95


@pytest.mark.full
def test_evaluate_counts_the_modes_of_points(run_main, tmp_path):
    flags = ('--config=configs/gan.py:ring', '--config.net.width=(32,32)', '--config.epochs=1',
             '--config.discriminator_net.width=(32,32)', f'--workdir={tmp_path}')
    result = run_main(*flags)
    assert (result.code, result.err) == (0, ''), result
    grey, _ = picture(tmp_path / 'images' / 'samples.png')
    assert grey.std() > 5
    result = run_main(*flags, '--mode=evaluate', '--config.eval.metrics=modes,frechet_distance')
    metrics, features = measured(result, tmp_path)
    assert (features['name'], features['examples'], features['samples']) == ('pixels', 10_000,
                                                                             10_000)
    assert metrics['test/modes'] in range(1, 9) and 0 <= metrics['test/kl'] <= np.log(8)
    assert metrics['test/frechet_distance_pixels_floor'] < .01
    assert re.search(fr'^test/modes +{metrics["test/modes"]:.4f}$', result.out, re.M)
    assert 'test/high_quality ' in result.out


@pytest.mark.full
def test_evaluate_counts_the_classes_of_stacked_digits(run_main, tmp_path, cache):
    flags = ('--config=configs/gan.py:stacked:digits', '--config.net.width=(8,8)',
             '--config.discriminator_net.width=(8,8)', '--config.epochs=1', f'--workdir={tmp_path}')
    result = run_main(*flags)
    assert (result.code, result.err) == (0, ''), result
    result = run_main(*flags, '--mode=evaluate', '--config.eval.metrics=stacked',
                      '--config.eval.features=classifier', env=cache)
    metrics, features = measured(result, tmp_path)
    assert features['name'] == 'classifier'
    assert 1 <= metrics['test/modes'] <= 1000
    assert metrics['test/kl'] > 0


@pytest.mark.full
def test_gan_failures_are_reported_on_the_progress_line(run_main, tmp_path):
    result = run_main('--config=configs/gan.py', '--config.eval.every=1', '--config.epochs=2',
                      '--config.optimiser.learning_rate=1e-9', '--config.net.width=(8,16)',
                      '--config.discriminator_optimiser.learning_rate=.01',
                      '--config.discriminator_net.width=(8,16)', '--config.model.latent=8',
                      '--config.discriminator.penalty=none', f'--workdir={tmp_path}')
    assert (result.code, result.err) == (0, ''), result
    assert result.out.splitlines()[3] == (
        'epoch 2/2  ! the discriminator wins outright  ! samples are nearly all alike')


def test_levels_that_the_data_lacks_are_refused(run_main, tmp_path):
    for dataset, message in ('breast_cancer', 'data in [0, 1]'), ('digits', '30 values'):
        one_line(run_main(f'--config=configs/vae.py:{dataset}', f'--workdir={tmp_path}/run',
                          '--config.latents.likelihood=categorical', '--config.latents.levels=30'),
                 'categorical', message)
    assert not (tmp_path / 'run').exists()


@pytest.mark.full
def test_evaluate_can_use_the_best_checkpoint(run_main, copied):
    workdir = copied('ae')
    lines = lines_of(workdir)
    best = min(lines, key=lambda line: line['test/loss'])
    result = run_main(*config('ae'), f'--workdir={workdir}', '--mode=evaluate',
                      '--config.eval.checkpoint=best')
    assert result.code == 0 and f'step {best["step"]},' in result.out, result


@pytest.mark.parametrize('name, mode, picture', [
    ('vae', 'sample', 'samples'), ('vae', 'reconstruct', 'reconstructions'),
    *(pytest.param(*case, marks=pytest.mark.full) for case in (
        ('gan', 'sample', 'samples'), ('ae', 'reconstruct', 'reconstructions'),
        ('denoising', 'reconstruct', 'reconstructions')))])
def test_mode_draws_its_picture_and_changes_nothing_else(run_main, copied, name, mode, picture):
    workdir = copied(name)
    file = workdir / 'images' / f'{picture}.png'
    file.unlink()
    before = snapshot(workdir)
    result = run_main(*config(name), f'--workdir={workdir}', f'--mode={mode}')
    assert result.code == 0 and result.out.splitlines() == [
        f'{name} on digits, in {workdir}', f'pictures: {file}'], result
    after = snapshot(workdir)
    del after[f'images/{picture}.png']
    assert after == before
    with Image.open(file) as image:
        image.verify()


@pytest.mark.parametrize('name, mode, message', thorough([
    ('gan', 'reconstruct', 'encoder'), ('ae', 'sample', 'prior'),
    ('classifier', 'reconstruct', 'decoder')], ('gan', 'reconstruct', 'encoder')))
def test_mode_that_the_model_lacks_is_refused(run_main, copied, runs, name, mode, message):
    workdir = copied(name)
    before = snapshot(workdir)
    start = [f'--config.init_from={runs("ae")[0]}'] if name == 'classifier' else []
    one_line(run_main(*config(name), *start, f'--workdir={workdir}', f'--mode={mode}'), name,
             message)
    assert snapshot(workdir) == before


@pytest.mark.parametrize('name, mode, flag, message', thorough([
    ('gan', 'sample', 'eval.samples=4', '/images/samples.png'),
    ('vae', 'reconstruct', 'eval.samples=4', '/images/reconstructions.png'),
    ('vae', 'evaluate', 'eval.metrics=active_units', 'test/active_units '),
    ('ae', 'sample', 'sampler=gmm', '/images/samples-gmm.png'),
    ('classifier', 'evaluate', 'eval.batch_size=100', 'test/accuracy '),
    ('vae', 'train', f'epochs={EPOCHS}', 'this run is finished')],
    ('gan', 'sample', 'eval.samples=4', '/images/samples.png')))
def test_a_run_is_used_by_its_workdir_only(run_main, copied, name, mode, flag, message):
    """Overrides of the run need not be given again; a key that is given has effect."""
    result = run_main(f'--workdir={copied(name)}', f'--mode={mode}', f'--config.{flag}')
    assert (result.code, result.err) == (0, ''), result
    assert message in result.out


@pytest.mark.parametrize('flag, message', thorough([
    ('--config.model.latent=9', 'model.latent (there 8, here 9); leave that out'),
    ('--config.model.latnt=9', "unknown config key 'model.latnt'"),
    ('--config=configs/vae.py', "model.name (there 'gan', here 'vae'), ")],
    ('--config.model.latent=9', 'model.latent (there 8, here 9); leave that out')))
def test_what_is_not_the_run_of_the_workdir_is_refused(run_main, copied, flag, message):
    workdir = copied('gan')
    before = snapshot(workdir)
    one_line(run_main(f'--workdir={workdir}', '--mode=sample', flag), message)
    assert snapshot(workdir) == before


@pytest.mark.parametrize('mode', ['evaluate', 'sample', 'reconstruct'])
def test_mode_without_a_run_is_refused(run_main, tmp_path, mode):
    workdir = tmp_path / 'none'
    one_line(run_main(*config('vae'), f'--workdir={workdir}', f'--mode={mode}'), str(workdir),
             '--mode=train')
    assert not workdir.exists()


# The same command again


def test_finished_run_says_so_and_changes_no_file(run_main, copied):
    workdir = copied('vae')
    before = snapshot(workdir)
    result = run_main(*config('vae', f'--config.epochs={EPOCHS}'), f'--workdir={workdir}')
    assert result.code == 0 and 'finished' in result.out, result
    assert snapshot(workdir) == before


@pytest.mark.full
def test_more_epochs_go_on_where_the_run_ended(run_main, copied):
    workdir = copied('vae')
    before = lines_of(workdir)
    result = run_main(*config('vae', f'--config.epochs={EPOCHS + 1}'), f'--workdir={workdir}')
    assert result.code == 0 and f'going on after epoch {EPOCHS}' in result.out, result
    assert lines_of(workdir)[:EPOCHS] == before
    assert [line['epoch'] for line in lines_of(workdir)[EPOCHS:]] == [EPOCHS + 1]
    assert json.loads((workdir / 'summary.json').read_text())['steps'] == (EPOCHS + 1) * STEPS


@pytest.mark.parametrize('flags, message', [
    (config('vae', '--config.model.beta=2'), ['model.beta', '2.0', '1.0']),
    (config('vae', '--config.seed=7', '--config.epochs=9'), ['seed', '7']),
    (config('ae'), ['model.name', "'ae'", "'vae'"])], ids=['beta', 'seed', 'model'])
@pytest.mark.parametrize('mode', ['train', 'evaluate'])
def test_workdir_of_another_config_is_refused_and_kept(run_main, copied, flags, message, mode):
    workdir = copied('vae')
    before = snapshot(workdir)
    one_line(run_main(*flags, f'--workdir={workdir}', f'--mode={mode}'), str(workdir), *message)
    assert snapshot(workdir) == before


def test_refusal_names_only_the_keys_that_differ(run_main, copied):
    workdir = copied('vae')
    result = run_main(*config('vae', '--config.seed=7', '--config.epochs=9'),
                      f'--workdir={workdir}')
    one_line(result, 'seed')
    assert 'epochs' not in result.err and 'beta' not in result.err


# Help


def printed(result):
    """What a command printed, which fits 80 columns."""
    assert (result.code, result.err) == (0, ''), result
    assert max(map(len, result.out.splitlines())) <= 80
    return result.out


def test_help_fits_a_screen(run_main):
    out = printed(run_main('--help'))
    assert out.count('\n') <= 40
    for words in ('--config=vae', '--mode=evaluate', '--list', '--describe', '--patience',
                  'seconds of silence'):
        assert words in out


def test_the_list_has_a_line_for_all_there_is(run_main):
    out = printed(run_main('--list'))
    names = [p.stem for p in (ROOT / 'configs').glob('*.py')] + [
        *nets.NAMES, *builtin.SETS, *builtin.SIZED, *metrics.MEASURES, *samplers.SAMPLERS]
    for name in names:
        assert re.search(f'^  {name} +\\S', out, re.M), name


def test_a_description_has_the_keys_as_they_are_given(run_main):
    out = printed(run_main('--config=gan:ring', '--config.net.width=16,8', '--describe'))
    for words in ('net.width=(16,8)', 'data.name=ring', 'discriminator.penalty=r1r2',
                  'Trains the discriminator'):
        assert words in out
    refused = run_main('--config=gan', '--config.model.latnt=3', '--describe')
    one_line(refused, "'model.latent'")


@pytest.mark.parametrize('name', MODEL_NAMES)
def test_every_key_has_a_meaning(name):
    """With any net, too."""
    for net in nets.NAMES if name == 'gan' else ['']:
        config = train.defaults(name, 'digits', **dict(net=dict(name=net)) if net else {})
        known = help.known_meanings(config)
        assert [k for k in train.leaves(config.to_dict()) if not known.get(k)] == []


@pytest.mark.full
def test_a_description_of_a_workdir_is_that_of_its_run(run_main, runs):
    assert 'net.width=(16,)' in printed(run_main('--describe', f'--workdir={runs("gan")[0]}'))


def test_a_key_that_there_is_not_is_refused_in_python_too():
    config = train.defaults('vae', 'digits')
    with pytest.raises(AttributeError, match='batch'):
        config.batch = 3
    with pytest.raises(BadInput,
                       match="unknown config key 'model.bata', did you mean 'model.beta'"):
        train.update(config, {'model.bata': 1.})


def test_a_config_is_found_by_its_name_from_anywhere(run_main, tmp_path):
    result = run_main('--config=vae:ring', '--config.epochs=0', cwd=tmp_path)
    one_line(result, 'epochs must be at least 1')


# Bad input


VAE = '--config=configs/vae.py'
BAD = dict(
    config_file=(['--config=configs/vea.py'], ['configs/vea.py', 'configs/vae.py']),
    config_by_name=(['--config=vea'], ["'vea'", '--config=configs/vae.py?', 'there are aae, ae,']),
    config_by_name_with_data=(['--config=gna:mnist'], ['--config=configs/gan.py:mnist?']),
    config_that_is_none=(['--config=gen_jax/types.py'], ['types.py', 'has no get_config']),
    config_file_and_key=(['--config=configs/vea.py',
                          '--config.epochs=3'], ['configs/vea.py']), config_folder=([
                              '--config=nowhere/vae.py'
                          ], ['nowhere/vae.py']), no_config=([], ['--config=']), data_set=([
                              '--config=configs/vae.py:digtis'
                          ], ['digtis', "'digits'"]), tfds_set=(['--config=configs/vae.py:mnits'], [
                              'mnits', "'mnist'"
                          ]), model=([VAE, '--config.model.name=vea'], ['vea', "'vae'"]),
    other_model=([VAE,
                  '--config.model.name=ae'], ['beta', 'configs/ae.py']), key=([
                      VAE, '--config.epoch=3'
                  ], ["'epoch'", "'epochs'"]), key_of_model=([VAE, '--config.model.latnt=3'], [
                      'latnt', "'model.latent'"
                  ]), key_on_wrong_level=([VAE, '--config.latent=3'], [
                      "'latent'", "'model.latent'"
                  ]), key_in_wrong_group=([VAE, '--config.data.latent=3'], [
                      "'data.latent'", "'model.latent'"
                  ]), key_below_a_leaf=([VAE, '--config.seed.x=3'], ['seed']), key_after_a_space=([
                      '--config', 'configs/vae.py', '--config.model.latnt=3'
                  ], ['latnt', 'latent']), key_with_a_space=([VAE, '--config.model.latnt', '3'], [
                      'latnt', 'latent'
                  ]), mode=([VAE, '--mode=trian'], [
                      'mode must be one of train, ', "'trian', did you mean 'train'?"
                  ]), parallel=([VAE, '--config.parallel=jitt'], [
                      'jitt', 'jit, fsdp, shard_map, pmap'
                  ]), type_of_value=([VAE, '--config.batch_size=many'], [
                      ": batch_size must be an integer, not 'many'"
                  ]), type_of_hole=(['--config=configs/ae.py', '--config.model.latent=x'], [
                      ": model.latent must be an integer, not 'x'"
                  ]), type_after_another=([
                      VAE, '--config.model.beta=2', '--config.model.beta=a: b'
                  ], [": model.beta must be a number, not 'a: b'"]), type_of_choice=([
                      VAE, '--config.data.cache=maybe'
                  ], [": data.cache must be True or False, not 'maybe'"]), type_of_flag=([
                      VAE, '--patience=0'
                  ], [": patience must be a positive integer, not '0'"]), fraction_for_a_count=([
                      VAE, '--config.epochs=1.5'
                  ], [": epochs must be an integer, not '1.5'"]), latent_0=([
                      VAE, '--config.model.latent=0'
                  ], ['latent', '0', 'at least 1']), latent_negative=([
                      VAE, '--config.model.latent=-3'
                  ], ['latent', '-3', 'at least 1']), latent_0_of_ae=([
                      '--config=configs/ae.py', '--config.model.latent=0'
                  ], ['latent', '0']), latent_negative_of_gan=([
                      '--config=configs/gan.py', '--config.model.latent=-3'
                  ], ['latent', '-3']), batch_too_large=([VAE, '--config.batch_size=1439'], [
                      '1439', '1438', 'digits'
                  ]), batch_0=([VAE, '--config.batch_size=0'], ['batch', '0', 'at least 1']),
    epochs_0=([VAE, '--config.epochs=0'], ['epochs', 'at least 1']), eval_every_0=([
        VAE, '--config.eval.every=0'
    ], ['eval.every', 'at least 1']), scan_negative=([VAE, '--config.steps_per_call=-1'], [
        'steps_per_call', '-1'
    ]), best_of_no_metric=([VAE, '--config.eval.best=test/los',
                            '--config.eval.every=1'], ['test/los', 'test/loss']), binarize=([
                                VAE, '--config.data.binarize=yes'
                            ], ['yes', 'none, dynamic, static']), likelihood_of_range=([
                                '--config=configs/vae.py:breast_cancer'
                            ], ['bernoulli', '[0, 1]', 'gaussian']), loss_of_range=([
                                '--config=configs/ae.py:breast_cancer', '--config.net.name=mlp',
                                '--config.model.latent=5', '--config.model.loss=cross_entropy'
                            ], ['cross_entropy', '[0, 1]', 'mse']), unknown_likelihood=([
                                VAE, '--config.latents.likelihood=poisson'
                            ], ['poisson', 'bernoulli', 'gaussian']), unknown_net=([
                                VAE, '--config.net.name=cnn'
                            ], ["unknown net 'cnn'", 'conv', 'residual']), key_of_another_net=([
                                VAE, '--config.net.name=linear', '--config.net.width=(3,)'
                            ], ["'net.width'", "'net.norm'"]), unknown_optimiser=([
                                VAE, '--config.optimiser.name=adamw'
                            ], ["'adamw'", 'adam']), latents_that_do_not_fit=([
                                '--config=configs/tcvae.py', '--config.latents.prior=mixture'
                            ], ['latents.prior', 'mixture', 'each dimension',
                                'use normal']), unknown_norm=([VAE, '--config.net.norm=weight'], [
                                    'weight', 'none, batch, group, layer, instance, spectral'
                                ]), condition_without_labels=([
                                    '--config=configs/gan.py:stacked:digits',
                                    '--config.model.discriminator_conditioning=concat'
                                ], ['at least two labels', 'discriminator_conditioning none']),
    pack=(['--config=configs/gan.py',
           '--config.discriminator.packing=3'], ['pack 3', 'batch of 128']), penalty_of_norm=([
               '--config=configs/infogan.py', '--config.discriminator_net.norm=batch'
           ], ['penalty r1', 'batch normalisation', 'discriminator_net.norm']), penalty_of_loss=([
               '--config=configs/aae.py', '--config.discriminator.penalty=clip'
           ], ['clip', 'wasserstein', 'nonsaturating']), loss_of_game=([
               '--config=configs/bigan.py', '--config.discriminator.loss=mse'
           ], ["'mse'", 'nonsaturating', 'relativistic']), conv_on_vectors=([
               '--config=configs/ae.py:breast_cancer'
           ], ['conv', 'mlp']), colour_of_grey=(['--config=configs/colorize.py:digits'], [
               'colour images', '(8, 8, 1)', 'configs/colorize.py:photos'
           ]), identities=([
               '--config=configs/deepfake.py:digits', '--config.data.identities=(3,99)'
           ], ['digits', '99', '0, 1, 2']), one_identity=([
               '--config=configs/deepfake.py:digits', '--config.data.identities=(3,)',
               '--config.batch_size=64'
           ], ['at least two', 'data.identities']), limit=([VAE, '--config.data.limit=9999'], [
               'data.limit', '1438', '9999'
           ]), size=([VAE, '--config.data.size=16'], ['digits', 'data.size']), rows_of_vectors=([
               '--config=configs/ae.py:rows:breast_cancer'
           ], ['rows:', 'images']), empty_width=([VAE, '--config.net.width=()'], [
               'width', 'at least one'
           ]), flag=([VAE, '--worksdir=x'], [
               'no flag --worksdir, did you mean --workdir=x?', '--help'
           ]), flag_of_a_key=([VAE, '--epochs=3'], [
               'no flag --epochs, did you mean --config.epochs=3?'
           ]), flag_of_a_models_key=([VAE, '--latent', '3'], [
               'did you mean --config.model.latent=3?'
           ]), word=([VAE, 'config.epochs=3'], ['config.epochs=3', '--config.KEY=VALUE']))


SIBLINGS = {'config_by_name_with_data', 'config_that_is_none', 'type_after_another',
            'type_of_choice', 'type_of_flag', 'flag_of_a_models_key'}


@pytest.mark.parametrize('flags, message', [
    pytest.param(*case, id=name, marks=pytest.mark.full if name in SIBLINGS else ())
    for name, case in BAD.items()])
def test_bad_input_is_one_line_and_leaves_nothing(run_main, tmp_path, flags, message):
    workdir = tmp_path / 'run'
    one_line(run_main(*flags, f'--workdir={workdir}', timeout=60), *message)
    assert not workdir.exists()


@pytest.mark.full
def test_without_any_flag_the_error_names_the_remedy(run_main):
    one_line(run_main(), 'give a config', '--config=configs/vae.py', '--workdir', '--help')


@pytest.mark.parametrize('mode', thorough(['train', 'evaluate'], 'train'))
def test_model_and_data_are_named_before_data_are_read(run_main, tmp_path, mode):
    result = run_main('--config=configs/vae.py:digtis', f'--workdir={tmp_path}/run',
                      f'--mode={mode}')
    assert (result.code, result.out) == (1, f'vae on digtis, in {tmp_path}/run\n'), result


def test_workdir_below_a_file_is_refused(run_main, tmp_path):
    file = tmp_path / 'file'
    file.write_text('mine')
    one_line(run_main(*config('vae'), f'--workdir={file}/run'), f'{file}/run', '--workdir')
    assert snapshot(tmp_path) == {'file': b'mine'}


def test_workdir_that_is_a_file_is_refused(run_main, tmp_path):
    file = tmp_path / 'file'
    file.write_text('mine')
    one_line(run_main(*config('vae'), f'--workdir={file}'), str(file), '--workdir')
    assert snapshot(tmp_path) == {'file': b'mine'}


def test_damaged_config_json_is_refused_and_kept(run_main, copied):
    workdir = copied('vae')
    (workdir / 'config.json').write_text('{"seed": 0, ')
    before = snapshot(workdir)
    one_line(run_main(*config('vae'), f'--workdir={workdir}'), 'config.json', '--workdir')
    assert snapshot(workdir) == before


@pytest.mark.skipif(importlib.util.find_spec('tensorflow') is not None,
                    reason='TensorFlow is here, so sets can be prepared')
def test_set_that_is_not_prepared_names_the_remedy_at_once(run_main, tmp_path):
    workdir, folder = tmp_path / 'run', tmp_path / 'data'
    result = run_main('--config=configs/vae.py:fashion_mnist', f'--config.data.dir={folder}',
                      f'--workdir={workdir}', timeout=30)
    one_line(result, 'fashion_mnist', str(folder), "pip install '.[prepare]'", 'TFDS_DATA_DIR')
    assert not workdir.exists()


@pytest.mark.full
def test_default_batch_falls_to_what_the_data_give(tmp_path, capsys):
    built = train.defaults('vae', 'digits', net=dict(width=(8,)), latent=2)
    built.data.limit, built.epochs, built.eval.samples = 50, 1, 4
    run = train.prepare(built)
    assert (run.config.batch_size, run.per_epoch) == (50, 1)
    assert 'batch_size 50 rather than 128, as digits has 50 training examples' in capsys.readouterr(
    ).out
    train.train(built, tmp_path)
    assert json.loads((tmp_path / 'config.json').read_text())['batch_size'] == 50
    built.epochs = 2
    train.train(built, tmp_path)
    assert 'going on after epoch 1' in capsys.readouterr().out
    assert train.load(tmp_path, built)[0].config.batch_size == 50
    assert train.load(tmp_path)[0].config.batch_size == 50
    built.batch_size = 25
    with pytest.raises(BadInput, match='differs in batch_size .there 50, here 25.'):
        train.load(tmp_path, built)
    built.batch_size = 51
    with pytest.raises(BadInput, match='batch_size 51 is larger than digits, which has 50'):
        train.prepare(built)
    assert train.prepare(train.defaults('vae', 'digits')).config.batch_size == 128


@pytest.mark.parametrize('size, devices, batch', [(100, 8, 96), (1000, 6, 126), (8, 8, 8)])
def test_default_batch_is_shared_equally_by_devices(monkeypatch, size, devices, batch):
    monkeypatch.setattr(train.run.jax, 'device_count', lambda: devices)
    assert train.batched(train.defaults('vae', 'digits'), size).batch_size == batch
    with pytest.raises(BadInput, match=f'has {devices - 1} training examples, fewer than the'):
        train.batched(train.defaults('vae', 'digits'), devices - 1)


def test_pictures_and_samples_are_of_the_labels_there_are_by_name(monkeypatch):
    label = np.array([2, 5, 40])[np.arange(30) % 3]
    grey = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
    examples = Batch(grey, label)
    monkeypatch.setitem(builtin.SETS, 'mine', lambda: (examples, examples))
    run = train.prepare(train.defaults('cvae', 'mine', net=dict(width=(8,)), latent=2))
    parts = train.reconstruction_rows(run, run.state, train.test_examples(run.data, 4, run.key))
    assert list(parts) == ['test data', 'reconstructions', 'as 2', 'as 5', 'as 40']
    assert run.model.prior(run.state, run.key, 6)[1].tolist() == [0, 1, 2, 0, 1, 2]


CLIFF = '''
import jax.numpy as jnp
import optax
from gen_jax.game import game
from gen_jax.types import Player

def make(example, context, *, last: int = 25):
    """The mean of the data; from step `last` on its loss is not a number."""
    def init(key, batch):
        return jnp.zeros(batch.x.shape[1:]), {}

    def evaluate(state, batch, key):
        return dict(loss=((batch.x - state.params['mean']) ** 2).sum((1, 2, 3)))

    def loss(state, batch, key):
        value = jnp.where(state.step < last, evaluate(state, batch, key)['loss'].mean(), jnp.nan)
        return value, dict(loss=value), {}

    return game(dict(mean=Player(init, loss, optax.sgd(.1))), axis=context.axis, evaluate=evaluate,
                decode=lambda state, z: state.params['mean'] + z)
'''
CONFIG = '''
from gen_jax import models
from gen_jax.train import defaults

def get_config(dataset='digits'):
    models.__path__.append({folder!r})
    config = defaults('cliff', dataset)
    config.epochs = 5
    return config
'''


@pytest.fixture(scope='module')
def nan_run(run_main, tmp_path_factory):
    """(flags, workdir, Result) of a custom model whose loss is not finite from step 25 on."""
    folder = tmp_path_factory.mktemp('nan_run')
    (folder / 'models').mkdir()
    (folder / 'models' / 'cliff.py').write_text(CLIFF)
    (folder / 'config.py').write_text(CONFIG.format(folder=str(folder / 'models')))
    flags = f'--config={folder}/config.py', f'--workdir={folder}/run'
    return flags, folder / 'run', run_main(*flags)


def test_loss_that_becomes_nan_names_the_first_step(nan_run):
    one_line(nan_run[2], 'not finite', 'step 25;')


def test_loss_that_becomes_nan_keeps_the_last_good_checkpoint(nan_run, run_main):
    flags, workdir, result = nan_run
    assert 'step 22 is kept' in result.err
    assert steps_of(workdir) == [11, 22]
    assert [line['step'] for line in lines_of(workdir)] == [11, 22]
    again = run_main(*flags, '--mode=evaluate')
    assert again.code == 0 and 'step 22,' in again.out, again


def test_loss_that_is_still_nan_on_going_on_says_the_same(nan_run, run_main):
    flags, workdir, result = nan_run
    again = run_main(*flags)
    one_line(again, 'step 25;', 'step 22 is kept')
    assert steps_of(workdir) == [11, 22]


def test_loss_that_is_nan_from_the_start_says_that_nothing_was_saved(run_main, tmp_path):
    result = run_main(*config('vae', '--config.optimiser.learning_rate=1e30'),
                      f'--workdir={tmp_path}/run')
    one_line(result, 'not finite at step 1', 'nothing was saved')


# Damaged checkpoints


def truncate(folder):
    for file in folder.rglob('*'):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:len(file.read_bytes()) // 2])


def garble(folder):
    for file in folder.rglob('*'):
        if file.is_file():
            file.write_bytes(bytes(b ^ 0x5a for b in file.read_bytes()))


def garble_arrays(folder):
    for file in (p for p in (folder / 'default').glob('params.*/*') if p.name != '.zarray'):
        content = bytearray(file.read_bytes())
        content[len(content) // 3:2 * len(content) // 3] = bytes(len(content) // 3)
        file.write_bytes(content)


def drop_arrays(folder):
    shutil.rmtree(folder / 'default')


def drop_array(folder):
    shutil.rmtree(next((folder / 'default').glob('params.*')))


def garble_names(folder):
    (folder / 'default' / '_METADATA').write_bytes(b'\xff' * 99)


def mark_unfinished(folder):
    """Renames a checkpoint as a crash while saving leaves it: orbax's name of a directory that is
    still being written.
    """
    folder.rename(folder.with_name(f'{folder.name}.orbax-checkpoint-tmp-1'))


def resumed_output(run_main, workdir, damage):
    """Damages the newest checkpoint and resumes: its epoch is trained again, with the same metrics.
    Returns the output.
    """
    lines = lines_of(workdir)
    damage(workdir / 'checkpoints' / f'{EPOCHS * STEPS}')
    result = run_main(*config('vae', f'--config.epochs={EPOCHS}'), f'--workdir={workdir}')
    assert (result.code, result.err) == (0, ''), result
    assert f'going on after epoch {EPOCHS - 1}' in result.out
    assert lines_of(workdir) == lines
    return result.out


@pytest.mark.parametrize('damage', thorough([
    truncate, garble, garble_arrays, garble_names, drop_arrays, drop_array],
    garble_arrays))
def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(run_main, copied, damage):
    workdir = copied('vae')
    output = resumed_output(run_main, workdir, damage)
    assert f'checkpoint {EPOCHS * STEPS} cannot be read' in output
    assert steps_of(workdir)[-1] == EPOCHS * STEPS
    again = run_main(*config('vae', f'--config.epochs={EPOCHS}'), f'--workdir={workdir}')
    assert 'finished' in again.out and 'cannot be read' not in again.out, again


@pytest.mark.full
def test_half_written_checkpoint_is_passed_over(run_main, copied):
    workdir = copied('vae')
    resumed_output(run_main, workdir, mark_unfinished)
    assert [p.name for p in sorted((workdir / 'checkpoints').iterdir())] == ['11', '22', '33']


@pytest.mark.parametrize('mode, damage', [
    ('train', garble), ('evaluate', garble), ('train', garble_arrays)])
def test_only_damaged_checkpoints_are_refused_and_kept(run_main, copied, mode, damage):
    workdir = copied('vae')
    for step in steps_of(workdir):
        damage(workdir / 'checkpoints' / str(step))
    before = snapshot(workdir)
    result = run_main(*config('vae', f'--config.epochs={EPOCHS}'), f'--workdir={workdir}',
                      f'--mode={mode}')
    one_line(result, f'{workdir}/checkpoints')
    assert snapshot(workdir) == before


@pytest.mark.full
def test_line_of_metrics_cut_short_by_a_crash_is_dropped(run_main, copied):
    workdir = copied('vae')
    lines = lines_of(workdir)
    with (workdir / 'metrics.jsonl').open('a') as f:
        f.write('{"step": 44, "epo')
    result = run_main(*config('vae', f'--config.epochs={EPOCHS + 1}'), f'--workdir={workdir}')
    assert result.code == 0, result
    assert lines_of(workdir)[:-1] == lines


# Start


LATE = 'tensorflow_datasets', 'orbax', 'matplotlib', 'sklearn', 'tensorboardX', 'tensorflow'
TIMED = '''
import jax, flax.linen, optax, sys, time
start = time.perf_counter()
import gen_jax.main
print(time.perf_counter() - start)
print(*{name.split('.')[0] for name in sys.modules})
'''


@pytest.fixture(scope='module')
def imported(environment):
    """(seconds, modules) of importing gen_jax.main after JAX, Flax and Optax, three times."""
    def import_once():
        out = subprocess.run([sys.executable, '-c', TIMED], cwd=ROOT, env=environment, text=True,
                             check=True, capture_output=True).stdout.splitlines()
        return float(out[0]), set(out[1].split())
    return [import_once() for _ in range(3)]


def test_main_imports_what_is_heavy_only_when_needed(imported):
    assert 'gen_jax' in imported[0][1]
    assert not imported[0][1] & set(LATE)


def test_main_adds_little_to_the_time_of_importing_jax(imported):
    assert min(seconds for seconds, _ in imported) <= .3
