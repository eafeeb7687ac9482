"""BiGAN, or adversarially learned inference (Donahue et al. 2017, Dumoulin et al. 2017): the
discriminator gets examples together with their codes.
"""
import math
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import DiscriminatorOptions
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Array, Batch, Context, Model, Player


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 32,
         discriminator: DiscriminatorOptions = adversarial.make(),
         net: Nets = nets.make('dcgan', norm='batch'),
         encoder_net: Nets = nets.make('dcgan', norm='batch', activation='leaky_relu'),
         discriminator_net: Nets = nets.make('dcgan', norm='spectral', activation='leaky_relu'),
         optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5, ema_decay=.999),
         discriminator_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5)) -> Model:
    """The discriminator tells pairs (x, E(x)) of the data from pairs (G(z), z) of the prior.
    Encoder and generator are one player; its loss is the discriminator's with the two sides
    swapped.

    The discriminator's net gets a pair as one array: the code is appended to x as a vector, or, for
    a net that is for images, to the channels of every pixel. At the optimum E inverts G. `net` is
    the generator's.

    Args:
        latent: size of the code.

    Metrics: those of the GAN, of pairs; encoder_generator_loss instead of generator_loss; mse, psnr
    and ssim of reconstructions.
    Raises: BadInput for options that do not fit.
    """
    shape = example.x.shape[1:]
    encoder = encoder_net.encoder(shape, latent)
    pair_shape = shape if discriminator_net.images_only else (math.prod(shape),)
    discriminator = adversarial.discriminator('discriminator',
                                              (*pair_shape[:-1], pair_shape[-1] + latent),
                                              discriminator, discriminator_net, batch=context.batch)
    link = nets.link(example.x, net)
    generator = net.decoder(example.x, latent, link, 0)
    fidelity = losses.fidelity_metrics(example.x)

    def pair(x: Array, z: Array) -> Batch:
        x = x.reshape(len(x), *pair_shape)
        z = z.reshape(len(z), *(1,) * (x.ndim - 2), -1)
        return Batch(jnp.concatenate([x, jnp.broadcast_to(z, (*x.shape[:-1], z.shape[-1]))], -1))

    def init(key, batch):
        keys = jax.random.split(key)
        networks = dict(encoder=encoder.init(keys[0], batch.x),
                        generator=generator.init(keys[1], jnp.zeros((1, latent))))
        return {n: p for n, (p, _) in networks.items()}, {n: b for n, (_, b) in networks.items()}

    def prior(state, key, n):
        return losses.standard_normal(key, n, latent)

    def pairs(state, batch, key):
        """Those of the data, those of the prior, and the coder's new buffers."""
        params, buffers = state.params['encoder_generator'], state.buffers['encoder_generator']
        z = prior(state, key, len(batch.x))
        code, new_encoder = encoder.train(params['encoder'], buffers['encoder'], batch.x)
        y, new_generator = generator.train(params['generator'], buffers['generator'], z)
        return pair(batch.x, code), pair(link(y), z), dict(encoder=new_encoder,
                                                           generator=new_generator)

    def discriminator_move(state, batch, key):
        real, fake, _ = pairs(state, batch, key)
        return discriminator.loss_and_metrics(state, losses.stop_gradient(real), fake,
                                              jax.random.fold_in(key, 1))

    def encoder_generator_move(state, batch, key):
        real, fake, buffers = pairs(state, batch, key)
        value = discriminator.swapped_loss(state, real, fake, jax.random.fold_in(key, 1))
        return value, dict(encoder_generator_loss=value), buffers

    def encode(state, x):
        return encoder.apply(state.params['encoder_generator']['encoder'],
                             state.buffers['encoder_generator']['encoder'], x)

    def decode(state, z):
        return link(generator.apply(state.params['encoder_generator']['generator'],
                                    state.buffers['encoder_generator']['generator'], z))

    def evaluate(state, batch, key):
        z, code = prior(state, key, len(batch.x)), encode(state, batch.x)
        x = decode(state, z)
        sides = pair(batch.x, code), pair(x, z)
        metrics = discriminator.evaluate(state, *sides) | fidelity(decode(state, code), batch.x)
        real, fake = (discriminator.score(state, side) for side in sides)
        del metrics['generator_loss']
        return metrics | adversarial.pairwise_distance(batch.x, x) | dict(
            encoder_generator_loss=discriminator.loss.discriminator(fake, real))

    def first(key, batch):
        return discriminator.init(key, pair(batch.x[:1], jnp.zeros((1, latent))).x, None)

    players = dict(
        discriminator=Player(first, discriminator_move, discriminator_optimiser,
                             project=discriminator.project), encoder_generator=Player(
                                 init, encoder_generator_move, optimiser))
    return game(players, axis=context.axis, full_batch=discriminator.loss.full_batch,
                evaluate=evaluate, encode=encode, decode=decode, prior=prior,
                bounds=adversarial.BOUNDS)
