"""A trained model and its data, and what the metrics compute from them: codes, samples, features.
"""
from typing import Any, Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import loop
from gen_jax.types import Array, Batch, Model, State

MOST = 10_000  # examples whose codes are looked at; the likelihoods are those of all


class Features(NamedTuple):
    """A feature space for comparing samples with data. apply: (params, x) -> (n, d); digest: of
    params; resizer: how images are resized; classify: (params, x) -> logits, if there is a
    classifier.
    """
    name: str
    digest: str
    resizer: str
    params: Any
    apply: Callable
    classify: Callable | None = None


PIXELS = Features('pixels', 'none', 'none', (), lambda params, x: x.reshape(len(x), -1))


class Subject(NamedTuple):
    """A trained model and its data. k: number of importance samples.

    collect: (name, f, split, most) -> the arrays of f(state, batch, key) over the first `most`
    examples of the `train` or `test` split, or all; name: of f. cached_features: features that have
    been computed; programs: compiled functions, shared by all subjects with this model and data.
    """
    model: Model
    state: State
    data: Any
    key: Array
    k: int
    collect: Callable
    features: Features
    cached_features: dict
    programs: dict

    def program(self, name, f: Callable) -> Callable:
        """jit(f), compiled once for each name."""
        return self.programs.setdefault(name, jax.jit(f))


def codes(s: Subject, split: str) -> np.ndarray:
    """Posterior means, or the encoder's output for a model without a posterior, as vectors (n, d).
    """
    return np.asarray(s.collect('codes', encoder(s.model), split, MOST))


def encoder(model: Model) -> Callable:
    def run(state, batch, key):
        if model.density and model.density.moments:
            return model.density.moments(state, batch)[0]
        parts = jax.tree.leaves(model.encode(state, batch.x))
        return jnp.concatenate([a.reshape(len(a), -1) for a in parts], axis=1)
    return run


def code(s: Subject) -> jax.ShapeDtypeStruct | None:
    """The code of one example; None for a model without codes."""
    if not (s.model.density and s.model.density.moments or s.model.encode):
        return None
    one = s.data.prepare(jax.tree.map(lambda a: jnp.asarray(a[:1]), s.data.test), s.key)
    return jax.eval_shape(encoder(s.model), s.state, one, s.key)


def moments(model: Model) -> Callable:
    """Means and log-variances of diagonal posteriors, concatenated, (n, 2 d)."""
    return lambda state, batch, key: jnp.concatenate(model.density.moments(state, batch), axis=1)


def grid(s: Subject) -> np.ndarray:
    """Random values of the factors (n, f)."""
    chance = np.random.default_rng(0)
    return np.stack([chance.integers(0, size, MOST) for size in s.data.factors.values()], 1)


def represent(s: Subject, how: Callable = encoder) -> Callable[[np.ndarray], np.ndarray]:
    """Factor values (n, f) -> codes (n, d), computed by how(model)."""
    encode = how(s.model)

    def some(state, places, key):
        batch = s.data.prepare(Batch(places, jnp.zeros(len(places), jnp.int32)), key)
        return encode(state, batch, key)

    some = s.program(('represent', how), some)

    def run(values, at_once=500):
        places = np.ravel_multi_index(values.T, list(s.data.factors.values())).astype(np.int32)
        padded = np.pad(places, (0, -len(places) % at_once), mode='edge').reshape(-1, at_once)
        return np.concatenate([some(s.state, p, s.key) for p in padded])[:len(values)]

    return run


def map_samples(s: Subject, f: Callable, n: int, at_once: int = 500) -> np.ndarray:
    """f(params, x) for n samples x."""
    def some(state, params, key):
        return f(params, s.model.decode(state, s.model.prior(state, key, at_once)))

    some = s.program(('drawn', f), some)
    keys = jax.random.split(jax.random.fold_in(s.key, 1), -(-n // at_once))
    return np.concatenate([some(s.state, s.features.params, key) for key in keys])[:n]


def map_examples(s: Subject, f: Callable, split: str, n: int, at_once: int = 500) -> np.ndarray:
    """f(params, x) for the first n examples of a split, or all if there are fewer."""
    def some(batch, params, key):
        return f(params, s.data.prepare(batch, key).x)

    some = s.program(('shown', f), some)
    data = getattr(s.data, split)
    n = min(n, len(data.x))
    rows = np.minimum(np.arange(n + -n % at_once), n - 1).reshape(-1, at_once)
    return np.concatenate([some(loop.take(data, r), s.features.params,
                                jax.random.fold_in(s.key, i)) for i, r in enumerate(rows)])[:n]


def features_of_both(s: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of the test examples, of as many samples, and of as many training examples."""
    if not s.cached_features:
        f = s.features.apply
        s.cached_features['real'] = map_examples(s, f, 'test', MOST)
        n = len(s.cached_features['real'])
        s.cached_features.update(fake=map_samples(s, f, n), other=map_examples(s, f, 'train', n))
    return s.cached_features['real'], s.cached_features['fake'], s.cached_features['other']
