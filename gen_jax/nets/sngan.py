"""The residual nets of SNGAN (Miyato et al. 2018); the encoder ends in a sum over all pixels."""
from typing import Callable, Sequence

from flax import linen as nn
import jax.numpy as jnp

from gen_jax import ops
from gen_jax.nets.layers import (Block, Crop, DenseImage, Layers, Nets, Norm, find_activation,
                                 code_layers, convolve, halved_sizes, identity, output_layer, net)
from gen_jax.types import Array


class PreActivation(nn.Module):
    """Normalisation and activation alone."""
    norm: str
    activation: Callable[[Array], Array]
    labels: int = 0

    @nn.compact
    def __call__(self, x, train, label=None):
        if self.norm not in ('none', 'spectral'):
            x = Norm(self.norm, self.labels)(x, train, label)
        return self.activation(x)


class Resample(nn.Module):
    """A residual block: normalisation and activation come before each of its two 3x3 convolutions,
    and images leave it half or twice as large.

    change: `down` (average pooling), `up` (nearest) or `none`; raw: whether images come in as they
    are, not to be normalised or cut off.
    """
    width: int
    change: str
    norm: str = 'none'
    activation: Callable[[Array], Array] = nn.relu
    labels: int = 0
    raw: bool = False

    @nn.compact
    def __call__(self, x, train, label=None):
        spectral = 'spectral' if self.norm == 'spectral' else 'none'

        def ready(x):
            return PreActivation(self.norm, self.activation, self.labels)(x, train, label)

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


class SumPool(nn.Module):
    """The sum over an image's places, (n, h, w, c) -> (n, c), after an activation."""
    activation: Callable[[Array], Array]

    def __call__(self, x, train):
        return self.activation(x).sum((1, 2))


def mean_pool(x: Array) -> Array:
    """The mean of each 2 x 2 block, the last row and column doubled where their number is odd:
    (n, h, w, c) -> (n, ceil(h/2), ceil(w/2), c)."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode='edge')
    return x.reshape(n, -(-h // 2), 2, -(-w // 2), 2, c).mean((2, 4))


def make(*, width: Sequence[int] = (64, 128), norm: str = 'none', activation: str = 'relu') -> Nets:
    """The residual encoder (discriminator) and decoder (generator).

    Args:
        width: channels of each block.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2) or leaky_relu01 (0.1).
    """
    activation = find_activation(activation, 'sngan')

    def encoder(shape, out):
        blocks = [Resample(w, 'down', norm, activation, raw=not i) for i, w in enumerate(width)]
        return net(
            Layers([
                *blocks,
                Resample(width[-1], 'none', norm, activation),
                SumPool(activation), *code_layers(out, norm)
            ]))

    def decoder(example, latent, output, labels):
        size, *sizes, coarse = halved_sizes(example, width)
        inner, *others = width[::-1]
        blocks = [Block(lambda: DenseImage((*coarse, inner)), 'none', identity)]
        for w, larger in zip((*others, width[0]), (*sizes[::-1], size)):
            blocks += [Resample(w, 'up', norm, activation, labels), Crop(larger)]
        end = output_layer(convolve(ops.conv, 3, example.shape[-1]), example.mean((0, 1, 2)),
                           output, norm)
        return net(Layers([*blocks, PreActivation(norm, activation, labels), end]))

    return Nets(encoder, decoder, images_only=True)
