"""The denoising autoencoder of Vincent et al. 2010.

    python -m gen_jax.main --config=configs/denoising.py:mnist

5 s of training on 2 CPU cores for `digits`, which lifts the test psnr from 13.0 to 16.4 dB.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('denoising', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
