"""How fast is training?  An epoch of three reference models, alone and against another program.

    python experiments/speed.py --data_dir=DIR [--images=12800] [--models=conv_ae,mlp_vae,dcgan]
    python experiments/speed.py --data_dir=DIR --peer="PYTHON torch_peers.py IDX_IMAGES.gz"

The models are those of configs/ae.py, vae.py and gan.py on the first images of MNIST (TFDS), batch
128, trained as `gen_jax.main` does: conv_ae, the survey's autoencoder; mlp_vae, 784-400-20; dcgan,
here with batch normalisation in both nets, rate 2e-4 and no moving average, as the peer has it.
Prints one JSON object a line: {"model", "way", "seconds" (best epoch), "first" (first epoch,
compilation included), "examples_per_second"}.

With --peer, a command that takes --images, --models, --ways, --repeats and prints such lines, both
run alternately, --rounds times each, and a last line a model gives the ratio of the best epochs:
{"model", "ratio", "seconds", "peer", "way"}.  Machines are noisy: trust the ratio, not the seconds.
"""
import argparse
import json
import runpy
import shlex
import subprocess
import time
from pathlib import Path

import jax

from gen_jax import train

CONFIGS = dict(conv_ae='ae', mlp_vae='vae', dcgan='gan')
PEER = dict(dcgan=dict(average=0., critic_norm='batch', rate=2e-4))  # as the other program has it


def trainer(model: str, images: int, data_dir: str | None):
    """(Trainer, state) of a reference model on the first `images` of MNIST."""
    file = Path(__file__).parents[1] / 'configs' / f'{CONFIGS[model]}.py'
    config = runpy.run_path(str(file))['get_config']('mnist')
    config.data.dir = data_dir
    config.model.update(PEER.get(model, {}))
    run = train.prepare(config)
    images = images // config.batch * config.batch
    data = run.data._replace(train=jax.tree.map(lambda a: a[:images], run.data.train))
    run = run._replace(data=data, per_epoch=images // config.batch)
    return train.Trainer(run), run.state, images


def epochs(model: str, images: int, data_dir: str | None, repeats: int):
    """Yields the line of a model, measured over `repeats` more epochs each time."""
    worker, state, images = trainer(model, images, data_dir)
    start = time.perf_counter()
    state, _ = worker.epoch(state)
    first, best = time.perf_counter() - start, float('inf')
    while True:
        for _ in range(repeats):
            start = time.perf_counter()
            state, _ = worker.epoch(state)
            best = min(best, time.perf_counter() - start)
        yield dict(model=model, way='gen_jax', seconds=round(best, 4), first=round(first, 3),
                   examples_per_second=round(images / best))


def peer(command: str, model: str, way: str, images: int, repeats: int) -> dict:
    """The line another program prints for one model and way."""
    words = [*shlex.split(command), f'--images={images}', f'--models={model}', f'--ways={way}',
             f'--repeats={repeats}']
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data_dir')
    p.add_argument('--images', type=int, default=12800)
    p.add_argument('--models', default=','.join(CONFIGS))
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--peer')
    p.add_argument('--ways', default='eager,channels_last,compile', help='of the peer')
    p.add_argument('--rounds', type=int, default=3)
    a = p.parse_args()
    for model in a.models.split(','):
        ours = epochs(model, a.images, a.data_dir, a.repeats)
        line, theirs = next(ours), {}
        for _ in range(a.rounds if a.peer else 0):
            for way in a.ways.split(','):
                other = peer(a.peer, model, way, a.images, a.repeats)
                theirs[way] = min(theirs.get(way, other), other, key=lambda o: o['seconds'])
                line = next(ours)
        for found in [line, *theirs.values()]:
            print(json.dumps(found), flush=True)
        if theirs:
            best = min(theirs.values(), key=lambda o: o['seconds'])
            print(json.dumps(dict(model=model, ratio=round(line['seconds'] / best['seconds'], 3),
                                  seconds=line['seconds'], peer=best['seconds'], way=best['way'])),
                  flush=True)


if __name__ == '__main__':
    main()
