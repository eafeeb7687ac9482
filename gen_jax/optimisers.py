"""What moves a player's parameters, from optax; and the average of them that is evaluated."""
from typing import Callable, NamedTuple

import jax.numpy as jnp
import optax

from gen_jax import losses
from gen_jax.parts import Made, part
from gen_jax.types import BadInput

NAMES = 'adam',
SCHEDULES = 'constant', 'cosine', 'stages'


class Optimiser(NamedTuple):
    """init, update: as of optax.  average: decay of the moving average of the parameters, and of
    the buffers, that a player's evaluation and samples use; 0 for none."""
    init: Callable
    update: Callable
    average: float = 0.
    made: Made | None = None


@part
def make(name: str = 'adam', learning_rate: float = 1e-3, b1: float = .9, b2: float = .999,
         eps: float = 1e-8, weight_decay: float = 0., clip_norm: float = 0.,
         schedule: str = 'constant', steps: int = 0, average: float = 0.) -> Optimiser:
    """Adam (Kingma & Ba 2015), with decoupled weight decay (Loshchilov & Hutter 2019) where that is
    not 0.

    clip_norm: the largest norm of a gradient, 0 for any.  schedule: of the learning rate: constant;
    cosine, to 0 in so many `steps`; stages, Burda's, the first of so many steps, see losses.staged.
    average: see Optimiser.  Raises BadInput for another name or schedule, or numbers out of range.
    """
    for what, value, known in ('optimiser', name, NAMES), ('schedule', schedule, SCHEDULES):
        if value not in known:
            raise BadInput(f'unknown {what} {value!r}; choose one of {", ".join(known)}')
    if (schedule == 'constant') != (steps == 0) or steps < 0:
        raise BadInput(f'schedule {schedule} with steps {steps} does not fit: constant has 0 steps,'
                       ' cosine and stages a positive number')
    if not 0 <= average < 1:
        raise BadInput(f'average is a decay from 0 to less than 1, not {average}')
    rate = dict(constant=lambda: learning_rate,
                cosine=lambda: optax.cosine_decay_schedule(learning_rate, steps),
                stages=lambda: losses.staged(learning_rate, steps))[schedule]()
    adam = dict(b1=b1, b2=b2, eps=eps)
    found = (optax.adamw(rate, weight_decay=weight_decay, **adam) if losses.wanted(weight_decay)
             else optax.adam(rate, **adam))
    if losses.wanted(clip_norm):
        if losses.traced(clip_norm):  # 0 means none here too
            clip_norm = jnp.where(clip_norm > 0, clip_norm, jnp.inf)
        found = optax.chain(optax.clip_by_global_norm(clip_norm), found)
    return Optimiser(*found, average)
