"""What is done with a trained run: evaluate it, draw samples, reconstruct."""
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
ROWS = 10     # dimensions that are printed one by one
ACTIVE = .01  # nats: a KL above is that of a dimension in use


def subject(run: train.Run, state: State) -> metrics.Subject:
    """What the measures of gen_jax.metrics look at."""
    collect = train.collector(run, state)
    return metrics.Subject(run.model, state, run.data, run.key, run.config.eval.k,
                           lambda name, *what: collect(*what), features(run), {}, {})


def features(run: train.Run) -> metrics.Features:
    """What eval.features names.  Raises BadInput where it is unknown, or is not for such data."""
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
    """The code of a classifier of the data set, trained here where it has not been."""
    view, _, name = config.data.name.rpartition(':')
    if view == 'rows':
        raise BadInput('features classifier are for images and vectors; use eval.features=pixels')
    ours = train.defaults('classifier', name, encoder='scratch', latent=128,
                          optimiser=dict(weight_decay=1e-4, ema_decay=.999))
    ours.data.update({k: v for k, v in config.data.items() if k not in ('name', 'limit')})
    images = data.dataset_of(data.load(**ours.data).train.x) == data.IMAGES
    train.choose(ours, 'net', 'conv' if images else 'mlp')
    ours.net.width = (32, 64) if images else (256,)
    ours.epochs, ours.eval.every = (60 if name == 'digits' else 10), 10 ** 9
    known = json.dumps(train.leaves(json.loads(ours.to_json()), but=train.HERE), sort_keys=True)
    known = hashlib.sha256(known.encode()).hexdigest()[:8]
    folder = cache.folder() / 'classifiers' / f'{name}-{known}'
    if train.summary(folder).get('epochs', 0) < ours.epochs:
        print(f'training the classifier of {name} once, in {folder}', flush=True)
        train.train(ours, folder)
    try:
        run, state = train.load(folder, ours)
    except BadInput as e:
        raise BadInput(f'the classifier kept in {folder} cannot be used ({e}); remove that folder, '
                       'and it is trained again') from None
    digest = hashlib.sha256(b''.join(np.asarray(a).tobytes() for a in jax.tree.leaves(
        (state.params, state.buffers)))).hexdigest()
    return metrics.Features('classifier', digest, 'none', state, run.model.encode,
                            run.model.classify)


def run_mode(config: ConfigDict, workdir: Path, mode: str) -> None:
    """What is done with a trained run: evaluate, sample or reconstruct."""
    train.announce(config, workdir)
    run, state = train.load(workdir, config)
    if mode == 'sample':
        samplers.require(config.sampler, config.model.name, run.model, state,
                         run.known.test)
    if mode == 'reconstruct' and not train.can_reconstruct(run.model):
        lacking = 'decoder' if run.model.encode else 'encoder'
        raise BadInput(f'model {config.model.name} has no {lacking} to reconstruct with')
    if mode != 'evaluate':
        print('pictures: ' +
              ', '.join(str(p) for p in train.save_pictures(run, state, workdir, only=mode)))
        return
    with contextlib.ExitStack() as locks:
        parallel.collectively(
            lambda: jax.process_index() or locks.enter_context(train.exclusive(workdir)))
        evaluate(run, state, workdir)


def evaluate(run: train.Run, state: State, workdir: Path) -> None:
    """The metrics that eval.metrics names, else all that can be measured, one after the other."""
    looked_at, asked = subject(run, state), re.findall(r'\w+', run.config.eval.metrics)
    names, done = metrics.chosen(asked, looked_at), set()
    print(f'step {int(state.step)}, {len(run.data.test.x)} test examples')
    report(workdir, train.evaluator(run)(state))
    for name, scores in metrics.measure(names, looked_at, skip_failures=not asked):
        done.add(name)
        report(workdir, {f'test/{k}': float(v) for k, v in scores.items()})
    if any(metrics.MEASURES[name].featured for name in done):
        used, n = looked_at.features, len(looked_at.cached_features.get('real', ()))
        about = dict(name=used.name, sha256=used.digest, resizer=used.resizer, split='test',
                     examples=n, samples=n)
        record.write_json(workdir / 'summary.json', train.summary(workdir) | dict(features=about))
        print('features: ' + ', '.join(f'{k} {v}' for k, v in about.items()))


def report(workdir: Path, measured: dict[str, float]) -> None:
    """Into summary.json, and on the terminal."""
    summary = train.summary(workdir)
    summary['metrics'] = summary.get('metrics', {}) | measured
    record.write_json(workdir / 'summary.json', summary)
    parts = {}
    for name, value in measured.items():
        parts.setdefault('/'.join(name.split('/')[:2]), {})[name] = value
    for name_of_all, values in parts.items():
        if len(values) > ROWS:
            of_each = np.array(list(values.values()))
            least, median, most = np.quantile(of_each, (0, .5, 1))
            print(f'{name_of_all}  min {least:.4g}, median {median:.4g}, max {most:.4g}, '
                  f'{(of_each > ACTIVE).sum()} of {len(values)} > {ACTIVE}', flush=True)
            continue
        for name, value in values.items():
            print(f'{name:32} {value:12.4f}', flush=True)
