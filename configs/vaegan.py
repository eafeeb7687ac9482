"""VAE and GAN in one (Larsen et al. 2016), the critic's slope at data penalised.

    python -m gen_jax.main --config=configs/vaegan.py:mnist

On `digits` the nets are two dense layers, elsewhere convolutions.  50 s of training on 2 CPU cores,
beside other programs, for `digits`: test mse 0.010, Frechet distance of pixels 0.28, that of data
from data 0.38.
"""
from gen_jax.train import POINTS, defaults


def get_config(dataset='digits'):
    hyper = dict(critic_norm='none', penalty='r1', weight=.1, rate=1e-3)
    if dataset in POINTS:
        hyper |= dict(kind='mlp', width=(128, 128, 128), norm='none', latent=2, beta=.05, b1=0.,
                      loss='relativistic', penalty='r1r2', weight=.2)
    elif dataset == 'digits':
        hyper |= dict(kind='mlp', width=(256, 256), latent=10, beta=.05)
    else:  # thousands of features, whose error would drown the rest
        hyper |= dict(gamma=.01)
    config = defaults('vaegan', dataset, **hyper)
    config.epochs = 200 if dataset == 'digits' else 5
    if dataset in POINTS:
        config.epochs, config.batch = 10, 256
    config.eval.best = ''  # the losses of a game have no lowest that would be best
    if dataset == 'digits':
        config.eval.every = 10
    return config
