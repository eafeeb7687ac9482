"""Data sets that come with scikit-learn: nothing to download."""
import numpy as np

from gen_jax.types import Batch


def digits():
    """1,797 handwritten digits of 8x8 pixels (17 grey levels); every fifth is for testing."""
    from sklearn.datasets import load_digits
    x, label = load_digits(return_X_y=True)
    return split(np.round(x * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), label)


def breast_cancer():
    """569 tumours, 30 measurements each, standardised: real vectors; every fifth is for testing."""
    from sklearn.datasets import load_breast_cancer
    x, label = load_breast_cancer(return_X_y=True)
    return split(((x - x.mean(0)) / x.std(0)).astype(np.float32), label)


def split(x, label):
    test = np.arange(len(x)) % 5 == 4
    label = label.astype(np.int32)
    return Batch(x[~test], label[~test]), Batch(x[test], label[test])


SETS = dict(digits=digits, breast_cancer=breast_cancer)
