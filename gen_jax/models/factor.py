"""FactorVAE (Kim & Mnih 2018): a discriminator estimates the total correlation of the codes."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import (NON_NEGATIVE, DEFAULT_CONTEXT, UNIT_INTERVAL, Array, Batch, Context,
                           Model, Player)


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 10, gamma: float = 10.,
    latents: Latents = LATENTS, net: Nets = nets.make('mlp'), discriminator_net: Nets = nets.make(
        'mlp', width=(256, 256, 256), activation='leaky_relu'),
    optimiser: Optimiser = optimisers.make(), discriminator_optimiser: Optimiser = optimisers.make(
        learning_rate=1e-4, b1=.5, b2=.9)
) -> Model:
    """The VAE minimises recon + kl + gamma * tc, in nats per example; the discriminator minimises
    its cross-entropy.

    The discriminator tells codes z drawn from q(z) from codes drawn from the product of its
    marginals, for which the dimensions of a batch are permuted independently. At the optimum its
    logit is log q(z) / prod_d q(z_d), whose mean is the total correlation tc. The paper's
    discriminator has six dense layers of 1000.

    Args:
        latent: number of latent dimensions.
        gamma: weight of the total correlation.

    Metrics: loss; elbo = -(recon + kl); recon, kl; tc, the discriminator's estimate;
    discriminator_loss; accuracy, the share of codes, drawn and permuted in equal number, that the
    discriminator classifies correctly; in evaluation also kl_per_dim.
    Raises: BadInput for options that do not fit the data.
    """
    model = variational('vae', example, latent, latents, net)
    nets.require_no_statistics(discriminator_net, 'discriminator_net')
    net_of_codes = discriminator_net.encoder((latent,), 1)

    def logit(state, z):
        return net_of_codes.apply(state.params['discriminator'], {}, z)[:, 0]

    def rounds(state, batch, key):
        """The discriminator's logits of codes drawn, and of others drawn and permuted."""
        keys, code = jax.random.split(key, 3), model.encode(state, batch)[0]
        real, other = (model.sample_posterior(state, code, key)[0] for key in keys[:2])
        return logit(state, real), logit(state, permuted(keys[2], other))

    def weighed(metrics, tc, cost):
        return dict(loss=metrics['recon'] + cost + gamma * tc, tc=tc) | metrics

    def vae_move(state, batch, key):
        sample = model.train(state, batch, key)
        recon, kl = sample.nll.mean(), sample.divergence().mean()
        metrics = weighed(dict(elbo=-(recon + kl), recon=recon, kl=kl),
                          logit(state, sample.z).mean(), model.kl_cost(sample, state))
        return metrics['loss'], metrics, sample.buffers

    def discriminator_move(state, batch, key):
        real, fake = rounds(state, batch, key)
        value = losses.discriminator_loss(real, fake).mean()
        return value, dict(discriminator_loss=value, accuracy=right(real, fake).mean()), {}

    def evaluate(state, batch, key):
        real, fake = rounds(state, batch, key)
        metrics = model.evaluate(state, batch, key)
        return dict(weighed(metrics, real, metrics['kl']),
                    discriminator_loss=losses.discriminator_loss(real, fake), accuracy=right(
                        real, fake))

    players = dict(
        vae=Player(model.init, vae_move, optimiser), discriminator=Player(
            lambda key, batch: net_of_codes.init(key, jnp.zeros((1, latent))), discriminator_move,
            discriminator_optimiser))
    bounds = model.bounds() | dict(discriminator_loss=NON_NEGATIVE, accuracy=UNIT_INTERVAL)
    return game(players, axis=context.axis, full_batch='the permutation of codes',
                evaluate=evaluate,
                **model.maps() | dict(bounds=bounds))


def permuted(key: Array, z: Array) -> Array:
    """Codes (n, d) of which each dimension is shuffled over the batch by itself."""
    return jax.random.permutation(key, z, independent=True)


def right(real: Array, fake: Array) -> Array:
    return ((real > 0).astype(jnp.float32) + (fake < 0)) / 2
