"""Log-likelihoods of data by importance sampling and annealed importance sampling, in nats."""
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from gen_jax.types import Array, Batch, Density, State, Tree

TOGETHER = 10  # codes of an example that are decoded at once


def log_weight(density: Density, state: State, batch: Batch, key: Array) -> Array:
    """log p(x, z) - log q(z | x) for one code z sampled from q for each example, shape (n,). Its
    mean is the ELBO.
    """
    z, log_q = density.posterior(state, batch, key)
    log_x, log_p = density.joint(state, batch, z)
    return log_x + log_p - log_q


def nll(density: Density, k: int) -> Callable:
    """(state, batch, key) -> -log p(x), estimated from k codes for each example: shape (n,).

    -log 1/k sum_i p(x, z_i) / q(z_i | x) by importance sampling from the posterior (Burda et al.
    2015): in expectation an upper bound, tighter with k.
    """
    each = min(k, TOGETHER)

    def run(state, batch, key):
        def step(total, i):
            keys = jax.vmap(lambda j: jax.random.fold_in(key, i * each + j))(jnp.arange(each))
            log_weights = jax.vmap(lambda key: log_weight(density, state, batch, key))(keys)
            log_weights = jnp.where((i * each + jnp.arange(each) < k)[:, None], log_weights,
                                    -jnp.inf)
            return jnp.logaddexp(total, jax.nn.logsumexp(log_weights, axis=0)), None

        start = jnp.full(len(batch.x), -jnp.inf)
        return jnp.log(k) - lax.scan(step, start, jnp.arange(-(-k // each)))[0]

    return run


def hmc(log_p: Callable, z: Tree, key: Array, size: Array, leaps: int) -> tuple[Tree, Array]:
    """One step of Hamiltonian Monte Carlo for each example: (z, whether it was accepted (n,)).

    log_p: z -> (n,); z: a pytree of (n, d); size (n,): the leapfrog step size (Neal 2011).
    """
    leaves, tree = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves) + 1)
    p = tree.unflatten([jax.random.normal(k, a.shape) for k, a in zip(keys[1:], leaves)])

    def push(a, b, by):
        return jax.tree.map(lambda a, b: a + by[:, None] * b, a, b)

    def energy(z, p):
        return log_p(z) - .5 * sum((a ** 2).sum(1) for a in jax.tree.leaves(p))

    force = jax.grad(lambda z: log_p(z).sum())

    def leap(carry, _):
        z, p = carry
        z = push(z, p, size)
        return (z, push(p, force(z), size)), None

    start = z, push(p, force(z), size / 2)
    (moved, turned), _ = lax.scan(leap, start, length=leaps)
    turned = push(turned, force(moved), -size / 2)
    gain = energy(moved, turned) - energy(z, p)
    accept = jnp.log(jax.random.uniform(keys[0], gain.shape)) < gain  # a NaN is refused
    return jax.tree.map(lambda a, b: jnp.where(accept[:, None], a, b), moved, z), accept


def ais(density: Density, steps: int = 500, leaps: int = 10, reverse: bool = False) -> Callable:
    """(state, batch, z, key) -> log weights (n,) of annealing z between p(z) and p(z | x).

    Forward, with z sampled from p(z), the expectation of exp(log weight) is p(x), so in expectation
    the log weight is a lower bound of log p(x). Reverse, with z an exact sample of p(z | x), the
    same holds for 1 / p(x), so minus the log weight is an upper bound; the latent of an example
    sampled from the model is such a z. Together: bidirectional Monte Carlo (Wu et al. 2017; Neal
    2001). The intermediate distributions are p(z) p(x | z)^t for `steps` values of t on a sigmoid
    schedule, with one step of HMC each, whose size is adapted to an acceptance rate of 65 %.
    """
    t = jax.nn.sigmoid(jnp.linspace(-4, 4, steps + 1))
    t = (t - t[0]) / (t[-1] - t[0])
    t = t[::-1] if reverse else t

    def run(state, batch, z, key):
        def step(carry, now):
            z, size, log_w = carry
            before, after, key = now
            log_w += (after - before) * density.joint(state, batch, z)[0]

            def bridge(z):
                log_x, log_p = density.joint(state, batch, z)
                return log_p + after * log_x

            z, accept = hmc(bridge, z, key, size, leaps)
            return (z, size * jnp.where(accept, 1.02, 1.02 ** (-.65 / .35)), log_w), None

        n = len(batch.x)
        begin = z, jnp.full(n, .05), jnp.zeros(n)
        return lax.scan(step, begin, (t[:-1], t[1:], jax.random.split(key, steps)))[0][2]

    return run


def bounds(density: Density, chains: int = 16, **hyper) -> Callable:
    """(state, batch, key) -> dict of (n,). nll_ais: -log p(x) of the batch from forward annealing.
    nll_simulated_upper and nll_simulated_lower: bounds for as many examples sampled from the model,
    which enclose their true value; the gap between them shows the error of annealing.
    """
    def run(state, batch, key):
        keys = jax.random.split(key, 5)

        def many(anneal, batch, start, key):
            log_weights = lax.map(
                lambda key: anneal(state, batch, start(jax.random.fold_in(key, 0)),
                                   jax.random.fold_in(key, 1)), jax.random.split(key, chains))
            return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(chains)

        forward, back = (ais(density, reverse=r, **hyper) for r in (False, True))
        prior = lambda key: density.prior(state, batch, key)
        true = prior(keys[0])
        simulated = batch._replace(x=density.observe(state, batch, true, keys[1]))
        return dict(nll_ais=-many(forward, batch, prior, keys[2]),
                    nll_simulated_upper=-many(forward, simulated, prior, keys[3]),
                    nll_simulated_lower=many(back, simulated, lambda key: true, keys[4]))

    return run
