"""The sprites: their outlines, the grid of factors, and that they are generated, not stored."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import data
from gen_jax.data import sprites
from gen_jax.types import BadInput, Batch

KEY = jax.random.key(0)
SQUARE, ELLIPSE, HEART = range(3)
A = 1 / (2**.5 + (np.pi + 4 / 3) / (2**.5 *
                                    (np.pi + 4)))  # half the side of the square of the heart
AREA = np.array([2, np.pi / 2, (np.pi + 4) * A ** 2]) * sprites.RADIUS ** 2


def pictures(size=64, **factors):
    """(n, size, size) of factors off the grid; by default a sprite in the centre."""
    default = dict(shape=0, scale=1., orientation=0., x=.5, y=.5)
    factors = np.broadcast_arrays(*(np.atleast_1d(v) for v in (default | factors).values()))
    return np.asarray(sprites.picture(*factors, size=size))[..., 0]


def samples(*values):
    """(n, 64, 64) of rows of values of the grid."""
    return np.asarray(sprites.draw(sprites.index(values)))[..., 0]


@pytest.fixture(scope='module')
def dataset():
    return data.load('sprites')


@pytest.fixture(scope='module')
def some():
    """(values (3000, 5), pictures) at random points of the grid."""
    values = np.random.default_rng(0).integers(0, sprites.SIZES, (3000, 5))
    return values, samples(*values)


# The pictures


def test_pictures_are_binary(some):
    assert some[1].dtype == np.float32 and set(np.unique(some[1])) == {0, 1}


def test_areas_are_those_of_the_outlines(some):
    """All sprites of one shape and scale have one area, up to the pixels that an outline cuts."""
    (shape, scale, *_), x = some[0].T, some[1]
    for s in range(3):
        for k, factor in enumerate(np.linspace(.5, 1, 6)):
            result = x[(shape == s) & (scale == k)].mean((1, 2))
            exact = AREA[s] * factor ** 2
            assert result.mean() == pytest.approx(exact, rel=.01)
            assert abs(result - exact).max() < 28 / 64 ** 2  # an upright square has whole sides


@pytest.mark.parametrize('shape', range(3))
def test_areas_of_fine_pictures_are_exact(shape):
    for scale in .5, 1:
        x = pictures(512, shape=shape, scale=scale, orientation=[.3, 1, 2])
        np.testing.assert_allclose(x.mean((1, 2)), AREA[shape] * scale ** 2, rtol=2e-3)


def test_centre_of_mass_is_the_position(some):
    values, x = some
    pixel_centres = np.arange(64) + .5
    for axis, position in (1, values[:, 3]), (2, values[:, 4]):
        result = (x.sum(axis) * pixel_centres).sum(1) / x.sum((1, 2))
        assert abs(result - (16.5 + position)).max() < .5
        assert abs((result - (16.5 + position)).mean()) < .01


def test_a_step_of_position_moves_the_picture_by_a_pixel():
    for shape in range(3):
        first, right, down = samples((shape, 4, 7, 10, 20), (shape, 4, 7, 13, 20),
                                     (shape, 4, 7, 10, 25))
        np.testing.assert_array_equal(right, np.roll(first, 3, 1))
        np.testing.assert_array_equal(down, np.roll(first, 5, 0))


@pytest.mark.parametrize('shape', range(3))
@pytest.mark.parametrize('scale', range(6))
def test_a_full_turn_changes_nothing(shape, scale):
    np.testing.assert_array_equal(*samples((shape, scale, 0, 9, 21), (shape, scale, 39, 9, 21)))


def test_sprites_turn_anticlockwise():
    ellipse = pictures(shape=ELLIPSE, orientation=.5)[0]
    row, column = np.nonzero(ellipse)
    assert np.cov(column, -row)[0, 1] > 0
    heart = pictures(shape=HEART, orientation=np.pi / 2)[0]
    np.testing.assert_array_equal(heart, np.rot90(pictures(shape=HEART)[0]))


@pytest.mark.parametrize('shape, angle, same', [
    (SQUARE, np.pi / 2, True), (SQUARE, np.pi / 4, False), (ELLIPSE, np.pi, True),
    (ELLIPSE, np.pi / 2, False), (HEART, np.pi, False), (HEART, np.pi / 2, False),
    (HEART, 2 * np.pi / 3, False)])
def test_symmetries_under_turns(shape, angle, same):
    one, other = pictures(shape=shape, orientation=[.3, .3 + angle])
    assert (abs(one - other).sum() <= 2) == same


def test_upright_heart_is_symmetric_and_stands_on_its_tip():
    heart = pictures(shape=HEART)[0]
    np.testing.assert_array_equal(heart, heart[:, ::-1])
    assert abs(heart - heart[::-1]).sum() > 50 and abs(heart - heart[::-1, ::-1]).sum() > 50
    width, rows = heart.sum(1), np.flatnonzero(heart.any(1))
    assert width[rows[-1]] <= 2 and width[rows[0]] > 5
    centre = heart[rows[0]][31:33]
    assert not centre.any() and heart[rows[0]].any(), 'there is a dent between the lobes'


@pytest.mark.parametrize('shape', range(3))
def test_no_sprite_touches_the_border(shape):
    corners = [(shape, 5, o, x, y) for o in range(40) for x in (0, 31) for y in (0, 31)]
    x = samples(*corners)
    assert not x[:, [0, -1]].any() and not x[:, :, [0, -1]].any()
    complete = samples(*[(shape, 5, o, 15, 15) for o in range(40)]).sum((1, 2))
    np.testing.assert_array_equal(x.sum((1, 2)), np.repeat(complete, 4))


@pytest.mark.parametrize('size', [8, 32, 128])
def test_other_sizes_show_the_same(size):
    dataset = data.load('sprites', size=size)
    x = np.asarray(dataset.prepare(Batch(dataset.test.x[:2000]), KEY).x)
    assert x.shape == (2000, size, size, 1) and set(np.unique(x)) == {0, 1}
    shape, scale = sprites.values(dataset.test.x[:2000])[:, :2].T
    exact = AREA[shape] * np.linspace(.5, 1, 6)[scale] ** 2
    assert x.mean() == pytest.approx(exact.mean(), rel=.01)


# The grid


def test_grid_is_that_of_the_original(dataset):
    assert dataset.factors == dict(shape=3, scale=6, orientation=40, x=32, y=32)
    assert list(dataset.factors) == ['shape', 'scale', 'orientation', 'x', 'y']
    assert np.prod(list(dataset.factors.values())) == 737_280
    for name, first, last in ('scale', .5, 1), ('orientation', 0, 2 * np.pi), ('x', 0, 1):
        values = sprites.GRID[name]
        assert (values[0], values[-1]) == (first, last)
        np.testing.assert_allclose(np.diff(values), (last - first) / (len(values) - 1))


def test_the_last_factor_changes_fastest():
    index = sprites.index([(0, 0, 0, 0, 1), (0, 0, 0, 1, 0), (0, 0, 1, 0, 0), (0, 1, 0, 0, 0),
                           (1, 0, 0, 0, 0), (2, 5, 39, 31, 31)])
    np.testing.assert_array_equal(index, [1, 32, 1024, 40_960, 245_760, 737_279])
    assert index.dtype == np.int32


def test_index_and_values_are_inverse_and_refuse_what_is_not_there(some):
    np.testing.assert_array_equal(sprites.values(sprites.index(some[0])), some[0])
    with pytest.raises(ValueError):
        sprites.index([(0, 6, 0, 0, 0)])


def test_pictures_of_the_grid_have_its_factors(some):
    values, x = some[0][:200], some[1][:200]
    shape, *factors = (np.asarray(g)[v] for g, v in zip(sprites.GRID.values(), values.T))
    exact = sprites.picture(shape, *np.float32(factors))[..., 0]
    assert abs(np.asarray(exact) - x).sum() <= 5  # pixels on an outline


# The data set


def test_train_and_test_are_all_pictures_once(dataset):
    assert dataset.train.x.shape == (727_280,) and dataset.test.x.shape == (10_000,)
    joint = np.sort(np.concatenate([dataset.train.x, dataset.test.x]))
    np.testing.assert_array_equal(joint, np.arange(737_280))
    again = data.load('sprites')
    np.testing.assert_array_equal(again.train.x, dataset.train.x)


def test_only_places_and_shapes_are_stored(dataset):
    for batch in dataset.train, dataset.test:
        assert batch.x.dtype == batch.label.dtype == np.int32 and batch.swapped is None
        np.testing.assert_array_equal(batch.label, batch.x // (737_280 // 3))
    assert dataset.read is None and dataset.write is None


def test_a_part_shows_all_factors(dataset):
    for batch in dataset.train, dataset.test:
        for values, size in zip(sprites.values(batch.x[:1024]).T, sprites.SIZES):
            assert len(np.unique(values)) == size


def test_prepare_draws_inside_a_compiled_function(dataset):
    batch = jax.tree.map(lambda a: jnp.asarray(a[:32]), dataset.test)
    recorded = jax.jit(dataset.prepare)(batch, KEY)
    assert recorded.x.shape == (32, 64, 64, 1) and recorded.x.dtype == jnp.float32
    np.testing.assert_array_equal(recorded.x[..., 0], samples(*sprites.values(dataset.test.x[:32])))
    np.testing.assert_array_equal(recorded.label, batch.label)
    np.testing.assert_array_equal(recorded.x, dataset.prepare(batch, jax.random.key(1)).x)


def test_identities_and_limit_choose_shapes():
    result = data.load('sprites', identities=(2, 0), limit=31)
    assert len(result.train.x) == 31 and np.ptp(np.bincount(result.train.label)) == 1
    for batch in result.train, result.test:
        np.testing.assert_array_equal(np.array([2, 0])[batch.label],
                                      sprites.values(batch.x)[:, 0])
    assert result.factors == sprites.FACTORS


@pytest.mark.parametrize('name, options, message', [
    ('rows:sprites', {}, 'rows: needs images.*sprites.*drawn'),
    ('sprites', dict(binarize='static'), 'data.binarize=static.*sprites.*binary'),
    ('sprites', dict(binarize='dynamic'), 'data.binarize=dynamic.*sprites.*binary'),
    ('sprites', dict(size=7), 'sprites.*between 8 and 128.*7'),
    ('sprites', dict(size=129), 'sprites.*between 8 and 128.*129'),
    ('sprites', dict(limit=727_281), 'data.limit.*727280'),
    ('sprites', dict(identities=(3,)), 'no label 3; there are 0, 1, 2')])
def test_what_does_not_fit_is_refused_in_one_line(name, options, message):
    with pytest.raises(BadInput, match=message) as refusal:
        data.load(name, **options)
    assert '\n' not in str(refusal.value)


def test_text_is_still_text_and_images_have_no_grid():
    text, digits = data.load('text', limit=9), data.load('digits')
    assert text.read(text.write('so it is')) == 'so it is' and text.factors is None
    assert digits.factors is None and digits.read is None
