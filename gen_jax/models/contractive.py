"""The contractive autoencoder (Rifai et al. 2011): a code that changes little with its input."""
from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, BadInput, Batch, Context, Model, Player


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, penalty_weight: float = .1,
    probes: int = 0, latent: int | None = 20, loss: str = 'mse', net: Nets = nets.make(
        'mlp', width=(256, )), optimiser: Optimiser = optimisers.make()
) -> Model:
    """Minimises the reconstruction loss plus penalty_weight * |d encode(x) / dx|^2.

    The squared Frobenius norm of the Jacobian is exact for any encoder where probes is 0, at the
    price of one backward pass for each dimension of the code; otherwise it is estimated, see
    `losses.jacobian_norm`. Batch statistics are constants in the Jacobian.

    Args:
        penalty_weight: weight of the Jacobian's norm.
        probes: number of random probes of the estimate; 0 for the exact norm.
        latent: size of the code.
        loss: reconstruction loss, summed over an example: mse, l1, cross_entropy or ssim.

    Metrics: loss = recon + penalty_weight * jacobian, recon and jacobian, per example (the last is
    exact in evaluation where probes is 0); in evaluation also those of `losses.fidelity_metrics`.
    Raises: BadInput for a negative number of probes, and for options that do not fit the data.
    """
    if probes < 0:
        raise BadInput(f'probes must be 0, for the exact norm, or their number, not {probes}')
    coder = nets.autoencoder('ae', example.x, latent, net, loss == 'cross_entropy')
    error = losses.reconstruction_loss(loss, example.x, coder.link)
    fidelity = losses.fidelity_metrics(example.x)

    def terms(state, y, x, key):
        size = losses.jacobian_norm(lambda x: coder.encode(state, x), x, key, probes)
        away = error(y, x)
        return dict(loss=away + penalty_weight * size, recon=away, jacobian=size)

    def objective(state, batch, key):
        _, y, buffers = coder.train(state, batch.x)
        metrics = {k: v.mean() for k, v in terms(state, y, batch.x, key).items()}
        return metrics['loss'], metrics, buffers

    def evaluate(state, batch, key):
        y = coder.logits(state, coder.encode(state, batch.x))
        return terms(state, y, batch.x, key) | fidelity(coder.link(y), batch.x)

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
