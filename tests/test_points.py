"""Points in the plane against the mixtures that they are sampled from, and images stacked as colour
channels.
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from conftest import defaults, thorough
from gen_jax import data, train
from gen_jax.types import BadInput, Batch

KEY, OTHER = jax.random.key(0), jax.random.key(1)
MIXTURES = dict(ring=(8, .01), grid=(25, .05))


def centres(name):
    """At distance 1 from 0, 45 degrees apart; or a grid of 5 x 5 with a spacing of 2."""
    if name == 'ring':
        angle = np.radians(45 * np.arange(8))
        return np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.stack(np.meshgrid(*[[-4., -2, 0, 2, 4]] * 2, indexing='ij'), -1).reshape(-1, 2)


def samples(name, rows=slice(None), key=KEY, split='train', **options):
    """Prepared examples, as models get them, and their labels."""
    loaded = data.load(name, **options)
    stored = jax.tree.map(lambda a: jnp.asarray(a[rows]), getattr(loaded, split))
    x, label, swapped = loaded.prepare(stored, key)
    assert swapped is None
    return np.asarray(x), label


# Points


@pytest.mark.parametrize('name', MIXTURES)
@pytest.mark.parametrize('split, size', [('train', 100_000), ('test', 10_000)])
def test_mixtures_are_round_gaussians_on_their_centres(name, split, size):
    """All have the same share; everything is within 4.5 standard errors."""
    x, label = samples(name, split=split)
    modes, sigma = MIXTURES[name]
    assert x.shape == (size, 2) and x.dtype == np.float32
    assert np.bincount(label).tolist() == [size // modes] * modes
    offset, n = x - centres(name)[label], size / modes
    for mode in range(modes):
        offsets = offset[np.asarray(label) == mode]
        assert abs(offsets.mean(0)).max() < 4.5 * sigma / n ** .5
        np.testing.assert_allclose(offsets.std(0), sigma, rtol=4.5 / (2 * n) ** .5)
        assert abs(np.corrcoef(offsets.T)[0, 1]) < 4.5 / n ** .5
    assert stats.kstest(offset.ravel() / sigma, 'norm').pvalue > 1e-3


@pytest.mark.parametrize('name', MIXTURES)
def test_the_mixture_of_the_set_is_the_one_it_samples_from(name):
    mixture = data.load(name).mixture
    np.testing.assert_allclose(mixture.centres, centres(name), atol=1e-6)
    assert mixture.sigma == MIXTURES[name][1]
    assert data.load('spiral').mixture is None and data.load('digits').mixture is None


def test_spiral_has_two_arms_of_one_and_a_half_turns():
    """The radius is angle / 8, up to 3 pi; the second arm is rotated by half a turn; the noise is
    0.02.
    """
    x, label = samples('spiral')
    assert np.bincount(label).tolist() == [50_000] * 2
    x = np.where(np.asarray(label)[:, None] == 1, -x, x)  # maps the second arm onto the first
    angle = np.linspace(0, 3 * np.pi, 4001)
    arm = angle[:, None] / 8 * np.stack([np.cos(angle), np.sin(angle)], 1)
    points = x[:4000]
    squared = ((points[:, None] - arm[None, ::4]) ** 2).sum(-1)
    distance = np.sqrt(squared.min(1))
    assert np.quantile(distance, .95) == pytest.approx(1.96 * .02, rel=.1) and distance.max() < .1
    nearest_angle = angle[::4][squared.argmin(1)]  # 3 pi times the square root of a uniform number
    assert stats.kstest((nearest_angle / (3 * np.pi)) ** 2, 'uniform').pvalue > 1e-3
    for arm in 0, 1:
        radius = np.hypot(*samples('spiral')[0][np.asarray(label) == arm].T)
        assert radius.mean() == pytest.approx(3 * np.pi / 8 * 2 / 3, rel=.01)


@pytest.mark.parametrize('name', ['ring', 'grid', 'spiral'])
def test_points_depend_only_on_the_key(name):
    rows = slice(200)
    x, label = samples(name, rows)
    again, same_label = samples(name, rows)
    other, other_label = samples(name, rows, OTHER)
    np.testing.assert_array_equal(x, again)
    assert (label == same_label).all() and (label == other_label).all()
    assert (x != other).any(1).all() and len(np.unique(x, axis=0)) == 200
    assert len(np.unique(label[:100])) == len(np.unique(data.load(name).test.label))  # shuffled
    assert (np.diff(np.asarray(label)) != 0).mean() > .3


def test_points_are_kept_by_label_and_limited_like_other_sets():
    x, label = samples('ring', identities=(6, 2), limit=1000)
    assert np.bincount(label).tolist() == [500, 500]
    np.testing.assert_allclose(x, centres('ring')[[6, 2]][label], atol=.06)


@pytest.mark.parametrize('name, options, message', [
    ('ring', dict(binarize='static'), 'needs images'), ('rows:grid', {}, 'needs images'),
    ('stacked:spiral', {}, 'needs images'), ('ring', dict(size=8), 'one size')])
def test_points_are_no_images(name, options, message):
    with pytest.raises(BadInput, match=message) as error:
        data.load(name, **options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name, shape', thorough(
    [('ring', (2,)), ('grid', (2,)), ('spiral', (2,)), ('stacked:digits', (8, 8, 3))],
    ('ring', (2,)), ('stacked:digits', (8, 8, 3))))
def test_training_is_prepared_on_them(name, shape):
    """The example batch of training: points with labels, stacked images without."""
    config = defaults('gan', name, kind='mlp', width=(4,), norm='none', latent=2)
    config.eval.best = ''
    run = train.prepare(config)
    recorded = train.example_batch(run.data, run.key)
    assert recorded.x.shape == (1024, *shape) and recorded.x.dtype == jnp.float32
    assert (recorded.label is None) == name.startswith('stacked')
    built = run.model.decode(run.state, run.model.prior(run.state, run.key, 3))
    assert built.shape == (3, *shape)


# Stacked images


def digits(**options):
    return samples('digits', slice(300), **options)[0]


def stacked(key=KEY, **options):
    x, label = samples('stacked:digits', slice(300), key, **options)
    assert label is None
    return x


def source_index(x, images):
    """The index of the one image that each x is a copy of."""
    equal = (x[:, None, :, :, 0] == images[None, :, :, :, 0]).all((2, 3))
    assert (equal.sum(1) == 1).all()
    return equal.argmax(1)


def test_each_colour_is_an_image_of_the_batch():
    """Every image is in each colour channel once: in the first in the given order, in the others in
    random order.
    """
    x, images = stacked(), digits()
    assert x.shape == (300, 8, 8, 3) and x.dtype == np.float32
    assert x.min() == 0 and x.max() == 1 and len(np.unique(x)) == 17
    first, *others = (source_index(x[..., i:i + 1], images) for i in range(3))
    assert first.tolist() == list(range(300))
    for order in others:
        assert sorted(order) == list(range(300))
        assert (order == first).sum() < 10 and abs(np.corrcoef(order, first)[0, 1]) < .25
    assert (others[0] == others[1]).sum() < 10


def test_stacks_are_the_keys():
    assert (stacked() == stacked()).all()
    x, other = stacked(), stacked(OTHER)
    assert (x[..., 0] == other[..., 0]).all()
    assert (x[..., 1:] != other[..., 1:]).any((1, 2)).mean() > .95


def test_a_thousand_classes_are_as_likely():
    """The labels of the three colours are independent: chi-square of pairs over many keys."""
    loaded = data.load('stacked:digits')
    label = np.asarray(data.load('digits').train.label)[:100]
    x = np.asarray(data.load('digits').train.x[:100])
    stored = Batch(jnp.asarray(x))
    count = np.zeros((10, 10))
    for i in range(20):
        pair = np.asarray(loaded.prepare(stored, jax.random.key(i)).x)
        index = source_index(np.round(pair[..., 1:2] * 255), x)
        count += np.histogram2d(label, label[index], bins=(range(11), range(11)))[0]
    assert stats.chi2_contingency(count).pvalue > 1e-3


def test_static_bits_are_stacked_as_they_are():
    x = stacked(binarize='static')
    assert set(np.unique(x)) == {0, 1}
    images = digits(binarize='static')
    np.testing.assert_array_equal(x[..., :1], images)
    for i in 1, 2:
        np.testing.assert_array_equal(np.sort(x[..., i].reshape(300, 64), 0),
                                      np.sort(images.reshape(300, 64), 0))


def test_dynamic_bits_of_a_stack_have_its_grey_values_as_chances():
    """Independently in every channel: two channels of the same grey value get different bits."""
    loaded = data.load('stacked:digits', binarize='dynamic')
    copies = jnp.repeat(jnp.asarray(loaded.train.x[:1]), 4000, 0)
    x = np.asarray(loaded.prepare(Batch(copies), KEY).x)
    grey = np.asarray(copies[0]) / 255
    assert set(np.unique(x)) == {0, 1} and x.shape == (4000, 8, 8, 3)
    assert abs(x.mean(0) - grey).max() < 4.5 * .5 / 4000 ** .5
    uncertain = grey[..., 0] == np.median(grey[(grey > .2) & (grey < .8)])
    bits = x[:, uncertain][:, 0]
    assert abs(np.corrcoef(bits.T) - np.eye(3)).max() < .08


def test_labels_can_be_chosen_before_they_are_dropped():
    stacked_set = data.load('stacked:digits', identities=(3, 8), limit=40)
    plain_set = data.load('digits', identities=(3, 8), limit=40)
    assert stacked_set.train.label is None and stacked_set.test.label is None
    np.testing.assert_array_equal(stacked_set.train.x, plain_set.train.x)
    np.testing.assert_array_equal(stacked_set.test.x, plain_set.test.x)


@pytest.mark.parametrize('name, message', [
    ('stacked:photos', 'grey images'), ('stacked:text', 'needs images'),
    ('stacked:breast_cancer', 'needs images'),
    ('stacked:sprites', 'needs images'), ('rows:stacked:digits', 'unknown view'),
    ('piled:digits', 'unknown view')])
def test_what_is_not_grey_is_not_stacked(name, message):
    with pytest.raises(BadInput, match=message) as error:
        data.load(name)
    assert '\n' not in str(error.value)


def test_rows_are_still_rows():
    x = samples('rows:digits', slice(300))[0]
    np.testing.assert_array_equal(x, digits()[..., 0])
