"""Metrics of codes: active units, mutual information, and linear probes."""
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gen_jax import densities, losses
from gen_jax.types import Array, BadInput


def active_units(mean: np.ndarray, least: float = .01) -> int:
    """The number of dimensions of the posterior means (n, d) whose variance over the data exceeds
    `least` (Burda et al. 2015). Raises BadInput for means that are not finite.
    """
    require_finite(mean)
    return int((np.var(mean, axis=0) > least).sum())


def require_finite(*codes: np.ndarray) -> None:
    if not all(np.isfinite(z).all() for z in codes):
        raise BadInput('the codes are not finite')


def information(mean: Array, logvar: Array, key: Array) -> dict[str, Array]:
    """Splits the KL of diagonal posteriors (n, d) into two parts in nats, estimated from one code
    for each example.

    mutual_information: I(x; z) = E log q(z | x) - log q(z), at most log n. aggregate_kl: KL(q(z) ||
    N(0, I)) = E log q(z) - log p(z). Here q(z) = 1/n sum_i q(z | x_i) over these examples (Hoffman
    & Johnson 2016).
    """
    z = losses.reparameterise(key, mean, logvar)

    def aggregate(z):  # exactly: posteriors may be so narrow that squares must not be expanded
        return jax.nn.logsumexp(densities.normal_log_prob(z, mean, logvar)) - jnp.log(len(mean))

    log_q = lax.map(aggregate, z, batch_size=20)
    return dict(mutual_information=(densities.normal_log_prob(z, mean, logvar) - log_q).mean(),
                aggregate_kl=(log_q - densities.normal_log_prob(z)).mean())


def readable(train: np.ndarray, label: np.ndarray, test: np.ndarray,
             truth: np.ndarray) -> dict[str, float]:
    """Accuracy on test codes (m, d) of a logistic regression, probe_accuracy, and of five nearest
    neighbours, knn_accuracy, both fitted to standardised training codes (n, d).

    Raises BadInput for codes that are not finite.
    """
    require_finite(train, test)
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    scores = {}
    for name, by in dict(probe=LogisticRegression(max_iter=1000),
                         knn=KNeighborsClassifier(5)).items():
        fitted = make_pipeline(StandardScaler(), by).fit(train, label)
        scores[f'{name}_accuracy'] = float(fitted.score(test, truth))
    return scores
