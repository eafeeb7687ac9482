"""The conditional VAE (Sohn et al. 2015): encoder and decoder get the label."""
from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Batch, Context, Model, Player


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 20, beta: float = 1.,
         latents: Latents = LATENTS, net: Nets = nets.make('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises recon + beta * KL(q(z|x, label) || p(z)), in nats per example, for p(x | label).

    The code that `decode` takes is a pair (z, label). The prior goes through the labels in turn, so
    that samples are ordered by class.

    Args:
        latent: number of latent dimensions.
        beta: weight of the KL (Higgins et al. 2017).

    Metrics: as of the VAE in `vae`.
    Raises: BadInput for data without labels, and for options that do not fit.
    """
    labels = losses.require_labels(example.label, 'use --config=configs/vae.py')
    model = variational('vae', example, latent, latents, net, labels)

    def objective(state, batch, key):
        sample = model.train(state, batch, key)
        recon, kl = sample.nll.mean(), sample.divergence().mean()
        loss = recon + beta * model.kl_cost(sample, state)
        return loss, dict(loss=loss, elbo=-(recon + kl), recon=recon, kl=kl), sample.buffers

    def evaluate(state, batch, key):
        metrics = model.evaluate(state, batch, key)
        return dict(loss=metrics['recon'] + beta * metrics['kl']) | metrics

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                full_batch=latents.full_batch, evaluate=evaluate, **model.maps())
