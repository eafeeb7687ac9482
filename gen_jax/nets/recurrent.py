"""Gated recurrent units, a layer per width, for sequences (t, f) and images, read row by row."""
import math
from typing import Sequence

from flax import linen as nn
import jax.numpy as jnp

from gen_jax.nets.layers import Layers, Nets, Reshape, code_layers, dense, output_layer, net
from gen_jax.types import BadInput


class Read(nn.Module):
    """Sequences (n, t, f) to the last state (n, w)."""
    width: Sequence[int]

    @nn.compact
    def __call__(self, x, train):
        for w in self.width:
            x = nn.RNN(nn.GRUCell(w))(x)
        return x[:, -1]


class Write(nn.Module):
    """Codes (n, latent), seen at every step, to sequences (n, t, w)."""
    width: Sequence[int]
    steps: int

    @nn.compact
    def __call__(self, z, train):
        x = jnp.broadcast_to(z[:, None], (len(z), self.steps, z.shape[-1]))
        for w in self.width:
            x = nn.RNN(nn.GRUCell(w))(x)
        return x


def make(*, width: Sequence[int] = (400,), norm: str = 'none') -> Nets:
    """The recurrent encoder and decoder.

    Args:
        width: units of each layer.
        norm: none or layer.
    """
    def rows(shape):
        if len(shape) < 2:
            raise BadInput(f"net 'recurrent' needs sequences (t, f) or images, but an example "
                           f"here has shape {tuple(shape)}; use --config.net.name=mlp")
        if norm != 'none':
            raise BadInput(f"net 'recurrent' has no norm {norm!r}; use norm none")
        return shape[0], math.prod(shape[1:])

    def encoder(shape, out):
        return net(Layers([Reshape(rows(shape)), Read(tuple(width)), *code_layers(out, norm)]))

    def decoder(example, latent, output, labels):
        shape = example.shape[1:]
        steps, features = rows(shape)
        mean = example.reshape(-1, features).mean(0)
        return net(Layers([Write(tuple(width[::-1]), steps),
                           output_layer(dense(features), mean, output, norm), Reshape(shape)]))

    return Nets(encoder, decoder, has_norm=False)
