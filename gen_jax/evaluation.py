"""Uses a trained run: evaluates it, draws samples, reconstructs."""
import contextlib
import hashlib
import json
from pathlib import Path
import re

import jax
from ml_collections import ConfigDict
import numpy as np

from gen_jax import data, metrics, parallel, record, samplers, train
from gen_jax.data import cache
from gen_jax.metrics import inception
from gen_jax.types import BadInput, State

MODES = 'evaluate', 'sample', 'reconstruct'
ROWS = 10     # up to this many dimensions are printed one by one
ACTIVE = .01  # nats: a dimension with a larger KL is active


def subject(run: train.Run, state: State) -> metrics.Subject:
    """The input of the measures of gen_jax.metrics."""
    collect = train.collector(run, state)
    return metrics.Subject(run.model, state, run.data, run.key, run.config.eval.k,
                           lambda name, *what: collect(*what), features(run), {}, {})


def features(run: train.Run) -> metrics.Features:
    """The features named by eval.features.
    Raises: BadInput for an unknown name, or for data that they do not fit.
    """
    name, shape = run.config.eval.features, run.known.test.x.shape[1:]
    if name not in ('pixels', 'classifier', 'inception'):
        raise BadInput(f'unknown eval.features {name!r}; choose pixels, classifier or inception')
    if name == 'inception':
        if not run.config.eval.weights:
            raise BadInput('features inception need a file of weights: give --config.eval.weights, '
                           'see experiments/inception.py')
        if len(shape) != 3:
            raise BadInput(f'features inception are for images, but {run.config.data.name} holds '
                           f'examples of shape {shape}; use eval.features=pixels')
        params, digest = inception.load(run.config.eval.weights)
        return metrics.Features(name, digest, 'bilinear, 299x299', params, inception.features)
    return metrics.PIXELS if name == 'pixels' else classifier(run.config)


def classifier(config: ConfigDict) -> metrics.Features:
    """The codes of a classifier of the data set as features. Trains the classifier if the cache
    does not hold it.
    Raises: BadInput for a data set of rows, or if the cached classifier cannot be loaded.
    """
    view, _, name = config.data.name.rpartition(':')
    if view == 'rows':
        raise BadInput('features classifier are for images and vectors; use eval.features=pixels')
    net_config = train.defaults('classifier', name, encoder='scratch', latent=128,
                                optimiser=dict(weight_decay=1e-4, ema_decay=.999))
    net_config.data.update({k: v for k, v in config.data.items() if k not in ('name', 'limit')})
    images = data.dataset_of(data.load(**net_config.data).train.x) == data.IMAGES
    train.choose(net_config, 'net', 'conv' if images else 'mlp')
    net_config.net.width = (32, 64) if images else (256,)
    net_config.epochs, net_config.eval.every = (60 if name == 'digits' else 10), 10 ** 9
    config_hash = json.dumps(train.leaves(json.loads(net_config.to_json()), but=train.HERE),
                             sort_keys=True)
    config_hash = hashlib.sha256(config_hash.encode()).hexdigest()[:8]
    folder = cache.folder() / 'classifiers' / f'{name}-{config_hash}'
    if train.summary(folder).get('epochs', 0) < net_config.epochs:
        print(f'training the classifier of {name} once, in {folder}', flush=True)
        train.train(net_config, folder)
    try:
        run, state = train.load(folder, net_config)
    except BadInput as e:
        raise BadInput(f'the classifier kept in {folder} cannot be used ({e}); remove that folder, '
                       'and it is trained again') from None
    digest = hashlib.sha256(b''.join(np.asarray(a).tobytes() for a in jax.tree.leaves(
        (state.params, state.buffers)))).hexdigest()
    return metrics.Features('classifier', digest, 'none', state, run.model.encode,
                            run.model.classify)


def run_mode(config: ConfigDict, workdir: Path, mode: str) -> None:
    """Evaluates, samples from or reconstructs with a trained run, as `mode` says."""
    train.announce(config, workdir)
    run, state = train.load(workdir, config)
    if mode == 'sample':
        samplers.require(config.sampler, config.model.name, run.model, state,
                         run.known.test)
    if mode == 'reconstruct' and not train.can_reconstruct(run.model):
        missing = 'decoder' if run.model.encode else 'encoder'
        raise BadInput(f'model {config.model.name} has no {missing} to reconstruct with')
    if mode != 'evaluate':
        print('pictures: ' +
              ', '.join(str(p) for p in train.save_pictures(run, state, workdir, only=mode)))
        return
    with contextlib.ExitStack() as locks:
        parallel.collectively(
            lambda: jax.process_index() or locks.enter_context(train.exclusive(workdir)))
        evaluate(run, state, workdir)


def evaluate(run: train.Run, state: State, workdir: Path) -> None:
    """Computes the metrics named by eval.metrics, or all that fit the model, in turn."""
    evaluated, requested = subject(run, state), re.findall(r'\w+', run.config.eval.metrics)
    names, done = metrics.chosen(requested, evaluated), set()
    print(f'step {int(state.step)}, {len(run.data.test.x)} test examples')
    report(workdir, train.evaluator(run)(state))
    for name, scores in metrics.measure(names, evaluated, skip_failures=not requested):
        done.add(name)
        report(workdir, {f'test/{k}': float(v) for k, v in scores.items()})
    if any(metrics.MEASURES[name].featured for name in done):
        extractor, n = evaluated.features, len(evaluated.cached_features.get('real', ()))
        metadata = dict(name=extractor.name, sha256=extractor.digest, resizer=extractor.resizer,
                        split='test', examples=n, samples=n)
        record.write_json(workdir / 'summary.json',
                          train.summary(workdir) | dict(features=metadata))
        print('features: ' + ', '.join(f'{k} {v}' for k, v in metadata.items()))


def report(workdir: Path, measured: dict[str, float]) -> None:
    """Writes metrics to summary.json, and prints them."""
    summary = train.summary(workdir)
    summary['metrics'] = summary.get('metrics', {}) | measured
    record.write_json(workdir / 'summary.json', summary)
    parts = {}
    for name, value in measured.items():
        parts.setdefault('/'.join(name.split('/')[:2]), {})[name] = value
    for prefix, values in parts.items():
        if len(values) > ROWS:
            array = np.array(list(values.values()))
            least, median, most = np.quantile(array, (0, .5, 1))
            print(f'{prefix}  min {least:.4g}, median {median:.4g}, max {most:.4g}, '
                  f'{(array > ACTIVE).sum()} of {len(values)} > {ACTIVE}', flush=True)
            continue
        for name, value in values.items():
            print(f'{name:32} {value:12.4f}', flush=True)
