"""Procedural colour faces with identity and pose as separate, known factors.

A face is a stack of layers with a colour (3,), the signed distance (h, w) of every pixel from an
outline (negative inside), and an opacity. x points to the right, y up; a head is about 1 wide.
"""
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.types import Array, Batch


def rgb(code: str) -> np.ndarray:
    """'ff8000' -> (1, .5, 0)."""
    return np.frombuffer(bytes.fromhex(code), np.uint8).astype(np.float32) / 255


class Identity(NamedTuple):
    """The identity: colours (3,) in [0, 1], then scalars; the defaults are a plain adult."""
    skin: Array
    hair: Array
    iris: Array
    lips: Array
    shirt: Array
    width: Array = .44         # half that of the skull
    height: Array = .58        # half that of the head
    jaw: Array = .72           # its width over the skull's
    volume: Array = .1         # thickness of the hair around the skull
    length: Array = -.15       # how far the hair falls below the eyes
    fringe: Array = .3         # height of the hairline above the eyes; high is receding
    parting: Array = 0.        # where the hairline is highest, left to right
    curl: Array = 0.           # depth of the waves in its outline
    eye_size: Array = .1
    eye_spacing: Array = .19   # from the middle of the face
    brow: Array = .02          # half its thickness
    nose_width: Array = .07
    nose_length: Array = .2
    mouth_width: Array = .16
    lip: Array = .035
    beard: Array = 0.          # opacity
    glasses: Array = 0.        # opacity


class Pose(NamedTuple):
    """Expression, pose and light: scalars; the defaults are a neutral face that looks straight
    ahead.
    """
    x: Array = 0.
    y: Array = 0.
    roll: Array = 0.           # radians, anticlockwise
    yaw: Array = 0.            # to the right
    pitch: Array = 0.          # upwards
    gaze_x: Array = 0.         # -1 to 1
    gaze_y: Array = 0.
    eye_open: Array = 1.       # 0 is shut
    brow_raise: Array = 0.
    brow_tilt: Array = 0.      # negative is angry, positive is worried
    mouth_open: Array = 0.
    smile: Array = 0.
    light: Array = 0.          # from the left (-1) to from the right (1)


RANGES = Pose(x=(-.1, .1), y=(-.07, .07), roll=(-.25, .25), yaw=(-.28, .28), pitch=(-.15, .15),
              gaze_x=(-1, 1), gaze_y=(-1, 1), eye_open=(.4, 1.1), brow_raise=(-.2, 1),
              brow_tilt=(-.5, 1), mouth_open=(0, 1), smile=(-.4, 1), light=(-1, 1))

IDENTITIES = (
    Identity(rgb('f1c4a0'), rgb('c8552b'), rgb('3f8f5f'), rgb('d4626a'), rgb('2f6f73'), width=.43,
             jaw=.66, volume=.13, length=.55, parting=.07, eye_size=.115, brow=.016,
             nose_width=.055, nose_length=.17, mouth_width=.15, lip=.042),
    Identity(rgb('8a5637'), rgb('1d1715'), rgb('4a2b18'), rgb('8e3f3f'), rgb('e0a526'), width=.45,
             height=.6, jaw=.86, volume=.09, fringe=.36, curl=.025, eye_size=.095, eye_spacing=.2,
             brow=.03, nose_width=.1, mouth_width=.19, lip=.05, beard=.95),
    Identity(rgb('f6d8bd'), rgb('e6c25c'), rgb('3d7cc9'), rgb('c9756f'), rgb('7a4fa0'), width=.48,
             height=.54, jaw=.78, length=.12, fringe=.23, eye_spacing=.2, brow=.018,
             nose_width=.06, nose_length=.14, mouth_width=.13, glasses=1.),
    Identity(rgb('d29a6c'), rgb('8f8f94'), rgb('5b4a3a'), rgb('b5675c'), rgb('a8323a'), width=.41,
             height=.63, jaw=.8, volume=.06, fringe=.5, eye_size=.08, eye_spacing=.165, brow=.034,
             nose_width=.08, nose_length=.26, mouth_width=.18, lip=.026),
    Identity(rgb('e9b98c'), rgb('20181c'), rgb('3a2416'), rgb('c8434f'), rgb('3f8a4a'), width=.42,
             height=.57, jaw=.6, volume=.08, length=.35, fringe=.22, eye_spacing=.2,
             nose_width=.06, nose_length=.17, mouth_width=.13, lip=.045),
    Identity(rgb('74492f'), rgb('2a1a14'), rgb('2c1a10'), rgb('a0434e'), rgb('e8e2d6'), width=.42,
             height=.56, jaw=.68, volume=.19, fringe=.32, curl=.03, eye_size=.115,
             nose_width=.085, nose_length=.17, mouth_width=.18, lip=.055),
)
SPAN = .84   # half the width of the picture
NECK = -.6   # height of the point about which the head rolls
BATCH = 10   # pictures drawn at once: few enough that their masks stay in the processor's cache
BACKGROUND, WHITE, DARK, TONGUE = map(rgb, ('b9cdd6', 'fbfaf6', '2b1d1d', 'c4575c'))


# Signed distances, exact or nearly so next to the outline


def norm(x, y):
    return jnp.sqrt(x * x + y * y + 1e-12)  # has a gradient at the origin


def ellipse(x, y, rx, ry):
    """The signed distance from an ellipse, to first order."""
    u, v = x / rx, y / ry
    return (u * u + v * v - 1) / (2 * norm(u / rx, v / ry))


def capsule(x, y, ax, ay, bx, by, radius):
    """All points within the radius of the segment from a to b."""
    x, y, bx, by = x - ax, y - ay, bx - ax, by - ay
    t = jnp.clip((x * bx + y * by) / (bx * bx + by * by), 0, 1)
    return norm(x - t * bx, y - t * by) - radius


def box(x, y, rx, ry, radius):
    """A rectangle with rounded corners."""
    x, y = jnp.abs(x) - rx + radius, jnp.abs(y) - ry + radius
    return norm(jnp.maximum(x, 0), jnp.maximum(y, 0)) + jnp.minimum(jnp.maximum(x, y), 0) - radius


def union(a, b, blend):
    """The union of two shapes; their seam is rounded over the distance `blend`."""
    t = jnp.clip(.5 + .5 * (b - a) / blend, 0, 1)
    return b + (a - b) * t - blend * t * (1 - t)


def inside(distance, edge):
    """1 inside an outline, 0 outside, with a smooth edge."""
    return jnp.clip(.5 - distance / edge, 0, 1)


def wave(u):
    """Approximately sin(2 pi u), made of parabolas because it is needed at every pixel."""
    t = u - jnp.round(u)
    return 8 * t * (1 - 2 * jnp.abs(t))


# The parts of a face: each yields its layers, back to front


def crown(who, x, y):
    """The outline of the hair on top of the head."""
    waves = who.curl * wave(3.5 * x) * wave(3.5 * y)
    return ellipse(x, y - .15 * who.height, who.width + .8 * who.volume,
                   .85 * who.height + who.volume) + waves


def bust(who, x, y, hx, hy):
    """The layers behind the head; frames: (x, y) of the body, (hx, hy) of the head."""
    fall = box(hx, hy + .5 * who.length - .05, who.width + .3 * who.volume,
               .15 + .5 * who.length, .12)
    yield .7 * who.hair, union(crown(who, hx, hy), fall, .1), 1
    yield who.shirt, ellipse(x, y + 1.1, .85, .5), 1
    yield .8 * who.skin, capsule(x, y, 0, -.6, 0, -.3, .5 * who.width), 1


def head(who, pose, x, y, fx, fy):
    """The layers of the head; (x, y) is its frame, (fx, fy) that of the face, which turns on it."""
    yield .9 * who.skin, ellipse(jnp.abs(x + .09 * pose.yaw) - who.width, y + .03, .075, .12), 1
    jaw = who.jaw * who.width
    outline = union(ellipse(x, y - .12 * who.height, who.width, .88 * who.height),
                    box(x, y + .45 * who.height, jaw, .55 * who.height, .8 * jaw), .12)
    yield who.skin, outline, 1
    yield .5 * who.skin, outline, .5 * inside(.3 + pose.light * x / who.width, .6)
    blush = ellipse(jnp.abs(fx) - .27, fy + .17, .11, .08)
    yield who.lips, outline, .25 * inside(blush, .15)
    cheeks = ellipse(fx, fy - .03, .9 * who.width, .3 + .1 * who.height)
    yield .8 * who.hair, jnp.maximum(outline - .01, -cheeks), who.beard


def mouth(who, pose, x, y):
    width, opening = who.mouth_width * (1 + .2 * pose.smile), .01 + .11 * pose.mouth_open
    y = y + .56 * who.height - (1 + 2.5 * pose.smile) * (x * x - .4 * width**2)
    moustache = capsule(jnp.abs(x), y - opening - who.lip, .03, .03, width, -.03, .035)
    yield .8 * who.hair, moustache, who.beard
    yield who.lips, ellipse(x, y, width, opening + who.lip), 1
    hole = ellipse(x, y, width - .02, opening)
    yield DARK, hole, 1
    yield WHITE, jnp.maximum(hole + .01, .45 * opening - y), 1
    yield TONGUE, jnp.maximum(hole + .01, ellipse(x, y + opening, .6 * width, .05)), 1


def nose(who, x, y):
    y = y + who.nose_length
    yield .75 * who.skin, ellipse(x, y + .015, who.nose_width + .01, .05), 1
    yield .5 * who.skin, ellipse(jnp.abs(x) - .5 * who.nose_width, y + .04, .022, .016), 1
    yield who.skin, ellipse(x, y - .005, who.nose_width, .05), 1
    ridge = capsule(x, y, 0, .02, 0, .7 * who.nose_length, .02)
    yield 1.1 * who.skin, ridge - .03, .7 * inside(ridge, .07)


def eyes(who, pose, x, y):
    side, x = jnp.sign(x), jnp.abs(x) - who.eye_spacing
    size, height = who.eye_size, who.eye_size * (.05 + .7 * pose.eye_open)
    socket = ellipse(x, y - .01, 1.15 * size, height + .03)
    yield .7 * who.skin, socket - .03, .5 * inside(socket, .06)
    yield DARK, ellipse(x, y - .02, size + .01, height), 1
    white = ellipse(x, y, size, height)
    yield WHITE, white, 1
    x, y = x - .45 * size * side * pose.gaze_x, y - .35 * size * pose.gaze_y
    for colour, radius in (who.iris, .55), (DARK, .27):
        yield colour, jnp.maximum(norm(x, y) - radius * size, white), 1
    glint = norm(x - .2 * size * side, y - .2 * size) - .14 * size
    yield WHITE, jnp.maximum(glint, white), 1


def hair(who, pose, x, y, fx, fy):
    side, radius = who.width + .3 * who.volume, .04 + .6 * who.volume
    yield who.hair, capsule(jnp.abs(x), y, side - .05, .15, side, -who.length,
                            jnp.minimum(radius, who.length + .1)), 1
    face = ellipse(fx - who.parting, fy + .3, .95 * who.width, .3 + who.fringe)
    rest = jnp.maximum(crown(who, x, y), -face)
    yield who.hair, rest, 1
    sheen = ellipse(x - .25 * pose.light, y - .8 * who.height, .25, .1)
    yield .75 * who.hair + .25, rest, .5 * inside(sheen, .15)


def brows(who, pose, x, y):
    x = jnp.abs(x) - who.eye_spacing
    y = y - .13 - .4 * who.eye_size - .07 * pose.brow_raise + 2 * x * x
    rise = .045 * pose.brow_tilt
    yield .65 * who.hair, capsule(x, y, -.1, rise, .11, -rise, who.brow), 1


def glasses(who, x, y):
    rim = jnp.abs(box(jnp.abs(x) - who.eye_spacing, y, .15, .13, .08)) - .012
    yield DARK, jnp.minimum(rim, capsule(x, y, -.05, .03, .05, .03, .012)), who.glasses


# The picture


def turned(u, radius, angle):
    """The position at rest of the point at u after a turn, which moves the middle the most."""
    return u - angle * jnp.maximum(radius - u * u / radius, 0)


def paint(canvas, colour, mask):
    """The canvas (3, h, w) with the colour (3,) on top, with the mask (h, w) as its opacity."""
    return canvas + mask * (colour[:, None, None] - canvas)


@partial(jax.jit, static_argnames='size')
def draw(identity: Identity, pose: Pose, size: int = 64) -> Array:
    """The picture (size, size, 3) of one identity in one pose, float32 in [0, 1]."""
    pixel = 2 * SPAN / size
    axis = (np.arange(size, dtype=np.float32) + .5) * pixel - SPAN
    x, y = np.meshgrid(axis, -axis)
    cos, sin, dx, dy = jnp.cos(pose.roll), jnp.sin(pose.roll), x - pose.x, y - pose.y - NECK
    hx, hy = cos * dx + sin * dy, cos * dy - sin * dx + NECK - .03
    face = turned(hx, identity.width, pose.yaw), turned(hy, identity.height, pose.pitch)
    layers = [*bust(identity, x, y, hx, hy), *head(identity, pose, hx, hy, *face),
              *nose(identity, *face), *mouth(identity, pose, *face), *eyes(identity, pose, *face),
              *hair(identity, pose, hx, hy, *face), *brows(identity, pose, *face),
              *glasses(identity, *face)]
    colours = jnp.minimum(jnp.stack([colour for colour, _, _ in layers]), 1)
    masks = jnp.stack([opacity * inside(distance, pixel) for _, distance, opacity in layers])
    canvas = jnp.broadcast_to(BACKGROUND[:, None, None], (3, size, size))
    over = lambda canvas, layer: (paint(canvas, *layer), None)
    canvas, _ = jax.lax.scan(over, canvas, (colours, masks))  # unrolled it is five times as slow
    return jnp.moveaxis(canvas, 0, -1)


@partial(jax.jit, static_argnames='n')
def random_pose(key: Array, n: int) -> Pose:
    """n poses, fields (n,), uniform in their ranges."""
    low, high = np.array(RANGES, np.float32).T[..., None]
    return Pose(*jax.random.uniform(key, (len(RANGES), n), minval=low, maxval=high))


@partial(jax.jit, static_argnames='size')
def pictures(identity: Identity, pose: Pose, size: int) -> Array:
    """uint8 (n, size, size, 3) of n identities in n poses."""
    return jax.lax.map(lambda both: jnp.round(255 * draw(*both, size)).astype(jnp.uint8),
                       (identity, pose), batch_size=BATCH)


def faces(count: int = 1500, tests: int = 250, size: int = 64) -> tuple[Batch, Batch]:
    """(train, test) of the first four identities: uint8 (n, size, size, 3), labelled by identity.

    Train has `count` poses for each identity; no pose occurs twice. Test shows all identities in
    the same `tests` new poses; swapped (n, 4, size, size, 3) is the pose of x on each identity.
    Every four examples, from a multiple of four on, are of four identities.
    """
    chance = np.random.default_rng(0)
    four = np.arange(4, dtype=np.int32)
    label, test_label = (chance.permuted(np.tile(four, (n, 1)), axis=1).ravel()
                         for n in (count, tests))
    every = np.concatenate([label, np.tile(four, tests)])
    identity = jax.tree.map(lambda *field: np.float32(field)[every], *IDENTITIES[:4])
    pose = jax.tree.map(lambda train, test: np.concatenate([train, np.repeat(test, 4)]),
                        random_pose(jax.random.key(0), 4 * count),
                        random_pose(jax.random.key(1), tests))
    x, paired = np.split(np.asarray(pictures(identity, pose, size)), [4 * count])
    order = chance.permuted(np.tile(np.arange(tests), (4, 1)), axis=1)
    row = np.arange(4 * tests)
    swapped = paired.reshape(tests, 4, size, size, 3)[order[test_label, row // 4]]
    return Batch(x, label), Batch(swapped[row, test_label], test_label, swapped)
