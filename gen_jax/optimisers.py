"""Optimisers from optax, with a learning-rate schedule, gradient clipping and an EMA of the
weights.
"""
from typing import Callable, NamedTuple

import jax.numpy as jnp
import optax

from gen_jax import losses
from gen_jax.parts import Spec, with_spec
from gen_jax.types import BadInput

NAMES = 'adam',
SCHEDULES = 'constant', 'cosine', 'staged'


class Optimiser(NamedTuple):
    """init, update: as of optax. ema_decay: decay of the exponential moving average of a player's
    parameters and buffers, which evaluation and samples use; 0 for none.
    """
    init: Callable
    update: Callable
    ema_decay: float = 0.
    spec: Spec | None = None


@with_spec
def make(name: str = 'adam', learning_rate: float = 1e-3, b1: float = .9, b2: float = .999,
         eps: float = 1e-8, weight_decay: float = 0., clip_norm: float = 0.,
         schedule: str = 'constant', schedule_steps: int = 0, ema_decay: float = 0.) -> Optimiser:
    """Adam (Kingma & Ba 2015), with decoupled weight decay (Loshchilov & Hutter 2019).

    Args:
        name: adam.
        learning_rate: step size.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the denominator.
        weight_decay: decoupled weight decay; 0 for none.
        clip_norm: largest norm of a gradient; 0 for any.
        schedule: of the learning rate: constant; cosine, to 0 in schedule_steps; or staged
            (Burda et al. 2015), whose first stage has schedule_steps, see `losses.staged_schedule`.
        schedule_steps: steps of the schedule.
        ema_decay: decay of the moving average of the weights that is evaluated; 0 for none.

    Raises: BadInput for an unknown name or schedule, and for numbers out of range.
    """
    for what, value, known in ('optimiser', name, NAMES), ('schedule', schedule, SCHEDULES):
        if value not in known:
            raise BadInput(f'unknown {what} {value!r}; choose one of {", ".join(known)}')
    if (schedule == 'constant') != (schedule_steps == 0) or schedule_steps < 0:
        raise BadInput(
            f'schedule {schedule} with schedule_steps {schedule_steps} does not fit: constant '
            'has 0 steps,'
            ' cosine and staged a positive number')
    if not 0 <= ema_decay < 1:
        raise BadInput(f'ema_decay is a decay from 0 to less than 1, not {ema_decay}')
    rate = dict(constant=lambda: learning_rate,
                cosine=lambda: optax.cosine_decay_schedule(learning_rate, schedule_steps),
                staged=lambda: losses.staged_schedule(learning_rate, schedule_steps))[schedule]()
    adam = dict(b1=b1, b2=b2, eps=eps)
    transform = (optax.adamw(rate, weight_decay=weight_decay, **adam)
                 if losses.enabled(weight_decay) else optax.adam(rate, **adam))
    if losses.enabled(clip_norm):
        if losses.is_traced(clip_norm):  # 0 means none here too
            clip_norm = jnp.where(clip_norm > 0, clip_norm, jnp.inf)
        transform = optax.chain(optax.clip_by_global_norm(clip_norm), transform)
    return Optimiser(*transform, ema_decay)
