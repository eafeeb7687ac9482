"""Does training without labels save labels?  Accuracy with 100, 600, 1,000 and all of them.

    python experiments/transfer.py [--dataset=mnist --data_dir=DIR] [--rows=ae,vae] [--seeds=3]

Four encoders of one architecture (dense layers) are trained on all training images without their
labels: as an AE, denoising, contractive and as a VAE, all with the cross-entropy.  Then a linear
layer on the code learns from so many labelled images, as equally shared by the labels as can be:
`frozen`, it alone; `finetuned`, the encoder with it; `scratch`, an encoder from chance with it, for
comparison.  Every classifier gets the same number of updates, however many labels there are.

Each seed draws other labelled images, another start and another order; the encoders are trained
once.  The table has means over seeds and standard deviations (sd), the figure both.

On mnist, with 100 labels and finetuned: 0.76 from scratch and after an AE or denoising or
contractive one, 0.79 after a VAE; with 1,000, 0.90 from scratch, 0.90 (contractive) to 0.92 (VAE).
Frozen codes of 32 dimensions are below scratch throughout.

Expect little on digits: with 100 labels 0.91 from scratch, 0.88 to 0.90 frozen and 0.89 to 0.91
finetuned, denoising the best of them; with all of them 0.98 from scratch, 0.93 to 0.97 frozen, and
0.97 to 0.98 finetuned.
"""
import functools

import jax
from ml_collections import ConfigDict
import numpy as np
from study import WHICH, Study, start

from gen_jax import data, record, train
from gen_jax.types import BadInput, Batch

ENCODERS = dict(ae='AE', denoising='denoising', contractive='contractive', vae='VAE')
HYPER = dict(denoising={'model.noise': 'masking', 'model.noise_level': .3},
             contractive={'model.penalty_weight': .3, 'model.probes': 4})
LATENT, WIDTH = 32, (512, 256)
LABELS = 100, 600, 1000
UPDATES = 1000
RATES = dict(frozen=1e-2, finetuned=1e-3, scratch=1e-3)


def source(study: Study, name: str) -> ConfigDict:
    """The config of training an encoder without labels."""
    same = {'model.latent': LATENT, 'net.name': 'mlp', 'net.width': WIDTH}
    loss = {} if name == 'vae' else {'model.loss': 'cross_entropy'}
    config = study.config(name, **same, **loss, **HYPER.get(name, {}))
    config.epochs = 15 if study.flags.dataset != 'digits' else 20 if study.flags.quick else 200
    return config


def sample(batch: Batch, count: int, seed: int, name: str) -> Batch:
    """So many examples by chance, as equally shared by the labels as can be."""
    order = np.random.default_rng(seed).permutation(len(batch.x))
    label = batch.label[order]
    rows = data.balanced(Batch(order, label), count, name).x
    return jax.tree.map(lambda a: a[np.sort(rows)], batch)


class Bench:
    """Classifiers on one encoder, made alike but for their labelled images and their seed."""

    def __init__(self, study: Study, name: str, mode: str):
        study.run(name, source(study, name))
        self.config = study.config('classifier', init_from=str(study.workdir / name), **{
            'model.encoder': mode, 'optimiser.learning_rate': RATES[mode]})
        self.run = train.prepare(self.config)
        self.evaluate = train.evaluator(self.run)
        self.example = self.run.known.example
        self.init = jax.jit(self.run.model.init)

    def accuracies(self, count: int, updates: int, seeds: int) -> list[float]:
        """On test data, for every seed, after so many updates and the rest of their last epoch."""
        result, trainer = [], None
        for seed in range(seeds):
            run = self.labelled(count, seed)
            if trainer is None:
                trainer = train.Trainer(run)
            trainer.run, trainer.data = run, run.layout.place(run.data.train)
            state = run.layout.place(self.init(run.key, self.example))
            for _ in range(-(-updates // run.per_epoch)):
                state, _ = trainer.epoch(state)
            result.append(self.evaluate(state)['test/accuracy'])
        return result

    def labelled(self, count: int, seed: int) -> train.Run:
        """The run with so many labelled images: whole batches, smaller where there are few."""
        few = sample(self.run.data.train, count, seed, self.config.data.name)
        config = self.run.config.copy_and_resolve_references()
        config.batch_size = min(config.batch_size, count)
        return self.run._replace(config=config, data=self.run.data._replace(train=few),
                                 key=jax.random.key(seed), per_epoch=count // config.batch_size)


def draw(study: Study, table: list[dict]) -> None:
    """Accuracy over labelled images, of frozen and of finetuned encoders beside one from chance."""
    from matplotlib.ticker import NullLocator
    fig = record.figure(9, 4.2)
    panels = fig.subplots(1, 2, sharey=True)
    counts = sorted({row['labels'] for row in table})
    for axes, mode in zip(panels, ('frozen', 'finetuned')):
        titles = [t for t in ENCODERS.values() if any(row['encoder'] == t for row in table)]
        for i, title in enumerate(['from scratch', *titles]):
            line = [row for row in table if row['mode'] == ('scratch' if not i else mode)
                    and row['encoder'] == (title if i else '')]
            moved = [row['labels'] * 1.03 ** (i - 2) for row in line]  # or the bars would overlap
            axes.errorbar(moved, *([row[k] for row in line] for k in ('accuracy', 'sd')),
                          label=title, color=f'C{i - 1}' if i else '.5', ls='-' if i else '--',
                          marker='o', ms=3, lw=1.2, capsize=2)
        axes.set(xscale='log', xlabel='labelled images', title=f'{mode} encoder')
        axes.set_xticks(counts, [f'{n:,}' for n in counts], rotation=30)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis='y', lw=.4, color='.85')
    panels[0].set_ylabel('accuracy on test data')
    panels[1].legend(frameon=False, loc='lower right')
    fig.savefig(study.figure, dpi=200)


def main(study: Study) -> None:
    quick, seeds, names = study.flags.quick, study.flags.seeds, study.rows(ENCODERS)
    if seeds < 1:
        raise BadInput(f'--seeds must be at least 1, not {seeds}')
    size = len(data.load(study.flags.dataset, dir=study.flags.data_dir).train.x)
    counts = [n for n in (LABELS[:1] if quick else LABELS) if n < size] + [size]
    updates = 100 if quick else UPDATES
    seeds = min(seeds, 2) if quick else seeds
    bench = functools.lru_cache(1)(functools.partial(Bench, study))

    def measure(name, mode, count):
        return dict(accuracy=bench(name, mode).accuracies(count, updates, seeds))

    table = []
    modes = [(names[0], 'scratch'), *((n, m) for m in ('frozen', 'finetuned') for n in names)]
    for name, mode in modes:
        for count in counts:
            result = study.point(f'{name}-{mode}-{count}',
                                 functools.partial(measure, name, mode, count))['accuracy']
            table.append(dict(encoder='' if mode == 'scratch' else ENCODERS[name], mode=mode,
                              labels=count, accuracy=float(np.mean(result)),
                              sd=float(np.std(result)), seeds=seeds))
    draw(study, table)
    few = [r for r in table if r['labels'] == counts[0]]
    study.table(table, f'accuracy with {counts[0]} labels: ' + ', '.join(
        f'{r["mode"]} {r["encoder"]} {r["accuracy"]:.3f}'.replace('  ', ' ') for r in few))


if __name__ == '__main__':
    start(main, __doc__, 'transfer', rows=WHICH, seeds=(3, 'draws of labelled images, and starts'))
