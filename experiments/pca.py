"""Does a linear autoencoder span the subspace of PCA?  (Baldi & Hornik 1989, Bourlard & Kamp 1988)

    python experiments/pca.py [--quick] [--codes=2,5,10] [--dataset=digits]
    python experiments/pca.py --dataset=mnist --data_dir=DIR

Trains configs/ae.py with the linear net and the loss mse, the rate falling to zero along a cosine,
for every size of the code, and compares it with scikit-learn's PCA of the same training data.
`angle` is the largest principal angle in rad between the span of the decoder's columns and that of
the components; `excess_train` and `excess_test` are (error - PCA's) / PCA's, errors being means of
squares over examples and pixels; `gap` is the last variance that PCA keeps over the first one it
leaves out, minus 1: the smaller, the slower the angle falls.  `met`: angle <= 0.01 and
|excess_train| <= 0.001.

Expect `met` in every row of digits and mnist, with angles below 0.005 and an excess_train below
1e-5; on test data, which PCA does not fit best, the excess may be negative.  CPU time: digits 20 s,
mnist a minute.
"""
import functools

import jax
import numpy as np
from study import Study, start

from gen_jax import data, record, train
from gen_jax.types import BadInput, Batch

ANGLE, EXCESS = .01, .001  # what has to be reached
STEPS = 10_000
PICTURES = 10


def sizes(flags) -> list[int]:
    """The sizes of the code to try; only the outermost ones where it has to be quick."""
    try:
        codes = sorted({int(word) for word in flags.codes.split(',')})
    except ValueError:
        codes = [0]
    if codes[0] < 1:
        raise BadInput(f'--codes are positive numbers with commas between, not {flags.codes!r}')
    return sorted({codes[0], codes[-1]}) if flags.quick else codes


class Reference:
    """The data set as vectors in double precision, and its PCA; made when first asked for."""

    def __init__(self, study: Study, largest: int):
        self.study, self.largest = study, largest

    @functools.cached_property
    def sets(self):
        flags = self.study.flags
        dataset = data.load(flags.dataset, dir=flags.data_dir)
        parts = [np.asarray(dataset.prepare(Batch(b.x), jax.random.key(0)).x, float)
                 for b in (dataset.train, dataset.test)]
        train, test = (x.reshape(len(x), -1) for x in parts)
        if self.largest >= min(train.shape):
            raise BadInput(f'--codes must stay below {min(train.shape)} on {flags.dataset}, '
                           f'not {self.largest}')
        return dict(shape=parts[0].shape[1:], train=train, test=test)

    @functools.cached_property
    def pca(self):
        from sklearn.decomposition import PCA
        return PCA(self.largest + 1, svd_solver='covariance_eigh').fit(self.sets['train'])

    def error(self, part: str, code: int) -> float:
        """The mean square over pixels that so many components leave."""
        x = self.sets[part] - self.pca.mean_
        kept = x @ self.pca.components_[:code].T
        return float((x ** 2).sum() - (kept ** 2).sum()) / x.size

    def measure(self) -> dict:
        """What the figure shows of PCA alone."""
        return dict(shape=self.sets['shape'],
                    components=self.pca.components_[:min(self.largest, PICTURES)].tolist(),
                    **{part: [self.error(part, k) for k in range(1, self.largest + 1)]
                       for part in ('train', 'test')})


def measure(study: Study, reference: Reference, code: int) -> dict:
    """Trains the linear autoencoder with so large a code, and compares it."""
    from scipy.linalg import orth, subspace_angles
    examples = len(reference.sets['train'])
    batch = 500 if examples >= 10_000 else min(128, examples)
    epochs = -(-STEPS // (examples // batch))
    run, state = study.run(f'ae-{code}', study.config('ae', epochs=epochs, batch_size=batch, **{
        'net.name': 'linear', 'model.latent': code, 'model.loss': 'mse',
        'optimiser.learning_rate': .01, 'optimiser.schedule': 'cosine',
        'optimiser.schedule_steps': epochs * (examples // batch)}))
    points = np.concatenate([np.zeros((1, code)), np.eye(code)]).astype(np.float32)
    columns = np.asarray(jax.jit(run.model.decode)(state, points), float).reshape(code + 1, -1)
    columns = (columns[1:] - columns[0]).T
    components = reference.pca.components_
    variance = reference.pca.explained_variance_
    basis = orth(columns)
    mirror = jax.jit(lambda x: run.model.decode(state, run.model.encode(state, x)))
    errors = {}
    for part in 'train', 'test':
        x = reference.sets[part]
        y = mirror(x.reshape(-1, *reference.sets['shape']).astype(np.float32))
        errors[part] = float(np.square(np.asarray(y).reshape(x.shape) - x).mean())
    return dict(angle=float(subspace_angles(columns, components[:code].T).max()),
                gap=float(variance[code - 1] / variance[code] - 1),
                projected=(components[:min(code, PICTURES)] @ basis @ basis.T).tolist(),
                seconds=train.summary(study.workdir / f'ae-{code}')['seconds'], **errors)


def row(dataset: str, code: int, pca: dict, result: dict) -> dict:
    """A line of the table."""
    excess = {part: result[part] / pca[part][code - 1] - 1 for part in ('train', 'test')}
    return dict(dataset=dataset, code=code, gap=result['gap'], angle=result['angle'],
                error_pca=pca['train'][code - 1], excess_train=excess['train'],
                excess_test=excess['test'], seconds=result['seconds'],
                met=result['angle'] <= ANGLE and abs(excess['train']) <= EXCESS)


def draw(study: Study, pca: dict, result: dict[int, dict]) -> None:
    """Left the components, PCA's and what the autoencoder's span holds of them; right the errors
    and the angles over the size of the code."""
    fig = record.figure(9.6, 4.8)
    left, right = fig.subfigures(1, 2, width_ratios=(1.15, 1))
    largest = max(result)
    images(left, pca['shape'], {
        'PCA: the first components': pca['components'],
        f'the same, projected onto the decoder of\nthe autoencoder with {largest} units':
            result[largest]['projected']})
    above, below = right.subplots(2, 1, sharex=True)
    for part, colour, line, marker in ('train', 'C0', '-', 'o'), ('test', 'C1', '--', 's'):
        above.plot(range(1, largest + 1), pca[part], line, color=colour, label=f'PCA, {part}')
        above.plot(list(result), [f[part] for f in result.values()], marker, color=colour,
                   fillstyle='none', label=f'autoencoder, {part}')
    above.set(title='reconstruction', ylabel='mean squared error', ylim=(0, None))
    above.legend(fontsize='small')
    angles = [f['angle'] for f in result.values()]
    below.semilogy(list(result), angles, 'o', color='C0', fillstyle='none')
    below.axhline(ANGLE, color='gray', linestyle='--')
    below.annotate(f'wanted: below {ANGLE:g}', (1, ANGLE), (0, 4), textcoords='offset points')
    below.set(title='subspaces of autoencoder and PCA', xlabel='size of the code',
              ylabel='largest angle (rad)', ylim=(min(angles) / 4, 8 * max(ANGLE, *angles)))
    below.xaxis.get_major_locator().set_params(integer=True)
    fig.savefig(study.figure, dpi=150)


def images(fig, shape, parts: dict[str, list]) -> None:
    """Vectors as pictures, red above and blue below zero; as rows where they are no images."""
    import matplotlib
    scale = np.abs(next(iter(parts.values()))).max()
    for axes, (title, vectors) in zip(fig.subplots(len(parts), 1), parts.items()):
        grey = np.array(vectors)
        if len(shape) == 3:
            grey = grey.reshape(-1, *shape).mean(-1)
        colours = matplotlib.colormaps['RdBu_r'](.5 + grey / scale / 2)[..., :3]
        axes.set_title(title)
        if len(shape) == 3:
            axes.imshow(record.tile(colours, min(len(grey), PICTURES // 2)))
            axes.axis('off')
        else:
            axes.imshow(colours, aspect='auto')
            axes.set(xlabel='feature', ylabel='component', yticks=range(len(grey)),
                     yticklabels=range(1, len(grey) + 1))


def main(study: Study) -> None:
    codes = sizes(study.flags)
    reference = Reference(study, codes[-1])
    pca = study.point('pca', reference.measure)
    result = {code: study.point(f'code-{code}', functools.partial(measure, study, reference, code))
              for code in codes}
    draw(study, pca, result)
    table = [row(study.flags.dataset, code, pca, f) for code, f in result.items()]
    study.table(table, f'codes of {", ".join(map(str, codes))}: largest angle to the subspace of '
                f'PCA {max(r["angle"] for r in table):.4f} rad, training error above that of PCA '
                f'by at most {max(r["excess_train"] for r in table):.0e} of it')


if __name__ == '__main__':
    start(main, __doc__, 'pca', codes=('2,5,10', 'sizes of the code'))
