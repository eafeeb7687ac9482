"""Divides points into the smallest number of groups that can share a program."""
from typing import Any, Callable, NamedTuple

from ml_collections import ConfigDict

from gen_jax import train
from gen_jax.data import streaming
from gen_jax.sweep.points import LATENT, SEED, changed
from gen_jax.sweep.traced import alike, extents, swept, traceable
from gen_jax.types import BadInput, Model


class Group(NamedTuple):
    """Points that are trained by one compiled program. run: its model is that of `swept`; make:
    (**numbers) -> Model; traced: the keys in which the points differ; extents: the result of
    `extents` if model.latent is traced.
    """
    run: train.Run
    make: Callable[..., Model]
    points: list[dict[str, Any]]
    traced: tuple[str, ...]
    extents: list | None


def plan(config: ConfigDict, points: list[dict[str, Any]]) -> list[Group]:
    """Divides the points into as few groups as possible. Raises BadInput for a point that cannot be
    trained.
    """
    for key, only in dict(parallel='jit', on_nan='stop').items():
        if config[key] != only:
            raise BadInput(f'a sweep knows no {key}={config[key]}; leave {key}={only}')
    run = train.prepare(changed(config, points[0]))
    if streaming.streamed(run.data.train) or streaming.streamed(run.data.test):
        raise BadInput(f'a sweep holds its data in memory, but {config.data.name} is larger than '
                       f'data.memory_limit={config.data.memory_limit:g}; raise that')
    traced = [k for k in points[0] if k == SEED]
    for key in (k for k in points[0] if k not in (SEED, LATENT)):
        of_a_part = '.' in key and key.partition('.')[0] not in ('data', 'eval')
        if of_a_part and traceable(run, numbered(points[0], (*traced, key))):
            traced.append(key)
    if LATENT in points[0]:
        sizes = sorted({point[LATENT] for point in points})
        others = [numbered(point, traced) for point in points]
        others = list({tuple(values.items()): values for values in others}.values())
        if len(sizes) > 1 and alike(run, sizes[0], sizes[-1], others):
            traced.append(LATENT)
    groups = {}
    for point in points:
        fixed = tuple((k, v) for k, v in point.items() if k not in traced)
        groups.setdefault(fixed, []).append(point)
    return [group(changed(config, dict(fixed)), members, tuple(traced))
            for fixed, members in groups.items()]


def numbered(point: dict[str, Any], traced) -> dict[str, Any]:
    """The values of a point for the traced keys of parts."""
    return {k: point[k] for k in traced if k not in (SEED, LATENT)}


def group(config: ConfigDict, points: list[dict[str, Any]], traced: tuple[str, ...]) -> Group:
    if LATENT in traced:
        config = changed(config, {LATENT: max(point[LATENT] for point in points)})
    run = train.prepare(config)
    make = train.maker(run.config, run.known, run.layout)
    for point in points:  # which says what is wrong with a number, as a traced one cannot
        make(**numbered(point, traced), **{LATENT: point[LATENT]} if LATENT in traced else {})
    sizes = extents(make, run, config.model.latent) if LATENT in traced else None
    return Group(run._replace(model=swept(make, make(), sizes, config.model.get('latent'))), make,
                 points, traced, sizes)
