"""The layers of networks, in Flax, and what a network is to the rest: three pure functions."""
import math
from typing import Any, Callable, NamedTuple, Sequence

from flax import linen as nn
import jax

from gen_jax import losses, ops
from gen_jax.parts import Spec
from gen_jax.types import Array, BadInput, Tree


def leaky_relu(x: Array) -> Array:
    return nn.leaky_relu(x, .2)


def leaky_relu01(x: Array) -> Array:
    return nn.leaky_relu(x, .1)


def maxout(x: Array) -> Array:
    """The largest of every five outputs (Goodfellow et al. 2013)."""
    return x.reshape(*x.shape[:-1], -1, 5).max(-1)


ACTIVATIONS = dict(relu=nn.relu, tanh=nn.tanh, leaky_relu=leaky_relu, leaky_relu01=leaky_relu01,
                   maxout=maxout, glu=nn.glu)  # half of the outputs gates the rest
OUTPUTS = {nn.glu: 2, maxout: 5}  # of a layer for each of its activations


class Net(NamedTuple):
    """init: (key, x) -> (params, buffers); apply: (params, buffers, x) -> y, as in evaluation;
    train: (params, buffers, x) -> (y, new buffers), with the statistics of this batch."""
    init: Callable[[Array, Array], tuple[Tree, Tree]]
    apply: Callable[[Tree, Tree, Array], Array]
    train: Callable[[Tree, Tree, Array], tuple[Array, Tree]]


class Nets(NamedTuple):
    """An architecture.  encoder: (shape, out) -> Net of examples (n, *shape) to codes (n, out), or
    to the last features themselves where out is None; decoder: (example, latent, output, labels) ->
    Net of codes (n, latent), or of such features where latent is None, to examples (n, *shape)
    before the link function `output`, its normalisations with gain and bias of each of so many
    labels.

    images: whether it is for images (h, w, c) alone; norms: whether it has normalisations; linked:
    whether its examples in [0, 1] come through a sigmoid.
    """
    encoder: Callable[[Sequence[int], int | None], Net]
    decoder: Callable[[Array, int | None, Callable, int], Net]
    images_only: bool = False
    has_norm: bool = True
    sigmoid_output: bool = True
    spec: Spec | None = None


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
    activation: Callable[[Array], Array] = nn.relu
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
            x = self.activation(Norm(self.norm, self.labels)(x, train, label))
            return ops.max_pool(x) if self.pool else x
        x = ops.max_pool(x) if self.pool else x
        return self.activation(x + self.param('bias', self.bias, x.shape[-1:]))


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


def dense(width, activation=None):
    return lambda: nn.Dense(OUTPUTS.get(activation, 1) * width, use_bias=False)


def convolve(op, size, width):
    return lambda: Convolve(op, size, width)


def code_layers(out: int | None, norm: str) -> list[nn.Module]:
    """A dense layer to codes (n, out), or nothing where these are the features themselves."""
    spectral = 'spectral' if norm == 'spectral' else 'none'
    return [] if out is None else [Reshape((-1,)), Block(dense(out), spectral, identity)]


def output_layer(linear, start: Array, output: Callable, norm: str) -> nn.Module:
    """The layer to examples, whose bias starts where the constant output `start` lies before
    `output`: without it a ReLU net with a sigmoid often paints black for ever."""
    start = losses.logit(start) if output is nn.sigmoid else start
    return Block(linear, 'spectral' if norm == 'spectral' else 'none', identity,
                 bias=lambda key, size: start.reshape(size))


def halved_sizes(example: Array, width: Sequence[int]) -> list[tuple[int, int]]:
    """The height and width of images, and of these halved once per width, rounding up."""
    sizes = [example.shape[1:3]]
    for _ in width:
        sizes.append(tuple(-(-s // 2) for s in sizes[-1]))
    return sizes


def upsampling_blocks(sizes: Sequence, widths: Sequence[int], norm: str, activation: Callable,
                      labels: int, bare: bool = False) -> list[nn.Module]:
    """A dense layer to images of the first size and width, left out where these come in already
    (`bare`), and a 4x4 transposed convolution of stride 2 to each of the others."""
    first = [] if bare else [
        Block(lambda: DenseImage((*sizes[0], widths[0])), norm, activation, labels=labels)]
    return first + [b for size, w in zip(sizes[1:], widths[1:]) for b in (
        Block(convolve(ops.conv_transpose, 4, w), norm, activation, labels=labels), Crop(size))]


def find_activation(name: str, kind: str = '') -> Callable[[Array], Array]:
    """The activation called so; for a net that is named, one of a single output."""
    if name not in ACTIVATIONS:
        raise BadInput(f'unknown activation {name!r}; choose one of {", ".join(ACTIVATIONS)}')
    if kind and ACTIVATIONS[name] in OUTPUTS:
        raise BadInput(f"activation {name!r} is for net 'mlp', not {kind!r}; use activation relu")
    return ACTIVATIONS[name]


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
