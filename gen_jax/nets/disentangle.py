"""The nets of Locatello et al. 2019 (disentanglement_lib): convolutions of stride 2 and a dense
layer; the decoder has a dense layer and DCGAN's transposed convolutions.
"""
from typing import Sequence

from gen_jax.nets import dcgan
from gen_jax.nets.layers import (Block, Layers, Nets, Reshape, find_activation, code_layers,
                                 convolve, dense, net)


def make(*, width: Sequence[int] = (32, 32, 64, 64), hidden: int = 256, norm: str = 'none',
         activation: str = 'relu') -> Nets:
    """The encoder and decoder; the first half of the kernels are 4x4, the others 2x2.

    Args:
        width: channels of each convolution.
        hidden: units of the dense layer.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2) or leaky_relu01 (0.1).
    """
    activation = find_activation(activation, 'disentangle')

    def encoder(shape, out):
        sizes = [4 if 2 * i < len(width) else 2 for i in range(len(width))]
        return net(
            Layers([
                *(Block(convolve(dcgan.strided, k, w), norm, activation)
                  for k, w in zip(sizes, width)),
                Reshape((-1, )),
                Block(dense(hidden), norm, activation), *code_layers(out, norm)
            ]))

    def decoder(example, latent, output, labels):
        blocks = [] if latent is None else [Block(dense(hidden), norm, activation, labels=labels)]
        return net(
            Layers([
                *blocks,
                *dcgan.decoder_layers(example, False, output, labels, width, norm, activation)
            ]))

    return Nets(encoder, decoder, images_only=True)
