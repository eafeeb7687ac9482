"""The nets of Locatello et al. 2019 (disentanglement_lib): convolutions of stride 2, 4x4 and then
2x2, with a dense layer at their end; back by another and DCGAN's transposed ones."""
from typing import Sequence

from gen_jax.nets import dcgan
from gen_jax.nets.layers import (Block, Layers, Nets, Reshape, activation, code, convolve, dense,
                                 net)


def make(*, width: Sequence[int] = (32, 32, 64, 64), hidden: int = 256, norm: str = 'none',
         act: str = 'relu') -> Nets:
    """hidden: units of the dense layer.  The first half of the kernels are 4x4, the others 2x2."""
    act = activation(act, 'disentangle')

    def encoder(shape, out):
        sizes = [4 if 2 * i < len(width) else 2 for i in range(len(width))]
        return net(Layers([*(Block(convolve(dcgan.strided, k, w), norm, act)
                             for k, w in zip(sizes, width)),
                           Reshape((-1,)), Block(dense(hidden), norm, act), *code(out, norm)]))

    def decoder(example, latent, output, labels):
        blocks = [] if latent is None else [Block(dense(hidden), norm, act, labels=labels)]
        return net(Layers([*blocks, *dcgan.back(example, False, output, labels, width, norm, act)]))

    return Nets(encoder, decoder, images=True)
