"""What `--mode=evaluate` measures: name -> what a trained model must have for it, and its numbers.

Each is a pure function over a Model in one of the files here; this file knows which of them fits.
"""
import difflib
import functools
from typing import Any, Callable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import loop
from gen_jax.metrics import disentangle, latent, likelihood, samples
from gen_jax.types import Array, BadInput, Batch, Model, State

MOST = 10_000  # examples whose codes are looked at; the likelihoods are those of all
ANNEALED = 100
POINTS, STACKED = 2_500, 26_000  # samples looked at (PacGAN, Lin et al. 2018)


class Features(NamedTuple):
    """What samples and data are compared in: apply: (params, x) -> (n, d); digest: of params;
    resizer: how images come to their size; classify: (params, x) -> logits, where there are any."""
    name: str
    digest: str
    resizer: str
    params: Any
    apply: Callable
    classify: Callable | None = None


PIXELS = Features('pixels', 'none', 'none', (), lambda params, x: x.reshape(len(x), -1))


class Subject(NamedTuple):
    """A trained model and its data; k: codes for an importance sample.

    collect: (f, split, most) -> the arrays of f(state, batch, key) over the first `most` examples
    of the `train` or `test` split, or all.  seen: features once computed; programs: what is
    compiled, for all subjects of this model and data.
    """
    model: Model
    state: State
    data: Any
    key: Array
    k: int
    collect: Callable
    features: Features
    seen: dict
    programs: dict

    def program(self, name, f: Callable) -> Callable:
        """jit(f), that of the first f of this name."""
        return self.programs.setdefault(name, jax.jit(f))


def nll(s: Subject) -> dict[str, float]:
    f = likelihood.nll(s.model.density, s.k)
    found = np.asarray(s.collect(f, 'test', None), np.float64)
    return dict(nll=found.mean(), nll_se=found.std() / len(found) ** .5)


def ais(s: Subject) -> dict[str, float]:
    found = s.collect(likelihood.bounds(s.model.density), 'test', ANNEALED)
    return {name: float(value.mean()) for name, value in found.items()} | dict(
        nll_ais_se=float(found['nll_ais'].std() / len(found['nll_ais']) ** .5))


def units(s: Subject) -> dict[str, float]:
    return dict(active_units=float(latent.active_units(codes(s, 'test'))))


def information(s: Subject) -> dict[str, float]:
    moments = s.collect(lambda state, batch, key: s.model.density.moments(state, batch), 'test',
                        MOST)
    return {k: float(v) for k, v in jax.jit(latent.information)(*moments, s.key).items()}


def probe(s: Subject) -> dict[str, float]:
    label = {split: getattr(s.data, split).label[:MOST] for split in ('train', 'test')}
    return latent.readable(codes(s, 'train'), label['train'], codes(s, 'test'), label['test'])


def codes(s: Subject, split: str) -> np.ndarray:
    """Posterior means, or else what the encoder gives, as vectors (n, d)."""
    return np.asarray(s.collect(encoder(s.model), split, MOST))


def encoder(model: Model) -> Callable:
    def run(state, batch, key):
        if model.density and model.density.moments:
            return model.density.moments(state, batch)[0]
        parts = jax.tree.leaves(model.encode(state, batch.x))
        return jnp.concatenate([a.reshape(len(a), -1) for a in parts], axis=1)
    return run


def on_factors(measure: Callable) -> Callable:
    """A measure of codes and the factors behind them, on examples drawn from the grid."""
    def run(s: Subject):
        values = grid(s)
        return named(measure, measure(represent(s)(values), values))
    return run


def on_sampling(measure: Callable) -> Callable:
    """A measure that chooses the factors of the examples it wants."""
    def run(s: Subject):
        return named(measure, measure(represent(s), list(s.data.factors.values())))
    return run


def mig_sampled(s: Subject) -> dict[str, float]:
    values = grid(s)
    mean, logvar = np.split(represent(s, moments)(values), 2, axis=1)
    return dict(mig_sampled=disentangle.mig_sampled(mean, logvar, values, s.key))


def moments(model: Model) -> Callable:
    """Means and log-variances of diagonal posteriors, one behind the other, (n, 2 d)."""
    return lambda state, batch, key: jnp.concatenate(model.density.moments(state, batch), axis=1)


def grid(s: Subject) -> np.ndarray:
    """Values of the factors (n, f), drawn one by one."""
    chance = np.random.default_rng(0)
    return np.stack([chance.integers(0, size, MOST) for size in s.data.factors.values()], 1)


def named(measure, found) -> dict[str, float]:
    name = measure.__name__
    return ({f'{name}_{k}': v for k, v in found.items()} if isinstance(found, dict)
            else {name: found})


def represent(s: Subject, how: Callable = encoder) -> Callable[[np.ndarray], np.ndarray]:
    """Factor values (n, f) -> codes (n, d), as how(model) gives them."""
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


def drawn(s: Subject, look: Callable, n: int, at_once: int = 500) -> np.ndarray:
    """look(params, x) of n samples x."""
    def some(state, params, key):
        return look(params, s.model.decode(state, s.model.prior(state, key, at_once)))

    some = s.program(('drawn', look), some)
    keys = jax.random.split(jax.random.fold_in(s.key, 1), -(-n // at_once))
    return np.concatenate([some(s.state, s.features.params, key) for key in keys])[:n]


def shown(s: Subject, look: Callable, split: str, n: int, at_once: int = 500) -> np.ndarray:
    """look(params, x) of the first n examples of a split, or of all where they are fewer."""
    def some(batch, params, key):
        return look(params, s.data.prepare(batch, key).x)

    some = s.program(('shown', look), some)
    data = getattr(s.data, split)
    n = min(n, len(data.x))
    rows = np.minimum(np.arange(n + -n % at_once), n - 1).reshape(-1, at_once)
    return np.concatenate([some(loop.take(data, r), s.features.params,
                                jax.random.fold_in(s.key, i)) for i, r in enumerate(rows)])[:n]


def compared(s: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of test examples, of as many samples, and of as many training examples."""
    if not s.seen:
        look = s.features.apply
        s.seen['real'] = shown(s, look, 'test', MOST)
        n = len(s.seen['real'])
        s.seen.update(fake=drawn(s, look, n), other=shown(s, look, 'train', n))
    return s.seen['real'], s.seen['fake'], s.seen['other']


def frechet(s: Subject) -> dict[str, float]:
    real, fake, other = compared(s)
    return {f'frechet_{s.features.name}': samples.frechet(real, fake),
            f'frechet_{s.features.name}_floor': samples.frechet(real, other)}


def kernel(s: Subject) -> dict[str, float]:
    real, fake, other = compared(s)
    found = samples.kernel(real, fake) | dict(kernel_floor=samples.kernel(real, other)['kernel'])
    return {k.replace('kernel', f'kernel_{s.features.name}'): v for k, v in found.items()}


def neighbours(s: Subject) -> dict[str, float]:
    found = samples.neighbours(*compared(s)[:2])
    return {f'{k}_{s.features.name}': v for k, v in found.items()}


def modes(s: Subject) -> dict[str, float]:
    return samples.modes(drawn(s, PIXELS.apply, POINTS), *s.data.mixture)


def stacked(s: Subject) -> dict[str, float]:
    """modes, how many triples of labels a classifier finds in images stacked of three, and kl, that
    of their distribution from the data's, in which the three labels are independent, in nats."""
    look = each_colour(s.features.classify)
    fake = drawn(s, look, STACKED)
    number = fake.shape[-1]
    a, b, c = fake.argmax(-1).T
    share = np.bincount(shown(s, look, 'train', STACKED).argmax(-1).ravel(), minlength=number)
    data = np.einsum('a,b,c->abc', share, share, share).ravel().astype(float)
    return samples.classes((a * number + b) * number + c, data)


@functools.cache  # one look, so that its programs are found again
def each_colour(classify: Callable) -> Callable:
    """(params, images of three colours) -> the logits of each (n, 3, labels)."""
    return lambda params, x: jnp.stack([classify(params, x[..., i:i + 1]) for i in range(3)], 1)


ON_FACTORS = disentangle.mig, disentangle.modularity, disentangle.sap, disentangle.dci
MEASURES = dict(
    nll=('a density', nll), ais=('a density of real codes', ais), units=('real codes', units),
    information=('a diagonal posterior', information), probe=('real codes and labels', probe),
    **{m.__name__: ('real codes and factors', on_factors(m)) for m in ON_FACTORS},
    **{m.__name__: ('real codes and factors', on_sampling(m))
       for m in (disentangle.beta_vae, disentangle.factor_vae)},
    mig_sampled=('a diagonal posterior and factors', mig_sampled),
    frechet=('samples', frechet), kernel=('samples', kernel), neighbours=('samples', neighbours),
    modes=('samples and a known mixture', modes),
    stacked=('samples of stacked images and features classifier', stacked))
FEATURED = 'frechet', 'kernel', 'neighbours', 'stacked'  # which look at Subject.features
SLOW = 'ais',  # of the default, which is all that fits
LEAST = dict(frechet=(2, 2), kernel=(4, 4), neighbours=(6, 1), probe=(1, 5))  # test and training


def code(s: Subject) -> jax.ShapeDtypeStruct | None:
    """What `codes` are of one example; None where there are none."""
    if not (s.model.density and s.model.density.moments or s.model.encode):
        return None
    one = s.data.prepare(jax.tree.map(lambda a: jnp.asarray(a[:1]), s.data.test), s.key)
    return jax.eval_shape(encoder(s.model), s.state, one, s.key)


def has(s: Subject, need: str) -> bool:
    density, z = s.model.density, code(s)
    # by numbers, of which means and distances make sense
    coded = z is not None and jnp.issubdtype(z.dtype, jnp.floating)
    label = s.data.train.label  # of a set without, TFDS' are all -1
    labelled = label is not None and len(np.unique(label[:MOST])) > 1
    sampled = bool(s.model.prior and s.model.decode and not s.data.read)
    return {'a density': bool(density), 'a density of real codes': bool(density) and (
                coded or not s.model.encode),
            'a diagonal posterior': bool(density and density.moments),
            'a diagonal posterior and factors': bool(
                density and density.moments and s.data.factors),
            'real codes': coded, 'real codes and labels': coded and labelled,
            'real codes and factors': coded and bool(s.data.factors),
            'samples': sampled, 'samples and a known mixture': sampled and bool(s.data.mixture),
            'samples of stacked images and features classifier':
                sampled and s.data.stacked and bool(s.features.classify)}[need]


def short(name: str, s: Subject) -> str:
    """Of what a measure that fits has too little, in words; '' where it has enough."""
    for split, least in zip(('test', 'train'), LEAST.get(name, ())):
        if len(getattr(s.data, split).x) < least:
            return f'needs at least {least} examples in the {split} split, not ' \
                   f'{len(getattr(s.data, split).x)}'
    if name in [m.__name__ for m in ON_FACTORS] and code(s).shape[1] < 2:
        return 'needs at least 2 latent dimensions, not 1'
    return ''


def chosen(names: list[str], s: Subject) -> list[str]:
    """The measures of these names, or without any all that fit but the slow ones.

    Raises BadInput for an unknown one, or one that the model or the data set has no use for.
    """
    for name in names:
        if name not in MEASURES:
            close = difflib.get_close_matches(name, MEASURES, 1, cutoff=.4)
            raise BadInput(f'unknown metric {name!r}' + (f', did you mean {close[0]!r}' if close
                           else '') + f'; there are {", ".join(MEASURES)}')
        need = MEASURES[name][0]
        why = short(name, s) if has(s, need) else ''
        if not has(s, need):
            of_data = need.endswith(('factors', 'labels')) and has(s, 'real codes')
            what = 'data set' if of_data else 'model'
            what = 'run' if need.startswith('samples ') and has(s, 'samples') else what
            why = f'needs {need}, which this {what} has not'
        if why:
            raise BadInput(f'metric {name} {why}; leave it out of eval.metrics')
    fit = [name for name, (need, _) in MEASURES.items() if has(s, need) and name not in SLOW]
    return names or fit


def measure(names: list[str], s: Subject, leave_out: bool,
            say: Callable[[str], Any] = print) -> Iterator[tuple[str, dict[str, float]]]:
    """Each of these measures, which are `chosen`, with its numbers.

    One that cannot be computed of this state or of so few examples is left out with a word, or
    unless `leave_out` is BadInput.
    """
    for name in names:
        try:
            if why := short(name, s):
                raise BadInput(f'it {why}')
            found = MEASURES[name][1](s)
        except BadInput as e:
            if not leave_out:
                raise BadInput(f'metric {name}: {e}') from e
            say(f'left out {name}: {e}')
        else:
            yield name, found
