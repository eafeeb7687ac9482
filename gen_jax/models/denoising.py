"""The denoising autoencoder: undo damage, and learn what the data is like (Vincent et al. 2010)."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import ALONE, BadInput, Batch, Context, Model, Player

NOISES = 'gaussian', 'masking', 'salt_pepper'


def damage(key, x, noise, level):
    """x with noise: gaussian, of standard deviation `level` and cut off at [0, 1] where x lies
    there; masking, a share `level` of the dimensions 0; salt_pepper, such a share 0 or 1."""
    where, what = jax.random.split(key)
    hit = jax.random.bernoulli(where, level, x.shape)
    if noise == 'gaussian':
        return x + level * jax.random.normal(what, x.shape)
    if noise == 'masking':
        return jnp.where(hit, 0., x)
    return jnp.where(hit, jax.random.bernoulli(what, .5, x.shape).astype(x.dtype), x)


def make(example: Batch, context: Context = ALONE, *, noise: str = 'gaussian',
         level: float = .3, latent: int | None = None, loss: str = 'mse',
         net: Nets = nets.of('conv'), optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises the error between x and decode(encode(x with noise)).

    noise, level: see damage; the noise is drawn anew at every step.  latent, loss: as
    of the autoencoder in ae.  Metrics: loss; in evaluation also those of losses.fidelity,
    of the restored example (mse, ..) and of the noisy one (noisy_mse, ..).
    Raises BadInput for an unknown noise, or what does not fit the data.
    """
    if noise not in NOISES:
        raise BadInput(f'unknown noise {noise!r}; choose one of {", ".join(NOISES)}')
    if level < 0 or noise != 'gaussian' and level > 1:
        raise BadInput(f'level of {noise} noise cannot be {level}; it is a standard deviation for '
                       'gaussian, and a share between 0 and 1 for the others')
    if noise == 'salt_pepper':
        losses.require_unit(example.x, 'noise salt_pepper')
    coder = nets.coder('ae', example.x, latent, net, loss == 'cross_entropy')
    error = losses.reconstruction(loss, example.x, coder.link)
    fidelity = losses.fidelity(example.x)
    unit = losses.in_unit(example.x)

    def noisy(key, x):
        x = damage(key, x, noise, level)
        return jnp.clip(x, 0, 1) if unit else x

    def objective(state, batch, key):
        _, y, buffers = coder.train(state, noisy(key, batch.x))
        value = error(y, batch.x).mean()
        return value, dict(loss=value), buffers

    def evaluate(state, batch, key):
        x = noisy(key, batch.x)
        y = coder.logits(state, coder.encode(state, x))
        before = fidelity(x, batch.x)
        return dict(loss=error(y, batch.x)) | fidelity(coder.link(y), batch.x) | {
            f'noisy_{k}': v for k, v in before.items()}

    def show(state, batch, key):
        x = noisy(key, batch.x)
        return {'test data': batch.x, 'noisy': x,
                'restored': coder.decode(state, coder.encode(state, x))}

    return game({'ae': Player(coder.init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode, show=show)
