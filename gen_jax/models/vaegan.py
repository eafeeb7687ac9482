"""VAE and GAN in one: the critic's features say how alike two examples are (Larsen et al. 2016)."""
from typing import Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import adversarial, losses, nets
from gen_jax.game import game
from gen_jax.types import ABOVE_0, ALONE, BadInput, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 32, beta: float = 1.,
         gamma: float = 1., loss: str = 'nonsaturating', penalty: str = 'none', weight: float = 10.,
         kind: str = 'conv', width: Sequence[int] = (64, 128), norm: str = 'batch',
         critic_norm: str | None = None, rate: float = 2e-4, critic_rate: float | None = None,
         b1: float = .5, average: float = .999) -> Model:
    """Three players: the encoder minimises features + beta * kl, the generator gamma * features +
    its loss in the game, the critic its own loss, of data against samples and reconstructions.

    features: -log N(f(x); f(G(z)), I) up to a constant, nats per example, f the critic's last
    features, which stand still.  Other hyper-parameters: as of the GAN in gan.
    Metrics: those of the GAN, of which generator_loss is the mean over samples and
    reconstructions; features; kl, and in evaluation kl_unit; mse, psnr and ssim of
    reconstructions.  Raises BadInput for what does not fit.
    """
    if latent < 1:
        raise BadInput(f'latent must be at least 1, not {latent}')
    shape, norms = example.x.shape[1:], norm if critic_norm is None else critic_norm
    hyper = dict(kind=kind, width=width, act='leaky')
    body = adversarial.architecture(norm=norms, **hyper).encoder(shape, None)
    plain = 'spectral' if norms == 'spectral' else 'none'
    critic = adversarial.critic(
        'critic', shape, loss=loss, penalty=penalty, weight=weight, norm=norms, batch=context.batch,
        net=nets.chain(body, nets.of('linear', norm=plain).encoder((1,), 1)))
    encoder = adversarial.architecture(norm=norm, **hyper).encoder(shape, 2 * latent)
    generator = adversarial.generator('generator', example.x, latent, kind=kind, width=width,
                                      norm=norm)
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
                       optax.adam(rate, b1=b1)),
        generator=Player(generator.init, generator_move, optax.adam(rate, b1=b1), average=average),
        critic=Player(lambda key, batch: critic.init(key, batch.x, None), critic_move,
                      critic.adam(rate if critic_rate is None else critic_rate, b1)))
    return game(players, axis=context.axis, whole=critic.loss.whole, evaluate=evaluate,
                encode=encode, decode=generator.decode, prior=prior,
                bounds=adversarial.BOUNDS | dict(kl=ABOVE_0, kl_unit=ABOVE_0))
