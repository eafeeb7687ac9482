"""DCGAN (Radford et al. 2016) with the non-saturating loss of Goodfellow et al. 2014.

    python -m gen_jax.main --config=configs/gan.py:mnist
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('gan', dataset)
    config.epochs = 20 if dataset != 'digits' else 100
    config.eval.best = ''  # the losses of a game have no lowest that would be best
    if dataset == 'digits':
        config.eval.every = 10
    return config
