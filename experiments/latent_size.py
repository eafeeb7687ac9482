"""How many latent dimensions does a VAE need?  Its likelihood, and the units in use, by their size.

    python experiments/latent_size.py [--dataset=mnist --data_dir=DIR] [--seeds=3] [--quick]

The nets of Davidson et al. 2018 (256 and 128 ReLU units), bits drawn anew whenever seen, Adam 1e-3,
batches of 64; nll: -log p(x) of the test data in nats, 500 importance samples each, as there.  The
published figures, their row of the normal prior, are quoted from memory, unverified; they stopped
early by a validation set, here every run has the same epochs.  Means over seeds, deviations (sd).
"""
import numpy as np
from study import Study, start

from gen_jax import metrics, record, train, evaluation
from gen_jax.types import BadInput

PUBLISHED = {2: 135.7, 5: 110.2, 10: 93.8, 20: 88.9, 40: 88.9}
EPOCHS = dict(mnist=100, digits=300)


def measured(study: Study, latent: int, seed: int) -> dict:
    config = study.config('vae', seed=seed, batch_size=64, **{
        'data.binarize': 'dynamic', 'model.latent': latent, 'net.width': (256, 128)})
    config.epochs = 20 if study.flags.quick else EPOCHS.get(study.flags.dataset, 100)
    config.eval.k = 500

    def measure():
        run, state = study.run(f'{latent}-{seed}', config)
        subject = evaluation.subject(run, state)
        return metrics.nll(subject) | metrics.active_units(subject) | train.evaluator(run)(state)

    return study.point(f'{latent}-{seed}', measure)


def row(study: Study, latent: int, points: list[dict]) -> dict:
    built = dict(latent=latent)
    if study.flags.dataset == 'mnist':
        built['published nll'] = PUBLISHED[latent]
    for name, key in dict(nll='nll', elbo='test/elbo', recon='test/recon', kl='test/kl').items():
        built[name] = float(np.mean([p[key] for p in points]))
    return built | dict(sd=float(np.std([p['nll'] for p in points])),
                        units=float(np.mean([p['active_units'] for p in points])),
                        seeds=len(points))


def draw(study: Study, table: list[dict]) -> None:
    """Nll over the size, with the published one; and the units in use."""
    fig = record.figure(9, 3.8)
    left, right = fig.subplots(1, 2)
    size = [r['latent'] for r in table]
    left.errorbar(size, [r['nll'] for r in table], [r['sd'] for r in table], marker='o', ms=4,
                  capsize=2, label='ours')
    if 'published nll' in table[0]:
        left.plot(size, [r['published nll'] for r in table], 'x', color='.3',
                  label='Davidson et al. 2018')
    left.set(xlabel='latent dimensions', ylabel='nll of test data, nats')
    left.legend(frameon=False)
    right.plot(size, size, '--', color='.7', label='all')
    right.plot(size, [r['units'] for r in table], marker='o', ms=4, label='active units')
    right.set(xlabel='latent dimensions', ylabel='units in use')
    right.legend(frameon=False)
    fig.savefig(study.figure, dpi=200)


def main(study: Study) -> None:
    if study.flags.seeds < 1:
        raise BadInput(f'--seeds must be at least 1, not {study.flags.seeds}')
    seeds = 1 if study.flags.quick else study.flags.seeds
    table = [row(study, latent, [measured(study, latent, seed) for seed in range(seeds)])
             for latent in PUBLISHED]
    draw(study, table)
    study.table(table, 'nll of test data by latent dimensions: ' + ', '.join(
        f'{r["latent"]}: {r["nll"]:.2f}' for r in table))


if __name__ == '__main__':
    start(main, __doc__, 'latent_size', seeds=(3, 'how often each is trained'))
