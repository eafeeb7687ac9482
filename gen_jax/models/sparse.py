"""The sparse autoencoder (Ng 2011): a wide code, of which an example uses few units."""
import jax

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, BadInput, Batch, Context, Model, Player


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, sparsity: str = 'l1',
    penalty_weight: float = .03,
    target_activation: float = .05, latent: int = 128, loss: str = 'mse', net: Nets = nets.make(
        'mlp', width=(256, )), optimiser: Optimiser = optimisers.make()
) -> Model:
    """Minimises the reconstruction loss plus penalty_weight times a sparsity penalty on the code z.

    Args:
        sparsity: l1, z = relu(encoder(x)) with penalty sum |z|; or kl, z = sigmoid(encoder(x)) with
            the sum over units of KL(Bernoulli(target_activation) || Bernoulli(mean of z over the
            batch)), in nats.
        penalty_weight: weight of the penalty.
        target_activation: mean activation of a unit, the paper's rho, for sparsity kl.
        latent: size of the code.
        loss: reconstruction loss, summed over an example: mse, l1, cross_entropy or ssim.

    Metrics, per example: recon, and active_fraction, the share of units above 0.01 (l1) or 0.5
    (kl); in training also sparsity and loss = recon + penalty_weight * sparsity, as the KL of a
    batch has no value for one example; in evaluation those of `losses.fidelity_metrics`.
    Raises: BadInput for an unknown sparsity, a target outside (0, 1), and for options that do not
    fit the data.
    """
    if sparsity not in ('l1', 'kl'):
        raise BadInput(f'unknown sparsity {sparsity!r}; choose l1 or kl')
    if not 0 < target_activation < 1:
        raise BadInput(f'target_activation is a share between 0 and 1, not {target_activation}')
    coder = nets.autoencoder('ae', example.x, latent, net, loss == 'cross_entropy')
    activation, threshold = dict(l1=(jax.nn.relu, .01), kl=(jax.nn.sigmoid, .5))[sparsity]
    coder = coder._replace(encoder=nets.compose(coder.encoder, activation))
    error = losses.reconstruction_loss(loss, example.x, coder.link)
    fidelity = losses.fidelity_metrics(example.x)

    def excess(z):
        if sparsity == 'l1':
            return losses.per_example(z).mean()
        return losses.bernoulli_kl(target_activation, z.mean(0)).sum()

    def active(z):
        return (z > threshold).reshape(len(z), -1).mean(1)

    def objective(state, batch, key):
        z, y, buffers = coder.train(state, batch.x)
        away, size = error(y, batch.x).mean(), excess(z)
        value = away + penalty_weight * size
        return value, dict(loss=value, recon=away, sparsity=size,
                           active_fraction=active(z).mean()), buffers

    def evaluate(state, batch, key):
        z = coder.encode(state, batch.x)
        y = coder.logits(state, z)
        return dict(recon=error(y, batch.x), active_fraction=active(z)) | fidelity(
            coder.link(y), batch.x)

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                full_batch='the mean activity of a unit' if sparsity == 'kl' else '',
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
