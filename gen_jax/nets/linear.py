"""Linear maps to the code and back, for examples of any shape, without an output activation."""
import math

from gen_jax.nets.layers import Layers, Nets, Reshape, code_layers, dense, output_layer, net


def make(*, norm: str = 'none') -> Nets:
    """The linear encoder and decoder.

    Args:
        norm: none or spectral.
    """
    def encoder(shape, out):
        return net(Layers([Reshape((-1,)), *code_layers(out, norm)]))

    def decoder(example, latent, output, labels):
        shape = example.shape[1:]
        return net(Layers([output_layer(dense(math.prod(shape)), example.mean(0), output, norm),
                           Reshape(shape)]))

    return Nets(encoder, decoder, has_norm=False, sigmoid_output=False)
