"""How many modes of a mixture a GAN finds, by its loss, its penalty, packing and order of play.

    python experiments/modes.py [--dataset=grid] [--rows=gan,packed] [--epochs=N] [--seeds=10]
                                [--nets=pacgan]

`ring`, the default, has 8 Gaussians, `grid` 25.  A row is trained from all seeds by one program and
judged by 2,500 samples of each: the modes that are nearest to one of high quality (within three
standard deviations), the share of high quality, and the KL of the modes' shares from equal ones.

published: modes by Lin et al. 2018 (PacGAN), whose nets --nets=pacgan has: generator 4 x 400 with
batch normalisation, discriminator 3 x 200 maxout of 5, Adam 1e-4 with b1 .8, 100 packs a batch,
400 epochs of 100,000 points, simultaneous updates; only the initialisation differs.  Without it the
nets are 3 x 128 and the epochs 15, so that a row takes minutes of a CPU core; compare
those numbers with each other rather than with those published.
"""
from study import WHICH, Study, both, start

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gen_jax import loop, metrics, record, train
from gen_jax.metrics import samples
from gen_jax.types import BadInput


def played(**keys) -> dict:
    """Keys of what the discriminator is trained by."""
    return {f'discriminator.{k}': v for k, v in keys.items()}


SMALL = both(learning_rate=1e-3, b1=.5) | {'optimiser.ema_decay': .999}
PACGAN = both(learning_rate=1e-4, b1=.8) | {
    'net.width': (400,) * 4, 'net.norm': 'batch', 'optimiser.ema_decay': 0.,
    'discriminator_net.width': (200,) * 3, 'discriminator_net.activation': 'maxout',
    'model.update_order': 'simultaneous'}
PLAIN = played(loss='nonsaturating', penalty='none')
CENTRED = played(penalty='r1r2', penalty_weight=.2) | both(b1=0., b2=.9)
# name: what differs, and the modes published of ring and grid
ROWS = dict(
    gan=(PLAIN, 6.3, 17.3), simultaneous=(PLAIN | {'model.update_order': 'simultaneous'}, '', ''),
    packed=(PLAIN | played(packing=2), 7.9, 23.8),
    wasserstein=(played(loss='wasserstein', penalty='gradient', penalty_weight=1.)
                 | both(b1=0., b2=.9)
                 | {'model.discriminator_steps': 5}, '', ''), gan_r1r2=(PLAIN | CENTRED, '', ''),
    relativistic=(played(loss='relativistic', penalty='none'), '', ''),
    relativistic_r1r2=(played(loss='relativistic') | CENTRED, '', ''))


def measured(study: Study, name: str) -> dict:
    """A row: means over seeds, and the samples of the first."""
    changed, *published = ROWS[name]
    pacgan, quick = study.flags.nets == 'pacgan', study.flags.quick
    config = study.config('gan', **(PACGAN if pacgan else SMALL) | changed)
    config.batch_size = (100 if pacgan else 256) * (config.discriminator.packing if pacgan else 1)
    config.epochs = study.flags.epochs or (400 if pacgan else 15)
    if quick:
        config.epochs, config.data.limit = 1, 50_000
    seeds = 2 if quick else study.flags.seeds
    run = train.prepare(config)
    if run.data.mixture is None:
        raise BadInput(f'the modes of {config.data.name} are not known; use ring or grid')
    number = len(run.data.mixture.centres)

    def measure():
        x, failed = sampled(run, seeds)
        result = [samples.modes(part, *run.data.mixture) if np.isfinite(part).all() else
                  dict(modes=0, high_quality=0., kl=np.log(number))
                  for part in x]
        return dict({k: [float(f[k]) for f in result] for k in result[0]}, failed=failed,
                    x=x[0].tolist())

    result = study.point(f'{name}-{seeds}-{config.epochs}', measure)
    full = sum(m == number for m in result['modes'])
    return dict(row=name, published=published[config.data.name == 'grid'] if pacgan else '',
                modes=np.mean(result['modes']), sd=np.std(result['modes']), of=number,
                all_found=f'{full} of {seeds}', kl=np.mean(result['kl']),
                high_quality=np.mean(result['high_quality']), epochs=config.epochs,
                seconds=result['seconds'], x=result['x'])


def sampled(run: train.Run, seeds: int) -> tuple[np.ndarray, int]:
    """Samples (seeds, 2500, 2) of models trained side by side, and how many became not finite."""
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    example = run.known.example
    size, batch = len(run.data.train.x), run.config.batch_size
    chunk = loop.training(run.model, run.data.prepare, size, batch, size // batch)
    beside = jax.vmap(chunk, (0, None, 0))
    if jax.default_backend() == 'cpu':  # where a product of many small matrices is slow
        beside = lambda states, data, keys: lax.map(lambda local: chunk(local[0], data, local[1]),
                                                    (states, keys))
    epoch = jax.jit(beside, donate_argnums=0)
    states = jax.jit(jax.vmap(run.model.init, (0, None)))(keys, example)
    wrong = np.zeros(seeds, bool)
    for _ in range(run.config.epochs):
        states, _, bad = epoch(states, run.data.train, keys)
        wrong |= np.asarray(bad) >= 0
    draw = jax.vmap(lambda state, key: run.model.decode(
        state, run.model.prior(state, jax.random.fold_in(key, 1), metrics.POINTS)))
    return np.asarray(jax.jit(draw)(states, keys)), int(wrong.sum())


def draw(study: Study, table: list[dict]) -> None:
    """The samples of each row's first seed."""
    columns = min(4, len(table))
    lines = -(-len(table) // columns)
    fig = record.figure(2.2 * columns, 2.6 * lines)
    side = 1.5 if table[0]['of'] == 8 else 5.5
    for i, row in enumerate(table):
        axes = fig.add_subplot(lines, columns, i + 1)
        axes.scatter(*np.transpose(row.pop('x')), s=1, alpha=.4)
        axes.set(xlim=(-side, side), ylim=(-side, side), xticks=[], yticks=[], aspect='equal')
        axes.set_title(f'{row["row"]}\n{row["modes"]:.1f} modes, {row["high_quality"]:.0%} good',
                       fontsize=8)
    fig.savefig(study.figure, dpi=200)


def main(study: Study) -> None:
    names = study.rows(ROWS)
    if study.flags.nets not in ('small', 'pacgan'):
        raise BadInput(f'unknown nets {study.flags.nets!r}; choose small or pacgan')
    if study.flags.seeds < 1:
        raise BadInput(f'seeds must be at least 1, not {study.flags.seeds}')
    table = [measured(study, name) for name in names]
    draw(study, table)
    study.table(table, f'modes found of {table[0]["of"]}, of high quality: ' + ', '.join(
        f'{r["row"]} {r["modes"]:.1f}, {r["high_quality"]:.2f}' for r in table))


if __name__ == '__main__':
    start(main, __doc__, 'modes', dataset='ring', rows=WHICH,
          epochs=(0, 'of 100,000 points; 0 for all'), seeds=(10, 'how many'),
          nets=('small', 'or pacgan'))
