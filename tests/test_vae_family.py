"""The VAEs with two layers, with KL terms, with MMD and with discrete codes, against known answers.

The references come from SciPy and NumPy, from enumeration, or from Gaussians with a closed form.
"""
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from conftest import model as model_of, quick, thorough
from gen_jax.models import factor, mmd, tcvae, vq
from gen_jax.types import BadInput, Batch, Context

N = 6


def data(n=N, size=5, seed=0):
    return Batch(jnp.float32(np.random.default_rng(seed).uniform(size=(n, size))))


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


def started(model, batch, seed=0):
    return quick(model.init)(jax.random.key(seed), batch)


def with_larger_params(state, player, scale=3.):
    """The state with larger parameters, so that no output is nearly constant."""
    return state._replace(params=state.params | {
        player: jax.tree.map(lambda a: scale * a, state.params[player])})


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def dense(params, z, act=np.tanh):
    """The output of dense layers in NumPy, computed from their parameters."""
    blocks = [params[k] for k in sorted(params) if 'bias' in params[k]]
    for i, block in enumerate(blocks):
        kernel, = (np.asarray(v['kernel'], float) for k, v in block.items() if k != 'bias')
        z = z @ kernel + np.asarray(block['bias'], float)
        z = act(z) if i < len(blocks) - 1 else z
    return z


def gaussian(code):
    """Mean and standard deviation of a code; log-variances are bounded by 15."""
    mean, logvar = np.split(code, 2, -1)
    return mean, np.exp(15 * np.tanh(logvar / 15) / 2)


# Two stochastic layers


@functools.cache
def two_layers(k=5, **hyper):
    model = model_of('ladder', data(), latent=2, bottom_latent=3, width=(4, 3), top=(4, 3), k=k,
                     **hyper)
    return model, with_larger_params(started(model, data()), 'vae', 2.)


def test_ladder_densities_are_those_of_numpy():
    model, state = two_layers()
    params, x = state.params['vae'], np.asarray(data().x, float)
    z, log_q = model.density.posterior(state, data(), keys(1)[0])
    z1, z2 = (np.asarray(z[k], float) for k in ('z1', 'z2'))
    assert (z1.shape, z2.shape) == ((N, 3), (N, 2))
    q1, q2 = gaussian(dense(params['encoder'], x)), gaussian(dense(params['posterior'], z1))
    truth = stats.norm.logpdf(z1, *q1).sum(1) + stats.norm.logpdf(z2, *q2).sum(1)
    np.testing.assert_allclose(log_q, truth, rtol=1e-4, atol=1e-4)
    log_x, log_p = model.density.joint(state, data(), z)
    p1 = gaussian(dense(params['prior'], z2))
    truth = stats.norm.logpdf(z1, *p1).sum(1) + stats.norm.logpdf(z2).sum(1)
    np.testing.assert_allclose(log_p, truth, rtol=1e-4, atol=1e-4)
    probability = 1 / (1 + np.exp(-dense(params['decoder'], z1)))
    truth = (x * np.log(probability) + (1 - x) * np.log1p(-probability)).sum(1)
    np.testing.assert_allclose(log_x, truth, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.decode(state, z), probability, rtol=1e-4)
    centre = model.encode(state, data().x)
    np.testing.assert_allclose(centre['z1'], q1[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(centre['z2'], gaussian(dense(params['posterior'], q1[0]))[0],
                               rtol=1e-4, atol=1e-5)


def test_ladder_samples_follow_its_densities():
    """Standardised by the moments from NumPy, every layer of q and p is a standard normal."""
    model, state = two_layers()
    params, many = state.params['vae'], Batch(jnp.repeat(data().x, 500, 0))
    z = jax.device_get(model.density.posterior(state, many, keys(1)[0])[0])
    built = jax.device_get(model.prior(state, keys(1)[0], 3000))
    for samples, net, condition in ((z['z1'], 'encoder', many.x), (z['z2'], 'posterior', z['z1']),
                                    (built['z1'], 'prior', built['z2'])):
        mean, sd = gaussian(dense(params[net], np.asarray(condition, float)))
        assert stats.kstest(((samples - mean) / sd).ravel(), 'norm').pvalue > 1e-3, net
    assert stats.kstest(built['z2'].ravel(), 'norm').pvalue > 1e-3


def test_ladder_of_one_code_is_the_elbo_by_hand():
    model, state = two_layers(k=1)
    key = keys(1)[0]
    result = quick(model.evaluate)(state, data(), key)
    z, log_q = model.density.posterior(state, data(), jax.random.split(key, 1)[0])
    truth = sum(model.density.joint(state, data(), z)) - log_q
    for name, sign in ('iwae', 1), ('elbo', 1), ('loss', -1):
        np.testing.assert_allclose(result[name], sign * truth, rtol=1e-4)
    np.testing.assert_allclose(result['elbo'], -(result['recon'] + result['kl']), rtol=1e-5)
    trained = quick(model.step)(state, data(), key)[1]
    z, log_q = model.density.posterior(state, data(), jax.random.fold_in(key, 0))
    truth = sum(model.density.joint(state, data(), z)) - log_q
    np.testing.assert_allclose(trained['iwae'], truth.mean(), rtol=1e-4)


@pytest.mark.full
def test_ladder_trains_on_the_bound_that_it_reports():
    """The codes and their densities are those of `model.density`."""
    k, key = 4, keys(1)[0]
    model, state = two_layers(k=k)
    many = Batch(jnp.tile(data().x, (k, 1)))
    z, log_q = model.density.posterior(state, many, jax.random.fold_in(key, 0))
    log_w = np.asarray(sum(model.density.joint(state, many, z)) - log_q, float).reshape(k, N)
    trained = quick(model.step)(state, data(), key)[1]
    np.testing.assert_allclose(trained['iwae'], np.log(np.exp(log_w).mean(0)).mean(), rtol=1e-4)


@pytest.mark.full
def test_ladder_bound_rises_with_k_to_the_evidence():
    """With a decoder that ignores its code, p(x | z) = p(x) is known; every bound is below it."""
    model, state = two_layers(k=1)
    params = state.params['vae']
    blind = jax.tree.map(lambda a: a if a.ndim == 1 else jnp.zeros_like(a), params['decoder'])
    state = state._replace(params=dict(vae=params | dict(decoder=blind)))
    x, bias = np.asarray(data().x, float), dense(blind, np.zeros((1, 3)))
    evidence = (x * bias - np.log1p(np.exp(bias))).sum(1).mean()
    means, errors = [], []
    for k in 1, 4, 16, 256:
        model, _ = two_layers(k=k)
        result = quick(jax.vmap(lambda key, model=model: model.evaluate(state, data(), key)[
            'iwae'].mean()))(keys(200))
        means.append(result.mean())
        errors.append(result.std() / 200 ** .5)
    assert all(b - a > 4 * (e + f) for a, b, e, f in zip(means, means[1:], errors, errors[1:]))
    assert means[-1] < evidence + 4 * errors[-1]
    assert evidence - means[-1] < .1 * (evidence - means[0])


@pytest.mark.parametrize('bad', [dict(k=0), dict(latent=0), dict(bottom_latent=-1)])
def test_ladder_refuses_what_is_not_positive(bad):
    with pytest.raises(BadInput, match=f'{list(bad)[0]} must be at least 1'):
        model_of('ladder', data(), **bad)


# The KL in parts


def normals(n, d, seed=0):
    """Codes, means and log-variances (n, d), and the density of each code under each Gaussian by
    SciPy, (n, n, d)."""
    rng = np.random.default_rng(seed)
    mean, logvar = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    z = mean + np.exp(logvar / 2) * rng.normal(size=(n, d))
    each = stats.norm.pdf(z[:, None], mean, np.exp(logvar / 2))
    return jnp.float32(z), jnp.float32(mean), jnp.float32(logvar), each


def test_aggregate_of_all_examples_is_the_plain_mean():
    z, mean, logvar, each = normals(7, 3)
    log_q, log_each = tcvae.aggregate(z, mean, logvar, 7)
    np.testing.assert_allclose(log_q, np.log(each.prod(-1).mean(1)), rtol=1e-4)
    np.testing.assert_allclose(log_each, np.log(each.mean(1)).sum(1), rtol=1e-4)


def test_aggregate_of_batches_is_without_bias():
    """On average over all batches that contain a code's example, it is q(z), and likewise in every
    dimension.
    """
    z, mean, logvar, each = normals(7, 2)
    joint, single = [], []
    for rest in itertools.combinations(range(1, 7), 2):
        rows = np.array([0, *rest])
        part = z[rows], mean[rows], logvar[rows]
        joint.append(tcvae.aggregate(*part, 7)[0][0])
        single.append([tcvae.aggregate(*(a[:, d:d + 1] for a in part), 7)[1][0] for d in (0, 1)])
    np.testing.assert_allclose(np.exp(joint).mean(), each[0].prod(-1).mean(), rtol=1e-4)
    np.testing.assert_allclose(np.exp(single).mean(0), each[0].mean(0), rtol=1e-4)
    assert np.std(joint) > .01


def test_aggregate_is_chen_and_others_mean_over_the_orders_of_the_batch():
    """Chen et al.'s weights for a batch of m + 1 out of `size`, with the example of the code first:
    1 / size, then 1 / m, and (size - m) / (size m) for the last.
    """
    z, mean, logvar, each = normals(4, 2)
    m, size = 3, 11
    weights = np.array([1 / size, *[1 / m] * (m - 1), (size - m) / (size * m)])
    density = each[0].prod(-1)
    orders = [weights @ density[[0, *rest]] for rest in itertools.permutations([1, 2, 3])]
    np.testing.assert_allclose(np.exp(tcvae.aggregate(z, mean, logvar, size)[0][0]),
                               np.mean(orders), rtol=1e-4)


def test_aggregate_by_weighted_sampling_is_the_plain_mean_over_the_size():
    z, mean, logvar, each = normals(5, 3)
    log_q, log_each = tcvae.aggregate(z, mean, logvar, 40, 'weighted')
    np.testing.assert_allclose(log_q, np.log(each.prod(-1).mean(1) / 40), rtol=1e-4)
    np.testing.assert_allclose(log_each, np.log(each.mean(1) / 40).sum(1), rtol=1e-4)


def test_aggregate_finds_the_total_correlation_of_a_gaussian():
    """The means have correlation .8, so that q(z) is a Gaussian, and so is q of each dimension."""
    rng, sd, n = np.random.default_rng(0), .4, 1200
    spread = np.array([[1, .8], [.8, 1]])
    mean = rng.multivariate_normal([0, 0], spread, n)
    z = mean + sd * rng.normal(size=(n, 2))
    log_q, log_each = quick(tcvae.aggregate, static_argnums=3)(
        jnp.float32(z), jnp.float32(mean), jnp.full((n, 2), 2 * np.log(sd)), n)
    total = spread + sd ** 2 * np.eye(2)
    truth = -.5 * np.log(1 - (total[0, 1] / total[0, 0]) ** 2)
    assert abs((log_q - log_each).mean() - truth) < .04
    entropy = stats.multivariate_normal(cov=total).entropy()
    assert abs(-log_q.mean() - entropy) < .06


@functools.cache
def parts(**hyper):
    model = model_of('tcvae', data(), Context(size=50), latent=3, width=(4,), **hyper)
    return model, with_larger_params(started(model, data()), 'vae')


def test_tcvae_by_weighted_sampling_has_the_same_kl_in_other_parts():
    result = [quick(model.evaluate)(state, data(), keys(1)[0])
              for model, state in (parts(), parts(estimator='weighted'))]
    np.testing.assert_allclose(result[0]['kl'], result[1]['kl'], rtol=1e-4, atol=1e-4)
    assert (result[1]['mi'] > result[0]['mi'] + 1).all()
    with pytest.raises(BadInput, match='stratified, weighted'):
        parts(estimator='mean')


@pytest.mark.full
@pytest.mark.parametrize('weights', [(1., 1., 1.), (.5, 4., 2.)])
def test_tcvae_parts_add_up_to_the_kl_of_the_sampled_codes(weights):
    model, state = parts(**dict(zip(('alpha', 'beta', 'gamma'), weights)))
    result = jax.device_get(quick(model.evaluate)(state, data(), keys(1)[0]))
    z, log_q = model.density.posterior(state, data(), keys(1)[0])
    log_x, _ = model.density.joint(state, data(), z)
    named = [result[k] for k in ('mi', 'tc', 'dimwise_kl')]
    truth = log_q - stats.norm.logpdf(z).sum(1)
    for total in sum(named), result['kl']:
        np.testing.assert_allclose(total, truth, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result['elbo'], log_x - truth, rtol=1e-4)
    np.testing.assert_allclose(result['loss'], result['recon'] + sum(
        w * v for w, v in zip(weights, named)), rtol=1e-4)
    log_z, log_each = tcvae.aggregate(z, *model.density.moments(state, data()), 50)
    np.testing.assert_allclose(result['mi'], log_q - log_z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result['dimwise_kl'], log_each - stats.norm.logpdf(z).sum(1),
                               rtol=1e-4, atol=1e-4)


def test_tcvae_size_is_that_of_the_examples_where_none_is_given():
    result = [quick(model_of('tcvae', data(), Context(size=size), latent=3, width=(4,)).evaluate)(
        parts()[1], data(), keys(1)[0])['mi'] for size in (0, N, 50)]
    assert equal(result[0], result[1]) and not np.allclose(result[0], result[2])


# A discriminator of independence


def pairs(key, n, rho=.8):
    """n samples of two standard normals with correlation rho."""
    a, b = jax.random.normal(key, (2, n))
    return jnp.stack([a, rho * a + (1 - rho ** 2) ** .5 * b], -1)


@pytest.mark.full
def test_factor_discriminator_finds_the_log_ratio_and_the_total_correlation():
    """The encoder is the identity with very little noise, and is not trained."""
    batch = Batch(pairs(jax.random.key(3), 512))
    model = model_of('factor', batch, latent=2, kind='linear', likelihood='gaussian',
                     learning_rate=0., discriminator_width=(64, 64),
                     discriminator_learning_rate=3e-3)
    state = started(model, batch)
    encoder = jax.tree.map(lambda a: jnp.eye(2, 4) if a.ndim == 2 else jnp.array([0., 0, -10, -10]),
                           state.params['vae']['encoder'])
    state = state._replace(params=state.params | dict(
        vae=state.params['vae'] | dict(encoder=encoder)))

    def step(state, key):
        return model.step(state, Batch(pairs(jax.random.fold_in(key, 9), 256)), key)

    after, _ = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(state, keys(1000))
    assert equal(state.params['vae'], after.params['vae'])
    z = pairs(jax.random.key(4), 4000)
    result = jax.device_get(jax.jit(model.evaluate)(after, Batch(z), keys(1)[0]))
    z, rho = np.asarray(z, float), .8
    ratio = stats.multivariate_normal(cov=[[1, rho], [rho, 1]]).logpdf(z) - stats.norm.logpdf(
        z).sum(1)
    truth = -.5 * np.log(1 - rho ** 2)
    assert abs(result['tc'].mean() - truth) < .08 and abs(ratio.mean() - truth) < .05
    inner = (abs(z) < 1.5).all(1)
    assert abs(result['tc'] - ratio)[inner].mean() < .15
    shuffled = np.stack([z[:, 0], np.roll(z[:, 1], 1)], 1)
    best = ((ratio > 0).mean() + (stats.multivariate_normal(cov=[[1, rho], [rho, 1]]).logpdf(
        shuffled) < stats.norm.logpdf(shuffled).sum(1)).mean()) / 2
    assert abs(result['accuracy'].mean() - best) < .03


def test_permuted_keeps_the_marginals_and_breaks_the_ties():
    z = np.asarray(pairs(jax.random.key(0), 4000))
    result = np.asarray(factor.permuted(keys(1)[0], z))
    np.testing.assert_array_equal(np.sort(result, 0), np.sort(z, 0))
    assert np.corrcoef(z.T)[0, 1] > .75 and abs(np.corrcoef(result.T)[0, 1]) < .07
    assert all(abs(np.corrcoef(result[:, d], z[:, d])[0, 1]) < .07 for d in (0, 1))


def test_factor_players_update_only_their_parameters():
    def moved(**hyper):
        model = model_of('factor', data(), latent=2, width=(4,), discriminator_width=(5,), **hyper)
        start = started(model, data())
        after = quick(model.step)(start, data(), keys(1)[0])[0].params
        return after, {p: not equal(start.params[p], after[p]) for p in after}

    assert moved(discriminator_learning_rate=0.)[1] == dict(vae=True, discriminator=False)
    assert moved(learning_rate=0.)[1] == dict(vae=False, discriminator=True)
    (one, _), (other, _) = moved(gamma=0.), moved(gamma=50.)
    assert not equal(one['vae']['encoder'],
                     other['vae']['encoder']), 'the discriminator is not heard'
    assert equal(one['vae']['decoder'], other['vae']['decoder'])


def test_factor_loss_is_the_vaes_and_gamma_times_the_logit():
    model = model_of('factor', data(), latent=2, width=(4,), discriminator_width=(5,), gamma=7.)
    state = started(model, data())
    for m in (quick(model.step)(state, data(), keys(1)[0])[1],
              quick(model.evaluate)(state, data(), keys(1)[0])):
        np.testing.assert_allclose(m['loss'], m['recon'] + m['kl'] + 7 * m['tc'], rtol=1e-5)
        np.testing.assert_allclose(m['elbo'], -(m['recon'] + m['kl']), rtol=1e-5)
        assert abs(m['tc']).max() > 1e-4


# Maximum mean discrepancy


def mean_kernel(kernel, d, square, variance):
    """E k of two independent Gaussians in d dimensions: `square` is the squared distance of their
    means, `variance` the sum of their variances. Closed form for rbf, otherwise an integral over
    the noncentral chi square.
    """
    c = 2 * d
    if kernel == 'rbf':
        return (c / (c + 2 * variance)) ** (d / 2) * np.exp(-square / (c + 2 * variance))
    t = stats.ncx2(d, square / variance) if square else stats.chi2(d)
    return t.expect(lambda t: c / (c + variance * t))


@pytest.mark.parametrize('kernel', mmd.KERNELS)
@pytest.mark.parametrize('shift, sd', thorough(
    [(0., 1.), (.7, 1.), (0., .5), (.5, 1.5)], (0., 1.), (.5, 1.5)))
def test_mmd_is_that_of_two_gaussians(kernel, shift, sd):
    d, n, draws = 3, 60, 300

    def estimate(key):
        z, other = jax.random.normal(key, (2, n, d))
        return mmd.discrepancy(kernel, sd * z + shift, other).mean()

    result = np.asarray(jax.jit(jax.vmap(estimate))(keys(draws)), float)
    truth = (mean_kernel(kernel, d, 0., 2 * sd ** 2) + mean_kernel(kernel, d, 0., 2.)
             - 2 * mean_kernel(kernel, d, d * shift ** 2, 1 + sd ** 2))
    assert abs(result.mean() - truth) < 4 * result.std() / draws ** .5
    if shift == 0 and sd == 1:
        assert abs(truth) < 1e-6 and (result < 0).mean() > .3
    else:
        assert truth > .005


@pytest.mark.parametrize('kernel', mmd.KERNELS)
def test_mmd_is_the_mean_over_all_pairs_of_others(kernel):
    z, y = np.random.default_rng(0).normal(size=(2, 5, 4))

    def k(a, b):
        square = ((a - b) ** 2).sum()
        return np.exp(-square / 8) if kernel == 'rbf' else 8 / (8 + square)

    truth = [np.mean([k(z[i], z[j]) + k(y[i], y[j]) - k(z[i], y[j]) - k(z[j], y[i])
                      for j in range(5) if j != i]) for i in range(5)]
    np.testing.assert_allclose(mmd.discrepancy(kernel, jnp.float32(z), jnp.float32(y)), truth,
                               rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('alpha, weight', [(1., 10.), (0., 1.), (.3, 20.)])
def test_mmd_loss_is_zhao_and_others(alpha, weight):
    model = model_of('mmd', data(), latent=2, width=(4,), alpha=alpha, mmd_weight=weight)
    state = with_larger_params(started(model, data()), 'vae')
    m = quick(model.evaluate)(state, data(), keys(1)[0])
    truth = m['recon'] + (1 - alpha) * m['kl'] + (alpha + weight - 1) * m['mmd']
    np.testing.assert_allclose(m['loss'], truth, rtol=1e-4)
    np.testing.assert_allclose(m['elbo'], -(m['recon'] + m['kl']), rtol=1e-5)
    assert np.ptp(m['mmd']) > 1e-3 and (m['kl'] > .01).all()


def test_the_wasserstein_autoencoder_has_no_noise():
    model = model_of('mmd', data(), latent=2, width=(4,), deterministic=True, mmd_weight=10.,
                     likelihood='gaussian')
    state = with_larger_params(started(model, data()), 'vae')
    one, other = (quick(model.evaluate)(state, data(), key) for key in keys(2))
    assert set(one) == {'loss', 'recon', 'mmd'} and model.density is None
    assert equal(one['recon'], other['recon']) and not equal(one['mmd'], other['mmd'])
    y = np.asarray(model.decode(state, model.encode(state, data().x)), float)
    truth = ((y - data().x) ** 2).sum(1) / 2 + 5 / 2 * np.log(2 * np.pi)
    np.testing.assert_allclose(one['recon'], truth, rtol=1e-4)
    np.testing.assert_allclose(one['loss'], one['recon'] + 10 * one['mmd'], rtol=1e-4)


def test_mmd_refuses_an_unknown_kernel():
    with pytest.raises(BadInput, match="unknown kernel 'laplace'; choose one of rbf, imq"):
        model_of('mmd', data(), kernel='laplace')


# Discrete codes


@functools.cache
def tiny(**hyper):
    """Three positions with three codes each, and a prior far from uniform."""
    model = model_of(
        'vq', data(),
        **dict(
            dict(latent=2, codebook_size=3, num_positions=3, kind='mlp', width=(4, ),
                 prior_width=5), **hyper))
    return model, with_larger_params(started(model, data()), 'prior', 4.)


def test_vq_takes_the_nearest_code():
    rng = np.random.default_rng(0)
    z, book = rng.normal(size=(4, 7, 3)), rng.normal(size=(11, 3))
    truth = ((z[..., None, :] - book) ** 2).sum(-1).argmin(-1)
    result = vq.nearest(jnp.float32(z), jnp.float32(book))
    np.testing.assert_array_equal(result, truth)
    assert result.dtype == jnp.int32 and len(np.unique(truth)) > 5


def test_vq_gradient_goes_straight_through():
    z, e = jax.random.normal(keys(1)[0], (2, 4, 3))
    weights = jnp.arange(3.)
    f = lambda y: (jnp.sin(y) * weights).sum() + (y ** 3).sum()
    np.testing.assert_allclose(vq.straight(z, e), e, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda z: f(vq.straight(z, e)))(z), jax.grad(f)(e),
                               rtol=1e-4, atol=1e-5)
    assert equal(jax.grad(lambda e: f(vq.straight(z, e)))(e), jnp.zeros_like(e))


def test_vq_takes_the_nearest_code_of_far_vectors():
    """Thousands away from zero and a tenth from each other, where squares cancel."""
    rng = np.random.default_rng(0)
    book = np.float32(3000 + .1 * rng.normal(size=(16, 4)))
    z = book[np.arange(200) % 16] + np.float32(.01 * rng.normal(size=(200, 4)))
    squared = ((np.float64(z)[:, None] - np.float64(book)) ** 2).sum(-1)
    np.testing.assert_array_equal(vq.nearest(jnp.asarray(z), jnp.asarray(book)), squared.argmin(1))


def test_vq_encoder_learns_by_the_reconstruction_only():
    model, state = tiny(commitment_cost=0.)
    after = quick(model.step)(state, data(), keys(1)[0])[0]
    for part in 'encoder', 'project', 'decoder':
        assert not equal(state.params['vq'][part], after.params['vq'][part]), part


def test_vq_commitment_draws_the_encoder_towards_its_codes():
    model, state = tiny(commitment_cost=1e3)

    def commitment(params):
        result = quick(model.evaluate)(state._replace(params=params), data(), None)
        return float((result['loss'] - result['recon']).sum())

    uncommitted, committed = (quick(m.step)(state, data(), keys(1)[0])[0].params
                              for m in (tiny(commitment_cost=0.)[0], model))
    assert commitment(committed) < commitment(uncommitted) and commitment(committed) < commitment(
        state.params)


@pytest.mark.full
def test_vq_reconstructs_with_the_codes_it_names():
    """NumPy computes the vectors from the encoder, and the codebook from the buffers."""
    model, state = tiny(codebook_size=5, commitment_cost=.7)
    params, buffers, x = state.params['vq'], state.buffers['vq'], np.asarray(data().x, float)
    relu = lambda a: np.maximum(a, 0)
    z = dense(params['project'], relu(dense(params['encoder'], x))).reshape(N, 3, 2)
    book = np.asarray(buffers['total'] / buffers['share'][:, None], float)
    index = ((z[:, :, None] - book) ** 2).sum(-1).argmin(-1)
    np.testing.assert_array_equal(model.encode(state, data().x), index)
    logits = dense(params['decoder'], book[index].reshape(N, -1), relu)
    np.testing.assert_allclose(model.decode(state, jnp.asarray(index)), 1 / (1 + np.exp(-logits)),
                               rtol=1e-4)
    result = quick(model.evaluate)(state, data(), None)
    recon = (np.log1p(np.exp(logits)) - x * logits).sum(1)
    commitment = ((z - book[index]) ** 2).sum((1, 2))
    np.testing.assert_allclose(result['recon'], recon, rtol=1e-4)
    np.testing.assert_allclose(result['loss'], recon + .7 * commitment, rtol=1e-4)
    log_x, log_p = model.density.joint(state, data(), jnp.asarray(index))
    np.testing.assert_allclose(log_x, -recon, rtol=1e-4)
    np.testing.assert_allclose(result['prior_nll'], -log_p, rtol=1e-4)
    np.testing.assert_allclose(result['elbo'], log_x + log_p, rtol=1e-4)


@pytest.mark.parametrize('index, perplexity, used', [
    ([[0, 1], [2, 3]], 4, .5), ([[5, 5], [5, 5]], 1, .125), ([[0, 0], [3, 7]], 2 ** 1.5, .375)])
def test_vq_usage_of_known_shares(index, perplexity, used):
    result = vq.usage(jnp.asarray(index), 8)
    np.testing.assert_allclose(result['perplexity'], perplexity, rtol=1e-5)
    np.testing.assert_allclose(result['codebook_usage'], used)


def test_vq_codes_move_to_the_mean_of_the_vectors_they_replace():
    buffers = dict(share=jnp.array([.5, .5]), total=jnp.array([[0.], [2.]]))
    assert equal(vq.codebook(buffers), jnp.array([[0.], [4.]]))
    z, index = jnp.array([[[1.]], [[2.]], [[6.]], [[3.]]]), jnp.array([[0], [0], [1], [0]])
    updated = vq.renewed(buffers, z, index, .9, 0.)
    np.testing.assert_allclose(updated['share'], [.525, .475], rtol=1e-6)
    np.testing.assert_allclose(updated['total'], [[.15], [1.95]], rtol=1e-6)
    for _ in range(100):
        buffers = vq.renewed(buffers, z, index, .9, .1)
    np.testing.assert_allclose(vq.codebook(buffers), [[2.], [6.]], rtol=1e-3)


def test_vq_code_without_near_vectors_is_reinitialised():
    buffers = dict(share=jnp.array([.9, .06, .04]), total=jnp.full((3, 1), 9.))
    z, index = jnp.array([[[1.], [2.], [3.], [4.]]]), jnp.zeros((1, 4), jnp.int32)
    result = vq.renewed(buffers, z, index, .9, .15)
    book = vq.codebook(result)
    np.testing.assert_allclose(book[2], 3., rtol=1e-6)
    np.testing.assert_allclose(result['share'], [.91, .054, 1 / 3], rtol=1e-5)
    assert (book[:2] > 5).all()


def sequences():
    return jnp.int32(list(itertools.product(range(3), repeat=3)))


def prior_probabilities(model, state):
    """The prior's probability of each of the 27 sequences."""
    many = Batch(jnp.zeros((27, 5)))
    return np.exp(np.asarray(model.density.joint(state, many, sequences())[1], float))


@pytest.mark.full
def test_vq_prior_is_normalised_and_is_what_is_sampled():
    model, state = tiny()
    p, n = prior_probabilities(model, state), 20000
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-4)
    assert p.max() > 2 * np.median(p), 'a prior of little to find out'
    built = np.asarray(quick(model.prior, static_argnums=2)(state, keys(1)[0], n))
    count = np.bincount(built @ [9, 3, 1], minlength=27)
    assert stats.chisquare(count, n * p / p.sum()).pvalue > 1e-3
    independent = np.prod([np.bincount(built[:, i], minlength=3)[sequences()[:, i]] / n
                           for i in range(3)], 0)
    assert stats.chisquare(count, n * independent).pvalue < 1e-6, 'no place looks at another'


@pytest.mark.full
def test_vq_samples_are_of_the_training_patterns():
    """Four patterns: after training, the prior knows which codes occur together."""
    x = jnp.float32(np.kron(np.eye(4), np.ones(4)))
    batch = Batch(jnp.tile(x, (9, 1)))
    model = model_of('vq', batch, latent=2, codebook_size=8, num_positions=2, kind='mlp',
                     width=(32, ), prior_width=16, learning_rate=3e-3,
                     prior_optimiser=dict(learning_rate=1e-2),
                     dead_code_threshold=0.)  # reinitialised codes would move
    state, metrics = jax.jit(lambda s, k: jax.lax.scan(lambda s, k: model.step(s, batch, k), s, k))(
        started(model, batch), keys(600))
    squared = ((np.asarray(model.decode(state, model.prior(state, keys(1)[0], 400)))[:, None]
                - x) ** 2).mean(-1)
    assert squared.min(1).mean() < .02
    assert np.bincount(squared.argmin(1), minlength=4).min() > 400 * .15
    assert abs(metrics['prior_nll'][-1] - np.log(4)) < .1, 'the entropy of four equal patterns'


@pytest.mark.full
def test_vq_of_images_has_a_grid_of_codes():
    batch = Batch(data(N, 7 * 9 * 3).x.reshape(N, 7, 9, 3))
    model = model_of('vq', batch, latent=2, codebook_size=4, kind='conv', width=(3, 4),
                     prior_width=5)
    state = started(model, batch)
    index = quick(model.encode)(state, batch.x)
    assert index.shape == (N, 2 * 3) and index.dtype == jnp.int32 and index.max() < 4
    assert quick(model.decode)(state, index).shape == batch.x.shape


@pytest.mark.parametrize('bad, message',
                         [(dict(codebook_size=0), 'codebook_size must be at least 1'),
                          (dict(num_positions=0), 'num_positions must be at least 1'),
                          (dict(likelihood='categorical'), 'use bernoulli or gaussian'),
                          (dict(prior_width=0), 'width must be at least 1')])
def test_vq_refuses_what_does_not_fit(bad, message):
    with pytest.raises(BadInput, match=message):
        model_of('vq', data(), **dict(dict(kind='mlp'), **bad))
