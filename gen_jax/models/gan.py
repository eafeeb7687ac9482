"""The generative adversarial network (Goodfellow et al. 2014) as DCGAN (Radford et al. 2016)."""
from typing import Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, nets
from gen_jax.game import game
from gen_jax.types import Batch, Model, Player


def make(example: Batch, *, axis: str | None = None, latent: int = 100, kind: str = 'conv',
         width: Sequence[int] = (64, 128), norm: str = 'batch', critic_norm: str | None = None,
         rate: float = 2e-4, critic_rate: float | None = None, b1: float = .5,
         average: float = .999, every: int = 1) -> Model:
    """Critic, then generator, which sees the critic just moved; non-saturating loss on logits.

    width: of the critic, from the image inwards; the generator has it the other way round.
    norm: of both nets, or of the generator alone where critic_norm is given.  rate, b1: of Adam;
    critic_rate where the critic's differs.  average: decay of the moving average of the generator
    that samples are drawn from, 0 for none.  every: the generator moves every so many steps.
    Metrics, nats per example: critic_loss = -log D(x) - log(1 - D(G(z))), generator_loss =
    -log D(G(z)), and accuracy_real, accuracy_fake, the shares the critic judges rightly.
    """
    link = nets.link(example.x, kind)
    generator = nets.decoder(example.x, latent, kind=kind, width=width[::-1], norm=norm,
                             up='transpose')
    critic = nets.encoder(example.x.shape[1:], 1, kind=kind, width=width, norm=critic_norm or norm,
                          down='stride', act=nets.leaky)

    def prior(state, key, n):
        return jax.random.normal(key, (n, latent))

    def generate(state, key, n):
        y, buffers = generator.train(state.params['generator'], state.buffers['generator'],
                                     prior(state, key, n))
        return link(y), buffers

    def judge(state, buffers, x):
        y, buffers = critic.train(state.params['critic'], buffers, x)
        return y[:, 0], buffers

    def critic_move(state, batch, key):
        made, _ = generate(state, key, len(batch.x))
        fake, buffers = judge(state, state.buffers['critic'], losses.stop(made))
        real, buffers = judge(state, buffers, batch.x)
        value = losses.critic_loss(real, fake).mean()
        return value, dict(critic_loss=value, accuracy_real=jnp.mean(real > 0),
                           accuracy_fake=jnp.mean(fake < 0)), buffers

    def generator_move(state, batch, key):
        made, buffers = generate(state, key, len(batch.x))
        fake, _ = judge(state, state.buffers['critic'], made)
        value = losses.non_saturating(fake).mean()
        return value, dict(generator_loss=value), buffers

    def decode(state, z):
        return link(generator.apply(state.smooth('generator'), state.buffers['generator'], z))

    def evaluate(state, batch, key):
        made = decode(state, prior(state, key, len(batch.x)))
        score = lambda x: critic.apply(state.params['critic'], state.buffers['critic'], x)[:, 0]
        real, fake = score(batch.x), score(made)
        return dict(critic_loss=losses.critic_loss(real, fake),
                    generator_loss=losses.non_saturating(fake),
                    accuracy_real=(real > 0).astype(jnp.float32),
                    accuracy_fake=(fake < 0).astype(jnp.float32))

    players = dict(
        critic=Player(lambda key, batch: critic.init(key, batch.x), critic_move,
                      optax.adam(rate if critic_rate is None else critic_rate, b1=b1)),
        generator=Player(lambda key, batch: generator.init(key, jnp.zeros((1, latent))),
                         generator_move, optax.adam(rate, b1=b1), every=every, average=average))
    return game(players, axis=axis, evaluate=evaluate, decode=decode, prior=prior)
