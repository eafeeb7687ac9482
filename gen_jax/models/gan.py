"""The generative adversarial network (Goodfellow et al. 2014) as DCGAN (Radford et al. 2016), with
the losses, penalties, normalisations and conditions that have been proposed since."""
from typing import Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import adversarial, losses
from gen_jax.game import game
from gen_jax.types import ALONE, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 100,
         loss: str = 'nonsaturating', smooth: float = 0., penalty: str = 'none',
         weight: float = 10., cut: float = .01, condition: str = 'none', told: str = 'concat',
         augment: str = '', noise: float = 0., noise_steps: int = 0, pack: int = 1,
         kind: str = 'conv', width: Sequence[int] = (64, 128), norm: str = 'batch',
         critic_norm: str | None = None, critic_width: Sequence[int] = (),
         critic_act: str = 'leaky', rate: float = 2e-4, critic_rate: float | None = None,
         b1: float = .5, b2: float = .999, average: float = .999, every: int = 1,
         order: str = 'alternating') -> Model:
    """Critic, then generator, which sees the critic just moved; losses of logits.

    loss, smooth, penalty, weight, cut, condition, augment, noise, noise_steps, pack: of the critic,
    see adversarial.critic; told: how the generator is told labels, see adversarial.generator.
    kind, width, norm: of the nets, width from the image inwards for the critic, the other way round
    for the generator; critic_norm, critic_width: the critic's where they differ, critic_act: of its
    units.  rate, b1, b2: of Adam; critic_rate where the critic's differs (two time scales, Heusel
    et al. 2017).  average: decay of the moving average of the generator that samples are drawn
    from, 0 for none.  every: the generator moves every so many steps, each of which brings the
    critic fresh data.  order: see game.
    Metrics: critic_loss and generator_loss, without penalties; accuracy_real, accuracy_fake, the
    shares the critic judges rightly; penalty, where there is one, before its weight; label_real,
    label_fake, the labels an auxiliary critic names rightly.  In evaluation spread_real and
    spread_fake, the squared distance of an example from the next: samples that are all alike have
    none.  Raises BadInput for what does not fit.
    """
    norms = norm if critic_norm is None else critic_norm
    labels = 0 if condition == 'none' else losses.require_labels(
        example.label, 'use condition none')
    critic = adversarial.critic(
        'critic', example.x.shape[1:], loss=loss, smooth=smooth, penalty=penalty, weight=weight,
        cut=cut, kind=kind, width=critic_width or width, norm=norms, act=critic_act,
        condition=condition, labels=labels, augment=augment, noise=noise, noise_steps=noise_steps,
        pack=pack, batch=context.batch)
    generator = adversarial.generator('generator', example.x, latent, kind=kind, width=width,
                                      norm=norm, told=told, labels=labels)

    def codes(key, n):
        return losses.normal(key, n, latent)

    def prior(state, key, n):
        z = codes(key, n)
        return (z, jnp.arange(n) % labels) if labels else z

    def made(state, batch, key):
        return generator.make(state, codes(key, len(batch.x)), batch.label if labels else None)

    def critic_move(state, batch, key):
        fake, _ = made(state, batch, key)
        return critic.move(state, batch, fake, jax.random.fold_in(key, 1))

    def generator_move(state, batch, key):
        fake, buffers = made(state, batch, key)
        value = critic.against(state, batch, fake, jax.random.fold_in(key, 1))
        return value, dict(generator_loss=value), buffers

    def evaluate(state, batch, key):
        z = codes(key, len(batch.x))
        fake = generator.decode(state, (z, batch.label) if labels else z)
        return critic.evaluate(state, batch, batch._replace(x=fake))

    players = dict(
        critic=Player(lambda key, batch: critic.init(key, batch.x, batch.label), critic_move,
                      critic.adam(rate if critic_rate is None else critic_rate, b1, b2)),
        generator=Player(generator.init, generator_move, optax.adam(rate, b1=b1, b2=b2),
                         every=every, average=average))
    return game(players, axis=context.axis, order=order, whole=critic.loss.whole, evaluate=evaluate,
                decode=generator.decode, prior=prior, bounds=adversarial.BOUNDS)
