"""Colour for grey pictures (after Zhang et al. 2016, as regression).

    python -m gen_jax.main --config=configs/colorize.py
"""
from gen_jax.train import defaults


def get_config(dataset='photos'):
    config = defaults('colorize', dataset)
    config.epochs = 15
    return config
