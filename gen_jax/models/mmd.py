"""InfoVAE and the Wasserstein autoencoder: the maximum mean discrepancy of q(z) and p(z) (Zhao et
al. 2017, Tolstikhin et al. 2018).
"""
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Array, BadInput, Batch, Context, Model, Player

KERNELS = 'rbf', 'imq'


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 10, alpha: float = 1.,
         mmd_weight: float = 1000., kernel: str = 'imq', deterministic: bool = False,
         latents: Latents = LATENTS, net: Nets = nets.make('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises recon + (1 - alpha) KL(q(z|x) || p(z)) + (alpha + mmd_weight - 1) MMD^2(q(z),
    p(z)), in nats per example.

    Args:
        latent: number of latent dimensions.
        alpha: the paper's alpha; 1 leaves the KL out, 0 keeps all of it.
        mmd_weight: weight of the discrepancy, the paper's lambda.
        kernel: imq or rbf, see `gram`.
        deterministic: whether the code is the encoder's mean, without a KL: the Wasserstein
            autoencoder, whose cost is recon, half the squared error with likelihood gaussian.

    Metrics: loss, recon, mmd, the unbiased estimate of the batch, see `discrepancy`; where not
    deterministic also kl, elbo = -(recon + kl), and in evaluation kl_per_dim.
    Raises: BadInput for an unknown kernel, and for options that do not fit the data.
    """
    if kernel not in KERNELS:
        raise BadInput(f'unknown kernel {kernel!r}; choose one of {", ".join(KERNELS)}')
    model = variational('vae', example, latent, latents, net)
    maps, q = model.maps(), model.posterior
    if deterministic:
        maps |= dict(density=None)
        model = model._replace(posterior=q._replace(
            sample=lambda params, code, key: (q.centre(params, code), jnp.zeros(len(code)))))

    def terms(state, sample, key, cost=None):
        """Each (n,); cost: of the KL, where that is not the KL itself."""
        mmd = discrepancy(kernel, sample.z, model.sample_prior(state, key, len(sample.z)))
        values = dict(loss=sample.nll + (alpha + mmd_weight - 1) * mmd, recon=sample.nll, mmd=mmd)
        if deterministic:
            return values
        kl = sample.divergence()
        loss = values['loss'] + (1 - alpha) * (kl if cost is None else cost)
        return values | dict(loss=loss, elbo=-(sample.nll + kl), kl=kl)

    def objective(state, batch, key):
        keys = jax.random.split(key)
        sample = model.train(state, batch, keys[0])
        values = terms(state, sample, keys[1], model.kl_cost(sample, state))
        metrics = {k: v.mean() for k, v in values.items()}
        return metrics['loss'], metrics, sample.buffers

    def evaluate(state, batch, key):
        keys = jax.random.split(key)
        sample = model.test(state, batch, keys[0])
        values = terms(state, sample, keys[1])
        return values if deterministic or sample.kl is None else values | dict(kl_per_dim=sample.kl)

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                full_batch='the distance of codes from the prior', evaluate=evaluate, **maps)


def gram(kernel: str, a: Array, b: Array) -> Array:
    """k(a_i, b_j), (n, m), of codes (n, d) and (m, d), in the scale of N(0, I), whose points are a
    squared distance of c = 2 d apart: `rbf`, exp(-|a - b|^2 / c); `imq`, c / (c + |a - b|^2)."""
    c = 2 * a.shape[-1]
    square = ((a[:, None] - b) ** 2).sum(-1)
    return jnp.exp(-square / c) if kernel == 'rbf' else c / (c + square)


def discrepancy(kernel: str, z: Array, other: Array) -> Array:
    """MMD^2 of the distributions of two samples (n, d), by example: (n,), of mean MMD^2 without
    bias, at times below 0: k(z, z') + k(y, y') - k(z, y') - k(y, z') over all pairs of others
    (Gretton et al. 2012, lemma 6)."""
    n = len(z)
    both, cross = gram(kernel, z, z) + gram(kernel, other, other), gram(kernel, z, other)
    return ((both - cross - cross.T) * (1 - np.eye(n))).sum(1) / max(n - 1, 1)
