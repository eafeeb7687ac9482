"""gen_jax.losses against closed forms, scikit-image, quadrature and finite differences."""
import functools

from hypothesis import given, settings, strategies as st
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
import numpy as np
import pytest
from scipy import integrate, special, stats

from gen_jax import losses, nets
from gen_jax.types import BadInput

examples = settings(max_examples=30, deadline=None, derandomize=True)
shapes = pytest.mark.parametrize('shape', [(4, 1), (3, 13), (2, 7, 9, 3)])


def real(low=-10., high=10.):
    return st.floats(low, high, width=32)


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def images(shape, seed=0):
    """Two batches of smooth images in [0, 1] that are similar to each other."""
    from scipy.ndimage import gaussian_filter
    rng = np.random.default_rng(seed)
    x = gaussian_filter(rng.uniform(size=shape), (0, 1, 1, 0))
    y = x + .1 * gaussian_filter(rng.normal(size=shape), (0, .7, .7, 0))
    return np.clip(y, 0, 1).astype(np.float32), np.float32(x)


def flat_sum(a):
    return a.reshape(len(a), -1).sum(1)


@shapes
def test_per_example_sums_everything_but_the_batch(shape):
    x = draw(shape)
    np.testing.assert_allclose(losses.per_example(jnp.asarray(x)), flat_sum(x), rtol=1e-4,
                               atol=1e-4)


def test_per_example_of_a_vector_is_itself():
    np.testing.assert_array_equal(losses.per_example(jnp.arange(3.)), [0, 1, 2])


@shapes
def test_bernoulli_nll_is_scipys_log_probability(shape):
    logits, x = draw(shape), (draw(shape, 1) > 0).astype(float)
    truth = -flat_sum(stats.bernoulli.logpmf(x, special.expit(logits)))
    np.testing.assert_allclose(losses.bernoulli_nll(logits, x), truth, rtol=1e-5)


@examples
@given(real(), st.floats(0, 1, width=32))
def test_bernoulli_nll_is_the_cross_entropy_of_grey_values(logit, x):
    p = special.expit(float(logit))
    truth = -x * np.log(p) - (1 - x) * np.log1p(-p)
    result = losses.bernoulli_nll(jnp.array([[logit]]), jnp.array([[x]]))
    np.testing.assert_allclose(result, [truth], rtol=1e-4, atol=2e-6)


def test_bernoulli_nll_is_least_at_the_logit_of_x():
    x = jnp.linspace(.05, .95, 10)[:, None]
    gradient = jax.grad(lambda y: losses.bernoulli_nll(y, x).sum())(jnp.log(x / (1 - x)))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize('logit', [-1e4, -100., 0., 100., 1e4])
@pytest.mark.parametrize('x', [0., .5, 1.])
def test_extreme_logits_stay_finite_and_right(logit, x):
    value, gradient = jax.value_and_grad(lambda y: losses.bernoulli_nll(y, jnp.full(
        (1, 1), x)).sum())(jnp.full((1, 1), logit))
    np.testing.assert_allclose(value, np.logaddexp(0, logit) - x * logit, rtol=1e-6,
                               atol=1e-30)
    np.testing.assert_allclose(gradient, special.expit(logit) - x, atol=1e-6)


@shapes
def test_gaussian_nll_is_scipys_log_density(shape):
    mean, x, logvar = draw(shape), draw(shape, 1), draw(shape, 2)
    truth = -flat_sum(stats.norm.logpdf(x, mean, np.exp(logvar / 2)))
    np.testing.assert_allclose(losses.gaussian_nll(mean, x, logvar), truth, rtol=1e-4)


@shapes
def test_gaussian_nll_broadcasts_one_variance_and_defaults_to_one(shape):
    mean, x = draw(shape), draw(shape, 1)
    np.testing.assert_allclose(losses.gaussian_nll(mean, x, -1.3),
                               losses.gaussian_nll(mean, x, np.full(shape, -1.3)), rtol=1e-5)
    np.testing.assert_allclose(losses.gaussian_nll(mean, x),
                               -flat_sum(stats.norm.logpdf(x, mean)), rtol=1e-5)


@pytest.mark.parametrize('mean, logvar', [(0., 0.), (1.5, -2.), (-3., 1.)])
def test_gaussian_density_integrates_to_one(mean, logvar):
    x = mean + np.exp(logvar / 2) * np.linspace(-9, 9, 4001)
    density = np.exp(-np.asarray(losses.gaussian_nll(mean, x[:, None], logvar), float))
    assert integrate.simpson(density, x=x) == pytest.approx(1, abs=1e-5)


@shapes
def test_squared_error_is_summed_not_averaged(shape):
    y, x = draw(shape), draw(shape, 1)
    truth = [np.linalg.norm(a - b) ** 2 for a, b in zip(y, x)]
    np.testing.assert_allclose(losses.squared_error(y, x), truth, rtol=1e-5)


@pytest.mark.parametrize('mean, logvar', [(0., 0.), (.7, -1.5), (-2., .9), (3., -4.)])
def test_gaussian_kl_is_the_integral_that_defines_it(mean, logvar):
    q, p = stats.norm(mean, np.exp(logvar / 2)), stats.norm()
    wide = 12 * np.exp(logvar / 2)
    truth, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)),
                              mean - wide, mean + wide)
    np.testing.assert_allclose(losses.gaussian_kl(mean, logvar), truth, rtol=1e-5, atol=1e-6)


@examples
@given(real(-3, 3), real(-3, 3))
def test_gaussian_kl_is_zero_only_at_the_prior(mean, logvar):
    kl = float(losses.gaussian_kl(jnp.float32(mean), jnp.float32(logvar)))
    assert kl >= -1e-6
    assert (kl > 1e-3) or max(abs(mean), abs(logvar)) < .1
    assert float(losses.gaussian_kl(0., 0.)) == 0


def test_gaussian_kl_is_per_dimension():
    mean, logvar = draw((5, 3)), draw((5, 3), 1)
    result = losses.gaussian_kl(mean, logvar)
    assert result.shape == (5, 3)
    np.testing.assert_allclose(result[2, 1], losses.gaussian_kl(mean[2, 1], logvar[2, 1]),
                               rtol=1e-5)


@examples
@given(real(-1e6, 1e6))
def test_bound_keeps_logvar_within_the_limit(logvar):
    bounded = float(losses.bound_logvar(jnp.float32(logvar)))
    assert abs(bounded) <= 15
    np.testing.assert_allclose(bounded, 15 * np.tanh(np.float64(logvar) / 15), rtol=1e-5,
                               atol=1e-30)


def test_bound_does_not_change_small_values_and_takes_another_limit():
    np.testing.assert_allclose(losses.bound_logvar(jnp.array([-.1, 0, .1])), [-.1, 0, .1],
                               rtol=1e-4)
    np.testing.assert_allclose(losses.bound_logvar(jnp.array([-99., 99.]), 2.), [-2, 2], rtol=1e-6)
    np.testing.assert_allclose(losses.bound_logvar(jnp.array([-10., 15.])),
                               15 * np.tanh([-2 / 3, 1]), rtol=1e-5)


MEAN, LOGVAR = np.array([-1., 3., 0.]), np.array([-2., 1.5, 0.])


@pytest.fixture(scope='module')
def samples():
    shape = 20000, 3
    return np.asarray(losses.reparameterise(jax.random.key(1), jnp.broadcast_to(MEAN, shape),
                                            jnp.broadcast_to(LOGVAR, shape)))


@pytest.mark.parametrize('i', range(3))
def test_reparameterise_draws_from_its_normal_distribution(samples, i):
    sd = np.exp(LOGVAR[i] / 2)
    assert stats.kstest(samples[:, i], 'norm', args=(MEAN[i], sd)).pvalue > .01
    assert samples[:, i].mean() == pytest.approx(MEAN[i], abs=4 * sd / 20000 ** .5)
    assert samples[:, i].std() == pytest.approx(sd, rel=.02)
    assert stats.kurtosis(samples[:, i]) == pytest.approx(0, abs=.15)


def test_reparameterise_draws_independent_dimensions_and_examples(samples):
    assert abs(np.corrcoef(samples.T) - np.eye(3)).max() < .03
    assert abs(np.corrcoef(samples[:-1, 0], samples[1:, 0])[0, 1]) < .03


def test_reparameterise_is_differentiable_in_both_arguments():
    z, pull = jax.vjp(lambda m, v: losses.reparameterise(jax.random.key(0), m, v),
                      jnp.float32(MEAN), jnp.float32(LOGVAR))
    by_mean, by_logvar = pull(jnp.ones(3))
    np.testing.assert_allclose(by_mean, 1)
    np.testing.assert_allclose(by_logvar, (z - MEAN) / 2, rtol=1e-5)


@examples
@given(real(-20, 20), real(-20, 20))
def test_discriminator_loss_is_minus_log_of_the_right_answers(a, b):
    truth = -np.log(special.expit(float(a))) - np.log(1 - special.expit(float(b)))
    result = losses.discriminator_loss(jnp.array([a]), jnp.array([b]))
    assert result.shape == (1,)
    np.testing.assert_allclose(result, [truth], rtol=1e-4, atol=1e-6)


@examples
@given(real(-20, 20))
def test_non_saturating_is_minus_log_of_the_probability_of_real(a):
    np.testing.assert_allclose(losses.non_saturating(jnp.array([a])),
                               [-np.log(special.expit(float(a)))], rtol=1e-4, atol=1e-6)


def test_adversarial_losses_stay_finite_with_a_gradient_where_the_discriminator_wins():
    won = jnp.array([-1e4, 1e4])
    assert np.isfinite(losses.discriminator_loss(won, won[::-1])).all()
    gradient = jax.grad(lambda f: losses.non_saturating(f).sum())(won)
    np.testing.assert_allclose(gradient, [-1, 0], atol=1e-6)


def test_best_discriminator_at_equal_odds_costs_two_bits():
    np.testing.assert_allclose(losses.discriminator_loss(jnp.zeros(2), jnp.zeros(2)), 2 * np.log(2),
                               rtol=1e-6)


# Images


@shapes
def test_absolute_error_is_summed_not_averaged(shape):
    y, x = draw(shape), draw(shape, 1)
    np.testing.assert_allclose(losses.absolute_error(y, x), flat_sum(abs(x - y)), rtol=1e-5)


@pytest.mark.parametrize('shape', [(3, 11, 11, 1), (2, 16, 13, 1), (3, 28, 28, 1), (2, 24, 32, 3)])
def test_ssim_is_that_of_scikit_image(shape):
    metrics = pytest.importorskip('skimage.metrics')
    y, x = images(shape)
    truth = [metrics.structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1,
        channel_axis=-1) for a, b in zip(y, x)]
    assert np.ptp(truth) > 1e-3 and np.mean(truth) < .95
    np.testing.assert_allclose(losses.ssim(y, x), truth, atol=2e-4)


def slow_ssim(y, x, size, sigma):
    """Wang et al. 2004, one window after another, in float64; `size` of the window by axis."""
    weights = [np.exp(-.5 * ((np.arange(k) - (k - 1) / 2) / sigma) ** 2) for k in size]
    w = np.outer(*weights) / np.outer(*weights).sum()
    result = []
    for c in range(x.shape[-1]):
        for i in range(x.shape[0] - size[0] + 1):
            for j in range(x.shape[1] - size[1] + 1):
                a, b = (np.float64(v[i:i + size[0], j:j + size[1], c]) for v in (x, y))
                ma, mb = (w * a).sum(), (w * b).sum()
                va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
                covariance = (w * (a - ma) * (b - mb)).sum()
                result.append((2 * ma * mb + 1e-4) * (2 * covariance + 9e-4)
                              / (ma ** 2 + mb ** 2 + 1e-4) / (va + vb + 9e-4))
    return np.mean(result)


@pytest.mark.parametrize('shape, size', [
    ((3, 8, 8, 1), (7, 7)), ((2, 7, 9, 3), (7, 9)), ((2, 10, 4, 2), (9, 3)),
    ((2, 5, 14, 1), (5, 11)), ((2, 1, 2, 1), (1, 1))])
def test_ssim_of_small_images_has_the_largest_odd_window_that_fits(shape, size):
    y, x = images(shape)
    truth = [slow_ssim(a, b, size, 1.5) for a, b in zip(y, x)]
    np.testing.assert_allclose(losses.ssim(y, x), truth, atol=2e-4)


def test_ssim_takes_another_window():
    y, x = images((2, 12, 12, 1))
    truth = [slow_ssim(a, b, (5, 5), .8) for a, b in zip(y, x)]
    np.testing.assert_allclose(losses.ssim(y, x, 5, .8), truth, atol=2e-4)


@pytest.mark.parametrize('shape', [(4, 8, 8, 1), (3, 16, 12, 3)])
def test_ssim_is_symmetric_one_for_equal_images_and_never_more(shape):
    y, x = images(shape)
    np.testing.assert_allclose(losses.ssim(y, x), losses.ssim(x, y), rtol=1e-5)
    np.testing.assert_allclose(losses.ssim(x, x), 1, atol=1e-5)
    assert (losses.ssim(y, x) < 1).all() and (losses.ssim(1 - x, x) < losses.ssim(y, x)).all()
    flat = jnp.full(shape, .3)
    np.testing.assert_allclose(losses.ssim(flat, flat), 1, atol=1e-5)


def test_ssim_has_a_finite_gradient_of_zero_at_the_top():
    some = images((2, 12, 12, 1))[1]
    for x in some, 0 * some, 0 * some + 1:
        gradient = jax.jit(jax.grad(lambda y, x: losses.ssim(y, x).sum()))(x, x)
        np.testing.assert_allclose(gradient, 0, atol=1e-3)


def test_ssim_increases_along_its_gradient():
    y, x = map(jnp.float32, images((3, 9, 8, 3)))
    value, gradient = jax.jit(jax.value_and_grad(lambda y: losses.ssim(y, x).sum()))(y)
    step = 1e-3 / float(jnp.linalg.norm(gradient))
    ahead, behind = (float(losses.ssim(y + d * gradient, x).sum()) for d in (step, -step))
    np.testing.assert_allclose((ahead - behind) / 2e-3, jnp.linalg.norm(gradient), rtol=.02)


@shapes
def test_psnr_is_minus_ten_log10_of_the_mean_squared_error(shape):
    y, x = np.clip(draw(shape) / 5 + .5, 0, 1), np.clip(draw(shape, 1) / 5 + .5, 0, 1)
    mse = ((x - y) ** 2).reshape(len(x), -1).mean(1)
    np.testing.assert_allclose(losses.psnr(y, x), -10 * np.log10(mse), rtol=1e-4)


def test_psnr_of_a_tenth_is_20_dB_and_of_equal_examples_100():
    x = jnp.full((2, 4, 4, 1), .5)
    np.testing.assert_allclose(losses.psnr(x + jnp.array([.1, 0])[:, None, None, None], x),
                               [20, 100], rtol=1e-5)
    assert np.isfinite(jax.grad(lambda y: losses.psnr(y, x).sum())(x)).all()


def test_fidelity_of_images_has_three_names_and_of_others_one():
    y, x = images((3, 12, 12, 3))
    result = losses.fidelity_metrics(x)(y, x)
    assert set(result) == {'mse', 'psnr', 'ssim'}
    np.testing.assert_allclose(result['mse'], ((x - y) ** 2).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(result['psnr'], losses.psnr(y, x))
    np.testing.assert_array_equal(result['ssim'], losses.ssim(y, x))
    for shape in (3, 13), (3, 8, 8), (3, 12, 12, 1):  # the last of images outside [0, 1]
        y, x = draw(shape), draw(shape, 1)
        result = losses.fidelity_metrics(x)(y, x)
        assert set(result) == {'mse'}
        np.testing.assert_allclose(result['mse'], flat_sum((x - y) ** 2) / x[0].size, rtol=1e-5)


def test_reconstruction_is_the_loss_by_its_name_after_the_link():
    logits, x = draw((3, 12, 11, 1)), images((3, 12, 11, 1))[1]
    y = special.expit(logits)
    truth = dict(mse=flat_sum((x - y) ** 2), l1=flat_sum(abs(x - y)),
                 cross_entropy=flat_sum(-x * np.log(y) - (1 - x) * np.log(1 - y)),
                 ssim=132 * (1 - np.array([slow_ssim(a, b, (11, 11), 1.5) for a, b in zip(y, x)])))
    for name, value in truth.items():
        result = losses.reconstruction_loss(name, x, jax.nn.sigmoid)(logits, x)
        np.testing.assert_allclose(result, value, rtol=1e-3, err_msg=name)


def test_reconstruction_refuses_what_does_not_fit():
    unit = jnp.float32(images((3, 8, 8, 1))[1])
    for name in 'cross_entropy', 'ssim':
        with pytest.raises(BadInput, match=fr'loss {name} needs data in \[0, 1\]'):
            losses.reconstruction_loss(name, unit * 2 - 1, jax.nn.sigmoid)
    for vectors in unit[:, 0, 0], unit[..., 0]:
        with pytest.raises(BadInput, match='loss ssim needs images.*use loss mse'):
            losses.reconstruction_loss('ssim', vectors, jax.nn.sigmoid)
    with pytest.raises(BadInput, match="'mae'.*mse, cross_entropy, l1, ssim"):
        losses.reconstruction_loss('mae', unit, jax.nn.sigmoid)
    for name in 'mse', 'l1':
        assert losses.reconstruction_loss(name, unit * 9 - 4, jax.nn.sigmoid)


# Sparse codes and labels


@pytest.mark.parametrize('p', [.05, .3, .9])
def test_bernoulli_kl_is_scipys_relative_entropy(p):
    q = np.random.default_rng(0).uniform(.001, .999, (4, 5))
    truth = stats.entropy([np.full_like(q, p), np.full_like(q, 1 - p)], [q, 1 - q], axis=0)
    result = losses.bernoulli_kl(p, jnp.float32(q))
    assert result.shape == (4, 5)
    np.testing.assert_allclose(result, truth, rtol=1e-4, atol=1e-6)


def test_bernoulli_kl_is_zero_only_at_equality_and_finite_at_the_ends():
    p = jnp.linspace(.01, .99, 21)
    np.testing.assert_allclose(losses.bernoulli_kl(p, p), 0, atol=1e-6)
    assert (losses.bernoulli_kl(p, p[::-1])[jnp.arange(21) != 10] > 0).all()
    for q in 0., 1.:
        value, gradient = jax.value_and_grad(lambda q: losses.bernoulli_kl(.05, q))(q)
        clipped = np.clip(q, 1e-6, 1 - 1e-6)
        np.testing.assert_allclose(value, stats.entropy([.05, .95], [clipped, 1 - clipped]),
                                   rtol=.01)
        assert np.isfinite(gradient)


def test_accuracy_is_one_where_the_largest_logit_is_the_labels():
    logits = jnp.array([[3., 1, 2], [0, 5, 1], [-3, -2, -1], [1, 0, 0]])
    result = losses.accuracy(logits, jnp.array([0, 0, 2, 2]))
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, [1, 0, 1, 0])


# The Jacobian


def per_example_norm(f, x):
    """The reference: each example's Jacobian as a matrix, by forward mode."""
    jacobian = jax.vmap(jax.jacfwd(lambda row: f(row[None])[0]))(x)
    return (np.asarray(jacobian, float) ** 2).reshape(len(x), -1).sum(1)


def smooth_net(sizes, seed=0):
    """tanh layers; `sizes` are the numbers of units."""
    weights = [jnp.float32(draw(pair, seed + i)) for i, pair in enumerate(zip(sizes, sizes[1:]))]
    return lambda x: functools.reduce(lambda x, w: jnp.tanh(x @ w / 2), weights, x)


@pytest.mark.parametrize('sizes', [(5, 7, 3), (3, 6, 6, 8), (4, 1)])
def test_jacobian_norm_is_exact_by_backward_passes(sizes):
    f, x = smooth_net(sizes), jnp.float32(draw((6, sizes[0]), 9))
    result = losses.jacobian_norm(f, x)
    assert result.shape == (6,)
    np.testing.assert_allclose(result, per_example_norm(f, x), rtol=1e-4)


def test_jacobian_norm_of_a_sigmoid_layer_is_that_of_rifai():
    """Rifai et al. 2011: sum over j of (h_j (1 - h_j))^2 sum over i of W_ij^2."""
    w, b, x = draw((9, 4)), draw(4, 1), draw((6, 9), 2)
    h = special.expit(x @ w + b)
    truth = ((h * (1 - h)) ** 2 * (w ** 2).sum(0)).sum(1)
    result = losses.jacobian_norm(lambda x: jax.nn.sigmoid(x @ w + b), jnp.float32(x))
    np.testing.assert_allclose(result, truth, rtol=1e-4)


def test_jacobian_norm_takes_examples_and_codes_of_any_shape():
    w = draw((12, 8))
    x = jnp.float32(draw((5, 2, 3, 2), 1))
    for shape in (8,), (2, 4), (2, 2, 2):
        f = lambda x, shape=shape: jnp.sin(x.reshape(len(x), -1) @ w).reshape(len(x), *shape)
        gradient = np.cos(np.asarray(x, float).reshape(5, -1) @ w)
        np.testing.assert_allclose(losses.jacobian_norm(f, x),
                                   (gradient ** 2 * (w ** 2).sum(0)).sum(1), rtol=1e-3)


@pytest.fixture(scope='module')
def conv_encoder():
    """(f of (params, x), params, x): gen_jax's conv encoder, smooth but for the pooling."""
    x = jnp.float32(draw((3, 5, 4, 2)))
    net = nets.make('conv', width=(3, 2), activation='tanh').encoder(x.shape[1:], 3)
    params, buffers = net.init(jax.random.key(0), x)
    return lambda params, x: net.apply(params, buffers, x), params, x


@pytest.mark.full
def test_jacobian_norm_of_a_conv_encoder_is_computed_per_example(conv_encoder):
    """Backward passes by gen_jax's rules, against finite differences of the forward pass."""
    f, params, x = conv_encoder
    f = jax.jit(functools.partial(f, params))
    result = losses.jacobian_norm(f, x)
    units = np.eye(x[0].size, dtype=np.float32).reshape(-1, *x.shape[1:])
    for row, value in zip(x, result):
        step = 1e-2
        up, down = (np.asarray(f(row + d * units), float) for d in (step, -step))
        np.testing.assert_allclose(value, (((up - down) / (2 * step)) ** 2).sum(), rtol=5e-3)
    np.testing.assert_allclose(result[1:2], losses.jacobian_norm(f, x[1:2]), rtol=1e-5)


@pytest.mark.full
def test_random_probes_estimate_the_jacobian_norm_without_bias():
    """E |v^T J|^2 = |J|^2; its variance for random signs is 2 sum over i != j of (J J^T)_ij^2."""
    f, x = smooth_net((5, 7, 6)), jnp.float32(draw((4, 5), 9))
    jacobian = np.asarray(jax.vmap(jax.jacfwd(lambda row: f(row[None])[0]))(x), float)
    product = jacobian @ jacobian.swapaxes(1, 2)
    off_diagonal = product * (1 - np.eye(6))
    truth, probes = np.trace(product, axis1=1, axis2=2), 4000
    error = np.sqrt(2 * (off_diagonal ** 2).sum((1, 2)) / probes)
    assert (error <= truth * np.sqrt(2 / probes)).all()
    result = losses.jacobian_norm(f, x, jax.random.key(3), probes)
    assert result.shape == (4,)
    assert (abs(result - truth) < 5 * error).all()
    single = jax.vmap(lambda key: losses.jacobian_norm(f, x, key, 1))(
        jax.random.split(jax.random.key(4), probes))
    assert (abs(single.mean(0) - truth) < 5 * error).all()
    np.testing.assert_allclose(single.std(0), error * np.sqrt(probes), rtol=.15)


@pytest.mark.full
def test_gradient_of_the_jacobian_norm_agrees_with_finite_differences(conv_encoder):
    """Second derivatives through gen_jax's convolutions and pooling, as in a training step."""
    f, params, x = conv_encoder
    flat, back = ravel_pytree(params)
    key = jax.random.key(1)
    for probes in 0, 2:
        size = jax.jit(lambda flat, probes=probes: losses.jacobian_norm(
            lambda x: f(back(flat), x), x, key, probes).sum())
        gradient = np.asarray(jax.grad(size)(flat), float)
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=flat.shape).astype(np.float32)
            direction /= np.linalg.norm(direction)
            step = 2e-2
            up, down = (float(size(flat + d * direction)) for d in (step, -step))
            np.testing.assert_allclose(gradient @ direction, (up - down) / (2 * step), rtol=.02,
                                       atol=.01 * np.linalg.norm(gradient))


SMOOTH = dict(bernoulli_nll=lambda a, b: losses.bernoulli_nll(a, jax.nn.sigmoid(b)),
              gaussian_nll=lambda a, b: losses.gaussian_nll(a, b, a * b),
              squared_error=losses.squared_error,
              bernoulli_kl=lambda a, b: losses.bernoulli_kl(jax.nn.sigmoid(a), jax.nn.sigmoid(b)),
              gaussian_kl=losses.gaussian_kl, discriminator_loss=losses.discriminator_loss,
              bound=lambda a, b: losses.bound_logvar(a, 2.) * b,
              non_saturating=lambda a, b: losses.non_saturating(a) * b,
              logit=lambda a, b: losses.logit(jax.nn.sigmoid(a)) * b)


@pytest.mark.parametrize('name', SMOOTH)
def test_gradients_agree_with_finite_differences(name):
    a, b = jnp.float32(draw((3, 2))), jnp.float32(draw((3, 2), 1))
    check_grads(SMOOTH[name], (a, b), order=2, modes=['rev'], atol=.02, rtol=.02)


@pytest.mark.parametrize('weight', [.5, 10., 500.])
@pytest.mark.parametrize('likelihood, error, nll', [
    ('bernoulli', lambda y, x: jnp.log1p(jnp.exp(y)) - x * y, losses.bernoulli_nll),
    ('gaussian', lambda y, x: (y - x) ** 2, losses.gaussian_nll)])
def test_beta_of_weight_gives_the_same_direction(weight, likelihood, error, nll):
    """The gradients of weight * mean error + kl and of recon + beta * kl are parallel, so both
    losses have the same optimum.
    """
    x = jax.nn.sigmoid(jnp.float32(draw((6, 12))))
    start = jnp.float32(draw((6, 4), 1) / 2), jnp.float32(draw((2, 12), 2))

    def weighted_loss(code, w):
        mean, logvar = jnp.split(code, 2, 1)
        return (weight * error(mean @ w, x).mean() +
                losses.gaussian_kl(mean, logvar).sum(1).mean())

    def beta_loss(code, w):
        mean, logvar = jnp.split(code, 2, 1)
        beta = losses.beta_of_weight(weight, 12, likelihood)
        return (nll(mean @ w, x) + beta * losses.gaussian_kl(mean, logvar).sum(1)).mean()

    a, b = (np.concatenate([g.ravel() for g in jax.grad(f, (0, 1))(*start)])
            for f in (weighted_loss, beta_loss))
    np.testing.assert_allclose(a / np.linalg.norm(a), b / np.linalg.norm(b), rtol=1e-3, atol=1e-6)


def test_beta_of_weight_knows_two_likelihoods():
    assert losses.beta_of_weight(784, 784) == 1
    with pytest.raises(KeyError):
        losses.beta_of_weight(1, 1, 'laplace')


@pytest.mark.parametrize('x, inside', [([0., 1.], True), ([.2, .7], True), ([-1e-3, .5], False),
                                       ([.5, 1.001], False), ([np.nan, .5], False)])
def test_in_unit_interval_and_require_unit_interval_agree(x, inside):
    x = jnp.array(x)
    assert losses.in_unit_interval(x) is inside
    if inside:
        assert losses.require_unit_interval(x, 'loss') is None
    else:
        with pytest.raises(BadInput, match='this loss needs data in'):
            losses.require_unit_interval(x, 'this loss')


@examples
@given(st.floats(.0011, .9989))
def test_logit_undoes_the_sigmoid(p):
    np.testing.assert_allclose(losses.logit(jnp.float32(p)), special.logit(np.float64(p)),
                               rtol=1e-4, atol=1e-6)


def test_logit_stays_finite_at_the_ends():
    ends = losses.logit(jnp.array([0., 1.]))
    np.testing.assert_allclose(ends, special.logit([1e-3, 1 - 1e-3]), rtol=1e-4)
    np.testing.assert_allclose(losses.logit(jnp.zeros(()), .1), special.logit(.1), rtol=1e-5)


def test_stop_gradient_keeps_the_value_and_removes_the_gradient():
    value, gradient = jax.value_and_grad(lambda x: x * losses.stop_gradient(x))(3.)
    assert (value, gradient) == (9, 3)
