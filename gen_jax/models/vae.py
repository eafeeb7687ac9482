"""The variational autoencoder (Kingma & Welling 2014), with the beta of Higgins et al. 2017."""
from typing import Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, nets
from gen_jax.game import game
from gen_jax.types import BadInput, Batch, Model, Player


def make(example: Batch, *, axis: str | None = None, latent: int = 20, beta: float = 1.,
         likelihood: str = 'bernoulli', sigma: float | None = 1., kind: str = 'mlp',
         width: Sequence[int] = (400,), norm: str = 'none', rate: float = 1e-3) -> Model:
    """Minimises recon + beta * KL(q(z|x) || N(0, 1)), nats per example; q is a diagonal Gaussian.

    likelihood: `bernoulli` on logits, data in [0, 1] only; or `gaussian` with standard deviation
    sigma, learned (one number for all dimensions, Rybkin et al. 2021) where sigma is None.
    Metrics: loss, elbo = -(recon + kl) whatever beta is, recon = -log p(x|z) of one sample z, kl;
    in training also active_units, the latent dimensions with a KL above 0.01 in this batch; in
    evaluation kl_unit (n, latent).  A program that weighs a reconstruction error *averaged* over an
    example's D dimensions, `B * r_loss + kl_loss`, has beta = D / B: see losses.beta_of_weight.
    Raises BadInput for what does not fit the data.
    """
    if likelihood not in ('bernoulli', 'gaussian'):
        raise BadInput(f'unknown likelihood {likelihood!r}; choose bernoulli or gaussian')
    if likelihood == 'bernoulli':
        losses.require_unit(example.x, 'likelihood bernoulli')
    link = nets.link(example.x, kind, likelihood == 'bernoulli')
    decoder = nets.decoder(example.x, latent, kind=kind, width=width[::-1], norm=norm, output=link)
    encoder = nets.encoder(example.x.shape[1:], 2 * latent, kind=kind, width=width, norm=norm)

    def init(key, batch):
        keys = jax.random.split(key)
        made = dict(encoder=encoder.init(keys[0], batch.x),
                    decoder=decoder.init(keys[1], jnp.zeros((1, latent))))
        if likelihood == 'gaussian' and sigma is None:
            made['scale'] = dict(logvar=jnp.zeros(())), {}
        return {n: p for n, (p, _) in made.items()}, {n: b for n, (_, b) in made.items()}

    def nll(params, y, x):
        if likelihood == 'bernoulli':
            return losses.bernoulli_nll(y, x)
        logvar = losses.bound(params['scale']['logvar']) if sigma is None else 2 * jnp.log(sigma)
        return losses.gaussian_nll(link(y), x, logvar)

    def posterior(code):
        mean, logvar = jnp.split(code, 2, axis=-1)
        return mean, losses.bound(logvar)

    def terms(recon, kl):
        return dict(loss=recon + beta * kl, elbo=-(recon + kl), recon=recon, kl=kl)

    def objective(state, batch, key):
        params, buffers = state.params['vae'], state.buffers['vae']
        code, seen = encoder.train(params['encoder'], buffers['encoder'], batch.x)
        mean, logvar = posterior(code)
        z = losses.reparameterise(key, mean, logvar)
        y, made = decoder.train(params['decoder'], buffers['decoder'], z)
        kl = losses.gaussian_kl(mean, logvar).mean(0)
        metrics = terms(nll(params, y, batch.x).mean(), kl.sum())
        metrics['active_units'] = (kl > .01).sum().astype(jnp.float32)
        return metrics['loss'], metrics, buffers | dict(encoder=seen, decoder=made)

    def infer(state, x):
        return posterior(encoder.apply(state.params['vae']['encoder'],
                                       state.buffers['vae']['encoder'], x))

    def logits(state, z):
        return decoder.apply(state.params['vae']['decoder'], state.buffers['vae']['decoder'], z)

    def evaluate(state, batch, key):
        mean, logvar = infer(state, batch.x)
        y = logits(state, losses.reparameterise(key, mean, logvar))
        kl = losses.gaussian_kl(mean, logvar)
        return terms(nll(state.params['vae'], y, batch.x), kl.sum(1)) | dict(kl_unit=kl)

    return game({'vae': Player(init, objective, optax.adam(rate))}, axis=axis, evaluate=evaluate,
                encode=lambda state, x: infer(state, x)[0],
                decode=lambda state, z: link(logits(state, z)),
                prior=lambda key, n: jax.random.normal(key, (n, latent)))
