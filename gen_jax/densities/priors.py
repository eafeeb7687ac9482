"""p(z): normal, or learned."""
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax import losses
from gen_jax.densities.gaussians import mixture_log_prob, normal_log_prob
from gen_jax.types import Array, BadInput, Batch, Tree

PRIORS = 'normal', 'mixture', 'vamp'


class Prior(NamedTuple):
    """init: (key, batch) -> params; log_prob: (params, z, infer) -> (n,); sample: (params, key, n,
    infer) -> z.  infer: x -> (mean, logvar) is the encoder's, which pseudo-inputs need."""
    init: Callable[[Array, Batch], Tree]
    log_prob: Callable[[Tree, Array, Callable], Array]
    sample: Callable[[Tree, Array, int, Callable], Array]


def prior(name: str, latent: int, components: int = 500) -> Prior:
    """`normal`: N(0, I); `mixture`: of so many Gaussians, learned; `vamp`: of the posteriors of so
    many learned pseudo-inputs, the VampPrior (Tomczak & Welling 2018).  Raises BadInput otherwise.
    """
    if name not in PRIORS:
        raise BadInput(f'unknown prior {name!r}; choose one of {", ".join(PRIORS)}')
    if components < 1:
        raise BadInput(f'components must be at least 1, not {components}')
    if name == 'normal':
        return Prior(lambda key, batch: {}, lambda params, z, infer: normal_log_prob(z),
                     lambda params, key, n, infer: losses.standard_normal(key, n, latent))

    def init(key, batch):
        if name == 'mixture':
            return dict(mean=jax.random.normal(key, (components, latent)),
                        logvar=jnp.zeros((components, latent)), logit=jnp.zeros(components))
        rows = jax.random.randint(key, (components,), 0, len(batch.x))
        return dict(inputs=batch.x[rows])

    def parts(params, infer):
        if name == 'mixture':
            return params['mean'], losses.bound_logvar(params['logvar']), params['logit']
        mean, logvar = infer(params['inputs'])
        return mean, logvar, jnp.zeros(components)

    def log_prob(params, z, infer):
        return mixture_log_prob(z, *parts(params, infer))

    def sample(params, key, n, infer):
        mean, logvar, logit = parts(params, infer)
        keys = jax.random.split(key)
        chosen = jax.random.categorical(keys[0], logit, shape=(n,))
        return losses.reparameterise(keys[1], mean[chosen], logvar[chosen])

    return Prior(init, log_prob, sample)
