"""Published likelihoods of VAEs: ours beside the paper's, with the command and the epochs of each.

    python experiments/likelihood.py --dataset=mnist --data_dir=DIR [--rows=vae,iwae5] [--epochs=N]

Burda et al. 2015, table 1: MNIST with its pixels drawn anew as bits whenever seen, nets of two
layers of 200 tanh units, 50 latent dimensions, Adam, batches of 20, eight stages of 3^i epochs at
1e-3 * 10^(-i/7): 3280 epochs.  `ladder` has a second stochastic layer of 50 dimensions behind 100.
Tomczak & Welling 2018: static bits, gated layers of 300, 40 dimensions, against the VampPrior (its
88.56 of a standard prior is quoted from memory, unverified).  `small`: 784-400-20, ten epochs.

--epochs stops earlier and goes on from there with a larger number; a row says how far it got, and
one that got less far than its paper is no reproduction.  nll: -log p(x) of the test data in nats,
5,000 importance samples each, and its standard error over examples.  On digits, the default, the
same models run with less to show that they do; there is no published number.
"""
from study import WHICH, Study, start

from gen_jax import metrics, record, train, evaluation

BURDA = {'net.width': (200, 200), 'net.activation': 'tanh', 'model.latent': 50,
         'optimiser.schedule': 'staged', 'optimiser.schedule_steps': 3000, 'optimiser.eps': 1e-4,
         'data.binarize': 'dynamic', 'batch_size': 20}
LADDER = BURDA | {'model.bottom_latent': 100}
GATED = {
    'net.width': (300, 300), 'net.activation': 'glu', 'model.latent': 40,
    'optimiser.learning_rate': 5e-4, 'latents.kl_schedule': 'linear',
    'latents.kl_warmup_steps': 50_000, 'data.binarize': 'static', 'batch_size': 100
}
# name: model, what differs from its config, epochs, the published nll
ROWS = dict(
    small=('vae', {'data.binarize': 'dynamic'}, 10, None),
    vae=('vae', BURDA, 3280, 86.76),
    iwae5=('iwae', BURDA | {'model.k': 5}, 3280, 85.54),
    iwae50=('iwae', BURDA | {'model.k': 50}, 3280, 84.78),
    ladder1=('ladder', LADDER | {'model.k': 1}, 3280, 85.33),
    ladder50=('ladder', LADDER | {'model.k': 50}, 3280, 82.90),
    normal=('vae', GATED, 2000, 88.56),
    vamp=('vae', GATED | {'latents.prior': 'vamp', 'latents.components': 500}, 2000, 85.57))


def measured(study: Study, name: str) -> dict:
    """The row of a run; it is trained on where it has not come to its end."""
    model, changed, full, published = ROWS[name]
    quick, epochs = study.flags.quick, study.flags.epochs or full
    changed = dict(changed) | {'seed': study.flags.seed}
    if study.flags.dataset == 'digits' and 'optimiser.schedule_steps' in changed:
        changed['optimiser.schedule_steps'] = 70
    config = study.config(model, **changed)
    config.epochs = min(epochs, 2 if quick else full)
    config.eval.every, config.eval.k = min(10, config.epochs), 100 if quick else 5000
    label = f'{name}-{study.flags.seed}'

    def measure():
        run, state = study.run(label, config)
        return dict(elbo=train.evaluator(run)(state)['test/elbo'],
                    seconds=train.summary(study.workdir / label)['seconds'],
                    **metrics.nll(evaluation.subject(run, state)))

    result = study.point(f'{label}-{config.epochs}', measure)
    return dict(row=name, published=published if study.flags.dataset == 'mnist' else '',
                nll=result['nll'], se=result['nll_se'], elbo=result['elbo'],
                epochs=f'{config.epochs} of {full}', seed=study.flags.seed,
                seconds=result['seconds'])


def draw(study: Study, table: list[dict]) -> None:
    """Nll at the end beside the published one, and the test ELBO over epochs."""
    fig = record.figure(9, 4)
    left, right = fig.subplots(1, 2)
    for i, row in enumerate(table):
        left.errorbar(row['nll'], i, xerr=row['se'], fmt='o', ms=5, color=f'C{i}')
        if row['published']:
            left.plot(row['published'], i, 'x', color='k')
        lines = record.read_lines(study.workdir / f'{row["row"]}-{row["seed"]}' / 'metrics.jsonl')
        known = [(line['epoch'], line['test/elbo']) for line in lines if 'test/elbo' in line]
        right.plot(*zip(*known), 'o-', ms=3, lw=1.2, color=f'C{i}')
    left.set_yticks(range(len(table)), [f'{r["row"]}\n{r["epochs"]}' for r in table], fontsize=8)
    left.invert_yaxis()
    left.set(xlabel='nll of test data, nats; x: published after all epochs')
    right.set(xscale='log', xlabel='epoch', ylabel='ELBO of test data, nats')
    right.minorticks_off()  # their labels overlap where there are few epochs
    fig.savefig(study.figure, dpi=200)


def main(study: Study) -> None:
    table = [measured(study, name) for name in study.rows(ROWS)]
    draw(study, table)
    study.table(table, 'nll in nats: ' + ', '.join(
        f'{r["row"]} {r["nll"]:.2f}' + (f', published {r["published"]}' if r['published'] else '')
        + f' ({r["epochs"]} epochs)' for r in table), digits=5)


if __name__ == '__main__':
    start(main, __doc__, 'likelihood', rows=WHICH,
          epochs=(0, 'at most; 0 for all'), seed=(0, 'of every run'))
