"""Log densities of Gaussians and their mixtures."""
import jax
import jax.numpy as jnp

from gen_jax import losses
from gen_jax.types import Array


def normal(z: Array, mean: Array | float = 0., logvar: Array | float = 0.) -> Array:
    """log N(z; mean, exp(logvar)), summed over the last axis."""
    return -.5 * ((z - mean) ** 2 * jnp.exp(-logvar) + logvar + losses.LOG_2PI).sum(-1)


def mixture(z: Array, mean: Array, logvar: Array, logit: Array) -> Array:
    """log sum_k w_k N(z; mean_k, exp(logvar_k)) of z (n, d), means and logvars (K, d), and weights
    softmax(logit), (K,)."""
    # |(z - mean) / sd|^2 as products of matrices: (n, K, d) would not fit
    weight = jnp.exp(-logvar)
    square = z ** 2 @ weight.T - 2 * z @ (mean * weight).T + (mean ** 2 * weight).sum(-1)
    each = -.5 * (square + (logvar + losses.LOG_2PI).sum(-1))
    return jax.nn.logsumexp(each + jax.nn.log_softmax(logit), axis=-1)
