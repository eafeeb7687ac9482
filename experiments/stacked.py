"""Of a thousand modes, how many: three digits stacked as one colour image, by GANs.

    python experiments/stacked.py --dataset=stacked:mnist --data_dir=DIR [--rows=dcgan] [--epochs=N]

A classifier of single digits, trained here, names the three of each of 26,000 samples; kl is that
of their joint distribution from the data's, in which the three are independent, in nats (Metz et
al. 2017).  published: modes, and kl where it is known, by Srivastava et al. 2017 (dcgan), Lin et
al. 2018 (packed; they got 79 for dcgan), Gulrajani et al.'s penalty by the same protocol
(wasserstein), and Huang et al. 2024 (R3GAN: gan_r1r2 and relativistic_r1r2), as quoted, not looked
up.  --epochs stops earlier and goes on from there with a larger number; a row says how far it got,
and one that got less far than the 50 is no reproduction.  On stacked digits, the default, there is
no published number.
"""
from study import WHICH, Study, both, start

from gen_jax import data, metrics, record, train, evaluation
from gen_jax.types import BadInput

FULL = 50


def played(norm: str, **keys) -> dict:
    """The norm of the discriminator's net, and keys of what it is trained by."""
    return {'discriminator_net.norm': norm} | {f'discriminator.{k}': v for k, v in keys.items()}


DCGAN = played('batch') | both(learning_rate=2e-4)
CENTRED = played('none', penalty='r1r2', penalty_weight=1.) | both(learning_rate=2e-4, b1=0.,
                                                                   b2=.99)
# name: what differs from configs/gan.py, and the modes and kl published
ROWS = dict(
    dcgan=(DCGAN, 99, ''), packed=(DCGAN | {'discriminator.packing': 2}, 1000, ''),
    wasserstein=(played('layer', loss='wasserstein', penalty='gradient')
                 | {'model.discriminator_steps': 5}
                 | both(learning_rate=2e-4, b1=.5, b2=.9), 959, ''), gan_r1r2=(CENTRED, 693, ''),
    relativistic_r1r2=(CENTRED | {'discriminator.loss': 'relativistic'}, 1000, .078))


def measured(study: Study, name: str) -> dict:
    """The row of a run; it is trained on where it has not come to its end."""
    changed, modes, kl = ROWS[name]
    quick, mnist = study.flags.quick, study.flags.dataset == 'stacked:mnist'
    config = study.config('gan', **changed)
    config.seed = study.flags.seed
    config.epochs = min(study.flags.epochs or FULL, 1 if quick else FULL)
    config.eval.every, config.eval.features = 1, 'classifier'
    if quick:
        config.net.width = config.discriminator_net.width = (8, 16)
    label = f'{name}-{config.seed}'

    def measure():
        run, state = study.run(label, config)
        return dict(metrics.stacked(evaluation.subject(run, state)),
                    seconds=train.summary(study.workdir / label)['seconds'])

    if not data.load(**config.data).stacked:
        raise BadInput(f'{config.data.name} is not stacked; use stacked:mnist or stacked:digits')
    result = study.point(f'{label}-{config.epochs}', measure)
    return dict(row=name, published=modes if mnist else '', modes=result['modes'],
                published_kl=kl if mnist else '', kl=result['kl'],
                epochs=f'{config.epochs} of {FULL}', seed=config.seed, seconds=result['seconds'])


def main(study: Study) -> None:
    table = [measured(study, name) for name in study.rows(ROWS)]
    parts = {}
    for row in table:
        run, state = train.load(study.workdir / f'{row["row"]}-{row["seed"]}',
                                data_dir=study.flags.data_dir)
        parts[f'{row["row"]}: {row["modes"]:.0f} modes'] = train.samples(run, state, 'prior', 64)
    record.pictures(study.figure, parts, columns=8)
    study.table(table, 'modes of stacked digits: ' + ', '.join(
        f'{r["row"]} {r["modes"]:.0f}, kl {r["kl"]:.2f} ({r["epochs"]} epochs)' for r in table))


if __name__ == '__main__':
    start(main, __doc__, 'stacked', dataset='stacked:digits',
          rows=WHICH, epochs=(0, 'at most; 0 for all'),
          seed=(0, 'of every run'))
