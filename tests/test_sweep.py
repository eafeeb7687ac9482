"""Sweeps: many points in one program train as they would separately."""
import csv
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import ROOT, quick, spread, thorough, virtual_devices
from gen_jax import models, parts, sweep, train
from gen_jax.types import BadInput

GB = 1e9


def config(model='vae', dataset='digits', **changed):
    built = runpy.run_path(str(ROOT / 'configs' / f'{model}.py'))['get_config'](dataset)
    built.epochs, built.eval.every, built.eval.best = 2, 1, ''
    small = {f'{group}.{k}': v for group, keys in spread(model, kind='mlp', width=(16,)).items()
             for k, v in dict(name='mlp', width=(16,), norm=built[group].norm,
                              activation=built[group].activation).items()}
    train.update(built, small | changed)
    return built


def trained(built, points, folder, mode='map', limit=GB):
    """name of a point -> its group, rows of metrics and final state."""
    result = {}
    for g in sweep.plan(built, points):
        for program, part in sweep.fitting(g, mode, limit):
            ends = sweep.follow(g, program, part, folder / sweep.label(part), say=lambda _: None)
            result |= {sweep.name(p): (g, *end) for p, end in zip(part, ends)}
    return result


def single(built, point):
    """The metrics of each epoch of a separate training of a point, and its final state."""
    run = train.prepare(sweep.changed(built, point))
    trainer, evaluate, state, rows = train.Trainer(run), train.evaluator(run), run.state, []
    for _ in range(built.epochs):
        state, named = trainer.epoch(state)
        rows.append(named | evaluate(state))
    return rows, state


def same(rows, others, **tolerance):
    assert len(rows) == len(others)
    for row, other in zip(rows, others):
        shared = row.keys() & other.keys() - {'point', 'epoch'}
        assert len(shared) > 4
        for k in shared:
            np.testing.assert_allclose(row[k], other[k], err_msg=k, **tolerance)


GRID = sweep.grid({'model.beta': [.5, 4.], 'model.latent': [2, 5], 'seed': [0, 3]})


@pytest.fixture(scope='module')
def swept(tmp_path_factory):
    return trained(config(), GRID, tmp_path_factory.mktemp('swept'))


@pytest.mark.parametrize('point', thorough(GRID[::3], GRID[3]), ids=sweep.name)
def test_a_point_equals_a_separate_training(swept, point):
    """Its latent size is below the largest; its parameters start from the values of a separate
    training.
    """
    rows, state = single(config(), point)
    g, swept_rows, swept_state = swept[sweep.name(point)]
    assert set(g.traced) == {'model.beta', 'model.latent', 'seed'} and len(g.points) == len(GRID)
    same(swept_rows, rows, rtol=1e-5, atol=1e-6)
    assert [r['epoch'] for r in swept_rows] == [1, 2]
    inside = sweep.embedded(state, g.extents, point['model.latent'], 5)
    for a, b in zip(jax.tree.leaves(inside.params), jax.tree.leaves(swept_state.params)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_weights_beyond_the_latent_size_stay_zero(swept):
    g, _, state = swept['beta=0.5,latent=2,seed=0']
    first, = (a for a in jax.tree.leaves(state.params['vae']['decoder']) if len(a) == 5)
    assert (first[:2] != 0).all() and (first[2:] == 0).all()


@pytest.mark.full
@pytest.mark.parametrize('mode, devices', [('vmap', 1), ('shard', 8)])
def test_every_way_gives_one_result(swept, mode, devices, tmp_path, environment):
    """Eight devices train a point each, in a separate process."""
    if devices == 1:
        result = {k: rows for k, (_, rows, _) in trained(config(), GRID, tmp_path, mode).items()}
    else:
        code = ('import json, sys; from pathlib import Path; import test_sweep as t; '
                'result = t.trained(t.config(**{"batch_size": 64}), t.GRID[:6], Path(sys.argv[1]), '
                '"shard"); print(json.dumps({k: r for k, (_, r, _) in result.items()}))')
        env = environment | virtual_devices(8)
        env['PYTHONPATH'] += os.pathsep + str(ROOT / 'tests')
        out = subprocess.run([sys.executable, '-c', code, str(tmp_path / 'child')], env=env,
                             capture_output=True, text=True, check=True, timeout=300).stdout
        result = json.loads(out.splitlines()[-1])
        swept = trained(config(batch_size=64), GRID[:6], tmp_path / 'one')
    assert len(result) == len(GRID) - 2 * (devices == 8)
    for name, rows in result.items():
        same(rows, swept[name][1], rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_points_that_differ_in_shapes_have_different_programs(tmp_path):
    built = config()
    groups = sweep.plan(built, sweep.grid({'batch_size': [64, 128], 'seed': [0, 1]}))
    assert [(g.run.config.batch_size, len(g.points)) for g in groups] == [(64, 2), (128, 2)]
    flow = config(**{'latents.posterior': 'iaf'})
    groups = sweep.plan(flow, sweep.grid({'model.latent': [2, 4], 'model.beta': [1., 2.]}))
    assert [g.run.config.model.latent for g in groups] == [2, 4]
    assert all(g.extents is None and len(g.points) == 2 for g in groups)
    # free bits also count for dimensions beyond the size: only with 0 are the results equal
    points = sweep.grid({'model.latent': [2, 4], 'latents.free_bits': [0., .5]})
    groups = sweep.plan(config(), points)
    assert [g.traced for g in groups] == [('latents.free_bits',)] * 2


@pytest.mark.full
def test_default_batch_of_each_point_is_what_its_data_give():
    groups = sweep.plan(config(), sweep.grid({'data.limit': [40, 1000], 'seed': [0, 1]}))
    assert [(g.run.config.batch_size, g.run.per_epoch) for g in groups] == [(40, 1), (128, 7)]


def test_points_have_different_names():
    points = sweep.grid({'seed': [10 ** 6, 10 ** 6 + 1], 'optimiser.learning_rate': [.1, .1000001]})
    assert len(set(map(sweep.name, points))) == 4
    assert sweep.numbers(config(), 'seed', '0,1,0') == [0, 1]


@pytest.mark.full
def test_numbers_that_cannot_be_traced_jointly_are_not():
    """instance_noise_steps can be traced only where there is no noise."""
    built = config('gan', **{'net.norm': 'none', 'discriminator_net.norm': 'none'})
    groups = sweep.plan(built, sweep.grid({'discriminator.instance_noise': [.1, .2],
                                          'discriminator.instance_noise_steps': [9, 10]}))
    assert [g.traced for g in groups] == [('discriminator.instance_noise',)] * 2


NAMES = sorted(m.name for m in pkgutil.iter_modules(models.__path__))
DATASETS = dict(colorize='photos', deepfake='faces', text='text')


@pytest.mark.parametrize('name', thorough(
    [n for n in NAMES if n not in DATASETS and n != 'classifier'], 'vae'))
def test_a_traced_number_trains_as_a_written_one(name):
    """All traceable numbers of a model at once."""
    built = config(name)
    built.model.latent = built.model.latent or 5
    run = train.prepare(built)
    make, example = train.maker(run.config, run.known, run.layout), run.known.example
    groups = 'model', *parts.find_parts(train.find_model(name).make)

    def traceable(numbers, candidates):
        """`numbers` and all candidates, or what is left after trying halves of them."""
        if sweep.traceable(run, numbers | candidates):
            return numbers | candidates
        if len(candidates) == 1:
            return numbers
        keys = list(candidates)
        for half in keys[:len(keys) // 2], keys[len(keys) // 2:]:
            numbers = traceable(numbers, {k: candidates[k] for k in half})
        return numbers

    numbers = traceable({}, {
        k: v for k, v in train.leaves(built.to_dict()).items()
        if k.partition('.')[0] in groups and type(v) in (int, float) and k != sweep.LATENT})
    assert 'optimiser.learning_rate' in numbers
    example = jax.tree.map(lambda a: a[:16], example)

    def first_step(values):
        model = make(**values)
        state, result = model.step(model.init(run.key, example), example, run.key)
        return state.params, result

    written = quick(lambda: first_step(numbers))()
    traced = quick(first_step)({k: jnp.asarray(v) for k, v in numbers.items()})
    for a, b in zip(jax.tree.leaves(written), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5)


@pytest.mark.full
def test_the_numbers_of_a_penalty_share_a_program(tmp_path):
    built = config('gan', **{'net.norm': 'none', 'discriminator_net.norm': 'none', 'epochs': 1})
    points = sweep.grid({'discriminator.penalty_weight': [.1, 1.], 'model.latent': [4, 8]})
    result = trained(built, points, tmp_path)
    rows, _ = single(built, points[2])
    g, swept_rows, _ = result[sweep.name(points[2])]
    assert set(g.traced) == {'discriminator.penalty_weight', 'model.latent'}
    same(swept_rows, [{k: v for k, v in r.items() if 'grad_norm_' not in k} for r in rows],
         rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_a_loss_that_is_not_finite_stops_only_its_point(tmp_path):
    built, points = config(), sweep.grid({'optimiser.learning_rate': [1e-3, 1e30]})
    result = trained(built, points, tmp_path)
    (_, good, state), (_, bad, none) = result.values()
    assert none is None and [r['epoch'] for r in bad] == [1] and bad[0]['stopped'] < 11
    assert 'test/loss' not in bad[0]
    rows, _ = single(built, points[0])
    same(good, rows, rtol=1e-5, atol=1e-6)
    assert int(state.step) == 22


@pytest.mark.full
def test_a_sweep_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, swept):
    short = config()
    short.epochs = 1
    trained(short, GRID, tmp_path)
    again = trained(config(), GRID, tmp_path)
    for name, (_, rows, state) in again.items():
        assert rows == swept[name][1]
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(swept[name][2])):
            np.testing.assert_array_equal(a, b)


@pytest.mark.full
def test_a_sweep_that_was_asked_to_stop_goes_on_too(tmp_path, swept, monkeypatch):
    """During the first epoch, after which no evaluation is due."""
    built = config()
    built.eval.every = 2
    g, = sweep.plan(built, GRID)
    (program, part), = sweep.fitting(g, 'map', GB)

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return program.train(*args)

    with pytest.raises(train.Stopped, match='stopped by SIGTERM after epoch 1, which is saved'):
        sweep.follow(g, program._replace(train=interrupted), part, tmp_path)
    for point, (rows, state) in zip(part, sweep.follow(g, program, part, tmp_path)):
        assert rows[1] == swept[sweep.name(point)][1][1] and len(rows) == 2
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(swept[sweep.name(point)][2])):
            np.testing.assert_array_equal(a, b)


@pytest.mark.full
def test_a_grid_too_large_is_trained_in_parts(tmp_path, swept):
    points = GRID[:4]
    g, = sweep.plan(config(), points)
    complete = sweep.programs(g, points, 'map').bytes
    parts = sweep.fitting(g, 'map', .7 * complete)
    assert [p for _, part in parts for p in part] == points and len(parts) > 1
    for i, (built, part) in enumerate(parts):
        assert built.bytes <= .7 * complete
        ends = sweep.follow(g, built, part, tmp_path / str(i), say=lambda _: None)
        for point, (rows, _) in zip(part, ends, strict=True):
            same(rows, swept[sweep.name(point)][1], rtol=1e-5, atol=1e-6)
    with pytest.raises(BadInput, match='a point takes .* GB, more than the 0.000 GB'):
        sweep.fitting(g, 'map', 1.)


@pytest.mark.parametrize('key, words, message', [
    ('model.bata', '1', "unknown key 'model.bata'.*'model.beta'"),
    ('net.name', '1', "net.name cannot be swept: it is no number but 'mlp'"),
    ('net.width', '1', 'net.width cannot be swept'),
    ('model', '1', "unknown key 'model'"),
    ('model.beta', '', 'give values to sweep model.beta over'),
    ('model.beta', '1,x', "'1,x' are not values of model.beta, which is a number"),
    ('model.latent', '1.5', 'model.latent, which is an integer'),
    ('seed', '0,2147483648', 'seed must be below 2,147,483,648, not 2147483648')])
def test_what_cannot_be_swept_is_refused(key, words, message):
    with pytest.raises(BadInput, match=message):
        sweep.numbers(config(), key, words)


def test_points_that_no_model_takes_are_refused_before_any_is_trained():
    with pytest.raises(BadInput, match='latent must be at least 1, not 0'):
        sweep.plan(config(), sweep.grid({'model.latent': [0, 2]}))
    with pytest.raises(BadInput, match='smooth'):
        sweep.plan(config('gan', **{'discriminator.loss': 'hinge'}),
                   sweep.grid({'discriminator.label_smoothing': [0., .1]}))


@pytest.mark.parametrize('key, value', [('on_nan', 'skip'), ('on_nan', 'rollback'),
                                        ('parallel', 'shard_map'), ('parallel', 'fsdp')])
def test_what_a_sweep_would_pass_over_is_refused(key, value):
    with pytest.raises(BadInput, match=f'a sweep knows no {key}={value}; leave {key}='):
        sweep.plan(config(**{key: value}), GRID)


@pytest.mark.full
def test_points_are_measured_by_programs_of_the_first():
    built, traced = config('vae'), []
    g, = sweep.plan(built, GRID)

    def decode(*args, of=g.run.model.decode):
        traced.append(1)
        return of(*args)

    g = g._replace(run=g.run._replace(model=g.run.model._replace(decode=decode)))
    evaluator = sweep.Evaluator(g, ['frechet_distance', 'active_units'])
    first = evaluator(GRID[0], evaluator.start)
    count = len(traced)
    assert count and first == evaluator(GRID[0], evaluator.start) != evaluator(
        GRID[1], evaluator.start)
    assert len(traced) == count


@pytest.mark.full
def test_what_cannot_be_measured_of_a_point_is_left_out_of_it(capsys):
    """The metrics of the others do not change."""
    g, = sweep.plan(config('vae'), GRID[:2])
    for names in [], ['active_units', 'nll']:
        evaluator = sweep.Evaluator(g, names)
        complete = evaluator(GRID[0], evaluator.start)
        nan_state = evaluator.start._replace(
            params=jax.tree.map(lambda a: a * jnp.nan, evaluator.start.params))
        assert capsys.readouterr().out == ''
        assert evaluator(GRID[1], nan_state).keys() == complete.keys() - {'test/active_units'}
        assert capsys.readouterr().out == (
            f'{sweep.name(GRID[1])}: left out active_units: the codes are not finite\n')
        assert evaluator(GRID[0], evaluator.start) == complete


@pytest.mark.full
def test_a_sweep_says_a_tenth_of_its_epochs(tmp_path, capsys):
    built = config()
    built.epochs, built.eval.every = 40, 40
    g, = sweep.plan(built, GRID[:2])
    (program, part), = sweep.fitting(g, 'map', GB)
    sweep.follow(g, program, part, tmp_path)
    assert [line.split('  ')[0] for line in capsys.readouterr().out.splitlines()] == [
        f'epoch {epoch}/40 of 2 points' for epoch in range(4, 41, 4)]


# The command line


@pytest.fixture(scope='module')
def ablate(python):
    def run(*args, **options):
        return python(ROOT / 'experiments' / 'ablate.py', *args, **options)
    return run


COMMAND = ('--config=configs/vae.py', '--config.epochs=2', '--config.eval.k=10',
           '--config.net.width=(16,)')


@pytest.fixture(scope='module')
def ablated(ablate, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('ablated') / 'sweep'
    done = ablate(*COMMAND, '--sweep.model.beta=.5,2', '--sweep.model.latent=2,3',
                  '--sweep.seed=0,1', f'--workdir={workdir}')
    assert done.code == 0, done.err
    return workdir, done


@pytest.mark.full
def test_a_sweep_leaves_tables_and_figures(ablated):
    workdir, done = ablated
    rows = list(csv.DictReader((workdir / 'ablate.csv').open()))
    assert len(rows) == 8 * 2
    assert {(r['model.beta'], r['model.latent'], r['seed'], r['epoch']) for r in rows} == {
        (b, d, s, e) for b in ('0.5', '2.0') for d in '23' for s in '01' for e in '12'}
    assert all(float(r['train/loss']) > 0 for r in rows)
    assert all((float(r['test/nll'] or 0) > 0) == (r['epoch'] == '2') for r in rows)
    table = (workdir / 'ablate.md').read_text()
    assert table in done.out and table.count('\n') == 2 + 4
    assert '2 of 2' in table and 'nll' in table and 'active_units' in table
    for name in 'ablate.png', 'samples.png':
        assert (workdir / name).stat().st_size > 10_000
    assert json.loads((workdir / 'summary.json').read_text())['seconds'] > 0
    assert json.loads((workdir / 'config.json').read_text())['batch_size'] == 128


@pytest.mark.full
def test_the_table_is_of_means_and_deviations_over_seeds(ablated):
    workdir, _ = ablated
    head, _, first, *_ = (workdir / 'ablate.md').read_text().splitlines()
    cells = dict(zip(*([c.strip() for c in line.strip('|').split('|')] for line in (head, first))))
    nll = [json.loads(f.read_text())['metrics']['test/nll']
           for f in sorted((workdir / 'points').glob('beta=0.5,latent=2,seed=*.json'))]
    mean, deviation = cells['nll'].split(' +- ')
    assert float(mean) == pytest.approx(np.mean(nll), rel=1e-3)
    assert float(deviation) == pytest.approx(np.std(nll), rel=.06)


@pytest.mark.full
def test_a_finished_sweep_trains_nothing(ablated, ablate):
    workdir, before = ablated
    done = ablate(*COMMAND, '--sweep.model.beta=.5,2', '--sweep.model.latent=2,3',
                  '--sweep.seed=0,1', f'--workdir={workdir}')
    assert done.code == 0 and 'epoch' not in done.out and 'measuring' not in done.out
    assert done.out.splitlines()[0] == f'8 points of vae on digits, in {workdir}'
    assert done.out.splitlines()[1] == before.out.splitlines()[-7]  # the table's head


@pytest.mark.full
def test_dry_prints_the_plan_and_trains_nothing(ablate, tmp_path):
    done = ablate(*COMMAND, '--sweep.model.beta=.5,1,2', '--sweep.batch_size=64,128', '--dry',
                  f'--workdir={tmp_path / "none"}')
    assert done.code == 0, done.err
    assert '6 points, 2 compilations, by map' in done.out
    assert done.out.count('3 points that differ in model.beta: 1 part of 0.00') == 2
    assert 'measured by nll, active_units' in done.out and not (tmp_path / 'none').exists()


@pytest.mark.parametrize('flags, message', [
    (['--sweep.model.bata=1'], "ablate: unknown key 'model.bata' to sweep, did you mean"),
    (['--sweep.net.name=1'], 'ablate: net.name cannot be swept'),
    (['--sweep.model.beta='], 'ablate: give values to sweep model.beta over'),
    ([], 'ablate: give a number to sweep'),
    ([f'--sweep.seed={",".join(map(str, range(10_001)))}'],
     'ablate: the grid has 10,001 points; give --yes for more than 10,000'),
    (['--sweep.seed=0', '--search=optuna'], 'ablate: a search needs --objective'),
    pytest.param(['--sweep.seed=0,1', '--search=optuna', '--objective=test/mig'],
                 "ablate: objective 'test/mig' is not measured", marks=pytest.mark.full),
    pytest.param(['--sweep.seed=0,1', '--objective=test/nlll'],
                 "ablate: objective 'test/nlll' is not measured, did you mean 'test/nll'?",
                 marks=pytest.mark.full),
    (['--sweep.seed=0', '--config.model.bata=1'], "ablate: unknown config key 'model.bata'")])
def test_bad_input_is_one_line(ablate, flags, message, tmp_path):
    done = ablate(*COMMAND, *flags, f'--workdir={tmp_path / "w"}')
    assert done.code == 1 and done.err.startswith(message), done.err
    assert done.err.count('\n') == 1


@pytest.mark.full
def test_a_search_of_which_no_loss_is_finite_says_so(ablate, tmp_path):
    pytest.importorskip('optuna')
    done = ablate(*COMMAND, '--sweep.optimiser.learning_rate=1e30,1e31', '--search=optuna',
                  '--trials=2', '--objective=test/loss', '--config.eval.metrics=active_units',
                  f'--workdir={tmp_path}')
    assert done.code == 0, done.err
    assert '2 of 2 trials: none with a finite loss' in done.out


@pytest.mark.full
def test_a_search_goes_on_and_finds_the_least(ablate, tmp_path):
    optuna = pytest.importorskip('optuna')
    workdir = tmp_path / 'search'
    flags = [*COMMAND, '--sweep.model.beta=.5,1,2,4', '--sweep.model.latent=2,4',
             '--search=optuna', '--objective=test/loss', '--config.eval.metrics=active_units',
             f'--workdir={workdir}']
    for trials in 1, 3:
        done = ablate(*flags, f'--trials={trials}')
        assert done.code == 0, done.err
        assert f'{trials} of {trials} trials' in done.out
    storage = f'sqlite:///{workdir}/search.db'
    name, = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert len(study.trials) == 3
    for trial in study.trials:
        result = json.loads((workdir / 'points' / f'{sweep.name(trial.params)}.json').read_text())
        assert trial.value == result['metrics']['test/loss']
    assert f'{min(t.value for t in study.trials):.4f}' in done.out

    done = ablate(*flags, '--trials=1', '--objective=test/kl')  # no trial is of this
    assert done.code == 0, done.err
    assert '1 of 1 trials' in done.out
