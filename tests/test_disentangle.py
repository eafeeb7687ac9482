"""The scores of disentanglement on codes whose scores are known."""
import jax
import numpy as np
import pytest
from scipy import integrate, stats

from gen_jax.metrics import disentangle
from gen_jax.metrics.disentangle import beta_vae, dci, factor_vae, mig, modularity, sap
from gen_jax.types import BadInput

SIZES = 3, 6, 5, 8
ON_CODES = mig, modularity, sap, dci
ON_CHOICE = beta_vae, factor_vae
TURN = np.array([[1, 1], [-1, 1]]) / 2 ** .5


def scores(measure, codes, factors):
    """All numbers of a score, by name."""
    result = measure(codes, factors)
    result = result if isinstance(result, dict) else {measure.__name__: result}
    assert all(type(v) is float and 0 <= v <= 1 for v in result.values())
    return result


def grid(*sizes, times=1):
    """Every combination of the factors' values, so many times."""
    return np.tile(np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), 1), (times, 1))


def perfect(values):
    """The factors in another order, on other scales, one upside down."""
    return values[:, [2, 0, 3, 1]] * np.array([-3., .2, 1, 2]) + np.array([7, 0, -40, .1])


def turned(values):
    """The first two factors standardised and turned by 45 degrees; the others as they are."""
    z = (values - values.mean(0)) / values.std(0)
    return np.concatenate([z[:, :2] @ TURN, z[:, 2:]], 1)


@pytest.fixture(scope='module')
def factors():
    return np.random.default_rng(0).integers(0, SIZES, (4000, 4))


@pytest.mark.parametrize('sd', [.1, .5, 1.5])
def test_mig_of_drawn_codes_is_that_of_the_posteriors(sd):
    """One dimension is a factor with noise of this deviation, one tells nothing: against SciPy's
    integral of the entropy of the mixture; mig, which bins the means, sees no noise at all."""
    values = np.arange(3000)[:, None] % 5
    mean = np.concatenate([values, np.zeros_like(values)], 1)
    logvar = np.full((3000, 2), 2 * np.log(sd))

    def entropy_of(z):
        p = stats.norm.pdf(z, np.arange(5), sd).mean()
        return -p * np.log(p) if p else 0.

    complete = integrate.quad(entropy_of, -8 * sd, 4 + 8 * sd, limit=500)[0]
    reported = complete - stats.norm(0, sd).entropy()
    result = disentangle.mig_sampled(mean, logvar, values, jax.random.key(0))
    assert result == pytest.approx(reported / np.log(5), abs=.02)
    assert disentangle.mig(mean, values) > .99


@pytest.fixture(scope='module')
def noise():
    return np.random.default_rng(1).normal(size=(4000, 6))


# Scores of given codes


@pytest.mark.parametrize('measure', ON_CODES)
def test_perfect_codes_score_one(measure, factors):
    for name, score in scores(measure, perfect(factors), factors).items():
        assert score > .98, name
    with_noise = np.concatenate([perfect(factors), np.zeros((4000, 1))], 1)
    for name, score in scores(measure, with_noise, factors).items():
        assert score > .98, f'{name} of a constant dimension besides'


@pytest.mark.parametrize('measure', [mig, sap])
def test_codes_that_tell_nothing_score_nought(measure, factors, noise):
    assert measure(noise, factors) < .02


def test_codes_that_tell_nothing_are_neither_disentangled_nor_informative(factors, noise):
    result = dci(noise, factors)
    assert result['disentanglement'] < .02 and result['completeness'] < .02
    assert result['informativeness'] == pytest.approx(np.mean([1 / k for k in SIZES]), abs=.03)


def test_codes_that_tell_nothing_are_not_modular_where_factors_are_alike(noise):
    alike = np.random.default_rng(2).integers(0, 8, (4000, 10))
    assert modularity(noise, alike) < .4


@pytest.mark.parametrize('measure', ON_CODES)
def test_constant_codes_score_nought(measure, factors):
    result = scores(measure, np.ones((4000, 3)), factors)
    if measure is dci:
        assert result.pop('informativeness') == pytest.approx(np.mean([1 / k for k in SIZES]),
                                                              abs=.05)
    assert max(result.values()) < 1e-12


def test_turned_codes_are_informative_but_not_disentangled():
    values = grid(8, 8, times=70)
    codes = turned(values)
    assert mig(values, values) > .99 and mig(codes, values) < .02
    assert sap(values, values) > .99 and sap(codes, values) < .1
    assert modularity(values, values) > .99 and modularity(codes, values) < .1
    result = dci(codes, values)
    assert result['disentanglement'] < .1 and result['completeness'] < .1
    assert result['informativeness'] > .95


def test_a_little_noise_costs_little_disentanglement(factors, noise):
    result = dci(factors + .3 * noise[:, :4], factors)
    assert min(result.values()) > .85


def test_split_codes_are_disentangled_but_not_complete():
    """Two factors of four values, each told by two dimensions, a bit in each."""
    values = grid(4, 4, times=100)
    codes = np.concatenate([values // 2, values % 2], 1).astype(float)
    result = dci(codes, values)
    assert result['disentanglement'] > .99 and result['informativeness'] == 1
    assert result['completeness'] == pytest.approx(.5, abs=.05)  # two of four dimensions alike
    assert modularity(codes, values) > .99 and mig(codes, values) < .01
    assert sap(codes, values) < .01


def test_dimensions_of_two_factors_are_complete_but_not_disentangled():
    values = grid(4, 4, 4, 4, times=10)
    codes = np.stack([4 * values[:, 0] + values[:, 1], 4 * values[:, 2] + values[:, 3]], 1)
    result = dci(codes.astype(float), values)
    assert result['completeness'] > .99 and result['informativeness'] == 1
    assert result['disentanglement'] == pytest.approx(.5, abs=.05)  # two of four factors alike


# Known values


def bits(p):
    """The entropy in nats of a coin."""
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


def test_gap_of_a_factor_and_its_noisy_copy_is_exact():
    """One bit; a dimension equal to it, and one that is wrong in two of ten cases."""
    bit, case = grid(2, 10, times=10).T
    copy = np.where(case < 8, bit, 1 - bit)
    codes = np.stack([copy, bit, case * 0], 1) + .5
    assert mig(codes, bit[:, None]) == pytest.approx(bits(.2) / np.log(2), abs=1e-12)
    wrong, = disentangle.information(codes[:, :1], bit[:, None], 20)
    assert wrong == pytest.approx(np.log(2) - bits(.2), abs=1e-12)


def test_gap_is_the_mean_over_factors_each_over_its_entropy():
    """Four values told in full and in half, and a bit told by none."""
    values = grid(4, 2, times=10)
    codes = np.stack([values[:, 0], values[:, 0] // 2], 1).astype(float)
    assert mig(codes, values) == pytest.approx((.5 + 0) / 2, abs=1e-12)


def test_modularity_of_known_information_is_exact():
    """The sum of two bits tells as much of each; an or of two beside a bit tells less of each."""
    values = grid(2, 2, 2, times=10)
    a, b, c = values.T
    assert modularity(np.stack([a + b, a + b], 1), values) == pytest.approx(1 - 1 / 2)
    assert modularity(np.stack([a + b, c], 1), values) == pytest.approx((1 / 2 + 1) / 2)
    weak = np.log(2) - 3 / 4 * bits(1 / 3)  # what a | b tells of either
    ratio = (weak / np.log(2)) ** 2
    codes = np.stack([4 * a + 2 * (b | c), a], 1)
    assert modularity(codes, values) == pytest.approx((1 - 2 * ratio / 2 + 1) / 2, abs=1e-12)


def test_gap_of_predictability_of_a_noisy_copy_is_its_error():
    """Right in 4 of 5 cases: balanced accuracy .8, so .6 above chance."""
    bit, case = grid(2, 10, times=400).T
    codes = np.stack([bit, np.where(case < 8, bit, 1 - bit)], 1).astype(float)
    assert sap(codes, bit[:, None]) == pytest.approx(1 - .6, abs=.02)


def test_predictability_is_balanced():
    """A sign that all of the rare value give, and 3 in 10 of the common: .7 above chance."""
    rare, case = grid(10, 10, times=40).T
    codes = np.stack([(rare == 9) | (case < 3), np.random.default_rng(0).normal(size=4000)], 1)
    assert sap(codes, (rare == 9)[:, None].astype(int)) == pytest.approx(.7, abs=.06)


def test_predictability_takes_a_threshold_for_each_value(factors):
    """An ordered code tells all eight values, in whatever order they come."""
    order = np.array([3, 0, 7, 1, 6, 2, 5, 4])
    codes = np.stack([order[factors[:, 3]], factors[:, 0]], 1).astype(float)
    assert sap(codes, factors[:, 3:]) > .98


def test_concentration_is_one_less_the_share_of_the_entropy():
    weights = np.array([[1, 0, 0, 0], [2, 2, 2, 2], [3, 3, 0, 0], [0, 0, 0, 0]], float)
    np.testing.assert_allclose(disentangle.concentration(weights), [1, 0, .5, 0], atol=1e-12)


# Invariances


@pytest.mark.parametrize('measure', ON_CODES)
def test_order_of_dimensions_and_of_factors_does_not_matter(measure, factors, noise):
    codes = perfect(factors) + .7 * noise[:, :4]
    one = scores(measure, codes, factors)
    other = scores(measure, codes[:, [2, 0, 3, 1]], factors[:, [1, 3, 0, 2]])
    abs_ = .02 if measure is dci else 1e-12  # a forest draws its examples in turn
    assert one == pytest.approx(other, abs=abs_) and .05 < min(one.values()) < .98


@pytest.mark.parametrize('measure', ON_CODES)
def test_affine_scales_of_dimensions_and_names_of_values_do_not_matter(measure, factors, noise):
    codes = perfect(factors) + .7 * noise[:, :4]
    scaled = codes * np.array([4., -.25, 1024, 2]) + np.array([0, 8., 0, 2])
    other = scores(measure, scaled, 10 * factors - 3)
    assert scores(measure, codes, factors) == pytest.approx(other, abs=.02)


@pytest.mark.parametrize('measure', [sap, dci])
def test_seed_decides(measure, factors, noise):
    codes = factors + .7 * noise[:, :4]
    one, same, other = (measure(codes, factors, seed=s) for s in (0, 0, 1))
    assert one == same != other


# Scores of chosen factors


def represented(values):
    return np.concatenate([perfect(values), np.zeros((len(values), 2))], 1)


def blind(values):
    return np.random.default_rng(len(values)).normal(size=(len(values), 5))


@pytest.mark.parametrize('measure', ON_CHOICE)
def test_perfect_representation_scores_one_and_a_blind_one_chance(measure):
    assert measure(represented, SIZES) > .98
    assert measure(blind, SIZES) == pytest.approx(1 / 4, abs=.08)
    constant = measure(lambda values: np.ones((len(values), 3)), SIZES)
    assert type(constant) is float and constant == pytest.approx(1 / 4, abs=.08)


@pytest.mark.parametrize('measure', ON_CHOICE)
def test_representation_of_some_factors_scores_in_between(measure):
    """Three factors seen in a dimension each, two in none, which cannot be told apart."""
    result = measure(lambda values: values[:, :3], (4, 5, 6, 7, 8), votes=1000)
    assert .7 < result < .9 if measure is beta_vae else .5 < result < .9


def test_factors_that_share_a_dimension_cannot_be_told_apart():
    """The least varying dimension names two factors; one more tells the third."""
    result = factor_vae(lambda v: np.stack([v[:, 0] + 8 * v[:, 1], v[:, 2]], 1), (8, 8, 8),
                        collapsed=0)
    assert .5 < result < .8


def test_collapsed_dimensions_are_ignored():
    """A tiny copy of one factor gets its votes, unless it is ignored; noise then gets them."""
    sizes = 8, 8

    def represent(values, tiny=1e-3):
        noise = np.random.default_rng(0).normal(size=len(values))
        return np.stack([noise, tiny * values[:, 0], tiny * values[:, 1]], 1)

    assert factor_vae(represent, sizes, collapsed=0) > .98
    assert factor_vae(represent, sizes) == pytest.approx(1 / 2, abs=.08)


def test_variance_is_over_that_at_large():
    """A dimension of small variance does not get the votes of one that is large and noisy."""
    assert factor_vae(lambda values: values * [1, .1] + blind(values)[:, :2] * [.5, 0],
                      (8, 8)) > .98


@pytest.mark.parametrize('measure', ON_CHOICE)
def test_examples_agree_in_one_factor(measure):
    recorded = []

    def represent(values):
        recorded.append(values)
        return values.astype(float)

    count = dict(pairs=50) if measure is beta_vae else dict(count=100)
    measure(represent, SIZES, votes=200, **count)
    values, = recorded
    assert values.shape == (200 * 100, 4) and values.dtype.kind == 'i'
    np.testing.assert_array_equal(values.min(0), 0)
    np.testing.assert_array_equal(values.max(0), np.array(SIZES) - 1)
    if measure is beta_vae:  # in each pair a value of its own
        joint = (values.reshape(200, 50, 2, 4)[:, :, 0] ==
                 values.reshape(200, 50, 2, 4)[:, :, 1]).all(1)
    else:
        joint = (values.reshape(200, 100, 4) == values.reshape(200, 100, 4)[:, :1]).all(1)
    np.testing.assert_array_equal(joint.sum(1), 1)
    assert joint.mean(0).min() > .15, 'each factor in its turn'


@pytest.mark.parametrize('measure', ON_CHOICE)
def test_votes_are_the_seed_s(measure):
    noisy = lambda values: values + 2 * blind(values)[:, :4]
    one, same, other = (measure(noisy, SIZES, seed=s, votes=400) for s in (3, 3, 4))
    assert one == same != other


# Refusals


CODES, VALUES = np.zeros((40, 2)), np.tile([[0, 1], [1, 0]], (20, 1))


@pytest.mark.parametrize('measure', ON_CODES)
@pytest.mark.parametrize('codes, values, said', [
    (CODES[:39], VALUES, r'same n.*\(39, 2\) and \(40, 2\)'),
    (CODES[:, 0], VALUES, 'same n'), (CODES, VALUES[:, 0], 'same n'),
    (CODES, VALUES * 1., 'integers, not float64'), (CODES + np.nan, VALUES, 'finite'),
    (CODES[:, :1], VALUES, 'at least 2 dimensions'),
    (CODES, VALUES * [1, 0], 'factor 1 is constant'),
    (CODES[:18], VALUES[:18], 'factor 0 has a value with only 9 examples'),
    (CODES[:0], VALUES[:0], 'constant')])
def test_codes_that_cannot_be_scored_are_refused(measure, codes, values, said):
    with pytest.raises(BadInput, match=said) as refusal:
        measure(codes, values)
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('measure', [modularity, dci])
def test_one_factor_is_refused_where_two_are_compared(measure):
    with pytest.raises(BadInput, match='at least 2 dimensions and 2 factors, not 2 and 1'):
        measure(CODES, VALUES[:, :1])


@pytest.mark.parametrize('measure', [mig, modularity])
def test_one_bin_is_refused(measure):
    with pytest.raises(BadInput, match='at least 2 bins, not 1'):
        measure(CODES, VALUES, bins=1)


@pytest.mark.parametrize('measure', ON_CHOICE)
@pytest.mark.parametrize('represent, sizes, options, said', [
    (represented, (4,), {}, 'two or more'), (represented, (3, 1), {}, r'at least 2, not \(3, 1\)'),
    (represented, SIZES, dict(votes=79), '4 factors need at least 80 votes, not 79'),
    (lambda values: values[:, 0], SIZES, {}, 'represent must give'),
    (lambda values: values[1:], SIZES, {}, 'represent must give'),
    (lambda values: values + np.inf, SIZES, {}, 'finite')])
def test_representations_that_cannot_be_scored_are_refused(measure, represent, sizes, options,
                                                           said):
    with pytest.raises(BadInput, match=said):
        measure(represent, sizes, **options)
