"""The autoencoder: a code small enough that copying is impossible (Hinton & Salakhutdinov 2006)."""
from typing import Sequence

import optax

from gen_jax import losses, nets
from gen_jax.game import game
from gen_jax.types import ALONE, Batch, Context, Model, Player


def make(example: Batch, context: Context = ALONE, *, latent: int | None = None,
         kind: str = 'conv', width: Sequence[int] = (30, 15), norm: str = 'none', loss: str = 'mse',
         rate: float = 1e-3, decay: int = 0) -> Model:
    """Minimises the error between x and decode(encode(x)).

    latent: size of a dense bottleneck; None for the bare features, with `conv` the survey's
    3x3 convolutions width[0] - pool - width[1] - pool and back.  kind: of both nets, see nets.
    The output is a sigmoid where the data lies in [0, 1], linear elsewhere and for kind `linear`,
    which with mse spans the subspace of PCA (Baldi & Hornik 1989).  loss: mse, l1, cross_entropy
    or ssim, summed over an example, see losses.reconstruction.  decay: number of steps in which
    the rate falls to zero along a cosine, 0 for a constant rate.
    Metrics: loss; in evaluation also those of losses.fidelity.
    Raises BadInput for what does not fit the data.
    """
    coder = nets.coder('ae', example.x, latent, kind=kind, width=width, norm=norm,
                       logits=loss == 'cross_entropy')
    error = losses.reconstruction(loss, example.x, coder.link)
    fidelity = losses.fidelity(example.x)

    def objective(state, batch, key):
        _, y, buffers = coder.train(state, batch.x)
        value = error(y, batch.x).mean()
        return value, dict(loss=value), buffers

    def evaluate(state, batch, key):
        y = coder.logits(state, coder.encode(state, batch.x))
        return dict(loss=error(y, batch.x)) | fidelity(coder.link(y), batch.x)

    schedule = optax.cosine_decay_schedule(rate, decay) if decay else rate
    return game({'ae': Player(coder.init, objective, optax.adam(schedule))}, axis=context.axis,
                evaluate=evaluate, encode=coder.encode, decode=coder.decode)
