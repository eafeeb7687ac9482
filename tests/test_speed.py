"""Compares the time of training epochs with plain programs, alternately in one process."""
import time

import jax
from jax import lax, nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import loop
from gen_jax.models import ae, vae
from gen_jax.types import Batch

pytestmark = pytest.mark.speed
SIZE, BATCH = 2560, 128
X = np.random.default_rng(0).integers(0, 256, (SIZE, 28, 28, 1)).astype(np.uint8)
KEY = jax.random.key(0)


def prepare(batch, key):
    return Batch(batch.x / np.float32(255))


def library(model):
    """(epoch, state) of gen_jax."""
    example = prepare(Batch(jnp.asarray(X[:BATCH])), KEY)
    run = jax.jit(loop.training(model(example), prepare, SIZE, BATCH, SIZE // BATCH))
    data = Batch(jnp.asarray(X))
    return lambda state: run(state, data, KEY)[0], jax.jit(model(example).init)(KEY, example)


def tutorial(loss, params):
    """(epoch, state) of a scan over steps, as a tutorial writes it."""
    adam = optax.adam(1e-3)

    @jax.jit
    def epoch(state):
        def step(state, row):
            params, opt = state
            x = jnp.asarray(X)[row] / np.float32(255)
            updates, opt = adam.update(jax.grad(loss)(params, x), opt)
            return (optax.apply_updates(params, updates), opt), None

        order = jax.random.permutation(KEY, SIZE).reshape(-1, BATCH)
        return lax.scan(step, state, order)[0]

    return epoch, (params, adam.init(params))


def ratio(one, other, rounds=7):
    """The shortest epoch of one over the shortest of the other, measured alternately."""
    best = [float('inf')] * 2
    states = [one[1], other[1]]
    for _ in range(rounds):
        for i, (epoch, _) in enumerate((one, other)):
            start = time.perf_counter()
            states[i] = jax.block_until_ready(epoch(states[i]))
            best[i] = min(best[i], time.perf_counter() - start)
    return best[0] / best[1]


def dense(key, m, n):
    return jax.random.normal(key, (m, n)) / m ** .5, jnp.zeros(n)


def test_a_dense_vae_is_as_fast_as_a_plain_one():
    keys = jax.random.split(KEY, 4)
    params = [dense(k, *mn) for k, mn in zip(keys, [(784, 400), (400, 40), (20, 400), (400, 784)])]

    def loss(params, x):
        (a, b), (c, d), (e, f), (g, h) = params
        x = x.reshape(BATCH, 784)
        mean, logvar = jnp.split(nn.relu(x @ a + b) @ c + d, 2, 1)
        z = mean + jnp.exp(logvar / 2) * jax.random.normal(KEY, mean.shape)
        y = nn.relu(z @ e + f) @ g + h
        nll = optax.sigmoid_binary_cross_entropy(y, x).sum(1)
        return (nll + (jnp.exp(logvar) + mean ** 2 - 1 - logvar).sum(1) / 2).mean()

    result = ratio(library(lambda x: vae.make(x)), tutorial(loss, params))
    assert result < 1.15, f'an epoch takes {result:.2f} times that of a plain program'


def test_a_convolutional_autoencoder_is_much_faster_than_a_plain_one_on_a_cpu():
    if jax.default_backend() != 'cpu':
        pytest.skip('where XLA is slow is a CPU')
    widths = [(1, 30), (30, 15), (15, 15), (15, 30), (30, 1)]
    params = [jax.random.normal(k, (3, 3, *w)) / (9 * w[0]) ** .5
              for k, w in zip(jax.random.split(KEY, 5), widths)]

    def convolve(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=(
            'NHWC', 'HWIO', 'NHWC'))

    def halve(x):
        n, h, w, c = x.shape
        return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))

    def double(x):
        return x.repeat(2, 1).repeat(2, 2)

    def loss(params, x):
        a, b, c, d, e = params
        z = halve(nn.relu(convolve(halve(nn.relu(convolve(x, a))), b)))
        y = double(nn.relu(convolve(double(nn.relu(convolve(z, c))), d)))
        return ((nn.sigmoid(convolve(y, e)) - x) ** 2).mean()

    result = ratio(library(lambda x: ae.make(x)), tutorial(loss, params),
                   rounds=3)
    assert result < .5, f'an epoch takes {result:.2f} times that of a plain program'
