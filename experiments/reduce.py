"""Which map to two dimensions keeps most of unseen data?  PCA, LDA, t-SNE, UMAP, AE and VAE.

    pip install '.[experiments]'         # umap-learn; without, UMAP is left out
    python experiments/reduce.py [--quick] [--dataset=digits]
    python experiments/reduce.py --dataset=mnist --data_dir=DIR

All maps are judged on the same held-out examples, at most 2,000, by: `knn`, the accuracy of a
5-nearest-neighbour classifier fitted on the map of at most 5,000 training examples;
`trustworthiness`, whether neighbours in the map (10) are neighbours in the data; and `continuity`,
the other way round.  PCA, LDA, AE and VAE are fitted to all training examples, UMAP to those 5,000.
t-SNE has no map for new examples: it embeds both sets together, and so has seen what it is judged
on.  Only LDA sees labels.  AE and VAE are configs/ae.py and vae.py with two latent dimensions and
layers of 512 and 128 units, the AE with the VAE's cross-entropy as its loss.  `seconds` are those
of fitting and mapping, compilation included.

Expect t-SNE (0.95 to 0.99) and UMAP (0.91 to 0.98) ahead by knn, then AE and VAE (0.80 to 0.93),
the only ones that can also draw what a point of the map stands for; LDA (0.52 to 0.65) and PCA
(0.42 to 0.62) last.  CPU time: digits 50 s, of which UMAP's compilation is half, mnist 6 minutes.
"""
import functools
import importlib.util
import os
import time
from typing import NamedTuple
import warnings

import jax
import numpy as np
from study import Study, start

from gen_jax import data, record, train
from gen_jax.types import Array, BadInput, Batch

METHODS = dict(pca='PCA', lda='LDA', tsne='t-SNE', umap='UMAP', ae='AE', vae='VAE')
TRAIN, TEST, NEIGHBOURS = 5000, 2000, 10


class Points(NamedTuple):
    """All training examples, those of them whose map is judged by, and the held-out ones: floats,
    images as images."""
    all: Batch
    some: Batch
    test: Batch
    names: tuple[str, ...]


def load(study: Study) -> Points:
    """The data.  Raises BadInput where LDA could not map it to two dimensions."""
    name = study.flags.dataset
    dataset = data.load(name, dir=study.flags.data_dir)
    labels = 0 if dataset.train.label is None else len(np.unique(dataset.train.label))
    if labels < 3:
        raise BadInput(f'{name} has {labels or "no"} labels, but LDA to two dimensions needs three')
    sets = [dataset.train, *(data.balanced(b, min(n, len(b.x)), name)
                             for b, n in ((dataset.train, TRAIN), (dataset.test, TEST)))]
    return Points(*(jax.device_get(dataset.prepare(Batch(b.x, b.label), jax.random.key(0)))
                    for b in sets), dataset.names)


def flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


# Each maps points to two dimensions: that of `some` and that of `test`.


def pca(points: Points):
    from sklearn.decomposition import PCA
    method = PCA(2).fit(flat(points.all.x))
    return method.transform(flat(points.some.x)), method.transform(flat(points.test.x))


def lda(points: Points):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    method = LinearDiscriminantAnalysis(n_components=2).fit(flat(points.all.x), points.all.label)
    return method.transform(flat(points.some.x)), method.transform(flat(points.test.x))


def tsne(points: Points):
    from sklearn.manifold import TSNE
    both = flat(np.concatenate([points.some.x, points.test.x]))
    return np.split(TSNE(init='pca', random_state=0).fit_transform(both), [len(points.some.x)])


def umap(points: Points):
    with warnings.catch_warnings():  # of a part of it that needs TensorFlow, and is not used
        warnings.simplefilter('ignore')
        from umap import UMAP
    method = UMAP(random_state=0, n_jobs=1)  # a seed allows one job only
    return method.fit_transform(flat(points.some.x)), method.transform(flat(points.test.x))


def coder(run: train.Run, state: train.State, points: Points):
    encode = jax.jit(run.model.encode)
    return [np.asarray(encode(state, b.x)) for b in (points.some, points.test)]


def trained(study: Study, model: str) -> tuple[train.Run, train.State]:
    """The AE or the VAE."""
    long = 200 if study.flags.dataset == 'digits' else 20
    more = {'model.loss': 'cross_entropy'} if model == 'ae' else {}
    return study.run(model, study.config(
        model, epochs=long // 4 if study.flags.quick else long, **more, **{
            'net.name': 'mlp', 'model.latent': 2, 'net.width': (512, 128)}))


def measure(study: Study, method: str, points: Points) -> dict:
    """Maps the points by a method, and judges the map of the held-out ones."""
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import KNeighborsClassifier
    seconds, maps = 0., dict(pca=pca, lda=lda, tsne=tsne, umap=umap).get(method)
    if maps is None:
        maps = functools.partial(coder, *trained(study, method))
        reported = train.summary(study.workdir / method)
        seconds = reported['seconds'] + reported['compile_seconds']
    began = time.perf_counter()
    some, test = maps(points)
    seconds += time.perf_counter() - began
    knn = KNeighborsClassifier(5).fit(some, points.some.label)
    x = flat(points.test.x)
    return dict(knn=float(knn.score(test, points.test.label)),
                trustworthiness=float(trustworthiness(x, test, n_neighbors=NEIGHBOURS)),
                continuity=float(trustworthiness(test, x, n_neighbors=NEIGHBOURS)),
                seconds=seconds, map=np.asarray(test, float).round(4).tolist())


def draw(study: Study, result: dict[str, dict], labels: np.ndarray, called=None) -> None:
    """The maps of the held-out examples, coloured by label; what these are called, a run of an
    earlier version has not kept."""
    import matplotlib
    fig = record.figure(9., 6.2)
    fig.get_layout_engine().set(w_pad=.06, h_pad=.06)
    names = np.unique(labels)
    colours = matplotlib.colormaps['tab10' if len(names) <= 10 else 'gist_rainbow'].resampled(
        max(len(names), 10))
    panels = fig.subplots(2, 3).ravel()
    for axes in panels[len(result):]:
        axes.axis('off')
    for axes, (method, point) in zip(panels, result.items()):
        where = np.array(point['map'])
        for i, name in enumerate(names):
            axes.scatter(*where[labels == name].T, s=30 / len(where) ** .25, color=colours(i),
                         linewidths=0, label=called[name] if called else str(name))
        axes.set(title=f'{METHODS[method]}: 5-NN {point["knn"]:.3f}', xticks=[], yticks=[])
        axes.set_box_aspect(1)
        axes.set_aspect('equal', adjustable='datalim')
    handles = axes.get_legend_handles_labels()
    fig.legend(*handles, loc='outside right center', title='label', markerscale=3)
    fig.savefig(study.figure, dpi=150)


def methods(study: Study) -> list[str]:
    """Those of METHODS that can be measured here, or have been; says which is left out."""
    if importlib.util.find_spec('umap') or (study.workdir / 'points' / 'umap.json').exists():
        return list(METHODS)
    print("umap-learn is not installed, so the map by UMAP is left out; "
          "pip install '.[experiments]' brings it, and the same command adds the map")
    return [m for m in METHODS if m != 'umap']


def main(study: Study) -> None:
    # Threads that wait busily, as OpenMP's do by default, slow t-SNE down tenfold where other
    # programs want the cores.
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
    points = functools.cache(functools.partial(load, study))
    labels = study.point('labels', lambda: dict(label=points().test.label.tolist(),
                                                names=points().names))
    result = {method: study.point(method, lambda m=method: measure(study, m, points()))
              for method in methods(study)}
    draw(study, result, np.array(labels['label']), labels.get('names'))
    study.table([dict(dataset=study.flags.dataset, method=METHODS[m])
                 | {k: v for k, v in f.items() if k != 'map'} for m, f in result.items()],
                'accuracy of 5 neighbours in the plane: ' + ', '.join(
                    f'{METHODS[m]} {f["knn"]:.3f}' for m, f in result.items()))


if __name__ == '__main__':
    start(main, __doc__, 'reduce')
