"""The nets of the RAE's paper (Ghosh et al. 2020): 4x4 convolutions of stride 2; the decoder starts
from the widest layer with `up` transposed convolutions.
"""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.dcgan import strided
from gen_jax.nets.layers import (Block, Layers, Nets, find_activation, code_layers, convolve,
                                 upsampling_blocks, halved_sizes, output_layer, net)
from gen_jax.types import BadInput


def make(*, width: Sequence[int] = (128, 256, 512, 1024), up: int = 2, norm: str = 'batch',
         activation: str = 'relu') -> Nets:
    """The paper's decoder starts at a quarter of the image's side (up = 2) for MNIST, which is
    padded to 32x32, and CIFAR-10, and at an eighth (3) for CelebA, there with 5x5 kernels.

    Args:
        width: channels of each convolution of the encoder.
        up: transposed convolutions of the decoder.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2) or leaky_relu01 (0.1).
    """
    activation = find_activation(activation, 'rae')
    if not 0 <= up < len(width):
        raise BadInput(f'net rae takes up from 0 to {len(width) - 1}, the widths but one, not {up}')

    def encoder(shape, out):
        return net(Layers([*(Block(convolve(strided, 4, w), norm, activation) for w in width),
                           *code_layers(out, norm)]))

    def decoder(example, latent, output, labels):
        if latent is None:
            raise BadInput('net rae needs a size of the code; give --config.model.latent')
        widths = width[::-1][:up + 1]
        blocks = upsampling_blocks(
            halved_sizes(example, widths[1:])[::-1], widths, norm, activation, labels)
        return net(Layers([*blocks, output_layer(convolve(ops.conv, 4, example.shape[-1]),
                                                 example.mean((0, 1, 2)), output, norm)]))

    return Nets(encoder, decoder, images_only=True)
