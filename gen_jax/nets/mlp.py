"""Dense layers of `width`, for examples of any shape."""
import math
from typing import Sequence

from gen_jax.nets.layers import Block, Layers, Nets, Reshape, activation, code, dense, last, net


def make(*, width: Sequence[int] = (400,), norm: str = 'none', act: str = 'relu') -> Nets:
    act = activation(act)

    def encoder(shape, out):
        return net(Layers([Reshape((-1,)), *(Block(dense(w, act), norm, act) for w in width),
                           *code(out, norm)]))

    def decoder(example, latent, output, labels):
        shape = example.shape[1:]
        blocks = [Block(dense(w, act), norm, act, labels=labels) for w in width[::-1]]
        return net(Layers([*blocks, last(dense(math.prod(shape)), example.mean(0), output, norm),
                           Reshape(shape)]))

    return Nets(encoder, decoder)
