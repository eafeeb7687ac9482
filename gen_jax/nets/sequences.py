"""Sequences of symbols to codes and back, by gated recurrent units."""
from typing import Callable, NamedTuple

from flax import linen as nn
from jax import lax
import jax.numpy as jnp

from gen_jax.nets.layers import Net, net
from gen_jax.types import Array, BadInput, Tree


class Spelled(nn.Module):
    """Symbols (n, t) to codes (n, latent): gated recurrent units read up to the first padding (0),
    and a dense layer takes in all their states, zeros from there on."""
    vocab_size: int
    latent: int
    width: int
    embed_dim: int

    @nn.compact
    def __call__(self, x, train):
        states = nn.RNN(nn.GRUCell(self.width))(nn.Embed(self.vocab_size, self.embed_dim)(x))
        states = jnp.where(before_padding(x)[..., None], states, 0)
        return nn.Dense(self.latent)(states.reshape(len(x), -1))


class Spell(nn.Module):
    """Codes to symbols: a dense layer gives each place its part of the code (embed,), which gated
    recurrent units see next to the symbol before; the code is also where they start."""
    vocab_size: int
    width: int
    embed_dim: int
    length: int

    def setup(self):
        self.first, self.parts = nn.Dense(self.width), nn.Dense(self.length * self.embed_dim)
        self.embedding = nn.Embed(self.vocab_size + 1,
                                  self.embed_dim)  # the last where none is given
        self.cell, self.out = nn.GRUCell(self.width), nn.Dense(self.vocab_size)
        self.units = nn.RNN(self.cell)

    def begin(self, z):
        """The first state (n, w), and the parts of the code (n, t, embed)."""
        return jnp.tanh(self.first(z)), self.parts(z).reshape(-1, self.length, self.embed_dim)

    def inputs(self, before, parts):
        return jnp.concatenate([self.embedding(before), parts], -1)

    def __call__(self, z, x):
        """Logits (n, t, symbols) of each symbol, given those before it in x (n, t)."""
        state, parts = self.begin(z)
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=self.vocab_size)
        return self.out(self.units(self.inputs(before, parts), initial_carry=state))

    def step(self, state, part, before):
        """The next state, and the logits (n, symbols) of the symbol after `before` (n,)."""
        state, y = self.cell(state, self.inputs(before, part))
        return state, self.out(y)


class Speller(NamedTuple):
    """init: (key, z) -> params; logits: (params, z, x) -> (n, t, symbols), each given the symbols
    before it in x (n, t), of which `symbols` itself says nothing; greedy: (params, z) -> symbols
    (n, t), the likeliest each time, given those chosen before, and 0 after the first 0."""
    init: Callable[[Array, Array], Tree]
    logits: Callable[[Tree, Array, Array], Array]
    greedy: Callable[[Tree, Array], Array]


def encoder(vocab_size: int, latent: int, *, width: int, embed_dim: int) -> Net:
    """Symbols (n, t), 0 for padding, to codes (n, latent), by `width` gated recurrent units."""
    _check(latent=latent, width=width, embed_dim=embed_dim)
    return net(Spelled(vocab_size, latent, width, embed_dim))


def decoder(vocab_size: int, length: int, *, width: int, embed_dim: int) -> Speller:
    """Codes (n, latent) to symbols (n, length), by `width` gated recurrent units."""
    _check(width=width, embed_dim=embed_dim)
    module = Spell(vocab_size, width, embed_dim, length)

    def init(key, z):
        return module.init(key, z[:1], jnp.zeros((1, length), jnp.int32))['params']

    def logits(params, z, x):
        return module.apply({'params': params}, z, x)

    def greedy(params, z):
        def step(carry, part):
            state, before, done = carry
            state, y = module.apply({'params': params}, state, part, before, method='step')
            y = jnp.where(done, 0, y.argmax(-1).astype(jnp.int32))
            return (state, y, done | (y == 0)), y

        state, parts = module.apply({'params': params}, z, method='begin')
        before = jnp.full(len(z), vocab_size, jnp.int32)
        start = state, before, jnp.zeros(len(z), bool)
        return lax.scan(step, start, parts.swapaxes(0, 1))[1].T

    return Speller(init, logits, greedy)


def before_padding(x: Array) -> Array:
    """Which symbols of x (n, t) come before the first padding."""
    return jnp.cumsum(x == 0, axis=1) == 0


def _check(**sizes):
    for name, size in sizes.items():
        if size < 1:
            raise BadInput(f'{name} must be at least 1, not {size}')
