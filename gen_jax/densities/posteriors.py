"""q(z | x), by the outputs of an encoder: Gaussians, and flows of them."""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import losses
from gen_jax.densities.gaussians import normal_log_prob
from gen_jax.types import Array, BadInput, Tree

POSTERIORS = 'diagonal', 'full', 'planar', 'iaf'


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
        return mean, losses.bound_logvar(logvar)

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
        return out, normal_log_prob(z, mean, logvar) - logdet

    return Posterior(2 * latent + more, init, sample,
                     lambda params, code: flow(params, code, moments(code)[0])[0],
                     moments if name == 'diagonal' else None)


def _full(latent) -> Posterior:
    below = np.tril_indices(latent, -1)

    def sample(params, code, key):
        mean, logvar, rest = jnp.split(code, (latent, 2 * latent), axis=-1)
        logvar = losses.bound_logvar(logvar)
        root = jnp.zeros((len(code), latent, latent)).at[:, *below].set(rest)
        root += jnp.exp(logvar / 2)[:, :, None] * jnp.eye(latent)
        e = losses.standard_normal(key, *mean.shape)
        return mean + jnp.einsum('nij,nj->ni', root, e), normal_log_prob(e) - logvar.sum(-1) / 2

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
    mask = np.tile(degree[:, None] < np.arange(latent), 2)
    h = z @ (params['first'] * enter) + context @ params['context'] + params['bias']
    m, s = jnp.split(jax.nn.elu(h) @ (params['last'] * mask) + params['gate'], 2, axis=-1)
    return z * jax.nn.sigmoid(s) + m * jax.nn.sigmoid(-s), jax.nn.log_sigmoid(s).sum(-1)
