"""A model is a game: players with their own parameters move in turn, each down its own gradient."""
import functools

import jax
from jax import lax
import jax.numpy as jnp
import optax

from gen_jax.types import Array, BadInput, Batch, Density, Model, Player, State, Tree


def game(players: dict[str, Player], *, axis: str | None = None, order: str = 'alternating',
         whole: str = '', **maps) -> Model:
    """The Model in which `players` move in the order given, each seeing the moves before its own;
    with order `simultaneous` none sees another's move of the same step.

    Where there are several, metrics `gradient_NAME` are the norms of their gradients.  `axis` names
    the mapped axis of shard_map or pmap, over which gradients, metrics and buffers are averaged;
    `maps` are the remaining fields of Model, which see averaged parameters and buffers of a player
    that keeps an average.  This is the only place that differentiates for training and the only one
    with a collective.  `whole` names what in the losses takes the whole batch, which no device sees
    under such an axis.  Raises BadInput for both, and another order.
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
        buffers = {name: b for name, (_, b) in made.items()}
        return State(step=jnp.zeros((), jnp.int32), params=params, buffers=buffers,
                     opt={name: player.optimiser.init(moving(player, params[name]))
                          for name, player in players.items()},
                     average={name: jax.tree.map(jnp.copy, both(params[name], buffers[name]))
                              for name, player in players.items() if decay(player)})

    def decay(player: Player) -> float:
        """Of its average; none for an optimiser straight from optax."""
        return getattr(player.optimiser, 'average', 0.)

    def both(params, buffers):
        return dict(params=params, buffers=buffers)

    def moving(player: Player, params: Tree) -> Tree:
        """The parameters that are not frozen."""
        return {k: v for k, v in params.items() if k not in player.frozen} if player.frozen else (
            params)

    def mean(tree):
        return lax.pmean(tree, axis) if axis else tree

    def slope(name: str, state: State, batch: Batch, key: Array):
        """A player's gradient, and (metrics, buffers)."""
        player, whole = players[name], state.params[name]

        def loss(own):
            own = whole | own if player.frozen else own
            value, *rest = player.loss(
                state._replace(params=state.params | {name: own}), batch, key)
            return value, rest

        return jax.grad(loss, has_aux=True)(moving(player, whole))

    def gradients(state: State, batch: Batch, key: Array):
        return {name: slope(name, state, batch, jax.random.fold_in(key, i))[0]
                for i, name in enumerate(players)}

    def move(name: str, state: State, batch: Batch, key: Array):
        player = players[name]
        grads, (metrics, buffers) = mean(slope(name, state, batch, key))
        if len(players) > 1:  # 0 on the steps it only watches: so the mean is that of its moves
            metrics = metrics | {f'gradient_{name}': optax.tree.norm(grads) * player.every}
        own = moving(player, state.params[name])
        updates, opt = player.optimiser.update(grads, state.opt[name], own)
        params = optax.apply_updates(own, updates)
        params = player.project(params) if player.project else params
        params = state.params[name] | params if player.frozen else params
        buffers, average = buffers or state.buffers[name], state.average
        if decay(player):  # less at first, or it would mostly be the initialisation
            kept = jnp.minimum(decay(player), (1 + state.step) / (10 + state.step))
            average = average | {name: optax.incremental_update(
                both(params, buffers), average[name], 1 - kept)}
        return State(state.step, state.params | {name: params}, state.opt | {name: opt}, average,
                     state.buffers | {name: buffers}), metrics

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

    def averaged(f):
        return lambda state, *args, **named: f(state.averaged(), *args, **named)

    maps = {name: averaged(f) if callable(f) else f for name, f in maps.items()}
    if maps.get('density'):
        maps['density'] = Density(*(f and averaged(f) for f in maps['density']))
    return Model(init=init, step=step, gradients=gradients, whole=whole, **maps)
