"""The adversarial autoencoder (Makhzani et al. 2016).

    python -m gen_jax.main --config=configs/aae.py:mnist
    python -m gen_jax.main --config=configs/aae.py --config.model.labelled
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('aae', dataset)
    config.epochs = 300 if dataset == 'digits' else 10
    if dataset == 'digits':
        config.eval.every = 10
    return config
