"""The variational autoencoder (Kingma & Welling 2014), with the beta of Higgins et al. 2017."""
from typing import Sequence

import jax.numpy as jnp
import optax

from gen_jax import losses
from gen_jax.game import game
from gen_jax.types import ALONE, BadInput, Batch, Context, Model, Player
from gen_jax.variational import variational


def make(example: Batch, context: Context = ALONE, *, latent: int = 20, beta: float = 1.,
         schedule: str = 'constant', warmup: int = 0, free_bits: float = 0.,
         likelihood: str = 'bernoulli', scale: str = 'fixed', sigma: float = 1., levels: int = 256,
         posterior: str = 'diagonal', flows: int = 4, prior: str = 'normal', components: int = 500,
         kind: str = 'mlp', width: Sequence[int] = (400,), norm: str = 'none', act: str = 'relu',
         rate: float = 1e-3, stage: int = 0) -> Model:
    """Minimises recon + beta * KL(q(z|x) || p(z)), nats per example.

    schedule, warmup: of beta, from 0 in so many steps, see losses.warm_up; evaluation has all of
    it.  free_bits: nats of each dimension's KL, as a mean over the batch, that cost nothing (Kingma
    et al. 2016).  likelihood with scale, sigma and levels, posterior with `flows`, prior with
    `components`: see densities.  kind, width, norm, act: of both nets, see nets.  stage: steps of
    the first of Burda's stages of the rate, see losses.staged.
    Metrics: loss; elbo = -(recon + kl) whatever beta is; recon = -log p(x|z) of one sample z; kl,
    in closed form where q is diagonal and p normal, else of that sample; in training then also
    active_units, the latent dimensions with a KL above 0.01 in this batch, in evaluation kl_unit
    (n, latent).  A program that weighs a reconstruction error *averaged* over an example's D
    dimensions, `B * r_loss + kl_loss`, has beta = D / B: see losses.beta_of_weight.
    Raises BadInput for what does not fit the data.
    """
    losses.warm_up(schedule, jnp.zeros(()), warmup)
    model = variational(
        'vae', example, latent, likelihood=likelihood, scale=scale, sigma=sigma, levels=levels,
        posterior=posterior, flows=flows, prior=prior, components=components, kind=kind,
        width=width, norm=norm, act=act)
    if isinstance(free_bits, (int, float)) and free_bits and not model.plain:
        raise BadInput('free_bits are for the KL of each dimension, which only posterior diagonal '
                       'with prior normal has; set free_bits to 0')

    def objective(state, batch, key):
        drawn = model.train(state, batch, key)
        recon, kl = drawn.nll.mean(), drawn.divergence().mean()
        weight = beta * losses.warm_up(schedule, state.step, warmup)
        metrics = dict(elbo=-(recon + kl), recon=recon, kl=kl)
        if drawn.kl is not None:
            unit = drawn.kl.mean(0)
            metrics['active_units'] = (unit > .01).sum().astype(jnp.float32)
            kl = jnp.maximum(unit, free_bits).sum()
        metrics['loss'] = recon + weight * kl
        return metrics['loss'], metrics, drawn.buffers

    def evaluate(state, batch, key):
        found = model.evaluate(state, batch, key)
        return dict(loss=found['recon'] + beta * found['kl']) | found

    adam = optax.adam(losses.staged(rate, stage), eps=1e-4 if stage else 1e-8)
    return game({'vae': Player(model.init, objective, adam)}, axis=context.axis,
                whole='the KL below free_bits' if losses.wanted(free_bits) else '',
                evaluate=evaluate, **model.maps())
