"""The layers of networks, in Flax, and what a network is to the rest: three pure functions."""
import math
from typing import Any, Callable, NamedTuple, Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from gen_jax import ops
from gen_jax.types import Array, Tree


def leaky(x: Array) -> Array:
    return nn.leaky_relu(x, .2)


def maxout(x: Array) -> Array:
    """The largest of every five outputs (Goodfellow et al. 2013)."""
    return x.reshape(*x.shape[:-1], -1, 5).max(-1)


ACTS = dict(relu=nn.relu, tanh=nn.tanh, leaky=leaky, maxout=maxout,
            gated=nn.glu)  # half of the outputs gates the rest
OUTPUTS = {nn.glu: 2, maxout: 5}  # of a layer for each of its activations


class Net(NamedTuple):
    """init: (key, x) -> (params, buffers); apply: (params, buffers, x) -> y, as in evaluation;
    train: (params, buffers, x) -> (y, new buffers), with the statistics of this batch."""
    init: Callable[[Array, Array], tuple[Tree, Tree]]
    apply: Callable[[Tree, Tree, Array], Array]
    train: Callable[[Tree, Tree, Array], tuple[Array, Tree]]


def net(module: nn.Module) -> Net:
    """A Flax module, called as module(x, train), as a Net."""
    def init(key, x):
        variables = module.init(key, jax.tree.map(lambda a: a[:1], x), False)
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


class Norm(nn.Module):
    """Batch, group, layer or instance normalisation with a gain and a bias of each channel; of each
    label and channel where there are labels (conditional batch normalisation, Dumoulin et al.
    2017)."""
    norm: str
    labels: int = 0

    @nn.compact
    def __call__(self, x, train, label=None):
        channels = x.shape[-1]
        plain = dict(use_scale=not self.labels, use_bias=not self.labels,
                     use_fast_variance=False)  # E x^2 - (E x)^2 cancels where the mean is large
        if self.norm == 'batch':
            x = nn.BatchNorm(use_running_average=not train, momentum=.9, **plain)(x)
        else:  # at least two channels in a group: of one alone nothing would be left
            groups = dict(group=math.gcd(channels, channels // 2, 8), layer=1, instance=channels)
            x = nn.GroupNorm(num_groups=groups[self.norm], **plain)(x)
        if not self.labels:
            return x
        gain, bias = (nn.Embed(self.labels, channels, embedding_init=start, name=name)(label)
                      .reshape(-1, *(1,) * (x.ndim - 2), channels)
                      for name, start in (('gain', nn.initializers.ones),
                                          ('shift', nn.initializers.zeros)))
        return x * gain + bias


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
    labels: int = 0

    @nn.compact
    def __call__(self, x, train, label=None):
        if self.norm == 'spectral':
            x = nn.SpectralNorm(self.linear())(x, update_stats=train)
        else:
            x = self.linear()(x)
        if self.norm not in ('none', 'spectral'):
            x = self.act(Norm(self.norm, self.labels)(x, train, label))
            return ops.max_pool(x) if self.pool else x
        x = ops.max_pool(x) if self.pool else x
        return self.act(x + self.param('bias', self.bias, x.shape[-1:]))


class Residual(nn.Module):
    """act(x + two 3x3 convolutions of x), x by a 1x1 convolution where the width changes (He et al.
    2016)."""
    width: int
    norm: str = 'none'
    act: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x, train):
        conv = convolve(ops.conv, 3, self.width)
        y = Block(conv, self.norm, self.act)(x, train)
        y = Block(conv, self.norm, identity)(y, train)
        if x.shape[-1] != self.width:
            x = Convolve(ops.conv, 1, self.width)(x)
        return self.act(x + y)


class Prepared(nn.Module):
    """Normalisation and activation alone."""
    norm: str
    act: Callable[[Array], Array]
    labels: int = 0

    @nn.compact
    def __call__(self, x, train, label=None):
        if self.norm not in ('none', 'spectral'):
            x = Norm(self.norm, self.labels)(x, train, label)
        return self.act(x)


class Resample(nn.Module):
    """A residual block as of SNGAN (Miyato et al. 2018): normalisation and activation come before
    each of its two 3x3 convolutions, and images leave it half or twice as large.

    change: `down` (average pooling), `up` (nearest) or `none`; raw: whether images come in as they
    are, not to be normalised or cut off.
    """
    width: int
    change: str
    norm: str = 'none'
    act: Callable[[Array], Array] = nn.relu
    labels: int = 0
    raw: bool = False

    @nn.compact
    def __call__(self, x, train, label=None):
        spectral = 'spectral' if self.norm == 'spectral' else 'none'

        def ready(x):
            return Prepared(self.norm, self.act, self.labels)(x, train, label)

        def conv(x, op, size):
            return Block(convolve(op, size, self.width), spectral, identity)(x, train)

        larger = self.change == 'up'
        y = conv(x if self.raw else ready(x), ops.upsample_conv if larger else ops.conv, 3)
        y = conv(ready(y), ops.conv, 3)
        if self.change != 'none' or x.shape[-1] != self.width:
            x = conv(x, ops.conv, 1)  # pooling and copying commute with it
        if self.change == 'down':
            return mean_pool(x + y)
        return (x.repeat(2, 1).repeat(2, 2) if larger else x) + y


class Total(nn.Module):
    """The sum over an image's places, (n, h, w, c) -> (n, c), after an activation."""
    act: Callable[[Array], Array]

    def __call__(self, x, train):
        return self.act(x).sum((1, 2))


class Read(nn.Module):
    """Gated recurrent units over sequences (n, t, f), a layer per width: the last state (n, w)."""
    width: Sequence[int]

    @nn.compact
    def __call__(self, x, train):
        for w in self.width:
            x = nn.RNN(nn.GRUCell(w))(x)
        return x[:, -1]


class Write(nn.Module):
    """Codes (n, latent) to sequences (n, t, f) by gated recurrent units that see the code at every
    step, a layer per width."""
    width: Sequence[int]
    steps: int

    @nn.compact
    def __call__(self, z, train):
        x = jnp.broadcast_to(z[:, None], (len(z), self.steps, z.shape[-1]))
        for w in self.width:
            x = nn.RNN(nn.GRUCell(w))(x)
        return x


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


class Pool(nn.Module):
    """2x2 max-pooling of images."""

    def __call__(self, x, train):
        return ops.max_pool(x)


class Crop(nn.Module):
    """The first rows and columns of images, up to the given size."""
    size: Sequence[int]

    def __call__(self, x, train):
        return x[:, :self.size[0], :self.size[1]]


def dense(width, act=None):
    return lambda: nn.Dense(OUTPUTS.get(act, 1) * width, use_bias=False)


def convolve(op, size, width):
    return lambda: Convolve(op, size, width)


def strided(x, kernel):
    return ops.conv(x, kernel, stride=2)


def mean_pool(x):
    """The mean of each 2 x 2 block, the last row and column doubled where their number is odd:
    (n, h, w, c) -> (n, ceil(h/2), ceil(w/2), c)."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode='edge')
    return x.reshape(n, -(-h // 2), 2, -(-w // 2), 2, c).mean((2, 4))


class Layers(nn.Module):
    """Modules called as module(x, train), one after the other; of a pair (x, label), those with
    labels see the label too."""
    blocks: Sequence[nn.Module]

    def __call__(self, x, train):
        x, *label = x if isinstance(x, tuple) else (x,)
        for block in self.blocks:
            x = block(x, train, *(label if getattr(block, 'labels', 0) else ()))
        return x


def identity(x):
    return x
