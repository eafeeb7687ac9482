"""Face swapping: one encoder for all, a decoder for each identity; encode A, decode with B."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, Array, Batch, Context, Model, Player


def disguise(key: Array, x: Array, jitter: float) -> Array:
    """x with every example's channels scaled and shifted by factors and offsets of their own."""
    shape = len(x), *[1] * (x.ndim - 2), x.shape[-1]
    scale, shift = jitter * jax.random.uniform(key, (2, *shape), minval=-1., maxval=1.)
    return x * (1 + scale) + shift


def spread(z: Array, label: Array, labels: int) -> Array:
    """How far the codes of the labels are apart: the squared distance between a label's mean, and
    standard deviation, and those of all codes, averaged over the labels that are there."""
    z = z.reshape(len(z), -1)
    own = (label == jnp.arange(labels)[:, None]).astype(z.dtype)
    counts = own.sum(1, keepdims=True)

    def moments(weight):
        mean = weight @ z
        variance = (weight[..., None] * (z - mean[:, None]) ** 2).sum(1)
        return mean, jnp.sqrt(variance + 1e-6)

    parts = moments(own / jnp.maximum(counts, 1))
    whole = moments(jnp.full((1, len(z)), 1 / len(z)))
    away = sum(((part - all) ** 2).sum(1) for part, all in zip(parts, whole))
    return (away * (counts[:, 0] > 0)).sum() / (counts > 0).sum()


def make(example: Batch, context: Context = ALONE, *, latent: int | None = 32,
         loss: str = 'mse', jitter: float = .5, match: float = 30., shared: bool = True,
         net: Nets = nets.of('conv', width=(16, 32, 64)),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises the error between x and decoder[label](encoder(x)); unpaired examples do.

    An identity is a label.  What all identities have in common, expression and pose, the encoder
    can leave in the code; who it is, a decoder knows by itself.  Two things keep the identity out
    of the code: in training the encoder sees every channel scaled and shifted at random, by up to
    `jitter`; and `match` weighs the squared distance between the mean, and the standard deviation,
    of the codes of each identity and of all, for all have the same expressions.  shared: False for
    the control that must fail, an encoder of its own for each identity.  latent, loss: as of
    the autoencoder in ae; a decoder's batch statistics are those of all identities.
    encode(state, x, label) needs the label (n,) where the encoder is not shared; decode(state, z,
    label) draws with that label's decoder.  Both take label 0 where none is given.
    Metrics, per example: error; in training loss = error + match * apart, and apart; in evaluation
    those of losses.fidelity, and where the data set knows the true swapped pictures swap_psnr, the
    mean over all other labels, and copy_psnr, that of no swap.
    Raises BadInput for fewer than two labels, or what does not fit the data.
    """
    labels = losses.require_labels(example.label, 'name more identities in '
                                   '--config.data.identities, or leave it empty')
    link = nets.link(example.x, net, loss == 'cross_entropy')
    error = losses.reconstruction(loss, example.x, link)
    fidelity = losses.fidelity(example.x)
    encoder = net.encoder(example.x.shape[1:], latent)
    encoder = nets.shared(encoder) if shared else nets.each(encoder, labels)
    decoder = nets.each(net.decoder(example.x, latent, link, 0), labels)

    def own(state):
        return state.params['ae'], state.buffers['ae']

    def first(x):
        return jnp.zeros(len(x), jnp.int32)

    def init(key, batch):
        keys = jax.random.split(key)
        params, buffers = encoder.init(keys[0], (batch.x[:1], first(batch.x[:1])))
        z = encoder.apply(params, buffers, (batch.x[:1], first(batch.x[:1])))
        made = dict(encoder=(params, buffers), decoder=decoder.init(keys[1], (z, first(z))))
        return {n: p for n, (p, _) in made.items()}, {n: b for n, (_, b) in made.items()}

    def objective(state, batch, key):
        params, buffers = own(state)
        x = disguise(key, batch.x, jitter)
        z, seen = encoder.train(params['encoder'], buffers['encoder'], (x, batch.label))
        y, made = decoder.train(params['decoder'], buffers['decoder'], (z, batch.label))
        away, apart = error(y, batch.x).mean(), spread(z, batch.label, labels)
        value = away + match * apart
        return value, dict(loss=value, error=away, apart=apart), dict(encoder=seen, decoder=made)

    def encode(state, x, label=None):
        params, buffers = own(state)
        return encoder.apply(params['encoder'], buffers['encoder'],
                             (x, first(x) if label is None else label))

    def logits(state, z, label):
        params, buffers = own(state)
        return decoder.apply(params['decoder'], buffers['decoder'], (z, label))

    def decode(state, z, label=None):
        return link(logits(state, z, first(z) if label is None else label))

    def swaps(state, batch):
        """The batch with every label, (labels, n, ...)."""
        z = encode(state, batch.x, batch.label)
        return jnp.stack([decode(state, z, jnp.full_like(batch.label, i)) for i in range(labels)])

    def evaluate(state, batch, key):
        y = logits(state, encode(state, batch.x, batch.label), batch.label)
        metrics = dict(error=error(y, batch.x)) | fidelity(link(y), batch.x)
        if batch.swapped is None:
            return metrics
        truth = jnp.moveaxis(batch.swapped, 1, 0)
        others = jnp.arange(labels)[:, None] != batch.label

        def away(made):
            found = jax.vmap(losses.psnr)(jnp.broadcast_to(made, truth.shape), truth)
            return jnp.where(others, found, 0).sum(0) / (labels - 1)

        return metrics | dict(swap_psnr=away(swaps(state, batch)), copy_psnr=away(batch.x))

    def show(state, batch, key):
        made = {f'as {i}': y for i, y in enumerate(swaps(state, batch))}
        if batch.swapped is None:
            return {'test data': batch.x, **made}
        true = {f'true {i}': batch.swapped[:, i] for i in range(labels)}
        return {'test data': batch.x, **made, '': None, **true}

    return game({'ae': Player(init, objective, optimiser)}, axis=context.axis,
                whole='the spread of the codes' if losses.wanted(match) else '',
                evaluate=evaluate, encode=encode, decode=decode, show=show)
