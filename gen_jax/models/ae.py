"""The autoencoder: a code small enough that copying is impossible (Hinton & Salakhutdinov 2006)."""
from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int | None = None, loss: str = 'mse',
         net: Nets = nets.of('conv'), optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises the error between x and decode(encode(x)).

    latent: size of a dense bottleneck; None for the bare features, with net `conv` the survey's
    3x3 convolutions width[0] - pool - width[1] - pool and back.
    The output is a sigmoid where the data lies in [0, 1], linear elsewhere and for net `linear`,
    which with mse spans the subspace of PCA (Baldi & Hornik 1989).  loss: mse, l1, cross_entropy
    or ssim, summed over an example, see losses.reconstruction.
    Metrics: loss; in evaluation also those of losses.fidelity.
    Raises BadInput for what does not fit the data.
    """
    coder = nets.coder('ae', example.x, latent, net, loss == 'cross_entropy')
    error = losses.reconstruction(loss, example.x, coder.link)
    fidelity = losses.fidelity(example.x)

    def objective(state, batch, key):
        _, y, buffers = coder.train(state, batch.x)
        value = error(y, batch.x).mean()
        return value, dict(loss=value), buffers

    def evaluate(state, batch, key):
        y = coder.logits(state, coder.encode(state, batch.x))
        return dict(loss=error(y, batch.x)) | fidelity(coder.link(y), batch.x)

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
