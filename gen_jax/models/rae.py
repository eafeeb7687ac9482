"""The regularised autoencoder (Ghosh et al. 2020): plain penalties instead of a VAE's noise."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers, parts
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, BadInput, Batch, Context, Model, Player

REGULARISERS = 'none', 'l2', 'gradient_penalty', 'spectral'


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, beta: float = 1e-2,
    regulariser: str = 'gradient_penalty', penalty_weight: float = 1e-3, probes: int = 1,
    latent: int = 16, loss: str = 'mse', net: Nets = nets.make('mlp'),
    optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises recon(x, decode(z)) + beta |z|^2 / 2 + a penalty that makes the decoder smooth.

    The model has no prior: a density is fitted to its codes after training, see `samplers`.

    Args:
        beta: weight of the squared norm of the codes.
        regulariser: l2, the squared norm of the decoder's parameters; gradient_penalty, the squared
            Frobenius norm of the decoder's Jacobian, see `losses.jacobian_norm`; spectral, spectral
            normalisation of the decoder, without a penalty; none. The net's norm is the encoder's
            alone where it is spectral.
        penalty_weight: weight of the regulariser.
        probes: number of random probes of the Jacobian's norm; 0 for the exact norm.
        latent: size of the code.
        loss: reconstruction loss, summed over an example: mse, l1, cross_entropy or ssim.

    Metrics, per example: loss, recon, squared_norm = |z|^2; in evaluation also those of
    `losses.fidelity_metrics`.
    Raises: BadInput for an unknown regulariser, and for options that do not fit the data.
    """
    if regulariser not in REGULARISERS:
        raise BadInput(
            f'unknown regulariser {regulariser!r}; choose one of {", ".join(REGULARISERS)}')
    if probes < 0:
        raise BadInput(f'probes must be 0, for the exact norm, or their number, not {probes}')
    logits = loss == 'cross_entropy'
    coder = nets.autoencoder('ae', example.x, latent, net, logits)
    if regulariser == 'spectral':
        spectral = parts.replace(net, norm='spectral')
        coder = coder._replace(
            decoder=nets.autoencoder('ae', example.x, latent, spectral, logits).decoder)
    error = losses.reconstruction_loss(loss, example.x, coder.link)
    fidelity = losses.fidelity_metrics(example.x)

    def roughness(state, z, key):
        if regulariser == 'l2':
            return sum(jnp.sum(p ** 2) for p in jax.tree.leaves(state.params['ae']['decoder']))
        if regulariser == 'gradient_penalty':
            return losses.jacobian_norm(lambda z: coder.decode(state, z), z, key, probes)
        return jnp.zeros(())

    def terms(state, z, y, x, key):
        away, size = error(y, x), losses.per_example(z ** 2)
        loss = away + beta / 2 * size + penalty_weight * roughness(state, z, key)
        return dict(loss=loss, recon=away, squared_norm=size)

    def objective(state, batch, key):
        z, y, buffers = coder.train(state, batch.x)
        metrics = {k: v.mean() for k, v in terms(state, z, y, batch.x, key).items()}
        return metrics['loss'], metrics, buffers

    def evaluate(state, batch, key):
        z = coder.encode(state, batch.x)
        y = coder.logits(state, z)
        return terms(state, z, y, batch.x, key) | fidelity(coder.link(y), batch.x)

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
