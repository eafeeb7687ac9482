"""The importance weighted autoencoder of Burda et al. 2015, five codes an example.

    python -m gen_jax.main --config=configs/iwae.py:mnist
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('iwae', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 300, 30
    return config
