"""Densities fitted to the codes of a trained model, so that any autoencoder can generate (Ghosh et
al. 2020).

fit(name, codes, key) returns (key, n) -> n codes. The codes are those of all training examples: one
sample of q(z | x) each for a model with a posterior, so that their density is the aggregated
posterior, otherwise the encoder's output. Codes of any shape are fitted as standardised vectors and
transformed back.
"""
from typing import Callable
import warnings

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax import densities, latents, loop, nets, optimisers
from gen_jax.game import game
from gen_jax.models import vae
from gen_jax.types import Array, BadInput, Batch, Model, Player, State, Tree

FITTED = 'gmm', 'aggregate', 'flow', 'twostage'
SAMPLERS = 'prior', *FITTED
COMPONENTS = 10  # Ghosh et al.'s
STEPS = 4000     # of training a flow or a second stage
NOISE = .01      # standard deviations


def codes(model: Model) -> Callable:
    """(state, batch, key) -> one code for each example."""
    if model.density:
        return lambda state, batch, key: model.density.posterior(state, batch, key)[0]
    return lambda state, batch, key: model.encode(state, batch.x)


def require(name: str, called: str, model: Model, state: State, batch: Batch) -> None:
    """Raises BadInput, with an alternative, if the sampler `name` does not fit the model `called`;
    any batch will do.
    """
    lacking = [what for what in ('encode', 'decode') if not getattr(model, what)]
    why = f'has no {" and no ".join(what + "r" for what in lacking)}'
    if not lacking:
        z = jax.eval_shape(codes(model), state, batch, jax.random.key(0))
        real = hasattr(z, 'dtype') and jnp.issubdtype(z.dtype, jnp.floating)
        why = '' if real else 'has codes that are no vectors of real numbers'
    if name == 'prior' and not model.prior:
        raise BadInput(f'model {called} has no prior to sample' + (
            f', and {why}' if why else f'; use --config.sampler={", ".join(FITTED)}'))
    if name != 'prior' and why:
        raise BadInput(f'sampler {name} cannot be fitted: model {called} {why}' + (
            '; use --config.sampler=prior' if model.prior else ''))


def fit(name: str, codes: np.ndarray, key: Array) -> Callable[[Array, int], Array]:
    """The sampler (key, n) -> (n, ...) with a name in FITTED, for codes (N, ...). Takes at most a
    minute on 2 CPU cores for 60,000 codes of 20 dimensions.

    Raises BadInput for an unknown name, for fewer than two codes, and for codes or a loss that are
    not finite.
    """
    if name not in FITTED:
        raise BadInput(f'unknown sampler {name!r}; there are {", ".join(SAMPLERS)}')
    codes = np.asarray(codes, np.float32)
    if len(codes) < 2 or not np.isfinite(codes).all():
        raise BadInput(f'sampler {name} needs at least two codes, all finite')
    if name == 'aggregate':
        return aggregate(codes)
    flat = codes.reshape(len(codes), -1)
    mean, sd = flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64)
    standard = np.float32((flat - mean) / np.where(sd > 0, sd, 1))
    draw = dict(gmm=gmm, flow=flow, twostage=twostage)[name](standard, key)
    return lambda key, n: (draw(key, n) * np.float32(sd) + np.float32(mean)).reshape(
        n, *codes.shape[1:])


def aggregate(codes: np.ndarray) -> Callable[[Array, int], Array]:
    """Random codes of training examples: the aggregated posterior."""
    # without repeating an example where there are enough: each has one draw of its q
    return lambda key, n: jnp.asarray(codes)[
        jax.random.choice(key, len(codes), (n,), replace=n > len(codes))]


def gmm(x: np.ndarray, key: Array) -> Callable[[Array, int], Array]:
    """A Gaussian mixture with full covariances, fitted by expectation maximisation."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # a fit that still improves is a fit
        fitted = GaussianMixture(min(COMPONENTS, len(x)),
                                 random_state=int(jax.random.bits(key))).fit(np.float64(x))
    weight, mean, root = (jnp.asarray(a, jnp.float32) for a in (
        fitted.weights_, fitted.means_, np.linalg.cholesky(fitted.covariances_)))

    def draw(key, n):
        keys = jax.random.split(key)
        chosen = jax.random.categorical(keys[0], jnp.log(weight), shape=(n,))
        e = jax.random.normal(keys[1], (n, x.shape[1]))
        return mean[chosen] + jnp.einsum('nij,nj->ni', root[chosen], e)

    return draw


def flow(x: np.ndarray, key: Array, layers: int = 8) -> Callable[[Array, int], Array]:
    """A masked autoregressive flow (Papamakarios et al. 2017)."""
    state = trained(flow_model(x.shape[1], layers), x, key)
    back = jax.jit(unmaf)
    return lambda key, n: back(state.params['flow'], jax.random.normal(key, (n, x.shape[1])))


def flow_model(latent: int, layers: int = 8) -> Model:
    """Minimises -log p(x) for x (n, latent), in nats; a little noise is added to x in training."""
    width = min(max(64, 8 * latent), 256)

    def init(key, batch):
        def layer(key):  # whose gain undoes the gates at the start
            return densities.iaf_init(key, latent, width) | dict(
                context=jnp.zeros((0, width)), gain=jnp.full(latent, -jax.nn.log_sigmoid(1.)))

        return jax.vmap(layer)(jax.random.split(key, layers)), {}

    def loss(state, batch, key):
        # or values that repeat, such as the zeros of rectified codes, would have infinite densities
        x = batch.x + NOISE * jax.random.normal(key, batch.x.shape)
        nll = -log_prob(state.params['flow'], x).mean()
        return nll, dict(loss=nll), {}

    adam = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))
    return game(dict(flow=Player(init, loss, adam)),
                evaluate=lambda state, batch, key: dict(
                    loss=-log_prob(state.params['flow'], batch.x)))


def log_prob(params: Tree, x: Array) -> Array:
    """log p(x) under a flow, in nats, (n,)."""
    u, logdet = maf(params, x)
    return densities.normal_log_prob(u) + logdet


def masked(layer: Tree, x: Array) -> tuple[Array, Array]:
    """One layer of maf: an inverse autoregressive one, whose gates only narrow, and a gain."""
    y, logdet = densities.iaf(layer, x, jnp.zeros((len(x), 0)))
    return y * jnp.exp(layer['gain']), logdet + layer['gain'].sum()


def maf(params: Tree, x: Array) -> tuple[Array, Array]:
    """Transforms x (n, d) to u, which is standard normal under the flow; also log |det du/dx|,
    (n,).
    """
    def step(x, layer):
        y, logdet = masked(layer, x)
        return y[:, ::-1], logdet

    u, logdet = lax.scan(step, x, params)
    return u, logdet.sum(0)


def unmaf(params: Tree, u: Array) -> Array:
    """The inverse of maf: x from u."""
    def step(u, layer):
        return unmasked(layer, u[:, ::-1]), None

    return lax.scan(step, u, params, reverse=True)[0]


def unmasked(layer: Tree, y: Array) -> Array:
    """The inverse of masked: computes one dimension after the other."""
    def solve(i, x):
        dimension = jax.nn.one_hot(i, x.shape[1])
        value, derivative = jax.jvp(lambda x: masked(layer, x)[0], (x,),
                                    (jnp.broadcast_to(dimension, x.shape),))
        return jnp.where(dimension > 0, x + (y - value) / derivative, x)

    return lax.fori_loop(0, y.shape[1], solve, jnp.zeros_like(y))


def twostage(x: np.ndarray, key: Array) -> Callable[[Array, int], Array]:
    """A second VAE for the codes, with as many dimensions and the scale of its own error (Dai &
    Wipf 2019).
    """
    model = vae.make(Batch(jnp.asarray(x[:1024])), latent=x.shape[1],
                     latents=latents.make(likelihood='gaussian', scale='optimal'),
                     net=nets.make('mlp', width=(256, 256)), optimiser=optimisers.make(
                         learning_rate=3e-3, schedule='cosine', schedule_steps=STEPS))
    state = trained(model, x, key)

    def draw(key, n):
        keys = jax.random.split(key)
        batch = Batch(jnp.zeros((n, x.shape[1])))
        z = model.density.prior(state, batch, keys[0])
        return model.density.observe(state, batch, z, keys[1])

    return draw


def trained(model: Model, x: np.ndarray, key: Array) -> State:
    """The state with the lowest loss on a held-out tenth of x (n, d), among those after each epoch.

    Raises BadInput if a loss is not finite.
    """
    order = np.asarray(jax.random.permutation(key, len(x)))
    validation, training = (Batch(jnp.asarray(x[rows]))
                            for rows in np.split(order, [-(-len(x) // 10)]))
    size = len(training.x)
    batch = min(256, -(-size // 20))
    run = loop.training(model, lambda batch, key: batch, size, batch, size // batch)

    @jax.jit
    def epoch(state, training, validation):
        state, _, bad = run(state, training, key)
        loss = model.evaluate(state, validation, key)['loss'].mean()
        return state, jnp.where(bad >= 0, jnp.nan, loss)

    state, least = jax.jit(model.init)(key, training), np.inf
    for _ in range(-(-STEPS // (size // batch))):
        state, loss = epoch(state, training, validation)
        if not np.isfinite(loss):
            raise BadInput('the density of the codes cannot be fitted: its loss is not finite; '
                           'use another --config.sampler')
        if loss < least:
            best, least = state, loss
    return best
