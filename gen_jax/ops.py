"""The few array operations that XLA does badly on a CPU, each with the plain form beside it.

Inside `lax.scan` XLA:CPU runs the gradients of a convolution up to 50 times slower than they need
be (jax issue 12868, openxla/xla 34273).  Here each operation has two forms of the same function:
`plain`, XLA's own, for GPU and TPU, and `fast`, for the CPU, where a convolution is one matrix
product around an unfolding of whichever side has the fewer channels.  Images are NHWC, kernels
HWIO, and every operation has reverse-mode derivatives of any order (no forward mode).
"""
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

NHWC = ('NHWC', 'HWIO', 'NHWC')


def two_ways(fast, plain):
    """One function of arrays in two forms: `fast` on CPU, `plain` elsewhere, gradients included.

    Only the arguments are kept for the backward pass, which differentiates the form that ran.
    """
    def pull(form):
        return lambda g, *args: jax.vjp(form, *args)[1](g)

    @jax.custom_vjp
    def op(*args):
        return lax.platform_dependent(*args, cpu=fast, default=plain)

    op.defvjp(lambda *args: (op(*args), args),
              lambda args, g: lax.platform_dependent(g, *args, cpu=pull(fast), default=pull(plain)))
    return op


def unfold(x, a, b):
    """The a x b patches of x: (n, h, w, c) -> (n, h - a + 1, w - b + 1, a * b * c)."""
    n, h, w, c = x.shape
    h, w = h - a + 1, w - b + 1
    windows = [x[:, i:i + h, j:j + w] for i in range(a) for j in range(b)]
    return jnp.stack(windows, 3).reshape(n, h, w, a * b * c)


def fold(y, a, b, c):
    """Sums of the a x b patches of c channels in y where they meet, unfold's transpose:
    (n, h, w, a * b * c or more) -> (n, h - a + 1, w - b + 1, c)."""
    h, w = y.shape[1] - a + 1, y.shape[2] - b + 1
    window = lambda i, j, k: y[:, i:i + h, j:j + w, k * c:(k + 1) * c]
    return sum(window(i, j, i * b + j) for i in range(a) for j in range(b))


def pad(x, low, high):
    """Zeros around the two spatial axes of x, `low` (rows, columns) before and `high` after."""
    return jnp.pad(x, ((0, 0), (low[0], high[0]), (low[1], high[1]), (0, 0)))


def product(x, matrix):
    """x @ matrix, its columns padded to whole 64-byte vectors, as the CPU wants them."""
    return x @ jnp.pad(matrix, ((0, 0), (0, -matrix.shape[1] % 16)))


def outer(x, y):
    """Sum of x_i y_j over every leading axis, the wider of the two as the product's columns."""
    if x.shape[-1] > y.shape[-1]:  # the barrier keeps XLA from turning the product round again
        return lax.optimization_barrier(outer(y, x)).T
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    return lax.dot_general(x, y, (((0,), (0,)), ((), ())))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def correlate(x, kernel, low=(0, 0), high=(0, 0)):
    """Stride-1 convolution of x padded by low and high, as one matrix product: every fast form."""
    a, b, c, o = kernel.shape
    x = pad(x, low, high)
    if c <= o:
        return product(unfold(x, a, b), kernel.reshape(-1, o))[..., :o]
    return fold(product(x, kernel.transpose(2, 0, 1, 3).reshape(c, -1)), a, b, o)


def _correlate_pull(low, high, args, g):
    x, kernel = args
    a, b, c, o = kernel.shape
    around = (a - 1 - low[0], b - 1 - low[1]), (a - 1 - high[0], b - 1 - high[1])
    dx = correlate(g, kernel[::-1, ::-1].swapaxes(2, 3), *around)
    if c <= o:
        return dx, outer(unfold(pad(x, low, high), a, b), g).reshape(kernel.shape)
    dk = outer(x, unfold(pad(g, *around), a, b)).reshape(c, a, b, o)
    return dx, dk[:, ::-1, ::-1].transpose(1, 2, 0, 3)


correlate.defvjp(lambda x, kernel, low, high: (correlate(x, kernel, low, high), (x, kernel)),
                 _correlate_pull)


def _same(size, k, stride):
    """Zeros (before, after) an axis that 'SAME' asks for: its output is ceil(size / stride)."""
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    return total // 2, total - total // 2


@functools.cache
def _conv(stride):
    def fast(x, kernel):
        a, b, c, o = kernel.shape
        low, high = zip(_same(x.shape[1], a, stride), _same(x.shape[2], b, stride))
        if stride > 1:  # space to depth: stride s is stride 1 over s x s times the channels
            kernel = jnp.pad(kernel, ((0, -a % stride), (0, -b % stride), (0, 0), (0, 0)))
            a, b = kernel.shape[0] // stride, kernel.shape[1] // stride
            kernel = kernel.reshape(a, stride, b, stride, c, o).swapaxes(1, 2)
            kernel = kernel.reshape(a, b, -1, o)
            x = pad(x, low, high)
            n, h, w, _ = x.shape
            x = pad(x, (0, 0), (-h % stride, -w % stride))
            low = high = (0, 0)
            h, w = x.shape[1] // stride, x.shape[2] // stride
            x = x.reshape(n, h, stride, w, stride * c)
            x = jnp.concatenate([x[:, :, i] for i in range(stride)], -1)
        return correlate(x, kernel, low, high)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=NHWC)

    return two_ways(fast, plain)


def conv(x, kernel, stride=1):
    """'SAME' convolution: x (n, h, w, c), kernel (k, l, c, o) -> (n, ceil(h/s), ceil(w/s), o).

    >>> conv(jnp.zeros((1, 8, 8, 3)), jnp.zeros((3, 3, 3, 16)), stride=2).shape
    (1, 4, 4, 16)
    """
    return _conv(stride)(x, kernel)


def _phases(x, kernel, taps):
    """Convolution onto a grid s times finer, as one stride-1 convolution whose outputs interleave.

    Row s * i + p of the result sums kernel[t] * x[i + d] over the pairs (d, t) in taps(k)[p]; so
    does each column.  Each phase p has a small kernel of its own; all share one product.
    """
    n, h, w, _ = x.shape
    low, high, starts, place = zip(*(_place(taps, k) for k in kernel.shape[:2]))
    small = jnp.einsum('pdt,qeu,tuco->decpqo', *place, kernel)
    y = correlate(x, small.reshape(*small.shape[:3], -1), low, high)
    s, o = len(starts[0]), kernel.shape[-1]
    y = iter(lax.split(y, [o] * s * s, axis=3))
    rows = [jnp.stack([next(y)[:, i:i + h, j:j + w] for j in starts[1]], 3) for i in starts[0]]
    return jnp.stack(rows, 2).reshape(n, s * h, s * w, o)


def _place(taps, k):
    """(zeros before, zeros after, first row of each phase, 0/1 array phase x offset x tap)."""
    pairs = taps(k)
    first = [min(d for d, _ in phase) for phase in pairs]
    width = max(d - f + 1 for phase, f in zip(pairs, first) for d, _ in phase)
    place = np.zeros((len(pairs), width, k), np.float32)
    for p, phase in enumerate(pairs):
        for d, t in phase:
            place[p, d - first[p], t] = 1
    low = min(first)
    return -low, max(first) + width - 1, [f - low for f in first], place


@functools.cache
def _conv_transpose(stride):
    def taps(k):  # lax.conv_transpose's 'SAME': input dilated by s, then padded by `before`
        before = -(-(k + stride - 2) // 2)
        return [[((p + t - before) // stride, t) for t in range(k)
                 if (p + t - before) % stride == 0] for p in range(stride)]

    def plain(x, kernel):
        return lax.conv_transpose(x, kernel, (stride, stride), 'SAME', dimension_numbers=NHWC)

    return two_ways(lambda x, kernel: _phases(x, kernel, taps), plain)


def conv_transpose(x, kernel, stride=2):
    """'SAME' transposed convolution: (n, h, w, c), (k, l, c, o) -> (n, s * h, s * w, o).

    Raises ValueError for a kernel smaller than the stride, which would leave holes.
    """
    if min(kernel.shape[:2]) < stride:
        raise ValueError(f'a kernel of {kernel.shape[:2]} leaves holes at stride {stride}')
    return _conv_transpose(stride)(x, kernel)


@functools.cache
def _upsample_conv(factor):
    def taps(k):
        before = (k - 1) // 2
        return [[((p + t - before) // factor, t) for t in range(k)] for p in range(factor)]

    def plain(x, kernel):
        x = x.repeat(factor, 1).repeat(factor, 2)
        return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC)

    return two_ways(lambda x, kernel: _phases(x, kernel, taps), plain)


def upsample_conv(x, kernel, factor=2):
    """Nearest upsampling, then 'SAME' convolution: (n, h, w, c) -> (n, f * h, f * w, o)."""
    return _upsample_conv(factor)(x, kernel)


def _max_pool_plain(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')


def _max_pool_fast(x):
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
    a, b, c, d = (x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    first = lambda u, v: jnp.where(u >= v, u, v)  # its gradient goes to the first of two equals
    return first(first(a, b), first(c, d))


max_pool = two_ways(_max_pool_fast, _max_pool_plain)
max_pool.__doc__ = """Largest of each 2 x 2 block: (n, h, w, c) -> (n, ceil(h/2), ceil(w/2), c)."""
