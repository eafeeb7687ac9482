"""Do the latent dimensions find the factors of sprites?  VAE, beta-VAE, FactorVAE and beta-TCVAE.

    python experiments/disentangle.py [--rows=VAE,FactorVAE] [--seeds=5] [--epochs=N] [--quick]

Pictures drawn from the factor grid of dSprites, dense nets of two layers of 1,200 units and ten
dimensions as in Chen et al. 2018, whose Figure 4 has a mutual information gap (mig) near 0.1 for a
VAE, 0.2 for beta 4 and 0.4 or more for the beta-TCVAE (read off, unverified) after 50 epochs of all
737,280 pictures in batches of 2,048, 18,000 steps; an epoch is that many here too, and a row says
how many it got.  --width and --batch are for machines on which that takes days.
Their mig is of codes drawn, mig_sampled here, and their estimate of the total correlation that of
the row beta-TCVAE-6-weighted; mig bins the posterior means, as later work does.
modularity, sap, dci, beta_vae, factor_vae: see gen_jax.metrics.disentangle.  Means over seeds.
"""
import numpy as np
from study import WHICH, Study, start

from gen_jax import data, metrics, record, train, evaluation
from gen_jax.types import BadInput

ROWS = {'VAE': ('vae', {}), 'beta-4': ('vae', {'model.beta': 4.}),
        'beta-TCVAE-6': ('tcvae', {'model.beta': 6.}), 'FactorVAE': ('factor', {}),
        'beta-TCVAE-6-weighted': ('tcvae', {'model.beta': 6., 'model.estimator': 'weighted'})}
SCORES = 'mig', 'mig_sampled', 'modularity', 'sap', 'dci', 'beta_vae', 'factor_vae'
FULL = 50


def measured(study: Study, row: str, seed: int) -> dict:
    name, changed = ROWS[row]
    quick, epochs = study.flags.quick, study.flags.epochs or FULL
    config = study.config(
        name, seed=seed, batch_size=512 if quick else study.flags.batch, **changed,
        **{'model.latent': 10, 'net.width': (64, ) if quick else (study.flags.width, ) * 2})
    config.epochs, config.data.limit = (1, 20_000) if quick else (epochs, 0)
    config.eval.every = 1
    label = f'{row}-{seed}'

    def measure():
        run, state = study.run(label, config)
        subject, result = evaluation.subject(run, state), train.evaluator(run)(state)
        scores = metrics.chosen(SCORES[:3] if quick else SCORES, subject)
        for _, more in metrics.measure(scores, subject, skip_failures=False):
            result |= more
        return result

    return study.point(f'{label}-{config.epochs}', measure)


def draw(study: Study, table: list[dict]) -> None:
    """Mig over the ELBO, a dot for each run."""
    fig = record.figure(6, 4)
    axes = fig.subplots()
    for i, row in enumerate(table):
        axes.plot(row['elbos'], row['migs'], 'o', color=f'C{i}', label=row['model'])
    axes.set(xlabel='ELBO of test data, nats', ylabel='mutual information gap', ylim=0)
    axes.legend(frameon=False)
    fig.savefig(study.figure, dpi=200)


def main(study: Study) -> None:
    for flag in 'seeds', 'width', 'batch':
        if getattr(study.flags, flag) < 1:
            raise BadInput(f'--{flag} must be at least 1, not {getattr(study.flags, flag)}')
    if not data.load(study.flags.dataset, dir=study.flags.data_dir).factors:
        raise BadInput(f'the factors of {study.flags.dataset} are not known; use sprites')
    seeds, table = 1 if study.flags.quick else study.flags.seeds, []
    for row in study.rows(ROWS):
        points = [measured(study, row, seed) for seed in range(seeds)]
        scores = {k: float(np.mean([p[k] for p in points])) for k in points[0] if '/' not in k}
        table.append(dict(
            model=row, **scores, sd=float(np.std([p['mig'] for p in points])),
            elbo=float(np.mean([p['test/elbo'] for p in points])), seeds=seeds,
            epochs=f'{study.flags.epochs or FULL} of {FULL}' if not study.flags.quick else '1',
            elbos=[p['test/elbo'] for p in points], migs=[p['mig'] for p in points]))
    draw(study, table)
    displayed = [{k: v for k, v in row.items() if k not in ('elbos', 'migs')} for row in table]
    study.table(displayed, 'mutual information gap: ' + ', '.join(
        f'{r["model"]} {r["mig"]:.3f}' for r in displayed) + f' ({displayed[0]["epochs"]} epochs)')


if __name__ == '__main__':
    start(main, __doc__, 'disentangle', dataset='sprites', rows=WHICH,
          seeds=(5, 'how often each is trained'), epochs=(0, 'at most; 0 for all'),
          width=(1200, 'units of the two layers'), batch=(2048, 'pictures a step'))
