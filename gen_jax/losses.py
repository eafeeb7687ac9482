"""Pure mathematics: likelihoods, divergences and losses, per example and in nats.

Every function sums over all axes of an example but the first (the batch) and returns shape (n,),
unless it says otherwise.  Probabilities are given as logits, variances as logarithms.
"""
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gen_jax.types import Array, BadInput

LOG_2PI = float(np.log(2 * np.pi))


def enabled(value) -> bool:
    """Whether a number is asked for at all: not 0, or one that a sweep traces."""
    return is_traced(value) or bool(value)


def is_traced(value) -> bool:
    """Whether a value is a number that a program is compiled for any value of."""
    return isinstance(value, jax.core.Tracer)


def flatten(x: Array) -> Array:
    """Examples as vectors (n, d).  Losses are computed on these: of images, XLA on CPU takes ten
    times as long to sum over the pixels of an element-wise function."""
    return x.reshape(len(x), -1)


def per_example(x: Array) -> Array:
    """Sum over all axes but the first."""
    return flatten(x).sum(1)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), in a third of the time of JAX's on CPU; its derivative is the sigmoid."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _(primals, tangents):
    return softplus(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]


def bernoulli_nll(logits: Array, x: Array) -> Array:
    """-log Bernoulli(x; sigmoid(logits)); the cross-entropy for x between 0 and 1.

    >>> print(f'{bernoulli_nll(jnp.zeros((1, 3)), jnp.ones((1, 3)))[0]:.4f}')  # 3 log 2
    2.0794
    """
    logits, x = flatten(logits), flatten(x)
    return (softplus(logits) - x * logits).sum(1)


def gaussian_nll(mean: Array, x: Array, logvar: Array | float = 0.) -> Array:
    """-log N(x; mean, exp(logvar)); logvar broadcasts against x."""
    mean, x, logvar = (flatten(a) for a in jnp.broadcast_arrays(mean, x, logvar))
    return .5 * ((x - mean) ** 2 * jnp.exp(-logvar) + logvar + LOG_2PI).sum(1)


def squared_error(y: Array, x: Array) -> Array:
    """Squared distance of y from x, summed (not averaged) over the dimensions of an example.

    >>> print(squared_error(jnp.zeros((2, 4)), jnp.full((2, 4), .5)))
    [1. 1.]
    """
    return ((flatten(x) - flatten(y)) ** 2).sum(1)


def absolute_error(y: Array, x: Array) -> Array:
    """Distance of y from x in the 1-norm, summed over the dimensions of an example."""
    return jnp.abs(flatten(x) - flatten(y)).sum(1)


def ssim(y: Array, x: Array, size: int = 11, sigma: float = 1.5) -> Array:
    """Structural similarity of images (n, h, w, c) in [0, 1], shape (n,), 1 where they are equal.

    The mean over channels and all whole Gaussian windows of `size` pixels, or the largest odd size
    that the images hold (Wang et al. 2004).
    """
    def band(length):  # filtering as a product with a band matrix: quick in a loop, on any platform
        k = min(size, length - 1 + length % 2)
        window = np.exp(-.5 * ((np.arange(k) - k // 2) / sigma) ** 2)
        rows = [np.eye(1, length, i)[0] for i in range(length - k + 1)]
        return np.float32([np.convolve(row, window / window.sum())[:length] for row in rows])

    def smooth(a):
        return jnp.einsum('ih,jw,nhwc->nijc', *map(band, a.shape[1:3]), a, precision='highest')

    mean_x, mean_y = smooth(x), smooth(y)
    var_x, var_y = smooth(x * x) - mean_x ** 2, smooth(y * y) - mean_y ** 2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = .01 ** 2, .03 ** 2
    ratio = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)
             / ((mean_x ** 2 + mean_y ** 2 + c1) * (var_x + var_y + c2)))
    return ratio.mean((1, 2, 3))


def psnr(y: Array, x: Array) -> Array:
    """Peak signal-to-noise ratio of examples in [0, 1] in dB, -10 log10 of the mean squared error.

    Shape (n,); at most 100 dB, which equal examples have.

    >>> print(psnr(jnp.zeros((1, 4)), jnp.full((1, 4), .1)))
    [20.]
    """
    return -10 * jnp.log10(jnp.maximum(squared_error(y, x) / x[0].size, 1e-10))


def fidelity_metrics(example: Array) -> Callable[[Array, Array], dict[str, Array]]:
    """(y, x) -> how near y is to x, each (n,), for data such as `example`: mse, the mean over an
    example's dimensions; of images in [0, 1], the range that they are measured by, also psnr in dB
    and ssim."""
    pictures = example.ndim == 4 and in_unit_interval(example)

    def measured(y, x):
        metrics = dict(mse=squared_error(y, x) / x[0].size)
        return metrics | (dict(psnr=psnr(y, x), ssim=ssim(y, x)) if pictures else {})

    return measured


def reconstruction_loss(name: str, example: Array, link) -> Callable[[Array, Array], Array]:
    """The loss called `name` as a function (y, x) -> (n,), y before the output's link function.

    mse: squared error summed over an example; l1: absolute error, likewise; cross_entropy: nats,
    data in [0, 1] only; ssim: the number of dimensions times 1 - SSIM, images in [0, 1] only.
    Raises BadInput for another name, or for what does not fit the example.
    """
    known = dict(mse=lambda y, x: squared_error(link(y), x), cross_entropy=bernoulli_nll,
                 l1=lambda y, x: absolute_error(link(y), x),
                 ssim=lambda y, x: x[0].size * (1 - ssim(link(y), x)))
    if name not in known:
        raise BadInput(f'unknown loss {name!r}; choose one of {", ".join(known)}')
    if name in ('cross_entropy', 'ssim'):
        require_unit_interval(example, f'loss {name}')
    if name == 'ssim' and example.ndim != 4:
        raise BadInput('loss ssim needs images (h, w, c), but an example here has shape '
                       f'{tuple(example.shape[1:])}; use loss mse')
    return known[name]


def jacobian_norm(f: Callable[[Array], Array], x: Array, key: Array | None = None,
                  probes: int = 0) -> Array:
    """Squared Frobenius norm of df/dx at every example, shape (n,), for any f (n, ...) -> (n, ...)
    that treats the examples of a batch alone.

    Exactly, by one backward pass for each of f's outputs, where probes is 0; else Hutchinson's
    unbiased estimate E |v^T J|^2 from so many random signs v, with a standard deviation of at most
    sqrt(2 / probes) of the norm (Hutchinson 1990).
    """
    y, back = jax.vjp(f, x)
    if probes:
        v = jax.random.rademacher(key, (probes, *y.shape), y.dtype)
    else:
        units = jnp.eye(y[0].size).reshape(-1, 1, *y.shape[1:])
        v = jnp.broadcast_to(units, (y[0].size, *y.shape))
    rows = jax.vmap(lambda v: per_example(back(v)[0] ** 2))(v)
    return rows.mean(0) if probes else rows.sum(0)


def gaussian_kl(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, exp(logvar)) || N(0, 1)) for each dimension: shape of `mean`, not summed.

    >>> print(gaussian_kl(jnp.array([0., 2.]), jnp.zeros(2)))
    [0. 2.]
    """
    return .5 * (mean ** 2 + jnp.exp(logvar) - 1 - logvar)


def bernoulli_kl(p: Array | float, q: Array) -> Array:
    """KL(Bernoulli(p) || Bernoulli(q)) for each dimension: shape of `q`, not summed.

    p within (0, 1); q is kept 1e-6 away from 0 and 1.
    """
    q = jnp.clip(q, 1e-6, 1 - 1e-6)
    return p * (jnp.log(p) - jnp.log(q)) + (1 - p) * (jnp.log1p(-p) - jnp.log1p(-q))


def bound_logvar(logvar: Array, limit: float = 15.) -> Array:
    """A log-variance kept smoothly within (-limit, limit), so that no exponential overflows."""
    return limit * jnp.tanh(logvar / limit)


def check_kl_schedule(name: str, steps: int) -> None:
    """Raises BadInput for what warm_up does not know."""
    if name not in ('constant', 'linear', 'cyclical'):
        raise BadInput(f'unknown schedule {name!r}; choose constant, linear or cyclical')
    if name != 'constant' and steps < 1:
        raise BadInput(
            f'schedule {name!r} needs a number of steps; give --config.latents.kl_warmup_steps')


def kl_weight(name: str, step: Array, steps: int) -> Array:
    """The weight of the KL at a step, from 0 to 1: `constant`, 1; `linear` over so many steps
    (Bowman et al. 2016); `cyclical`, linear over so many and then 1 for as many, again and again
    (Fu et al. 2019).

    >>> [float(kl_weight('linear', jnp.array(step), 100)) for step in (0, 50, 200)]
    [0.0, 0.5, 1.0]
    """
    if name == 'constant':
        return jnp.ones(())
    return jnp.minimum((step if name == 'linear' else step % (2 * steps)) / steps, 1.)


def staged_schedule(rate: float, first: int) -> Callable[[Array], Array] | float:
    """Burda et al. 2015's schedule: stage i = 0, 1, .. 7 lasts 3^i times `first` steps, at
    rate * 10^(-i / 7); the rate itself where first is 0."""
    ends = [(3 ** i - 1) // 2 * first for i in range(1, 8)]

    def at(step):
        return rate * 10 ** (-(step >= jnp.array(ends)).sum() / 7)

    return at if first else rate


def reparameterise(key: Array, mean: Array, logvar: Array) -> Array:
    """A sample of N(mean, exp(logvar)) that is differentiable in both (Kingma & Welling 2014)."""
    return mean + jnp.exp(logvar / 2) * standard_normal(key, *mean.shape)


def standard_normal(key: Array, *shape: int) -> Array:
    """Draws of N(0, I), whose first columns are the same whatever the last axis: so a model with
    fewer latent dimensions, see sweep, sees the same noise."""
    return jax.random.normal(key, shape[::-1]).T


def discriminator_loss(real: Array, fake: Array) -> Array:
    """Cross-entropy of the discriminator's logits (n,) on real and on generated examples, in nats.

    -log D(x) - log(1 - D(G(z))), Goodfellow et al. 2014.
    """
    return softplus(-real) + softplus(fake)


def non_saturating(fake: Array) -> Array:
    """The generator's loss -log D(G(z)) of the discriminator's logits (n,) (Goodfellow et al.
    2014).
    """
    return softplus(-fake)


def beta_of_weight(weight: float, size: int, likelihood: str = 'bernoulli') -> float:
    """The beta of `loss = recon + beta * kl` with the optimum of `weight * r_loss + kl`.

    There r_loss is a *mean* over the `size` dimensions of an example, as the survey and many
    programs write it: of the cross-entropy (bernoulli), where weight * r_loss is
    weight / size * recon, or of the squared error (gaussian with sigma 1), where it is
    2 * weight / size * recon up to a constant.

    >>> beta_of_weight(1000, size=784)
    0.784
    """
    return size / (weight * {'bernoulli': 1, 'gaussian': 2}[likelihood])


def in_unit_interval(x: Array) -> bool:
    """Whether concrete data x lies in [0, 1], as a Bernoulli likelihood or a sigmoid demands."""
    x = np.asarray(x)  # of a device's array NumPy's own functions would be traced
    return bool(x.min() >= 0 and x.max() <= 1)


def require_unit_interval(x: Array, what: str) -> None:
    """Raises BadInput where x leaves [0, 1]."""
    if not in_unit_interval(x):
        raise BadInput(f'{what} needs data in [0, 1], but this data set spans '
                       f'[{np.min(x):.3g}, {np.max(x):.3g}]; use a loss for real numbers '
                       '(likelihood gaussian, loss mse)')


def require_labels(label: Array | None, remedy: str) -> int:
    """How many labels there are among those of examples, (n,).  Raises BadInput, which ends with
    the remedy, unless there are two."""
    count = 0 if label is None else int(np.asarray(label).max()) + 1
    if count < 2:
        raise BadInput(f'this model needs examples of at least two labels, but finds {count}; '
                       f'{remedy}')
    return count


def logit(p: Array, margin: float = 1e-3) -> Array:
    """log(p / (1 - p)) with p first kept `margin` away from 0 and 1."""
    p = jnp.clip(p, margin, 1 - margin)
    return jnp.log(p) - jnp.log1p(-p)


def accuracy(logits: Array, label: Array) -> Array:
    """1. where the largest of the logits (n, labels) is the label's (n,), else 0."""
    return (logits.argmax(-1) == label).astype(jnp.float32)


def stop_gradient(x: Array) -> Array:
    """x as a constant: no gradient flows through."""
    return lax.stop_gradient(x)
