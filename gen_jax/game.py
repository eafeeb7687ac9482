"""A model is a game: each player has its own parameters, and takes steps down its own gradient."""
import functools

import jax
from jax import lax
import jax.numpy as jnp
import optax

from gen_jax.types import Array, BadInput, Batch, Density, Model, Player, State, Tree


def game(players: dict[str, Player], *, axis: str | None = None, update_order: str = 'alternating',
         full_batch: str = '', **maps) -> Model:
    """The Model in which `players` are updated in the order given, each with the players before it
    already updated; with update_order simultaneous, none uses another's update of the same step.

    With several players, metrics `grad_norm_NAME` are the norms of their gradients. `axis` is the
    mapped axis of shard_map or pmap, over which gradients, metrics and buffers are averaged. `maps`
    are the remaining fields of Model; they get the averaged parameters and buffers of a player with
    an EMA. This is the only place that differentiates for training, and the only one with a
    collective. `full_batch` names the loss terms that need the full batch, which no device has
    under such an axis.
    Raises: BadInput for both axis and full_batch, and for an unknown update_order.
    """
    if axis and full_batch:
        raise BadInput(
            f'{full_batch} is of the whole batch, of which a device sees its share under '
            'parallel=shard_map and pmap; use --config.parallel=jit')
    if update_order not in ('alternating', 'simultaneous'):
        raise BadInput(f'unknown update_order {update_order!r}; choose alternating or simultaneous')

    def init(key: Array, batch: Batch) -> State:
        players_init = {name: player.init(jax.random.fold_in(key, i), batch)
                        for i, (name, player) in enumerate(players.items())}
        params = {name: p for name, (p, _) in players_init.items()}
        buffers = {name: b for name, (_, b) in players_init.items()}
        return State(step=jnp.zeros((), jnp.int32), params=params, buffers=buffers,
                     opt={name: player.optimiser.init(moving(player, params[name]))
                          for name, player in players.items()},
                     ema={name: jax.tree.map(jnp.copy, both(params[name], buffers[name]))
                          for name, player in players.items() if decay(player)})

    def decay(player: Player) -> float:
        """Of its average; none for an optimiser straight from optax."""
        return getattr(player.optimiser, 'ema_decay', 0.)

    def both(params, buffers):
        return dict(params=params, buffers=buffers)

    def moving(player: Player, params: Tree) -> Tree:
        """The parameters that are not frozen."""
        return {k: v for k, v in params.items() if k not in player.frozen} if player.frozen else (
            params)

    def mean(tree):
        return lax.pmean(tree, axis) if axis else tree

    def gradient_of(name: str, state: State, batch: Batch, key: Array):
        """A player's gradient, and (metrics, buffers)."""
        player, params = players[name], state.params[name]

        def loss(trainable):
            trainable = params | trainable if player.frozen else trainable
            value, *rest = player.loss(
                state._replace(params=state.params | {name: trainable}), batch, key)
            return value, rest

        return jax.grad(loss, has_aux=True)(moving(player, params))

    def gradients(state: State, batch: Batch, key: Array):
        return {name: gradient_of(name, state, batch, jax.random.fold_in(key, i))[0]
                for i, name in enumerate(players)}

    def move(name: str, state: State, batch: Batch, key: Array):
        player = players[name]
        grads, (metrics, buffers) = mean(gradient_of(name, state, batch, key))
        if len(players) > 1:  # 0 on the steps it only watches: so the mean is that of its moves
            metrics = metrics | {f'grad_norm_{name}': optax.tree.norm(grads) * player.update_every}
        trainable = moving(player, state.params[name])
        updates, opt = player.optimiser.update(grads, state.opt[name], trainable)
        params = optax.apply_updates(trainable, updates)
        params = player.project(params) if player.project else params
        params = state.params[name] | params if player.frozen else params
        buffers, ema = buffers or state.buffers[name], state.ema
        if decay(player):  # less at first, or it would mostly be the initialisation
            kept = jnp.minimum(decay(player), (1 + state.step) / (10 + state.step))
            ema = ema | {name: optax.incremental_update(
                both(params, buffers), ema[name], 1 - kept)}
        return State(state.step, state.params | {name: params}, state.opt | {name: opt}, ema,
                     state.buffers | {name: buffers}), metrics

    def watch(name: str, state: State, batch: Batch, key: Array):
        metrics = mean(players[name].loss(state, batch, key)[1])
        return state, metrics | ({f'grad_norm_{name}': jnp.zeros(())} if len(players) > 1 else {})

    def step(state: State, batch: Batch, key: Array):
        metrics, before = {}, state
        for i, (name, player) in enumerate(players.items()):
            args = before if update_order == 'simultaneous' else state, batch, jax.random.fold_in(
                key, i)
            if player.update_every == 1:
                moved, said = move(name, *args)
            else:
                moved, said = lax.cond(state.step % player.update_every == 0,
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
    return Model(init=init, step=step, gradients=gradients, full_batch=full_batch, **maps)
