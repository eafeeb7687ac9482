"""Face swapping with one encoder and a decoder for each identity.

    python -m gen_jax.main --config=configs/deepfake.py
"""
from gen_jax.train import defaults


def get_config(dataset='faces'):
    config = defaults('deepfake', dataset)
    config.eval.samples = 16
    return config
