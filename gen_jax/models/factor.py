"""FactorVAE: a critic tells codes from codes of independent dimensions (Kim & Mnih 2018)."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ABOVE_0, ALONE, SHARE, Array, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 10, gamma: float = 10.,
         latents: Latents = LATENTS, net: Nets = nets.of('mlp'),
         discriminator_net: Nets = nets.of('mlp', width=(256, 256, 256), act='leaky'),
         optimiser: Optimiser = optimisers.make(),
         discriminator_optimiser: Optimiser = optimisers.make(
             learning_rate=1e-4, b1=.5, b2=.9)) -> Model:
    """The VAE minimises recon + kl + gamma * tc, nats per example, the critic its cross-entropy.

    The critic's logit is of a code z being drawn from q(z) rather than from the product of its
    marginals, which a batch whose dimensions are permuted one by one stands for; at its best the
    logit is log q(z) / prod_d q(z_d), whose mean is the total correlation tc.  The paper's
    critic has six dense layers of 1000.
    Metrics: loss; elbo = -(recon + kl); recon, kl; tc, the critic's estimate; critic_loss; and
    accuracy, the share of codes, drawn and permuted in equal number, that it judges rightly; in
    evaluation also kl_unit.  Raises BadInput for what does not fit the data.
    """
    model = variational('vae', example, latent, latents, net)
    nets.require_no_statistics(discriminator_net, 'discriminator_net')
    judge = discriminator_net.encoder((latent,), 1)

    def logit(state, z):
        return judge.apply(state.params['critic'], {}, z)[:, 0]

    def rounds(state, batch, key):
        """The critic's logits of codes drawn, and of others drawn and permuted."""
        keys, code = jax.random.split(key, 3), model.read(state, batch)[0]
        real, other = (model.draw(state, code, key)[0] for key in keys[:2])
        return logit(state, real), logit(state, permuted(keys[2], other))

    def weighed(found, tc, cost):
        return dict(loss=found['recon'] + cost + gamma * tc, tc=tc) | found

    def vae_move(state, batch, key):
        drawn = model.train(state, batch, key)
        recon, kl = drawn.nll.mean(), drawn.divergence().mean()
        metrics = weighed(dict(elbo=-(recon + kl), recon=recon, kl=kl),
                          logit(state, drawn.z).mean(), model.cost(drawn, state))
        return metrics['loss'], metrics, drawn.buffers

    def critic_move(state, batch, key):
        real, fake = rounds(state, batch, key)
        value = losses.critic_loss(real, fake).mean()
        return value, dict(critic_loss=value, accuracy=right(real, fake).mean()), {}

    def evaluate(state, batch, key):
        real, fake = rounds(state, batch, key)
        found = model.evaluate(state, batch, key)
        return dict(weighed(found, real, found['kl']),
                    critic_loss=losses.critic_loss(real, fake), accuracy=right(real, fake))

    players = dict(
        vae=Player(model.init, vae_move, optimiser),
        critic=Player(lambda key, batch: judge.init(key, jnp.zeros((1, latent))), critic_move,
                      discriminator_optimiser))
    bounds = model.bounds() | dict(critic_loss=ABOVE_0, accuracy=SHARE)
    return game(players, axis=context.axis, whole='the permutation of codes', evaluate=evaluate,
                **model.maps() | dict(bounds=bounds))


def permuted(key: Array, z: Array) -> Array:
    """Codes (n, d) of which each dimension is shuffled over the batch by itself."""
    return jax.random.permutation(key, z, independent=True)


def right(real: Array, fake: Array) -> Array:
    return ((real > 0).astype(jnp.float32) + (fake < 0)) / 2
