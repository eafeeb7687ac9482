"""InfoGAN (Chen et al. 2016): ten categories and two continuous codes, learned without labels.

    python -m gen_jax.main --config=configs/infogan.py:mnist

On `digits` the nets are two dense layers, elsewhere convolutions.  21 s of training on 2 CPU cores,
beside other programs, for `digits`: the category of a sample is read rightly in 99.7 %, 2.85 nats
of the codes are in it, and the Frechet distance of pixels is 0.30, that of data from data 0.38.
"""
from gen_jax.train import POINTS, defaults


def get_config(dataset='digits'):
    codes, net, adam = {}, {}, dict(learning_rate=1e-3)
    rules = dict(penalty='r1', penalty_weight=.1)
    if dataset in POINTS:
        codes = dict(latent=2, num_continuous=0, num_categories=dict(ring=8, grid=25,
                                                                     spiral=2)[dataset])
        net, adam = dict(name='mlp', width=(128, 128, 128)), adam | dict(b1=0.)
        rules = dict(loss='relativistic', penalty='r1r2', penalty_weight=.2)
    elif dataset == 'digits':
        net = dict(name='mlp', width=(256, 256), norm='batch')
    other = net | dict(norm='none', activation='leaky_relu')
    config = defaults('infogan', dataset, discriminator=rules, net=net, discriminator_net=other,
                      recognition_net=other, optimiser=adam, discriminator_optimiser=adam,
                      recognition_optimiser=adam, **codes)
    config.epochs = 200 if dataset == 'digits' else 5
    if dataset in POINTS:
        config.epochs, config.batch_size = 10, 256
    config.eval.best = ''  # the losses of a game have no lowest that would be best
    if dataset == 'digits':
        config.eval.every = 10
    return config
