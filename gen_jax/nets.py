"""Networks that build themselves from an example's shape; the only file that imports Flax.

A Net is three pure functions, a Coder an encoder and a decoder.  Kinds: `mlp` and `linear` for
anything, `conv` and `residual` for images (h, w, c) of any size, `recurrent` for sequences (t, f)
and for images, read row by row.  Convolutional nets halve the image once per width, rounding up,
and decoders crop on the way back.
"""
import math
from typing import Any, Callable, NamedTuple, Sequence

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from gen_jax import losses, ops
from gen_jax.types import Array, BadInput, Batch, State, Tree

KINDS = 'mlp', 'conv', 'residual', 'recurrent', 'linear'
NORMS = 'none', 'batch', 'group', 'layer', 'instance', 'spectral'


def leaky(x: Array) -> Array:
    return nn.leaky_relu(x, .2)


def maxout(x: Array) -> Array:
    """The largest of every five outputs (Goodfellow et al. 2013)."""
    return x.reshape(*x.shape[:-1], -1, 5).max(-1)


ACTS = dict(relu=nn.relu, tanh=nn.tanh, leaky=leaky, maxout=maxout,
            gated=nn.glu)  # half of the outputs gates the rest
OUTPUTS = {nn.glu: 2, maxout: 5}  # of a layer for each of its activations


class Net(NamedTuple):
    """init: (key, x) -> (params, buffers); apply: (params, buffers, x) -> y, as in evaluation;
    train: (params, buffers, x) -> (y, new buffers), with the statistics of this batch."""
    init: Callable[[Array, Array], tuple[Tree, Tree]]
    apply: Callable[[Tree, Tree, Array], Array]
    train: Callable[[Tree, Tree, Array], tuple[Array, Tree]]


def net(module: nn.Module) -> Net:
    """A Flax module, called as module(x, train), as a Net."""
    def init(key, x):
        variables = module.init(key, jax.tree.map(lambda a: a[:1], x), False)
        return variables['params'], variables.get('batch_stats', {})

    def apply(params, buffers, x):
        return module.apply({'params': params, 'batch_stats': buffers}, x, False)

    def train(params, buffers, x):
        y, new = module.apply({'params': params, 'batch_stats': buffers}, x, True,
                              mutable=['batch_stats'])
        return y, new.get('batch_stats', {})

    return Net(init, apply, train)


class Convolve(nn.Module):
    """A convolution of gen_jax.ops without bias: op(x, kernel)."""
    op: Callable[[Array, Array], Array]
    size: int
    width: int

    @nn.compact
    def __call__(self, x):
        shape = self.size, self.size, x.shape[-1], self.width
        return self.op(x, self.param('kernel', nn.initializers.lecun_normal(), shape))


class Norm(nn.Module):
    """Batch, group, layer or instance normalisation with a gain and a bias of each channel; of each
    label and channel where there are labels (conditional batch normalisation, Dumoulin et al.
    2017)."""
    norm: str
    labels: int = 0

    @nn.compact
    def __call__(self, x, train, label=None):
        channels = x.shape[-1]
        plain = dict(use_scale=not self.labels, use_bias=not self.labels)
        if self.norm == 'batch':
            x = nn.BatchNorm(use_running_average=not train, momentum=.9, **plain)(x)
        else:  # at least two channels in a group: of one alone nothing would be left
            groups = dict(group=math.gcd(channels, channels // 2, 8), layer=1, instance=channels)
            x = nn.GroupNorm(num_groups=groups[self.norm], **plain)(x)
        if not self.labels:
            return x
        gain, bias = (nn.Embed(self.labels, channels, embedding_init=start, name=name)(label)
                      .reshape(-1, *(1,) * (x.ndim - 2), channels)
                      for name, start in (('gain', nn.initializers.ones),
                                          ('shift', nn.initializers.zeros)))
        return x * gain + bias


class Block(nn.Module):
    """Linear map, normalisation, max-pooling where asked for, bias, activation.

    Without a normalisation that could flip signs, pooling comes before bias and activation: it
    commutes with both and leaves them a quarter of the work.
    """
    linear: Callable[..., nn.Module]
    norm: str = 'none'
    act: Callable[[Array], Array] = nn.relu
    pool: bool = False
    bias: Any = nn.initializers.zeros
    labels: int = 0

    @nn.compact
    def __call__(self, x, train, label=None):
        if self.norm == 'spectral':
            x = nn.SpectralNorm(self.linear())(x, update_stats=train)
        else:
            x = self.linear()(x)
        if self.norm not in ('none', 'spectral'):
            x = self.act(Norm(self.norm, self.labels)(x, train, label))
            return ops.max_pool(x) if self.pool else x
        x = ops.max_pool(x) if self.pool else x
        return self.act(x + self.param('bias', self.bias, x.shape[-1:]))


class Residual(nn.Module):
    """act(x + two 3x3 convolutions of x), x by a 1x1 convolution where the width changes (He et al.
    2016)."""
    width: int
    norm: str = 'none'
    act: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x, train):
        conv = convolve(ops.conv, 3, self.width)
        y = Block(conv, self.norm, self.act)(x, train)
        y = Block(conv, self.norm, identity)(y, train)
        if x.shape[-1] != self.width:
            x = Convolve(ops.conv, 1, self.width)(x)
        return self.act(x + y)


class Prepared(nn.Module):
    """Normalisation and activation alone."""
    norm: str
    act: Callable[[Array], Array]
    labels: int = 0

    @nn.compact
    def __call__(self, x, train, label=None):
        if self.norm not in ('none', 'spectral'):
            x = Norm(self.norm, self.labels)(x, train, label)
        return self.act(x)


class Resample(nn.Module):
    """A residual block as of SNGAN (Miyato et al. 2018): normalisation and activation come before
    each of its two 3x3 convolutions, and images leave it half or twice as large.

    change: `down` (average pooling), `up` (nearest) or `none`; raw: whether images come in as they
    are, not to be normalised or cut off.
    """
    width: int
    change: str
    norm: str = 'none'
    act: Callable[[Array], Array] = nn.relu
    labels: int = 0
    raw: bool = False

    @nn.compact
    def __call__(self, x, train, label=None):
        spectral = 'spectral' if self.norm == 'spectral' else 'none'

        def ready(x):
            return Prepared(self.norm, self.act, self.labels)(x, train, label)

        def conv(x, op, size):
            return Block(convolve(op, size, self.width), spectral, identity)(x, train)

        larger = self.change == 'up'
        y = conv(x if self.raw else ready(x), ops.upsample_conv if larger else ops.conv, 3)
        y = conv(ready(y), ops.conv, 3)
        if self.change != 'none' or x.shape[-1] != self.width:
            x = conv(x, ops.conv, 1)  # pooling and copying commute with it
        if self.change == 'down':
            return mean_pool(x + y)
        return (x.repeat(2, 1).repeat(2, 2) if larger else x) + y


class Total(nn.Module):
    """The sum over an image's places, (n, h, w, c) -> (n, c), after an activation."""
    act: Callable[[Array], Array]

    def __call__(self, x, train):
        return self.act(x).sum((1, 2))


class Read(nn.Module):
    """Gated recurrent units over sequences (n, t, f), a layer per width: the last state (n, w)."""
    width: Sequence[int]

    @nn.compact
    def __call__(self, x, train):
        for w in self.width:
            x = nn.RNN(nn.GRUCell(w))(x)
        return x[:, -1]


class Write(nn.Module):
    """Codes (n, latent) to sequences (n, t, f) by gated recurrent units that see the code at every
    step, a layer per width."""
    width: Sequence[int]
    steps: int

    @nn.compact
    def __call__(self, z, train):
        x = jnp.broadcast_to(z[:, None], (len(z), self.steps, z.shape[-1]))
        for w in self.width:
            x = nn.RNN(nn.GRUCell(w))(x)
        return x


class DenseImage(nn.Module):
    """A dense layer from vectors to images of the given shape, without bias."""
    shape: Sequence[int]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(math.prod(self.shape), use_bias=False)(x).reshape(-1, *self.shape)


class Reshape(nn.Module):
    """Vectors to examples of the given shape."""
    shape: Sequence[int]

    def __call__(self, x, train):
        return x.reshape(len(x), *self.shape)


class Pool(nn.Module):
    """2x2 max-pooling of images."""

    def __call__(self, x, train):
        return ops.max_pool(x)


class Crop(nn.Module):
    """The first rows and columns of images, up to the given size."""
    size: Sequence[int]

    def __call__(self, x, train):
        return x[:, :self.size[0], :self.size[1]]


def dense(width, act=None):
    return lambda: nn.Dense(OUTPUTS.get(act, 1) * width, use_bias=False)


def convolve(op, size, width):
    return lambda: Convolve(op, size, width)


def strided(x, kernel):
    return ops.conv(x, kernel, stride=2)


def mean_pool(x):
    """The mean of each 2 x 2 block, the last row and column doubled where their number is odd:
    (n, h, w, c) -> (n, ceil(h/2), ceil(w/2), c)."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode='edge')
    return x.reshape(n, -(-h // 2), 2, -(-w // 2), 2, c).mean((2, 4))


class Layers(nn.Module):
    """Modules called as module(x, train), one after the other; of a pair (x, label), those with
    labels see the label too."""
    blocks: Sequence[nn.Module]

    def __call__(self, x, train):
        x, *label = x if isinstance(x, tuple) else (x,)
        for block in self.blocks:
            x = block(x, train, *(label if getattr(block, 'labels', 0) else ()))
        return x


def identity(x):
    return x


def encoder(shape: Sequence[int], out: int | None, *, kind: str = 'mlp', width: Sequence[int],
            norm: str = 'none', down: str = 'pool', act: Callable | str = 'relu') -> Net:
    """x (n, *shape) -> codes (n, out), or the last features themselves where out is None.

    mlp: dense layers of `width`.  linear: none; `width` has no meaning.  conv: 3x3 convolutions of
    `width`, each followed by 2x2 max-pooling (down='pool'), or 4x4 convolutions of stride 2
    (down='stride', as in DCGAN).  residual: per width a residual block and pooling; with
    down='stride' SNGAN's blocks, and the sum over places at the end.  recurrent: gated recurrent
    units, a layer per width.
    act: a function, or one of ACTS, of which `gated` and `maxout` are for mlp alone.
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
            act: Callable | str = 'relu', labels: int = 0) -> Net:
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
        raise BadInput('this model is for images and vectors, but the data set holds text; '
                       'use --config=configs/text.py')
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


class Spelled(nn.Module):
    """Symbols (n, t) to codes (n, latent): gated recurrent units read up to the first padding (0),
    and a dense layer takes in all their states, zeros from there on."""
    symbols: int
    latent: int
    width: int
    embed: int

    @nn.compact
    def __call__(self, x, train):
        states = nn.RNN(nn.GRUCell(self.width))(nn.Embed(self.symbols, self.embed)(x))
        states = jnp.where(before_padding(x)[..., None], states, 0)
        return nn.Dense(self.latent)(states.reshape(len(x), -1))


class Spell(nn.Module):
    """Codes to symbols: a dense layer gives each place its part of the code (embed,), which gated
    recurrent units see next to the symbol before; the code is also where they start."""
    symbols: int
    width: int
    embed: int
    length: int

    def setup(self):
        self.first, self.parts = nn.Dense(self.width), nn.Dense(self.length * self.embed)
        self.embedding = nn.Embed(self.symbols + 1, self.embed)  # the last where none is given
        self.cell, self.out = nn.GRUCell(self.width), nn.Dense(self.symbols)
        self.units = nn.RNN(self.cell)

    def begin(self, z):
        """The first state (n, w), and the parts of the code (n, t, embed)."""
        return jnp.tanh(self.first(z)), self.parts(z).reshape(-1, self.length, self.embed)

    def inputs(self, before, parts):
        return jnp.concatenate([self.embedding(before), parts], -1)

    def __call__(self, z, x):
        """Logits (n, t, symbols) of each symbol, given those before it in x (n, t)."""
        state, parts = self.begin(z)
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=self.symbols)
        return self.out(self.units(self.inputs(before, parts), initial_carry=state))

    def step(self, state, part, before):
        """The next state, and the logits (n, symbols) of the symbol after `before` (n,)."""
        state, y = self.cell(state, self.inputs(before, part))
        return state, self.out(y)


class Speller(NamedTuple):
    """init: (key, z) -> params; logits: (params, z, x) -> (n, t, symbols), each given the symbols
    before it in x (n, t), of which `symbols` itself says nothing; greedy: (params, z) -> symbols
    (n, t), the likeliest each time, given those chosen before, and 0 after the first 0."""
    init: Callable[[Array, Array], Tree]
    logits: Callable[[Tree, Array, Array], Array]
    greedy: Callable[[Tree, Array], Array]


def sequence_encoder(symbols: int, latent: int, *, width: int, embed: int) -> Net:
    """Symbols (n, t), 0 for padding, to codes (n, latent), by `width` gated recurrent units."""
    _check_sequence(latent=latent, width=width, embed=embed)
    return net(Spelled(symbols, latent, width, embed))


def sequence_decoder(symbols: int, length: int, *, width: int, embed: int) -> Speller:
    """Codes (n, latent) to symbols (n, length), by `width` gated recurrent units."""
    _check_sequence(width=width, embed=embed)
    module = Spell(symbols, width, embed, length)

    def init(key, z):
        return module.init(key, z[:1], jnp.zeros((1, length), jnp.int32))['params']

    def logits(params, z, x):
        return module.apply({'params': params}, z, x)

    def greedy(params, z):
        def step(carry, part):
            state, before, done = carry
            state, y = module.apply({'params': params}, state, part, before, method='step')
            y = jnp.where(done, 0, y.argmax(-1).astype(jnp.int32))
            return (state, y, done | (y == 0)), y

        state, parts = module.apply({'params': params}, z, method='begin')
        before = jnp.full(len(z), symbols, jnp.int32)
        start = state, before, jnp.zeros(len(z), bool)
        return lax.scan(step, start, parts.swapaxes(0, 1))[1].T

    return Speller(init, logits, greedy)


def before_padding(x: Array) -> Array:
    """Which symbols of x (n, t) come before the first padding."""
    return jnp.cumsum(x == 0, axis=1) == 0


def _act(act, kind):
    if callable(act):
        return act
    if act not in ACTS:
        raise BadInput(f'unknown act {act!r}; choose one of {", ".join(ACTS)}')
    if ACTS[act] in OUTPUTS and kind != 'mlp':
        raise BadInput(f"act {act!r} is for kind 'mlp', not {kind!r}; use act='relu'")
    return ACTS[act]


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


def _check_sequence(**sizes):
    for name, size in sizes.items():
        if size < 1:
            raise BadInput(f'{name} must be at least 1, not {size}')
