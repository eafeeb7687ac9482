"""The regularised autoencoder: what a VAE does by noise, by plain penalties (Ghosh et al. 2020)."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers, parts
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, BadInput, Batch, Context, Model, Player

SMOOTH = 'none', 'weight', 'gradient', 'spectral'


def make(example: Batch, context: Context = ALONE, *, beta: float = 1e-2,
         smooth: str = 'gradient', penalty: float = 1e-3, probes: int = 1, latent: int = 16,
         loss: str = 'mse', net: Nets = nets.of('mlp'),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises error(x, decode(z)) + beta |z|^2 / 2 + a penalty that keeps the decoder smooth.

    smooth: `weight`, penalty times the decoder's squared parameters; `gradient`, penalty times the
    squared Frobenius norm of the decoder's Jacobian, from so many random `probes` or exact for 0
    (see losses.jacobian_norm); `spectral`, spectral normalisation of the decoder, no penalty;
    or `none`.  latent, loss: as of the autoencoder in ae; the net's norm is the encoder's alone
    where smooth is spectral.  It has no prior: its codes' density is fitted afterwards.
    Metrics, per example: loss, error, size = |z|^2; in evaluation also those of losses.fidelity.
    Raises BadInput for an unknown smooth, or what does not fit the data.
    """
    if smooth not in SMOOTH:
        raise BadInput(f'unknown smooth {smooth!r}; choose one of {", ".join(SMOOTH)}')
    if probes < 0:
        raise BadInput(f'probes must be 0, for the exact norm, or their number, not {probes}')
    logits = loss == 'cross_entropy'
    coder = nets.coder('ae', example.x, latent, net, logits)
    if smooth == 'spectral':
        spectral = parts.changed(net, norm='spectral')
        coder = coder._replace(
            decoder=nets.coder('ae', example.x, latent, spectral, logits).decoder)
    error = losses.reconstruction(loss, example.x, coder.link)
    fidelity = losses.fidelity(example.x)

    def roughness(state, z, key):
        if smooth == 'weight':
            return sum(jnp.sum(p ** 2) for p in jax.tree.leaves(state.params['ae']['decoder']))
        if smooth == 'gradient':
            return losses.jacobian_norm(lambda z: coder.decode(state, z), z, key, probes)
        return jnp.zeros(())

    def terms(state, z, y, x, key):
        away, size = error(y, x), losses.per_example(z ** 2)
        loss = away + beta / 2 * size + penalty * roughness(state, z, key)
        return dict(loss=loss, error=away, size=size)

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
