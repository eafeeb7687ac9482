"""The contractive autoencoder of Rifai et al. 2011, with the exact norm of the Jacobian.

    python -m gen_jax.main --config=configs/contractive.py:mnist
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('contractive', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
