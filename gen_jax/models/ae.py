"""The autoencoder: a code small enough that copying is impossible (Hinton & Salakhutdinov 2006)."""
from typing import Sequence

import jax
import optax

from gen_jax import losses, nets
from gen_jax.game import game
from gen_jax.types import BadInput, Batch, Model, Player


def make(example: Batch, *, axis: str | None = None, latent: int | None = None, kind: str = 'conv',
         width: Sequence[int] = (30, 15), norm: str = 'none', loss: str = 'mse',
         rate: float = 1e-3) -> Model:
    """Minimises squared error, or the cross-entropy on logits, between x and decode(encode(x)).

    latent: size of a dense bottleneck; None for the bare features, with `conv` the survey's
    3x3 convolutions width[0] - pool - width[1] - pool and back.  loss: `mse`, squared error summed
    over an example, the output a sigmoid where the data lies in [0, 1] and linear elsewhere; or
    `cross_entropy`, nats per example, data in [0, 1] only.  Metrics: loss; in evaluation also mse,
    the mean over an example's dimensions.  Raises BadInput for what does not fit the data.
    """
    if loss not in ('mse', 'cross_entropy'):
        raise BadInput(f'unknown loss {loss!r}; choose mse or cross_entropy')
    if loss == 'cross_entropy':
        losses.require_unit(example.x, 'loss cross_entropy')
    shape = example.x.shape[1:]
    link = jax.nn.sigmoid if losses.in_unit(example.x) else lambda y: y
    encoder = nets.encoder(shape, latent, kind=kind, width=width, norm=norm)
    decoder = nets.decoder(example.x, latent, kind=kind, width=width[::-1], norm=norm)

    def init(key, batch):
        keys = jax.random.split(key)
        params, buffers = encoder.init(keys[0], batch.x)
        z = encoder.apply(params, buffers, batch.x[:1])
        made = dict(encoder=(params, buffers), decoder=decoder.init(keys[1], z))
        return {n: p for n, (p, _) in made.items()}, {n: b for n, (_, b) in made.items()}

    def error(y, x):
        if loss == 'cross_entropy':
            return losses.bernoulli_nll(y, x)
        return losses.squared_error(link(y), x)

    def objective(state, batch, key):
        params, buffers = state.params['ae'], state.buffers['ae']
        z, seen = encoder.train(params['encoder'], buffers['encoder'], batch.x)
        y, made = decoder.train(params['decoder'], buffers['decoder'], z)
        value = error(y, batch.x).mean()
        return value, dict(loss=value), dict(encoder=seen, decoder=made)

    def encode(state, x):
        return encoder.apply(state.params['ae']['encoder'], state.buffers['ae']['encoder'], x)

    def logits(state, z):
        return decoder.apply(state.params['ae']['decoder'], state.buffers['ae']['decoder'], z)

    def evaluate(state, batch, key):
        y = logits(state, encode(state, batch.x))
        mse = losses.squared_error(link(y), batch.x) / batch.x[0].size
        return dict(loss=error(y, batch.x), mse=mse)

    return game({'ae': Player(init, objective, optax.adam(rate))}, axis=axis, evaluate=evaluate,
                encode=encode, decode=lambda state, z: link(logits(state, z)))
