"""4x4 convolutions of stride 2, a layer per width, and transposed ones back (Radford et al.
2016)."""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.layers import (Block, Crop, DenseImage, Layers, Nets, activation, code, convolve,
                                 halved, last, net)


def strided(x, kernel):
    return ops.conv(x, kernel, stride=2)


def make(*, width: Sequence[int] = (64, 128), norm: str = 'none', act: str = 'relu') -> Nets:
    """There is no batch normalisation where the image comes in."""
    act = activation(act, 'dcgan')

    def encoder(shape, out):
        norms = ['none' if norm == 'batch' else norm] + [norm] * (len(width) - 1)
        return net(Layers([*(Block(convolve(strided, 4, w), n, act) for w, n in zip(width, norms)),
                           *code(out, norm)]))

    def decoder(example, latent, output, labels):
        size, *sizes, coarse = halved(example, width)
        inner, *others = width[::-1]
        blocks = [] if latent is None else [
            Block(lambda: DenseImage((*coarse, inner)), norm, act, labels=labels)]
        for w, larger in zip(others, sizes[::-1]):
            blocks += [Block(convolve(ops.conv_transpose, 4, w), norm, act, labels=labels),
                       Crop(larger)]
        end = last(convolve(ops.conv_transpose, 4, example.shape[-1]), example.mean((0, 1, 2)),
                   output, norm)
        return net(Layers([*blocks, end, Crop(size)]))

    return Nets(encoder, decoder, images=True)
