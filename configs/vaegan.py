"""VAE and GAN in one (Larsen et al. 2016).

    python -m gen_jax.main --config=configs/vaegan.py:mnist
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('vaegan', dataset, critic_norm='none', penalty='r1', weight=.1, beta=.05,
                      rate=1e-3)
    config.epochs = 100 if dataset == 'digits' else 5
    config.eval.best = ''  # the losses of a game have no lowest that would be best
    if dataset == 'digits':
        config.eval.every = 10
    return config
