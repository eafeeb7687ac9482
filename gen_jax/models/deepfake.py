"""Face swapping: one encoder for all identities, a decoder for each; encode A, decode with B."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Array, Batch, Context, Model, Player


def disguise(key: Array, x: Array, color_jitter: float) -> Array:
    """x with every example's channels scaled and shifted by factors and offsets of their own."""
    shape = len(x), *[1] * (x.ndim - 2), x.shape[-1]
    scale, shift = color_jitter * jax.random.uniform(key, (2, *shape), minval=-1., maxval=1.)
    return x * (1 + scale) + shift


def spread(z: Array, label: Array, labels: int) -> Array:
    """How far the codes of the labels are apart: the squared distance between a label's mean, and
    standard deviation, and those of all codes, averaged over the labels that are there."""
    z = z.reshape(len(z), -1)
    members = (label == jnp.arange(labels)[:, None]).astype(z.dtype)
    counts = members.sum(1, keepdims=True)

    def moments(weight):
        mean = weight @ z
        variance = (weight[..., None] * (z - mean[:, None]) ** 2).sum(1)
        return mean, jnp.sqrt(variance + 1e-6)

    parts = moments(members / jnp.maximum(counts, 1))
    all_moments = moments(jnp.full((1, len(z)), 1 / len(z)))
    away = sum(((part - all) ** 2).sum(1) for part, all in zip(parts, all_moments))
    return (away * (counts[:, 0] > 0)).sum() / (counts > 0).sum()


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int | None = 32,
    loss: str = 'mse', color_jitter: float = .5,
    alignment_weight: float = 30., shared_encoder: bool = True, net: Nets = nets.make(
        'conv', width=(16, 32, 64)), optimiser: Optimiser = optimisers.make()
) -> Model:
    """Minimises the reconstruction loss between x and decoder[label](encoder(x)) of unpaired
    examples.

    An identity is a label. The code should hold what all identities share, expression and pose;
    each decoder knows its own identity. Two things keep the identity out of the code: in training
    every channel of the encoder's input is scaled and shifted at random, and the mean and standard
    deviation of each identity's codes are pulled towards those of all codes.

    encode(state, x, label) needs the label (n,) where the encoder is not shared; decode(state, z,
    label) uses that label's decoder. Both take label 0 where none is given. A decoder's batch
    statistics are those of all identities.

    Args:
        latent: size of the code, as in `ae`.
        loss: reconstruction loss, summed over an example: mse, l1, cross_entropy or ssim.
        color_jitter: largest relative change of a channel's scale, and largest shift.
        alignment_weight: weight of the squared distance between the moments of the codes of each
            identity and those of all.
        shared_encoder: False for the control that must fail, an encoder for each identity.

    Metrics, per example: recon; in training loss = recon + alignment_weight * alignment, and
    alignment; in evaluation those of `losses.fidelity_metrics`, and where the data set has the true
    swapped images swap_psnr, the mean over all other labels, and copy_psnr, without a swap.
    Raises: BadInput for fewer than two labels, and for options that do not fit the data.
    """
    labels = losses.require_labels(example.label, 'name more identities in '
                                   '--config.data.identities, or leave it empty')
    link = nets.link(example.x, net, loss == 'cross_entropy')
    error = losses.reconstruction_loss(loss, example.x, link)
    fidelity = losses.fidelity_metrics(example.x)
    encoder = net.encoder(example.x.shape[1:], latent)
    encoder = nets.ignore_label(encoder) if shared_encoder else nets.per_label(encoder, labels)
    decoder = nets.per_label(net.decoder(example.x, latent, link, 0), labels)

    def variables(state):
        return state.params['ae'], state.buffers['ae']

    def first(x):
        return jnp.zeros(len(x), jnp.int32)

    def init(key, batch):
        keys = jax.random.split(key)
        params, buffers = encoder.init(keys[0], (batch.x[:1], first(batch.x[:1])))
        z = encoder.apply(params, buffers, (batch.x[:1], first(batch.x[:1])))
        networks = dict(encoder=(params, buffers), decoder=decoder.init(keys[1], (z, first(z))))
        return {n: p for n, (p, _) in networks.items()}, {n: b for n, (_, b) in networks.items()}

    def objective(state, batch, key):
        params, buffers = variables(state)
        x = disguise(key, batch.x, color_jitter)
        z, new_encoder = encoder.train(params['encoder'], buffers['encoder'], (x, batch.label))
        y, new_decoder = decoder.train(params['decoder'], buffers['decoder'], (z, batch.label))
        away, alignment = error(y, batch.x).mean(), spread(z, batch.label, labels)
        value = away + alignment_weight * alignment
        return value, dict(loss=value, recon=away, alignment=alignment), dict(
            encoder=new_encoder, decoder=new_decoder)

    def encode(state, x, label=None):
        params, buffers = variables(state)
        return encoder.apply(params['encoder'], buffers['encoder'],
                             (x, first(x) if label is None else label))

    def logits(state, z, label):
        params, buffers = variables(state)
        return decoder.apply(params['decoder'], buffers['decoder'], (z, label))

    def decode(state, z, label=None):
        return link(logits(state, z, first(z) if label is None else label))

    def swaps(state, batch):
        """The batch with every label, (labels, n, ...)."""
        z = encode(state, batch.x, batch.label)
        return jnp.stack([decode(state, z, jnp.full_like(batch.label, i)) for i in range(labels)])

    def evaluate(state, batch, key):
        y = logits(state, encode(state, batch.x, batch.label), batch.label)
        metrics = dict(recon=error(y, batch.x)) | fidelity(link(y), batch.x)
        if batch.swapped is None:
            return metrics
        truth = jnp.moveaxis(batch.swapped, 1, 0)
        others = jnp.arange(labels)[:, None] != batch.label

        def away(images):
            psnr = jax.vmap(losses.psnr)(jnp.broadcast_to(images, truth.shape), truth)
            return jnp.where(others, psnr, 0).sum(0) / (labels - 1)

        return metrics | dict(swap_psnr=away(swaps(state, batch)), copy_psnr=away(batch.x))

    def show(state, batch, key):
        images = {f'as {i}': y for i, y in enumerate(swaps(state, batch))}
        if batch.swapped is None:
            return {'test data': batch.x, **images}
        true = {f'true {i}': batch.swapped[:, i] for i in range(labels)}
        return {'test data': batch.x, **images, '': None, **true}

    return game({'ae': Player(init, objective, optimiser)}, axis=context.axis,
                full_batch='the spread of the codes' if losses.enabled(alignment_weight) else '',
                evaluate=evaluate, encode=encode, decode=decode, show=show)
