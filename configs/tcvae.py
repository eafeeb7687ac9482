"""The beta-TCVAE of Chen et al. 2018, beta 6, dense, ten dimensions.

    python -m gen_jax.main --config=configs/tcvae.py:mnist

20 to 30 s of CPU time for `digits`, test loss 25.1 nats, elbo -24.9: kl 4.64 = mi 4.47 + tc 0.04
+ dimwise_kl 0.14; five dimensions are used.  That the estimate of q(z) has no bias, and finds
the total correlation of a Gaussian, is in tests/test_vae_family.py.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('tcvae', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 300, 30
    return config
