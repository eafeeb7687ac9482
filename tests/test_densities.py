"""Likelihoods sum to one, posteriors and priors are the densities of what they draw."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from conftest import thorough
from gen_jax import densities, losses
from gen_jax.densities import gaussians, likelihood, posterior, prior
from gen_jax.types import BadInput, Batch

KEY = jax.random.key(0)
GRID = np.linspace(0, 1, 9)


def random(shape, seed=0, scale=1.):
    return scale * jax.random.normal(jax.random.key(seed), shape)


def levels(name, **hyper):
    x = jnp.asarray(np.random.default_rng(0).choice(GRID, (64, 3, 3, 2)), jnp.float32)
    return likelihood(name, x, jax.nn.sigmoid, levels=9, components=3, **hyper)


@pytest.mark.parametrize('name', ['categorical', 'logistic_mixture'])
def test_probabilities_of_all_levels_sum_to_one(name):
    p = levels(name)
    y = random((1, 1, p.outputs), scale=2.)
    nll = [p.nll({}, {}, y, jnp.full((1, 1), v)) for v in GRID]
    assert np.exp(-np.asarray(nll)).sum() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize('name', ['bernoulli', 'categorical', 'logistic_mixture'])
def test_levels_are_drawn_as_often_as_likely(name):
    p = levels(name)
    y = random((1, p.outputs), 3, 1.5) if p.outputs > 1 else jnp.array([.7])
    samples = p.sample({}, {}, jnp.broadcast_to(y, (40_000, *y.shape)), KEY)
    values = [0, 1] if name == 'bernoulli' else GRID
    expected = [float(jnp.exp(-p.nll({}, {}, y[None], jnp.full((1, 1), v)))[0]) for v in values]
    result = [float((abs(samples - v) < 1e-4).mean()) for v in values]
    np.testing.assert_allclose(result, expected, atol=.01)
    if name != 'logistic_mixture':  # whose mean is that before the ends of the range cut it off
        assert float(p.mean(y[None])[0, 0]) == pytest.approx(np.dot(expected, values), abs=1e-5)


def test_logistic_mixture_is_right_far_out():
    """Where a difference of sigmoids in float32 would be zero: against float64."""
    p = likelihood('logistic_mixture', jnp.zeros((2, 1)), None, levels=256, components=1)
    for mean, logscale in (-.9, -5.), (.2, -6.9), (0., 3.):
        y, x = jnp.array([0., mean, logscale]).reshape(1, 1, 3), 200 / 255
        away = (2 * x - 1 - mean) * np.exp(-logscale)
        half = np.exp(-logscale) / 255
        # log(cdf(a + h) - cdf(a - h)) of the tail that does not cancel
        tail = stats.logistic.logsf(away - half) if away > 0 else stats.logistic.logcdf(away + half)
        other = (stats.logistic.logsf(away + half) if away > 0
                 else stats.logistic.logcdf(away - half))
        truth = -(tail + np.log1p(-np.exp(other - tail)))
        assert float(p.nll({}, {}, y, jnp.full((1, 1), x))[0]) == pytest.approx(truth, rel=1e-3)


def test_gaussian_is_the_density_of_its_samples_and_finds_its_own_scale():
    x = .3 + .2 * random((512, 5))
    p = likelihood('gaussian', x, lambda y: y, scale='optimal')
    params, buffers = p.init()
    y = jnp.full_like(x, .3)
    for _ in range(200):
        buffers = p.keep(buffers, y, x)
    scale = float(jnp.exp(buffers['logvar'] / 2))
    assert scale == pytest.approx(float(jnp.sqrt(((x - .3) ** 2).mean())), rel=1e-2)
    truth = -stats.norm(.3, scale).logpdf(np.asarray(x, float)).sum(1)
    np.testing.assert_allclose(p.nll(params, buffers, y, x), truth, rtol=1e-4)
    assert float(p.sample(params, buffers, y, KEY).std()) == pytest.approx(scale, rel=.05)


@pytest.mark.parametrize('name', ['categorical', 'logistic_mixture'])
def test_start_is_near_the_data(name):
    """Before training the output says no less than that all levels are as likely."""
    x = jnp.asarray(np.random.default_rng(0).choice(GRID, (64, 3)), jnp.float32)
    p = likelihood(name, x, None, levels=9, components=3)
    y = jnp.broadcast_to(p.start.reshape(1, 3, -1), (64, 3, p.outputs))
    assert float(p.nll({}, {}, y, x).mean()) < 3 * np.log(9) + (.5 if 'mix' in name else 0)


@pytest.mark.parametrize('name', densities.POSTERIORS)
def test_posterior_is_the_density_of_its_codes(name):
    """E_q[N(z; 0, 1) / q(z)] = 1, where q(z | x) covers N(0, 1)."""
    q = posterior(name, 2, flows=3)
    params = q.init(jax.random.key(1))
    code = random((1, q.outputs), 2, .7).at[:, 2:4].set(1.2)
    z, log_q = q.sample(params, jnp.broadcast_to(code, (200_000, q.outputs)), KEY)
    ratio = np.exp(densities.normal_log_prob(z) - log_q)
    assert ratio.mean() == pytest.approx(1, abs=.02)
    assert ratio.std() < 10
    centre = q.centre(params, code)
    assert centre.shape == (1, 2) and (q.moments is not None) == (name == 'diagonal')


def test_full_posterior_is_a_gaussian_of_that_covariance():
    q = posterior('full', 3)
    code = random((1, q.outputs), 4)
    z, log_q = q.sample({}, jnp.broadcast_to(code, (50_000, q.outputs)), KEY)
    z = np.asarray(z, float)
    truth = stats.multivariate_normal(np.asarray(code[0, :3]), np.cov(z.T)).logpdf(z)
    np.testing.assert_allclose(log_q, truth, atol=.3)
    assert np.abs(np.asarray(log_q) - truth).mean() < .03


@pytest.mark.parametrize('flow', ['planar', 'iaf'])
def test_log_determinant_of_a_flow_is_that_of_its_jacobian(flow):
    z = random((8, 4), 1)
    if flow == 'planar':
        parts = random((8, 4), 2, 2.), random((8, 4), 3, 2.), random((8,), 4)
        run, more = densities.planar, parts
    else:
        layer = densities.iaf_init(KEY, 4, 12)
        layer['last'] = random(layer['last'].shape, 5)
        run, more = functools.partial(densities.iaf, layer), (random((8, 12), 6),)
    _, logdet = run(z, *more)
    for i in range(8):
        one = [a[i:i + 1] for a in more]
        jacobian = jax.jacfwd(lambda row, one=one: run(row[None], *one)[0][0])(z[i])
        assert np.linalg.slogdet(jacobian)[0] == 1
        assert float(logdet[i]) == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-4)
        if flow == 'iaf':
            assert not np.triu(jacobian, 1).any()
            assert np.abs(jacobian[np.tril_indices(4, -1)]).min() > 0


def infer(x):
    return x[:, :2] * 3 - 1, x[:, 2:4] - 1


@pytest.mark.parametrize('name', densities.PRIORS)
def test_prior_is_the_density_of_its_samples(name):
    p = prior(name, 2, components=5)
    params = p.init(KEY, Batch(jax.random.uniform(KEY, (50, 6))))
    if name == 'mixture':
        params |= dict(logit=random((5,), 7), logvar=random((5, 2), 8, .3))
    z = p.sample(params, jax.random.key(3), 100_000, infer)
    ratio = np.exp(densities.normal_log_prob(z, jnp.zeros(2), 0.) - p.log_prob(params, z, infer))
    if name == 'normal':
        np.testing.assert_allclose(ratio, 1, rtol=1e-5)
    wide = np.exp(densities.normal_log_prob(z, z.mean(0), jnp.log(z.var(0) / 4))
                  - p.log_prob(params, z, infer))
    assert wide.mean() == pytest.approx(1, abs=.05)


@pytest.mark.parametrize('name', ['mixture', 'vamp'])
def test_the_component_of_a_sample_says_nothing_of_its_noise(name):
    p, means = prior(name, 3, components=3), 100. * jnp.eye(3)
    params = dict(mixture=dict(mean=means, logvar=jnp.zeros((3, 3)), logit=jnp.zeros(3)),
                  vamp=dict(inputs=means))[name]
    one = jax.vmap(lambda key: p.sample(params, key, 1, lambda x: (x, jnp.zeros_like(x)))[0])
    z = np.asarray(one(jax.random.split(KEY, 6000)))
    chosen = z.argmax(1)
    for i in range(3):
        assert abs((z - means[chosen])[chosen == i].mean(0)).max() < 5 / 2000 ** .5


@pytest.mark.parametrize('size, logvar', thorough(
    [(1, 0), (3, -6), (3, -10), (10, -10), (3, -20), (3, -29)], (3, -10), (3, -29)))
def test_mixture_is_exact_however_narrow_its_components_are(size, logvar):
    """Against float64, of codes drawn from one of 50 components in 40 dimensions."""
    mean, noise = random((50, 40), 1, size), random((200, 40), 2)
    logvar = jnp.full((50, 40), float(logvar))
    z = mean[jnp.arange(200) % 50] + jnp.exp(logvar[0] / 2) * noise
    result = jax.jit(densities.mixture_log_prob)(z, mean, logvar, jnp.zeros(50))
    z, mean, logvar = (np.asarray(a, np.float64) for a in (z, mean, logvar))
    each = -.5 * ((z[:, None] - mean) ** 2 * np.exp(-logvar) + logvar + np.log(2 * np.pi)).sum(-1)
    np.testing.assert_allclose(result, special.logsumexp(each, -1) - np.log(50), rtol=0, atol=1e-3)


def test_mixture_keeps_no_table_of_all_differences(monkeypatch):
    """Neither it nor its gradient, in blocks of codes that do not divide them."""
    args = random((1000, 8)), random((50, 8), 1), random((50, 8), 2), random((50,), 3)

    def value(z, mean, logvar, logit):
        return densities.mixture_log_prob(z, mean, logvar, logit).sum()

    complete = jax.jit(jax.value_and_grad(value, (0, 1, 2, 3)))(*args)
    monkeypatch.setattr(gaussians, 'BLOCK', 7 * 50 * 8)
    compiled = jax.jit(jax.value_and_grad(lambda *a: value(*a), (0, 1, 2, 3))).lower(
        *args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1000 * 50 * 8 * 4 / 4
    for one, other in zip(jax.tree.leaves(complete), jax.tree.leaves(compiled(*args))):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_vamp_mixes_the_posteriors_of_its_inputs():
    p = prior('vamp', 2, components=5)
    params = p.init(KEY, Batch(jax.random.uniform(KEY, (50, 6))))
    z = random((7, 2))
    mean, logvar = (np.asarray(a, float) for a in infer(params['inputs']))
    each = stats.norm(mean[:, None], np.exp(logvar / 2)[:, None]).pdf(np.asarray(z, float)).prod(-1)
    np.testing.assert_allclose(p.log_prob(params, z, infer), np.log(each.mean(0)), rtol=1e-4)


@pytest.mark.parametrize('make, said', [
    (lambda: likelihood('poisson', jnp.zeros((2, 2)), None), 'bernoulli, gaussian'),
    (lambda: likelihood('gaussian', jnp.zeros((2, 2)), None, scale='none'), 'fixed, learned'),
    (lambda: likelihood('gaussian', jnp.zeros((2, 2)), None, sigma=0.), 'sigma must be positive'),
    (lambda: likelihood('categorical', jnp.array([[0., .37]]), None, levels=9), '9 values'),
    (lambda: likelihood('categorical', jnp.array([[0., -3.]]), None), 'data in [0, 1]'),
    (lambda: prior('uniform', 2), 'normal, mixture'), (lambda: prior('vamp', 2, 0), 'components'),
    (lambda: posterior('point', 2), 'diagonal, full'), (lambda: posterior('iaf', 2, 0), 'flows'),
    (lambda: posterior('full', 0), 'latent must be'),
    (lambda: losses.check_kl_schedule('slow', 1), 'linear'),
    (lambda: losses.check_kl_schedule('linear', 0), 'warmup')])
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(BadInput) as error:
        make()
    assert said in str(error.value) and '\n' not in str(error.value)


def test_schedules():
    weight = {name: [float(losses.kl_weight(name, jnp.int32(i), 4)) for i in range(12)]
              for name in ('constant', 'linear', 'cyclical')}
    assert weight['constant'] == [1.] * 12
    assert weight['linear'] == [0, .25, .5, .75] + [1.] * 8
    assert weight['cyclical'] == [0, .25, .5, .75, 1, 1, 1, 1, 0, .25, .5, .75]


def test_burdas_stages():
    """Stage i lasts 3^i epochs (3280 in all) at 1e-3 * 10^(-i / 7)."""
    rate, first = losses.staged_schedule(1e-3, 3000), 3000
    end = 0
    for i in range(8):
        begin, end = end, end + 3 ** i * first
        for step in begin, end - 1:
            assert float(rate(jnp.int32(step))) == pytest.approx(1e-3 * 10 ** (-i / 7), rel=1e-5)
    assert end == 3280 * first and losses.staged_schedule(.1, 0) == .1
