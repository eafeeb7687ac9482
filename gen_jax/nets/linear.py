"""Linear maps to the code and back, for examples of any shape, without a link function."""
import math

from gen_jax.nets.layers import Layers, Nets, Reshape, code, dense, last, net


def make(*, norm: str = 'none') -> Nets:
    """norm: `spectral`; there is nothing that others could normalise."""
    def encoder(shape, out):
        return net(Layers([Reshape((-1,)), *code(out, norm)]))

    def decoder(example, latent, output, labels):
        shape = example.shape[1:]
        return net(Layers([last(dense(math.prod(shape)), example.mean(0), output, norm),
                           Reshape(shape)]))

    return Nets(encoder, decoder, norms=False, linked=False)
