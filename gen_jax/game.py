"""A model is a game: players with their own parameters move in turn, each down its own gradient."""
import functools

import jax
from jax import lax
import jax.numpy as jnp
import optax

from gen_jax.types import Array, Batch, Model, Player, State


def game(players: dict[str, Player], *, axis: str | None = None, **maps) -> Model:
    """The Model in which `players` move in the order given, each seeing the moves before its own.

    `axis` names the mapped axis of shard_map or pmap, over which gradients, metrics and buffers
    are averaged; `maps` are the remaining fields of Model.  This is the only place that
    differentiates for training and the only one with a collective.
    """
    def init(key: Array, batch: Batch) -> State:
        made = {name: player.init(jax.random.fold_in(key, i), batch)
                for i, (name, player) in enumerate(players.items())}
        params = {name: p for name, (p, _) in made.items()}
        return State(step=jnp.zeros((), jnp.int32), params=params,
                     opt={name: player.optimiser.init(params[name])
                          for name, player in players.items()},
                     average={name: jax.tree.map(jnp.copy, params[name])
                              for name, player in players.items() if player.average},
                     buffers={name: b for name, (_, b) in made.items()})

    def mean(tree):
        return lax.pmean(tree, axis) if axis else tree

    def move(name: str, state: State, batch: Batch, key: Array):
        player = players[name]

        def loss(own):
            moved = state._replace(params=state.params | {name: own})
            value, *rest = player.loss(moved, batch, key)
            return value, rest

        grads, (metrics, buffers) = mean(jax.grad(loss, has_aux=True)(state.params[name]))
        updates, opt = player.optimiser.update(grads, state.opt[name], state.params[name])
        params = optax.apply_updates(state.params[name], updates)
        average = state.average
        if player.average:  # warmed up, so that a short run is not mostly its initialisation
            decay = jnp.minimum(player.average, (1 + state.step) / (10 + state.step))
            average = average | {name: optax.incremental_update(params, average[name], 1 - decay)}
        return state._replace(params=state.params | {name: params}, opt=state.opt | {name: opt},
                              average=average,
                              buffers=state.buffers | ({name: buffers} if buffers else {})), metrics

    def watch(name: str, state: State, batch: Batch, key: Array):
        return state, mean(players[name].loss(state, batch, key)[1])

    def step(state: State, batch: Batch, key: Array):
        metrics = {}
        for i, (name, player) in enumerate(players.items()):
            args = state, batch, jax.random.fold_in(key, i)
            if player.every == 1:
                state, said = move(name, *args)
            else:
                state, said = lax.cond(state.step % player.every == 0,
                                       functools.partial(move, name),
                                       functools.partial(watch, name), *args)
            metrics |= said
        return state._replace(step=state.step + 1), metrics

    return Model(init=init, step=step, **maps)
