"""3x3 convolutions of `width`, each followed by 2x2 max-pooling; the decoder upsamples (nearest)
before each convolution.
"""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.layers import (Block, Crop, DenseImage, Layers, Nets, find_activation,
                                 code_layers, convolve, halved_sizes, output_layer, net)


def make(*, width: Sequence[int] = (30, 15), norm: str = 'none', activation: str = 'relu') -> Nets:
    """The convolutional encoder and decoder.

    Args:
        width: channels of each convolution.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2) or leaky_relu01 (0.1).
    """
    activation = find_activation(activation, 'conv')

    def encoder(shape, out):
        return net(
            Layers([
                *(Block(convolve(ops.conv, 3, w), norm, activation, pool=True) for w in width),
                *code_layers(out, norm)
            ]))

    def decoder(example, latent, output, labels):
        size, *sizes, coarse = halved_sizes(example, width)
        inner, *others = width[::-1]
        blocks = [] if latent is None else [
            Block(lambda: DenseImage((*coarse, inner)), norm, activation, labels=labels)]
        blocks += [Block(convolve(ops.conv, 3, inner), norm, activation)]
        for w, larger in zip(others, sizes[::-1]):
            blocks += [Block(convolve(ops.upsample_conv, 3, w), norm, activation, labels=labels),
                       Crop(larger)]
        end = output_layer(convolve(ops.upsample_conv, 3, example.shape[-1]), example.mean(
            (0, 1, 2)), output, norm)
        return net(Layers([*blocks, end, Crop(size)]))

    return Nets(encoder, decoder, images_only=True)
