"""A Model whose hyper-parameters, including its latent size, are arrays in its state."""
import functools
import operator
from typing import Any, Callable

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import train
from gen_jax.sweep.points import LATENT
from gen_jax.types import Array, Density, Model, State

POINT = 'point'


def swept(make: Callable[..., Model], like: Model, sizes: list | None, latent: int | None) -> Model:
    """The Model whose numbers are in its state, in buffers['point']['values']. If `sizes` are
    given, it uses the first buffers['point']['latent'] of its `latent` dimensions. It has the same
    functions as the Model `like`.
    """
    def opened(state):
        point = state.buffers[POINT]
        rest = {k: v for k, v in state.buffers.items() if k != POINT}
        return make(**point['values']), state._replace(buffers=rest)

    def lifted(path):
        def run(state, *args):
            model, state = opened(state)
            return operator.attrgetter(path)(model)(state, *args)
        return run

    def step(state, batch, key):
        point = state.buffers[POINT]
        model, state = opened(state)
        state, metrics = model.step(state, batch, key)
        if sizes:
            state = mask_unused(state, sizes, point['latent'], latent)
        return state._replace(buffers=state.buffers | {POINT: point}), metrics

    maps = {f: lifted(f) for f in Model._fields if callable(getattr(like, f))}
    if like.density:
        maps['density'] = Density(**{f: lifted(f'density.{f}') for f in Density._fields
                                     if getattr(like.density, f)})
    return Model(**maps | dict(init=like.init, step=step, bounds=like.bounds))


def extents(make: Callable[..., Model], run: train.Run, latent: int) -> list | None:
    """For each leaf of a state, {axis: b} for the axes with b blocks of `latent` numbers each. They
    are derived from the shapes at two latent sizes, so a net of your own needs no declaration;
    `alike` checks the result. None if the latent size has another effect on a shape.
    """
    example = run.known.example
    ours, more = (jax.tree.flatten(jax.eval_shape(make(**{LATENT: n}).init, run.key, example))
                  for n in (latent, latent + 1))
    if ours[1] != more[1]:
        return None
    differences = [{axis: n - m for axis, (m, n) in enumerate(zip(a.shape, b.shape)) if n != m}
                   for a, b in zip(ours[0], more[0])]
    consistent = all(b * latent == a.shape[axis] for a, axes in zip(ours[0], differences)
                     for axis, b in axes.items())
    return differences if consistent else None


def mask_unused(state: State, sizes: list, used: Array, latent: int) -> State:
    """The state with zeros in all dimensions that are not used."""
    leaves, tree = jax.tree.flatten(state)
    for i, axes in enumerate(sizes):
        for axis in axes:
            here = jnp.arange(leaves[i].shape[axis]) % latent < used
            leaves[i] = jnp.where(jnp.expand_dims(here, range(1, leaves[i].ndim - axis)),
                                  leaves[i], 0)
    return tree.unflatten(leaves)


def embedded(state: State, sizes: list, used: int, latent: int) -> State:
    """The state of a model with fewer latent dimensions, padded to one with `latent` dimensions."""
    leaves, tree = jax.tree.flatten(state)
    for i, axes in enumerate(sizes):
        for axis, blocks in axes.items():
            shape = leaves[i].shape
            parts = leaves[i].reshape(*shape[:axis], blocks, used, *shape[axis + 1:])
            wide = [(0, 0)] * parts.ndim
            wide[axis + 1] = 0, latent - used
            leaves[i] = jnp.pad(parts, wide).reshape(
                *shape[:axis], blocks * latent, *shape[axis + 1:])
    return tree.unflatten(leaves)


def alike(run: train.Run, used: int, latent: int, others: list[dict[str, Any]]) -> bool:
    """Whether a model with `latent` dimensions of which only `used` are used equals, to float
    tolerance, a model made with `used` dimensions, for all traced numbers in `others`: compares the
    metrics of two steps and of an evaluation.
    """
    make, example = train.maker(run.config, run.known, run.layout), run.known.example
    sizes = extents(make, run, latent)
    if sizes is None:
        return False
    example = jax.tree.map(lambda a: a[:32], example)

    @functools.partial(jax.jit, static_argnums=0,
                       compiler_options={'xla_backend_optimization_level': 0})
    def measured(inside, values, key):
        model = make(**{LATENT: used}, **values)
        state = model.init(key, example)
        if inside:
            state = embedded(state, sizes, used, latent)
            state = state._replace(buffers=state.buffers | {
                POINT: dict(values=values, latent=jnp.int32(used))})
            model = swept(functools.partial(make, **{LATENT: latent}),
                          make(**{LATENT: latent}, **values), sizes, latent)
        functions = []
        for i in range(2):
            state, metrics_of = model.step(state, example, jax.random.fold_in(key, i))
            functions.append(metrics_of)
        functions.append(model.evaluate(state, example, key))
        return [{k: v for k, v in f.items() if v.ndim < 2 and not k.startswith('grad_norm_')}
                for f in functions]

    def same(values):
        values = {k: jnp.asarray(v) for k, v in values.items()}
        ours, theirs = (jax.tree.leaves(measured(inside, values, run.key))
                        for inside in (True, False))
        return all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(ours, theirs))

    return all(map(same, others))


def traceable(run: train.Run, values: dict[str, Any]) -> bool:
    """Whether one program can train the model for all values of these hyper-parameters."""
    make, example = train.maker(run.config, run.known, run.layout), run.known.example

    def once(values):
        model = make(**values)
        state, metrics = model.step(model.init(run.key, example), example, run.key)
        return state, metrics, model.evaluate(state, example, run.key)

    try:
        jax.eval_shape(once, {k: jnp.asarray(v) for k, v in values.items()})
    except (jax.errors.JAXTypeError, TypeError, ValueError):
        return False
    return True
