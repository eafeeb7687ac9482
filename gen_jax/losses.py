"""Pure mathematics: likelihoods, divergences and losses, per example and in nats.

Every function sums over all axes of an example but the first (the batch) and returns shape (n,),
unless it says otherwise.  Probabilities are given as logits, variances as logarithms.
"""
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gen_jax.types import Array, BadInput

LOG_2PI = float(np.log(2 * np.pi))


def per_example(x: Array) -> Array:
    """Sum over all axes but the first."""
    return x.sum(tuple(range(1, x.ndim)))


def bernoulli_nll(logits: Array, x: Array) -> Array:
    """-log Bernoulli(x; sigmoid(logits)); the cross-entropy for x between 0 and 1."""
    return per_example(jax.nn.softplus(logits) - x * logits)


def gaussian_nll(mean: Array, x: Array, logvar: Array | float = 0.) -> Array:
    """-log N(x; mean, exp(logvar)); logvar broadcasts against x."""
    return .5 * per_example((x - mean) ** 2 * jnp.exp(-logvar) + logvar + LOG_2PI)


def squared_error(y: Array, x: Array) -> Array:
    """Squared distance of y from x, summed (not averaged) over the dimensions of an example."""
    return per_example((x - y) ** 2)


def gaussian_kl(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, exp(logvar)) || N(0, 1)) for each dimension: shape of `mean`, not summed."""
    return .5 * (mean ** 2 + jnp.exp(logvar) - 1 - logvar)


def bound(logvar: Array, limit: float = 15.) -> Array:
    """A log-variance kept smoothly within (-limit, limit), so that no exponential overflows."""
    return limit * jnp.tanh(logvar / limit)


def reparameterise(key: Array, mean: Array, logvar: Array) -> Array:
    """A sample of N(mean, exp(logvar)) that is differentiable in both (Kingma & Welling 2014)."""
    return mean + jnp.exp(logvar / 2) * jax.random.normal(key, mean.shape)


def critic_loss(real: Array, fake: Array) -> Array:
    """Cross-entropy of the critic's logits (n,) on real and on generated examples, in nats.

    -log D(x) - log(1 - D(G(z))), Goodfellow et al. 2014.
    """
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def non_saturating(fake: Array) -> Array:
    """The generator's loss -log D(G(z)) from the critic's logits (n,), Goodfellow et al. 2014."""
    return jax.nn.softplus(-fake)


def beta_of_weight(weight: float, size: int, likelihood: str = 'bernoulli') -> float:
    """The beta of `loss = recon + beta * kl` with the optimum of `weight * r_loss + kl`.

    There r_loss is a *mean* over the `size` dimensions of an example, as the survey and many
    programs write it: of the cross-entropy (bernoulli), where weight * r_loss is
    weight / size * recon, or of the squared error (gaussian with sigma 1), where it is
    2 * weight / size * recon up to a constant.
    """
    return size / (weight * {'bernoulli': 1, 'gaussian': 2}[likelihood])


def in_unit(x: Array) -> bool:
    """Whether concrete data x lies in [0, 1], as a Bernoulli likelihood or a sigmoid demands."""
    return bool(np.min(x) >= 0 and np.max(x) <= 1)


def require_unit(x: Array, what: str) -> None:
    """Raises BadInput where x leaves [0, 1]."""
    if not in_unit(x):
        raise BadInput(f'{what} needs data in [0, 1], but this data set spans '
                       f'[{np.min(x):.3g}, {np.max(x):.3g}]; use a loss for real numbers '
                       '(likelihood gaussian, loss mse)')


def logit(p: Array, margin: float = 1e-3) -> Array:
    """log(p / (1 - p)) with p first kept `margin` away from 0 and 1."""
    p = jnp.clip(p, margin, 1 - margin)
    return jnp.log(p) - jnp.log1p(-p)


def stop(x: Array) -> Array:
    """x as a constant: no gradient flows through."""
    return lax.stop_gradient(x)
