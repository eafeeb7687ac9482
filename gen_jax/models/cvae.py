"""The conditional VAE: encoder and decoder are told the label (Sohn et al. 2015)."""
from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.latents import LATENTS, Latents, variational
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int = 20, beta: float = 1.,
         latents: Latents = LATENTS, net: Nets = nets.of('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises recon + beta * KL(q(z|x, label) || p(z)), nats per example, of p(x | label).

    A code to decode is a pair (z, label); the prior draws the labels in turn, so that samples come
    by class.  Hyper-parameters and metrics: as of the VAE in vae.
    Raises BadInput for data without labels, and for what does not fit.
    """
    labels = losses.require_labels(example.label, 'use --config=configs/vae.py')
    model = variational('vae', example, latent, latents, net, labels)

    def objective(state, batch, key):
        drawn = model.train(state, batch, key)
        recon, kl = drawn.nll.mean(), drawn.divergence().mean()
        loss = recon + beta * model.cost(drawn, state)
        return loss, dict(loss=loss, elbo=-(recon + kl), recon=recon, kl=kl), drawn.buffers

    def evaluate(state, batch, key):
        found = model.evaluate(state, batch, key)
        return dict(loss=found['recon'] + beta * found['kl']) | found

    return game({'vae': Player(model.init, objective, optimiser)}, axis=context.axis,
                whole=latents.whole, evaluate=evaluate, **model.maps())
