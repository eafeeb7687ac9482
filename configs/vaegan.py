"""VAE and GAN in one (Larsen et al. 2016), the discriminator's slope at data penalised.

    python -m gen_jax.main --config=configs/vaegan.py:mnist

On `digits` the nets are two dense layers, elsewhere convolutions.  50 s of training on 2 CPU cores,
beside other programs, for `digits`: test mse 0.010, Frechet distance of pixels 0.28, that of data
from data 0.38.
"""
from gen_jax.train import POINTS, defaults


def get_config(dataset='digits'):
    own, net, adam = dict(beta=.05), {}, dict(learning_rate=1e-3)
    rules = dict(penalty='r1', penalty_weight=.1)
    if dataset in POINTS:
        own, adam = own | dict(latent=2), adam | dict(b1=0.)
        net = dict(name='mlp', width=(128, 128, 128))
        rules = dict(loss='relativistic', penalty='r1r2', penalty_weight=.2)
    elif dataset == 'digits':
        own, net = own | dict(latent=10), dict(name='mlp', width=(256, 256), norm='batch')
    else:  # thousands of features, whose error would drown the rest
        own = dict(gamma=.01)
    config = defaults('vaegan', dataset, discriminator=rules, net=net,
                      encoder_net=net | dict(activation='leaky_relu'),
                      discriminator_net=net | dict(activation='leaky_relu', norm='none'),
                      optimiser=adam, encoder_optimiser=adam, discriminator_optimiser=adam, **own)
    config.epochs = 200 if dataset == 'digits' else 5
    if dataset in POINTS:
        config.epochs, config.batch_size = 10, 256
    config.eval.best = ''  # the losses of a game have no lowest that would be best
    if dataset == 'digits':
        config.eval.every = 10
    return config
