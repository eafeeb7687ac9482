"""The importance weighted autoencoder of Burda et al. 2015, five codes an example.

    python -m gen_jax.main --config=configs/iwae.py:mnist

Test iwae -24.0 nats for `digits`, elbo -25.0: it is the bound of five codes that is trained; for
`mnist` -102.8, some three quarters of a minute of training on 2 CPU cores.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('iwae', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 300, 30
    return config
