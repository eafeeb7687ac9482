"""gen_jax.ops against XLA's own operations: values, both gradients, and gradients of gradients."""
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import ops

NHWC = ('NHWC', 'HWIO', 'NHWC')


def xla_conv(x, kernel, stride=1):
    return lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=NHWC)


def xla_conv_transpose(x, kernel, stride=2):
    return lax.conv_transpose(x, kernel, (stride, stride), 'SAME', dimension_numbers=NHWC)


def xla_upsample_conv(x, kernel, factor=2):
    return xla_conv(x.repeat(factor, 1).repeat(factor, 2), kernel)


def xla_max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')


PAIRS = dict(conv=(ops.conv, xla_conv), conv_transpose=(ops.conv_transpose, xla_conv_transpose),
             upsample_conv=(ops.upsample_conv, xla_upsample_conv))


def draw(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def pulled(op, *args):
    """The value, and the gradients for a fixed random cotangent."""
    y, pull = jax.vjp(op, *args)
    return y, *pull(draw(*y.shape, seed=9))


def check(one, other, *args, both=pulled):
    """Compiles both forms in one program and compares all that they return."""
    actual, expected = jax.jit(lambda *a: (both(one, *a), both(other, *a)))(*args)
    assert jax.tree.map(jnp.shape, actual) == jax.tree.map(jnp.shape, expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    return actual


@pytest.mark.parametrize('size, channels, kernel, stride', [
    ((8, 8), (3, 5), (3, 3), 1), ((7, 6), (5, 3), (3, 3), 1), ((6, 7), (4, 4), (5, 5), 1),
    ((5, 8), (1, 7), (2, 4), 1), ((4, 4), (7, 1), (4, 2), 1), ((1, 1), (2, 3), (3, 3), 1),
    ((1, 1), (3, 2), (1, 1), 1), ((3, 2), (17, 16), (1, 3), 1), ((2, 3), (3, 2), (5, 4), 1),
    ((8, 8), (3, 5), (4, 4), 2), ((7, 9), (5, 3), (4, 4), 2), ((9, 6), (1, 3), (3, 3), 2),
    ((1, 1), (2, 2), (4, 4), 2), ((6, 5), (3, 1), (5, 1), 2), ((8, 7), (2, 3), (1, 2), 2),
    ((9, 8), (3, 4), (3, 3), 3), ((7, 10), (4, 3), (5, 4), 3), ((2, 1), (1, 1), (2, 2), 3)])
def test_conv_is_xlas(size, channels, kernel, stride):
    x, k = draw(2, *size, channels[0]), draw(*kernel, *channels, seed=1)
    y, *_ = check(functools.partial(ops.conv, stride=stride),
                  functools.partial(xla_conv, stride=stride), x, k)
    assert y.shape == (2, -(-size[0] // stride), -(-size[1] // stride), channels[1])


@pytest.mark.parametrize('name', ['conv_transpose', 'upsample_conv'])
@pytest.mark.parametrize('size, channels, kernel, factor', [
    ((4, 4), (5, 3), (4, 4), 2), ((3, 5), (3, 5), (3, 3), 2), ((1, 1), (2, 2), (4, 4), 2),
    ((2, 3), (4, 1), (2, 5), 2), ((5, 4), (1, 3), (3, 2), 1), ((3, 3), (2, 3), (4, 4), 1),
    ((2, 4), (3, 2), (3, 5), 3), ((1, 2), (3, 1), (4, 3), 3)])
def test_finer_convolutions_are_xlas(name, size, channels, kernel, factor):
    x, k = draw(2, *size, channels[0]), draw(*kernel, *channels, seed=1)
    y, *_ = check(*(lambda x, k, f=f: f(x, k, factor) for f in PAIRS[name]), x, k)
    assert y.shape == (2, size[0] * factor, size[1] * factor, channels[1])


@pytest.mark.parametrize('kernel', [(1, 1), (1, 3)])
def test_upsample_conv_takes_kernels_smaller_than_its_factor(kernel):
    check(*(lambda x, k, f=f: f(x, k, 2) for f in PAIRS['upsample_conv']),
          draw(2, 3, 4, 3), draw(*kernel, 3, 2, seed=1))


@pytest.mark.parametrize('kernel, stride', [((1, 1), 2), ((3, 2), 3), ((1, 4), 2)])
def test_conv_transpose_refuses_kernels_that_leave_holes(kernel, stride):
    with pytest.raises(ValueError, match='leaves holes'):
        ops.conv_transpose(draw(1, 3, 3, 2), draw(*kernel, 2, 2), stride)


@pytest.mark.parametrize('size', [(8, 8), (7, 6), (5, 9), (1, 1), (1, 4)])
@pytest.mark.parametrize('ties', [False, True])
def test_max_pool_is_xlas_ties_included(size, ties):
    x = draw(3, *size, 5)
    y, _ = check(ops.max_pool, xla_max_pool, x.round() if ties else x)
    assert y.shape == (3, -(-size[0] // 2), -(-size[1] // 2), 5)


def test_max_pool_passes_each_gradient_on_once():
    x = jnp.zeros((1, 4, 4, 1))
    gradient = jax.grad(lambda x: ops.max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], np.tile([[1, 0], [0, 0]], (2, 2)))


@pytest.mark.parametrize('name, kernel', [('conv', (3, 3, 2, 4)), ('conv', (4, 4, 4, 2)),
                                          ('conv_transpose', (4, 4, 2, 3)),
                                          ('upsample_conv', (3, 3, 3, 2))])
def test_second_derivatives_of_a_gradient_penalty_are_xlas(name, kernel):
    """The penalty includes a non-linearity, without which its gradient by x would be zero."""
    def penalty(op, x, k):
        def norm(x, k):
            return (jax.grad(lambda x: jnp.tanh(op(x, k, 2)).sum())(x) ** 2).sum()

        return jax.value_and_grad(norm, (0, 1))(x, k)

    _, slopes = check(*PAIRS[name], draw(2, 5, 4, kernel[2]), draw(*kernel, seed=1), both=penalty)
    assert all(np.abs(s).max() > .01 for s in slopes)


def test_second_derivative_through_pooling_is_xlas():
    def curved(pool, x):
        def norm(x):
            return (jax.grad(lambda x: (pool(x) ** 3).sum())(x) ** 2).sum()

        return jax.grad(norm)(x)

    check(ops.max_pool, xla_max_pool, draw(2, 4, 4, 3), both=curved)


@pytest.mark.parametrize('name', PAIRS)
def test_vmap_over_kernels_is_a_loop_over_kernels(name):
    op = PAIRS[name][0]
    x, kernels = draw(2, 4, 5, 3), draw(3, 3, 3, 3, 2, seed=1)
    mapped, looped = jax.jit(lambda x, k: (
        jax.vmap(functools.partial(pulled, op), (None, 0))(x, k),
        jax.tree.map(lambda *a: jnp.stack(a), *(pulled(PAIRS[name][1], x, k[i])
                                                for i in range(3)))))(x, kernels)
    for a, b in zip(mapped, looped):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_net_of_all_operations_trains_in_a_scan_as_xlas_does():
    """Three steps of gradient descent through every operation, inside lax.scan under jit."""
    def descend(forms, x, kernels):
        conv, up, transpose, pool = forms

        def loss(ks):
            y = jnp.tanh(pool(conv(x, ks[0])))
            return (transpose(jnp.tanh(up(y, ks[1], 2)), ks[2]) ** 2).mean()

        def step(ks, _):
            value, slopes = jax.value_and_grad(loss)(ks)
            return jax.tree.map(lambda k, g: k - .1 * g, ks, slopes), value

        return lax.scan(step, kernels, length=3)

    gen_jax_ops = ops.conv, ops.upsample_conv, ops.conv_transpose, ops.max_pool
    xla_ops = xla_conv, xla_upsample_conv, xla_conv_transpose, xla_max_pool
    kernels = draw(3, 3, 2, 3), draw(3, 3, 3, 3, seed=1), draw(4, 4, 3, 2, seed=2)
    _, values = check(gen_jax_ops, xla_ops, draw(2, 5, 6, 2), kernels, both=descend)
    assert values[2] < values[0]


def test_the_cpu_runs_no_convolution_of_xlas():
    """The compiled program, gradients included, has no convolution, which XLA:CPU runs slowly in a
    scan.
    """
    if jax.default_backend() != 'cpu':
        pytest.skip('the fast forms are for the CPU')
    args = draw(2, 5, 4, 2), draw(3, 3, 2, 2, seed=1)
    for op, _ in PAIRS.values():
        compiled = jax.jit(functools.partial(pulled, op)).lower(*args).compile().as_text()
        assert 'convolution(' not in compiled
