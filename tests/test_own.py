"""A custom model, net and data set, in files outside the package, work like those of gen_jax."""
import json

import numpy as np
import pytest

from conftest import ROOT, virtual_devices

FILES = {
    'own/robust.py': '''
"""An autoencoder that forgives outliers (Huber 1964)."""
import optax

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.types import DEFAULT_CONTEXT, Player


def make(example, context=DEFAULT_CONTEXT, *, latent: int = 4, delta: float = .1,
         net=nets.make('own.wide'), optimiser=optimisers.make()):
    """Minimises the Huber loss of a reconstruction.  Metrics: loss."""
    coder = nets.autoencoder('ae', example.x, latent, net)

    def error(y, x):
        return losses.per_example(optax.huber_loss(coder.link(y), x, delta=delta))

    def objective(state, batch, key):
        z, y, buffers = coder.train(state, batch.x)
        value = error(y, batch.x).mean()
        return value, dict(loss=value), buffers

    def evaluate(state, batch, key):
        return dict(loss=error(coder.logits(state, coder.encode(state, batch.x)), batch.x))

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
''',
    'own/wide.py': '''
"""One dense layer each way."""
import math

from flax import linen as nn

from gen_jax.nets.layers import Layers, Nets, Reshape, code_layers, dense, Block, output_layer, net


def make(*, breadth: int = 32):
    def encoder(shape, out):
        return net(Layers([Reshape((-1,)), Block(dense(breadth)), *code_layers(out, 'none')]))

    def decoder(example, latent, output, labels):
        shape = example.shape[1:]
        last = output_layer(dense(math.prod(shape)), example.mean(0), output, 'none')
        return net(Layers([Block(dense(breadth)), last, Reshape(shape)]))

    return Nets(encoder, decoder, has_norm=False)
''',
    'own/stripes.py': '''
"""Stripes, drawn whenever they are seen: of a width and a place."""
import jax.numpy as jnp
import numpy as np

from gen_jax.data.source import Source
from gen_jax.types import Batch


def load(size=8):
    def draw(x, key):
        at = jnp.arange(size)
        on = (at >= (x % size)[:, None]) & (at < (x % size + 1 + x // size)[:, None])
        return jnp.repeat(on[:, None, :, None].astype(jnp.float32), size, 1)

    place = np.random.default_rng(0).permutation(np.arange(320, dtype=np.int32) % (3 * size))
    train, test = (Batch(x, x // size) for x in np.split(place, [256]))
    return Source(train, test, draw)
''',
    'mine.py': '''
from gen_jax.train import defaults


def get_config(dataset='own.stripes'):
    config = defaults('own.robust', dataset, delta=.2)
    config.epochs, config.batch_size, config.eval.samples = 1, 64, 4
    return config
'''}


@pytest.fixture(scope='module')
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp('outside')
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def good(result):
    assert (result.code, result.err) == (0, ''), result
    return result.out


def summary(workdir):
    return json.loads((workdir / 'summary.json').read_text())


@pytest.mark.full
def test_three_files_train_resume_evaluate_and_sample(run_main, outside, tmp_path, monkeypatch):
    flags, run = ('--config=mine.py', f'--workdir={tmp_path}/run'), tmp_path / 'run'
    good(run_main(*flags, cwd=outside))
    first = summary(run)['metrics']['test/loss']
    out = good(run_main(*flags, '--config.epochs=3', cwd=outside))
    assert 'epoch 3/3' in out and summary(run)['metrics']['test/loss'] < first
    good(run_main(f'--workdir={run}', '--mode=evaluate', cwd=outside))
    assert any(key.startswith('test/probe') for key in summary(run)['metrics'])
    out = good(run_main(f'--workdir={run}', '--mode=sample', '--config.sampler=gmm', cwd=outside))
    assert (run / 'images').is_dir() and 'pictures: ' in out
    out = good(run_main('--config=mine.py', '--describe', cwd=outside))
    assert 'net.breadth=32' in out and 'model.delta=0.2' in out and 'Huber loss' in out
    monkeypatch.syspath_prepend(str(outside))
    from gen_jax import train
    loaded, state = train.load(run)
    assert int(state.step) == 12 and loaded.model.encode


@pytest.mark.full
def test_a_custom_net_and_data_set_work_with_any_model(run_main, outside, tmp_path):
    flags = (f'--config={ROOT}/configs/vae.py:own.stripes', '--config.net.name=own.wide',
             '--config.net.breadth=9', '--config.model.latent=2', '--config.epochs=1',
             '--config.eval.samples=4', f'--workdir={tmp_path}/run')
    good(run_main(*flags, cwd=outside))
    stored = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert stored['net'] == dict(name='own.wide', breadth=9)
    result = run_main(*flags, '--config.net.bredth=9', cwd=outside)
    assert "unknown config key 'net.bredth'; the nearest is 'net.breadth'" in result.err


@pytest.mark.full
def test_eight_devices_train_what_one_does(run_main, outside, tmp_path):
    rows = []
    for parallel in 'jit', 'shard_map', 'fsdp':
        env = {} if parallel == 'jit' else virtual_devices(8)
        workdir = tmp_path / parallel
        good(run_main('--config=mine.py', f'--config.parallel={parallel}', f'--workdir={workdir}',
                      env=env, cwd=outside))
        rows.append(summary(workdir)['metrics']['test/loss'])
    np.testing.assert_allclose(rows[1:], rows[0], rtol=1e-4)


@pytest.mark.full
def test_a_sweep_traces_its_numbers(python, outside, tmp_path):
    script = outside / 'ablate.py'  # in the folder of the modules, with which Python's path begins
    script.write_text(f'import runpy, sys\nsys.path.insert(0, {str(ROOT / "experiments")!r})\n'
                      f'runpy.run_path({str(ROOT / "experiments" / "ablate.py")!r}, '
                      'run_name="__main__")\n')
    result = python(script, '--config=mine.py', '--sweep.model.delta=.1,.3', '--sweep.seed=0,1',
                    f'--workdir={tmp_path}/sweep', cwd=outside, timeout=300)
    assert result.code == 0, result.err
    assert '4 points share a program' in result.out


@pytest.mark.parametrize('flags, message', [
    (['--config.net.name=own.nothing'], "net 'own.nothing' cannot be imported"),
    (['--config.net.name=own.stripes'], 'own.stripes')])
def test_what_is_no_part_is_refused_in_a_line(run_main, outside, tmp_path, flags, message):
    result = run_main('--config=mine.py', *flags, f'--workdir={tmp_path}/run', cwd=outside)
    assert result.code == 1 and message in result.err and len(result.err.splitlines()) == 1
