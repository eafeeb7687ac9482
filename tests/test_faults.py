"""Nothing that can happen to a run loses work: signals, losses not finite, full disks, damage."""
import functools
import gc
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import ROOT, defaults, snapshot, thorough
from gen_jax import loop, record, train
from gen_jax.models import vae
from gen_jax.types import BadInput, Batch, Model, State
from test_main import one_line
from test_resume import same_runs, stored

pytestmark = pytest.mark.usefixtures('undrawn')
EPOCHS, STEPS = 4, 11


def config(**top):
    built = defaults('vae', 'digits', width=(16,), latent=4, norm='batch')
    built.epochs, built.eval.samples, built.steps_per_call, built.eval.every = EPOCHS, 4, 4, 2
    built.update(top)
    return built


FLAGS = ('--config=configs/vae.py', '--config.net.width=(16,)', '--config.model.latent=4',
         '--config.net.norm=batch', '--config.steps_per_call=4', '--config.eval.samples=4',
         f'--config.epochs={EPOCHS}', '--config.eval.every=2')  # config(), on the command line


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
    """The workdir of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp('whole')
    train.train(config(), workdir)
    return workdir


def after_calls(monkeypatch, n, act):
    """act() once training has made n calls."""
    advance, built = train.Trainer.advance, []

    def acting(self, state):
        values = advance(self, state)
        built.append(0)
        if len(built) == n:
            act()
        return values

    monkeypatch.setattr(train.Trainer, 'advance', acting)


# Signals


@pytest.mark.parametrize('calls, step', thorough([(1, 4), (3, 11), (5, 19), (6, 22)], (1, 4)),
                         ids=['in an epoch', 'between epochs', 'later', 'at an evaluation'])
@pytest.mark.parametrize('number', thorough([signal.SIGINT, signal.SIGTERM], signal.SIGTERM),
                         ids=['SIGINT', 'SIGTERM'])
def test_a_run_asked_to_stop_saves_its_step_and_goes_on(
        complete, tmp_path, monkeypatch, capfd, calls, step, number):
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        after_calls(patched, calls, lambda: os.kill(os.getpid(), number))
        with pytest.raises(train.Stopped, match=f'by {number.name} after step {step}, which is '):
            train.train(config(), tmp_path)
    assert 'finishing what is under way' in capfd.readouterr().out
    assert signal.getsignal(number) is before
    assert max(stored(tmp_path)) == step
    train.train(config(), tmp_path)
    same_runs(complete, tmp_path)


def test_a_second_interrupt_stops_at_once(complete, tmp_path, monkeypatch):
    """And what was being saved is saved, not written behind the back of the next program."""
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        after_calls(patched, 7, twice)  # the first after a save
        patched.setattr(os, 'rename', lambda *args, rename=os.rename, **how: (
            time.sleep(.4), rename(*args, **how))[1])
        with pytest.raises(KeyboardInterrupt) as interrupted:
            train.train(config(), tmp_path)
        before = snapshot(tmp_path / 'checkpoints')
        assert interrupted.type is KeyboardInterrupt
        time.sleep(.6)
        assert snapshot(tmp_path / 'checkpoints') == before
    assert list(stored(tmp_path)) == [22]
    train.train(config(), tmp_path)
    same_runs(complete, tmp_path)


@pytest.mark.full
def test_a_program_asked_to_stop_ends_with_a_word_and_status_0(environment, tmp_path):
    command = [sys.executable, '-m', 'gen_jax.main', '--config=configs/vae.py',
               '--config.epochs=100000', '--config.eval.every=20', f'--workdir={tmp_path}']
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    for start in 'vae on digits, in ', '', 'epoch 20/':
        assert child.stdout.readline().startswith(start)
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    assert 'stopped by SIGTERM after step' in out.splitlines()[-1]
    assert not (tmp_path / 'lock').exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def failing():
    raise OSError(28, 'No space left on device')


def falling_at_once():
    raise FloatingPointError(12)


def asking():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize('act, what', thorough([
    (asking, train.Stopped), (failing, BadInput), (falling_at_once, BadInput)],
    (asking, train.Stopped)))
def test_what_ends_a_run_is_said_on_a_row_of_its_own(tmp_path, monkeypatch, act, what):
    """Not behind the progress, which a terminal shows in a row without an end."""
    terminal, built = Terminal(), record.Progress
    monkeypatch.setattr(record, 'Progress', lambda *args, **how: built(*args, **how, out=terminal))
    after_calls(monkeypatch, 4, act)
    with pytest.raises(what):
        train.train(config(), tmp_path)
    assert 'epoch 1/4 ' in terminal.getvalue() and terminal.getvalue().endswith('\n')


INTERRUPTED = '''
import sys
from gen_jax import main, train, evaluation
def interrupted(*_):
    raise KeyboardInterrupt
train.train = evaluation.run_mode = interrupted
sys.exit(main.guarded(sys.argv))
'''


@pytest.mark.parametrize('mode, trained, said', [
    ('train', False, 'stopped before the first checkpoint; the same command begins anew'),
    ('train', True, 'stopped; the same command goes on from the checkpoint of step 44'),
    ('evaluate', True, 'stopped; what was measured is in {}/summary.json, and the same command '
     'measures all of it again'),
    ('sample', True, 'stopped; nothing was drawn, and the same command begins anew')])
def test_an_interruption_promises_what_is_there(python, complete, tmp_path, mode, trained, said):
    (tmp_path / 'main.py').write_text(INTERRUPTED)
    workdir = complete if trained else tmp_path / 'run'
    result = python(tmp_path / 'main.py', *FLAGS, f'--workdir={workdir}', f'--mode={mode}')
    assert (result.code, result.out) == (130, ''), result
    assert result.err == f'\n{said.format(workdir)}\n'


def test_an_interruption_is_not_lost_where_garbage_is_collected():
    """Python ignores what is raised while it is at it."""
    class Garbage:
        pass

    def interrupt(_):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10_000):  # as long as it takes to be heard
            pass

    with pytest.raises(KeyboardInterrupt), train.stop_signals() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == ['SIGINT']
        garbage = Garbage()
        garbage.itself, dying = garbage, weakref.ref(garbage, interrupt)
        del garbage
        gc.collect()
        assert dying() is None
        time.sleep(5)


def test_an_interruption_of_the_imports_is_a_word(environment, tmp_path):
    """The first package that main imports interrupts it."""
    (tmp_path / 'absl').mkdir()
    (tmp_path / 'absl' / '__init__.py').write_text('import os, signal\n'
                                                   'os.kill(os.getpid(), signal.SIGINT)\n')
    # as at a terminal, whatever this process makes of SIGINT
    program = ('import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); '
               'runpy.run_module("gen_jax.main", run_name="__main__", alter_sys=True)')
    result = subprocess.run([sys.executable, '-c', program, '--help'], cwd=ROOT, text=True,
                            env=environment | dict(PYTHONPATH=str(tmp_path)), capture_output=True,
                            timeout=60, check=False)
    assert result.returncode == 130, result
    assert (result.stdout, result.stderr) == ('', '\nstopped before anything was done\n')


# One program for a workdir


@pytest.mark.parametrize('mode', ['train', 'evaluate'])
def test_the_second_program_on_a_workdir_is_refused(run_main, complete, mode):
    before = snapshot(complete)
    with train.exclusive(complete):
        one_line(run_main(*FLAGS, '--config.epochs=9', f'--workdir={complete}', f'--mode={mode}'),
                 str(complete), f'in use by process {os.getpid()} on ')
    assert snapshot(complete) == before


def test_the_lock_of_a_dead_program_is_no_lock(complete, capsys):
    (complete / 'lock').write_text('process 1 on elsewhere')
    with train.exclusive(complete):
        assert 'process 1 on elsewhere, which had this workdir, is gone' in capsys.readouterr().out
        assert f'process {os.getpid()} ' in (complete / 'lock').read_text()
    assert not (complete / 'lock').exists()


def test_a_workdir_is_free_again_whatever_ended_its_program(tmp_path):
    with pytest.raises(ZeroDivisionError), train.exclusive(tmp_path):
        raise ZeroDivisionError
    with train.exclusive(tmp_path), pytest.raises(BadInput,
                                                  match=f'in use by process {os.getpid()} '):
        with train.exclusive(tmp_path):
            pass


# Losses that are not finite


def summing(wrong):
    """A Model that adds up its batches, and whose loss is not finite at the steps `wrong`."""
    def step(state, batch, key):
        total = state.params['a'] + batch.x.sum()
        loss = jnp.where(jnp.isin(state.step, jnp.asarray(wrong)), jnp.nan, batch.x.sum())
        return state._replace(step=state.step + 1, params=dict(a=total * loss / loss)), dict(
            loss=loss)

    return Model(init=None, step=step, evaluate=None)


@pytest.mark.parametrize('wrong', [[2], [0, 5], []])
def test_a_step_that_is_skipped_changes_nothing_but_the_count(wrong):
    x = jnp.arange(24.)
    state = State(jnp.int32(0), dict(a=jnp.float32(0)), {}, {}, {})
    run = loop.training(summing(wrong), lambda batch, key: batch, 24, 4, 6, skip=True)
    state, metrics, bad = jax.jit(run)(state, Batch(x), jax.random.key(0))
    order = jax.random.permutation(loop.stream(jax.random.key(0), loop.ORDER, 0), 24)
    kept = np.delete(np.asarray(x[order]).reshape(6, 4).sum(1), wrong)
    assert int(state.step) == 6
    np.testing.assert_allclose(state.params['a'], kept.sum(), atol=1e-3)
    np.testing.assert_allclose(metrics['loss'], kept.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics['skipped'], len(wrong) / 6, atol=1e-6)
    assert int(bad) == (wrong or [-1])[0]


def falling(monkeypatch, at, once=True):
    """VAEs whose loss is not finite at a step (all where None): with its first noise, or any."""
    make = vae.make

    @functools.wraps(make)
    def worse(example, **hyper):
        model = make(example, **hyper)

        def step(state, batch, key):
            new, metrics = model.step(state, batch, key)
            if at is None:
                return new, metrics | dict(loss=jnp.nan * metrics['loss'])
            first = loop.stream(jax.random.key(0), loop.NOISE, at)
            same = (jax.random.key_data(jax.random.split(first)[1])
                    == jax.random.key_data(key)).all()
            wrong = (state.step == at) & (same | (not once))
            return new, metrics | dict(loss=jnp.where(wrong, jnp.nan, metrics['loss']))

        return model._replace(step=step)

    monkeypatch.setattr(vae, 'make', worse)


def test_a_run_that_skips_goes_on(tmp_path, monkeypatch):
    falling(monkeypatch, 13)
    train.train(config(on_nan='skip'), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    np.testing.assert_allclose([line['train/skipped'] for line in lines], [0, 1 / STEPS, 0, 0],
                               atol=1e-6)
    assert all(np.isfinite(line['train/loss']) for line in lines)


@pytest.mark.full
def test_a_run_that_would_skip_all_of_an_epoch_stops(tmp_path, monkeypatch):
    falling(monkeypatch, None)
    with pytest.raises(BadInput, match='not finite at step 8; nothing was saved'):
        train.train(config(on_nan='skip'), tmp_path)


def test_a_run_rolls_back_to_what_was_saved_and_goes_on_otherwise(
        complete, tmp_path, monkeypatch, capsys):
    falling(monkeypatch, 25)
    train.train(config(on_nan='rollback'), tmp_path / 'one')
    assert 'not finite at step 25; back to step 22,' in capsys.readouterr().out
    lines, others = ([json.loads(line) for line in (w / 'metrics.jsonl').read_text().splitlines()]
                     for w in (tmp_path / 'one', complete))
    assert [line['epoch'] for line in lines] == [1, 2, 3, 4]
    assert lines[:2] == others[:2] and lines[2] != others[2]
    # stopped behind the rollback, it goes on as one that was not
    with monkeypatch.context() as patched:
        after_calls(patched, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(train.Stopped, match='after step 33'):
            train.train(config(on_nan='rollback'), tmp_path / 'two')
    train.train(config(on_nan='rollback'), tmp_path / 'two')
    same_runs(tmp_path / 'one', tmp_path / 'two')


def measuring(monkeypatch, name, value, at=13, evaluated=False):
    """VAEs one of whose metrics has a value at a step, or in evaluations from it on."""
    make = vae.make

    @functools.wraps(make)
    def wrong(example, **hyper):
        model = make(example, **hyper)

        def other(metrics, here):
            return metrics | {name: jnp.where(here, value, metrics[name])}

        def step(state, batch, key):
            new, metrics = model.step(state, batch, key)
            return new, other(metrics, state.step == at)

        def evaluate(state, batch, key):
            return other(model.evaluate(state, batch, key), state.step >= at)

        return model._replace(**dict(evaluate=evaluate) if evaluated else dict(step=step))

    monkeypatch.setattr(vae, 'make', wrong)


@pytest.mark.parametrize('name, value, said', [
    ('elbo', .01, 'elbo is 0.01, which cannot be above 0 at step 13; nothing was saved'),
    *(pytest.param(*case, marks=pytest.mark.full) for case in (
        ('kl', -1e25, 'kl is -1e+25, which cannot be below 0 at step 13'),
        ('recon', -.01, 'recon is -0.01, which cannot be below 0 at step 13'),
        ('kl', np.inf, 'kl is not finite at step 13')))])
def test_a_value_that_cannot_be_stops_a_run(tmp_path, monkeypatch, name, value, said):
    measuring(monkeypatch, name, value)
    with pytest.raises(BadInput) as error:
        train.train(config(), tmp_path)
    assert str(error.value).startswith(said) and '--config.precision=float32' in str(error.value)


@pytest.mark.parametrize('name, value, said', [
    ('elbo', 1e20, 'elbo is 1e+20, which cannot be above 0'),
    pytest.param('kl', np.nan, 'kl is not finite', marks=pytest.mark.full)])
def test_a_value_that_cannot_be_stops_a_run_in_an_evaluation(
        tmp_path, monkeypatch, name, value, said):
    measuring(monkeypatch, name, value, 23, evaluated=True)
    with pytest.raises(BadInput, match=f'{re.escape(said)} in the evaluation at step 44; '
                                       'the checkpoint of step 22 is kept'):
        train.train(config(), tmp_path)


@pytest.mark.full
def test_a_value_that_cannot_be_is_skipped_as_what_is_not_finite(tmp_path, monkeypatch):
    measuring(monkeypatch, 'elbo', 1e20)
    train.train(config(on_nan='skip'), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [line['train/skipped'] * STEPS for line in lines] == pytest.approx([0, 1, 0, 0])
    assert all(line['train/elbo'] < 0 for line in lines)


@pytest.mark.parametrize('n', thorough([3, 7, 11, 41], 41))
def test_means_of_ones_are_one_and_of_no_skips_nothing(n):
    """1 / n is not exact in binary."""
    model = summing([])._replace(evaluate=lambda state, batch, key: dict(one=batch.x))
    state, x = State(jnp.int32(0), dict(a=jnp.float32(0)), {}, {}, {}), Batch(jnp.ones(n))
    call = loop.training(model, lambda batch, key: batch, n, 1, n, skip=True)
    metrics = jax.jit(call)(state, x, jax.random.key(0))[1]
    assert float(metrics['loss']) == 1 and float(metrics['skipped']) == 0
    tested = loop.evaluation(model.evaluate, lambda batch, key: batch, n, 2)
    assert float(jax.jit(tested)(state, x, jax.random.key(0))['one']) == 1


@pytest.mark.full
def test_a_loss_that_explodes_is_kept_in_the_summary(tmp_path):
    built = config(epochs=2)
    built.optimiser.learning_rate, built.net.norm = 1e6, 'none'
    train.train(built, tmp_path)
    said, = json.loads((tmp_path / 'summary.json').read_text())['alarms']
    assert said.startswith('the loss, ') and said.endswith(', where it began')


@pytest.mark.full
def test_a_run_that_always_falls_stops_rolling_back(tmp_path, monkeypatch):
    falling(monkeypatch, 25, once=False)
    monkeypatch.setattr(train, 'MAX_ROLLBACKS', 2)
    with pytest.raises(BadInput, match='not finite at step 25; the checkpoint of step 22 is kept'):
        train.train(config(on_nan='rollback'), tmp_path)


# Disks and damage


@pytest.mark.full
def test_a_full_disk_is_said_in_a_line_and_what_was_saved_is_kept(
        run_main, tmp_path, tmp_path_factory):
    """A small file system in memory, which only root can make."""
    built = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=20m', 'tmpfs', str(tmp_path)],
                           capture_output=True, check=False)
    if built.returncode:
        pytest.skip(f'no file system can be mounted: {built.stderr.decode().strip()}')
    try:
        workdir, filler = tmp_path / 'run', tmp_path / 'filler'
        train.train(config(epochs=2), workdir)
        for free in 16_100_000, 10_000_000, 0:  # full after a while, before the start, altogether
            with filler.open('ab') as file:
                space = shutil.disk_usage(tmp_path).free - free
                file.write(b'x' * space)
            result = run_main(*FLAGS, f'--workdir={workdir}', '--config.epochs=300')
            one_line(result, f'{workdir} cannot be written (No space left on device)')
            assert 22 in stored(workdir)
        filler.unlink()
        again, complete = max(stored(workdir)) // 11 + 2, tmp_path_factory.mktemp('undisturbed')
        for folder in workdir, complete:  # how far it came before depends on the machine
            train.train(config(epochs=again), folder)
        same_runs(complete, workdir)
    finally:
        subprocess.run(['umount', str(tmp_path)], check=True)


def test_what_cannot_be_written_is_said_and_what_was_saved_is_kept(environment, complete, tmp_path):
    """A limit to the size of files, beyond which writing fails as on a full disk."""
    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    train.train(config(epochs=2), tmp_path)
    child = subprocess.run([sys.executable, '-m', 'gen_jax.main', *FLAGS, f'--workdir={tmp_path}'],
                           cwd=ROOT, env=environment | dict(JAX_ENABLE_COMPILATION_CACHE='false'),
                           preexec_fn=small, capture_output=True, text=True, timeout=120)
    assert child.returncode == 1, child
    assert f'gen_jax: {tmp_path} cannot be written (File too large)' in child.stderr
    assert 22 in stored(tmp_path)
    train.train(config(), tmp_path)
    same_runs(complete, tmp_path)


def test_damaged_lines_of_metrics_are_named_and_the_others_kept(complete, tmp_path, capsys):
    train.train(config(epochs=2), tmp_path)
    file = tmp_path / 'metrics.jsonl'
    one, two = file.read_text().splitlines(keepends=True)
    file.write_bytes(one.replace('"step"', '"stfp"').encode() + b'\xff\xfe{\n' + two.encode())
    train.train(config(), tmp_path)
    assert f'{file} is damaged in line 1, 2, which is left out' in capsys.readouterr().out
    lines = (complete / 'metrics.jsonl').read_text().splitlines(keepends=True)
    assert file.read_text() == ''.join(lines[1:])


@pytest.mark.full
def test_a_damaged_summary_is_made_again(complete, tmp_path, capsys):
    train.train(config(), tmp_path)
    (tmp_path / 'summary.json').write_text('{"epochs": 4')
    train.train(config(), tmp_path)
    assert 'summary.json cannot be read' in capsys.readouterr().out
    same_runs(complete, tmp_path)


@pytest.mark.full
def test_a_run_that_is_killed_four_times_ends_as_one_that_is_not(environment):
    done = subprocess.run([sys.executable, 'tests/torture.py', '--kills=4'], cwd=ROOT,
                          env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith('4 kills, ')


@pytest.mark.full
def test_random_overrides_and_damaged_files_are_refused_in_a_line_or_do(environment):
    done = subprocess.run([sys.executable, 'tests/fuzz.py', '--trials=25'], cwd=ROOT,
                          env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith('25 trials: ')
