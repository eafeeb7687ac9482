"""Residual blocks (He et al. 2016), each followed by 2x2 max-pooling; the decoder upsamples
(nearest).
"""
from typing import Callable, Sequence

from flax import linen as nn

from gen_jax import ops
from gen_jax.nets.layers import (Block, Convolve, Crop, DenseImage, Layers, Nets, find_activation,
                                 code_layers, convolve, halved_sizes, identity, output_layer, net)
from gen_jax.types import Array


class Residual(nn.Module):
    """activation(x + two 3x3 convolutions of x), x by a 1x1 convolution where the width changes."""
    width: int
    norm: str = 'none'
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x, train):
        conv = convolve(ops.conv, 3, self.width)
        y = Block(conv, self.norm, self.activation)(x, train)
        y = Block(conv, self.norm, identity)(y, train)
        if x.shape[-1] != self.width:
            x = Convolve(ops.conv, 1, self.width)(x)
        return self.activation(x + y)


class Pool(nn.Module):
    """2x2 max-pooling of images."""

    def __call__(self, x, train):
        return ops.max_pool(x)


def make(*, width: Sequence[int] = (30, 15), norm: str = 'none', activation: str = 'relu') -> Nets:
    """The residual encoder and decoder.

    Args:
        width: channels of each block.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2) or leaky_relu01 (0.1).
    """
    activation = find_activation(activation, 'residual')

    def encoder(shape, out):
        return net(Layers([*(b for w in width for b in (Residual(w, norm, activation), Pool())),
                           *code_layers(out, norm)]))

    def decoder(example, latent, output, labels):
        size, *sizes, coarse = halved_sizes(example, width)
        inner, *others = width[::-1]
        blocks = [] if latent is None else [
            Block(lambda: DenseImage((*coarse, inner)), norm, activation, labels=labels)]
        blocks += [Residual(inner, norm, activation)]
        for w, larger in zip(others, sizes[::-1]):
            blocks += [Block(convolve(ops.upsample_conv, 3, w), norm, activation, labels=labels),
                       Crop(larger), Residual(w, norm, activation)]
        end = output_layer(convolve(ops.upsample_conv, 3, example.shape[-1]), example.mean(
            (0, 1, 2)), output, norm)
        return net(Layers([*blocks, end, Crop(size)]))

    return Nets(encoder, decoder, images_only=True)
