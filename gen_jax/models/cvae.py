"""The conditional VAE: encoder and decoder are told the label (Sohn et al. 2015)."""
from typing import Sequence

import optax

from gen_jax import losses
from gen_jax.game import game
from gen_jax.types import ALONE, Batch, Context, Model, Player
from gen_jax.variational import variational


def make(example: Batch, context: Context = ALONE, *, latent: int = 20, beta: float = 1.,
         likelihood: str = 'bernoulli', scale: str = 'fixed', sigma: float = 1., levels: int = 256,
         kind: str = 'mlp', width: Sequence[int] = (400,), norm: str = 'none',
         rate: float = 1e-3) -> Model:
    """Minimises recon + beta * KL(q(z|x, label) || N(0, I)), nats per example, of p(x | label).

    A code to decode is a pair (z, label); the prior draws the labels in turn, so that samples come
    by class.  Hyper-parameters and metrics: as of the VAE in vae.
    Raises BadInput for data without labels, and for what does not fit.
    """
    labels = losses.require_labels(example.label, 'use --config=configs/vae.py')
    model = variational('vae', example, latent, likelihood=likelihood, scale=scale, sigma=sigma,
                        levels=levels, kind=kind, width=width, norm=norm, labels=labels)

    def objective(state, batch, key):
        drawn = model.train(state, batch, key)
        recon, kl = drawn.nll.mean(), drawn.divergence().mean()
        metrics = dict(loss=recon + beta * kl, elbo=-(recon + kl), recon=recon, kl=kl)
        return metrics['loss'], metrics, drawn.buffers

    def evaluate(state, batch, key):
        found = model.evaluate(state, batch, key)
        return dict(loss=found['recon'] + beta * found['kl']) | found

    return game({'vae': Player(model.init, objective, optax.adam(rate))}, axis=context.axis,
                evaluate=evaluate, **model.maps())
