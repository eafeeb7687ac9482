"""VAE and GAN in one (Larsen et al. 2016): the discriminator's features measure similarity."""
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import DiscriminatorOptions
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import NON_NEGATIVE, DEFAULT_CONTEXT, BadInput, Batch, Context, Model, Player


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int = 32, beta: float = 1.,
         gamma: float = 1., discriminator: DiscriminatorOptions = adversarial.make(),
         net: Nets = nets.make('dcgan', norm='batch'),
         encoder_net: Nets = nets.make('dcgan', norm='batch', activation='leaky_relu'),
         discriminator_net: Nets = nets.make('dcgan', norm='batch', activation='leaky_relu'),
         optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5, ema_decay=.999),
         encoder_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5),
         discriminator_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5)) -> Model:
    """Three players. The encoder minimises features + beta * kl; the generator gamma * features +
    its adversarial loss; the discriminator its loss of data against samples and reconstructions.

    features is -log N(f(x); f(G(z)), I) up to a constant, in nats per example, where f are the last
    features of the discriminator, as constants. `net` is the generator's.

    Args:
        latent: size of the code.
        beta: weight of the KL in the encoder's loss.
        gamma: weight of the features in the generator's loss.

    Metrics: those of the GAN, of which generator_loss is the mean over samples and reconstructions;
    features; kl, and in evaluation kl_per_dim; mse, psnr and ssim of reconstructions.
    Raises: BadInput for options that do not fit.
    """
    if latent < 1:
        raise BadInput(f'latent must be at least 1, not {latent}')
    shape = example.x.shape[1:]
    body = discriminator_net.encoder(shape, None)
    last = nets.make('linear', norm=nets.spectral(discriminator_net)).encoder((1,), 1)
    discriminator = adversarial.discriminator(
        'discriminator', shape, discriminator, discriminator_net._replace(
            encoder=lambda shape, out: nets.sequential(body, last)), batch=context.batch)
    encoder = encoder_net.encoder(shape, 2 * latent)
    generator = adversarial.generator('generator', example.x, latent, net)
    fidelity = losses.fidelity_metrics(example.x)

    def moments(y):
        mean, logvar = jnp.split(y, 2, axis=1)
        return mean, losses.bound_logvar(logvar)

    def unlike(state, x, y, features=lambda *args: body.train(*args)[0]):
        first_layers = state.params['discriminator']['first'], state.buffers['discriminator'][
            'first']
        return losses.squared_error(features(*first_layers, y), features(*first_layers, x)) / 2

    def read(state, batch, key):
        """The KL (n,), codes, and the encoder's new buffers."""
        y, buffers = encoder.train(state.params['encoder'], state.buffers['encoder'], batch.x)
        code = moments(y)
        return losses.gaussian_kl(*code).sum(1), losses.reparameterise(key, *code), buffers

    def prior(state, key, n):
        return losses.standard_normal(key, n, latent)

    def encoder_move(state, batch, key):
        kl, z, buffers = read(state, batch, key)
        kl, feature_loss = kl.mean(), unlike(state, batch.x, generator.make(state, z)[0].x).mean()
        return feature_loss + beta * kl, dict(kl=kl, features=feature_loss), buffers

    def generate(state, batch, key):
        """Reconstructions, samples, and the generator's new buffers."""
        keys = jax.random.split(key)
        z = losses.stop_gradient(read(state, batch, keys[0])[1])
        again, _ = generator.make(state, z)
        fake, buffers = generator.make(state, prior(state, keys[1], len(batch.x)))
        return again, fake, buffers

    def generator_move(state, batch, key):
        again, fake, buffers = generate(state, batch, key)
        keys = jax.random.split(jax.random.fold_in(key, 1))
        value = sum(
            discriminator.generator_loss(state, batch, one, k)
            for one, k in zip((again, fake), keys)) / 2
        return (gamma * unlike(state, batch.x, again.x).mean() + value,
                dict(generator_loss=value), buffers)

    def discriminator_move(state, batch, key):
        again, fake, _ = generate(state, batch, key)
        keys = jax.random.split(jax.random.fold_in(key, 1))
        value, metrics, buffers = discriminator.loss_and_metrics(state, batch, fake, keys[0])
        other, metrics_again, _ = discriminator.loss_and_metrics(state, batch, again, keys[1])
        means = {name: (metrics[name] + metrics_again[name]) / 2 for name in metrics}
        return (value + other) / 2, means, buffers

    def encode(state, x):
        return moments(encoder.apply(state.params['encoder'], state.buffers['encoder'], x))[0]

    def evaluate(state, batch, key):
        keys = jax.random.split(key)
        kl = losses.gaussian_kl(*moments(encoder.apply(
            state.params['encoder'], state.buffers['encoder'], batch.x)))
        again = generator.decode(state, encode(state, batch.x))
        fake = generator.decode(state, prior(state, keys[0], len(batch.x)))
        return discriminator.evaluate(state, batch, Batch(fake)) | dict(
            kl=kl.sum(1), kl_per_dim=kl, features=unlike(state, batch.x, again, body.apply),
            **fidelity(again, batch.x))

    players = dict(
        encoder=Player(lambda key, batch: encoder.init(key, batch.x), encoder_move,
                       encoder_optimiser),
        generator=Player(generator.init, generator_move, optimiser), discriminator=Player(
            lambda key, batch: discriminator.init(key, batch.x, None), discriminator_move,
            discriminator_optimiser, project=discriminator.project))
    return game(players, axis=context.axis, full_batch=discriminator.loss.full_batch,
                evaluate=evaluate, encode=encode, decode=generator.decode, prior=prior,
                bounds=adversarial.BOUNDS | dict(kl=NON_NEGATIVE, kl_per_dim=NON_NEGATIVE))
