"""Networks that build themselves from an example's shape; the only file that imports Flax.

A Net is two pure functions.  Kinds: `mlp` for anything, `conv` for images (h, w, c) of any size.
Convolutional nets halve the image once per width, rounding up, and decoders crop on the way back.
"""
import math
from typing import Any, Callable, NamedTuple, Sequence

from flax import linen as nn
import jax.numpy as jnp

from gen_jax import losses, ops
from gen_jax.types import Array, BadInput, Tree

KINDS = 'mlp', 'conv'
NORMS = 'none', 'group', 'batch', 'spectral'


class Net(NamedTuple):
    """init: (key, x) -> (params, buffers); apply: (params, buffers, x) -> y, as in evaluation;
    train: (params, buffers, x) -> (y, new buffers), with the statistics of this batch."""
    init: Callable[[Array, Array], tuple[Tree, Tree]]
    apply: Callable[[Tree, Tree, Array], Array]
    train: Callable[[Tree, Tree, Array], tuple[Array, Tree]]


def net(module: nn.Module) -> Net:
    """A Flax module, called as module(x, train), as a Net."""
    def init(key, x):
        variables = module.init(key, x[:1], False)
        return variables['params'], variables.get('batch_stats', {})

    def apply(params, buffers, x):
        return module.apply({'params': params, 'batch_stats': buffers}, x, False)

    def train(params, buffers, x):
        y, new = module.apply({'params': params, 'batch_stats': buffers}, x, True,
                              mutable=['batch_stats'])
        return y, new.get('batch_stats', {})

    return Net(init, apply, train)


class Convolve(nn.Module):
    """A convolution of gen_jax.ops without bias: op(x, kernel)."""
    op: Callable[[Array, Array], Array]
    size: int
    width: int

    @nn.compact
    def __call__(self, x):
        shape = self.size, self.size, x.shape[-1], self.width
        return self.op(x, self.param('kernel', nn.initializers.lecun_normal(), shape))


class Block(nn.Module):
    """Linear map, normalisation, max-pooling where asked for, bias, activation.

    Without a normalisation that could flip signs, pooling comes before bias and activation: it
    commutes with both and leaves them a quarter of the work.
    """
    linear: Callable[..., nn.Module]
    norm: str = 'none'
    act: Callable[[Array], Array] = nn.relu
    pool: bool = False
    bias: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, x, train):
        if self.norm == 'spectral':
            x = nn.SpectralNorm(self.linear())(x, update_stats=train)
        else:
            x = self.linear()(x)
        if self.norm == 'batch':
            x = nn.BatchNorm(use_running_average=not train, momentum=.9)(x)
        elif self.norm == 'group':
            channels = x.shape[-1]  # at least two in a group: of one alone nothing would be left
            x = nn.GroupNorm(num_groups=math.gcd(channels, channels // 2, 8))(x)
        if self.norm in ('batch', 'group'):
            x = self.act(x)
            return ops.max_pool(x) if self.pool else x
        x = ops.max_pool(x) if self.pool else x
        return self.act(x + self.param('bias', self.bias, x.shape[-1:]))


class DenseImage(nn.Module):
    """A dense layer from vectors to images of the given shape, without bias."""
    shape: Sequence[int]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(math.prod(self.shape), use_bias=False)(x).reshape(-1, *self.shape)


class Reshape(nn.Module):
    """Vectors to examples of the given shape."""
    shape: Sequence[int]

    def __call__(self, x, train):
        return x.reshape(len(x), *self.shape)


class Crop(nn.Module):
    """The first rows and columns of images, up to the given size."""
    size: Sequence[int]

    def __call__(self, x, train):
        return x[:, :self.size[0], :self.size[1]]


def dense(width):
    return lambda: nn.Dense(width, use_bias=False)


def convolve(op, size, width):
    return lambda: Convolve(op, size, width)


def strided(x, kernel):
    return ops.conv(x, kernel, stride=2)


class Layers(nn.Module):
    """Modules called as module(x, train), one after the other."""
    blocks: Sequence[nn.Module]

    def __call__(self, x, train):
        for block in self.blocks:
            x = block(x, train)
        return x


def identity(x):
    return x


def leaky(x):
    return nn.leaky_relu(x, .2)


def encoder(shape: Sequence[int], out: int | None, *, kind: str = 'mlp', width: Sequence[int],
            norm: str = 'none', down: str = 'pool', act=nn.relu) -> Net:
    """x (n, *shape) -> codes (n, out), or the last features themselves where out is None.

    mlp: dense layers of `width`.  conv: 3x3 convolutions of `width`, each followed by 2x2
    max-pooling (down='pool'), or 4x4 convolutions of stride 2 (down='stride', as in DCGAN).
    Raises BadInput for an unknown kind or norm, an empty code, or `conv` on vectors.
    """
    _check(shape, out, kind, norm, width)
    if kind == 'mlp':
        blocks = [Reshape((-1,)), *(Block(dense(w), norm, act) for w in width)]
    elif down == 'pool':
        blocks = [Block(convolve(ops.conv, 3, w), norm, act, pool=True) for w in width]
    else:  # DCGAN: no batch normalisation where the image comes in
        norms = ['none' if norm == 'batch' else norm] + [norm] * (len(width) - 1)
        blocks = [Block(convolve(strided, 4, w), n, act) for w, n in zip(width, norms)]
    if out is not None:
        plain = 'spectral' if norm == 'spectral' else 'none'
        blocks += [Reshape((-1,)), Block(dense(out), plain, identity)]
    return net(Layers(blocks))


def decoder(example: Array, latent: int | None, *, kind: str = 'mlp', width: Sequence[int],
            norm: str = 'none', up: str = 'nearest') -> Net:
    """codes (n, latent) -> examples (n, *shape) before the output's link function.

    mlp: dense layers of `width`.  conv: a dense layer to the coarsest image (none where latent is
    None: the code is that image), then per width nearest upsampling and a 3x3 convolution, after
    one 3x3 convolution of width[0] (up='nearest', the survey's), or transposed 4x4 convolutions of
    stride 2 (up='transpose', as in DCGAN).  The output's bias starts where the constant output
    that fits `example` best lies: without it a ReLU net with a sigmoid often paints black for ever.
    """
    shape = tuple(example.shape[1:])
    _check(shape, latent, kind, norm, width)
    plain = 'spectral' if norm == 'spectral' else 'none'
    start = _best_constant(example, axes=0 if kind == 'mlp' else (0, 1, 2))
    last = dict(norm=plain, act=identity, bias=lambda key, size: jnp.asarray(start).reshape(size))
    if kind == 'mlp':
        blocks = [Block(dense(w), norm) for w in width]
        return net(Layers([*blocks, Block(dense(math.prod(shape)), **last), Reshape(shape)]))
    sizes = [shape[:2]]
    for _ in width:
        sizes.append(tuple(-(-s // 2) for s in sizes[-1]))
    coarse = *sizes[-1], width[0]
    op, k = (ops.upsample_conv, 3) if up == 'nearest' else (ops.conv_transpose, 4)
    blocks = [] if latent is None else [Block(lambda: DenseImage(coarse), norm)]
    if up == 'nearest':
        blocks += [Block(convolve(ops.conv, 3, width[0]), norm)]
    for w, size in zip(width[1:], sizes[-2:0:-1]):
        blocks += [Block(convolve(op, k, w), norm), Crop(size)]
    return net(Layers([*blocks, Block(convolve(op, k, shape[-1]), **last), Crop(shape[:2])]))


def _check(shape, code, kind, norm, width):
    for what, value, known in ('kind', kind, KINDS), ('norm', norm, NORMS):
        if value not in known:
            raise BadInput(f'unknown {what} {value!r}; choose one of {", ".join(known)}')
    if code is not None and code < 1:
        raise BadInput(f'latent must be at least 1, not {code}')
    if not width or min(width) < 1:
        raise BadInput('width must hold at least one number, all of them positive')
    if kind == 'conv' and len(shape) != 3:
        raise BadInput(f"kind 'conv' needs images (h, w, c), but an example here has shape "
                       f"{tuple(shape)}; use kind='mlp'")


def _best_constant(example, axes):
    mean = example.mean(axes)
    return losses.logit(mean) if losses.in_unit(example) else mean
