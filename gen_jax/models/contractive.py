"""The contractive autoencoder: a code that barely moves with its input (Rifai et al. 2011)."""
from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, BadInput, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, penalty: float = .1, probes: int = 0,
         latent: int | None = 20, loss: str = 'mse', net: Nets = nets.of('mlp', width=(256,)),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises the error between x and decode(encode(x)) plus penalty * |d encode(x) / dx|^2.

    The squared Frobenius norm of the Jacobian is exact for any encoder where probes is 0, at the
    price of one backward pass for each dimension of the code, else estimated from so many random
    probes, see losses.jacobian_norm.  latent, loss: as of the autoencoder in ae; batch
    statistics count as constants in the Jacobian.
    Metrics: loss = error + penalty * jacobian, error, jacobian, per example (the last exact in
    evaluation where probes is 0); in evaluation also those of losses.fidelity.
    Raises BadInput for a negative number of probes, or what does not fit the data.
    """
    if probes < 0:
        raise BadInput(f'probes must be 0, for the exact norm, or their number, not {probes}')
    coder = nets.coder('ae', example.x, latent, net, loss == 'cross_entropy')
    error = losses.reconstruction(loss, example.x, coder.link)
    fidelity = losses.fidelity(example.x)

    def terms(state, y, x, key):
        size = losses.jacobian_norm(lambda x: coder.encode(state, x), x, key, probes)
        away = error(y, x)
        return dict(loss=away + penalty * size, error=away, jacobian=size)

    def objective(state, batch, key):
        _, y, buffers = coder.train(state, batch.x)
        metrics = {k: v.mean() for k, v in terms(state, y, batch.x, key).items()}
        return metrics['loss'], metrics, buffers

    def evaluate(state, batch, key):
        y = coder.logits(state, coder.encode(state, batch.x))
        return terms(state, y, batch.x, key) | fidelity(coder.link(y), batch.x)

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
