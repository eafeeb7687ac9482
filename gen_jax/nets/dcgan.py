"""DCGAN (Radford et al. 2016): 4x4 convolutions of stride 2; the decoder has transposed ones."""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.layers import (Block, Crop, Layers, Nets, find_activation, code_layers, convolve,
                                 upsampling_blocks, halved_sizes, output_layer, net)


def strided(x, kernel):
    return ops.conv(x, kernel, stride=2)


def decoder_layers(example, bare, output, labels, width, norm, activation) -> list:
    """The layers to examples from a code, or from features (`bare`)."""
    sizes = halved_sizes(example, width)
    end = output_layer(convolve(ops.conv_transpose, 4, example.shape[-1]), example.mean((0, 1, 2)),
                       output, norm)
    return [
        *upsampling_blocks(sizes[:0:-1], width[::-1], norm, activation, labels, bare), end,
        Crop(sizes[0])
    ]


def make(*, width: Sequence[int] = (64, 128), norm: str = 'none', activation: str = 'relu') -> Nets:
    """The encoder and decoder; the first convolution of the encoder has no batch normalisation.

    Args:
        width: channels of each convolution.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2) or leaky_relu01 (0.1).
    """
    activation = find_activation(activation, 'dcgan')

    def encoder(shape, out):
        norms = ['none' if norm == 'batch' else norm] + [norm] * (len(width) - 1)
        return net(
            Layers([
                *(Block(convolve(strided, 4, w), n, activation) for w, n in zip(width, norms)),
                *code_layers(out, norm)
            ]))

    def decoder(example, latent, output, labels):
        return net(
            Layers(decoder_layers(example, latent is None, output, labels, width, norm,
                                  activation)))

    return Nets(encoder, decoder, images_only=True)
