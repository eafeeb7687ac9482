"""4x4 convolutions of stride 2, a layer per width, and transposed ones back (Radford et al.
2016)."""
from typing import Sequence

from gen_jax import ops
from gen_jax.nets.layers import (Block, Crop, Layers, Nets, activation, code, convolve, grown,
                                 halved, last, net)


def strided(x, kernel):
    return ops.conv(x, kernel, stride=2)


def back(example, bare, output, labels, width, norm, act) -> list:
    """The layers to examples from a code, or from features (`bare`)."""
    sizes = halved(example, width)
    end = last(convolve(ops.conv_transpose, 4, example.shape[-1]), example.mean((0, 1, 2)), output,
               norm)
    return [*grown(sizes[:0:-1], width[::-1], norm, act, labels, bare), end, Crop(sizes[0])]


def make(*, width: Sequence[int] = (64, 128), norm: str = 'none', act: str = 'relu') -> Nets:
    """There is no batch normalisation where the image comes in."""
    act = activation(act, 'dcgan')

    def encoder(shape, out):
        norms = ['none' if norm == 'batch' else norm] + [norm] * (len(width) - 1)
        return net(Layers([*(Block(convolve(strided, 4, w), n, act) for w, n in zip(width, norms)),
                           *code(out, norm)]))

    def decoder(example, latent, output, labels):
        return net(Layers(back(example, latent is None, output, labels, width, norm, act)))

    return Nets(encoder, decoder, images=True)
