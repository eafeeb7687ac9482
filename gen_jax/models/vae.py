"""The variational autoencoder (Kingma & Welling 2014), with the beta of Higgins et al. 2017."""
import jax.numpy as jnp

from gen_jax import nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 20, beta: float = 1.,
         latents: Latents = LATENTS, net: Nets = nets.of('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises recon + beta * KL(q(z|x) || p(z)), nats per example.

    Metrics: loss; elbo = -(recon + kl) whatever beta is; recon = -log p(x|z) of one sample z; kl,
    in closed form where q is diagonal and p normal, else of that sample; in training then also
    active_units, the latent dimensions with a KL above 0.01 in this batch, in evaluation kl_unit
    (n, latent).  A program that weighs a reconstruction error *averaged* over an example's D
    dimensions, `B * r_loss + kl_loss`, has beta = D / B: see losses.beta_of_weight.
    Raises BadInput for what does not fit the data.
    """
    model = variational('vae', example, latent, latents, net)

    def objective(state, batch, key):
        drawn = model.train(state, batch, key)
        recon, kl = drawn.nll.mean(), drawn.divergence().mean()
        loss = recon + beta * model.cost(drawn, state)
        metrics = dict(loss=loss, elbo=-(recon + kl), recon=recon, kl=kl)
        if drawn.kl is not None:
            metrics['active_units'] = (drawn.kl.mean(0) > .01).sum().astype(jnp.float32)
        return loss, metrics, drawn.buffers

    def evaluate(state, batch, key):
        found = model.evaluate(state, batch, key)
        return dict(loss=found['recon'] + beta * found['kl']) | found

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                whole=latents.whole, evaluate=evaluate, **model.maps())
