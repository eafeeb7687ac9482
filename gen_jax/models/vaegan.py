"""VAE and GAN in one: the critic's features say how alike two examples are (Larsen et al. 2016)."""
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import Discriminator
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ABOVE_0, ALONE, BadInput, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 32, beta: float = 1.,
         gamma: float = 1., discriminator: Discriminator = adversarial.make(),
         net: Nets = nets.of('dcgan', norm='batch'),
         encoder_net: Nets = nets.of('dcgan', norm='batch', act='leaky'),
         discriminator_net: Nets = nets.of('dcgan', norm='batch', act='leaky'),
         optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5, average=.999),
         encoder_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5),
         discriminator_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5)) -> Model:
    """Three players: the encoder minimises features + beta * kl, the generator gamma * features +
    its loss in the game, the critic its own loss, of data against samples and reconstructions.

    features: -log N(f(x); f(G(z)), I) up to a constant, nats per example, f the critic's last
    features, which stand still.  net: the generator's.
    Metrics: those of the GAN, of which generator_loss is the mean over samples and
    reconstructions; features; kl, and in evaluation kl_unit; mse, psnr and ssim of
    reconstructions.  Raises BadInput for what does not fit.
    """
    if latent < 1:
        raise BadInput(f'latent must be at least 1, not {latent}')
    shape = example.x.shape[1:]
    body = discriminator_net.encoder(shape, None)
    last = nets.of('linear', norm=nets.spectral(discriminator_net)).encoder((1,), 1)
    critic = adversarial.critic(
        'critic', shape, discriminator, discriminator_net._replace(
            encoder=lambda shape, out: nets.chain(body, last)), batch=context.batch)
    encoder = encoder_net.encoder(shape, 2 * latent)
    generator = adversarial.generator('generator', example.x, latent, net)
    fidelity = losses.fidelity(example.x)

    def moments(y):
        mean, logvar = jnp.split(y, 2, axis=1)
        return mean, losses.bound(logvar)

    def unlike(state, x, y, features=lambda *args: body.train(*args)[0]):
        own = state.params['critic']['first'], state.buffers['critic']['first']
        return losses.squared_error(features(*own, y), features(*own, x)) / 2

    def read(state, batch, key):
        """The KL (n,), codes, and the encoder's new buffers."""
        y, buffers = encoder.train(state.params['encoder'], state.buffers['encoder'], batch.x)
        code = moments(y)
        return losses.gaussian_kl(*code).sum(1), losses.reparameterise(key, *code), buffers

    def prior(state, key, n):
        return losses.normal(key, n, latent)

    def encoder_move(state, batch, key):
        kl, z, buffers = read(state, batch, key)
        kl, found = kl.mean(), unlike(state, batch.x, generator.make(state, z)[0].x).mean()
        return found + beta * kl, dict(kl=kl, features=found), buffers

    def drawn(state, batch, key):
        """Reconstructions, samples, and the generator's new buffers."""
        keys = jax.random.split(key)
        z = losses.stop(read(state, batch, keys[0])[1])
        again, _ = generator.make(state, z)
        fake, buffers = generator.make(state, prior(state, keys[1], len(batch.x)))
        return again, fake, buffers

    def generator_move(state, batch, key):
        again, fake, buffers = drawn(state, batch, key)
        keys = jax.random.split(jax.random.fold_in(key, 1))
        value = sum(critic.against(state, batch, one, k) for one, k in zip((again, fake), keys)) / 2
        return (gamma * unlike(state, batch.x, again.x).mean() + value,
                dict(generator_loss=value), buffers)

    def critic_move(state, batch, key):
        again, fake, _ = drawn(state, batch, key)
        keys = jax.random.split(jax.random.fold_in(key, 1))
        value, metrics, buffers = critic.move(state, batch, fake, keys[0])
        other, told, _ = critic.move(state, batch, again, keys[1])
        means = {name: (metrics[name] + told[name]) / 2 for name in metrics}
        return (value + other) / 2, means, buffers

    def encode(state, x):
        return moments(encoder.apply(state.params['encoder'], state.buffers['encoder'], x))[0]

    def evaluate(state, batch, key):
        keys = jax.random.split(key)
        kl = losses.gaussian_kl(*moments(encoder.apply(
            state.params['encoder'], state.buffers['encoder'], batch.x)))
        again = generator.decode(state, encode(state, batch.x))
        fake = generator.decode(state, prior(state, keys[0], len(batch.x)))
        return critic.evaluate(state, batch, Batch(fake)) | dict(
            kl=kl.sum(1), kl_unit=kl, features=unlike(state, batch.x, again, body.apply),
            **fidelity(again, batch.x))

    players = dict(
        encoder=Player(lambda key, batch: encoder.init(key, batch.x), encoder_move,
                       encoder_optimiser),
        generator=Player(generator.init, generator_move, optimiser),
        critic=Player(lambda key, batch: critic.init(key, batch.x, None), critic_move,
                      discriminator_optimiser, project=critic.project))
    return game(players, axis=context.axis, whole=critic.loss.whole, evaluate=evaluate,
                encode=encode, decode=generator.decode, prior=prior,
                bounds=adversarial.BOUNDS | dict(kl=ABOVE_0, kl_unit=ABOVE_0))
