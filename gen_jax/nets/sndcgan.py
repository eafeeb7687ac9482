"""The convolutional nets of Miyato et al. 2018: a 3x3 convolution of each width, with 4x4
convolutions of stride 2 between them; the decoder has 4x4 transposed convolutions.
"""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.dcgan import strided
from gen_jax.nets.layers import (Block, Layers, Nets, find_activation, code_layers, convolve,
                                 upsampling_blocks, halved_sizes, output_layer, net)


def make(*, width: Sequence[int] = (64, 128, 256, 512), norm: str = 'none',
         activation: str = 'relu') -> Nets:
    """The paper's discriminator has norm spectral and activation leaky_relu01, its generator batch
    and relu.

    Args:
        width: channels of each stage.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2) or leaky_relu01 (0.1).
    """
    activation = find_activation(activation, 'sndcgan')

    def encoder(shape, out):
        pairs = [Block(convolve(op, k, w), norm, activation)
                 for w in width[:-1] for op, k in ((ops.conv, 3), (strided, 4))]
        return net(Layers([*pairs, Block(convolve(ops.conv, 3, width[-1]), norm, activation),
                           *code_layers(out, norm)]))

    def decoder(example, latent, output, labels):
        blocks = upsampling_blocks(
            halved_sizes(example, width[1:])[::-1], width[::-1], norm, activation, labels,
            bare=latent is None)
        return net(Layers([*blocks, output_layer(convolve(ops.conv, 3, example.shape[-1]),
                                                 example.mean((0, 1, 2)), output, norm)]))

    return Nets(encoder, decoder, images_only=True)
