"""The procedural faces: the drawing as a function of identity and pose, and the set made of it."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import quick
from gen_jax.data.faces import IDENTITIES, Identity, Pose, draw, faces, random_pose

KEY = jax.random.key(7)
COUNT, TESTS, SIZE = 5, 20, 32  # as many train poses as test poses: equal keys would show


def arrays(tree):
    """Scalars as float32 arrays, so that one compiled program serves all."""
    return jax.tree.map(jnp.float32, tree)


def picture(identity, pose, size=64) -> np.ndarray:
    return np.asarray(draw(arrays(identity), arrays(pose), size))


def one(poses, i):
    return jax.tree.map(lambda field: field[i], poses)


def box(rows, columns, size=64):
    """True in a rectangle, its bounds fractions of the picture from the upper left."""
    inside = np.zeros((size, size), bool)
    inside[slice(*(int(r * size) for r in rows)), slice(*(int(c * size) for c in columns))] = True
    return inside


EYES = box((.35, .6), (.2, .48)) | box((.35, .6), (.52, .8))
MOUTH = box((.48, .82), (.28, .72))
LIPS = box((.6, .75), (.4, .6))


# The drawing


@pytest.mark.parametrize('size', [64])
def test_a_picture_is_float32_in_the_unit_interval(size):
    image = picture(IDENTITIES[0], Pose(), size)
    assert image.shape == (size, size, 3) and image.dtype == np.float32
    assert 0 <= image.min() < .25 and .75 < image.max() <= 1


def test_poses_are_uniform_in_ranges_that_hold_the_pose_at_rest():
    poses = np.array(random_pose(KEY, 1000))
    assert poses.shape == (len(Pose._fields), 1000) and poses.dtype == np.float32
    low, high, rest = poses.min(1), poses.max(1), np.array(Pose())
    slack = .02 * (high - low)
    assert (low - slack < rest).all() and (rest < high + slack).all()
    np.testing.assert_allclose(poses.mean(1), (low + high) / 2, atol=.1)
    np.testing.assert_allclose(poses.std(1), (high - low) / 12**.5, rtol=.1)
    independent = np.corrcoef(poses) - np.eye(len(poses))
    assert abs(independent).max() < .15
    np.testing.assert_array_equal(poses, np.array(random_pose(KEY, 1000)))
    assert (poses != np.array(random_pose(jax.random.key(8), 1000))).any(1).all()


def test_identities_differ_in_every_pose():
    poses = random_pose(KEY, 3)
    assert len(IDENTITIES) >= 6
    for i in range(3):
        images = [picture(who, one(poses, i)) for who in IDENTITIES]
        for a, b in itertools.combinations(images, 2):
            assert abs(a - b).mean() > .03


def test_poses_differ_on_every_identity():
    poses = random_pose(KEY, 4)
    for who in IDENTITIES:
        images = [picture(who, one(poses, i)) for i in range(4)]
        for a, b in itertools.combinations(images, 2):
            assert abs(a - b).mean() > .02


@pytest.mark.parametrize('who', IDENTITIES)
def test_gaze_changes_the_eyes_only(who):
    ahead, aside = (picture(who, Pose(gaze_x=x)) for x in (0., 1.))
    changed = abs(ahead - aside).max(-1) > 1e-6
    assert changed.sum() > 10 and not (changed & ~EYES).any()


@pytest.mark.parametrize('who', IDENTITIES)
def test_smile_and_open_mouth_change_the_mouth_only(who):
    rest = picture(who, Pose())
    for pose in Pose(smile=1.), Pose(mouth_open=1.):
        changed = abs(rest - picture(who, pose)).max(-1) > 1e-6
        assert changed.sum() > 20 and not (changed & ~MOUTH).any()


def test_the_colour_of_the_hair_does_not_reach_the_mouth_of_the_beardless():
    for who in IDENTITIES:
        dyed = who._replace(hair=1 - who.hair)
        changed = abs(picture(who, Pose()) - picture(dyed, Pose())).max(-1) > 1e-6
        assert changed.sum() > 400
        assert (changed & LIPS).any() == (who.beard > 0)


def test_directions():
    """x, yaw and gaze_x go to the right, y, pitch and gaze_y up, roll anticlockwise."""
    plain = IDENTITIES[3]
    marked = plain._replace(iris=1 - plain.iris)

    def irises(**pose):
        """The centre (right, up), in pixels, of what another colour of the eyes changes."""
        weight = abs(picture(plain, Pose(**pose)) - picture(marked, Pose(**pose))).sum(-1)
        row, column = np.indices(weight.shape)
        return np.array([(weight * column).sum(), -(weight * row).sum()]) / weight.sum()

    rest = irises()
    for factor, amount, axis, pixels in [('x', .1, 0, 3.8), ('y', .07, 1, 2.7), ('yaw', .2, 0, 2.),
                                         ('pitch', .15, 1, 2.), ('roll', -.2, 0, 2.),
                                         ('gaze_x', 1., 0, .5), ('gaze_y', 1., 1, .25)]:
        assert (irises(**{factor: amount}) - rest)[axis] > .9 * pixels, factor
    light = picture(plain, Pose(light=1.)) - picture(plain, Pose(light=-1.))
    assert light[:, 32:].mean() > .01 and light[:, :32].mean() < -.01


def test_twice_the_size_averaged_is_the_same_picture():
    poses = random_pose(KEY, 4)
    for i, who in enumerate(IDENTITIES[:4]):
        fine = picture(who, one(poses, i), 128).reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert abs(fine - picture(who, one(poses, i))).mean() < .004


@pytest.mark.parametrize('size', [64, 128])
def test_edges_are_about_one_pixel_wide(size):
    """From the background to black hair, along rows that cross the outline steeply."""
    black = np.zeros(3, np.float32)
    image = picture(Identity(black, black, black, black, black), Pose(), size)
    background = image[0, 0]
    between = 0
    for row in image[int(.3 * size):int(.45 * size), :size // 2]:
        partly = (row < background - .004).all(-1) & (row > .004).all(-1)
        outline = np.argmax((row < .004).all(-1))  # the first column that is wholly hair
        assert partly[:outline].sum() <= 2
        between += partly[:outline].sum()
    assert between > 0


@pytest.mark.full
def test_jit_is_the_eager_function():
    pose = one(random_pose(KEY, 1), 0)
    with jax.disable_jit():
        eager = picture(IDENTITIES[1], pose)
    np.testing.assert_allclose(picture(IDENTITIES[1], pose), eager, atol=1e-4)


@pytest.mark.full
def test_vmap_is_a_loop():
    poses = random_pose(KEY, len(IDENTITIES))
    who = jax.tree.map(lambda *field: jnp.float32(field), *IDENTITIES)
    for i, joint in enumerate(jax.vmap(draw)(who, poses)):
        np.testing.assert_allclose(joint, picture(IDENTITIES[i], one(poses, i)), atol=1e-4)


@pytest.mark.full
def test_every_factor_of_the_pose_has_a_finite_gradient():
    """Also at rest and with an odd size, where a pixel lies on the axis of symmetry."""
    target = jax.random.uniform(KEY, (33, 33, 3))
    identity = arrays(IDENTITIES[0])
    gradient = quick(jax.grad(lambda pose: (draw(identity, pose, 33) * target).mean()))
    some = random_pose(KEY, 7)
    slopes = np.array(
        [gradient(pose) for pose in [arrays(Pose()), *(one(some, i) for i in range(7))]])
    assert np.isfinite(slopes).all()
    assert (abs(slopes).max(0) > 1e-5).all()


# The set


@pytest.fixture(scope='module')
def built():
    return faces(COUNT, TESTS, SIZE)


def test_shapes_and_types(built):
    train, test = built
    assert train.x.shape == (4 * COUNT, SIZE, SIZE, 3)
    assert test.x.shape == (4 * TESTS, SIZE, SIZE, 3)
    assert test.swapped.shape == (4 * TESTS, 4, SIZE, SIZE, 3) and train.swapped is None
    for batch in built:
        assert batch.x.dtype == np.uint8 and batch.label.dtype == np.int32
        assert batch.label.shape == batch.x.shape[:1]
    assert test.swapped.dtype == np.uint8


def test_the_set_is_the_same_each_time(built):
    for batch, again in zip(built, faces(COUNT, TESTS, SIZE)):
        jax.tree.map(np.testing.assert_array_equal, batch, again)


def test_every_four_in_a_row_are_four_identities_in_no_fixed_order(built):
    for batch in built:
        fours = batch.label.reshape(-1, 4)
        assert (np.sort(fours, 1) == np.arange(4)).all()
        assert len(np.unique(fours, axis=0)) > 1


def test_swapped_holds_the_example_at_its_label(built):
    test = built[1]
    np.testing.assert_array_equal(test.swapped[np.arange(4 * TESTS), test.label], test.x)


def test_swapped_holds_each_test_pose_on_four_identities(built):
    test = built[1]
    for a, b in itertools.combinations(range(4), 2):
        assert (abs(test.swapped[:, a] - test.swapped[:, b].astype(int)).mean((1, 2, 3)) > 5).all()
    flat = test.swapped.reshape(4 * TESTS, -1)
    poses, which, recorded = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    assert len(poses) == TESTS and (recorded == 4).all()
    assert len({*zip(which.ravel(), test.label)}) == 4 * TESTS  # with four labels each
    assert (which.ravel().reshape(-1, 4).min(1) < which.ravel().reshape(-1, 4).max(1)).any()


def test_no_pose_is_seen_twice_neither_in_train_nor_in_test(built):
    train, test = built
    pictures = np.concatenate([train.x, *np.moveaxis(test.swapped, 1, 0)])
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == 4 * COUNT + 4 * TESTS


def test_the_pictures_are_the_drawing_of_their_identity(built):
    """The colour of the shirt, seen at the lower edge, tells who it is."""
    for batch in built:
        shirts = np.array([who.shirt for who in IDENTITIES[:4]]) * 255
        recorded = batch.x[:, -1, SIZE // 8].astype(float)
        nearest = abs(recorded[:, None] - shirts).sum(-1).argmin(1)
        np.testing.assert_array_equal(nearest, batch.label)
