"""The autoencoder (Hinton & Salakhutdinov 2006): a code too small to copy the data."""
from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Batch, Context, Model, Player


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int | None = None,
    loss: str = 'mse', net: Nets = nets.make('conv'), optimiser: Optimiser = optimisers.make()
) -> Model:
    """Minimises a reconstruction loss between x and decode(encode(x)).

    The output is a sigmoid where the data lies in [0, 1]; it is linear for other data and for net
    `linear`, which with loss mse spans the subspace of PCA (Baldi & Hornik 1989).

    Args:
        latent: size of a dense bottleneck; None for the last features of the net itself (net `conv`
            then is 3x3 convolutions width[0] - pool - width[1] - pool and back).
        loss: reconstruction loss, summed over an example: mse, l1, cross_entropy or ssim.

    Metrics: loss; in evaluation also those of `losses.fidelity_metrics`.
    Raises: BadInput for options that do not fit the data.
    """
    coder = nets.autoencoder('ae', example.x, latent, net, loss == 'cross_entropy')
    error = losses.reconstruction_loss(loss, example.x, coder.link)
    fidelity = losses.fidelity_metrics(example.x)

    def objective(state, batch, key):
        _, y, buffers = coder.train(state, batch.x)
        value = error(y, batch.x).mean()
        return value, dict(loss=value), buffers

    def evaluate(state, batch, key):
        y = coder.logits(state, coder.encode(state, batch.x))
        return dict(loss=error(y, batch.x)) | fidelity(coder.link(y), batch.x)

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
