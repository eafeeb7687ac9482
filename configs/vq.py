"""The VQ-VAE of van den Oord et al. 2017, on `digits` a grid of 2 x 2 codes of 32 kinds.

    python -m gen_jax.main --config=configs/vq.py:mnist

57 s of CPU time for `digits`, test loss 18.6, elbo -29.2 nats: recon 17.4, prior_nll 11.8, at most
4 log 32 = 13.9; perplexity 30 of 32.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('vq', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 300, 30
        # with more, the prior memorises the training set
        config.model.codebook_size = config.model.prior_width = 32
    return config
