"""What experiments/latent.py and transfer.py compute by themselves."""
import argparse
from pathlib import Path
import sys

import numpy as np
import pytest
from scipy.linalg import sqrtm

from gen_jax import data
from gen_jax.types import BadInput, Batch

sys.path.insert(0, str(Path(__file__).parents[1] / 'experiments'))
latent, transfer, study = (__import__(name) for name in ('latent', 'transfer', 'study'))


def having(mean, cov, n=400, seed=0):
    """Points of exactly this mean and covariance."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(cov).T


def test_frechet_of_independent_features_is_the_closed_form():
    """|m1 - m2|^2 + |s1 - s2|^2 for diagonal covariances."""
    m1, m2, s1, s2 = np.random.default_rng(1).uniform(.5, 2, (4, 5))
    result = latent.frechet(having(m1, np.diag(s1 ** 2)), having(m2, np.diag(s2 ** 2), seed=2))
    assert result == pytest.approx(((m1 - m2) ** 2 + (s1 - s2) ** 2).sum())


def test_frechet_of_any_covariances_has_the_matrix_root_of_their_product():
    a, b = np.random.default_rng(2).normal(size=(2, 4, 4))
    a, b, m = a @ a.T + np.eye(4), b @ b.T + .1 * np.eye(4), np.arange(4.)
    truth = (m ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert latent.frechet(having(m, a), having(0 * m, b, seed=5)) == pytest.approx(truth)


@pytest.mark.parametrize('shape', [(50, 3), (5, 20), (10, 1)])
def test_frechet_of_a_set_and_itself_is_zero_also_with_more_features_than_examples(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert latent.frechet(x, x) == pytest.approx(0, abs=1e-5)
    assert latent.frechet(x, x + 2) == pytest.approx(4 * shape[1], rel=1e-4)


def test_recognised_counts_sure_examples_and_labels_that_are_not_rare():
    sure, unsure = np.array([.95, .03, .02]), np.array([.5, .3, .2])
    result = latent.recognised(np.stack([sure] * 30 + [unsure] * 68 + [sure[::-1]] * 2))
    assert result == dict(sure=.32, labels=1)  # two in a hundred are rare
    assert latent.recognised(np.stack([sure] * 9 + [sure[::-1]])) == dict(sure=1, labels=2)


def test_in_parts_is_the_whole():
    x = np.arange(2 * latent.AT_ONCE + 3)
    np.testing.assert_array_equal(latent.in_parts(lambda part: part + 1, x), x + 1)


def test_lines_go_from_one_example_to_the_other():
    x = np.random.default_rng(0).normal(size=(4, 2))
    built = latent.between(lambda z: z / 2, lambda x: 2 * x, x, steps=5, lines=2)
    built = built.reshape(2, 5, 2)
    for row, a, b in zip(built, x[:2], x[2:]):
        np.testing.assert_allclose(row, [a, a, (a + b) / 2, b, b], atol=1e-6)


def test_the_vaes_grid_has_equal_shares_of_the_normal_and_the_aes_the_range_of_its_codes():
    x, y, _ = latent.plane('vae', None)
    np.testing.assert_allclose(x, -x[::-1], atol=1e-12)
    np.testing.assert_array_equal(x, y[::-1])
    assert x[latent.GRID // 4 * 3] == pytest.approx(.674, abs=.1)  # the third quartile
    codes = np.random.default_rng(0).uniform([0, 5], [1, 9], (1000, 2))
    x, y, _ = latent.plane('ae', codes)
    np.testing.assert_allclose([x[0], x[-1], y[-1], y[0]], [0, 1, 5, 9], atol=.1)


def test_rows_are_means_over_seeds():
    one = dict(mse=.1, prior=dict(sure=.2, labels=3., distance=1.),
               fitted=dict(sure=.5, labels=9., distance=4.))
    two = dict(mse=.3, prior=dict(sure=.4, labels=5., distance=3.), fitted=one['fitted'])
    prior, fitted = latent.rows([one, two], 'ae', 2)
    assert prior['sure'] == pytest.approx(.3) and prior['sure sd'] == pytest.approx(.1)
    assert (prior['labels'], prior['distance'], prior['seeds']) == (4, 2, 2)
    assert prior['mse'] == pytest.approx(.2) and fitted['distance sd'] == 0


def digits():
    return data.load('digits').train


@pytest.mark.parametrize('count', [10, 100, 600, 1000])
def test_labelled_images_are_shared_equally_by_the_labels(count):
    batch = digits()
    result = transfer.sample(batch, count, 0, 'digits')
    shares = np.bincount(result.label, minlength=10)
    assert len(result.x) == count and shares.max() - shares.min() <= 1
    known = {x.tobytes(): label for x, label in zip(batch.x, batch.label)}
    assert all(known[x.tobytes()] == label for x, label in zip(result.x, result.label))


def test_every_seed_draws_other_images_and_all_are_all():
    batch = digits()
    some = [transfer.sample(batch, 50, seed, 'digits').x for seed in (0, 0, 1)]
    assert (some[0] == some[1]).all() and (some[0] != some[2]).any()
    np.testing.assert_array_equal(transfer.sample(batch, 1438, 3, 'digits').x, batch.x)
    with pytest.raises(BadInput, match='1438'):
        transfer.sample(batch, 1439, 0, 'digits')


@pytest.mark.parametrize('module, name', [(latent, 'latent'), (transfer, 'transfer')])
def test_no_seeds_are_refused(module, name, tmp_path):
    flags = argparse.Namespace(dataset='digits', data_dir=None, workdir=str(tmp_path / 'w'),
                               rows='', quick=True, seeds=0)
    with pytest.raises(BadInput, match='--seeds must be at least 1'):
        module.main(study.Study(name, flags, 'a command'))


def test_a_sample_keeps_examples_and_labels_together():
    batch = Batch(np.arange(40), np.arange(40, dtype=np.int32) % 4)
    result = transfer.sample(batch, 8, 1, 'numbers')
    np.testing.assert_array_equal(result.x % 4, result.label)
