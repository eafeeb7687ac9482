"""Likelihoods, priors and posteriors, the parts of a latent variable model; each a few functions.

Log densities are in nats, one per example, shape (n,).
"""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import losses
from gen_jax.types import Array, BadInput, Batch, Tree

LIKELIHOODS = 'bernoulli', 'gaussian', 'categorical', 'logistic_mixture'
SCALES = 'fixed', 'learned', 'optimal'
PRIORS = 'normal', 'mixture', 'vamp'
POSTERIORS = 'diagonal', 'full', 'planar', 'iaf'


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


# p(x | z)


class Likelihood(NamedTuple):
    """p(x | z) by the decoder's output y (n, *shape, m), without the last axis where m is 1.

    outputs: m; start: an output that fits the data before training, or None for the decoder's own
    init:   () -> (params, buffers) of the scale, if it is learned or kept
    nll:    (params, buffers, y, x) -> (n,)
    keep:   (buffers, y, x) -> new buffers, in training
    mean:   y -> E[x | z]
    sample: (params, buffers, y, key) -> x
    """
    outputs: int
    start: Array | None
    init: Callable[[], tuple[Tree, Tree]]
    nll: Callable[[Tree, Tree, Array, Array], Array]
    keep: Callable[[Tree, Array, Array], Tree]
    mean: Callable[[Array], Array]
    sample: Callable[[Tree, Tree, Array, Array], Array]


def likelihood(name: str, x: Array, link: Callable, *, scale: str = 'fixed', sigma: float = 1.,
               levels: int = 256, components: int = 5) -> Likelihood:
    """The likelihood called `name` for examples such as x (n, *shape).

    bernoulli: on logits, data in [0, 1] only.  gaussian: around link(y), one standard deviation for
    all dimensions: sigma (scale `fixed`), learned from the data's own on (`learned`), or `optimal`,
    that of the batch's own error, whose running mean is kept for evaluation (Rybkin et al. 2021).
    categorical: a softmax over `levels` values in [0, 1], for each dimension.  logistic_mixture: so
    many `components`, discretised to `levels` (Salimans et al. 2017), each dimension by itself.
    Raises BadInput for another name, or what does not fit the data.
    """
    for what, value, known in ('likelihood', name, LIKELIHOODS), ('scale', scale, SCALES):
        if value not in known:
            raise BadInput(f'unknown {what} {value!r}; choose one of {", ".join(known)}')
    if name == 'gaussian':
        if isinstance(sigma, (int, float)) and sigma <= 0:
            raise BadInput(f'sigma must be positive, not {sigma}')
        return _gaussian(x, link, scale, sigma)
    if name == 'bernoulli':
        losses.require_unit(x, 'likelihood bernoulli')
        plain = Likelihood(1, None, lambda: ({}, {}), lambda p, b, y, x: losses.bernoulli_nll(y, x),
                           lambda b, y, x: b, jax.nn.sigmoid, None)
        return plain._replace(sample=lambda p, b, y, key: jax.random.bernoulli(
            key, jax.nn.sigmoid(y)).astype(jnp.float32))
    losses.require_unit(x, f'likelihood {name}')
    index = np.asarray(x) * (levels - 1)
    if levels < 2 or np.abs(index - index.round()).max() > 1e-2:
        raise BadInput(f'likelihood {name} needs data of {levels} values equally spaced in [0, 1], '
                       'but this data set has others; give their number in '
                       '--config.model.levels, or use likelihood bernoulli or gaussian')
    return (_categorical if name == 'categorical' else _logistic)(x, levels, components)


def _gaussian(x, link, scale, sigma) -> Likelihood:
    # one to be found starts at the data's own, as a larger one would teach the codes to say nothing
    start = 2 * jnp.log(jnp.float32(sigma)) if scale == 'fixed' else jnp.log(x.var() + 1e-6)

    def init():
        return (dict(logvar=start) if scale == 'learned' else {},
                dict(logvar=start) if scale == 'optimal' else {})

    def logvar(params, buffers):
        return losses.bound(params['logvar']) if params else buffers.get('logvar', start)

    def own(y, x):
        return jnp.log(jnp.maximum(((link(y) - x) ** 2).mean(), 1e-6))

    def nll(params, buffers, y, x):
        return losses.gaussian_nll(link(y), x, logvar(params, buffers))

    def keep(buffers, y, x):
        return {k: v + .05 * (losses.stop(own(y, x)) - v) for k, v in buffers.items()}

    def sample(params, buffers, y, key):
        return link(y) + jnp.exp(logvar(params, buffers) / 2) * jax.random.normal(key, y.shape)

    return Likelihood(1, None, init, nll, keep, link, sample)


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
        made = unit(mean + jnp.exp(logscale) * jax.random.logistic(keys[1], mean.shape))
        return jnp.round(made * (levels - 1)) / (levels - 1)

    return Likelihood(3 * components, start, lambda: ({}, {}), nll, lambda b, y, x: b,
                      lambda y: unit((jax.nn.softmax(parts(y)[0]) * parts(y)[1]).sum(-1)), sample)


# p(z)


class Prior(NamedTuple):
    """init: (key, batch) -> params; log_prob: (params, z, infer) -> (n,); sample: (params, key, n,
    infer) -> z.  infer: x -> (mean, logvar) is the encoder's, which pseudo-inputs need."""
    init: Callable[[Array, Batch], Tree]
    log_prob: Callable[[Tree, Array, Callable], Array]
    sample: Callable[[Tree, Array, int, Callable], Array]


def prior(name: str, latent: int, components: int = 500) -> Prior:
    """`normal`: N(0, I); `mixture`: of so many Gaussians, learned; `vamp`: of the posteriors of so
    many learned pseudo-inputs, the VampPrior (Tomczak & Welling 2018).  Raises BadInput otherwise.
    """
    if name not in PRIORS:
        raise BadInput(f'unknown prior {name!r}; choose one of {", ".join(PRIORS)}')
    if components < 1:
        raise BadInput(f'components must be at least 1, not {components}')
    if name == 'normal':
        return Prior(lambda key, batch: {}, lambda params, z, infer: normal(z),
                     lambda params, key, n, infer: losses.normal(key, n, latent))

    def init(key, batch):
        if name == 'mixture':
            return dict(mean=jax.random.normal(key, (components, latent)),
                        logvar=jnp.zeros((components, latent)), logit=jnp.zeros(components))
        rows = jax.random.randint(key, (components,), 0, len(batch.x))
        return dict(inputs=batch.x[rows])

    def parts(params, infer):
        if name == 'mixture':
            return params['mean'], losses.bound(params['logvar']), params['logit']
        mean, logvar = infer(params['inputs'])
        return mean, logvar, jnp.zeros(components)

    def log_prob(params, z, infer):
        return mixture(z, *parts(params, infer))

    def sample(params, key, n, infer):
        mean, logvar, logit = parts(params, infer)
        keys = jax.random.split(key)
        chosen = jax.random.categorical(keys[0], logit, shape=(n,))
        return losses.reparameterise(keys[1], mean[chosen], logvar[chosen])

    return Prior(init, log_prob, sample)


# q(z | x)


class Posterior(NamedTuple):
    """q(z | x) by the encoder's output, the code (n, outputs).

    init: key -> params; sample: (params, code, key) -> (z, log q(z | x)); centre: (params, code) ->
    z, that of no noise; moments: code -> (mean, logvar), where q is a diagonal Gaussian.
    """
    outputs: int
    init: Callable[[Array], Tree]
    sample: Callable[[Tree, Array, Array], tuple[Array, Array]]
    centre: Callable[[Tree, Array], Array]
    moments: Callable[[Array], tuple[Array, Array]] | None = None


def posterior(name: str, latent: int, flows: int = 4) -> Posterior:
    """`diagonal` or `full`: Gaussians of such a covariance; `planar` (Rezende & Mohamed 2015, all
    parameters from the encoder) or `iaf` (Kingma et al. 2016): a diagonal Gaussian followed by so
    many `flows`.  Raises BadInput otherwise."""
    if name not in POSTERIORS:
        raise BadInput(f'unknown posterior {name!r}; choose one of {", ".join(POSTERIORS)}')
    if flows < 1:
        raise BadInput(f'flows must be at least 1, not {flows}')
    if latent < 1:
        raise BadInput(f'latent must be at least 1, not {latent}')
    if name == 'full':
        return _full(latent)

    def moments(code):
        mean, logvar = jnp.split(code[:, :2 * latent], 2, axis=-1)
        return mean, losses.bound(logvar)

    def nothing(key):
        return {}

    def still(params, code, z):
        return z, jnp.zeros(len(z))

    def planes(params, code, z):
        rest, total = code[:, 2 * latent:].reshape(len(z), flows, -1), 0.
        for i in range(flows):
            u, w, b = jnp.split(rest[:, i], (latent, 2 * latent), axis=-1)
            z, logdet = planar(z, u, w, b[:, 0])
            total += logdet
        return z, total

    def autoregressive(params, code, z):
        total = 0.
        for layer in params['flows']:
            z, logdet = iaf(layer, z, code[:, 2 * latent:])
            z, total = z[:, ::-1], total + logdet
        return z, total

    width = 8 * latent

    def layers(key):
        return dict(flows=[iaf_init(k, latent, width) for k in jax.random.split(key, flows)])

    more, init, flow = dict(diagonal=(0, nothing, still),
                            planar=(flows * (2 * latent + 1), nothing, planes),
                            iaf=(width, layers, autoregressive))[name]

    def sample(params, code, key):
        mean, logvar = moments(code)
        z = losses.reparameterise(key, mean, logvar)
        out, logdet = flow(params, code, z)
        return out, normal(z, mean, logvar) - logdet

    return Posterior(2 * latent + more, init, sample,
                     lambda params, code: flow(params, code, moments(code)[0])[0],
                     moments if name == 'diagonal' else None)


def _full(latent) -> Posterior:
    below = np.tril_indices(latent, -1)

    def sample(params, code, key):
        mean, logvar, rest = jnp.split(code, (latent, 2 * latent), axis=-1)
        logvar = losses.bound(logvar)
        root = jnp.zeros((len(code), latent, latent)).at[:, *below].set(rest)
        root += jnp.exp(logvar / 2)[:, :, None] * jnp.eye(latent)
        e = losses.normal(key, *mean.shape)
        return mean + jnp.einsum('nij,nj->ni', root, e), normal(e) - logvar.sum(-1) / 2

    return Posterior(2 * latent + len(below[0]), lambda key: {}, sample,
                     lambda params, code: code[:, :latent])


def planar(z: Array, u: Array, w: Array, b: Array) -> tuple[Array, Array]:
    """z + u tanh(w z + b), and log |det|, all for each example (Rezende & Mohamed 2015); u is moved
    to where the map is invertible, w u >= -1."""
    dot = (w * u).sum(-1)
    u += ((jax.nn.softplus(dot) - 1 - dot) / (1e-6 + (w * w).sum(-1)))[:, None] * w
    t = jnp.tanh((w * z).sum(-1) + b)
    logdet = jnp.log1p((1 - t ** 2) * (w * u).sum(-1))
    return z + u * t[:, None], logdet


def iaf_init(key: Array, latent: int, width: int) -> Tree:
    keys = jax.random.split(key, 3)
    lecun = jax.nn.initializers.lecun_normal()
    return dict(first=lecun(keys[0], (latent, width)), context=lecun(keys[1], (width, width)),
                bias=jnp.zeros(width), last=.1 * lecun(keys[2], (width, 2 * latent)),
                gate=jnp.concatenate([jnp.zeros(latent), jnp.ones(latent)]))


def iaf(params: Tree, z: Array, context: Array) -> tuple[Array, Array]:
    """g z + (1 - g) m, and its log |det|; of each dimension m and the gate g in (0, 1) see only the
    dimensions before (Kingma et al. 2016), by a masked layer (Germain et al. 2015)."""
    latent, width = params['first'].shape
    degree = np.arange(width) % max(1, latent - 1)  # a unit sees the dimensions up to its degree
    enter = np.arange(latent)[:, None] <= degree
    leave = np.tile(degree[:, None] < np.arange(latent), 2)
    h = z @ (params['first'] * enter) + context @ params['context'] + params['bias']
    m, s = jnp.split(jax.nn.elu(h) @ (params['last'] * leave) + params['gate'], 2, axis=-1)
    return z * jax.nn.sigmoid(s) + m * jax.nn.sigmoid(-s), jax.nn.log_sigmoid(s).sum(-1)
