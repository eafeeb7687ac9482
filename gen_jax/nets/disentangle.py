"""The nets of Locatello et al. 2019 (disentanglement_lib): convolutions of stride 2, 4x4 and then
2x2, with a dense layer at their end; back by 4x4 transposed ones."""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.dcgan import strided
from gen_jax.nets.layers import (Block, Crop, DenseImage, Layers, Nets, Reshape, activation, code,
                                 convolve, dense, halved, last, net)


def make(*, width: Sequence[int] = (32, 32, 64, 64), hidden: int = 256, norm: str = 'none',
         act: str = 'relu') -> Nets:
    """hidden: units of the dense layer.  The first half of the kernels are 4x4, the others 2x2."""
    act = activation(act, 'disentangle')

    def encoder(shape, out):
        sizes = [4 if 2 * i < len(width) else 2 for i in range(len(width))]
        return net(Layers([*(Block(convolve(strided, k, w), norm, act)
                             for k, w in zip(sizes, width)),
                           Reshape((-1,)), Block(dense(hidden), norm, act), *code(out, norm)]))

    def decoder(example, latent, output, labels):
        size, *sizes, coarse = halved(example, width)
        inner, *others = width[::-1]
        blocks = [] if latent is None else [Block(dense(hidden), norm, act, labels=labels)]
        blocks += [Block(lambda: DenseImage((*coarse, inner)), norm, act, labels=labels)]
        for w, larger in zip(others, sizes[::-1]):
            blocks += [Block(convolve(ops.conv_transpose, 4, w), norm, act, labels=labels),
                       Crop(larger)]
        end = last(convolve(ops.conv_transpose, 4, example.shape[-1]), example.mean((0, 1, 2)),
                   output, norm)
        return net(Layers([*blocks, end, Crop(size)]))

    return Nets(encoder, decoder, images=True)
