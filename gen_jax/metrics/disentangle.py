"""Disentanglement: does each latent dimension encode one factor, and is each factor in one
dimension?

codes (n, d) are real, factors (n, f) integers, of the same n examples. Every score is a float in
[0, 1]; 1 is best. Raises BadInput for arrays that do not match, fewer than two dimensions, a
constant factor, and a factor value with fewer than 10 examples.
"""
from typing import Callable, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gen_jax.types import BadInput

EXAMPLES = 10  # of each value of a factor, at least


def checked(codes, factors, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Codes and factors as arrays, with the values of each factor renumbered 0, 1, ..; at least
    `least` factors.
    """
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise BadInput('codes (n, d) and factors (n, f) must be of the same n examples, not of '
                       f'shapes {codes.shape} and {factors.shape}')
    if factors.dtype.kind not in 'iu' or not np.isfinite(codes).all():
        raise BadInput(f'codes must be finite, and factors integers, not {factors.dtype}')
    if codes.shape[1] < 2 or factors.shape[1] < least:
        raise BadInput(f'there must be at least 2 dimensions and {least} factors, not '
                       f'{codes.shape[1]} and {factors.shape[1]}')
    for k, v in enumerate(factors.T):
        counts = np.unique(v, return_counts=True)[1]
        if len(counts) < 2:
            raise BadInput(f'factor {k} is constant; leave it out')
        if counts.min() < EXAMPLES:
            raise BadInput(f'factor {k} has a value with only {counts.min()} examples; give at '
                           f'least {EXAMPLES} of each')
    return codes, np.stack([np.unique(v, return_inverse=True)[1] for v in factors.T], 1)


def unit(scores) -> float:
    """The mean score, clipped to [0, 1] to remove rounding errors."""
    return float(np.clip(np.mean(scores), 0, 1))


def gap(scores: np.ndarray) -> np.ndarray:
    """The difference between the best and the second best dimension, (d, f) -> (f,)."""
    second, best = np.sort(scores, 0)[-2:]
    return best - second


# Scores of mutual information


def entropy(labels: np.ndarray) -> float:
    """The Shannon entropy in nats of the empirical distribution of integers (n,)."""
    p = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(p * np.log(p)).sum())


def discrete(codes: np.ndarray, bins: int) -> np.ndarray:
    """Discretises each dimension into `bins` intervals of equal width over its range; 0 for a
    constant dimension.

    Raises BadInput for fewer than two bins.
    """
    if bins < 2:
        raise BadInput(f'there must be at least 2 bins, not {bins}')
    width = np.ptp(codes, 0)
    part = (codes - codes.min(0)) / np.where(width > 0, width, 1)
    return np.minimum((part * bins).astype(int), bins - 1)


def information(codes: np.ndarray, factors: np.ndarray, bins: int) -> np.ndarray:
    """The mutual information I(z_j; v_k) (d, f) in nats of discretised codes and factors."""
    estimates = [[entropy(z) + entropy(v) - entropy(bins * v + z) for v in factors.T]
                 for z in discrete(codes, bins).T]
    return np.maximum(estimates, 0)


def mig(codes, factors, bins: int = 20) -> float:
    """Mutual information gap: the mean over factors of (I(z_j; v) - I(z_i; v)) / H(v), where z_j
    has the most information about v and z_i the second most (Chen et al. 2018).

    >>> factors = np.random.default_rng(0).integers(4, size=(2000, 2))
    >>> print(f'{mig(factors.astype(float), factors):.2f}')  # a dimension for each factor
    1.00
    """
    codes, factors = checked(codes, factors)
    return unit(gap(information(codes, factors, bins)) / [entropy(v) for v in factors.T])


def mig_sampled(mean, logvar, factors, key) -> float:
    """The mutual information gap, see mig, of codes sampled from diagonal posteriors (n, d), one
    for each example. q(z_j) and q(z_j | v) are mixtures of their Gaussians (Chen et al. 2018); mig
    discretises the posterior means instead.
    """
    mean, factors = checked(mean, factors)
    mean, logvar = jnp.float32(mean), jnp.float32(logvar)
    samples = mean + jnp.exp(logvar / 2) * jax.random.normal(key, mean.shape)

    @jax.jit
    def densities(mean, logvar, samples, factors):
        def one(z, v):  # log q(z_j) and log q(z_j | v_k), (1 + f, d)
            each = -.5 * ((z - mean) ** 2 * jnp.exp(-logvar) + logvar)
            most = each.max(0)
            alike = jnp.vstack([jnp.ones(len(mean)), (factors == v).T])
            sums = jnp.matmul(alike, jnp.exp(each - most), precision='highest')
            return most + jnp.log(sums) - jnp.log(alike.sum(1, keepdims=True))
        return lax.map(lambda zv: one(*zv), (samples, factors), batch_size=20).mean(0)

    log_densities = np.asarray(densities(mean, logvar, samples, jnp.asarray(factors)), np.float64)
    information = (log_densities[1:] - log_densities[0]).T
    return unit(gap(np.maximum(information, 0)) / [entropy(v) for v in factors.T])


def modularity(codes, factors, bins: int = 20) -> float:
    """The mean over dimensions of 1 - sum_(k != best) I(z; v_k)^2 / ((f - 1) I(z; v_best)^2), for
    at least two factors (Ridgeway & Mozer 2018).

    Constant dimensions are ignored; 0 if all are constant. The score of pure noise is not near 0:
    with finite examples its estimated information is positive, and largest for the factor with the
    most values.
    """
    squares = information(*checked(codes, factors, least=2), bins) ** 2
    squares = squares[squares.max(1) > 1e-20]  # less is rounding
    best = squares.max(1)
    others = (squares.sum(1) - best) / (squares.shape[1] - 1)
    return unit(1 - others / best) if len(best) else 0.


# Scores of prediction: what is fitted to one half of the examples is measured on the other


def halves(n: int, seed: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(seed).permutation(n), 2)


def sap(codes, factors, seed: int = 0) -> float:
    """Separated attribute predictability: the mean over factors of the difference in accuracy
    between the best and the second best single dimension (Kumar et al. 2018).

    A factor is predicted by thresholds on a dimension, as in the paper for discrete factors: a
    decision tree sets as many as the factor has values, less one, because linear classifiers on one
    dimension find only the two outermost values. The balanced accuracy is rescaled so that chance
    is 0 and perfect prediction 1; with the paper's accuracy, which starts at chance, the gap could
    not reach 1.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier
    codes, factors = checked(codes, factors)
    train, test = halves(len(codes), seed)

    def accuracy(z, v):
        tree = DecisionTreeClassifier(max_leaf_nodes=v.max() + 1, class_weight='balanced',
                                      random_state=seed)
        predicted = tree.fit(z[train, None], v[train]).predict(z[test, None])
        return max(0., balanced_accuracy_score(v[test], predicted, adjusted=True))

    return unit(gap(np.array([[accuracy(z, v) for v in factors.T] for z in codes.T])))


def concentration(weights: np.ndarray) -> np.ndarray:
    """1 - H(p) / log m for rows (r, m) of weights, normalised to probabilities p; 0 for a row of
    zeros.
    """
    total, m = weights.sum(1, keepdims=True), weights.shape[1]
    p = np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / m)
    return 1 + (p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(m)


def dci(codes, factors, seed: int = 0, trees: int = 20) -> dict[str, float]:
    """disentanglement, completeness and informativeness, for at least two factors (Eastwood &
    Williams 2018).

    They use the importances (d, f) of the dimensions in a random forest for each factor.
    disentanglement: 1 minus the normalised entropy of a dimension's importances over the factors,
    averaged over dimensions with their importance as weight. completeness: the same for the
    importances of the dimensions in a factor, averaged over factors. informativeness: mean accuracy
    of the forests.
    """
    from sklearn.ensemble import RandomForestClassifier
    codes, factors = checked(codes, factors, least=2)
    train, test = halves(len(codes), seed)
    importances, accuracies = [], []
    for v in factors.T:
        # a split that may not use the right dimension, or that parts a handful, credits wrong ones
        forest = RandomForestClassifier(trees, max_features=None, min_samples_leaf=10,
                                        random_state=seed).fit(codes[train], v[train])
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(codes[test], v[test]))
    importance = np.stack(importances, 1)
    share = importance.sum(1) / max(importance.sum(), 1e-12)
    return dict(disentanglement=unit(share @ concentration(importance)),
                completeness=unit(concentration(importance.T)),
                informativeness=unit(accuracies))


# Scores of interventions: represent maps values of the factors, integers (m, f) that count from 0,
# to codes (m, d), all m at once; sizes is the number of values of each factor


def agreeing(which: np.ndarray, count: int, sizes: Sequence[int], chance) -> np.ndarray:
    """Random factor values (len(which), count, f); the `count` examples of a row share the value of
    factor `which`.
    """
    values = chance.integers(sizes, size=(len(which), count, len(sizes)))
    rows = np.arange(len(which))
    values[rows, :, which] = values[rows, 0, which][:, None]
    return values


def encoded(represent: Callable, values: np.ndarray) -> np.ndarray:
    """The codes (.., d) of factor values (.., f). Raises BadInput if the codes are not vectors."""
    rows = values.reshape(-1, values.shape[-1])
    codes = np.asarray(represent(rows), np.float64)
    if codes.ndim != 2 or len(codes) != len(rows) or not np.isfinite(codes).all():
        raise BadInput(f'represent must give finite codes ({len(rows)}, d) for values of shape '
                       f'{rows.shape}, not {codes.shape}')
    return codes.reshape(*values.shape[:-1], -1)


def votes_for(sizes: Sequence[int], votes: int, chance) -> np.ndarray:
    """A random factor for each vote. Raises BadInput for too few votes or a constant factor."""
    if len(sizes) < 2 or min(sizes) < 2:
        raise BadInput(f'sizes must be two or more, each at least 2, not {tuple(sizes)}')
    if votes < 2 * EXAMPLES * len(sizes):
        raise BadInput(f'{len(sizes)} factors need at least {2 * EXAMPLES * len(sizes)} votes, '
                       f'not {votes}')
    return chance.integers(len(sizes), size=votes)


def beta_vae(represent: Callable, sizes: Sequence[int], seed: int = 0, votes: int = 1000,
             pairs: int = 64) -> float:
    """The accuracy of a linear classifier that predicts, from the mean |z_1 - z_2| over pairs,
    which factor the two examples of every pair share (Higgins et al. 2017).

    A logistic regression of standardised differences, fitted to half of the votes and evaluated on
    the other half; chance is 1/f.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    sizes, chance, half = list(sizes), np.random.default_rng(seed), votes // 2
    which = votes_for(sizes, votes, chance)
    codes = encoded(represent, agreeing(np.repeat(which, pairs), 2, sizes, chance))
    x = abs(codes[:, 0] - codes[:, 1]).reshape(votes, pairs, -1).mean(1)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return unit(linear.fit(x[:half], which[:half]).score(x[half:], which[half:]))


def factor_vae(represent: Callable, sizes: Sequence[int], seed: int = 0, votes: int = 1600,
               count: int = 64, collapsed: float = 1e-3) -> float:
    """The accuracy of a majority vote that predicts, from the dimension with the smallest relative
    variance, which factor `count` examples share (Kim & Mnih 2018).

    Half of the votes are for training. Dimensions with less than `collapsed` of the largest
    variance are ignored; chance, if all votes are equal, is about 1/f.
    """
    sizes, chance, half = list(sizes), np.random.default_rng(seed), votes // 2
    which = votes_for(sizes, votes, chance)
    codes = encoded(represent, agreeing(which, count, sizes, chance))
    total = codes.var((0, 1))  # the factor in common is any, so all are examples at random
    active = total > collapsed * total.max()
    within = np.where(active, codes.var(1) / np.where(active, total, 1), np.inf)
    least = within.argmin(1)
    table = np.zeros((codes.shape[2], len(sizes)))
    np.add.at(table, (least[:half], which[:half]), 1)
    return unit(table.argmax(1)[least[half:]] == which[half:])
