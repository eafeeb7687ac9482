"""Metrics of points, compiled once for a group."""
from typing import Any

import jax
import numpy as np

from gen_jax import loop, metrics, train, evaluation
from gen_jax.sweep.groups import Group
from gen_jax.sweep.points import SEED, name
from gen_jax.sweep.training import init_states
from gen_jax.types import State


class Evaluator:
    """Measures the points of a group with programs that are compiled for the first point. Leaves
    out, with a message, what cannot be computed for a point.

    asked: names of gen_jax.metrics; by default nll and active units or, for a model without a
    density, the Frechet distance of samples. most: number of examples to use, None for all.
    """

    def __init__(self, g: Group, asked: list[str], most: int | None = None):
        self.g, self.most, self.compiled, self.features = g, most, {}, evaluation.features(g.run)
        self.start = jax.tree.map(lambda a: a[0], init_states(g, g.points[:1])[0])
        fit = metrics.chosen(asked, self._subject(g.points[0], self.start))
        few = [n for n in ('nll', 'active_units') if n in fit
               ] or [n for n in fit if n == 'frechet_distance']
        self.names = asked or few

    def __call__(self, point: dict[str, Any], state: State) -> dict[str, float]:
        scores, subject = {}, self._subject(point, state)
        for _, more in metrics.measure(self.names, subject, skip_failures=True,
                                       say=lambda words: print(f'{name(point)}: {words}')):
            scores |= more
        return {f'test/{k}': float(v) for k, v in scores.items()}

    def known(self) -> list[str]:
        """The names of all metrics of a finished point, found by measuring an untrained one."""
        run = self.g.run
        shapes = jax.eval_shape(run.model.evaluate, self.start, run.known.test,
                                run.key)
        return [f'test/{k}' for k, v in shapes.items() if v.ndim == 1] + list(
            self(self.g.points[0], self.start))

    def samples(self, state: State, n: int) -> np.ndarray | None:
        """Samples for the same codes at every point; None for a model without a prior."""
        run = self.g.run
        if not run.model.prior or not run.model.decode or run.data.read:
            return None
        if 'samples' not in self.compiled:
            self.compiled['samples'] = jax.jit(lambda state, key: run.model.decode(
                state, run.model.prior(state, key, n)))
        return np.asarray(self.compiled['samples'](state, jax.random.key(0)))

    def _subject(self, point, state):
        run = self.g.run
        key = jax.random.key(point.get(SEED, run.config.seed))

        def collect(what, evaluate, split, most):
            at = what, split, most
            if at not in self.compiled:
                least = min(filter(None, (most, self.most)), default=None)
                examples = jax.tree.map(lambda a: a[:least], getattr(run.data, split))
                self.compiled[at] = train.compile_evaluation(run, evaluate, examples,
                                                             loop.collection)
            program, placed = self.compiled[at]
            return jax.device_get(program(state, placed, key))

        return metrics.Subject(run.model, state, run.data, key, run.config.eval.k, collect,
                               self.features, {}, self.compiled)
