"""Log densities of Gaussians and their mixtures."""
import jax
from jax import lax
import jax.numpy as jnp

from gen_jax import losses
from gen_jax.types import Array

BLOCK = 2 ** 20  # differences held at once, 4 MB


def normal_log_prob(z: Array, mean: Array | float = 0., logvar: Array | float = 0.) -> Array:
    """log N(z; mean, exp(logvar)), summed over the last axis.

    >>> print(f'{normal_log_prob(jnp.zeros((1, 2)))[0]:.4f}')  # -log 2 pi
    -1.8379
    """
    return -.5 * ((z - mean) ** 2 * jnp.exp(-logvar) + logvar + losses.LOG_2PI).sum(-1)


def mixture_log_prob(z: Array, mean: Array, logvar: Array, logit: Array) -> Array:
    """log sum_k w_k N(z; mean_k, exp(logvar_k)) of z (n, d), means and logvars (K, d), and weights
    softmax(logit), (K,)."""
    share = jax.nn.log_softmax(logit)

    @jax.checkpoint  # or the gradient would keep all differences
    def one(z):
        return jax.nn.logsumexp(normal_log_prob(z, mean, logvar) + share)

    # the differences themselves, as expanded squares of narrow components cancel; in blocks, as
    # (n, K, d) would not fit
    return lax.map(one, z, batch_size=min(len(z), max(1, BLOCK // mean.size)))
