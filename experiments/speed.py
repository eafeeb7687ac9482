"""How fast is training?  An epoch of reference models, alone, together, against another program.

    python experiments/speed.py --data_dir=DIR [--models=conv_ae,text] [--batches=128,1024]
    python experiments/speed.py --data_dir=DIR --peer="PYTHON torch_peers.py IDX_IMAGES.gz"
    python experiments/speed.py --data_dir=DIR --sweep=8
    python experiments/speed.py --data_dir=DIR --profile [--models=dcgan]
    python experiments/speed.py --data_dir=DIR --models=conv_ae --memory_limit=10 [--decode]

The models are those of configs/, trained as `gen_jax.main` does, each in a process of its own:
conv_ae, the survey's autoencoder, mlp_vae, 784-400-20, and dcgan, here with batch normalisation in
both nets, rate 2e-4 and no moving average as the peer has it, on the first --images of MNIST;
residual32 and residual64, residual autoencoders of photographs; text.  One JSON object a line:
{"model", "way", "batch", "devices", "precision", "seconds" (best epoch), "first" (seconds from the
start of the process to the end of the first epoch), "examples_per_second", "memory" (greatest, MB),
"share" (of the speed of a large matrix product here, by XLA's count of operations)}; then a table,
which the workdir (runs/speed-mnist, speed-peer or speed-sweep) keeps.

With --peer, a command that takes --images, --models, --ways, --repeats and prints such lines, both
run alternately, --rounds times each, and a last line a model gives the ratio of the best epochs:
{"model", "ratio", "seconds", "peer", "way"}.  Machines are noisy: trust the ratio, not the seconds.
With --profile, milliseconds a step of each kind of operation, by XLA's own profile.  On two cores
(--profile --images=1280) matrix products, which XLA calls ynn_fusion and dot, are 86 of dcgan's 113
ms, at what the cores can do (share): of PyTorch's time, with the same products, no more than the
rest can be saved.  Of conv_ae's 16 ms they are 7, and the rest moves data: patches, pooling, ReLU.
With a --memory_limit of fewer megabytes than the images take they are streamed: from the cache, or
with --decode from the PNGs, by --workers processes.  With --sweep=N, N mlp_vaes of different seeds
together, see gen_jax.sweep, and one by itself.
"""
import argparse
import collections
import json
import os
import re
import resource
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from study import Study, guarded, parser

from gen_jax import sweep, train
from gen_jax.types import BadInput

MNIST = 'conv_ae', 'mlp_vae', 'dcgan'
RESIDUAL = {'net.name': 'residual', 'net.width': (32, 64, 128)}
# config, data set, and what differs
MODELS = dict(
    conv_ae=('ae', 'mnist', {}), mlp_vae=('vae', 'mnist', {}),
    dcgan=('gan', 'mnist', {
        'optimiser.ema_decay': 0., 'discriminator_net.norm': 'batch',
        'optimiser.learning_rate': 2e-4, 'discriminator_optimiser.learning_rate': 2e-4}),
    residual32=('ae', 'photos', RESIDUAL | {'data.size': 32}),
    residual64=('ae', 'photos', RESIDUAL | {'data.size': 64}), text=('text', 'text', {}))


def prepared(model: str, a: argparse.Namespace) -> train.Run:
    """The Run of a reference model on the first --images."""
    name, dataset, changed = MODELS[model]
    file = Path(__file__).parents[1] / 'configs' / f'{name}.py'
    config = runpy.run_path(str(file))['get_config'](dataset)
    config.data.dir, config.batch_size, config.precision = a.data_dir, a.batch, a.precision
    config.data.update(memory_limit=a.memory_limit, cache=not a.decode, workers=a.workers)
    train.update(config, changed)
    run = train.prepare(config)
    images = min(a.images, len(run.data.train.x)) // config.batch_size * config.batch_size
    data = run.data._replace(train=jax.tree.map(lambda v: v[:images], run.data.train))
    return run._replace(data=data, per_epoch=images // config.batch_size)


def epochs(model: str, a: argparse.Namespace):
    """Yields the line of a model, measured over --repeats more epochs each time."""
    run = prepared(model, a)
    worker, state, images = train.Trainer(run), run.state, run.per_epoch * a.batch
    state, _ = worker.epoch(state)
    first, best = time.time() - a.since, float('inf')
    while True:
        for _ in range(a.repeats):
            start = time.perf_counter()
            state, _ = worker.epoch(state)
            best = min(best, time.perf_counter() - start)
        yield dict(model=model, way='gen_jax', batch=a.batch, devices=jax.device_count(),
                   precision=a.precision, seconds=round(best, 4), first=round(first, 2),
                   examples_per_second=round(images / best), memory=round(memory() / 1e6),
                   share=round(share(worker, state, best / run.per_epoch, a.precision), 3))


def memory() -> float:
    """The greatest number of bytes in use so far: on the accelerator, or of the process."""
    used = jax.devices()[0].memory_stats() or {}
    return used.get('peak_bytes_in_use', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def share(worker: train.Trainer, state, seconds: float, precision: str) -> float:
    """A step's operations a second over those of the largest of some matrix products."""
    if 1 not in worker.compiled:
        worker.call(jax.tree.map(jnp.copy, state), 1)
    cost = worker.compiled[1].cost_analysis()['flops'] * jax.device_count()
    side, best = 2048 if jax.default_backend() == 'cpu' else 8192, float('inf')
    with jax.default_matmul_precision(precision):
        product = jax.jit(jnp.matmul)
        x = jnp.ones((side, side))
        product(x, x).block_until_ready()
        for _ in range(5):
            start = time.perf_counter()
            product(x, x).block_until_ready()
            best = min(best, time.perf_counter() - start)
    return cost / seconds / (2 * side ** 3 / best) / jax.device_count()


def profiled(model: str, a: argparse.Namespace):
    """Yields the kinds of operations of an epoch, the longest first, in milliseconds a step."""
    run = prepared(model, a)
    worker, spent = train.Trainer(run), collections.Counter()
    state, _ = worker.epoch(run.state)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            worker.epoch(state)
        file = next(Path(folder).rglob('*.xplane.pb'))
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for event in (e for line in plane.lines for e in line.events):
                operation = dict(event.stats).get('hlo_op', 'while')
                if not operation.startswith(('while', 'call', 'conditional')):  # which hold others
                    spent[re.sub(r'[.\d]+$', '', operation)] += event.duration_ns / 1e6
    complete = sum(spent.values())
    for kind, ms in [('all', complete), *spent.most_common(8)]:
        yield dict(model=model, operations=kind, ms_per_step=round(ms / run.per_epoch, 3),
                   part=round(ms / complete, 3))


def by_itself(model: str, a: argparse.Namespace) -> dict:
    """The line of a model by a process of its own, whose memory and start are its own too."""
    words = [sys.executable, __file__, '--one', f'--models={model}', f'--batches={a.batch}',
             f'--images={a.images}', f'--repeats={a.repeats}', f'--precision={a.precision}',
             f'--memory_limit={a.memory_limit}', f'--workers={a.workers}',
             *(['--decode'] if a.decode else []),
             f'--since={time.time()}', *([f'--data_dir={a.data_dir}'] if a.data_dir else [])]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # after what decoding a data set says


def peer(command: str, model: str, way: str, images: int, repeats: int) -> dict:
    """The line another program prints for one model and way.  Raises BadInput where it fails."""
    words = [*shlex.split(command), f'--images={images}', f'--models={model}', f'--ways={way}',
             f'--repeats={repeats}']
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BadInput(f'--peer ended with status {done.returncode}: '
                       f'{(done.stderr.strip().splitlines() or [""])[-1]}')
    return json.loads(done.stdout)


def compared(model: str, a: argparse.Namespace) -> dict:
    """The ratio of a model to its peer, whose lines are printed."""
    ours, theirs = epochs(model, a), {}
    for _ in range(a.rounds):
        for way in a.ways.split(','):
            other = peer(a.peer, model, way, a.images, a.repeats)
            theirs[way] = min(theirs.get(way, other), other, key=lambda o: o['seconds'])
            line = next(ours)
    best = min(theirs.values(), key=lambda o: o['seconds'])
    for result in line, *theirs.values():
        print(json.dumps(result), flush=True)
    return dict(model=model, ratio=round(line['seconds'] / best['seconds'], 3), way=best['way'],
                seconds=line['seconds'], peer=best['seconds'])


def joint(a: argparse.Namespace):
    """Yields the examples a second of N models side by side, each way, and of one by itself."""
    run = prepared('mlp_vae', a)
    g, = sweep.plan(run.config, sweep.grid({'seed': list(range(a.sweep))}))
    g = g._replace(run=g.run._replace(data=run.data, per_epoch=run.per_epoch))
    images, single = run.per_epoch * a.batch, next(epochs('mlp_vae', a))
    yield dict(model='mlp_vae', way='alone', examples_per_second=single['examples_per_second'])
    for how in ('map', 'vmap', *(['shard'] if jax.device_count() > 1 else [])):
        built = sweep.programs(g, g.points, how)
        states, keys = sweep.init_states(g, g.points)
        best = float('inf')
        for _ in range(a.repeats + 1):
            start = time.perf_counter()
            states, *_ = jax.block_until_ready(built.train(states, keys))
            best = min(best, time.perf_counter() - start)
        yield dict(model='mlp_vae', way=f'{a.sweep} by {how}',
                   examples_per_second=round(a.sweep * images / best))


def measured(a: argparse.Namespace):
    """Yields the lines of the table."""
    for batch in map(int, a.batches.split(',')):
        a.batch = batch
        if a.sweep:
            yield from joint(a)
        for model in [] if a.sweep else a.models.split(','):
            if a.profile:
                yield from profiled(model, a)
            else:
                yield compared(model, a) if a.peer else by_itself(model, a)


def flags() -> argparse.Namespace:
    p = parser('speed', __doc__)
    p.add_argument('--data_dir', help='TFDS directory')
    p.add_argument('--images', type=int, default=12800, help='of an epoch [%(default)s]')
    p.add_argument('--models', default='', help=f'of {", ".join(MODELS)}')
    p.add_argument('--batches', default='128', help='examples in a batch [%(default)s]')
    p.add_argument('--precision', default='default', choices=train.PRECISIONS, metavar='NAME',
                   help=f'of matrix products: {", ".join(train.PRECISIONS)}')
    p.add_argument('--repeats', type=int, default=3, help='epochs, of which the best counts [3]')
    p.add_argument('--memory_limit', type=float, default=8000., help='data.memory_limit')
    p.add_argument('--decode', action='store_true', help='without data.cache')
    p.add_argument('--workers', type=int, default=0, help='data.workers')
    p.add_argument('--peer', help='command of another program to compare with')
    p.add_argument('--ways', default='eager,channels_last,compile', help='of the peer')
    p.add_argument('--rounds', type=int, default=3, help='of both in turn, with --peer [3]')
    p.add_argument('--sweep', type=int, default=0, help='so many mlp_vaes together')
    p.add_argument('--profile', action='store_true', help='times by kind of operation')
    p.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
    p.add_argument('--since', type=float, default=time.time(), help=argparse.SUPPRESS)
    p.add_argument('--workdir', help='where the table is kept; default: runs/speed-KIND')
    a = p.parse_args()
    a.models = 'mlp_vae' if a.sweep else a.models or ','.join(MNIST if a.peer else MODELS)
    return a


def main(a: argparse.Namespace) -> None:
    if unknown := set(a.models.split(',')) - MODELS.keys():
        raise BadInput(f'unknown models {", ".join(unknown)}; there are {", ".join(MODELS)}')
    if not all(word.isdigit() and int(word) for word in a.batches.split(',')):
        raise BadInput(f'--batches={a.batches} are not numbers of examples, as 128,1024')
    if a.one:
        a.batch = int(a.batches)
        print(json.dumps(next(epochs(a.models, a))))
        return
    kind = 'sweep' if a.sweep else 'peer' if a.peer else 'profile' if a.profile else 'mnist'
    given = [w for w in sys.argv[1:] if not w.startswith(('--peer', '--data_dir', '--workdir'))]
    study = Study(
        'speed', argparse.Namespace(workdir=a.workdir or f'runs/speed-{kind}', quick=False),
        ' '.join([*(f'{k}={v}' for k, v in os.environ.items() if k == 'XLA_FLAGS'),
                  'python experiments/speed.py', *given, *['--peer=..'] * bool(a.peer)]))
    study.say(f'measuring {a.models}')
    rows = []
    for row in measured(a):
        print(json.dumps(row), flush=True)
        rows.append(row)
    what = 'ratio' if a.peer else 'ms_per_step' if a.profile else 'examples_per_second'
    which = next(k for k in ('operations', 'batch', 'way') if k in rows[0])
    study.table(rows, f'{what.replace("_", " ")}: ' + ', '.join(
        f'{r["model"]} {r[which]} {r[what]}' for r in rows if r.get('part', 1) == 1))


if __name__ == '__main__':
    arguments = flags()
    guarded('speed', lambda: main(arguments), 'the same command measures all of it again')
