"""InfoGAN: a GAN some of whose codes can be read off its samples (Chen et al. 2016)."""
import math
import jax
import jax.numpy as jnp
import optax

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import Discriminator
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, SHARE, Array, BadInput, Batch, Context, Model, Player, State


def make(example: Batch, context: Context = ALONE, *, categories: int = 10, continuous: int = 2,
         latent: int = 62, sigma: float = .5, information: float = 1.,
         discriminator: Discriminator = adversarial.make(),
         net: Nets = nets.of('dcgan', norm='batch'),
         discriminator_net: Nets = nets.of('dcgan', norm='batch', act='leaky'),
         recogniser_net: Nets = nets.of('dcgan', act='leaky'),
         optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5, average=.999),
         recogniser_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5),
         discriminator_optimiser: Optimiser = optimisers.make(learning_rate=2e-4, b1=.5)) -> Model:
    """A GAN of codes z = (category, continuous, noise), whose generator gains, and a third player,
    the recogniser q, learns, `information` times E log q(category, continuous | x).

    categories: of the discrete code, as an indicator; continuous: so many codes, uniform on
    (-1, 1), of which q is Gaussian with standard deviation sigma; latent: dimensions of the normal
    noise.
    Metrics: those of the GAN, and information, the lower bound entropy + E log q of I(codes; x) in
    nats; and category, the share of categories that the recogniser reads rightly.
    Raises BadInput for what does not fit.
    """
    if categories < 2 or continuous < 0 or latent < 0:
        raise BadInput('infogan needs categories >= 2, continuous >= 0 and latent >= 0, not '
                       f'{categories}, {continuous} and {latent}')
    shape = example.x.shape[1:]
    critic = adversarial.critic('critic', shape, discriminator, discriminator_net,
                                batch=context.batch)
    size = categories + continuous + latent
    generator = adversarial.generator('generator', example.x, size, net)
    # no statistics of a batch: of samples by category there are none to share
    nets.require_no_statistics(recogniser_net, 'recogniser_net')
    q = recogniser_net.encoder(shape, categories + continuous)
    entropy = math.log(categories) + continuous * math.log(2)

    def prior(state, key, n):
        keys = jax.random.split(key, 3)
        return joined(jax.random.randint(keys[0], (n,), 0, categories),
                      jax.random.uniform(keys[1], (n, continuous), minval=-1, maxval=1),
                      losses.normal(keys[2], n, latent))

    def joined(category, code, noise):
        return jnp.concatenate([jax.nn.one_hot(category, categories), code, noise], 1)

    def known(state: State, x: Array, z: Array) -> tuple[Array, Array]:
        """entropy + log q(codes | x), (n,), and whether the category is read rightly."""
        y = q.apply(state.params['recogniser'], {}, x)
        category, code = z[:, :categories].argmax(1), z[:, categories:categories + continuous]
        told = optax.softmax_cross_entropy_with_integer_labels(y[:, :categories], category)
        lost = losses.gaussian_nll(y[:, categories:], code, 2 * jnp.log(sigma))
        return entropy - told - lost, losses.accuracy(y[:, :categories], category)

    def made(state, batch, key):
        z = prior(state, key, len(batch.x))
        return z, *generator.make(state, z)

    def critic_move(state, batch, key):
        return critic.move(state, batch, made(state, batch, key)[1], jax.random.fold_in(key, 1))

    def generator_move(state, batch, key):
        z, fake, buffers = made(state, batch, key)
        value = critic.against(state, batch, fake, jax.random.fold_in(key, 1))
        return (value - information * known(state, fake.x, z)[0].mean(),
                dict(generator_loss=value), buffers)

    def recogniser_move(state, batch, key):
        z, fake, _ = made(state, batch, key)
        found, right = known(state, losses.stop(fake.x), z)
        return -found.mean(), dict(information=found.mean(), category=right.mean()), {}

    def evaluate(state, batch, key):
        z = prior(state, key, len(batch.x))
        fake = generator.decode(state, z)
        found, right = known(state, fake, z)
        return critic.evaluate(state, batch, Batch(fake)) | dict(information=found, category=right)

    def show(state, batch, key):
        """Each category down, and each continuous code from -1 to 1, of the same noise across."""
        side = max(1, round(len(batch.x) ** .5))
        place = jnp.arange(len(batch.x))
        row, column = place // side, place % side
        noise = jax.random.normal(key, (side + 1, latent))
        none = jnp.zeros((len(place), continuous))
        titled = {'a category a row': joined(row % categories, none, noise[column])}
        ramp = 2 * column / max(side - 1, 1) - 1
        for i in range(continuous):
            titled[f'code {i + 1} from left to right'] = joined(
                row % categories, none.at[:, i].set(ramp), noise[row])
        return {title: generator.decode(state, z) for title, z in titled.items()}

    players = dict(
        critic=Player(lambda key, batch: critic.init(key, batch.x, None), critic_move,
                      discriminator_optimiser, project=critic.project),
        generator=Player(generator.init, generator_move, optimiser),
        recogniser=Player(lambda key, batch: q.init(key, batch.x), recogniser_move,
                          recogniser_optimiser))
    return game(players, axis=context.axis, whole=critic.loss.whole, evaluate=evaluate,
                decode=generator.decode, prior=prior, show=show,
                bounds=adversarial.BOUNDS | dict(category=SHARE))
