"""The sparse autoencoder (Ng 2011), 128 rectified units with an L1 penalty.

    python -m gen_jax.main --config=configs/sparse.py:mnist

2 s of training on 2 CPU cores for `digits`: test mse 0.0048 with a fifth of the units active.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('sparse', dataset, penalty_weight=.03 if dataset == 'digits' else .1)
    config.eval.best = 'test/recon'
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
