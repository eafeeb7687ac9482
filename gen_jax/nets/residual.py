"""A residual block (He et al. 2016) and 2x2 max-pooling per width; and back, by nearest
upsampling."""
from typing import Callable, Sequence

from flax import linen as nn

from gen_jax import ops
from gen_jax.nets.layers import (Block, Convolve, Crop, DenseImage, Layers, Nets, activation, code,
                                 convolve, halved, identity, last, net)
from gen_jax.types import Array


class Residual(nn.Module):
    """act(x + two 3x3 convolutions of x), x by a 1x1 convolution where the width changes."""
    width: int
    norm: str = 'none'
    act: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x, train):
        conv = convolve(ops.conv, 3, self.width)
        y = Block(conv, self.norm, self.act)(x, train)
        y = Block(conv, self.norm, identity)(y, train)
        if x.shape[-1] != self.width:
            x = Convolve(ops.conv, 1, self.width)(x)
        return self.act(x + y)


class Pool(nn.Module):
    """2x2 max-pooling of images."""

    def __call__(self, x, train):
        return ops.max_pool(x)


def make(*, width: Sequence[int] = (30, 15), norm: str = 'none', act: str = 'relu') -> Nets:
    act = activation(act, 'residual')

    def encoder(shape, out):
        return net(Layers([*(b for w in width for b in (Residual(w, norm, act), Pool())),
                           *code(out, norm)]))

    def decoder(example, latent, output, labels):
        size, *sizes, coarse = halved(example, width)
        inner, *others = width[::-1]
        blocks = [] if latent is None else [
            Block(lambda: DenseImage((*coarse, inner)), norm, act, labels=labels)]
        blocks += [Residual(inner, norm, act)]
        for w, larger in zip(others, sizes[::-1]):
            blocks += [Block(convolve(ops.upsample_conv, 3, w), norm, act, labels=labels),
                       Crop(larger), Residual(w, norm, act)]
        end = last(convolve(ops.upsample_conv, 3, example.shape[-1]), example.mean((0, 1, 2)),
                   output, norm)
        return net(Layers([*blocks, end, Crop(size)]))

    return Nets(encoder, decoder, images=True)
