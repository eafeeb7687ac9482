"""Likelihoods, priors and posteriors, the parts of a latent variable model; each a few functions.

Log densities are in nats, one per example, shape (n,).
"""
from gen_jax.densities.gaussians import mixture_log_prob, normal_log_prob
from gen_jax.densities.likelihoods import LIKELIHOODS, SCALES, Likelihood, likelihood
from gen_jax.densities.posteriors import POSTERIORS, Posterior, iaf, iaf_init, planar, posterior
from gen_jax.densities.priors import PRIORS, Prior, prior
