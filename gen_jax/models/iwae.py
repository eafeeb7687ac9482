"""The importance weighted autoencoder: a tighter bound from k codes (Burda et al. 2015)."""
import jax
import jax.numpy as jnp

from gen_jax import densities, losses, nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, BadInput, Batch, Context, Model, Player

GRADIENTS = 'plain', 'doubly'


def make(example: Batch, context: Context = ALONE, *, latent: int = 20, k: int = 5,
         gradient: str = 'plain', latents: Latents = LATENTS, net: Nets = nets.of('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Maximises log 1/k sum_i p(x, z_i) / q(z_i | x), z_i drawn from q, nats per example.

    gradient: `plain`, that of the bound; or `doubly`, the doubly reparameterised one of the encoder
    (Tucker et al. 2019), of the same mean and less variance, at twice the cost of the decoder.
    Metrics: loss = -iwae; iwae, the bound of k codes; in evaluation also elbo, recon, kl and
    kl_unit, as of the VAE.  Raises BadInput for k below 1, an unknown gradient, or what does not
    fit the data.
    """
    if k < 1:
        raise BadInput(f'k must be at least 1, not {k}')
    if gradient not in GRADIENTS:
        raise BadInput(f'unknown gradient {gradient!r}; choose one of {", ".join(GRADIENTS)}')
    latents.require('a bound of several codes has no KL of its own to weigh',
                    schedule=('constant',), free_bits=(0.,))
    if gradient == 'doubly':
        latents.require('the doubly reparameterised gradient is of a Gaussian q in closed form',
                        posterior=('diagonal',))
    model = variational('vae', example, latent, latents, net)

    def objective(state, batch, key):
        drawn = model.train(state, batch, key, k)
        value = drawn.bound(k).mean()
        if gradient == 'doubly':
            surrogate = doubly(state, batch, key)
            value = surrogate + losses.stop(value - surrogate)
        return -value, dict(loss=-value, iwae=value), drawn.buffers

    def doubly(state, batch, key):
        """Its gradient is that of the bound: of the decoder as it is, and of the encoder through
        the codes alone, weighted by the square of their share in the sum."""
        code = jnp.tile(model.read(state, batch)[0], (k, 1))
        z, _ = model.draw(state, code, key)
        many = jax.tree.map(lambda a: jnp.tile(a, (k, *(1,) * (a.ndim - 1))), batch)
        q = losses.stop(model.posterior.moments(code))

        def log_w(state, z):
            return (model.log_prior(state, z) - model.write(state, z, many)[0]
                    - densities.normal(z, *q)).reshape(k, -1)

        of_decoder, of_codes = log_w(state, losses.stop(z)), log_w(losses.stop(state), z)
        share = jax.nn.softmax(losses.stop(of_decoder), axis=0)
        return (share * of_decoder + share ** 2 * of_codes).sum(0).mean()

    def evaluate(state, batch, key):
        return model.weighted(state, batch, key, k)

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, **model.maps())
