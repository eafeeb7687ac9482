"""A classifier on the encoder of a trained run, frozen, tuned or from scratch.

    python -m gen_jax.main --config=configs/ae.py:mnist
    python -m gen_jax.main --config=configs/classifier.py:mnist --config.init_from=runs/ae-mnist

1 s of training on 2 CPU cores for `digits`: on the frozen codes of configs/ae.py a linear layer
reaches a test accuracy of 0.953.  The run to start from is read again whenever this one is used:
keep it where it is.
"""
from gen_jax.train import defaults


def get_config(dataset='digits'):
    config = defaults('classifier', dataset)
    if dataset == 'digits':
        config.epochs, config.eval.every = 100, 10
    return config
