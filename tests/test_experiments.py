"""The experiments as a user runs them: --quick, again, and with what they must refuse."""
import ast
import csv
import importlib.util
import json

import numpy as np
from PIL import Image
import pytest

from conftest import ROOT, Result, optimised, snapshot, thorough

EXPERIMENTS = ['pca', 'reduce', 'latent', 'transfer', 'likelihood', 'latent_size', 'disentangle',
               'modes', 'stacked']
COMPUTING = 'pca', 'reduce', 'latent', 'disentangle'  # for longer than they compile


@pytest.fixture
def experiment(python):
    """experiment(name, *flags) -> Result of `python experiments/NAME.py` with them."""
    def run(name, *flags) -> Result:
        return python(ROOT / 'experiments' / f'{name}.py', *flags, timeout=900,
                      env=optimised() if name in COMPUTING else None)
    return run


def refused(result: Result, name: str, *said: str):
    """One line and status 1."""
    assert result.code == 1, result
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith(f'{name}: ')
    for word in said:
        assert word in result.err, result.err


def numbers(rows, column):
    return np.array([float(row[column]) for row in rows])


def check_pca(rows):
    assert len(rows) == 2
    assert all(row['met'] == 'True' for row in rows)
    assert (numbers(rows, 'angle') <= .01).all()
    assert (abs(numbers(rows, 'excess_train')) <= .001).all()
    assert (np.diff(numbers(rows, 'error_pca')) < 0).all()  # a longer code loses less


def check_reduce(rows):
    values = {row['method']: row for row in rows}
    umap = ['UMAP'] if importlib.util.find_spec('umap') else []
    assert list(values) == ['PCA', 'LDA', 't-SNE', *umap, 'AE', 'VAE']
    knn = {method: float(row['knn']) for method, row in values.items()}
    assert min(knn.values()) > .5 and knn['LDA'] > .6  # chance is 0.1
    assert min(knn[method] for method in ['t-SNE', *umap]) > .95
    assert min(knn['AE'], knn['VAE']) > knn['PCA'] + .05
    for measure in 'trustworthiness', 'continuity':
        assert ((numbers(rows, measure) > .75) & (numbers(rows, measure) < 1)).all()
    assert (numbers(rows, 'seconds') > 0).all()


def check_likelihood(rows):
    assert (numbers(rows, 'nll') < -numbers(rows, 'elbo')).all()  # of many codes, not of one
    assert (numbers(rows, 'nll') > 10).all() and (numbers(rows, 'nll') < 45).all()
    assert all(row['published'] == '' for row in rows)  # is of another data set


def check_latent_size(rows):
    assert [row['latent'] for row in rows] == ['2', '5', '10', '20', '40']
    assert numbers(rows, 'nll')[1] < numbers(rows, 'nll')[0] - .5  # seeds deviate by 0.25
    assert (numbers(rows, 'units') <= numbers(rows, 'latent')).all()
    np.testing.assert_allclose(numbers(rows, 'elbo'),
                               -numbers(rows, 'recon') - numbers(rows, 'kl'), rtol=1e-4)


def check_disentangle(rows):
    assert [row['model'] for row in rows] == ROWS['disentangle'].split(',')
    for score in 'mig', 'mig_sampled', 'modularity':
        assert ((numbers(rows, score) >= 0) & (numbers(rows, score) <= 1)).all()


def check_modes(rows):
    assert len(rows) == 4
    assert ((numbers(rows, 'modes') >= 0) & (numbers(rows, 'modes') <= 8)).all()
    assert numbers(rows, 'modes').max() > 4
    assert all(row['published'] == '' for row in rows)  # is of other nets


def check_stacked(rows):
    assert len(rows) == 2
    assert ((numbers(rows, 'modes') >= 1) & (numbers(rows, 'modes') <= 1000)).all()
    assert (numbers(rows, 'kl') > 0).all() and (numbers(rows, 'kl') < np.log(1000) + .5).all()
    assert all(row['published'] == '' for row in rows)  # is of another data set


CHECKS = dict(modes=check_modes, stacked=check_stacked, pca=check_pca, reduce=check_reduce,
              likelihood=check_likelihood, latent_size=check_latent_size,
              disentangle=check_disentangle)
ROWS = dict(modes='gan,packed,wasserstein,relativistic_r1r2', stacked='packed,gan_r1r2',
            likelihood='small,iwae5,ladder50,vamp',
            transfer='denoising,contractive',
            disentangle='VAE,beta-TCVAE-6-weighted')  # one of every kind


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=() if name == 'pca' else pytest.mark.full) for name in EXPERIMENTS])
def test_a_quick_experiment_leaves_table_and_figure_and_is_not_repeated(experiment, name, tmp_path):
    workdir = tmp_path / 'work'
    flags = ['--quick', f'--workdir={workdir}', *([f'--rows={ROWS[name]}'] if name in ROWS else [])]
    first = experiment(name, *flags)
    assert first.code == 0, first.err
    assert 'Traceback' not in first.err and f'[{name} 1] ' in first.out
    table, figure = workdir / f'{name}.csv', workdir / f'{name}.png'
    with table.open(newline='') as f:
        rows = list(csv.DictReader(f))
    displayed = (workdir / f'{name}.md').read_text()
    assert displayed in first.out
    assert displayed.startswith(f'| {" | ".join(rows[0])} |\n') and displayed.count(
        '\n') == len(rows) + 2
    with Image.open(figure) as image:
        pixels = np.asarray(image.convert('L'), float)
    assert min(pixels.shape) >= 400 and pixels.std() > 10
    if name in CHECKS:
        CHECKS[name](rows)

    before = snapshot(workdir)
    again = experiment(name, *flags)
    assert again.code == 0, again.err
    assert f'[{name} ' not in again.out  # with which every piece of work begins
    assert table.read_bytes() == before[f'{name}.csv']

    before = snapshot(workdir)
    refused(experiment(name, f'--workdir={workdir}'), name, 'other flags', '--workdir')
    assert snapshot(workdir) == before


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_unknown_data_set_is_refused_in_one_line(experiment, name, tmp_path):
    result = experiment(name, '--dataset=digitz', f'--workdir={tmp_path / "work"}')
    refused(result, name, "unknown data set 'digitz'", "'digits'")


@pytest.mark.parametrize('codes, said', [('2,x', 'not'), ('0', 'positive'), ('64', 'below 64')])
def test_pca_refuses_codes_that_it_cannot_compare(experiment, codes, said, tmp_path):
    result = experiment('pca', f'--codes={codes}', f'--workdir={tmp_path / "work"}')
    refused(result, 'pca', '--codes', said)


def test_reduce_refuses_data_without_three_labels(experiment, tmp_path):
    result = experiment('reduce', '--dataset=breast_cancer', f'--workdir={tmp_path / "work"}')
    refused(result, 'reduce', 'breast_cancer has 2 labels')


WITHOUT = '''
import runpy, sys
sys.modules['umap'] = None  # as if it were not installed
sys.path.insert(0, {folder!r})
runpy.run_path({folder!r} + '/reduce.py', run_name='__main__')
'''


@pytest.mark.parametrize('measured', thorough([False, True], False))
def test_reduce_without_umap_leaves_its_map_out_and_draws_the_others(python, tmp_path, measured):
    """With what has been measured, so that nothing is to be computed."""
    points, chance = tmp_path / 'work' / 'points', np.random.default_rng(0)
    points.mkdir(parents=True)
    (points / 'labels.json').write_text(json.dumps(dict(label=[0, 1, 2] * 20)))
    for method in ['pca', 'lda', 'tsne', 'ae', 'vae'] + ['umap'] * measured:
        (points / f'{method}.json').write_text(json.dumps(dict(
            knn=.5, trustworthiness=.9, continuity=.9, seconds=1.,
            map=chance.normal(size=(60, 2)).tolist())))
    (tmp_path / 'reduce.py').write_text(WITHOUT.format(folder=str(ROOT / 'experiments')))
    result = python(tmp_path / 'reduce.py', f'--workdir={tmp_path / "work"}')
    assert (result.code, result.err) == (0, ''), result
    assert ('the map by UMAP is left out' in result.out) != measured
    with (tmp_path / 'work' / 'reduce.csv').open(newline='') as f:
        methods = [row['method'] for row in csv.DictReader(f)]
    assert methods == ['PCA', 'LDA', 't-SNE', *['UMAP'] * measured, 'AE', 'VAE']
    with Image.open(tmp_path / 'work' / 'reduce.png') as image:
        pixels = np.asarray(image.convert('L'), float)
    h, w = pixels.shape
    last = pixels[3 * h // 5:, 13 * w // 20:9 * w // 10]  # in the sixth panel
    assert (last.std() > 0) == measured


HELPED = ['ablate', *EXPERIMENTS, 'speed', 'inception', 'readme']


@pytest.mark.parametrize('name', thorough(HELPED, 'ablate', 'pca'))
def test_help_is_the_experiments_question_and_flags_at_80_columns(python, name):
    script = ROOT / 'experiments' / f'{name}.py'
    result = python(script, '--help')
    assert (result.code, result.err) == (0, ''), result
    assert max(map(len, result.out.splitlines())) <= 80
    question, said = (' '.join(text.split()) for text in (
        ast.get_docstring(ast.parse(script.read_text())).splitlines()[0], result.out))
    assert question in said and f'python experiments/{name}.py' in said
    known = dict(ablate=['--sweep.KEY=A,B', '--search', '--config', '--memory'], readme=['FOLDER'],
                 inception=['OUT.safetensors'], speed=['--peer'])
    for word in known.get(name, ['--dataset', '--data_dir', '--workdir', '--quick']):
        assert word in result.out


@pytest.mark.parametrize('name, flag', [
    ('pca', '--qiuck'), *(pytest.param(*case, marks=pytest.mark.full) for case in (
        ('latent', '--seeds=x'), ('speed', '--images=x'), ('readme', '--x')))])
def test_a_flag_that_there_is_not_is_refused_in_one_line(python, name, flag):
    refused(python(ROOT / 'experiments' / f'{name}.py', flag), name, flag.partition('=')[0],
            '--help says which')


def test_disentangle_refuses_data_without_factors(experiment, tmp_path):
    result = experiment('disentangle', '--dataset=digits', f'--workdir={tmp_path / "work"}')
    refused(result, 'disentangle', 'factors of digits', 'use sprites')


@pytest.mark.parametrize('name, said', [('modes', 'modes of digits are not known'),
                                        ('stacked', 'digits is not stacked')])
def test_experiments_of_modes_refuse_other_data(experiment, name, said, tmp_path):
    refused(experiment(name, '--dataset=digits', f'--workdir={tmp_path / "work"}'), name, said)


@pytest.mark.parametrize('name, known', [('likelihood', 'iwae50'), ('disentangle', 'FactorVAE')])
def test_a_row_that_is_not_there_is_refused(experiment, name, known, tmp_path):
    result = experiment(name, f'--rows={known},iwae9', f'--workdir={tmp_path / "work"}')
    refused(result, name, "'iwae9'", known)


def test_gallery_draws_a_run_and_keeps_its_command(monkeypatch, tmp_path):
    from gen_jax import train
    monkeypatch.syspath_prepend(ROOT / 'experiments')
    import gallery
    config = train.defaults('vae', 'digits', net=dict(width=(8,)))
    config.epochs = 1
    train.train(config, tmp_path / 'vae-digits')
    monkeypatch.setattr(gallery, 'PICTURES', tmp_path)
    monkeypatch.setattr('sys.argv', ['gallery', str(tmp_path / 'vae-digits')])
    gallery.main()
    command = json.loads((tmp_path / 'commands.json').read_text())['vae']
    assert command.startswith('python -m gen_jax.main --config=configs/vae.py --config.epochs=1')
    with Image.open(tmp_path / 'vae.png') as image:
        assert image.width > 600 and np.asarray(image.convert('L'), float).std() > 10
