"""The vision transformer (Dosovitskiy et al. 2021): patches are tokens; pre-norm blocks of
self-attention encode them, and the same kind of blocks decodes.
"""
from flax import linen as nn
import jax.numpy as jnp

from gen_jax.nets.layers import (Block, Crop, DenseImage, Layers, Nets, code_layers, dense,
                                 identity, output_layer, net)
from gen_jax.types import BadInput


class Patches(nn.Module):
    """Images (n, h, w, c) as patches (n, ceil(h / p), ceil(w / p), p * p * c)."""
    p: int

    def __call__(self, x, train):
        n, h, w, c = x.shape
        x = jnp.pad(x, ((0, 0), (0, -h % self.p), (0, -w % self.p), (0, 0)), mode='edge')
        x = x.reshape(n, -(-h // self.p), self.p, -(-w // self.p), self.p, c)
        return x.swapaxes(2, 3).reshape(n, x.shape[1], x.shape[3], -1)


class Unpatch(nn.Module):
    """Patches (n, h, w, p * p * c) as images (n, h * p, w * p, c)."""
    p: int

    def __call__(self, x, train):
        n, h, w, size = x.shape
        x = x.reshape(n, h, w, self.p, self.p, size // self.p ** 2).swapaxes(2, 3)
        return x.reshape(n, h * self.p, w * self.p, -1)


class Transformer(nn.Module):
    """Learned positions, `depth` pre-norm blocks and a last normalisation, of tokens
    (n, h, w, width)."""
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x, train):
        shape, width = x.shape, x.shape[-1]
        x = x.reshape(len(x), -1, width)
        x += self.param('positions', nn.initializers.normal(.02), x.shape[1:])
        for _ in range(self.depth):
            x += nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
            x += nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x))))
        return nn.LayerNorm()(x).reshape(shape)


def make(*, patch: int = 4, width: int = 64, depth: int = 2, heads: int = 4) -> Nets:
    """The transformer encoder and decoder.

    Args:
        patch: side of a patch, in pixels.
        width: size of a token.
        depth: number of blocks each way.
        heads: number of attention heads, which must divide width.
    """
    if min(patch, depth, heads, width) < 1 or width % heads:
        raise BadInput(f'net vit needs patch, depth and heads of at least 1 and a width that heads '
                       f'divide, not patch {patch}, depth {depth}, heads {heads}, width {width}')

    def encoder(shape, out):
        return net(Layers([Patches(patch), Block(dense(width), activation=identity),
                           Transformer(depth, heads), *code_layers(out, 'none')]))

    def decoder(example, latent, output, labels):
        h, w, c = example.shape[1:]
        grid = -(-h // patch), -(-w // patch), width
        start = jnp.tile(example.mean((0, 1, 2)), patch ** 2)
        tokens = [] if latent is None else [Block(lambda: DenseImage(grid), activation=identity)]
        return net(
            Layers([
                *tokens,
                Transformer(depth, heads),
                output_layer(dense(patch**2 * c), start, output, 'none'),
                Unpatch(patch),
                Crop((h, w))
            ]))

    return Nets(encoder, decoder, images_only=True, has_norm=False)
