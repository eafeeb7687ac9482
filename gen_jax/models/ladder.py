"""The importance weighted autoencoder of two stochastic layers (Burda et al. 2015)."""
import jax
import jax.numpy as jnp

from gen_jax import densities, losses, nets, optimisers
from gen_jax.densities import Posterior, Prior
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, BadInput, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 50, below: int = 100,
         k: int = 5, latents: Latents = LATENTS,
         net: Nets = nets.of('mlp', width=(200, 200), act='tanh'),
         above_net: Nets = nets.of('mlp', width=(100, 100), act='tanh'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Maximises log 1/k sum_i p(x, z_i) / q(z_i | x), nats per example, of codes z = dict(z1, z2).

    q draws z1 given x, and z2 given z1; p draws z2 from N(0, I), z1 given z2, and x given z1; all
    Gaussians diagonal.  latent: size of z2; below: of z1.  net: between x and z1; above_net: its
    encoder, once from z1 to z2 and once back.  The defaults are Burda's.
    Metrics: loss = -iwae; iwae, the bound of k codes; in evaluation also elbo, recon = -log p(x|z1)
    and kl = log q(z|x) - log p(z), of one code.  Raises BadInput for k below 1, or what does not
    fit the data.
    """
    for name, value in dict(k=k, latent=latent, below=below).items():
        if value < 1:
            raise BadInput(f'{name} must be at least 1, not {value}')
    latents.require('its prior and posterior are those of two layers', posterior=('diagonal',),
                    prior=('normal',))
    latents.require('a bound of several codes has no KL of its own to weigh',
                    schedule=('constant',), free_bits=(0.,))
    nets.require_no_statistics(above_net, 'above_net')
    up = above_net.encoder((below,), 2 * latent)
    down = above_net.encoder((latent,), 2 * below)
    model = variational('vae', example, below, latents, net)
    first = model.posterior

    def moments(net, params, z):
        mean, logvar = jnp.split(net.apply(params, {}, z), 2, axis=-1)
        return mean, losses.bound(logvar)

    def draw(params, code, key):
        keys = jax.random.split(key)
        z1, log_q = first.sample({}, code, keys[0])
        q = moments(up, params, z1)
        z2 = losses.reparameterise(keys[1], *q)
        return dict(z1=z1, z2=z2), log_q + densities.normal(z2, *q)

    def centre(params, code):
        z1 = first.centre({}, code)
        return dict(z1=z1, z2=moments(up, params, z1)[0])

    def log_prior(params, z, infer):
        p = moments(down, params, z['z2'])
        return densities.normal(z['z1'], *p) + densities.normal(z['z2'])

    def sample(params, key, n, infer):
        keys = jax.random.split(key)
        z2 = losses.normal(keys[0], n, latent)
        return dict(z1=losses.reparameterise(keys[1], *moments(down, params, z2)), z2=z2)

    def of_z1(f):
        return lambda params, buffers, z: f(params, buffers, z['z1'])

    net = model.decoder
    model = model._replace(
        posterior=Posterior(first.outputs, lambda key: up.init(key, jnp.zeros((1, below)))[0],
                            draw, centre),
        prior=Prior(lambda key, batch: down.init(key, jnp.zeros((1, latent)))[0], log_prior,
                    sample),
        decoder=net._replace(apply=of_z1(net.apply), train=of_z1(net.train)), plain=False)

    def objective(state, batch, key):
        drawn = model.train(state, batch, key, k)
        value = drawn.bound(k).mean()
        return -value, dict(loss=-value, iwae=value), drawn.buffers

    def evaluate(state, batch, key):
        return model.weighted(state, batch, key, k)

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, **model.maps())
