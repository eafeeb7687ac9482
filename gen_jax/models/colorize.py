"""Colours for grey images (Zhang et al. 2016): an autoencoder predicts colour from lightness."""
import jax.numpy as jnp
import numpy as np

from gen_jax import losses, nets, optimisers
from gen_jax.game import game
from gen_jax.nets import Nets
from gen_jax.optimisers import Optimiser
from gen_jax.types import DEFAULT_CONTEXT, Array, BadInput, Batch, Context, Model, Player

LUMA = np.float32([.299, .587, .114])  # ITU-R BT.601


def chroma(x: Array) -> Array:
    """The colour differences Cb and Cr of images (n, h, w, 3), each within [-0.5, 0.5]."""
    luma = x @ LUMA
    return jnp.stack([(x[..., 2] - luma) / 1.772, (x[..., 0] - luma) / 1.402], -1)


def colour(luma: Array, chroma: Array) -> Array:
    """The image (n, h, w, 3), within [0, 1], of a lightness (n, h, w) and colour differences."""
    red, blue = luma + 1.402 * chroma[..., 1], luma + 1.772 * chroma[..., 0]
    green = (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return jnp.clip(jnp.stack([red, green, blue], -1), 0, 1)


def make(example: Batch, context: Context = DEFAULT_CONTEXT, *, latent: int | None = None,
         net: Nets = nets.make('conv', width=(32, 64, 64)),
         optimiser: Optimiser = optimisers.make()) -> Model:
    """Minimises the squared error of the colour differences Cb, Cr predicted from the grey image.

    A code is dict(luma, features): the lightness is passed on, so only the colour is predicted.

    Args:
        latent: size of the code, as in `ae`.

    Metrics: loss, the squared error of the two chroma channels summed over an image; in evaluation
    chroma_psnr, in dB; psnr_gain, by how much it exceeds grey_chroma_psnr, that of the grey image
    itself; grey_loss; and those of `losses.fidelity_metrics` for the whole image.
    Raises: BadInput for data without three channels in [0, 1].
    """
    shape = example.x.shape[1:]
    if len(shape) != 3 or shape[2] != 3:
        raise BadInput(f'colorize needs colour images (h, w, 3), but an example here has shape '
                       f'{tuple(shape)}; use --config=configs/colorize.py:photos')
    losses.require_unit_interval(example.x, 'colorize')
    coder = nets.Autoencoder('ae', net.encoder((*shape[:2], 1), latent),
                       net.decoder(chroma(example.x), latent, nets.identity, 0), nets.identity)
    fidelity = losses.fidelity_metrics(example.x)

    def grey(x):
        return (x @ LUMA)[..., None]

    def init(key, batch):
        return coder.init(key, Batch(grey(batch.x)))

    def objective(state, batch, key):
        _, y, buffers = coder.train(state, grey(batch.x))
        value = losses.squared_error(y, chroma(batch.x)).mean()
        return value, dict(loss=value), buffers

    def encode(state, x):
        return dict(luma=x @ LUMA, features=coder.encode(state, grey(x)))

    def decode(state, z):
        return colour(z['luma'], coder.decode(state, z['features']))

    def evaluate(state, batch, key):
        images, truth = decode(state, encode(state, batch.x)), chroma(batch.x)
        psnr, copied = (losses.psnr(y, truth) for y in (chroma(images), jnp.zeros_like(truth)))
        return fidelity(images, batch.x) | dict(
            loss=losses.squared_error(chroma(images), truth),
            grey_loss=losses.per_example(truth ** 2), chroma_psnr=psnr,
            grey_chroma_psnr=copied, psnr_gain=psnr - copied)

    def show(state, batch, key):
        return {'grey': jnp.broadcast_to(grey(batch.x), batch.x.shape),
                'coloured': decode(state, encode(state, batch.x)), 'test data': batch.x}

    return game({'ae': Player(init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=encode, decode=decode, show=show)
