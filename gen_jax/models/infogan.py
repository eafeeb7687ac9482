"""InfoGAN (Chen et al. 2016): a GAN with codes that can be recognised in its samples."""
import math
import jax
import jax.numpy as jnp
import optax

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import DiscriminatorOptions
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import (DEFAULT_CONTEXT, UNIT_INTERVAL, Array, BadInput, Batch, Context, Model,
                           Player, State)


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, num_categories: int = 10,
    num_continuous: int = 2, latent: int = 62, continuous_std: float = .5, info_weight: float = 1.,
    discriminator: DiscriminatorOptions = adversarial.make(), net: Nets = nets.make(
        'dcgan', norm='batch'), discriminator_net: Nets = nets.make(
            'dcgan', norm='batch', activation='leaky_relu'), recognition_net: Nets = nets.make(
                'dcgan', activation='leaky_relu'), optimiser: Optimiser = optimisers.make(
                    learning_rate=2e-4, b1=.5,
                    ema_decay=.999), recognition_optimiser: Optimiser = optimisers.make(
                        learning_rate=2e-4,
                        b1=.5), discriminator_optimiser: Optimiser = optimisers.make(
                            learning_rate=2e-4, b1=.5)
) -> Model:
    """A GAN of codes z = (category, continuous, noise). A third player, the recognition network q,
    and the generator both maximise info_weight * E log q(category, continuous | x).

    Args:
        num_categories: number of values of the categorical code, a one-hot vector.
        num_continuous: number of continuous codes, uniform on (-1, 1), of which q is Gaussian.
        latent: size of the noise.
        continuous_std: standard deviation of q for the continuous codes.
        info_weight: weight of the mutual information (the paper's lambda).

    Metrics: those of the GAN; mutual_info_bound, the lower bound entropy + E log q of I(codes; x),
    in nats; category_accuracy, the share of categories that the recognition network gets right.
    Raises: BadInput for options that do not fit.
    """
    if num_categories < 2 or num_continuous < 0 or latent < 0:
        raise BadInput('infogan needs categories >= 2, continuous >= 0 and latent >= 0, not '
                       f'{num_categories}, {num_continuous} and {latent}')
    shape = example.x.shape[1:]
    discriminator = adversarial.discriminator('discriminator', shape, discriminator,
                                              discriminator_net, batch=context.batch)
    size = num_categories + num_continuous + latent
    generator = adversarial.generator('generator', example.x, size, net)
    # no statistics of a batch: of samples by category there are none to share
    nets.require_no_statistics(recognition_net, 'recognition_net')
    q = recognition_net.encoder(shape, num_categories + num_continuous)
    entropy = math.log(num_categories) + num_continuous * math.log(2)

    def prior(state, key, n):
        keys = jax.random.split(key, 3)
        return joined(jax.random.randint(keys[0], (n,), 0, num_categories),
                      jax.random.uniform(keys[1], (n, num_continuous), minval=-1, maxval=1),
                      losses.standard_normal(keys[2], n, latent))

    def joined(category, code, noise):
        return jnp.concatenate([jax.nn.one_hot(category, num_categories), code, noise], 1)

    def known(state: State, x: Array, z: Array) -> tuple[Array, Array]:
        """entropy + log q(codes | x), (n,), and whether the category is read rightly."""
        y = q.apply(state.params['recognition'], {}, x)
        category, code = z[:, :num_categories].argmax(1), z[:, num_categories:num_categories +
                                                            num_continuous]
        category_loss = optax.softmax_cross_entropy_with_integer_labels(
            y[:, :num_categories], category)
        lost = losses.gaussian_nll(y[:, num_categories:], code, 2 * jnp.log(continuous_std))
        return entropy - category_loss - lost, losses.accuracy(y[:, :num_categories], category)

    def generate(state, batch, key):
        z = prior(state, key, len(batch.x))
        return z, *generator.make(state, z)

    def discriminator_move(state, batch, key):
        return discriminator.loss_and_metrics(state, batch,
                                  generate(state, batch, key)[1], jax.random.fold_in(key, 1))

    def generator_move(state, batch, key):
        z, fake, buffers = generate(state, batch, key)
        value = discriminator.generator_loss(state, batch, fake, jax.random.fold_in(key, 1))
        return (value - info_weight * known(state, fake.x, z)[0].mean(),
                dict(generator_loss=value), buffers)

    def recognition_move(state, batch, key):
        z, fake, _ = generate(state, batch, key)
        information, right = known(state, losses.stop_gradient(fake.x), z)
        return -information.mean(), dict(mutual_info_bound=information.mean(),
                                         category_accuracy=right.mean()), {}

    def evaluate(state, batch, key):
        z = prior(state, key, len(batch.x))
        fake = generator.decode(state, z)
        information, right = known(state, fake, z)
        return discriminator.evaluate(state, batch, Batch(fake)) | dict(
            mutual_info_bound=information, category_accuracy=right)

    def show(state, batch, key):
        """Each category down, and each continuous code from -1 to 1, of the same noise across."""
        side = max(1, round(len(batch.x) ** .5))
        place = jnp.arange(len(batch.x))
        row, column = place // side, place % side
        noise = jax.random.normal(key, (side + 1, latent))
        none = jnp.zeros((len(place), num_continuous))
        titled = {'a category a row': joined(row % num_categories, none, noise[column])}
        ramp = 2 * column / max(side - 1, 1) - 1
        for i in range(num_continuous):
            titled[f'code {i + 1} from left to right'] = joined(
                row % num_categories, none.at[:, i].set(ramp), noise[row])
        return {title: generator.decode(state, z) for title, z in titled.items()}

    players = dict(
        discriminator=Player(lambda key, batch: discriminator.init(key, batch.x, None),
                             discriminator_move, discriminator_optimiser,
                             project=discriminator.project),
        generator=Player(generator.init, generator_move, optimiser), recognition=Player(
            lambda key, batch: q.init(key, batch.x), recognition_move, recognition_optimiser))
    return game(players, axis=context.axis, full_batch=discriminator.loss.full_batch,
                evaluate=evaluate, decode=generator.decode, prior=prior, show=show,
                bounds=adversarial.BOUNDS | dict(category=UNIT_INTERVAL))
