"""The survey's convolutional autoencoder (3x3 convolutions 30, 15 | 15, 30, two poolings).

    python -m gen_jax.main --config=configs/ae.py:mnist
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('ae', dataset)
    config.epochs = 15
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
