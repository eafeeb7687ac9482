"""Stopping at any step and resuming gives, bit by bit, the results of one run."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from conftest import ROOT, defaults, thorough
from gen_jax import checkpoint, train
from gen_jax.types import State

pytestmark = pytest.mark.usefixtures('undrawn')
EPOCHS = 3
CASES = dict(
    ae=dict(name='ae', width=(4, 3), latent=5),
    vae=dict(name='vae', width=(16,), latent=4),
    vae_batch_dynamic=dict(name='vae', width=(16,), latent=4, norm='batch', binarize='dynamic'),
    gan=dict(name='gan', width=(4, 6), latent=5, norm='batch', ema_decay=.99),
    gan_spectral=dict(name='gan', width=(8,), latent=5, kind='mlp', discriminator_norm='spectral',
                      discriminator_steps=2),
    gan_options=dict(name='gan', width=(4, 6), latent=5, norm='none', loss='relativistic',
                     penalty='r1', packing=2, update_order='simultaneous', augment='colour,cutout',
                     instance_noise=.1, instance_noise_steps=20),
    aae=dict(name='aae', width=(16,), latent=4, discriminator_width=(8,), conditional=True),
    deepfake=dict(name='deepfake', width=(4, 3), latent=5, norm='batch', identities=(3, 5)),
    factor=dict(name='factor', width=(16,), latent=4, discriminator_width=(8,)),
    vq=dict(name='vq', width=(4,), latent=3, codebook_size=8, prior_width=8),
    ladder=dict(name='ladder', width=(16,), latent=3, bottom_latent=4, k=2),
    classifier_frozen=dict(name='classifier', encoder='frozen', init='vae_batch_dynamic'),
    classifier_tuned=dict(name='classifier', encoder='finetuned', head=(8,), init='ae'))


def config_of(case, complete=None, **overrides):
    """The config of a case; `complete` gives the run that it starts from."""
    changed = dict(CASES[case])
    name, binarize = changed.pop('name'), changed.pop('binarize', 'none')
    identities, init = changed.pop('identities', ()), changed.pop('init', '')
    config = defaults(name, 'digits', **changed)
    config.data.binarize, config.epochs, config.eval.samples = binarize, EPOCHS, 4
    config.data.identities, config.init_from = identities, str(complete(init)) if init else ''
    config.batch_size = 64 if identities else 128
    best = dict(gan='', deepfake='test/recon')
    config.eval.best = best.get(name, 'test/loss')
    config.update(overrides)
    return config


def stored(workdir):
    """step -> the arrays of a checkpoint by their path, as stored on disk."""
    with checkpoint.manager(workdir / 'checkpoints') as saves:
        trees = {step: saves.restore(step, args=ocp.args.StandardRestore())
                 for step in saves.all_steps()}
    return {step: by_path(tree) for step, tree in trees.items()}


def by_path(tree):
    return {jax.tree_util.keystr(path): np.array(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def same_bits(one, other):
    assert one.keys() == other.keys()
    for path in one:
        assert one[path].dtype == other[path].dtype, path
        assert one[path].tobytes() == other[path].tobytes(), f'{path} is not the same'


def same_runs(one, other):
    """Both workdirs have the same final state, bit by bit, and the same metrics and summary."""
    first, second = stored(one), stored(other)
    assert max(first) == max(second)
    same_bits(first[max(first)], second[max(second)])
    assert (one / 'metrics.jsonl').read_text() == (other / 'metrics.jsonl').read_text()
    reported = [json.loads((w / 'summary.json').read_text()) for w in (one, other)]
    for key in 'epochs', 'steps', 'metrics':
        assert reported[0][key] == reported[1][key]


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
    """case -> the workdir of a run that was not stopped."""
    built = {}

    def get(case):
        if case not in built:
            built[case] = tmp_path_factory.mktemp('whole') / case
            train.train(config_of(case, get), built[case])
        return built[case]
    return get


@pytest.mark.parametrize('case', thorough(
    CASES, 'vae_batch_dynamic'))
def test_run_in_two_parts_is_the_run_in_one(complete, tmp_path, case):
    train.train(config_of(case, complete, epochs=1), tmp_path)
    assert len(stored(tmp_path)) == 1
    train.train(config_of(case, complete), tmp_path)
    same_runs(complete(case), tmp_path)


@pytest.mark.full
def test_run_in_three_parts_is_the_run_in_one(complete, tmp_path):
    for epochs in range(1, EPOCHS + 1):
        train.train(config_of('vae_batch_dynamic', epochs=epochs), tmp_path)
    same_runs(complete('vae_batch_dynamic'), tmp_path)


@pytest.mark.full
def test_classifier_holds_the_encoder_of_the_run_that_it_started_from(complete):
    """Frozen until the last step, with that run's last parameters and batch statistics."""
    source, classifier = (stored(complete(case))[EPOCHS * 11] for case in ('vae_batch_dynamic',
                                                                           'classifier_frozen'))
    for part in 'params', 'buffers':
        old, new = f"['{part}']['vae']", f"['{part}']['classifier']['encoder']['vae']"
        first = {k.removeprefix(old): v for k, v in source.items() if k.startswith(old)}
        same_bits(first,
                  {k.removeprefix(new): v
                   for k, v in classifier.items() if k.startswith(new)})
        assert first
    source, classifier = (stored(complete(case))[EPOCHS * 11]
                          for case in ('ae', 'classifier_tuned'))
    start = "['params']['classifier']['encoder']"
    moved = [k for k, v in classifier.items() if k.startswith(start) and "['ae']['encoder']" in k
             and v.tobytes() != source["['params']" + k.removeprefix(start)].tobytes()]
    assert moved


def test_classifier_starts_from_a_run_whose_data_are_elsewhere_now(complete, tmp_path):
    config = config_of('classifier_frozen', complete)
    config.data.dir = str(tmp_path)
    start = train.prepare(config).state.params['classifier']['encoder']
    assert start.keys() == {'vae'}


def test_a_run_is_loaded_by_its_folder_only(complete, tmp_path):
    """With the types of its config, and its data folder unless another is given."""
    shutil.copytree(complete('vae_batch_dynamic'), tmp_path / 'run')
    file = tmp_path / 'run' / 'config.json'
    config = json.loads(file.read_text())
    config['data']['dir'] = str(tmp_path)
    file.write_text(json.dumps(config))
    run, state = train.load(str(tmp_path / 'run'))
    assert run.config.net.width == (16,) and run.config.data.dir == str(tmp_path)
    assert int(state.step) == 33
    overriding = config_of('vae_batch_dynamic')
    assert train.load(tmp_path / 'run', overriding)[0].config.data.dir == str(tmp_path)
    assert overriding.data.dir is None
    overriding.data.dir = '/elsewhere'
    assert train.load(tmp_path / 'run', overriding)[0].config.data.dir == '/elsewhere'


@pytest.mark.full
def test_classifier_starts_from_the_best_state_where_the_run_says_so(complete, tmp_path):
    """By eval.checkpoint of the run that it starts from; its latest and best states differ."""
    config = config_of('classifier_tuned', complete)
    starts = {}
    for kind in 'latest', 'best':
        source = tmp_path / kind
        shutil.copytree(complete('ae'), source)
        changed = json.loads((source / 'config.json').read_text())
        changed['eval'] |= dict(checkpoint=kind, best='test/ssim')
        (source / 'config.json').write_text(json.dumps(changed))
        config.init_from = str(source)
        run, state = train.load(source)
        starts[kind] = by_path(state.params['ae']['encoder'])
        encoder = by_path(
            train.prepare(config).state.params['classifier']['encoder']['ae']['encoder'])
        same_bits(starts[kind], encoder)
    assert any(v.tobytes() != starts['best'][k].tobytes() for k, v in starts['latest'].items())


def test_checkpoint_holds_everything_that_training_changes(complete):
    paths = set(next(iter(stored(complete('gan')).values())))
    for part, players in dict(params=('discriminator', 'generator'),
                              opt=('discriminator', 'generator'), ema=('generator',),
                              buffers=('discriminator', 'generator')).items():
        for player in players:
            assert any(path.startswith(f"['{part}']['{player}']") for path in paths), (part, player)
    assert "['step']" in paths
    assert any('mean' in path for path in paths if path.startswith("['buffers']"))


def test_state_changes_in_every_part_from_epoch_to_epoch(complete):
    states = stored(complete('gan'))
    first, last = states[min(states)], states[max(states)]
    for part in 'params', 'opt', 'ema', 'buffers':
        moved = [p for p in first if p.startswith(f"['{part}']")
                 and first[p].tobytes() != last[p].tobytes()]
        assert moved, part


@pytest.mark.full
def test_run_that_is_killed_goes_on_as_if_it_had_not_been(environment, run_main, tmp_path):
    flags = ('--config=configs/vae.py', '--config.epochs=60', '--config.eval.every=1',
             '--config.net.norm=batch', '--config.net.width=(32,)')
    one, other = tmp_path / 'one', tmp_path / 'other'
    command = [sys.executable, '-m', 'gen_jax.main', *flags, f'--workdir={other}']
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    lines = other / 'metrics.jsonl'
    until = time.monotonic() + 120
    while time.monotonic() < until and not (lines.exists() and lines.read_text().count('\n') > 4):
        time.sleep(.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    reported = json.loads((other / 'summary.json').read_text())
    assert reported['epochs'] < 60
    result = run_main(*flags, f'--workdir={other}')
    assert result.code == 0 and 'going on after epoch' in result.out, result
    assert json.loads((other / 'summary.json').read_text())['seconds'] > reported['seconds'] > 0
    assert run_main(*flags, f'--workdir={one}').code == 0
    same_runs(one, other)


@pytest.mark.full
@pytest.mark.parametrize('case', ['ae', 'vae_batch_dynamic', 'gan'])
def test_steps_a_call_do_not_matter(case):
    """11 steps an epoch: one call of 11, eleven of 1, and 4 + 4 + 3."""
    values = {}
    for steps_per_call in 0, 1, 4:
        run = train.prepare(config_of(case, steps_per_call=steps_per_call))
        trainer = train.Trainer(run)
        state, named = trainer.epoch(run.state)
        values[steps_per_call] = by_path(state._asdict()), named
        assert sorted(trainer.compiled) == {0: [11], 1: [1], 4: [3, 4]}[steps_per_call]
    state, named = values[0]
    for steps_per_call in 1, 4:
        for path, value in values[steps_per_call][0].items():
            np.testing.assert_allclose(value, state[path], rtol=1e-3, atol=1e-5, err_msg=path)
        assert values[steps_per_call][1] == pytest.approx(named, rel=1e-4, abs=1e-6)


@pytest.mark.full
def test_resume_with_one_step_a_call_is_exact(tmp_path):
    one, other = tmp_path / 'one', tmp_path / 'other'
    train.train(config_of('vae', steps_per_call=4, epochs=2), one)
    for epochs in 1, 2:
        train.train(config_of('vae', steps_per_call=4, epochs=epochs), other)
    same_runs(one, other)


def test_what_is_saved_is_the_state_of_its_step_though_training_goes_on(tmp_path):
    """Saving is asynchronous, and the next call may overwrite the memory of the state."""
    run = train.prepare(config_of('vae', net=dict(width=(1500,))))
    trainer, state, recorded = train.Trainer(run), run.state, {}
    with checkpoint.manager(tmp_path, keep=8) as saves:
        for _ in range(6):
            state, _ = trainer.epoch(state)
            recorded[int(state.step)] = by_path(jax.device_get(state._asdict()))
            checkpoint.save(saves, state, {})
        saves.wait_until_finished()
        assert sorted(saves.all_steps()) == sorted(recorded)
        for step, arrays in recorded.items():
            values = saves.restore(step, args=ocp.args.StandardRestore(
                jax.tree.map(ocp.utils.to_shape_dtype_struct, run_like(run)._asdict())))
            same_bits(by_path(values), arrays)


def run_like(run) -> State:
    """A new state with the shapes of the run's state, which was donated to the first epoch."""
    return jax.eval_shape(run.model.init, run.key, jax.tree.map(
        lambda a: a[:8].astype(np.float32), run.data.train))


@pytest.mark.full
def test_state_given_to_an_epoch_is_donated():
    run = train.prepare(config_of('vae'))
    state, _ = train.Trainer(run).epoch(run.state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(run.state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_newest_few_and_the_best_are_kept(tmp_path):
    state = State(jnp.int32(0), dict(a=jnp.zeros(2)), {}, {}, {})
    with checkpoint.manager(tmp_path, keep=2, best='test/loss') as saves:
        for step, loss in enumerate([3., 1., 2., 4., 5.], 1):
            checkpoint.save(saves, state._replace(step=jnp.int32(step)), {'test/loss': loss})
        saves.wait_until_finished()
        assert sorted(saves.all_steps()) == [2, 4, 5]
    assert int(checkpoint.restore(tmp_path, state).step) == 5
    assert int(checkpoint.restore(tmp_path, state, best='test/loss').step) == 2


def test_restore_without_checkpoints_is_none(tmp_path):
    assert checkpoint.restore(tmp_path, State(np.int32(0), {}, {}, {}, {})) is None


def test_checkpoints_of_merged_files_are_read_too(tmp_path):
    """Several processes write them so, and one process did in earlier versions."""
    state = State(jnp.int32(3), dict(a=jnp.arange(4.)), {}, {}, {})
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / '3' / 'default', state._asdict())
    assert (tmp_path / '3' / 'default' / 'manifest.ocdbt').exists()
    values = checkpoint.restore(tmp_path, state)
    same_bits(by_path(values._asdict()), by_path(state._asdict()))


MANY = '''
import gc
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from gen_jax import checkpoint
from gen_jax.types import State


def memory():
    gc.collect()
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096


arrays = {str(i): jnp.ones((16, 16)) for i in range(26)}
with checkpoint.manager(Path(sys.argv[1]), best='test/loss') as saves:
    for step in range(601):
        if step == 200:
            before = memory()
        checkpoint.save(saves, State(jnp.int32(step), arrays, {}, {}, {}), {'test/loss': 1. - step})
    print((memory() - before) / 400)
'''


@pytest.mark.full
@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='tells no memory')
def test_memory_does_not_grow_with_the_number_of_saves(environment, tmp_path):
    """For a small model. Memory that stops growing after some hundreds of saves is 4 kB for each of
    these; a leak would be 50 kB.
    """
    one_heap = environment | dict(MALLOC_ARENA_MAX='1')  # the heap of each thread grows for a while
    done = subprocess.run([sys.executable, '-c', MANY, str(tmp_path)], env=one_heap, text=True,
                          capture_output=True, check=True)
    assert float(done.stdout) < 15_000 and not done.stderr
