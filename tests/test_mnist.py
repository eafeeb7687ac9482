"""Tests on MNIST as published; skipped where the data set is not on this machine.
`python test_mnist.py WHAT DIR` computes one of the last two.
"""
import json
from pathlib import Path
import runpy
import sys

import jax
import numpy as np
import pytest

from conftest import optimised
from gen_jax import train

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.full]


def config_of(name, folder):
    config = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config']('mnist')
    config.data.dir = str(folder)
    return config


def test_the_vae_reaches_its_elbo(run_main, mnist_dir, tmp_path):
    """784-400-20, 10 epochs, batch size 128, grey values as targets: -106.5 nats or better."""
    code, out, err = run_main('--config=configs/vae.py:mnist', f'--config.data.dir={mnist_dir}',
                              f'--workdir={tmp_path}', '--config.epochs=10', timeout=600,
                              env=optimised())
    assert code == 0, err
    result = json.loads((tmp_path / 'summary.json').read_text())['metrics']
    assert result['test/elbo'] >= -106.5
    assert result['test/elbo'] == pytest.approx(-result['test/recon'] - result['test/kl'], rel=1e-5)


def test_the_surveys_autoencoder_reaches_its_error(run_main, mnist_dir, tmp_path):
    """A mean squared error below 0.004 after 5 epochs; the survey trains for 15."""
    code, out, err = run_main('--config=configs/ae.py:mnist', f'--config.data.dir={mnist_dir}',
                              f'--workdir={tmp_path}', '--config.epochs=5', timeout=1200,
                              env=optimised())
    assert code == 0, err
    assert json.loads((tmp_path / 'summary.json').read_text())['metrics']['test/mse'] < .004


@pytest.mark.parametrize('what', ['seeds', 'samples'])
def test_all_seeds_learn_and_samples_are_not_collapsed(python, mnist_dir, what):
    done = python(__file__, what, mnist_dir, env=optimised(), timeout=1200)
    assert done.code == 0, done.err


def seeds(mnist_dir):
    """Ten of ten seeds of the autoencoder learn in 150 steps each; a failed run outputs black
    images, with an error of 0.1 or more.
    """
    config = config_of('ae', mnist_dir)
    run = train.prepare(config)
    data = run.data._replace(train=jax.tree.map(lambda a: a[:6400], run.data.train),
                             test=jax.tree.map(lambda a: a[:1000], run.data.test))
    run = run._replace(data=data, per_epoch=50)
    trainer, evaluate = train.Trainer(run), train.evaluator(run)
    example = data.prepare(jax.tree.map(lambda a: jax.numpy.asarray(a[:1024]), data.train), run.key)
    init = jax.jit(run.model.init)
    errors = []
    for seed in range(10):
        trainer.run = run._replace(key=jax.random.key(seed))
        state = run.layout.place(init(jax.random.key(seed), example))
        for _ in range(3):
            state, _ = trainer.epoch(state)
        errors.append(evaluate(state)['test/mse'])
    assert max(errors) < .025, errors


def samples(mnist_dir):
    """A classifier trained here finds all ten digits in 2,000 samples of a GAN after two epochs,
    none below 3 %.
    """
    from sklearn.neural_network import MLPClassifier
    config = config_of('gan', mnist_dir)
    run = train.prepare(config)
    real, test = run.data.train, run.data.test
    flat = lambda x: np.asarray(x, np.float32).reshape(len(x), -1)
    evaluator = MLPClassifier((128,), max_iter=8, random_state=0).fit(flat(real.x[:20000]) / 255,
                                                                      real.label[:20000])
    assert evaluator.score(flat(test.x) / 255, test.label) > .95
    trainer, state = train.Trainer(run), run.state
    for _ in range(2):
        state, _ = trainer.epoch(state)
    z = run.model.prior(state, jax.random.key(1), 2000)
    built = np.asarray(jax.jit(run.model.decode)(state, z))
    shares = np.bincount(evaluator.predict(flat(built)), minlength=10) / len(built)
    assert shares.min() > .03, shares


if __name__ == '__main__':
    globals()[sys.argv[1]](sys.argv[2])
