"""The sparse autoencoder: a wide code of which an example uses little (Ng 2011)."""
import jax

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, BadInput, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, sparsity: str = 'l1',
         penalty: float = .03, target: float = .05, latent: int = 128, loss: str = 'mse',
         net: Nets = nets.of('mlp', width=(256,)),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises the error between x and decode(z) plus a penalty on the code z.

    sparsity: `l1`, z = relu(encoder(x)) and penalty * sum |z|; or `kl`, z = sigmoid(encoder(x)) and
    penalty times the sum over units of KL(Bernoulli(target) || Bernoulli(mean of z over the
    batch)), in nats.  latent, loss: as of the autoencoder in ae.
    Metrics, per example: error, and active, the share of units above 0.01 (l1) or 0.5 (kl); in
    training also sparsity and loss = error + penalty * sparsity, which the KL of a batch leaves
    without a value for one example; in evaluation those of losses.fidelity.
    Raises BadInput for an unknown sparsity, a target outside (0, 1), or what does not fit the data.
    """
    if sparsity not in ('l1', 'kl'):
        raise BadInput(f'unknown sparsity {sparsity!r}; choose l1 or kl')
    if not 0 < target < 1:
        raise BadInput(f'target is a share between 0 and 1, not {target}')
    coder = nets.coder('ae', example.x, latent, net, loss == 'cross_entropy')
    act, threshold = dict(l1=(jax.nn.relu, .01), kl=(jax.nn.sigmoid, .5))[sparsity]
    coder = coder._replace(encoder=nets.after(coder.encoder, act))
    error = losses.reconstruction(loss, example.x, coder.link)
    fidelity = losses.fidelity(example.x)

    def excess(z):
        if sparsity == 'l1':
            return losses.per_example(z).mean()
        return losses.bernoulli_kl(target, z.mean(0)).sum()

    def active(z):
        return (z > threshold).reshape(len(z), -1).mean(1)

    def objective(state, batch, key):
        z, y, buffers = coder.train(state, batch.x)
        away, size = error(y, batch.x).mean(), excess(z)
        value = away + penalty * size
        return value, dict(loss=value, error=away, sparsity=size, active=active(z).mean()), buffers

    def evaluate(state, batch, key):
        z = coder.encode(state, batch.x)
        y = coder.logits(state, z)
        return dict(error=error(y, batch.x), active=active(z)) | fidelity(
            coder.link(y), batch.x)

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                whole='the mean activity of a unit' if sparsity == 'kl' else '',
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
