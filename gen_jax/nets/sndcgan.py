"""The convolutional nets of Miyato et al. 2018: a 3x3 convolution of each width and a 4x4 one of
stride 2 between them; back by 4x4 transposed ones."""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.dcgan import strided
from gen_jax.nets.layers import (Block, Layers, Nets, activation, code, convolve, grown, halved,
                                 last, net)


def make(*, width: Sequence[int] = (64, 128, 256, 512), norm: str = 'none',
         act: str = 'relu') -> Nets:
    """The paper's discriminator has norm spectral and act leaky01, its generator batch and relu."""
    act = activation(act, 'sndcgan')

    def encoder(shape, out):
        pairs = [Block(convolve(op, k, w), norm, act)
                 for w in width[:-1] for op, k in ((ops.conv, 3), (strided, 4))]
        return net(Layers([*pairs, Block(convolve(ops.conv, 3, width[-1]), norm, act),
                           *code(out, norm)]))

    def decoder(example, latent, output, labels):
        blocks = grown(halved(example, width[1:])[::-1], width[::-1], norm, act, labels,
                       bare=latent is None)
        return net(Layers([*blocks, last(convolve(ops.conv, 3, example.shape[-1]),
                                         example.mean((0, 1, 2)), output, norm)]))

    return Nets(encoder, decoder, images=True)
