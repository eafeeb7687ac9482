"""A finished run is loaded without its data."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import defaults, thorough
from gen_jax import data, train
from gen_jax.train import model_info
from gen_jax.types import BadInput, Batch

pytestmark = pytest.mark.usefixtures('undrawn')
CASES = dict(ae=('ae', 'digits', dict(kind='mlp', width=(8,), latent=3)),
             static=('vae', 'digits', dict(width=(8,), latent=3)),
             vamp=('vae', 'digits', dict(width=(8,), latent=3, prior='vamp', components=4)),
             cvae=('cvae', 'digits', dict(width=(8,), latent=3)),
             real=('vae', 'breast_cancer', dict(width=(8,), latent=3, likelihood='gaussian',
                                                scale='learned')),
             text=('text', 'text', dict(width=8, latent=3)),
             faces=('deepfake', 'faces', dict(kind='mlp', width=(8,), latent=3)),
             ring=('gan', 'ring', dict(kind='mlp', width=(8,), norm='none', latent=2)))


def config_of(case):
    name, dataset, hyper = CASES[case]
    config = defaults(name, dataset, **hyper)
    config.epochs, config.data.limit, config.batch_size = 1, 256, 64
    config.data.size = 8 if dataset in ('faces', 'text') else 0
    config.eval.best = ''
    if case == 'static':
        config.data.binarize = 'static'
    return config


@pytest.fixture
def no_data(monkeypatch):
    def refuse(*args, **how):
        raise AssertionError('the data were read')
    monkeypatch.setattr(data, 'load', refuse)


@pytest.mark.parametrize('case', thorough(CASES, 'ae', 'cvae'))
def test_a_run_is_what_it_was_without_its_data(case, tmp_path, monkeypatch):
    """The same codes and examples, to the bit, and the same errors for what it cannot take."""
    train.train(config_of(case), tmp_path)
    file = tmp_path / model_info.FILE
    locked, known = file.read_bytes(), model_info.load(tmp_path)
    file.unlink()
    before, state = train.load(tmp_path)
    file.write_bytes(locked)
    assert jax.tree.all(jax.tree.map(np.array_equal, known, before.known))
    monkeypatch.setattr(data, 'load', lambda **_: pytest.fail('the data were read'))
    after, same = train.load(tmp_path)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, same))
    z = (after.model.prior(same, jax.random.key(0), 4) if after.model.prior else
         after.model.encode(same, known.example.x[:4]))
    result = [run.model.decode(same, z) for run in (before, after)]
    np.testing.assert_array_equal(*result)
    if after.model.encode:
        np.testing.assert_array_equal(*(jax.tree.leaves(run.model.encode(
            same, known.example.x[:4]))[0] for run in (before, after)))
        with pytest.raises(BadInput, match='encode of'):
            after.model.encode(same, jnp.zeros((2, 999)))
    assert (after.data.names, bool(after.data.read)) == (before.data.names, bool(before.data.read))
    assert after.per_epoch == before.per_epoch


def test_the_data_are_read_when_they_are_used(tmp_path):
    train.train(config_of('ae'), tmp_path)
    run, state = train.load(tmp_path)
    result = train.evaluator(run)(state)
    before = json.loads((tmp_path / 'summary.json').read_text())['metrics']
    assert result == {k: v for k, v in before.items() if k in result} and 'test/loss' in result
    assert len(run.data.train.x) == 256


def test_a_damaged_file_is_said_and_the_data_are_read(tmp_path, capsys):
    train.train(config_of('ae'), tmp_path)
    file = tmp_path / model_info.FILE
    complete, first = file.read_bytes(), model_info.load(tmp_path)
    for i in range(0, len(complete), len(complete) // 40):  # a byte anywhere, and an end anywhere
        for damaged in complete[:i], complete[:i] + bytes([complete[i] ^ 1]) + complete[i + 1:]:
            file.write_bytes(damaged)
            result = model_info.load(tmp_path)
            said = f'{file} cannot be read' in capsys.readouterr().out
            assert said == (result is None)
            assert said or np.array_equal(result.example.x, first.example.x)
    file.write_bytes(complete[:99])
    run, _ = train.load(tmp_path)
    assert len(run.known.example.x) == 256


@pytest.mark.parametrize('x, dtype', [
    (np.asarray(jnp.arange(256.) / 255), np.uint8),  # as values.scaled divides
    (np.float32([0, 1, 1]), np.uint8), (np.float32([.1, .5]), np.float32),
    (np.float32([-1, 0]), np.float32), (np.float32([0, 1.5]), np.float32),
    (np.int32([0, 3]), np.int32), (np.float32([]), np.float32),
    (np.nextafter(np.float32([17 / 255]), np.float32(1)), np.float32)])
def test_grey_values_are_kept_as_bytes_where_these_say_the_same(x, dtype, tmp_path):
    assert model_info.small(x).dtype == dtype
    known = model_info.ModelInfo(Batch(jnp.asarray(x)), Batch(jnp.asarray(x)), 3, 2, ('a', 'b'))
    model_info.save(tmp_path, known)
    result = model_info.load(tmp_path)
    assert result._replace(example=None, test=None) == known._replace(example=None, test=None)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(known)):
        np.testing.assert_array_equal(a, b)
        assert isinstance(a, (int, str)) or a.dtype == b.dtype
