"""The variational autoencoder (Kingma & Welling 2014), with the beta of Higgins et al. 2017."""
import jax.numpy as jnp

from gen_jax import nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Batch, Context, Model, Player


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 20, beta: float = 1.,
         latents: Latents = LATENTS, net: Nets = nets.make('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises recon + beta * KL(q(z|x) || p(z)), in nats per example.

    A program that weighs a reconstruction error *averaged* over an example's D dimensions,
    `B * r_loss + kl_loss`, has beta = D / B: see `losses.beta_of_weight`.

    Args:
        latent: number of latent dimensions.
        beta: weight of the KL.

    Metrics: loss; elbo = -(recon + kl) whatever beta is; recon = -log p(x|z) of one sample z; kl,
    in closed form where q is diagonal and p normal, otherwise of that sample; in training also
    active_units, the number of latent dimensions with a KL above 0.01 in this batch, in evaluation
    kl_per_dim (n, latent).
    Raises: BadInput for options that do not fit the data.
    """
    model = variational('vae', example, latent, latents, net)

    def objective(state, batch, key):
        sample = model.train(state, batch, key)
        recon, kl = sample.nll.mean(), sample.divergence().mean()
        loss = recon + beta * model.kl_cost(sample, state)
        metrics = dict(loss=loss, elbo=-(recon + kl), recon=recon, kl=kl)
        if sample.kl is not None:
            metrics['active_units'] = (sample.kl.mean(0) > .01).sum().astype(jnp.float32)
        return loss, metrics, sample.buffers

    def evaluate(state, batch, key):
        metrics = model.evaluate(state, batch, key)
        return dict(loss=metrics['recon'] + beta * metrics['kl']) | metrics

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                full_batch=latents.full_batch, evaluate=evaluate, **model.maps())
