"""The generative adversarial network (Goodfellow et al. 2014) as DCGAN (Radford et al. 2016), with
the losses, penalties, normalisations and conditions that have been proposed since."""
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import Discriminator
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 100,
         condition: str = 'none', told: str = 'concat', every: int = 1,
         order: str = 'alternating', discriminator: Discriminator = adversarial.make(),
         net: Nets = nets.of('dcgan', norm='batch'),
         discriminator_net: Nets = nets.of('dcgan', norm='batch', act='leaky'),
         optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5, average=.999),
         discriminator_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5)) -> Model:
    """Critic, then generator, which sees the critic just moved; losses of logits.

    condition: how the critic is told labels, see adversarial.critic; told: how the generator is,
    see adversarial.generator.  every: the generator moves every so many steps, each of which brings
    the critic fresh data.  order: see game.  Of two learning rates see Heusel et al. 2017.
    Metrics: critic_loss and generator_loss, without penalties; accuracy_real, accuracy_fake, the
    shares the critic judges rightly; penalty, where there is one, before its weight; label_real,
    label_fake, the labels an auxiliary critic names rightly.  In evaluation spread_real and
    spread_fake, the squared distance of an example from the next: samples that are all alike have
    none.  Raises BadInput for what does not fit.
    """
    labels = 0 if condition == 'none' else losses.require_labels(
        example.label, 'use condition none')
    critic = adversarial.critic('critic', example.x.shape[1:], discriminator, discriminator_net,
                                condition=condition, labels=labels, batch=context.batch)
    generator = adversarial.generator('generator', example.x, latent, net, told=told,
                                      labels=labels)

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
                      discriminator_optimiser, project=critic.project),
        generator=Player(generator.init, generator_move, optimiser, every=every))
    return game(players, axis=context.axis, order=order, whole=critic.loss.whole, evaluate=evaluate,
                decode=generator.decode, prior=prior, bounds=adversarial.BOUNDS)
