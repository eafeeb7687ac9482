"""The scores of samples on distributions and points whose scores are known."""
import tracemalloc

from hypothesis import given, settings, strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, special
from scipy.spatial.distance import cdist

from gen_jax.metrics import samples
from gen_jax.metrics.samples import (classes, discrepancy, frechet_distance, kernel_distance, modes,
                                     precision_recall)
from gen_jax.types import BadInput

examples = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2 ** 32 - 1)
SCORES = 'precision', 'recall', 'density', 'coverage'


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def white(n, d, seed=0):
    """Features with mean 0 and exactly the identity as unbiased covariance."""
    x = draw(n, d, seed)
    return np.linalg.qr(x - x.mean(0))[0] * (n - 1) ** .5


# Frechet distance


def test_distance_of_shifted_copies_is_the_shift_squared():
    x, shift = draw(50, 4), np.array([1., -2, 0, .5])
    assert frechet_distance(x, x + shift) == pytest.approx(5.25, rel=1e-12)


def test_distance_of_scaled_isotropic_gaussians():
    """d (a - b)^2 for the standard deviations a and b."""
    assert frechet_distance(3 * white(30, 5), .5 * white(40, 5, 1)) == pytest.approx(
        5 * 2.5**2, rel=1e-12)


def test_distance_of_diagonal_gaussians():
    a, b, shift = np.array([1., 2, 3]), np.array([4., .1, 3]), np.array([0, 0, 7.])
    assert frechet_distance(a * white(30, 3), b * white(50, 3, 1) + shift) == pytest.approx(
        ((a - b) ** 2).sum() + 49, rel=1e-12)


def test_distance_of_one_dimension_is_of_unbiased_deviations():
    assert frechet_distance([[0.], [2]], [[5.], [5], [8]]) == pytest.approx(25 + (2**.5 - 3**.5)**2)


@pytest.mark.parametrize('d', [2, 7, 20])
def test_distance_of_full_covariances_is_that_by_the_matrix_root(d):
    x = draw(60, d) @ draw(d, d, 1) + draw(1, d, 2)
    y = draw(80, d, 3) @ draw(d, d, 4)
    a, b = np.cov(x.T), np.cov(y.T)
    truth = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(truth, rel=1e-9)
    assert frechet_distance(jnp.asarray(x), jnp.asarray(y)) == pytest.approx(truth, rel=1e-4)


def test_distance_of_fewer_examples_than_dimensions():
    """Orthogonal subspaces have a root of 0; for the same subspace rounding adds nothing."""
    x, y = np.zeros((2, 5, 40))
    x[:, :2], y[:, 2:4] = 3 * white(5, 2), white(5, 2, 1)
    assert frechet_distance(x, y) == pytest.approx(2 * 9 + 2 * 1, rel=1e-12)
    assert frechet_distance(x, 4 * x) == pytest.approx(2 * 9 ** 2, rel=1e-12)
    z = draw(5, 400)
    assert type(frechet_distance(z, z)) is float and 0 <= frechet_distance(z, z) < 1e-10
    assert frechet_distance(z, 2 * z - z.mean(0)) == pytest.approx(
        z.var(0, ddof=1).sum(), rel=1e-12)


@examples
@given(seeds, st.integers(2, 9), st.integers(2, 9), st.integers(1, 6))
def test_distance_is_symmetric_and_blind_to_rotations_and_shifts(seed, n, m, d):
    x, y = draw(n, d, seed), 2 * draw(m, d, seed + 1) + 1
    rotation, shift = np.linalg.qr(draw(d, d, seed + 2))[0], draw(1, d, seed + 3)
    result = frechet_distance(x, y)
    assert result == pytest.approx(frechet_distance(y, x), rel=1e-9, abs=1e-9) and result >= 0
    assert result == pytest.approx(frechet_distance(x @ rotation + shift, y @ rotation + shift),
                                   rel=1e-9, abs=1e-9)
    assert 4 * result == pytest.approx(frechet_distance(2 * x, 2 * y), rel=1e-9, abs=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12 * d * (1 + x.var()))


# Kernel distance


def by_pairs(x, y):
    """The unbiased discrepancy, summed pair by pair."""
    k = lambda a, b: (sum(a * b) / len(a) + 1) ** 3
    mean = lambda pairs: np.mean([k(a, b) for a, b in pairs])
    others = lambda x: [(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    return mean(others(x)) + mean(others(y)) - 2 * mean([(a, b) for a in x for b in y])


def of_shift(s, d):
    """The discrepancy of N(0, I) and N(m, I) where |m|^2 = s, from the moments of x'y: for two at m
    they are s, d + 2s + s^2 and s^3 + 6s^2 + 3s (d + 2).
    """
    both = 3 * s / d + 3 * (d + 2 * s + s ** 2) / d ** 2
    both += (s ** 3 + 6 * s ** 2 + 3 * s * (d + 2)) / d ** 3
    return both + 3 / d - 2 * 3 * (d + s) / d ** 2


@pytest.mark.parametrize('n, m, d', [(2, 2, 1), (7, 12, 3), (12, 7, 3), (5, 5, 30)])
def test_discrepancy_is_that_by_pairs(n, m, d):
    x, y = draw(n, d), draw(m, d, 1) + .5
    assert discrepancy(x, y) == pytest.approx(by_pairs(x, y), rel=1e-10)
    assert discrepancy(x, y) == pytest.approx(discrepancy(y, x), rel=1e-10)


def test_discrepancy_by_hand():
    """Kernels 1 of two x, 27 of two y (1, 2), and 1, 1, 8, 27 of an x and a y."""
    assert discrepancy([[0.], [1]], [[1.], [2]]) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


@pytest.mark.parametrize('s, d', [(0., 3), (1., 3), (2., 1)])
def test_discrepancy_of_a_shift_is_unbiased(s, d):
    result = [discrepancy(draw(20, d, 2 * i), draw(30, d, 2 * i + 1) + (s / d) ** .5)
              for i in range(1500)]
    se = np.std(result) / len(result) ** .5
    assert abs(np.mean(result) - of_shift(s, d)) < 3 * se
    assert se < .05 * max(1, of_shift(s, d)) and (s or min(result) < 0)


def test_subsets_tell_in_the_mean_what_all_do():
    x, y = draw(60, 3), draw(80, 3, 1) + .3
    result = kernel_distance(x, y, subsets=4000, size=10)
    spread = result['kernel_distance_se'] / (10 / 50 + 1 / 4000) ** .5  # of the subsets
    assert abs(result['kernel_distance'] - discrepancy(x, y)) < 3 * spread / 4000 ** .5
    assert 3 * spread / 4000 ** .5 < .2 * discrepancy(x, y)


def test_subsets_hold_each_example_once_and_half_at_most(monkeypatch):
    recorded = []
    monkeypatch.setattr(samples, 'discrepancy', lambda x, y: recorded.append(
        (x, y)) or len(recorded))
    x, y = np.arange(7.)[:, None], np.arange(10., 90)[:, None]
    assert kernel_distance(x, y, subsets=50) == dict(
        kernel_distance=25.5, kernel_distance_se=pytest.approx(
            np.std(np.arange(50), ddof=1) * (3 / 4 + .02)**.5))
    assert kernel_distance(y, y, subsets=50, size=9)['kernel_distance'] == 75.5
    for some, complete, size in [
            *((s, w, 3) for pair in recorded[:50] for s, w in zip(pair, (x, y))),
            *((s, y, 9) for pair in recorded[50:] for s in pair)
    ]:
        assert len(np.unique(some)) == len(some) == size and np.isin(some, complete).all()
    assert {v for a, _ in recorded[:50] for v in a.flat} == set(range(7)), 'all have their turn'


@pytest.mark.parametrize('shift, m, most', [(1., 60, 1.15), (1., 600, 2.5), (0., 60, 2.5)])
def test_error_is_how_far_other_examples_differ(shift, m, most):
    """Or more, where one set has more examples, or 0 without a difference."""
    result = [
        kernel_distance(draw(60, 3, 2 * i),
                        draw(m, 3, 2 * i + 1) + shift, seed=i, subsets=40, size=10)
        for i in range(200)
    ]
    assert all(type(v) is float for v in result[0].values())
    truth = np.std([f['kernel_distance'] for f in result])
    assert .87 < np.mean([f['kernel_distance_se'] for f in result]) / truth < most


def test_seed_decides_the_subsets():
    one, same, other = (kernel_distance(draw(30, 2), draw(30, 2, 1), seed=s, subsets=3)
                        for s in (0, 0, 1))
    assert one == same and one['kernel_distance'] != other['kernel_distance']


# Neighbours


def by_distances(real, fake, k):
    """The four scores from the table of all distances; a tiny excess over a radius counts as within
    it.
    """
    radius = lambda x: np.sort(cdist(x, x), axis=1)[:, k] * (1 + 1e-9) + 1e-9  # 0 is itself
    d = cdist(real, fake)
    in_real, in_fake = d <= radius(real)[:, None], d <= radius(fake)[None]
    result = in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1)
    return dict(zip(SCORES, (*result[:3], result[3].mean())))


def line(*positions):
    """Points of three features on a line."""
    return np.array(positions, float)[:, None] * [0, 1, 0] + [5, 0, 2]


@pytest.mark.parametrize('real, fake, k, expected', [
    # radii of real 1, 1, 1, 1 and 10, of fake .2, .1 and .1: the balls of 0 and 1 hold all fakes
    (line(0, 1, 2, 3, 13), line(.4, .6, .7), 1, (1, 0, 2, 2 / 5)),
    # radii of real 2, 1, 1, 2, of fake 35.5, 30.5 and 35.5: only the ball of 3 holds a fake, 4.5
    (line(0, 1, 2, 3), line(4.5, 9.5, 40), 2, (1 / 3, 1, 1 / 6, 1 / 4)),
    # a generator that equals the data: a ball contains its centre, and a neighbour on its border
    (line(0, 1, 3), line(0, 1, 3), 1, (1, 1, 2, 1)),
    # one that generates only one point, and that correctly
    (line(0, 1, 3), line(1, 1, 1), 1, (1, 1 / 3, 3, 1)),
    # one that generates a wrong point
    (line(0, 1, 3), line(9, 9, 9), 1, (0, 0, 0, 0)),
    # one that generates more than the data: all reals are in a fake's ball, not conversely
    (line(0, .1, .2), line(-8, 0.05, 8), 1, (1 / 3, 1, 2 / 3, 2 / 3))])
def test_neighbours_by_hand(real, fake, k, expected):
    assert precision_recall(real, fake, k) == pytest.approx(dict(zip(SCORES, expected)), abs=1e-12)


def test_cluster_of_the_data_is_precise_but_recalls_little():
    """Fakes from one of two clusters: all are in real balls, and at most half of the reals are in
    fake balls.
    """
    rng = np.random.default_rng(0)
    one, two, fake = rng.normal(size=(3, 200, 4))
    result = precision_recall(np.concatenate([one, two + 50]), .5 * fake)
    assert result['precision'] == 1 and result['density'] > 1.2
    assert 0 < result['recall'] < .5 and 0 < result['coverage'] < .5
    result = precision_recall(one, .5 * fake)
    assert result['recall'] < .9 < result['precision']


@examples
@given(seeds, st.integers(1, 3), st.integers(4, 20), st.integers(4, 20), st.integers(1, 5),
       st.booleans())
def test_neighbours_are_those_by_all_distances(seed, k, n, m, d, complete):
    """Also for integers, where many distances are equal and some are 0."""
    real, fake = draw(n, d, seed), 1.5 * draw(m, d, seed + 1) + .5
    if complete:
        real, fake = real.round(), fake.round()
    result = precision_recall(real, fake, k)
    assert result == pytest.approx(by_distances(real, fake, k), abs=1e-12)
    assert all(type(v) is float for v in result.values())
    rotation, shift = np.linalg.qr(draw(d, d, seed + 2))[0], 1000 * draw(1, d, seed + 3)
    moved = precision_recall(3 * real @ rotation + shift, 3 * fake @ rotation + shift, k)
    assert complete or result == pytest.approx(moved, abs=1e-12)


def test_density_of_the_data_themselves_is_one():
    """For fakes from the distribution of the reals: a ball of k others contains k on average."""
    result = [precision_recall(draw(100, 2, 2 * i), draw(100, 2, 2 * i + 1), 3) for i in range(40)]
    assert np.mean([f['density'] for f in result]) == pytest.approx(1, abs=.03)
    assert np.mean([f['coverage'] for f in result]) == pytest.approx(1 - .5 ** 3, abs=.03)


@pytest.mark.parametrize('origin', [0, 1e4])
def test_far_example_or_origin_does_not_blur_the_others(origin):
    real, fake = line(0, 1e-3, 2e-3, 3e-3), line(3.5e-3, 4.5e-3, 1e6)
    assert precision_recall(real + origin, fake + origin, 1) == pytest.approx(
        dict(precision=1 / 3, recall=1 / 4, density=1 / 3, coverage=1 / 4))


# Blocks of pairs


@pytest.mark.parametrize('block', [1, 40, 100, 333, 1000])
def test_blocks_do_not_matter(monkeypatch, block):
    """Of 37 or 41 columns: rows one by one, or by two, with and without a smaller last block."""
    x, y = draw(37, 3), draw(41, 3, 1) + .4
    scores = lambda: (precision_recall(x, y, 3), precision_recall(y, x, 3),
                      {'mmd': discrepancy(x, y)})
    complete = scores()
    monkeypatch.setattr(samples, 'BLOCK', block)
    for a, b in zip(scores(), complete):
        assert a == pytest.approx(b, rel=1e-9)
    assert [np.shape(p) for _, p in samples.products(x, y)] == [
        (min(max(1, block // 41), 37 - i), 41) for i in range(0, 37, max(1, block // 41))]


@pytest.mark.parametrize('measure', [precision_recall, discrepancy])
def test_memory_is_that_of_a_few_blocks(monkeypatch, measure):
    monkeypatch.setattr(samples, 'BLOCK', 2 ** 15)
    x, y = draw(1500, 2), draw(1500, 2, 1)
    tracemalloc.start()
    measure(x, y)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 6 * 8 * 2 ** 15, f'{most} bytes, where all pairs take {8 * 1500 ** 2}'


# Modes


SQUARE = np.array([[0., 0], [4, 0], [0, 4], [4, 4]])


def test_modes_of_points_by_hand():
    """sigma .5: within 1.5 of the nearest centre, not of any other."""
    x = [[0, 0], [1, 1], [0, 1.4], [3, 0], [4, 1.6], [2, 2], [4, 2.8], [90, 4]]
    result = modes(x, SQUARE, .5)
    p = np.array([3, 1, 1]) / 5
    assert result == dict(modes=3, high_quality=5 / 8,
                          kl=pytest.approx(np.log(4) + (p * np.log(p)).sum()))
    assert type(result['modes']) is int and type(result['high_quality']) is float


def test_modes_of_all_one_and_none():
    assert modes(np.repeat(SQUARE, 5, 0), SQUARE, .1) == dict(modes=4, high_quality=1, kl=0)
    assert modes(np.tile(SQUARE[2], (7, 1)), SQUARE, .1) == dict(
        modes=1, high_quality=1, kl=pytest.approx(np.log(4)))
    assert modes(np.full((7, 2), 9.), SQUARE, .1) == dict(
        modes=0, high_quality=0, kl=pytest.approx(np.log(4)))
    assert modes(SQUARE, SQUARE[:1], 9) == dict(modes=1, high_quality=1, kl=0)


def test_modes_of_the_mixture_itself():
    """In two dimensions exp(-9 / 2) of a Gaussian is beyond 3 standard deviations, in three more;
    for points in the right shares, kl is (m - 1) / 2n on average.
    """
    x = np.repeat(SQUARE, 5000, 0) + .1 * draw(20_000, 2)
    result = modes(x, SQUARE, .1)
    assert result['modes'] == 4 and result['kl'] < 1e-5
    assert result['high_quality'] == pytest.approx(1 - np.exp(-9 / 2), abs=.003)
    cube = modes(.1 * draw(20_000, 3), np.zeros((1, 3)), .1)
    assert cube['high_quality'] == pytest.approx(special.gammainc(3 / 2, 9 / 2), abs=.004)


@examples
@given(seeds, st.integers(1, 30), st.integers(1, 9))
def test_modes_are_bounded_and_blind_to_order(seed, n, m):
    x, centres = 2 * draw(n, 2, seed), 2 * draw(m, 2, seed + 1)
    result = modes(x, centres, .3)
    assert 0 <= result['modes'] <= min(n, m) and 0 <= result['kl'] <= np.log(m) + 1e-12
    assert (result['modes'] == 0) == (result['high_quality'] == 0)
    assert result == pytest.approx(modes(x[::-1], centres[::-1], .3), abs=1e-12)
    if result['modes']:
        assert result['kl'] >= np.log(m / result['modes']) - 1e-12


# Classes


def test_classes_of_known_distributions():
    label = np.array([0, 0, 3, 1])
    entropy = 1.5 * np.log(2)
    for number in 4, 1000:
        assert classes(label, np.ones(number)) == dict(
            modes=3, kl=pytest.approx(np.log(number) - entropy))
    assert classes(label, [4, 1, 1, 2]) == dict(modes=3, kl=pytest.approx(.25 * np.log(.25 / .125)))
    assert classes(np.arange(1000), np.ones(1000)) == dict(modes=1000, kl=0)
    result = classes(jnp.zeros(9, jnp.int32), np.ones(10))
    assert result == dict(modes=1, kl=pytest.approx(np.log(10)))
    assert type(result['kl']) is float and type(result['modes']) is int


@examples
@given(seeds, st.integers(1, 12), st.integers(1, 50))
def test_classes_are_those_of_scipy(seed, number, n):
    rng = np.random.default_rng(seed)
    label, reference = rng.integers(0, number, n), rng.uniform(.1, 1, number)
    p = np.array([(label == i).mean() for i in range(number)])
    result = classes(label.astype(rng.choice(['u1', 'i4', 'u8'])), reference)
    truth = special.rel_entr(p, reference / reference.sum()).sum()
    assert result['kl'] == pytest.approx(truth, abs=1e-12)
    assert result['modes'] == len(set(label.tolist())) and result['kl'] >= -1e-12
    assert classes(label, p)['kl'] == pytest.approx(0, abs=1e-12)
    assert classes(np.tile(label, 2), 3 * reference) == pytest.approx(result, abs=1e-12)


def test_label_that_the_reference_lacks_is_refused_not_infinite():
    with pytest.raises(BadInput, match='2 labels that the reference lacks'):
        classes([0, 1, 2, 2], [2, 0, 0, 0, 1])
    assert classes([0, 0], [2, 0, 0, 0, 1])['kl'] == pytest.approx(np.log(3 / 2))


# Refusals


A = np.arange(16.).reshape(8, 2)


@pytest.mark.parametrize('measure', [
    frechet_distance, discrepancy, kernel_distance, precision_recall, lambda x, y: modes(x, y, 1.)
])
@pytest.mark.parametrize('x, y, message', [
    (A, A[:, :1], r'same width d, not of shapes \(8, 2\) and \(8, 1\)'),
    (A[:, 0], A, 'same width'), (A, A[0], 'same width'), (A[None], A[None], 'same width'),
    (A[:, :0], A[:, :0], 'same width'), (A[:0], A, 'at least . of each, not 0 and 8'),
    (A, A[:0], 'at least . of each, not 8 and 0'), (A + np.nan, A, 'finite'),
    (A, np.where(A > 9, np.inf, A), 'finite')])
def test_features_that_do_not_fit_are_refused(measure, x, y, message):
    with pytest.raises(BadInput, match=message) as refusal:
        measure(x, y)
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('measure, message', [
    (lambda: frechet_distance(A[:1], A), 'at least 2 of each, not 1 and 8'),
    (lambda: discrepancy(A, A[:1]), 'at least 2 of each'),
    (lambda: kernel_distance(A[:3], A), 'at least 4 of each, not 3 and 8'),
    (lambda: kernel_distance(A, A, subsets=1), '2 subsets of 2 examples, not 1 of 1000'),
    (lambda: kernel_distance(A, A, size=1), '2 subsets of 2 examples, not 100 of 1'),
    (lambda: precision_recall(A[:1], A, 1), 'at least 2 of each'),
    (lambda: precision_recall(A[:5], A), 'below the number of examples, 5 real and 8 fake, not 5'),
    (lambda: precision_recall(A, A[:3], 3), '8 real and 3 fake, not 3'),
    (lambda: precision_recall(A, A, 0), 'k must be above 0'),
    (lambda: modes(A, A, 0.), 'sigma must be above 0 and finite, not 0.0'),
    (lambda: modes(A, A, np.nan), 'sigma'),
    (lambda: classes([0, 4], [1] * 4), 'from 0 to 3, not from 0 to 4'),
    (lambda: classes([0, -1], [1] * 4), 'from 0 to 3, not from -1'),
    (lambda: classes([0.], [1] * 4), 'integers .*not float64'),
    (lambda: classes([[0]], [1] * 4), r'of shape \(1, 1\)'),
    (lambda: classes(np.zeros(0, int), [1] * 4), 'one or more')])
def test_what_cannot_be_scored_is_refused(measure, message):
    with pytest.raises(BadInput, match=message) as refusal:
        measure()
    assert '\n' not in str(refusal.value)
