"""The denoising autoencoder of Vincent et al. 2010.

    python -m gen_jax.main --config=configs/denoising.py:mnist
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('denoising', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
