"""The metrics of `--mode=evaluate`, and what each of them needs from a model and its data.

Each metric is a pure function over a Model in one of the files here; this file decides which of
them fit.
"""
import difflib
import functools
from typing import Any, Callable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.metrics import disentangle, latent, likelihood, samples
from gen_jax.metrics.subject import (MOST, PIXELS, Features, Subject, code, codes, features_of_both,
                                     map_samples, grid, moments, represent, map_examples)
from gen_jax.types import BadInput

ANNEALED = 100
POINTS, STACKED = 2_500, 26_000  # samples looked at (PacGAN, Lin et al. 2018)


def nll(s: Subject) -> dict[str, float]:
    """-log p(x) in nats from eval.k importance samples, and its standard error nll_se (Burda et al.
    2015).
    """
    f = likelihood.nll(s.model.density, s.k)
    values = np.asarray(s.collect('nll', f, 'test', None), np.float64)
    return dict(nll=values.mean(), nll_se=values.std() / len(values) ** .5)


def ais(s: Subject) -> dict[str, float]:
    """-log p(x) in nats by annealed importance sampling, with bounds (Wu et al. 2017)."""
    values = s.collect('ais', likelihood.bounds(s.model.density), 'test', ANNEALED)
    return {name: float(value.mean()) for name, value in values.items()} | dict(
        nll_ais_se=float(values['nll_ais'].std() / len(values['nll_ais']) ** .5))


def active_units(s: Subject) -> dict[str, float]:
    """Number of latent dimensions whose means vary (Burda et al. 2015)."""
    return dict(active_units=float(latent.active_units(codes(s, 'test'))))


def mutual_information(s: Subject) -> dict[str, float]:
    """The KL as mutual information and KL of the aggregated posterior (Hoffman & Johnson 2016)."""
    moments = s.collect('moments', lambda state, batch, key: s.model.density.moments(state, batch),
                        'test', MOST)
    return {k: float(v) for k, v in jax.jit(latent.information)(*moments, s.key).items()}


def linear_probe(s: Subject) -> dict[str, float]:
    """Accuracy of a linear classifier and of five nearest neighbours on the codes."""
    label = {split: getattr(s.data, split).label[:MOST] for split in ('train', 'test')}
    return latent.readable(codes(s, 'train'), label['train'], codes(s, 'test'), label['test'])


def on_factors(measure: Callable) -> Callable:
    """A metric of codes and the factors behind them, for examples sampled from the grid of factors.
    """
    @functools.wraps(measure)
    def run(s: Subject):
        values = grid(s)
        return named(measure, measure(represent(s)(values), values))
    return run


def on_sampling(measure: Callable) -> Callable:
    """A metric that chooses the factors of its examples."""
    @functools.wraps(measure)
    def run(s: Subject):
        return named(measure, measure(represent(s), list(s.data.factors.values())))
    return run


def mig_sampled(s: Subject) -> dict[str, float]:
    """The mutual information gap of codes drawn from the posteriors (Chen et al. 2018)."""
    values = grid(s)
    mean, logvar = np.split(represent(s, moments)(values), 2, axis=1)
    return dict(mig_sampled=disentangle.mig_sampled(mean, logvar, values, s.key))


def named(measure, scores) -> dict[str, float]:
    name = measure.__name__
    return ({f'{name}_{k}': v for k, v in scores.items()} if isinstance(scores, dict)
            else {name: scores})


def frechet_distance(s: Subject) -> dict[str, float]:
    """Frechet distance between features of samples and of test data (Heusel et al. 2017), and its
    floor: the distance between training and test data.
    """
    real, fake, other = features_of_both(s)
    return {f'frechet_distance_{s.features.name}': samples.frechet_distance(real, fake),
            f'frechet_distance_{s.features.name}_floor': samples.frechet_distance(real, other)}


def kernel_distance(s: Subject) -> dict[str, float]:
    """Kernel distance between features of samples and of test data (Binkowski et al. 2018), and its
    floor.
    """
    real, fake, other = features_of_both(s)
    scores = samples.kernel_distance(real, fake) | dict(
        kernel_distance_floor=samples.kernel_distance(real, other)['kernel_distance'])
    return {
        k.replace('kernel_distance', f'kernel_distance_{s.features.name}'): v
        for k, v in scores.items()
    }


def precision_recall(s: Subject) -> dict[str, float]:
    """Precision, recall, density and coverage of samples (Kynkaanniemi et al. 2019, Naeem et al.
    2020).
    """
    scores = samples.precision_recall(*features_of_both(s)[:2])
    return {f'{k}_{s.features.name}': v for k, v in scores.items()}


def modes(s: Subject) -> dict[str, float]:
    """Modes found of a known mixture, share of high-quality samples, and KL of the shares (Lin et
    al. 2018).
    """
    return samples.modes(map_samples(s, PIXELS.apply, POINTS), *s.data.mixture)


def stacked(s: Subject) -> dict[str, float]:
    """Label triples found among 26,000 samples of stacked images (Metz et al. 2017).

    modes: the number of different triples that a classifier finds. kl: the KL in nats of their
    distribution from that of the data, in which the three labels are independent.
    """
    classify = each_colour(s.features.classify)
    fake = map_samples(s, classify, STACKED)
    number = fake.shape[-1]
    a, b, c = fake.argmax(-1).T
    share = np.bincount(
        map_examples(s, classify, 'train', STACKED).argmax(-1).ravel(), minlength=number)
    data = np.einsum('a,b,c->abc', share, share, share).ravel().astype(float)
    return samples.classes((a * number + b) * number + c, data)


@functools.cache  # one look, so that its programs are found again
def each_colour(classify: Callable) -> Callable:
    """(params, images of three colours) -> the logits of each (n, 3, labels)."""
    return lambda params, x: jnp.stack([classify(params, x[..., i:i + 1]) for i in range(3)], 1)


class Need(NamedTuple):
    """Something that a metric needs: its name for messages, whether the model or the data set has
    it, and a predicate.
    """
    words: str
    of: str
    met: Callable[[Subject], bool]


def coded(s: Subject) -> bool:
    """Whether codes are real vectors, so that means and distances make sense."""
    z = code(s)
    return z is not None and jnp.issubdtype(z.dtype, jnp.floating)


def labelled(s: Subject) -> bool:
    label = s.data.train.label  # of a set without, TFDS' are all -1
    return label is not None and len(np.unique(label[:MOST])) > 1


NEEDS = dict(
    density=Need('a density', 'model', lambda s: bool(s.model.density)),
    moments=Need('a diagonal posterior', 'model',
                 lambda s: bool(s.model.density and s.model.density.moments)),
    codes=Need('real codes', 'model', coded),
    annealed=Need('codes that are real numbers', 'model', lambda s: coded(s) or not s.model.encode),
    samples=Need('samples', 'model',
                 lambda s: bool(s.model.prior and s.model.decode and not s.data.read)),
    labels=Need('labels', 'data set', labelled),
    factors=Need('known factors', 'data set', lambda s: bool(s.data.factors)),
    mixture=Need('a known mixture', 'data set', lambda s: bool(s.data.mixture)),
    stacked=Need('stacked images', 'data set', lambda s: s.data.stacked),
    classifier=Need('eval.features=classifier', 'run', lambda s: bool(s.features.classify)))


class Measure(NamedTuple):
    """A metric. numbers: (subject) -> named floats; needs: names of NEEDS; least: numbers of test
    and training examples that it needs at least; size: least number of latent dimensions; featured:
    whether it uses Subject.features; slow: whether it is computed only on request.
    """
    numbers: Callable[[Subject], dict[str, float]]
    needs: tuple[str, ...]
    least: tuple[int, int] = (0, 0)
    size: int = 1
    featured: bool = False
    slow: bool = False


MEASURES = dict(
    nll=Measure(nll, ('density',)),
    ais=Measure(ais, ('density', 'annealed'), slow=True),
    active_units=Measure(active_units, ('codes',)),
    mutual_information=Measure(mutual_information, ('moments',)),
    linear_probe=Measure(linear_probe, ('codes', 'labels'), least=(1, 5)),
    **{m.__name__: Measure(on_factors(m), ('codes', 'factors'), size=2)
       for m in (disentangle.mig, disentangle.modularity, disentangle.sap, disentangle.dci)},
    **{m.__name__: Measure(on_sampling(m), ('codes', 'factors'))
       for m in (disentangle.beta_vae, disentangle.factor_vae)},
    mig_sampled=Measure(mig_sampled, ('moments', 'factors')),
    frechet_distance=Measure(frechet_distance, ('samples',), least=(2, 2), featured=True),
    kernel_distance=Measure(kernel_distance, ('samples',), least=(4, 4), featured=True),
    precision_recall=Measure(precision_recall, ('samples',), least=(6, 1), featured=True),
    modes=Measure(modes, ('samples', 'mixture')),
    stacked=Measure(stacked, ('samples', 'stacked', 'classifier'), featured=True))


def unmet(name: str, s: Subject) -> str:
    """The need of a metric that is not met, for a message; '' if all are met."""
    for need in (NEEDS[n] for n in MEASURES[name].needs):
        if not need.met(s):
            return f'needs {need.words}, which this {need.of} has not'
    return ''


def short(name: str, s: Subject) -> str:
    """What a fitting metric has too few of, for a message; '' if there are enough."""
    measure_of = MEASURES[name]
    for split, least in zip(('test', 'train'), measure_of.least):
        if len(getattr(s.data, split).x) < least:
            return f'needs at least {least} examples in the {split} split, not ' \
                   f'{len(getattr(s.data, split).x)}'
    if measure_of.size > 1 and code(s).shape[1] < measure_of.size:
        return f'needs at least {measure_of.size} latent dimensions, not 1'
    return ''


def chosen(names: list[str], s: Subject) -> list[str]:
    """Checks the names of requested metrics; without names, all metrics that fit except slow ones.

    Raises BadInput for an unknown name, and for a metric that does not fit the model or the data.
    """
    for name in names:
        if name not in MEASURES:
            close = difflib.get_close_matches(name, MEASURES, 1, cutoff=.4)
            raise BadInput(f'unknown metric {name!r}' + (f', did you mean {close[0]!r}' if close
                           else '') + f'; there are {", ".join(MEASURES)}')
        if why := unmet(name, s) or short(name, s):
            raise BadInput(f'metric {name} {why}; leave it out of eval.metrics')
    return names or [n for n, m in MEASURES.items() if not m.slow and not unmet(n, s)]


def measure(names: list[str], s: Subject, skip_failures: bool,
            say: Callable[[str], Any] = print) -> Iterator[tuple[str, dict[str, float]]]:
    """Each of these measures, which are `chosen`, with its numbers.

    One that cannot be computed of this state or of so few examples is left out with a word, or
    unless `leave_out` is BadInput.
    """
    for name in names:
        try:
            if why := short(name, s):
                raise BadInput(f'it {why}')
            numbers = MEASURES[name].numbers(s)
        except BadInput as e:
            if not skip_failures:
                raise BadInput(f'metric {name}: {e}') from e
            say(f'left out {name}: {e}')
        else:
            yield name, numbers
