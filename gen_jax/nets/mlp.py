"""Dense layers of `width`, for examples of any shape."""
import math
from typing import Sequence

from gen_jax.nets.layers import (Block, Layers, Nets, Reshape, code_layers, dense,
                                 find_activation, net, output_layer)


def make(*, width: Sequence[int] = (400,), norm: str = 'none', activation: str = 'relu') -> Nets:
    """The dense encoder and decoder.

    Args:
        width: units of each dense layer.
        norm: none, batch, group, layer, instance (for images) or spectral normalisation.
        activation: relu, tanh, leaky_relu (slope 0.2), leaky_relu01 (0.1), maxout (of five) or glu.
    """
    activation = find_activation(activation)

    def encoder(shape, out):
        return net(
            Layers([
                Reshape((-1, )), *(Block(dense(w, activation), norm, activation) for w in width),
                *code_layers(out, norm)
            ]))

    def decoder(example, latent, output, labels):
        shape = example.shape[1:]
        blocks = [Block(dense(w, activation), norm, activation, labels=labels) for w in width[::-1]]
        return net(
            Layers([
                *blocks,
                output_layer(dense(math.prod(shape)), example.mean(0), output, norm),
                Reshape(shape)
            ]))

    return Nets(encoder, decoder)
