"""The adversarial autoencoder: a critic makes the codes normal (Makhzani et al. 2016)."""
import jax
import jax.numpy as jnp

from gen_jax import adversarial, losses, nets, optimisers
from gen_jax.adversarial import Discriminator
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 10, adversary: float = 1.,
         labelled: bool = False, error: str = 'cross_entropy',
         discriminator: Discriminator = adversarial.make(), net: Nets = nets.of('mlp'),
         discriminator_net: Nets = nets.of('mlp', width=(256, 256), act='leaky'),
         optimiser: Optimiser = optimisers.make(b1=.5),
         discriminator_optimiser: Optimiser = optimisers.make(b1=.5)) -> Model:
    """The autoencoder minimises its error, nats per example, + adversary * the generator's loss of
    its codes; the critic tells them from draws of N(0, I).

    labelled: the decoder is told the label, so that the code keeps what is not in it.  error: see
    losses.reconstruction.
    Metrics: loss, the error; critic_loss, generator_loss, accuracy_real (of draws), accuracy_fake
    (of codes); in evaluation also mse, psnr, ssim, spread_real and spread_fake of draws and codes.
    Raises BadInput for what does not fit.
    """
    labels = losses.require_labels(example.label, 'use labelled=False') if labelled else 0
    coder = nets.coder('ae', example.x, latent, net, error == 'cross_entropy')
    if labels:
        coder = coder._replace(decoder=nets.conditioned(coder.decoder, labels))
    apart = losses.reconstruction(error, example.x, coder.link)
    fidelity = losses.fidelity(example.x)
    judge = adversarial.critic('critic', (latent,), discriminator, discriminator_net,
                               batch=context.batch)

    def told(z, batch):
        return (z, batch.label) if labels else z

    def init(key, batch):
        keys = jax.random.split(key)
        params, buffers = coder.encoder.init(keys[0], batch.x)
        z = coder.encoder.apply(params, buffers, batch.x[:1])
        made = coder.decoder.init(keys[1], told(z, batch._replace(
            label=None if batch.label is None else batch.label[:1])))
        return dict(encoder=params, decoder=made[0]), dict(encoder=buffers, decoder=made[1])

    def prior(state, key, n):
        z = losses.normal(key, n, latent)
        return (z, jnp.arange(n) % labels) if labels else z

    def draws(key, batch):
        return Batch(losses.normal(key, len(batch.x), latent))

    def codes(state, x):
        own = state.params['ae']['encoder'], state.buffers['ae']['encoder']
        return coder.encoder.train(*own, x)

    def ae_move(state, batch, key):
        z, seen = codes(state, batch.x)
        y, made = coder.decoder.train(state.params['ae']['decoder'],
                                      state.buffers['ae']['decoder'], told(z, batch))
        keys = jax.random.split(key)
        value = judge.against(state, draws(keys[0], batch), Batch(z), keys[1])
        lost = apart(y, batch.x).mean()
        return (lost + adversary * value, dict(loss=lost, generator_loss=value),
                dict(encoder=seen, decoder=made))

    def critic_move(state, batch, key):
        keys = jax.random.split(key)
        return judge.move(state, draws(keys[0], batch), Batch(codes(state, batch.x)[0]), keys[1])

    def evaluate(state, batch, key):
        z = coder.encode(state, batch.x)
        y = coder.logits(state, told(z, batch))
        return dict(loss=apart(y, batch.x), **fidelity(coder.link(y), batch.x),
                    **judge.evaluate(state, draws(key, batch), Batch(z)))

    def show(state, batch, key):
        z = coder.encode(state, batch.x)
        every = {f'as {i}': coder.decode(state, (z, jnp.full(len(z), i))) for i in range(labels)}
        return {'test data': batch.x,
                'reconstructions': coder.decode(state, told(z, batch)), **every}

    players = dict(
        ae=Player(init, ae_move, optimiser),
        critic=Player(lambda key, batch: judge.init(key, draws(key, batch).x, None), critic_move,
                      discriminator_optimiser, project=judge.project))
    return game(players, axis=context.axis, whole=judge.loss.whole, evaluate=evaluate,
                encode=None if labels else coder.encode, decode=coder.decode, prior=prior,
                show=show if labels else None, bounds=adversarial.BOUNDS)
