"""The adversarial autoencoder (Makhzani et al. 2016): a discriminator makes the codes normal."""
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import DiscriminatorOptions
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Batch, Context, Model, Player


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 10,
    adversarial_weight: float = 1., conditional: bool = False, loss: str = 'cross_entropy',
    discriminator: DiscriminatorOptions = adversarial.make(), net: Nets = nets.make('mlp'),
    discriminator_net: Nets = nets.make(
        'mlp', width=(256, 256),
        activation='leaky_relu'), optimiser: Optimiser = optimisers.make(b1=.5),
    discriminator_optimiser: Optimiser = optimisers.make(b1=.5)
) -> Model:
    """The autoencoder minimises the reconstruction loss, in nats per example, plus
    adversarial_weight times the generator's loss of its codes; the discriminator tells codes
    from samples of N(0, I).

    Args:
        latent: size of the code.
        adversarial_weight: weight of the adversarial loss.
        conditional: whether the decoder gets the label, so that the code holds what is not in it.
        loss: reconstruction loss, summed over an example: mse, l1, cross_entropy or ssim.

    Metrics: loss, the reconstruction loss; discriminator_loss, generator_loss, accuracy_real (of
    samples of N(0, I)) and accuracy_fake (of codes); in evaluation also mse, psnr, ssim, and
    pairwise_distance_real and pairwise_distance_fake of samples and codes.
    Raises: BadInput for options that do not fit.
    """
    labels = losses.require_labels(example.label, 'use conditional=False') if conditional else 0
    coder = nets.autoencoder('ae', example.x, latent, net, loss == 'cross_entropy')
    if labels:
        coder = coder._replace(decoder=nets.concat_label(coder.decoder, labels))
    apart = losses.reconstruction_loss(loss, example.x, coder.link)
    fidelity = losses.fidelity_metrics(example.x)
    adversary = adversarial.discriminator('discriminator', (latent, ), discriminator,
                                          discriminator_net, batch=context.batch)

    def with_label(z, batch):
        return (z, batch.label) if labels else z

    def init(key, batch):
        keys = jax.random.split(key)
        params, buffers = coder.encoder.init(keys[0], batch.x)
        z = coder.encoder.apply(params, buffers, batch.x[:1])
        new_decoder = coder.decoder.init(keys[1], with_label(z, batch._replace(
            label=None if batch.label is None else batch.label[:1])))
        return dict(encoder=params, decoder=new_decoder[0]), dict(encoder=buffers,
                                                                  decoder=new_decoder[1])

    def prior(state, key, n):
        z = losses.standard_normal(key, n, latent)
        return (z, jnp.arange(n) % labels) if labels else z

    def draws(key, batch):
        return Batch(losses.standard_normal(key, len(batch.x), latent))

    def codes(state, x):
        encoder = state.params['ae']['encoder'], state.buffers['ae']['encoder']
        return coder.encoder.train(*encoder, x)

    def ae_move(state, batch, key):
        z, new_encoder = codes(state, batch.x)
        y, new_decoder = coder.decoder.train(state.params['ae']['decoder'],
                                             state.buffers['ae']['decoder'], with_label(z, batch))
        keys = jax.random.split(key)
        value = adversary.generator_loss(state, draws(keys[0], batch), Batch(z), keys[1])
        lost = apart(y, batch.x).mean()
        return (lost + adversarial_weight * value, dict(loss=lost, generator_loss=value),
                dict(encoder=new_encoder, decoder=new_decoder))

    def discriminator_move(state, batch, key):
        keys = jax.random.split(key)
        return adversary.loss_and_metrics(state, draws(keys[0], batch),
                                          Batch(codes(state, batch.x)[0]), keys[1])

    def evaluate(state, batch, key):
        z = coder.encode(state, batch.x)
        y = coder.logits(state, with_label(z, batch))
        return dict(loss=apart(y, batch.x), **fidelity(coder.link(y), batch.x),
                    **adversary.evaluate(state, draws(key, batch), Batch(z)))

    def show(state, batch, key):
        z = coder.encode(state, batch.x)
        every = {f'as {i}': coder.decode(state, (z, jnp.full(len(z), i))) for i in range(labels)}
        return {'test data': batch.x,
                'reconstructions': coder.decode(state, with_label(z, batch)), **every}

    players = dict(
        ae=Player(init, ae_move, optimiser), discriminator=Player(
            lambda key, batch: adversary.init(key,
                                              draws(key, batch).x, None), discriminator_move,
            discriminator_optimiser, project=adversary.project))
    return game(players, axis=context.axis, full_batch=adversary.loss.full_batch, evaluate=evaluate,
                encode=None if labels else coder.encode, decode=coder.decode, prior=prior,
                show=show if labels else None, bounds=adversarial.BOUNDS)
