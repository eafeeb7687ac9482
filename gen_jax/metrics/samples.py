"""Distances between samples and data in a feature space, and mode coverage.

Features are real, (n, d) and (m, d), one row for each example; labels are integers (n,). Raises
BadInput for arrays that do not match, for too few examples, and for values that are not finite.
"""
from typing import Iterator

import numpy as np

from gen_jax.types import BadInput

BLOCK = 2 ** 22  # numbers (32 MB) in a block of pairs; two or three are held at once


def features(x, y, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 matrices of equal width, with at least `least` rows."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.shape[1]:
        raise BadInput('features (n, d) and (m, d) must be of the same width d, not of shapes '
                       f'{x.shape} and {y.shape}')
    if min(len(x), len(y)) < least:
        raise BadInput(f'there must be at least {least} of each, not {len(x)} and {len(y)}')
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInput('features must be finite')
    return x, y


def products(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Pairs (rows, x[rows] @ y.T) for blocks of rows of x (n, d), with all of y (m, d)."""
    step = max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        yield rows, x[rows] @ y.T


# Distances of distributions


def frechet_distance(x, y) -> float:
    """The squared Frechet distance |m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) between
    Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017: the FID, for Inception
    features).

    In squared units of the features, with an upward bias of about 1/n. With S = R'R, the trace of
    the root is the sum of the singular values of R_x R_y'. So a singular S, from fewer examples
    than dimensions, gives neither complex numbers nor square roots of rounding errors.

    >>> x = np.random.default_rng(0).normal(size=(1000, 3))
    >>> print(f'{frechet_distance(x, x + 2):.4f}')  # the squared distance of the means
    12.0000
    """
    x, y = features(x, y)
    root_x, root_y = (np.linalg.qr((a - a.mean(0)) / (len(a) - 1) ** .5, mode='r') for a in (x, y))
    squared_distance = ((x.mean(0) - y.mean(0))**2).sum() + (root_x**2).sum() + (root_y**2).sum()
    return float(max(0., squared_distance - 2 * np.linalg.norm(root_x @ root_y.T, 'nuc')))


def discrepancy(x, y) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (x'y / d + 1)^3, which may be
    negative (Gretton et al. 2012): the mean over pairs of different x, plus that over pairs of
    different y, minus twice the mean over pairs of an x and a y.
    """
    x, y = features(x, y)
    d = x.shape[1]

    def total(x, y):
        linear = (product / d + 1 for _, product in products(x, y))
        return sum(np.vdot(k * k, k) for k in linear)

    def within(x):
        return (total(x, x) - (((x ** 2).sum(1) / d + 1) ** 3).sum()) / (len(x) * (len(x) - 1))

    return float(within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y)))


def kernel_distance(x, y, seed: int = 0, subsets: int = 100, size: int = 1000) -> dict[str, float]:
    """The mean `discrepancy` of random subsets of x and y (Binkowski et al. 2018: the KID, for
    Inception features), and its standard error kernel_se.

    A subset has `size` different examples, or half of the smaller of x and y if that is less: the
    spread over subsets of all examples would not show how much another x and y would differ. The
    error is that of the delete-d jackknife (Shao & Wu 1989) plus that of the finite number of
    subsets; it is rather too large if x and y are alike, or differ in number. x and y should share
    no example. Raises BadInput for fewer than 4 examples of each, 2 subsets or 2 examples in a
    subset.
    """
    x, y = features(x, y, least=4)
    if subsets < 2 or size < 2:
        raise BadInput(f'there must be at least 2 subsets of 2 examples, not {subsets} of {size}')
    fewer = min(len(x), len(y))
    size, chance = min(size, fewer // 2), np.random.default_rng(seed)
    estimates = [discrepancy(*(a[chance.choice(len(a), size, replace=False)] for a in (x, y)))
                 for _ in range(subsets)]
    error = np.std(estimates, ddof=1) * (size / (fewer - size) + 1 / subsets) ** .5
    return dict(kernel_distance=float(np.mean(estimates)), kernel_distance_se=float(error))


# Manifolds of nearest neighbours


def squares(x: np.ndarray, y: np.ndarray, slack: float = 0.) -> Iterator[tuple[slice, np.ndarray]]:
    """Pairs (rows, |x[rows] - y|^2), less `slack` times |x|^2 + |y|^2."""
    of_x, of_y = ((1 - slack) * (a ** 2).sum(1) for a in (x, y))
    for rows, squared in products(x, y):
        squared *= -2
        squared += of_x[rows, None]
        squared += of_y
        yield rows, squared


def radii(x: np.ndarray, k: int) -> np.ndarray:
    """The squared distance (n,) of each example to its k-th nearest neighbour."""
    nearest = []
    for rows, squared in squares(x, x):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        squared.partition(k - 1, axis=1)
        nearest.append(squared[:, k - 1].copy())  # not a view, which would keep the block
    return np.concatenate(nearest)


def precision_recall(real, fake, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage from balls around examples, with the distance to the
    k-th nearest neighbour of the same kind as radius.

    precision: share of fake examples inside a ball of a real one. recall: share of real examples
    inside a ball of a fake one (Kynkaanniemi et al. 2019). density: mean number of real balls
    around a fake example, divided by k, which may exceed 1. coverage: share of real balls that
    contain a fake example (Naeem et al. 2020). Balls include their border. Raises BadInput unless 0
    < k < n, m.
    """
    real, fake = features(real, fake)
    if not 0 < k < min(len(real), len(fake)):
        raise BadInput(f'k must be above 0 and below the number of examples, {len(real)} real and '
                       f'{len(fake)} fake, not {k}')
    centre = real.mean(0)  # near 0, products round less
    real, fake = real - centre, fake - centre
    of_real, of_fake = radii(real, k), radii(fake, k)
    recalled, covered = np.zeros((2, len(real)), bool)
    inside = precise = 0
    for rows, squared in squares(fake, real, slack=1e-12):  # rounding hides no tie
        recalled |= (squared <= of_fake[rows, None]).any(0)
        in_ball = squared <= of_real
        covered |= in_ball.any(0)
        precise += in_ball.any(1).sum()
        inside += in_ball.sum()
    return dict(precision=float(precise / len(fake)), recall=float(recalled.mean()),
                density=float(inside / (k * len(fake))), coverage=float(covered.mean()))


# Modes


def divergence(counts: np.ndarray, others: np.ndarray) -> float:
    """KL(p || q) in nats between the distributions given by counts (m,); 0 log 0 = 0. q must be
    positive wherever p is.
    """
    p, q = counts / counts.sum(), others / others.sum()
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / q[positive])).sum())


def modes(x, centres, sigma: float) -> dict[str, float]:
    """Coverage of a mixture of Gaussians of equal weight with centres (m, d) and standard deviation
    sigma by samples (n, d).

    high_quality: share of samples within 3 sigma of the nearest centre. modes: number of centres
    that are nearest to at least one such sample, as in VEEGAN (Srivastava et al. 2017) and PacGAN
    (Lin et al. 2018). kl: KL(samples || uniform) in nats over the nearest centres of the
    high-quality samples; log m, its maximum, if there are none.

    >>> modes(np.array([[0., 0.], [5., 0.], [9., 9.]]), [[0., 0.], [5., 0.]], sigma=.1)['modes']
    2
    """
    x, centres = features(x, centres, least=1)
    if not 0 < sigma < np.inf:
        raise BadInput(f'sigma must be above 0 and finite, not {sigma}')
    distance = np.stack([np.linalg.norm(x - c, axis=1) for c in centres], 1)
    good, m = distance.min(1) <= 3 * sigma, len(centres)
    counts = np.bincount(distance.argmin(1)[good], minlength=m)
    return dict(modes=int((counts > 0).sum()), high_quality=float(good.mean()),
                kl=divergence(counts, np.ones(m)) if good.any() else float(np.log(m)))


def classes(label, reference) -> dict[str, float]:
    """modes: number of classes among the labels (n,) predicted for samples. kl: KL(samples ||
    reference) in nats between the label distributions (Metz et al. 2017, for stacked MNIST);
    `reference` (m,) is proportional to the class frequencies.

    Raises BadInput if a sample has a label of frequency 0, because kl is then infinite, and any
    substitute would decide its value.
    """
    label, reference = np.asarray(label), np.asarray(reference)
    if label.ndim != 1 or not len(label) or label.dtype.kind not in 'iu':
        raise BadInput(f'labels must be integers (n,), one or more, not {label.dtype} of shape '
                       f'{label.shape}')
    if label.min() < 0 or label.max() >= len(reference):
        raise BadInput(f'labels must be from 0 to {len(reference) - 1}, not from {label.min()} to '
                       f'{label.max()}')
    counts = np.bincount(label.astype(int), minlength=len(reference))
    lacking = ((counts > 0) & (reference == 0)).sum()
    if lacking:
        raise BadInput(f'samples have {lacking} labels that the reference lacks, so that kl is '
                       'infinite; give more of it, or a uniform one')
    return dict(modes=int((counts > 0).sum()), kl=divergence(counts, reference))
