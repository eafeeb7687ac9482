"""The importance weighted autoencoder (Burda et al. 2015): a tighter bound from k codes."""
import jax
import jax.numpy as jnp

from gen_jax import densities, losses, nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, BadInput, Batch, Context, Model, Player

GRADIENT_ESTIMATORS = 'plain', 'dreg'


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 20, k: int = 5,
    gradient_estimator: str = 'plain', latents: Latents = LATENTS, net: Nets = nets.make('mlp'),
    optimiser: Optimiser = optimisers.make()
) -> Model:
    """Maximises log 1/k sum_i p(x, z_i) / q(z_i | x), z_i drawn from q, in nats per example.

    Args:
        latent: number of latent dimensions.
        k: number of importance samples.
        gradient_estimator: plain, that of the bound; or dreg, the doubly reparameterised gradient
            of the encoder (Tucker et al. 2019), with the same mean and less variance, at twice the
            cost of the decoder.

    Metrics: loss = -iwae; iwae, the bound of k codes; in evaluation also elbo, recon, kl and
    kl_per_dim, as of the VAE.
    Raises: BadInput for k below 1, an unknown gradient estimator, and for options that do not fit
    the data.
    """
    if k < 1:
        raise BadInput(f'k must be at least 1, not {k}')
    if gradient_estimator not in GRADIENT_ESTIMATORS:
        raise BadInput(
            f'unknown gradient_estimator {gradient_estimator!r}; choose one of '
            f'{", ".join(GRADIENT_ESTIMATORS)}'
        )
    latents.require('a bound of several codes has no KL of its own to weigh',
                    kl_schedule=('constant',), free_bits=(0.,))
    if gradient_estimator == 'dreg':
        latents.require('the doubly reparameterised gradient is of a Gaussian q in closed form',
                        posterior=('diagonal',))
    model = variational('vae', example, latent, latents, net)

    def objective(state, batch, key):
        sample = model.train(state, batch, key, k)
        value = sample.bound(k).mean()
        if gradient_estimator == 'dreg':
            surrogate = doubly(state, batch, key)
            value = surrogate + losses.stop_gradient(value - surrogate)
        return -value, dict(loss=-value, iwae=value), sample.buffers

    def doubly(state, batch, key):
        """Its gradient is that of the bound: of the decoder as it is, and of the encoder through
        the codes alone, weighted by the square of their share in the sum."""
        code = jnp.tile(model.encode(state, batch)[0], (k, 1))
        z, _ = model.sample_posterior(state, code, key)
        many = jax.tree.map(lambda a: jnp.tile(a, (k, *(1,) * (a.ndim - 1))), batch)
        q = losses.stop_gradient(model.posterior.moments(code))

        def log_w(state, z):
            return (model.log_prior(state, z) - model.reconstruction_nll(state, z, many)[0]
                    - densities.normal_log_prob(z, *q)).reshape(k, -1)

        of_decoder, of_codes = log_w(state, losses.stop_gradient(z)), log_w(
            losses.stop_gradient(state), z)
        share = jax.nn.softmax(losses.stop_gradient(of_decoder), axis=0)
        return (share * of_decoder + share ** 2 * of_codes).sum(0).mean()

    def evaluate(state, batch, key):
        return model.evaluate_iwae(state, batch, key, k)

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, **model.maps())
