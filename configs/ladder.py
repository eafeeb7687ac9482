"""The importance weighted autoencoder of two stochastic layers, Burda et al. 2015, five codes.

    python -m gen_jax.main --config=configs/ladder.py:mnist

40 s of CPU time for `digits`, test iwae -23.9 nats, elbo -25.5.  Burda et al.'s table 1 has, for
two layers on MNIST with k = 1 and 50 codes, an nll of 85.33 and 82.90 nats, after the eight stages
of the rate, --config.optimiser.schedule=staged: see experiments/likelihood.py.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('ladder', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 300, 30
    return config
