"""The contractive autoencoder of Rifai et al. 2011, with the exact norm of the Jacobian.

    python -m gen_jax.main --config=configs/contractive.py:mnist

7 s of training on 2 CPU cores for `digits`: test mse 0.0074, squared norm of the Jacobian 1.48.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('contractive', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
