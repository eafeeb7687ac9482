"""gen_jax.losses against closed forms, quadrature and finite differences."""
from hypothesis import given, settings, strategies as st
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
from scipy import integrate, special, stats

from gen_jax import losses
from gen_jax.types import BadInput

examples = settings(max_examples=30, deadline=None, derandomize=True)
shapes = pytest.mark.parametrize('shape', [(4, 1), (3, 13), (2, 7, 9, 3)])


def real(low=-10., high=10.):
    return st.floats(low, high, width=32)


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


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
    found = losses.bernoulli_nll(jnp.array([[logit]]), jnp.array([[x]]))
    np.testing.assert_allclose(found, [truth], rtol=1e-4, atol=2e-6)


def test_bernoulli_nll_is_least_at_the_logit_of_x():
    x = jnp.linspace(.05, .95, 10)[:, None]
    slope = jax.grad(lambda y: losses.bernoulli_nll(y, x).sum())(jnp.log(x / (1 - x)))
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@pytest.mark.parametrize('logit', [-1e4, -100., 0., 100., 1e4])
@pytest.mark.parametrize('x', [0., .5, 1.])
def test_extreme_logits_stay_finite_and_right(logit, x):
    value, slope = jax.value_and_grad(lambda y: losses.bernoulli_nll(y, jnp.full((1, 1), x)).sum())(
        jnp.full((1, 1), logit))
    np.testing.assert_allclose(value, np.logaddexp(0, logit) - x * logit, rtol=1e-6,
                               atol=1e-30)
    np.testing.assert_allclose(slope, special.expit(logit) - x, atol=1e-6)


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
def test_gaussian_kl_is_zero_at_the_prior_alone(mean, logvar):
    kl = float(losses.gaussian_kl(jnp.float32(mean), jnp.float32(logvar)))
    assert kl >= -1e-6
    assert (kl > 1e-3) or max(abs(mean), abs(logvar)) < .1
    assert float(losses.gaussian_kl(0., 0.)) == 0


def test_gaussian_kl_keeps_the_dimensions_apart():
    mean, logvar = draw((5, 3)), draw((5, 3), 1)
    found = losses.gaussian_kl(mean, logvar)
    assert found.shape == (5, 3)
    np.testing.assert_allclose(found[2, 1], losses.gaussian_kl(mean[2, 1], logvar[2, 1]), rtol=1e-5)


@examples
@given(real(-1e6, 1e6))
def test_bound_keeps_logvar_within_the_limit(logvar):
    bounded = float(losses.bound(jnp.float32(logvar)))
    assert abs(bounded) <= 15
    np.testing.assert_allclose(bounded, 15 * np.tanh(np.float64(logvar) / 15), rtol=1e-5,
                               atol=1e-30)


def test_bound_leaves_small_values_alone_and_takes_another_limit():
    np.testing.assert_allclose(losses.bound(jnp.array([-.1, 0, .1])), [-.1, 0, .1], rtol=1e-4)
    np.testing.assert_allclose(losses.bound(jnp.array([-99., 99.]), 2.), [-2, 2], rtol=1e-6)
    np.testing.assert_allclose(losses.bound(jnp.array([-10., 15.])), 15 * np.tanh([-2 / 3, 1]),
                               rtol=1e-5)


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
def test_critic_loss_is_minus_log_of_the_right_answers(a, b):
    truth = -np.log(special.expit(float(a))) - np.log(1 - special.expit(float(b)))
    found = losses.critic_loss(jnp.array([a]), jnp.array([b]))
    assert found.shape == (1,)
    np.testing.assert_allclose(found, [truth], rtol=1e-4, atol=1e-6)


@examples
@given(real(-20, 20))
def test_non_saturating_is_minus_log_of_being_believed(a):
    np.testing.assert_allclose(losses.non_saturating(jnp.array([a])),
                               [-np.log(special.expit(float(a)))], rtol=1e-4, atol=1e-6)


def test_adversarial_losses_stay_finite_with_a_slope_where_the_critic_wins():
    won = jnp.array([-1e4, 1e4])
    assert np.isfinite(losses.critic_loss(won, won[::-1])).all()
    slope = jax.grad(lambda f: losses.non_saturating(f).sum())(won)
    np.testing.assert_allclose(slope, [-1, 0], atol=1e-6)


def test_best_critic_at_equal_odds_costs_two_bits():
    np.testing.assert_allclose(losses.critic_loss(jnp.zeros(2), jnp.zeros(2)), 2 * np.log(2),
                               rtol=1e-6)


SMOOTH = dict(bernoulli_nll=lambda a, b: losses.bernoulli_nll(a, jax.nn.sigmoid(b)),
              gaussian_nll=lambda a, b: losses.gaussian_nll(a, b, a * b),
              squared_error=losses.squared_error, gaussian_kl=losses.gaussian_kl,
              critic_loss=losses.critic_loss, bound=lambda a, b: losses.bound(a, 2.) * b,
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
    """Weight * mean error + kl and recon + beta * kl pull the same way, so have one optimum."""
    x = jax.nn.sigmoid(jnp.float32(draw((6, 12))))
    start = jnp.float32(draw((6, 4), 1) / 2), jnp.float32(draw((2, 12), 2))

    def theirs(code, w):
        mean, logvar = jnp.split(code, 2, 1)
        return (weight * error(mean @ w, x).mean() +
                losses.gaussian_kl(mean, logvar).sum(1).mean())

    def ours(code, w):
        mean, logvar = jnp.split(code, 2, 1)
        beta = losses.beta_of_weight(weight, 12, likelihood)
        return (nll(mean @ w, x) + beta * losses.gaussian_kl(mean, logvar).sum(1)).mean()

    a, b = (np.concatenate([g.ravel() for g in jax.grad(f, (0, 1))(*start)])
            for f in (theirs, ours))
    np.testing.assert_allclose(a / np.linalg.norm(a), b / np.linalg.norm(b), rtol=1e-3, atol=1e-6)


def test_beta_of_weight_knows_two_likelihoods():
    assert losses.beta_of_weight(784, 784) == 1
    with pytest.raises(KeyError):
        losses.beta_of_weight(1, 1, 'laplace')


@pytest.mark.parametrize('x, inside', [([0., 1.], True), ([.2, .7], True), ([-1e-3, .5], False),
                                       ([.5, 1.001], False), ([np.nan, .5], False)])
def test_in_unit_and_require_unit_agree(x, inside):
    x = jnp.array(x)
    assert losses.in_unit(x) is inside
    if inside:
        assert losses.require_unit(x, 'loss') is None
    else:
        with pytest.raises(BadInput, match='this loss needs data in'):
            losses.require_unit(x, 'this loss')


@examples
@given(st.floats(.0011, .9989))
def test_logit_undoes_the_sigmoid(p):
    np.testing.assert_allclose(losses.logit(jnp.float32(p)), special.logit(np.float64(p)),
                               rtol=1e-4, atol=1e-6)


def test_logit_stays_finite_at_the_ends():
    ends = losses.logit(jnp.array([0., 1.]))
    np.testing.assert_allclose(ends, special.logit([1e-3, 1 - 1e-3]), rtol=1e-4)
    np.testing.assert_allclose(losses.logit(jnp.zeros(()), .1), special.logit(.1), rtol=1e-5)


def test_stop_lets_the_value_through_but_no_gradient():
    value, slope = jax.value_and_grad(lambda x: x * losses.stop(x))(3.)
    assert (value, slope) == (9, 3)
