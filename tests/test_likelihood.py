"""The metrics of evaluation against models whose likelihood has a closed form."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from conftest import defaults, model as model_of, thorough
from gen_jax import loop, metrics, train, evaluation
from gen_jax.metrics import latent, likelihood
from gen_jax.models import iwae, vae
from gen_jax.types import BadInput, Batch

D, LATENT, SIGMA = 6, 3, .6
LINEAR = dict(kind='linear', likelihood='gaussian', latent=LATENT, width=(1,))


def data(n=64, seed=0):
    """Examples around a two-dimensional plane."""
    rng, plane = np.random.default_rng(seed), np.random.default_rng(42).normal(size=(2, D))
    x = rng.normal(size=(n, 2)) @ plane + SIGMA * rng.normal(size=(n, D))
    return Batch(jnp.float32(x))


@functools.cache
def linear():
    """A linear VAE that is not yet optimal, and the exact log p(x) of examples."""
    model, state = fitted(vae, data(1000, 9), 150, sigma=SIGMA, learning_rate=1e-2, **LINEAR)
    return model, state, lambda x: exact(model, state, x, SIGMA)


def exact(model, state, x, sigma):
    base = np.asarray(model.decode(state, jnp.zeros((1, LATENT))), float)[0]
    w = np.asarray(model.decode(state, jnp.eye(LATENT)), float) - base
    return stats.multivariate_normal(base, w.T @ w + sigma ** 2 * np.eye(D)).logpdf(
        np.asarray(x, float))


def test_importance_sampling_finds_the_exact_likelihood():
    model, state, truth = linear()
    result = jax.jit(likelihood.nll(model.density, 20_000))(state, data(), jax.random.key(1))
    np.testing.assert_allclose(-result, truth(data().x), atol=.4)
    assert abs(-result - truth(data().x)).mean() < .02


@pytest.mark.full
def test_bound_is_monotone_in_k_and_below_the_likelihood():
    model, state, truth = linear()
    keys = jax.random.split(jax.random.key(2), 100)
    result = [float(-jax.jit(jax.vmap(likelihood.nll(model.density, k), (None, None, 0)))(
        state, data(), keys).mean()) for k in (1, 2, 5, 13, 50)]
    elbo = jax.jit(jax.vmap(lambda key: model.evaluate(state, data(), key)['elbo']))(keys).mean()
    assert result[0] == pytest.approx(float(elbo), abs=.1)
    assert (np.diff(result) > 0).all() and result[-1] < truth(data().x).mean() + .01


def test_annealing_encloses_the_exact_likelihood():
    model, state, truth = linear()
    run = jax.jit(likelihood.bounds(model.density, chains=8, steps=200, leaps=5))
    result = run(state, data(), jax.random.key(3))
    nll = -truth(data().x)
    assert abs(result['nll_ais'] - nll).mean() < .25
    assert abs((result['nll_ais'] - nll).mean()) < .06
    gap = (result['nll_simulated_upper'] - result['nll_simulated_lower']).mean()
    assert -.05 < gap < .1


@pytest.mark.full
def test_reverse_annealing_bounds_from_the_other_side():
    model, state, truth = linear()
    batch, keys = data(512), jax.random.split(jax.random.key(4), 3)
    z = model.density.prior(state, batch, keys[0])
    x = model.density.observe(state, batch, z, keys[1])
    few = dict(steps=12, leaps=3)  # so few steps that the bounds are loose
    back = jax.jit(likelihood.ais(model.density, reverse=True, **few))(
        state, Batch(x), z, keys[2])
    forward = jax.jit(likelihood.ais(model.density, **few))(
        state, Batch(x), model.density.prior(state, batch, keys[1]), keys[2])
    centre = truth(x).mean()
    assert forward.mean() < centre - .05 < centre + .05 < -back.mean()


def test_observed_examples_have_the_models_distribution():
    model, state, truth = linear()
    batch = data(20_000)
    z = model.density.prior(state, batch, jax.random.key(5))
    x = model.density.observe(state, batch, z, jax.random.key(6))
    assert float(truth(x).mean()) == pytest.approx(truth(model.density.observe(
        state, batch, model.density.prior(state, batch, jax.random.key(7)),
        jax.random.key(8))).mean(), abs=.1)
    w = np.asarray(model.decode(state, jnp.eye(LATENT))
                   - model.decode(state, jnp.zeros((1, LATENT))))
    np.testing.assert_allclose(np.cov(x.T), w.T @ w + SIGMA ** 2 * np.eye(D), atol=.15)


def fitted(module, batch, epochs, **hyper):
    model = model_of(module.__name__.rpartition('.')[2], batch, **hyper)
    state = model.init(jax.random.key(0), batch)
    run = jax.jit(loop.training(model, lambda b, key: b, len(batch.x), 500, len(batch.x) // 500))
    for _ in range(epochs):
        state, _, bad = run(state, batch, jax.random.key(1))
        assert int(bad) == -1
    return model, state


def test_linear_vae_is_probabilistic_pca():
    """Lucas et al. 2019: the best ELBO equals the likelihood of pPCA (Tipping & Bishop 1999), and
    the number of active units is the number of eigenvalues of the covariance above sigma^2.
    """
    rng = np.random.default_rng(0)
    values = np.array([4., 2., 1., .2, .1, .05])  # the data's eigenvalues; sigma^2 = .5
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    x = rng.normal(size=(2000, D))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True))).T
    x = x * values ** .5 @ rotation.T
    sigma2, num_active = .5, 3
    variance = np.where(values > sigma2, values, sigma2)
    truth = -.5 * (D * np.log(2 * np.pi) + np.log(variance).sum() + (values / variance).sum())
    batch = Batch(jnp.float32(x))
    model, state = fitted(vae, batch, 400, latent=5, kind='linear', likelihood='gaussian',
                          sigma=sigma2 ** .5, width=(1,), learning_rate=5e-3)
    result = np.mean([model.evaluate(state, batch, key)['elbo'].mean()
                     for key in jax.random.split(jax.random.key(2), 20)])
    assert result == pytest.approx(truth, abs=.05) and result < truth + .02
    mean, _ = model.density.moments(state, batch)
    assert latent.active_units(np.asarray(mean)) == num_active


@pytest.mark.parametrize('k', [1, 5])
def test_doubly_reparameterised_gradient_has_the_mean_of_the_plain_one(k):
    """Tucker et al. 2019; near the optimum its variance is lower."""
    batch, keys = data(8), jax.random.split(jax.random.key(1), 4000)
    result = {}
    for gradient in iwae.GRADIENT_ESTIMATORS:
        model = model_of('iwae', batch, k=k, gradient_estimator=gradient, sigma=SIGMA,
                         learning_rate=1., **LINEAR)
        state = model.init(jax.random.key(0), batch)._replace(params=linear()[1].params)

        @jax.jit
        @jax.vmap
        def moment(key, model=model, state=state):  # Adam's first moment, a tenth of the gradient
            after, _ = model.step(state, batch, key)
            return jax.tree.map(lambda a: 10 * a, after.opt['vae'][0].mu)
        result[gradient] = moment(keys)
    for part in 'encoder', 'decoder':
        plain, doubly = (np.concatenate([np.reshape(a, (4000, -1)) for a in jax.tree.leaves(
            result[g][part])], 1) for g in iwae.GRADIENT_ESTIMATORS)
        error = np.sqrt((plain.var(0) + doubly.var(0)) / 4000)
        assert (abs(plain.mean(0) - doubly.mean(0)) < 5 * error + 1e-4).all(), part
        if part == 'encoder':
            assert doubly.var(0).sum() < plain.var(0).sum()
        else:
            np.testing.assert_allclose(plain, doubly, rtol=1e-3, atol=1e-3)


def test_iwae_of_one_code_is_the_elbo():
    batch = data(8)
    model = model_of('iwae', batch, k=1, sigma=SIGMA, **LINEAR)
    state = model.init(jax.random.key(0), batch)
    result = jax.jit(model.evaluate)(state, batch, jax.random.key(1))
    samples = jax.vmap(lambda key: model.density.posterior(state, batch, key))(
        jax.random.split(jax.random.key(1), 1))
    z, log_q = jax.tree.map(lambda a: a[0], samples)
    truth = sum(model.density.joint(state, batch, z)) - log_q
    np.testing.assert_allclose(result['iwae'], truth, rtol=1e-5)
    assert (result['elbo'] == -result['recon'] - result['kl']).all()


def test_information_of_codes_that_tell_all_and_nothing():
    n = 400
    distinct = jnp.arange(n)[:, None] * jnp.ones((1, 2))
    result = latent.information(distinct, jnp.full((n, 2), -12.), jax.random.key(0))
    assert float(result['mutual_information']) == pytest.approx(np.log(n), abs=1e-3)
    same = latent.information(jnp.full((n, 2), 1.), jnp.full((n, 2), -1.), jax.random.key(0))
    assert float(same['mutual_information']) == pytest.approx(0, abs=1e-5)
    kl = 2 * .5 * (1 + np.exp(-1) - 1 + 1)
    assert float(same['aggregate_kl']) == pytest.approx(kl, abs=.2)


def test_information_and_aggregate_kl_are_the_kl():
    """Hoffman & Johnson 2016: their sum is the mean KL, up to the noise of the sampled codes."""
    mean, logvar = jax.random.normal(jax.random.key(0), (2, 3000, 2))
    result = latent.information(mean, logvar - 2, jax.random.key(1))
    kl = .5 * (mean ** 2 + jnp.exp(logvar - 2) - 1 - logvar + 2).sum(1).mean()
    assert float(sum(result.values())) == pytest.approx(float(kl), rel=.03)


def test_active_units_vary_by_more_than_a_hundredth():
    x = np.random.default_rng(0).normal(size=(5000, 4)) * [1, .2, .05, 0] + [0, 0, 9, 9]
    assert latent.active_units(x) == 2


def test_collection_gives_every_row_in_its_place():
    rows = loop.collection(lambda state, batch, key: dict(x=batch.x * state), lambda b, key: b,
                           11, 4)
    result = jax.jit(rows)(3., Batch(jnp.arange(11.)), jax.random.key(0))
    np.testing.assert_array_equal(result['x'], 3 * np.arange(11))


CODES, SAMPLES = {'active_units',
                  'linear_probe'}, {'frechet_distance', 'kernel_distance', 'precision_recall'}

FITS = {('vae', 'digits'): {'nll', 'mutual_information'} | CODES | SAMPLES,
        ('gan', 'digits'): SAMPLES, ('ae', 'digits'): CODES,
        ('ladder', 'digits'): {'nll'} | CODES | SAMPLES, ('vq', 'digits'): {'nll'} | SAMPLES,
        ('cvae', 'digits'): {'nll', 'mutual_information'} | CODES | SAMPLES, ('mmd', 'sprites'): {
            'nll', 'mutual_information', 'mig_sampled', 'mig', 'modularity', 'sap', 'dci',
            'beta_vae', 'factor_vae'
        } | CODES | SAMPLES, ('infogan', 'digits'): SAMPLES, ('vaegan', 'digits'): CODES | SAMPLES,
        ('aae', 'digits'): CODES | SAMPLES, ('bigan', 'breast_cancer'): CODES | SAMPLES,
        ('gan', 'grid'): SAMPLES | {'modes'}, ('gan', 'spiral'): SAMPLES,
        ('vaegan', 'ring'): CODES | SAMPLES | {'modes'}, ('gan', 'stacked:digits'): SAMPLES}


@pytest.mark.parametrize('name, dataset', thorough(
    FITS, ('ae', 'digits'), ('mmd', 'sprites')))
def test_what_a_model_can_be_measured_by(name, dataset):
    fits = FITS[name, dataset]
    flat = dict(kind='mlp') if dataset in ('ring', 'grid', 'spiral', 'breast_cancer') else {}
    config = defaults(name, dataset, width=(4,), **flat)
    config.eval.best, config.data.size = '', 8 if dataset == 'sprites' else 0
    run = train.prepare(config)
    subject = evaluation.subject(run, run.state)
    assert set(metrics.chosen([], subject)) == fits
    if name == 'ladder':  # whose code is two vectors
        assert metrics.codes(subject, 'test').shape == (359, 150)
    for metric in metrics.MEASURES:
        if metric in fits or metric == 'ais' and {'nll', 'active_units'} <= fits:
            assert metrics.chosen([metric], subject) == [metric]
        else:
            with pytest.raises(BadInput, match=f'metric {metric} needs'):
                metrics.chosen([metric], subject)


@pytest.mark.parametrize('label', [None, np.full(1438, -1, np.int32)], ids=['none', 'all -1'])
def test_codes_of_data_without_labels_are_not_probed(label):
    run = train.prepare(defaults('ae', 'digits', width=(4,)))
    data = run.data._replace(train=run.data.train._replace(label=label))
    subject = evaluation.subject(run._replace(data=data), run.state)
    assert metrics.chosen([], subject) == ['active_units']
    with pytest.raises(BadInput, match='probe needs labels, which this data set has not'):
        metrics.chosen(['linear_probe'], subject)


# Evaluation


def few(name, dataset='digits', n=3, **changed):
    """An untrained run that evaluates only `n` test examples."""
    config = defaults(name, dataset, width=(4,), **changed)
    config.eval.best, config.eval.k, config.data.size = '', 2, 8 if dataset == 'sprites' else 0
    run = train.prepare(config)
    test = jax.tree.map(lambda a: a[:n], run.data.test)
    return run._replace(data=run.data._replace(test=test))


@pytest.mark.full
def test_what_cannot_be_computed_is_left_out_unless_it_is_asked_for(tmp_path, capsys):
    run = few('gan', kind='mlp')
    evaluation.evaluate(run, run.state, tmp_path)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if 'left out' in line] == [
        'left out kernel_distance: it needs at least 4 examples in the test split, not 3',
        'left out precision_recall: it needs at least 6 examples in the test split, not 3']
    result = train.summary(tmp_path)
    assert 'test/frechet_distance_pixels' in result['metrics'] and result['features'][
        'examples'] == 3
    assert not any('kernel_distance' in name or 'precision' in name for name in result['metrics'])
    run.config.eval.metrics = 'frechet_distance,kernel_distance'
    with pytest.raises(
            BadInput, match='metric kernel_distance needs at least 4 examples in the test split, '
            'not 3; leave it out of eval.metrics'):
        evaluation.evaluate(run, run.state, tmp_path / 'none')
    assert capsys.readouterr().out == '' and not (tmp_path / 'none').exists()


@pytest.mark.full
@pytest.mark.parametrize('name, dataset, n, hyper, out', [
    ('ae', 'sprites', 7, dict(kind='mlp', latent=1), {'mig', 'modularity', 'sap', 'dci'}),
    ('vae', 'digits', 1, {}, {'frechet_distance', 'kernel_distance', 'precision_recall'}),
    ('vae', 'digits', 6, {}, set())])
def test_only_what_cannot_be_computed_is_left_out(tmp_path, capsys, name, dataset, n, hyper, out):
    run = few(name, dataset, n, **hyper)
    evaluation.evaluate(run, run.state, tmp_path)
    left_out = [line for line in capsys.readouterr().out.splitlines() if 'left out' in line]
    assert {line.split(':')[0].removeprefix('left out ') for line in left_out} == out
    for metric in out:
        with pytest.raises(BadInput, match=f'metric {metric} needs at least'):
            metrics.chosen([metric], evaluation.subject(run, run.state))


@pytest.mark.full
def test_codes_that_are_not_finite_are_not_measured(tmp_path, capsys):
    run = few('ae', n=30, kind='mlp', latent=2)
    nan_state = run.state._replace(params=jax.tree.map(lambda a: a * jnp.nan, run.state.params))
    evaluation.evaluate(run, nan_state, tmp_path)
    assert [line for line in capsys.readouterr().out.splitlines() if 'left out' in line] == [
        f'left out {name}: the codes are not finite' for name in ('active_units', 'linear_probe')]
    run.config.eval.metrics = 'active_units'
    with pytest.raises(BadInput, match='metric active_units: the codes are not finite'):
        evaluation.evaluate(run, nan_state, tmp_path)


@pytest.mark.parametrize('latent', thorough([2, 10, 11, 600], 600))
def test_numbers_of_each_dimension_are_summed_up_where_they_are_many(tmp_path, capsys, latent):
    run = few('vae', n=20, latent=latent)
    run.config.eval.metrics = 'active_units'
    evaluation.evaluate(run, run.state, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    result = train.summary(tmp_path)['metrics']
    kl = [v for name, v in result.items() if name.startswith('test/kl_per_dim/')]
    assert len(kl) == latent
    rows = [line for line in lines if line.startswith('test/kl_per_dim')]
    assert len(lines) < 20 and max(map(len, lines)) < 80
    assert rows == ([f'test/kl_per_dim/{i:02d}{v:27.4f}' for i, v in enumerate(kl)] if latent <= 10
                    else [f'test/kl_per_dim  min {min(kl):.4g}, median {np.median(kl):.4g}, max '
                          f'{max(kl):.4g}, {sum(v > .01 for v in kl)} of {latent} > 0.01'])
