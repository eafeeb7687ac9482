"""Likelihoods p(x | z), computed from the outputs of a decoder."""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import losses
from gen_jax.types import Array, BadInput, Tree

LIKELIHOODS = 'bernoulli', 'gaussian', 'categorical', 'logistic_mixture'
SCALES = 'fixed', 'learned', 'optimal'


class Likelihood(NamedTuple):
    """A likelihood p(x | z), given the decoder's output y (n, *shape, m), without the last axis if
    m is 1.

    outputs: m; start: an output that fits the data before training, or None for the decoder's own
    init:   () -> (params, buffers) of the scale, where it is learned or kept
    nll:    (params, buffers, y, x) -> (n,), -log p(x | z) in nats
    keep:   (buffers, y, x) -> new buffers, in training
    mean:   y -> E[x | z]
    sample: (params, buffers, y, key) -> x
    discrete: whether x is discrete, so that nll is at least 0
    """
    outputs: int
    start: Array | None
    init: Callable[[], tuple[Tree, Tree]]
    nll: Callable[[Tree, Tree, Array, Array], Array]
    keep: Callable[[Tree, Array, Array], Tree]
    mean: Callable[[Array], Array]
    sample: Callable[[Tree, Tree, Array, Array], Array]
    discrete: bool = True


def likelihood(name: str, x: Array, link: Callable, *, scale: str = 'fixed', sigma: float = 1.,
               levels: int = 256, components: int = 5) -> Likelihood:
    """The likelihood called `name` for examples such as x (n, *shape).

    bernoulli: the decoder gives logits; the data lie in [0, 1]. gaussian: its mean is link(y); all
    dimensions share one standard deviation, which is sigma (scale `fixed`), a parameter that starts
    at the data's (`learned`), or the root mean square error of the batch, of which evaluation uses
    a running mean (`optimal`, Rybkin et al. 2021). categorical: a softmax over `levels` values in
    [0, 1] for each dimension. logistic_mixture: a mixture of `components` logistic distributions,
    discretised to `levels`, independently for each dimension (Salimans et al. 2017).
    Raises: BadInput for an unknown name, and for options that do not fit the data.
    """
    for what, value, known in ('likelihood', name, LIKELIHOODS), ('scale', scale, SCALES):
        if value not in known:
            raise BadInput(f'unknown {what} {value!r}; choose one of {", ".join(known)}')
    if name == 'gaussian':
        if isinstance(sigma, (int, float)) and sigma <= 0:
            raise BadInput(f'sigma must be positive, not {sigma}')
        return _gaussian(x, link, scale, sigma)
    if name == 'bernoulli':
        losses.require_unit_interval(x, 'likelihood bernoulli')
        plain = Likelihood(1, None, lambda: ({}, {}), lambda p, b, y, x: losses.bernoulli_nll(y, x),
                           lambda b, y, x: b, jax.nn.sigmoid, None)
        return plain._replace(sample=lambda p, b, y, key: jax.random.bernoulli(
            key, jax.nn.sigmoid(y)).astype(jnp.float32))
    losses.require_unit_interval(x, f'likelihood {name}')
    index = np.asarray(x) * (levels - 1)
    if levels < 2 or np.abs(index - index.round()).max() > 1e-2:
        raise BadInput(f'likelihood {name} needs data of {levels} values equally spaced in [0, 1], '
                       'but this data set has others; give their number in '
                       '--config.latents.levels, or use likelihood bernoulli or gaussian')
    return (_categorical if name == 'categorical' else _logistic)(x, levels, components)


def _gaussian(x, link, scale, sigma) -> Likelihood:
    # one to be found starts at the data's own, as a larger one would teach the codes to say nothing
    start = 2 * jnp.log(jnp.float32(sigma)) if scale == 'fixed' else jnp.log(x.var() + 1e-6)

    def init():
        return (dict(logvar=start) if scale == 'learned' else {},
                dict(logvar=start) if scale == 'optimal' else {})

    def logvar(params, buffers):
        return losses.bound_logvar(params['logvar']) if params else buffers.get('logvar', start)

    def log_error(y, x):
        return jnp.log(jnp.maximum(((link(y) - x) ** 2).mean(), 1e-6))

    def nll(params, buffers, y, x):
        return losses.gaussian_nll(link(y), x, logvar(params, buffers))

    def keep(buffers, y, x):
        return {
            k: v + .05 * (losses.stop_gradient(log_error(y, x)) - v)
            for k, v in buffers.items()
        }

    def sample(params, buffers, y, key):
        return link(y) + jnp.exp(logvar(params, buffers) / 2) * jax.random.normal(key, y.shape)

    return Likelihood(1, None, init, nll, keep, link, sample, discrete=False)


def _categorical(x, levels, _) -> Likelihood:
    grid = jnp.linspace(0, 1, levels)
    place = tuple(range(x.ndim - 1)) if x.ndim > 2 else 0  # shared by the pixels of images
    counts = (jnp.round(x * (levels - 1)).astype(int)[..., None] == jnp.arange(levels)).mean(place)
    start = jnp.log(counts + 1 / levels).reshape(1, *(1,) * (x.ndim - 2), -1)
    start = jnp.broadcast_to(start, (1, *x.shape[1:-1], start.shape[-1]))

    def nll(params, buffers, y, x):
        chosen = jnp.round(x * (levels - 1))[..., None] == jnp.arange(levels)
        return -losses.per_example(jnp.where(chosen, jax.nn.log_softmax(y), 0))

    return Likelihood(levels, start, lambda: ({}, {}), nll, lambda b, y, x: b,
                      lambda y: jax.nn.softmax(y) @ grid,
                      lambda p, b, y, key: grid[jax.random.categorical(key, y)])


def _logistic(x, levels, components) -> Likelihood:
    # in [-1, 1]: where each component starts, spread over it, with a scale of their distance
    means = np.linspace(-1, 1, components + 2)[1:-1]
    spread = np.full(components, np.log(1 / components))
    each = np.concatenate([np.zeros(components), means, spread])
    start = jnp.broadcast_to(jnp.float32(np.tile(each, x.shape[-1])),
                             (1, *x.shape[1:-1], 3 * components * x.shape[-1]))
    half = 1 / (levels - 1)

    def parts(y):
        logit, mean, logscale = jnp.split(y, 3, axis=-1)
        return logit, mean, jnp.clip(logscale, -7, 7)

    def nll(params, buffers, y, x):
        logit, mean, logscale = parts(y)
        away = 2 * x[..., None] - 1 - mean
        above, below = (jnp.exp(-logscale) * (away + side) for side in (half, -half))
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which never cancels
        lower, upper = jax.nn.log_sigmoid(above), jax.nn.log_sigmoid(-below)
        inside = lower + upper + jnp.log(-jnp.expm1(below - above))
        x = x[..., None]
        log_p = jnp.where(x < half / 2, lower, jnp.where(x > 1 - half / 2, upper, inside))
        return -losses.per_example(jax.nn.logsumexp(jax.nn.log_softmax(logit) + log_p, axis=-1))

    def unit(mean):
        return jnp.clip((mean + 1) / 2, 0, 1)

    def sample(params, buffers, y, key):
        logit, mean, logscale = parts(y)
        keys = jax.random.split(key)
        chosen = jax.nn.one_hot(jax.random.categorical(keys[0], logit), components)
        mean, logscale = ((a * chosen).sum(-1) for a in (mean, logscale))
        values = unit(mean + jnp.exp(logscale) * jax.random.logistic(keys[1], mean.shape))
        return jnp.round(values * (levels - 1)) / (levels - 1)

    return Likelihood(3 * components, start, lambda: ({}, {}), nll, lambda b, y, x: b,
                      lambda y: unit((jax.nn.softmax(parts(y)[0]) * parts(y)[1]).sum(-1)), sample)
