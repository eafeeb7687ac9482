"""InfoGAN (Chen et al. 2016): ten categories and two continuous codes, learned without labels.

    python -m gen_jax.main --config=configs/infogan.py:mnist
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('infogan', dataset, norm='none', critic_norm='none', penalty='r1', weight=1.,
                      rate=1e-3)
    config.epochs = 100 if dataset == 'digits' else 5
    config.eval.best = ''  # the losses of a game have no lowest that would be best
    if dataset == 'digits':
        config.eval.every = 10
    return config
