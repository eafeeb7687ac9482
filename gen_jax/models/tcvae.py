"""The beta-TCVAE (Chen et al. 2018): the KL in three parts, each with its own weight."""
import jax
import numpy as np

from gen_jax import densities, nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Array, BadInput, Batch, Context, Model, Player

ESTIMATORS = 'stratified', 'weighted'


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 10, alpha: float = 1.,
         beta: float = 6., gamma: float = 1., estimator: str = 'stratified',
         latents: Latents = LATENTS, net: Nets = nets.make('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises recon + alpha * mi + beta * tc + gamma * dimwise_kl, in nats per example.

    The three add up to log q(z|x) - log p(z), p = N(0, I): the mutual information of example and
    code, the total correlation of the code, and the KL of each dimension from p. q(z), the mean
    over all N training examples (context.size, or those of `example`), is estimated from the batch.

    Args:
        latent: number of latent dimensions.
        alpha: weight of the mutual information.
        beta: weight of the total correlation.
        gamma: weight of the dimension-wise KL.
        estimator: stratified, without bias; or weighted, with which the published results were
            trained. The latter's mi is too large by up to log N, its tc by up to
            (latent - 1) log N, and its dimwise_kl as much too small; their sum is the same. See
            `aggregate`.

    Metrics: loss, recon, mi, tc, dimwise_kl; kl, the sum of these three, and
    elbo = -(recon + kl), whatever the weights are; in evaluation also kl_per_dim, in closed form.
    Those of q(z) depend on the batch, in evaluation as if it were of the training set.
    Raises: BadInput for options that do not fit the data.
    """
    if estimator not in ESTIMATORS:
        raise BadInput(f'unknown estimator {estimator!r}; choose one of {", ".join(ESTIMATORS)}')
    latents.require('the total correlation needs the density of each dimension of the code by '
                    'itself', posterior=('diagonal',), prior=('normal',), free_bits=(0.,))
    model = variational('vae', example, latent, latents, net)
    count = context.size or len(example.x)

    maps = model.maps()

    def terms(recon, z, log_q, moments, weight=1.):
        log_z, log_each = aggregate(z, *moments, count, estimator)
        mi, tc, dimwise_kl = log_q - log_z, log_z - log_each, log_each - densities.normal_log_prob(
            z)
        kl, loss = mi + tc + dimwise_kl, recon + weight * (alpha * mi + beta * tc +
                                                           gamma * dimwise_kl)
        return dict(loss=loss, elbo=-(recon + kl), recon=recon, kl=kl, mi=mi, tc=tc,
                    dimwise_kl=dimwise_kl)

    def objective(state, batch, key):
        code, new_encoder = model.encode(state, batch)
        z, log_q = model.sample_posterior(state, code, key)
        recon, new_decoder = model.reconstruction_nll(state, z, batch)
        values = terms(recon, z, log_q, model.posterior.moments(code), model.kl_weight(state))
        metrics = {k: v.mean() for k, v in values.items()}
        return metrics['loss'], metrics, state.buffers['vae'] | new_decoder | dict(
            encoder=new_encoder)

    def evaluate(state, batch, key):
        sample = model.test(state, batch, key)
        moments = maps['density'].moments(state, batch)
        return terms(sample.nll, sample.z, sample.log_q, moments) | dict(kl_per_dim=sample.kl)

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                full_batch='the total correlation of codes', evaluate=evaluate,
                **maps | dict(bounds=model.bounds(exact=False)))


def aggregate(z: Array, mean: Array, logvar: Array, size: int,
              estimator: str = 'stratified') -> tuple[Array, Array]:
    """log q(z) and sum_d log q(z_d) of codes z (n, d), each drawn from its own N(mean, exp(logvar))
    of n among `size`.

    stratified: its own example has the weight 1 / size.  The others share the rest equally, which
    is the mean of Chen et al.'s weights over the orders of the batch: q(z) without bias, and with
    less variance than in any one order; nothing is estimated where the batch is the whole.
    weighted: all have the weight 1 / (n size), Chen et al.'s minibatch-weighted sampling.
    """
    n = len(z)
    weight = np.where(np.eye(n, dtype=bool), 1 / size, (size - 1) / size / max(n - 1, 1))
    if estimator == 'weighted':
        weight = np.full((n, n), 1 / (n * size))
    each = densities.normal_log_prob(z[:, None, :, None], mean[:, :, None], logvar[:, :, None])
    log_q = jax.nn.logsumexp(each.sum(-1), axis=1, b=weight)
    return log_q, jax.nn.logsumexp(each, axis=1, b=weight[..., None]).sum(-1)
