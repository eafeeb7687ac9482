"""Networks that build themselves from an example's shape; the only folder that imports Flax.

A Net is three pure functions, Nets an architecture: a file here, whose `make` gives encoder and
decoder as values, with the keys in its signature.  A Coder is both as one player's.
"""
import inspect
import pkgutil
import sys
from typing import Callable, NamedTuple

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from gen_jax import losses, parts
from gen_jax.nets import layers
from gen_jax.nets.layers import Net, Nets, identity
from gen_jax.parts import Spec
from gen_jax.types import Array, BadInput, Batch, State, Tree

NORMS = 'none', 'batch', 'group', 'layer', 'instance', 'spectral'
OTHERS = 'layers', 'sequences'
NAMES = tuple(sorted({m.name for m in pkgutil.iter_modules(__path__)} - set(OTHERS)))


def make(name: str, **keys) -> Nets:
    """The architecture of a file here, or of a module with dots in its name, with the keys that
    its `make` has.

    norm: one of NORMS; activation: one of layers.ACTIVATIONS, of which `glu` and `maxout` are for
    mlp alone.
    Raises BadInput for an unknown name, key or norm, an empty code, or examples that the
    architecture is not for.
    """
    module = parts.find_module(sys.modules[__name__], 'net', name, OTHERS)
    known = {k: p.default for k, p in inspect.signature(module.make).parameters.items()}
    if unknown := keys.keys() - known.keys():
        raise BadInput(f'net {name!r} has no {min(unknown)}; it has {", ".join(known)}')
    keys = known | keys
    norm, width = keys.get('norm', 'none'), keys.get('width', (1,))
    if norm not in NORMS:
        raise BadInput(f'unknown norm {norm!r}; choose one of {", ".join(NORMS)}')
    if isinstance(width, (tuple, list)) and (not width or min(width) < 1):
        raise BadInput('width must hold at least one number, all of them positive')
    net = module.make(**keys)
    if norm == 'instance' and not net.images_only:
        raise BadInput(f"norm 'instance' is for images, not for net {name!r}; use norm 'layer'")

    def check(shape, code):
        if code is not None and code < 1:
            raise BadInput(f'latent must be at least 1, not {code}')
        if net.images_only and len(shape) != 3:
            raise BadInput(f'net {name!r} needs images (h, w, c), but an example here has shape '
                           f'{tuple(shape)}; use --config.net.name=mlp')

    def encoder(shape, out):
        check(shape, out)
        return net.encoder(tuple(shape), out)

    def decoder(example, latent, output, labels):
        if not jnp.issubdtype(example.dtype, jnp.floating):
            raise BadInput(f'this model is for images and vectors, but the data set holds '
                           f'{example.dtype} of shape {tuple(example.shape[1:])}, which are text; '
                           'use --config=configs/text.py, or say what they are by '
                           '--config.data.range=real')
        check(example.shape[1:], latent)
        if labels and (norm in ('none', 'spectral') or not net.has_norm):
            raise BadInput(f'generator_conditioning norm needs a normalisation, and net {name!r} '
                           f"with norm {norm!r} has none; use norm 'batch', 'group' or 'layer', "
                           "or generator_conditioning 'concat'")
        return net.decoder(example, latent, output, labels)

    return net._replace(encoder=encoder, decoder=decoder, spec=Spec(make, dict(name=name) | keys))


def compose(net: Net, activation: Callable[[Array], Array]) -> Net:
    """The net followed by a function of arrays."""
    def train(params, buffers, x):
        y, new = net.train(params, buffers, x)
        return activation(y), new

    return Net(net.init, lambda *args: activation(net.apply(*args)), train)


def sequential(first: Net, second: Net) -> Net:
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
        y, new_first = first.train(params['first'], buffers['first'], x)
        y, new_second = second.train(params['second'], buffers['second'], y)
        return y, dict(first=new_first, second=new_second)

    return Net(init, apply, train)


def ignore_label(net: Net) -> Net:
    """The net for pairs (x, label), blind to the label."""
    return Net(lambda key, pair: net.init(key, pair[0]),
               lambda params, buffers, pair: net.apply(params, buffers, pair[0]),
               lambda params, buffers, pair: net.train(params, buffers, pair[0]))


def per_label(net: Net, labels: int) -> Net:
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
        members = label == jnp.arange(labels)[:, None]
        share = -(-3 * len(label) // (2 * labels))

        def full_batch():
            y, new = jax.vmap(net.train, (0, 0, None))(params, buffers, x)
            return pick(y, label), new

        def shares():
            rows = jnp.argsort(~members, axis=1, stable=True)[:, :share]
            y, new = jax.vmap(net.train)(params, buffers, x[rows])
            return y[label, pick(jnp.cumsum(members, axis=1) - 1, label)], new

        return lax.cond(members.sum(1).max() <= share, shares, full_batch)

    def init(key, pair):
        return jax.vmap(net.init, (0, None))(jax.random.split(key, labels), pair[0])

    return Net(init, apply, train)


def concat_label(net: Net, labels: int) -> Net:
    """The net for pairs (x, label): x with the label's indicator behind its last axis, at every
    place of an image or a sequence."""
    def join(pair):
        x, label = pair
        indicator = jax.nn.one_hot(label, labels).reshape(len(x), *(1,) * (x.ndim - 2), labels)
        return jnp.concatenate([x, jnp.broadcast_to(indicator, (*x.shape[:-1], labels))], -1)

    return Net(lambda key, pair: net.init(key, join(pair)),
               lambda params, buffers, pair: net.apply(params, buffers, join(pair)),
               lambda params, buffers, pair: net.train(params, buffers, join(pair)))


def link(example: Array, net: Nets, logits: bool = False) -> Callable[[Array], Array]:
    """The output's link function: a sigmoid for data in [0, 1], none elsewhere; and none for nets
    without one unless the loss wants logits."""
    return nn.sigmoid if logits or losses.in_unit_interval(
        example) and net.sigmoid_output else identity


def spectral(net: Nets) -> str:
    """The norm of a layer that follows the net: `spectral` where that is its own, else none."""
    return 'spectral' if net.spec and net.spec.keys.get('norm') == 'spectral' else 'none'


def require_no_statistics(net: Nets, group: str) -> None:
    """Raises BadInput where the net's normalisation keeps statistics, for which a model has no
    place."""
    if net.spec and net.spec.keys.get('norm') in ('batch', 'spectral'):
        raise BadInput(f'{group}.norm cannot be {net.spec.keys["norm"]!r} here, as nothing keeps '
                       'its statistics; use layer, group or none')


class Autoencoder(NamedTuple):
    """An encoder and a decoder as one player's: its parameters are dict(encoder=.., decoder=..)."""
    player: str
    encoder: Net
    decoder: Net
    link: Callable[[Array], Array]

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, buffers = self.encoder.init(keys[0], batch.x)
        z = self.encoder.apply(params, buffers, batch.x[:1])
        networks = dict(encoder=(params, buffers), decoder=self.decoder.init(keys[1], z))
        return {n: p for n, (p, _) in networks.items()}, {n: b for n, (_, b) in networks.items()}

    def _of(self, state: State, net: str):
        return state.params[self.player][net], state.buffers[self.player][net]

    def train(self, state: State, x: Array) -> tuple[Array, Array, Tree]:
        """The code of x, its decoding before the link, and the player's new buffers."""
        z, new_encoder = self.encoder.train(*self._of(state, 'encoder'), x)
        y, new_decoder = self.decoder.train(*self._of(state, 'decoder'), z)
        return z, y, dict(encoder=new_encoder, decoder=new_decoder)

    def encode(self, state: State, x: Array) -> Array:
        return self.encoder.apply(*self._of(state, 'encoder'), x)

    def logits(self, state: State, z: Array) -> Array:
        """The decoding of z before the link."""
        return self.decoder.apply(*self._of(state, 'decoder'), z)

    def decode(self, state: State, z: Array) -> Array:
        return self.link(self.logits(state, z))


def autoencoder(player: str, example: Array, latent: int | None, net: Nets,
                logits: bool = False) -> Autoencoder:
    """The net's encoder for examples such as these, and its decoder the other way round.

    latent: size of the code; None for the bare features, of nets for images.  logits: whether the
    loss wants them.
    """
    if latent is None and not net.images_only:
        raise BadInput('a net that is not for images needs a size of the code; give '
                       '--config.model.latent')
    output = link(example, net, logits)
    return Autoencoder(player, net.encoder(example.shape[1:], latent),
                       net.decoder(example, latent, output, 0), output)
