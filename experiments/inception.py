"""The weights for the Frechet inception distance, from PyTorch's file to ours, once.

    python experiments/inception.py WEIGHTS.safetensors OUT.safetensors

WEIGHTS is the Inception v3 of 2015-12-05 in the layout of torchvision, which pytorch-fid gives out
as pt_inception-2015-12-05-6726825d.pth.  That file is a pickle, and none is read here; where there
is PyTorch, a safetensors file is made of it by

    python -c "import torch, safetensors.torch as s; \\
        s.save_file(torch.load('FILE.pth', weights_only=True), 'WEIGHTS.safetensors')"

In OUT every batch norm is folded into its convolution; classifiers are left out.  Its metadata hold
the checksum of the weights, which is printed with those of both files and is stored beside every
score.  The same WEIGHTS make the same OUT, byte for byte.
"""
import argparse
import hashlib
import json
from pathlib import Path
import shlex
import sys

import numpy as np

from gen_jax import help
from gen_jax.data import cache
from gen_jax.metrics import inception
from gen_jax.types import BadInput

EPSILON = 1e-3
NORM = 'weight', 'bias', 'running_mean', 'running_var'
PICKLES = '.pth', '.pt', '.pkl', '.ckpt'
CLASSES = {'fc.weight': (1008, 2048)}  # of another number is another network
REMEDY = 'give the weights of pytorch-fid as a safetensors file (see --help)'


def convolutions() -> dict[str, tuple]:
    """The shapes (rows, columns, in, out) of kernels by convolution."""
    return {name.removesuffix('.kernel'): shape for name, shape in inception.SHAPES.items()
            if name.endswith('.kernel')}


def layout() -> dict[str, tuple]:
    """The shapes of PyTorch's tensors."""
    result = {}
    for name, (a, b, c, o) in convolutions().items():
        result |= {f'{name}.conv.weight': (o, c, a, b)} | {f'{name}.bn.{p}': (o,) for p in NORM}
    return result | CLASSES


def read(file: Path) -> dict[str, np.ndarray]:
    """PyTorch's tensors.  Raises BadInput, for a pickle with the command that converts it."""
    if file.is_file() and file.suffix in PICKLES:
        old, new = (json.dumps(str(f)) for f in (file, file.with_suffix('.safetensors')))
        program = 'import torch, safetensors.torch as s; ' \
                  f's.save_file(torch.load({old}, weights_only=True), {new})'
        raise BadInput(f'{file} is a pickle, which could run any program and is not read; where '
                       f'there is PyTorch, run python -c {shlex.quote(program)} and give what that '
                       'makes')
    return inception.read(file, layout(), REMEDY, may_lack=CLASSES.keys())[0]


def folded(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Ours of PyTorch's: gamma (k * x - mean) / sqrt(var + epsilon) + beta as one convolution.

    Raises BadInput where the result is not finite.
    """
    built = {}
    for name in convolutions():
        kernel = weights[f'{name}.conv.weight'].transpose(2, 3, 1, 0)
        gamma, beta, mean, var = (np.float64(weights[f'{name}.bn.{p}']) for p in NORM)
        with np.errstate(all='ignore'):
            scale = gamma / np.sqrt(var + EPSILON)
            pair = dict(kernel=kernel * scale, bias=beta - mean * scale)
            pair = {k: np.ascontiguousarray(v, np.float32) for k, v in pair.items()}
        if not all(np.isfinite(v).all() for v in pair.values()):
            raise BadInput(f'the weights of {name} are not finite once folded; {REMEDY}')
        built |= {f'{name}.{k}': v for k, v in pair.items()}
    return built


def write(file: Path, content: bytes) -> None:
    """Whole or not at all.  Raises BadInput where it cannot be written."""
    try:
        with cache.replaced(file) as part:
            part.write(content)
    except OSError as e:
        raise BadInput(f'{file} cannot be written ({e.strerror}); give another OUT') from None


def main(source: Path, out: Path) -> None:
    if out.exists() and source.exists() and out.samefile(source):
        raise BadInput(f'{out} would be written over itself; give another OUT')
    tensors = folded(read(source))
    from safetensors.numpy import save
    weights = inception.digest(tensors)
    content = save(tensors, metadata=dict(sha256=weights))
    write(out, content)
    with source.open('rb') as f:
        print(f'sha256 of {source}: {hashlib.file_digest(f, "sha256").hexdigest()}')
    print(f'sha256 of {out}: {hashlib.sha256(content).hexdigest()}')
    print(f'checksum of its weights: {weights}')


def start() -> None:
    """Parses the command line and runs main; bad input becomes one line and status 1."""
    p = argparse.ArgumentParser(description=help.folded(__doc__),
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('weights', metavar='WEIGHTS.safetensors', type=Path, help='of PyTorch')
    p.add_argument('out', metavar='OUT.safetensors', type=Path, help='to write')
    p.error = lambda message: sys.exit(f'inception: {message}')
    a = p.parse_args()
    try:
        main(a.weights, a.out)
    except BadInput as e:
        sys.exit(f'inception: {e}')
    except KeyboardInterrupt:
        sys.exit('\nstopped')


if __name__ == '__main__':
    start()
