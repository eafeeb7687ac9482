"""BiGAN, or adversarially learned inference: the critic sees examples with their codes (Donahue et
al. 2017, Dumoulin et al. 2017)."""
import math
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import Discriminator
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, Array, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 32,
         discriminator: Discriminator = adversarial.make(),
         net: Nets = nets.of('dcgan', norm='batch'),
         encoder_net: Nets = nets.of('dcgan', norm='batch', act='leaky'),
         discriminator_net: Nets = nets.of('dcgan', norm='spectral', act='leaky'),
         optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5, average=.999),
         discriminator_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5)) -> Model:
    """The critic tells pairs (x, E(x)) of the data from pairs (G(z), z) of the prior; encoder and
    generator, one player, play its game with the sides exchanged.

    The pair reaches the critic's net as one array: the code behind x as a vector, or for a net for
    images behind the last axis of x, at every place.  At the optimum E inverts G.  net: G's.
    Metrics: those of the GAN, its losses and accuracies of pairs; coder_loss in the place of
    generator_loss; mse, psnr and ssim of reconstructions.  Raises BadInput for what does not fit.
    """
    shape = example.x.shape[1:]
    encoder = encoder_net.encoder(shape, latent)
    seen = shape if discriminator_net.images else (math.prod(shape),)
    critic = adversarial.critic('critic', (*seen[:-1], seen[-1] + latent), discriminator,
                                discriminator_net, batch=context.batch)
    link = nets.link(example.x, net)
    generator = net.decoder(example.x, latent, link, 0)
    fidelity = losses.fidelity(example.x)

    def pair(x: Array, z: Array) -> Batch:
        x = x.reshape(len(x), *seen)
        z = z.reshape(len(z), *(1,) * (x.ndim - 2), -1)
        return Batch(jnp.concatenate([x, jnp.broadcast_to(z, (*x.shape[:-1], z.shape[-1]))], -1))

    def init(key, batch):
        keys = jax.random.split(key)
        made = dict(encoder=encoder.init(keys[0], batch.x),
                    generator=generator.init(keys[1], jnp.zeros((1, latent))))
        return {n: p for n, (p, _) in made.items()}, {n: b for n, (_, b) in made.items()}

    def prior(state, key, n):
        return losses.normal(key, n, latent)

    def pairs(state, batch, key):
        """Those of the data, those of the prior, and the coder's new buffers."""
        params, buffers = state.params['coder'], state.buffers['coder']
        z = prior(state, key, len(batch.x))
        code, seen = encoder.train(params['encoder'], buffers['encoder'], batch.x)
        y, made = generator.train(params['generator'], buffers['generator'], z)
        return pair(batch.x, code), pair(link(y), z), dict(encoder=seen, generator=made)

    def critic_move(state, batch, key):
        real, fake, _ = pairs(state, batch, key)
        return critic.move(state, losses.stop(real), fake, jax.random.fold_in(key, 1))

    def coder_move(state, batch, key):
        real, fake, buffers = pairs(state, batch, key)
        value = critic.exchanged(state, real, fake, jax.random.fold_in(key, 1))
        return value, dict(coder_loss=value), buffers

    def encode(state, x):
        return encoder.apply(state.params['coder']['encoder'], state.buffers['coder']['encoder'], x)

    def decode(state, z):
        return link(generator.apply(state.params['coder']['generator'],
                                    state.buffers['coder']['generator'], z))

    def evaluate(state, batch, key):
        z, code = prior(state, key, len(batch.x)), encode(state, batch.x)
        x = decode(state, z)
        sides = pair(batch.x, code), pair(x, z)
        found = critic.evaluate(state, *sides) | fidelity(decode(state, code), batch.x)
        real, fake = (critic.score(state, side) for side in sides)
        del found['generator_loss']
        return found | adversarial.spread(batch.x, x) | dict(
            coder_loss=critic.loss.critic(fake, real))

    def first(key, batch):
        return critic.init(key, pair(batch.x[:1], jnp.zeros((1, latent))).x, None)

    players = dict(
        critic=Player(first, critic_move, discriminator_optimiser, project=critic.project),
        coder=Player(init, coder_move, optimiser))
    return game(players, axis=context.axis, whole=critic.loss.whole, evaluate=evaluate,
                encode=encode, decode=decode, prior=prior, bounds=adversarial.BOUNDS)
