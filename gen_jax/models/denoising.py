"""The denoising autoencoder (Vincent et al. 2010): it removes noise."""
import jax
import jax.numpy as jnp

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, BadInput, Batch, Context, Model, Player

NOISES = 'gaussian', 'masking', 'salt_pepper'


def damage(key, x, noise, noise_level):
    """x with noise: gaussian, of standard deviation `level` and cut off at [0, 1] where x lies
    there; masking, a share `level` of the dimensions 0; salt_pepper, such a share 0 or 1."""
    where, what = jax.random.split(key)
    hit = jax.random.bernoulli(where, noise_level, x.shape)
    if noise == 'gaussian':
        return x + noise_level * jax.random.normal(what, x.shape)
    if noise == 'masking':
        return jnp.where(hit, 0., x)
    return jnp.where(hit, jax.random.bernoulli(what, .5, x.shape).astype(x.dtype), x)


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, noise: str = 'gaussian',
         noise_level: float = .3, latent: int | None = None, loss: str = 'mse',
         net: Nets = nets.make('conv'), optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises the reconstruction loss between x and decode(encode(x with noise)).

    Args:
        noise: gaussian, masking (pixels become 0) or salt_pepper (pixels become 0 or 1); it is
            drawn anew at every step.
        noise_level: standard deviation of the Gaussian noise, else the share of pixels changed.
        latent: size of the code, as in `ae`.
        loss: reconstruction loss, summed over an example: mse, l1, cross_entropy or ssim.

    Metrics: loss; in evaluation also those of `losses.fidelity_metrics`, of the denoised example
    (mse, ..) and of the noisy one (noisy_mse, ..).
    Raises: BadInput for an unknown noise, and for options that do not fit the data.
    """
    if noise not in NOISES:
        raise BadInput(f'unknown noise {noise!r}; choose one of {", ".join(NOISES)}')
    if noise_level < 0 or noise != 'gaussian' and noise_level > 1:
        raise BadInput(
            f'noise_level of {noise} noise cannot be {noise_level}; it is a standard deviation for '
            'gaussian, and a share between 0 and 1 for the others')
    if noise == 'salt_pepper':
        losses.require_unit_interval(example.x, 'noise salt_pepper')
    coder = nets.autoencoder('ae', example.x, latent, net, loss == 'cross_entropy')
    error = losses.reconstruction_loss(loss, example.x, coder.link)
    fidelity = losses.fidelity_metrics(example.x)
    unit = losses.in_unit_interval(example.x)

    def noisy(key, x):
        x = damage(key, x, noise, noise_level)
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
