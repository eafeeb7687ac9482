"""Face swapping with one encoder and a decoder for each identity.

    python -m gen_jax.main --config=configs/deepfake.py
"""
from gen_jax.train import defaults


def get_config(dataset='faces'):
    config = defaults('deepfake', dataset)
    config.epochs, config.eval.best, config.eval.samples = 20, 'test/error', 16
    return config
