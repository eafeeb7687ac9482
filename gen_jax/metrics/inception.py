"""Inception v3 (Szegedy et al. 2015) as used for the Frechet inception distance.

The distance (Heusel et al. 2017) is defined by the features of one network: the graph that
TensorFlow published on 2015-12-05, here with the sizes and names of its PyTorch port. It differs
from torchvision's Inception v3: average pooling ignores the padding, and the last block has max
pooling instead of average pooling.
"""
import functools
import hashlib
import operator
from pathlib import Path
from typing import Callable, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gen_jax.types import Array, BadInput

SIZE, CHANNELS = 299, 3
WINDOW = 1, 3, 3, 1
PRECISION = lax.Precision.HIGHEST  # the default is bfloat16 on TPU and TF32 on GPU


class Conv(NamedTuple):
    """A convolution with its batch normalisation folded in, and a ReLU."""
    name: str
    channels: int
    rows: int = 1
    columns: int = 1
    stride: int = 1
    padding: str = 'SAME'


def mean(x: Array) -> Array:
    """3 x 3 average pooling, stride 1, without the padding."""
    total = lambda x: lax.reduce_window(x, 0., lax.add, WINDOW, (1, 1, 1, 1), 'SAME')
    return total(x) / total(jnp.ones_like(x[:1, :, :, :1]))


def largest(x: Array, stride: int = 1, padding: str = 'SAME') -> Array:
    """3 x 3 max pooling, stride 1."""
    return lax.reduce_window(x, -jnp.inf, lax.max, WINDOW, (1, stride, stride, 1), padding)


halved = functools.partial(largest, stride=2, padding='VALID')
HALF = 3, 3, 2, 'VALID'


# A block has branches side by side, whose outputs are concatenated, and a branch has steps in turn:
# maps of images, convolutions by channels, rows and columns, and lists of two of them side by side.


def wide(pool: int) -> dict:
    return dict(branch1x1=[(64,)],
                branch5x5=[(48,), (64, 5, 5)],
                branch3x3dbl=[(64,), (96, 3, 3), (96, 3, 3)],
                branch_pool=[mean, (pool,)])


def factored(c: int) -> dict:
    return dict(branch1x1=[(192,)],
                branch7x7=[(c,), (c, 1, 7), (192, 7, 1)],
                branch7x7dbl=[(c,), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7)],
                branch_pool=[mean, (192,)])


def forked(pool: Callable) -> dict:
    fork = [(384, 1, 3), (384, 3, 1)]
    return dict(branch1x1=[(320,)],
                branch3x3=[(384,), fork],
                branch3x3dbl=[(448,), (384, 3, 3), fork],
                branch_pool=[pool, (192,)])


BLOCKS = {
    '5b': wide(32), '5c': wide(64), '5d': wide(64),
    '6a': dict(branch3x3=[(384, *HALF)],
               branch3x3dbl=[(64,), (96, 3, 3), (96, *HALF)],
               pool=[halved]),
    '6b': factored(128), '6c': factored(160), '6d': factored(160), '6e': factored(192),
    '7a': dict(branch3x3=[(192,), (320, *HALF)],
               branch7x7x3=[(192,), (192, 1, 7), (192, 7, 1), (192, *HALF)],
               pool=[halved]),
    '7b': forked(mean), '7c': forked(largest)}


def chain(name: str, steps: list) -> list:
    """The named steps of a branch; if there are several convolutions, they are numbered."""
    def named(at, step):
        if isinstance(step, list):
            return tuple(Conv(at + letter, *each) for letter, each in zip('ab', step))
        return step if callable(step) else Conv(at, *step)

    single = len(steps) == 1 or callable(steps[0])
    return [named(name if single else f'{name}_{i}', step) for i, step in enumerate(steps, 1)]


NETWORK = [  # a list is in turn, a tuple side by side
    Conv('Conv2d_1a_3x3', 32, *HALF),
    Conv('Conv2d_2a_3x3', 32, 3, 3, padding='VALID'),
    Conv('Conv2d_2b_3x3', 64, 3, 3),
    halved,
    Conv('Conv2d_3b_1x1', 80),
    Conv('Conv2d_4a_3x3', 192, 3, 3, padding='VALID'),
    halved,
    *(tuple(chain(f'Mixed_{block}.{name}', steps) for name, steps in branches.items())
      for block, branches in BLOCKS.items())]


def sizes(part, c: int) -> tuple[dict[str, tuple], int]:
    """The parameter shapes of a part with c input channels, and its number of output channels."""
    match part:
        case Conv():
            kernel = part.rows, part.columns, c, part.channels
            return {f'{part.name}.kernel': kernel, f'{part.name}.bias': kernel[-1:]}, part.channels
        case list():
            shapes = {}
            for each in part:
                more, c = sizes(each, c)
                shapes |= more
            return shapes, c
        case tuple():
            shapes, given = zip(*(sizes(each, c) for each in part))
            return functools.reduce(operator.or_, shapes), sum(given)
    return {}, c


SHAPES = sizes(NETWORK, CHANNELS)[0]


def run(part, params: dict[str, Array], x: Array) -> Array:
    """Applies a part of the network to x (n, h, w, c)."""
    match part:
        case Conv():
            y = lax.conv_general_dilated(
                x, params[f'{part.name}.kernel'], (part.stride, part.stride), part.padding,
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'), precision=PRECISION)
            return jax.nn.relu(y + params[f'{part.name}.bias'])
        case list():
            return functools.reduce(lambda x, each: run(each, params, x), part, x)
        case tuple():
            return jnp.concatenate([run(each, params, x) for each in part], -1)
    return part(x)


def between(n: int) -> np.ndarray:
    """The weights (299, n) of n pixels in bilinear resizing to 299."""
    at = np.clip((np.arange(SIZE) + .5) * n / SIZE - .5, 0, n - 1)  # float32 is off by 1e-4
    return np.float32(np.maximum(1 - abs(at[:, None] - np.arange(n)), 0))


def preprocess(x: Array) -> Array:
    """Resizes and scales images (n, h, w, 1 or 3) in [0, 1] for the network: (n, 299, 299, 3) in
    [-1, 1].

    Bilinear resizing between pixel centres, without smoothing when images shrink, as in the port;
    other resizers give other scores (Parmar et al. 2022). Raises BadInput for anything but images.
    """
    if x.ndim != 4 or x.shape[-1] not in (1, CHANNELS) or not jnp.issubdtype(x.dtype, jnp.floating):
        raise BadInput('Inception sees images (n, h, w, 1 or 3) of floats in [0, 1], not '
                       f'{x.dtype} {x.shape}')
    x = jnp.einsum('ih,jw,nhwc->nijc', between(x.shape[1]), between(x.shape[2]), jnp.float32(x),
                   precision=PRECISION)
    return jnp.broadcast_to(2 * x - 1, (len(x), SIZE, SIZE, CHANNELS))


def features(params: dict[str, Array], x: Array) -> Array:
    """The means over pixels of the last block, (n, 2048), for images (n, h, w, 1 or 3) in [0, 1] of
    any size; 5.7 billion multiplications for each image. Raises BadInput for anything but images.
    """
    return run(NETWORK, params, preprocess(x)).mean((1, 2))


# The file of weights


def digest(tensors: dict[str, np.ndarray]) -> str:
    """The SHA-256 of names and little-endian bytes, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(np.asarray(tensors[name], '<f4').tobytes())
    return total.hexdigest()


def read(file: Path, shapes: dict[str, tuple], remedy: str,
         may_lack=()) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The float32 tensors with these names and shapes from a safetensors file, and its metadata.

    Raises BadInput, ending with the remedy, if the file cannot be read or lacks a tensor.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise BadInput('safetensors, which holds the weights of Inception, is not installed: run '
                       'pip install safetensors') from None
    if not file.is_file():
        raise BadInput(f'there is no file {file}; {remedy}')
    try:
        with safe_open(file, 'numpy') as f:
            there = set(f.keys())
            names = [name for name in shapes if name in there or name not in may_lack]
            for name in names:
                if name not in there:
                    raise BadInput(f'{file} lacks the tensor {name}; {remedy}')
                part = f.get_slice(name)
                kind, shape = part.get_dtype(), tuple(part.get_shape())
                if (kind, shape) != ('F32', shapes[name]):
                    raise BadInput(f'{name} in {file} is {kind} {shape}, not F32 {shapes[name]}; '
                                   f'{remedy}')
            return {name: f.get_tensor(name) for name in names}, f.metadata() or {}
    except SafetensorError:
        with file.open('rb') as f:
            header = f.read(9)[8:] == b'{'  # after its length
        what = 'is cut short or damaged' if header else 'is not a safetensors file'
        raise BadInput(f'{file} {what}; {remedy}') from None
    except OSError as e:
        raise BadInput(f'{file} cannot be read ({e.strerror or e}); {remedy}') from None


def load(file: str | Path) -> tuple[dict[str, Array], str]:
    """(params, digest) from a file made by experiments/inception.py.

    Report the digest with every score. Raises BadInput, with the remedy, for a missing, damaged or
    different file, and if safetensors is not installed.
    """
    file = Path(file)
    remedy = 'make it by python experiments/inception.py WEIGHTS.safetensors OUT.safetensors'
    tensors, metadata = read(file, SHAPES, remedy)
    checksum, stored = digest(tensors), metadata.get('sha256', 'none')
    if checksum != stored:
        raise BadInput(f'{file} has another checksum ({checksum[:12]}) than was stored in it '
                       f'({stored[:12]}), so it is damaged; {remedy}')
    return {name: jnp.asarray(tensor) for name, tensor in tensors.items()}, checksum
