"""A model is a game: players with their own parameters move in turn, each down its own gradient."""
import functools

import jax
from jax import lax
import jax.numpy as jnp
import optax

from gen_jax.types import Array, BadInput, Batch, Model, Player, State


def game(players: dict[str, Player], *, axis: str | None = None, order: str = 'alternating',
         whole: str = '', **maps) -> Model:
    """The Model in which `players` move in the order given, each seeing the moves before its own;
    with order `simultaneous` none sees another's move of the same step.

    Where there are several, metrics `gradient_NAME` are the norms of their gradients.  `axis` names
    the mapped axis of shard_map or pmap, over which gradients, metrics and buffers are averaged;
    `maps` are the remaining fields of Model.  This is the only place that differentiates for
    training and the only one with a collective.  `whole` names what in the losses takes the whole
    batch, which no device sees under such an axis.  Raises BadInput for both, and another order.
    """
    if axis and whole:
        raise BadInput(f'{whole} is of the whole batch, of which a device sees its share under '
                       'parallel=shard_map and pmap; use --config.parallel=jit')
    if order not in ('alternating', 'simultaneous'):
        raise BadInput(f'unknown order {order!r}; choose alternating or simultaneous')

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

    def slope(name: str, state: State, batch: Batch, key: Array):
        """A player's gradient, and (metrics, buffers)."""
        def loss(own):
            moved = state._replace(params=state.params | {name: own})
            value, *rest = players[name].loss(moved, batch, key)
            return value, rest

        return jax.grad(loss, has_aux=True)(state.params[name])

    def gradients(state: State, batch: Batch, key: Array):
        return {name: slope(name, state, batch, jax.random.fold_in(key, i))[0]
                for i, name in enumerate(players)}

    def move(name: str, state: State, batch: Batch, key: Array):
        player = players[name]
        grads, (metrics, buffers) = mean(slope(name, state, batch, key))
        if len(players) > 1:  # 0 on the steps it only watches: so the mean is that of its moves
            metrics = metrics | {f'gradient_{name}': optax.tree.norm(grads) * player.every}
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
        metrics = mean(players[name].loss(state, batch, key)[1])
        return state, metrics | ({f'gradient_{name}': jnp.zeros(())} if len(players) > 1 else {})

    def step(state: State, batch: Batch, key: Array):
        metrics, before = {}, state
        for i, (name, player) in enumerate(players.items()):
            args = before if order == 'simultaneous' else state, batch, jax.random.fold_in(key, i)
            if player.every == 1:
                moved, said = move(name, *args)
            else:
                moved, said = lax.cond(state.step % player.every == 0,
                                       functools.partial(move, name),
                                       functools.partial(watch, name), *args)
            state = State(state.step, *(ours | {k: v for k, v in theirs.items() if k == name}
                                        for ours, theirs in zip(state[1:], moved[1:])))
            metrics |= said
        return state._replace(step=state.step + 1), metrics

    return Model(init=init, step=step, gradients=gradients, whole=whole, **maps)
