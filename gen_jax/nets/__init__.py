"""Networks that build themselves from an example's shape; the only file that imports Flax.

A Net is three pure functions, a Coder an encoder and a decoder.  Kinds: `mlp` and `linear` for
anything, `conv` and `residual` for images (h, w, c) of any size, `recurrent` for sequences (t, f)
and for images, read row by row.  Convolutional nets halve the image once per width, rounding up,
and decoders crop on the way back.
"""
import math
from typing import Callable, NamedTuple, Sequence

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from gen_jax import losses, ops
from gen_jax.nets import layers
from gen_jax.nets.layers import (Block, Crop, DenseImage, Layers, Net, Pool, Prepared, Read,
                                 Resample, Reshape, Residual, Total, Write, convolve, dense,
                                 identity, net, strided)
from gen_jax.types import Array, BadInput, Batch, State, Tree

KINDS = 'mlp', 'conv', 'residual', 'recurrent', 'linear'
NORMS = 'none', 'batch', 'group', 'layer', 'instance', 'spectral'


def encoder(shape: Sequence[int], out: int | None, *, kind: str = 'mlp', width: Sequence[int],
            norm: str = 'none', down: str = 'pool', act: str = 'relu') -> Net:
    """x (n, *shape) -> codes (n, out), or the last features themselves where out is None.

    mlp: dense layers of `width`.  linear: none; `width` has no meaning.  conv: 3x3 convolutions of
    `width`, each followed by 2x2 max-pooling (down='pool'), or 4x4 convolutions of stride 2
    (down='stride', as in DCGAN).  residual: per width a residual block and pooling; with
    down='stride' SNGAN's blocks, and the sum over places at the end.  recurrent: gated recurrent
    units, a layer per width.
    act: one of layers.ACTS, of which `gated` and `maxout` are for mlp alone.
    Raises BadInput for an unknown kind or norm, an empty code, or a kind that the shape is not for.
    """
    _check(shape, out, kind, norm, width)
    act = _act(act, kind)
    if kind == 'linear':
        blocks = [Reshape((-1,))]
    elif kind == 'mlp':
        blocks = [Reshape((-1,)), *(Block(dense(w, act), norm, act) for w in width)]
    elif kind == 'recurrent':
        blocks = [Reshape(_rows(shape)), Read(tuple(width))]
    elif kind == 'residual' and down == 'stride':
        blocks = [Resample(w, 'down', norm, act, raw=not i) for i, w in enumerate(width)]
        blocks += [Resample(width[-1], 'none', norm, act), Total(act)]
    elif kind == 'residual':
        blocks = [b for w in width for b in (Residual(w, norm, act), Pool())]
    elif down == 'pool':
        blocks = [Block(convolve(ops.conv, 3, w), norm, act, pool=True) for w in width]
    else:  # DCGAN: no batch normalisation where the image comes in
        norms = ['none' if norm == 'batch' else norm] + [norm] * (len(width) - 1)
        blocks = [Block(convolve(strided, 4, w), n, act) for w, n in zip(width, norms)]
    if out is not None:
        plain = 'spectral' if norm == 'spectral' else 'none'
        blocks += [Reshape((-1,)), Block(dense(out), plain, identity)]
    return net(Layers(blocks))


def decoder(example: Array, latent: int | None, *, kind: str = 'mlp', width: Sequence[int],
            norm: str = 'none', up: str = 'nearest', output: Callable | None = None,
            act: str = 'relu', labels: int = 0) -> Net:
    """codes (n, latent) -> examples (n, *shape) before `output`, by default link(example, kind).

    mlp, linear, recurrent: the encoder's layers the other way round.  conv: a dense layer to the
    coarsest image (none where latent is None: the code is that image), then per width nearest
    upsampling and a 3x3 convolution, after one 3x3 convolution of width[0] (up='nearest', the
    survey's), or transposed 4x4 convolutions of stride 2 (up='transpose', as in DCGAN).  residual:
    per width a residual block and nearest upsampling; with up='transpose' SNGAN's blocks.  The
    output's bias starts where the constant output that fits `example` best lies: without it a ReLU
    net with a sigmoid often paints black for ever.
    labels: of pairs (code, label) each normalisation has gain and bias of the label.
    """
    if not jnp.issubdtype(example.dtype, jnp.floating):
        raise BadInput(f'this model is for images and vectors, but the data set holds '
                       f'{example.dtype} of shape {tuple(example.shape[1:])}, which are text; use '
                       '--config=configs/text.py, or say what they are by --config.data.range=real')
    shape = tuple(example.shape[1:])
    _check(shape, latent, kind, norm, width)
    if labels and (norm in ('none', 'spectral') or kind == 'linear'):
        raise BadInput(f'labels are told to normalisations, of which kind {kind!r} with norm '
                       f"{norm!r} has none; use norm 'batch', 'group' or 'layer', or told 'concat'")
    act = _act(act, kind)
    plain = 'spectral' if norm == 'spectral' else 'none'

    def last(linear, start):
        start = losses.logit(start) if (output or link(example, kind)) is nn.sigmoid else start
        return Block(linear, plain, identity, bias=lambda key, size: start.reshape(size))

    if kind in ('mlp', 'linear'):
        blocks = [Block(dense(w, act), norm, act, labels=labels)
                  for w in (width if kind == 'mlp' else ())]
        return net(Layers([*blocks, last(dense(math.prod(shape)), example.mean(0)),
                           Reshape(shape)]))
    if kind == 'recurrent':
        steps, features = _rows(shape)
        mean = example.reshape(-1, features).mean(0)
        return net(Layers([Write(tuple(width), steps), last(dense(features), mean),
                           Reshape(shape)]))
    sizes = [shape[:2]]
    for _ in width:
        sizes.append(tuple(-(-s // 2) for s in sizes[-1]))
    coarse = *sizes[-1], width[0]
    if kind == 'residual' and up == 'transpose':
        blocks = [Block(lambda: DenseImage(coarse), 'none', identity)]
        for w, size in zip((*width[1:], width[-1]), sizes[-2::-1]):
            blocks += [Resample(w, 'up', norm, act, labels), Crop(size)]
        return net(Layers([*blocks, Prepared(norm, act, labels),
                           last(convolve(ops.conv, 3, shape[-1]), example.mean((0, 1, 2)))]))
    op, k = (ops.upsample_conv, 3) if up == 'nearest' else (ops.conv_transpose, 4)
    blocks = []
    if latent is not None:
        blocks += [Block(lambda: DenseImage(coarse), norm, act, labels=labels)]
    if kind == 'residual':
        blocks += [Residual(width[0], norm, act)]
    elif up == 'nearest':
        blocks += [Block(convolve(ops.conv, 3, width[0]), norm, act)]
    for w, size in zip(width[1:], sizes[-2:0:-1]):
        blocks += [Block(convolve(op, k, w), norm, act, labels=labels), Crop(size)]
        blocks += [Residual(w, norm, act)] if kind == 'residual' else []
    return net(Layers([*blocks, last(convolve(op, k, shape[-1]), example.mean((0, 1, 2))),
                       Crop(shape[:2])]))


def after(net: Net, act: Callable[[Array], Array]) -> Net:
    """The net followed by a function of arrays."""
    def train(params, buffers, x):
        y, new = net.train(params, buffers, x)
        return act(y), new

    return Net(net.init, lambda *args: act(net.apply(*args)), train)


def chain(first: Net, second: Net) -> Net:
    """The second net after the first, their parameters dict(first=.., second=..)."""
    def init(key, x):
        keys = jax.random.split(key)
        ours = first.init(keys[0], x)
        theirs = second.init(keys[1], first.apply(*ours, x[:1]))
        return tuple(dict(first=a, second=b) for a, b in zip(ours, theirs))

    def apply(params, buffers, x):
        y = first.apply(params['first'], buffers['first'], x)
        return second.apply(params['second'], buffers['second'], y)

    def train(params, buffers, x):
        y, seen = first.train(params['first'], buffers['first'], x)
        y, made = second.train(params['second'], buffers['second'], y)
        return y, dict(first=seen, second=made)

    return Net(init, apply, train)


def shared(net: Net) -> Net:
    """The net for pairs (x, label), blind to the label."""
    return Net(lambda key, pair: net.init(key, pair[0]),
               lambda params, buffers, pair: net.apply(params, buffers, pair[0]),
               lambda params, buffers, pair: net.train(params, buffers, pair[0]))


def each(net: Net, labels: int) -> Net:
    """So many copies of the net, vmapped, their parameters stacked; of pairs (x, label) every
    example goes through the copy of its label.

    In training a copy sees half as many examples again as there would be in a batch of equal
    shares, its own first, or the whole batch where some label has more than that.
    """
    def pick(y, label):
        return y[label, jnp.arange(len(label))]

    def apply(params, buffers, pair):
        x, label = pair
        return pick(jax.vmap(net.apply, (0, 0, None))(params, buffers, x), label)

    def train(params, buffers, pair):
        x, label = pair
        own = label == jnp.arange(labels)[:, None]
        room = -(-3 * len(label) // (2 * labels))

        def whole():
            y, new = jax.vmap(net.train, (0, 0, None))(params, buffers, x)
            return pick(y, label), new

        def shares():
            rows = jnp.argsort(~own, axis=1, stable=True)[:, :room]
            y, new = jax.vmap(net.train)(params, buffers, x[rows])
            return y[label, pick(jnp.cumsum(own, axis=1) - 1, label)], new

        return lax.cond(own.sum(1).max() <= room, shares, whole)

    def init(key, pair):
        return jax.vmap(net.init, (0, None))(jax.random.split(key, labels), pair[0])

    return Net(init, apply, train)


def conditioned(net: Net, labels: int) -> Net:
    """The net for pairs (x, label): x with the label's indicator behind its last axis, at every
    place of an image or a sequence."""
    def join(pair):
        x, label = pair
        told = jax.nn.one_hot(label, labels).reshape(len(x), *(1,) * (x.ndim - 2), labels)
        return jnp.concatenate([x, jnp.broadcast_to(told, (*x.shape[:-1], labels))], -1)

    return Net(lambda key, pair: net.init(key, join(pair)),
               lambda params, buffers, pair: net.apply(params, buffers, join(pair)),
               lambda params, buffers, pair: net.train(params, buffers, join(pair)))


def link(example: Array, kind: str, logits: bool = False) -> Callable[[Array], Array]:
    """The output's link function: a sigmoid for data in [0, 1], none elsewhere; and none for kind
    `linear` unless the loss wants logits."""
    return nn.sigmoid if logits or losses.in_unit(example) and kind != 'linear' else identity


class Coder(NamedTuple):
    """An encoder and a decoder as one player's: its parameters are dict(encoder=.., decoder=..)."""
    player: str
    encoder: Net
    decoder: Net
    link: Callable[[Array], Array]

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, buffers = self.encoder.init(keys[0], batch.x)
        z = self.encoder.apply(params, buffers, batch.x[:1])
        made = dict(encoder=(params, buffers), decoder=self.decoder.init(keys[1], z))
        return {n: p for n, (p, _) in made.items()}, {n: b for n, (_, b) in made.items()}

    def _of(self, state: State, net: str):
        return state.params[self.player][net], state.buffers[self.player][net]

    def train(self, state: State, x: Array) -> tuple[Array, Array, Tree]:
        """The code of x, its decoding before the link, and the player's new buffers."""
        z, seen = self.encoder.train(*self._of(state, 'encoder'), x)
        y, made = self.decoder.train(*self._of(state, 'decoder'), z)
        return z, y, dict(encoder=seen, decoder=made)

    def encode(self, state: State, x: Array) -> Array:
        return self.encoder.apply(*self._of(state, 'encoder'), x)

    def logits(self, state: State, z: Array) -> Array:
        """The decoding of z before the link."""
        return self.decoder.apply(*self._of(state, 'decoder'), z)

    def decode(self, state: State, z: Array) -> Array:
        return self.link(self.logits(state, z))


def coder(player: str, example: Array, latent: int | None, *, kind: str, width: Sequence[int],
          norm: str = 'none', logits: bool = False) -> Coder:
    """The encoder of `kind` for examples such as these, and the decoder the other way round.

    latent: size of the code; None for the bare features, with kind `conv` or `residual`.  logits:
    whether the loss wants them.
    """
    if latent is None and kind not in ('conv', 'residual'):
        raise BadInput(f'kind {kind!r} needs a size of the code; give --config.model.latent')
    output = link(example, kind, logits)
    hyper = dict(kind=kind, norm=norm)
    return Coder(player, encoder(example.shape[1:], latent, width=width, **hyper),
                 decoder(example, latent, width=width[::-1], output=output, **hyper), output)


def _act(act, kind):
    if act not in layers.ACTS:
        raise BadInput(f'unknown act {act!r}; choose one of {", ".join(layers.ACTS)}')
    if layers.ACTS[act] in layers.OUTPUTS and kind != 'mlp':
        raise BadInput(f"act {act!r} is for kind 'mlp', not {kind!r}; use act='relu'")
    return layers.ACTS[act]


def _rows(shape):
    return shape[0], math.prod(shape[1:])


def _check(shape, code, kind, norm, width):
    for what, value, known in ('kind', kind, KINDS), ('norm', norm, NORMS):
        if value not in known:
            raise BadInput(f'unknown {what} {value!r}; choose one of {", ".join(known)}')
    if code is not None and code < 1:
        raise BadInput(f'latent must be at least 1, not {code}')
    if not width or min(width) < 1:
        raise BadInput('width must hold at least one number, all of them positive')
    if kind in ('conv', 'residual') and len(shape) != 3:
        raise BadInput(f"kind {kind!r} needs images (h, w, c), but an example here has shape "
                       f"{tuple(shape)}; use kind='mlp'")
    if kind == 'recurrent' and len(shape) < 2:
        raise BadInput(f"kind 'recurrent' needs sequences (t, f) or images, but an example here "
                       f"has shape {tuple(shape)}; use kind='mlp'")
    if norm == 'instance' and kind not in ('conv', 'residual'):
        raise BadInput(f"norm 'instance' is for images, not for kind {kind!r}; use norm 'layer'")
    if kind == 'recurrent' and norm != 'none':
        raise BadInput(f"kind 'recurrent' has no norm {norm!r}; use norm='none'")
