"""The regularised autoencoder of Ghosh et al. 2020, with a gradient penalty on the decoder.

    python -m gen_jax.main --config=configs/rae.py:mnist

2 s of training on 2 CPU cores for `digits`: test mse 0.0052.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('rae', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
