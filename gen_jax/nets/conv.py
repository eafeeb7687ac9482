"""The survey's 3x3 convolutions of `width`, each followed by 2x2 max-pooling; and back, by nearest
upsampling before each."""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.layers import (Block, Crop, DenseImage, Layers, Nets, activation, code, convolve,
                                 halved, last, net)


def make(*, width: Sequence[int] = (30, 15), norm: str = 'none', act: str = 'relu') -> Nets:
    act = activation(act, 'conv')

    def encoder(shape, out):
        return net(Layers([*(Block(convolve(ops.conv, 3, w), norm, act, pool=True) for w in width),
                           *code(out, norm)]))

    def decoder(example, latent, output, labels):
        size, *sizes, coarse = halved(example, width)
        inner, *others = width[::-1]
        blocks = [] if latent is None else [
            Block(lambda: DenseImage((*coarse, inner)), norm, act, labels=labels)]
        blocks += [Block(convolve(ops.conv, 3, inner), norm, act)]
        for w, larger in zip(others, sizes[::-1]):
            blocks += [Block(convolve(ops.upsample_conv, 3, w), norm, act, labels=labels),
                       Crop(larger)]
        end = last(convolve(ops.upsample_conv, 3, example.shape[-1]), example.mean((0, 1, 2)),
                   output, norm)
        return net(Layers([*blocks, end, Crop(size)]))

    return Nets(encoder, decoder, images=True)
