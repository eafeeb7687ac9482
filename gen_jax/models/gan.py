"""The generative adversarial network (Goodfellow et al. 2014) as DCGAN (Radford et al. 2016), with
the losses, penalties, normalisations and ways of conditioning proposed since.
"""
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import DiscriminatorOptions
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Batch, Context, Model, Player


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 100,
    discriminator_conditioning: str = 'none', generator_conditioning: str = 'concat',
    discriminator_steps: int = 1, update_order: str = 'alternating',
    discriminator: DiscriminatorOptions = adversarial.make(), net: Nets = nets.make(
        'dcgan', norm='batch'), discriminator_net: Nets = nets.make(
            'dcgan', norm='batch', activation='leaky_relu'), optimiser: Optimiser = optimisers.make(
                learning_rate=2e-4, b1=.5,
                ema_decay=.999), discriminator_optimiser: Optimiser = optimisers.make(
                    learning_rate=2e-4, b1=.5)
) -> Model:
    """Trains the discriminator, then the generator against the updated discriminator.

    Of two learning rates see Heusel et al. 2017.

    Args:
        latent: size of the noise z.
        discriminator_conditioning: how the discriminator gets the label: none, concat (Mirza &
            Osindero 2014), projection (Miyato & Koyama 2018), or auxiliary, it predicts the label
            (Odena et al. 2017).
        generator_conditioning: how the generator gets the label: concat, or norm, by conditional
            normalisation.
        discriminator_steps: updates of the discriminator for each of the generator, each with a
            new batch.
        update_order: alternating, or simultaneous, where neither uses the other's new parameters.

    Metrics: discriminator_loss and generator_loss, without penalties; accuracy_real and
    accuracy_fake, the shares that the discriminator classifies correctly; penalty, where there is
    one, before its weight; label_accuracy_real and label_accuracy_fake of an auxiliary classifier.
    In evaluation pairwise_distance_real and pairwise_distance_fake, the squared distance of an
    example from the next one: 0 for samples that are all alike.
    Raises: BadInput for options that do not fit.
    """
    labels = 0 if discriminator_conditioning == 'none' else losses.require_labels(
        example.label, 'use discriminator_conditioning none')
    discriminator = adversarial.discriminator(
        'discriminator', example.x.shape[1:], discriminator, discriminator_net,
        conditioning=discriminator_conditioning, labels=labels, batch=context.batch)
    generator = adversarial.generator('generator', example.x, latent, net,
                                      conditioning=generator_conditioning, labels=labels)

    def codes(key, n):
        return losses.standard_normal(key, n, latent)

    def prior(state, key, n):
        z = codes(key, n)
        return (z, jnp.arange(n) % labels) if labels else z

    def generate(state, batch, key):
        return generator.make(state, codes(key, len(batch.x)), batch.label if labels else None)

    def discriminator_move(state, batch, key):
        fake, _ = generate(state, batch, key)
        return discriminator.loss_and_metrics(state, batch, fake, jax.random.fold_in(key, 1))

    def generator_move(state, batch, key):
        fake, buffers = generate(state, batch, key)
        value = discriminator.generator_loss(state, batch, fake, jax.random.fold_in(key, 1))
        return value, dict(generator_loss=value), buffers

    def evaluate(state, batch, key):
        z = codes(key, len(batch.x))
        fake = generator.decode(state, (z, batch.label) if labels else z)
        return discriminator.evaluate(state, batch, batch._replace(x=fake))

    players = dict(
        discriminator=Player(
            lambda key, batch: discriminator.init(key, batch.x, batch.label), discriminator_move,
            discriminator_optimiser, project=discriminator.project), generator=Player(
                generator.init, generator_move, optimiser, update_every=discriminator_steps))
    return game(players, axis=context.axis, update_order=update_order,
                full_batch=discriminator.loss.full_batch, evaluate=evaluate,
                decode=generator.decode, prior=prior, bounds=adversarial.BOUNDS)
