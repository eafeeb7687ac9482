"""FactorVAE of Kim & Mnih 2018, gamma 10, dense, ten dimensions, a discriminator of 3 x 256.

    python -m gen_jax.main --config=configs/factor.py:mnist

28 s of CPU time for `digits`, test elbo -24.3 nats: recon 20.9, kl 3.4; tc 0.0, at which the
discriminator is right in half of the cases, as it should be.  The paper's discriminator, six layers
of 1000, is --config.discriminator_net.width=1000,1000,1000,1000,1000,1000.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('factor', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 300, 30
    return config
