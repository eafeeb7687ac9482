"""The importance weighted autoencoder with two stochastic layers (Burda et al. 2015)."""
import jax
import jax.numpy as jnp

from gen_jax import densities, losses, nets, optimisers
from gen_jax.densities import Posterior, Prior
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, BadInput, Batch, Context, Model, Player


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 50,
    bottom_latent: int = 100, k: int = 5, latents: Latents = LATENTS, net: Nets = nets.make(
        'mlp', width=(200, 200), activation='tanh'), top_net: Nets = nets.make(
            'mlp', width=(100, 100), activation='tanh'), optimiser: Optimiser = optimisers.make()
) -> Model:
    """Maximises log 1/k sum_i p(x, z_i) / q(z_i | x), in nats per example, of codes z = dict(z1,
    z2).

    q draws z1 given x, and z2 given z1; p draws z2 from N(0, I), z1 given z2, and x given z1; all
    Gaussians are diagonal. `net` lies between x and z1; the encoder of `top_net` is used twice,
    from z1 to z2 and back. The defaults are Burda's.

    Args:
        latent: size of z2, the top layer.
        bottom_latent: size of z1, the bottom layer.
        k: number of importance samples.

    Metrics: loss = -iwae; iwae, the bound of k codes; in evaluation also elbo, recon =
    -log p(x|z1) and kl = log q(z|x) - log p(z), of one code.
    Raises: BadInput for k below 1, and for options that do not fit the data.
    """
    for name, value in dict(k=k, latent=latent, bottom_latent=bottom_latent).items():
        if value < 1:
            raise BadInput(f'{name} must be at least 1, not {value}')
    latents.require('its prior and posterior are those of two layers', posterior=('diagonal',),
                    prior=('normal',))
    latents.require('a bound of several codes has no KL of its own to weigh',
                    kl_schedule=('constant',), free_bits=(0.,))
    nets.require_no_statistics(top_net, 'top_net')
    up = top_net.encoder((bottom_latent,), 2 * latent)
    down = top_net.encoder((latent,), 2 * bottom_latent)
    model = variational('vae', example, bottom_latent, latents, net)
    first = model.posterior

    def moments(net, params, z):
        mean, logvar = jnp.split(net.apply(params, {}, z), 2, axis=-1)
        return mean, losses.bound_logvar(logvar)

    def draw(params, code, key):
        keys = jax.random.split(key)
        z1, log_q = first.sample({}, code, keys[0])
        q = moments(up, params, z1)
        z2 = losses.reparameterise(keys[1], *q)
        return dict(z1=z1, z2=z2), log_q + densities.normal_log_prob(z2, *q)

    def centre(params, code):
        z1 = first.centre({}, code)
        return dict(z1=z1, z2=moments(up, params, z1)[0])

    def log_prior(params, z, infer):
        p = moments(down, params, z['z2'])
        return densities.normal_log_prob(z['z1'], *p) + densities.normal_log_prob(z['z2'])

    def sample(params, key, n, infer):
        keys = jax.random.split(key)
        z2 = losses.standard_normal(keys[0], n, latent)
        return dict(z1=losses.reparameterise(keys[1], *moments(down, params, z2)), z2=z2)

    def of_z1(f):
        return lambda params, buffers, z: f(params, buffers, z['z1'])

    net = model.decoder
    model = model._replace(
        posterior=Posterior(first.outputs, lambda key: up.init(key, jnp.zeros(
            (1, bottom_latent)))[0], draw, centre), prior=Prior(
                lambda key, batch: down.init(key, jnp.zeros((1, latent)))[0], log_prior, sample),
        decoder=net._replace(apply=of_z1(net.apply), train=of_z1(net.train)), closed_form_kl=False)

    def objective(state, batch, key):
        sample = model.train(state, batch, key, k)
        value = sample.bound(k).mean()
        return -value, dict(loss=-value, iwae=value), sample.buffers

    def evaluate(state, batch, key):
        return model.evaluate_iwae(state, batch, key, k)

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, **model.maps())
