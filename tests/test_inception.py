"""Inception's features against a network written out in NumPy, and PyTorch's; files that are bad.

The weights are random: the real ones cannot come with the code.
"""
import hashlib
import importlib.util
import os
import resource
import runpy
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import ROOT, Result
from gen_jax.metrics import inception
from gen_jax.types import BadInput

SCRIPT = str(ROOT / 'experiments' / 'inception.py')
NORM = 'weight', 'bias', 'running_mean', 'running_var'


# The truth: PyTorch's layout (n, c, h, w), float64, batch norm by itself


def windows(x, a, b, stride):
    """(n, c, h, w, a, b)"""
    return np.lib.stride_tricks.sliding_window_view(x, (a, b), (2, 3))[:, :, ::stride, ::stride]


def padded(x, a, b, value=0.):
    return np.pad(x, ((0, 0), (0, 0), (a, a), (b, b)), constant_values=value)


def mean_of_those_there(x):
    return np.nanmean(windows(padded(x, 1, 1, np.nan), 3, 3, 1), (4, 5))


def shrunk(x):
    return windows(x, 3, 3, 2).max((4, 5))


def bilinear(x, size):
    """(n, h, w, c) -> (n, size, size, c), pixel by pixel between centres."""
    for axis in 1, 2:
        n = x.shape[axis]
        at = np.clip((np.arange(size) + .5) * n / size - .5, 0, n - 1)
        low = np.floor(at).astype(int)
        t = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        x = (1 - t) * x.take(low, axis) + t * x.take(np.minimum(low + 1, n - 1), axis)
    return x


class Truth:
    """The network block by block.  Weights in PyTorch's layout are drawn where they are first used:
    of a scale that keeps that of x."""

    def __init__(self):
        self.weights, self.draw = {}, np.random.default_rng(0)

    def conv(self, name, x, out, a=1, b=1, stride=1, pad=True):
        if f'{name}.conv.weight' not in self.weights:
            new = dict(weight=self.draw.uniform(.7, 1.3, out), bias=self.draw.normal(0, .2, out),
                       running_mean=self.draw.normal(0, .2, out),
                       running_var=self.draw.uniform(.5, 1.5, out))
            kernel = self.draw.normal(0, (2 / (x.shape[1] * a * b)) ** .5, (out, x.shape[1], a, b))
            self.weights |= {f'{name}.bn.{k}': np.float32(v) for k, v in new.items()}
            self.weights[f'{name}.conv.weight'] = np.float32(kernel)
        kernel = np.float64(self.weights[f'{name}.conv.weight'])
        gamma, beta, mean, var = (np.float64(self.weights[f'{name}.bn.{p}'])[:, None, None]
                                  for p in NORM)
        x = padded(x, a // 2, b // 2) if pad else x
        y = np.tensordot(windows(x, a, b, stride), kernel, ([1, 4, 5], [1, 2, 3]))
        y = gamma * (y.transpose(0, 3, 1, 2) - mean) / np.sqrt(var + .001) + beta
        return np.maximum(y, 0)

    def run(self, at, x, *layers):
        """Layers one after the other, each a name's end and what else `conv` takes."""
        for name, *how in layers:
            x = self.conv(at + name, x, *how)
        return x

    def a(self, at, x, pool):
        return np.concatenate([
            self.run(at + 'branch', x, ('1x1', 64)),
            self.run(at + 'branch5x5_', x, ('1', 48), ('2', 64, 5, 5)),
            self.run(at + 'branch3x3dbl_', x, ('1', 64), ('2', 96, 3, 3), ('3', 96, 3, 3)),
            self.run(at + 'branch_', mean_of_those_there(x), ('pool', pool))], 1)

    def b(self, at, x):
        half = 3, 3, 2, False
        return np.concatenate([
            self.run(at + 'branch', x, ('3x3', 384, *half)),
            self.run(at + 'branch3x3dbl_', x, ('1', 64), ('2', 96, 3, 3), ('3', 96, *half)),
            shrunk(x)], 1)

    def c(self, at, x, inner):
        twice = [(f'{i}', inner, *size)
                 for i, size in enumerate([(7, 1), (1, 7), (7, 1)], 2)]
        return np.concatenate([
            self.run(at + 'branch', x, ('1x1', 192)),
            self.run(at + 'branch7x7_', x, ('1', inner), ('2', inner, 1, 7), ('3', 192, 7, 1)),
            self.run(at + 'branch7x7dbl_', x, ('1', inner), *twice, ('5', 192, 1, 7)),
            self.run(at + 'branch_', mean_of_those_there(x), ('pool', 192))], 1)

    def d(self, at, x):
        half = 3, 3, 2, False
        return np.concatenate([
            self.run(at + 'branch3x3_', x, ('1', 192), ('2', 320, *half)),
            self.run(at + 'branch7x7x3_', x, ('1', 192), ('2', 192, 1, 7), ('3', 192, 7, 1),
                     ('4', 192, *half)), shrunk(x)], 1)

    def e(self, at, x, pooled):
        three = self.run(at + 'branch3x3_', x, ('1', 384))
        twice = self.run(at + 'branch3x3dbl_', x, ('1', 448), ('2', 384, 3, 3))
        apart = [(name, 384, *size) for name, size in dict(a=(1, 3), b=(3, 1)).items()]
        return np.concatenate([
            self.run(at + 'branch', x, ('1x1', 320)),
            *(self.run(at + 'branch3x3_2', three, layer) for layer in apart),
            *(self.run(at + 'branch3x3dbl_3', twice, layer) for layer in apart),
            self.run(at + 'branch_', pooled, ('pool', 192))], 1)

    def features(self, x):
        x = 2 * bilinear(np.float64(x), 299).transpose(0, 3, 1, 2) - 1
        x = self.conv('Conv2d_1a_3x3', x, 32, 3, 3, 2, False)
        x = self.conv('Conv2d_2a_3x3', x, 32, 3, 3, 1, False)
        x = shrunk(self.conv('Conv2d_2b_3x3', x, 64, 3, 3))
        x = self.conv('Conv2d_3b_1x1', x, 80)
        x = shrunk(self.conv('Conv2d_4a_3x3', x, 192, 3, 3, 1, False))
        for block, pool in dict(b=32, c=64, d=64).items():
            x = self.a(f'Mixed_5{block}.', x, pool)
        x = self.b('Mixed_6a.', x)
        for block, inner in dict(b=128, c=160, d=160, e=192).items():
            x = self.c(f'Mixed_6{block}.', x, inner)
        x = self.d('Mixed_7a.', x)
        x = self.e('Mixed_7b.', x, mean_of_those_there(x))
        x = self.e('Mixed_7c.', x, windows(padded(x, 1, 1, -np.inf), 3, 3, 1).max((4, 5)))
        return x.mean((2, 3))


@pytest.fixture(scope='module')
def images():
    """A smooth one and noise."""
    rows, columns = np.mgrid[:40, :52] / 52
    smooth = np.stack([rows, columns, np.sin(9 * rows * columns) ** 2], -1)
    return np.float32([smooth, np.random.default_rng(0).uniform(size=smooth.shape)])


@pytest.fixture(scope='module')
def truth(images):
    """(features of the images, the weights in PyTorch's layout)"""
    network = Truth()
    return network.features(images), network.weights


@pytest.fixture(scope='module')
def script():
    spec = importlib.util.spec_from_file_location('inception_script', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def ours(script, truth, images):
    """(params, features of the images)"""
    params = script.folded(truth[1])
    return params, np.asarray(jax.jit(inception.features)(params, images))


def close(values, true):
    """All alike up to rounding, on the scale of what tells the images apart."""
    assert values.shape == true.shape == (2, 2048)
    apart = abs(true[0] - true[1]).mean()
    assert apart > .01 * abs(true).mean(), 'these weights cannot tell images apart'
    assert abs(values - true).max() < 1e-4 * apart


# The network


def test_features_are_those_of_the_network_written_out(ours, truth):
    close(ours[1], truth[0])


def test_features_are_those_of_pytorch(ours, truth, images):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    pytest.importorskip('torchvision', reason='torchvision is not installed')
    from torchvision.models import inception as peer
    model = peer.inception_v3(weights=None, aux_logits=False, init_weights=False,
                              transform_input=False, num_classes=1008).eval()
    missing, unexpected = model.load_state_dict(
        {k: torch.tensor(v) for k, v in truth[1].items()}, strict=False)
    assert not unexpected
    assert all(k.startswith('fc.') or k.endswith('num_batches_tracked') for k in missing)

    plain, pools = torch.nn.functional, []

    class Pools:  # those of 2015 in place of torchvision's, which counts the padding
        def __getattr__(self, name):
            return getattr(plain, name)

        def avg_pool2d(self, x, **sizes):
            pools.append(x.shape[1])
            if len(pools) == 9:
                return plain.max_pool2d(x, **sizes)
            return plain.avg_pool2d(x, **sizes, count_include_pad=False)

    model.fc = torch.nn.Identity()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(peer, 'F', Pools())
        x = torch.tensor(images).permute(0, 3, 1, 2)
        x = plain.interpolate(x, (299, 299), mode='bilinear', align_corners=False)
        values = model(2 * x - 1).numpy()
    assert pools == [192, 256, 288, 768, 768, 768, 768, 1280, 2048]
    close(ours[1], values)


def test_parameters_are_those_of_the_layout(truth, script):
    """94 convolutions; 21,802,784 parameters by Keras, which has two statistics of 17,216 channels
    beside each bias."""
    shapes = inception.SHAPES
    kernels = {k.removesuffix('.kernel'): v for k, v in shapes.items() if k.endswith('.kernel')}
    assert len(kernels) == 94 and len(shapes) == 2 * 94
    assert sum(map(np.prod, shapes.values())) == 21_802_784 - 2 * 17_216
    assert {f'{k}.conv.weight': (o, i, a, b) for k, (a, b, i, o) in kernels.items()} == {
        k: v.shape for k, v in truth[1].items() if k.endswith('.conv.weight')}
    assert all(shapes[f'{k}.bias'] == v[-1:] for k, v in kernels.items())
    classifier = {'fc.weight': (1008, 2048)}
    assert script.layout() == {k: v.shape for k, v in truth[1].items()} | classifier


@pytest.mark.parametrize('sizes, pad', [
    ((4, 3, 3), True), ((4, 1, 7), True), ((4, 7, 1), True), ((4, 3, 3, 1), False),
    ((4, 3, 3, 2), False)])
def test_folded_convolution_is_convolution_norm_and_relu(script, monkeypatch, sizes, pad):
    x = np.random.default_rng(1).normal(size=(2, 9, 8, 5))
    network = Truth()
    true = network.conv('one', x.transpose(0, 3, 1, 2), *sizes, pad=pad).transpose(0, 2, 3, 1)
    monkeypatch.setattr(inception, 'SHAPES', {'one.kernel': (*sizes[1:3], 5, 4), 'one.bias': (4,)})
    part = inception.Conv('one', *sizes, padding='SAME' if pad else 'VALID')
    params = script.folded(network.weights)
    assert {k: v.shape for k, v in params.items()} == inception.SHAPES
    assert {v.dtype for v in params.values()} == {np.dtype(np.float32)}
    values = inception.run(part, params, jnp.float32(x))
    np.testing.assert_allclose(values, true, rtol=1e-5, atol=1e-5)
    assert (true == 0).any() and (true > 0).any()


def test_pools_leave_the_padding_out():
    x = -jnp.arange(1., 10).reshape(1, 3, 3, 1)
    mean = [[3, 3.5, 4], [4.5, 5, 5.5], [6, 6.5, 7]]  # (1 + 2 + 4 + 5) / 4, (1 + .. + 6) / 6, ..
    np.testing.assert_allclose(-inception.mean(x)[0, :, :, 0], mean, rtol=1e-6)
    np.testing.assert_array_equal(-inception.largest(x)[0, :, :, 0],
                                  [[1, 1, 2], [1, 1, 2], [4, 4, 5]])
    x = jnp.arange(49.).reshape(1, 7, 7, 1)[:, :, :6]  # the last column is of no window
    np.testing.assert_array_equal(inception.halved(x)[0, :, :, 0],
                                  [[16, 18], [30, 32], [44, 46]])


@pytest.mark.parametrize('h, w', [(28, 31), (299, 299), (640, 330), (1, 2)])
@pytest.mark.parametrize('c', [1, 3])
def test_images_are_resized_between_centres_and_scaled(h, w, c):
    x = np.float32(np.random.default_rng(2).uniform(size=(2, h, w, c)))
    values = inception.preprocess(jnp.asarray(x))
    assert values.shape == (2, 299, 299, 3) and values.dtype == jnp.float32
    np.testing.assert_allclose(values, np.broadcast_to(2 * bilinear(np.float64(x), 299) - 1,
                                                       values.shape), atol=1e-5)


def test_a_ramp_is_resized_to_known_pixels():
    """At .5 * 4 / 299 - .5 < 0 the first pixel, at 149.5 * 4 / 299 - .5 halfway between two."""
    x = jnp.broadcast_to(jnp.arange(4.)[:, None, None] / 4, (1, 4, 4, 1))
    column = (inception.preprocess(x)[0, :, 7, 0] + 1) / 2
    np.testing.assert_allclose(column[jnp.array([0, 149, 298])], [0, .375, .75], atol=1e-6)
    assert column[150] - column[149] == pytest.approx(1 / 299, abs=1e-6)


@pytest.mark.parametrize('shape, kind', [
    ((2, 8, 8, 2), np.float32), ((2, 8, 8, 4), np.float32), ((8, 8, 3), np.float32),
    ((2, 192), np.float32), ((2, 8, 8, 3), np.uint8)])
def test_what_is_no_image_is_refused(shape, kind):
    with pytest.raises(BadInput, match=r'\(n, h, w, 1 or 3\).*, not (float32|uint8) \(') as refusal:
        inception.features({}, np.zeros(shape, kind))
    assert '\n' not in str(refusal.value)


# The file


@pytest.fixture
def st():
    return pytest.importorskip('safetensors.numpy', reason='safetensors is not installed')


@pytest.fixture
def one(monkeypatch):
    """A network of one convolution, small enough for files by the dozen: its weights by PyTorch."""
    monkeypatch.setattr(inception, 'SHAPES', {'one.kernel': (3, 3, 2, 4), 'one.bias': (4,)})
    network = Truth()
    network.conv('one', np.zeros((1, 2, 3, 3)), 4, 3, 3)
    return network.weights


@pytest.fixture
def convert(monkeypatch, capsys):
    """convert(*arguments) -> Result of the command line, run in this process."""
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [SCRIPT, *map(str, arguments)])
        code = None
        try:
            runpy.run_path(SCRIPT, run_name='__main__')
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return Result(1, out, f'{err}{code}\n') if isinstance(code, str) else \
            Result(code or 0, out, err)
    return run


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def digest(tensors):
    return sha256(b''.join(k.encode() + v.tobytes() for k, v in sorted(tensors.items())))


def test_a_converted_file_gives_its_weights_and_checksum(st, environment, truth, ours, tmp_path):
    """The whole network, as a user converts it."""
    source, out = (tmp_path / f'{name}.safetensors' for name in ('theirs', 'ours'))
    ignored = {'fc.weight': np.zeros((1008, 2048), np.float32), 'fc.bias': np.zeros(1008),
               'AuxLogits.conv0.conv.weight': np.zeros((2, 2)),
               'Conv2d_1a_3x3.bn.num_batches_tracked': np.zeros((), np.int64)}
    st.save_file(truth[1] | ignored, source)

    done = subprocess.run([sys.executable, SCRIPT, source, out], env=environment, cwd=tmp_path,
                          text=True, capture_output=True, timeout=180, check=False)
    assert done.returncode == 0 and done.stderr == ''
    params, values = inception.load(out)
    assert values == digest(ours[0])
    assert done.stdout.splitlines() == [
        f'sha256 of {source}: {sha256(source.read_bytes())}',
        f'sha256 of {out}: {sha256(out.read_bytes())}', f'checksum of its weights: {values}']
    assert params.keys() == ours[0].keys()
    for name, value in params.items():
        np.testing.assert_array_equal(value, ours[0][name])
    assert out.stat().st_mode & 0o777 == 0o644

    source.unlink()  # it is large, and pytest keeps what three sessions wrote
    out.unlink()


def refused(result, *said):
    assert result.code == 1 and result.out == '', result
    assert len(result.err.splitlines()) == 1 and result.err.startswith('inception: '), result.err
    for word in said:
        assert word in result.err, result.err


def test_same_weights_make_the_same_file(st, one, convert, tmp_path):
    source, *outs = (tmp_path / f'{name}.safetensors' for name in 'abc')
    st.save_file(one, source)
    for out in outs:
        assert convert(source, out).code == 0
    first, second = (out.read_bytes() for out in outs)
    assert first == second
    assert inception.load(str(outs[0]))[1] == inception.load(outs[1])[1]


def test_what_the_disk_has_no_room_for_is_not_written(st, one, convert, tmp_path):
    source, out = tmp_path / 'weights.safetensors', tmp_path / 'out.safetensors'
    st.save_file(one, source)
    out.write_bytes(b'before')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        result = convert(source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(result, f'{out} cannot be written (File too large); give another OUT')
    assert out.read_bytes() == b'before' and sorted(tmp_path.iterdir()) == [out, source]


FILES = {  # what is done to the content of a file, and what is said of it
    'text': (lambda raw: b'these are no weights', 'is not a safetensors file'),
    'empty': (lambda raw: b'', 'is not a safetensors file'),
    'zip': (lambda raw: b'PK\x03\x04' + raw, 'is not a safetensors file'),
    'cut in the header': (lambda raw: raw[:50], 'is cut short or damaged'),
    'cut in the weights': (lambda raw: raw[:-1], 'is cut short or damaged'),
    'with an end too many': (lambda raw: raw + b'0', 'is cut short or damaged')}
OURS, THEIRS = 'make it by python experiments/inception.py', 'give the weights of pytorch-fid'


@pytest.mark.parametrize('name', FILES)
def test_damaged_files_are_refused(st, one, script, convert, name, tmp_path):
    ruin, said = FILES[name]
    file, out = tmp_path / 'weights.safetensors', tmp_path / 'out.safetensors'
    kept = script.folded(one)
    file.write_bytes(ruin(st.save(kept, metadata=dict(sha256=digest(kept)))))
    refuses(file, f'{file} {said}; {OURS}')
    file.write_bytes(ruin(st.save(one)))
    refused(convert(file, out), f'{file} {said}; {THEIRS}')
    assert sorted(tmp_path.iterdir()) == [file]


def refuses(file, said):
    with pytest.raises(BadInput) as refusal:
        inception.load(file)
    assert said in str(refusal.value) and '\n' not in str(refusal.value), refusal.value


def test_files_that_are_not_there_are_refused(st, one, convert, tmp_path):
    for file in tmp_path / 'none.safetensors', tmp_path / 'none.pth', tmp_path:
        refuses(file, f'there is no file {file}; {OURS}')
        refused(convert(file, tmp_path / 'out.safetensors'), f'there is no file {file}; {THEIRS}')


def test_a_wrong_checksum_is_refused(st, one, script, tmp_path):
    file, kept = tmp_path / 'weights.safetensors', script.folded(one)
    good = digest(kept)
    raw = bytearray(st.save(kept, metadata=dict(sha256=good)))
    file.write_bytes(raw)
    assert inception.load(file)[1] == good
    raw[-1] ^= 1  # a bit of the last weight
    file.write_bytes(raw)
    refuses(file, f'than was stored in it ({good[:12]}), so it is damaged; {OURS}')
    file.write_bytes(st.save(kept))
    refuses(file, f'another checksum ({good[:12]}) than was stored in it (none)')


@pytest.mark.parametrize('change, said', [
    (dict(bias=None), 'lacks the tensor one.bias'),
    (dict(kernel=np.zeros((4, 2, 3, 3), np.float32)), 'is F32 (4, 2, 3, 3), not F32 (3, 3, 2, 4)'),
    (dict(bias=np.zeros(4)), 'is F64 (4,), not F32 (4,)')])
def test_other_tensors_are_refused(st, one, script, change, said, tmp_path):
    file = tmp_path / 'weights.safetensors'
    changed = script.folded(one) | {f'one.{k}': v for k, v in change.items()}
    kept = {k: v for k, v in changed.items() if v is not None}
    file.write_bytes(st.save(kept, metadata=dict(sha256=digest(kept))))
    refuses(file, said)
    refuses(file, OURS)


@pytest.mark.filterwarnings('error')  # which a user would see as lines more
@pytest.mark.parametrize('change, said', [
    ({'one.bn.running_var': None}, f'lacks the tensor one.bn.running_var; {THEIRS}'),
    ({'one.bn.bias': np.zeros(5, np.float32)}, 'is F32 (5,), not F32 (4,)'),
    ({'one.bn.bias': np.zeros(4, np.float16)}, 'is F16 (4,), not F32 (4,)'),
    ({'one.bn.running_var': np.full(4, -1, np.float32)},
     f'the weights of one are not finite once folded; {THEIRS}'),
    ({'one.conv.weight': np.full((4, 2, 3, 3), np.nan, np.float32)}, 'of one are not finite'),
    ({'fc.weight': np.zeros((1000, 2048), np.float32)},  # torchvision's own weights
     'is F32 (1000, 2048), not F32 (1008, 2048)')])
def test_other_weights_are_not_converted(st, one, convert, change, said, tmp_path):
    file, out = tmp_path / 'weights.safetensors', tmp_path / 'out.safetensors'
    st.save_file({k: v for k, v in (one | change).items() if v is not None}, file)
    refused(convert(file, out), said)
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_pickle_is_refused_with_the_command_that_converts_it(one, convert, tmp_path):
    file = tmp_path / "it's weights.pth"
    file.write_bytes(b'PK\x03\x04')
    result = convert(file, tmp_path / 'out.safetensors')
    refused(result, f'{file} is a pickle', 'weights_only=True')
    command = shlex.split(result.err.partition(', run ')[2].partition(' and give')[0])
    assert command[:2] == ['python', '-c'] and str(file) in command[2]
    compile(command[2], 'command', 'exec')


def test_a_place_that_cannot_be_written_is_refused(st, one, convert, tmp_path):
    file = tmp_path / 'weights.safetensors'
    st.save_file(one, file)
    before = file.read_bytes()
    nowhere = tmp_path / 'none' / 'out.safetensors'
    refused(convert(file, nowhere), f'{nowhere} cannot be written (No such file or directory)')
    refused(convert(file, tmp_path), f'{tmp_path} cannot be written (Is a directory)')
    link = tmp_path / 'link.safetensors'
    os.symlink(file, link)
    refused(convert(file, link), 'written over itself; give another OUT')
    assert file.read_bytes() == before and sorted(tmp_path.iterdir()) == [link, file]


@pytest.mark.parametrize('arguments, said', [
    ([], 'are required: WEIGHTS.safetensors, OUT.safetensors'),
    (['a', 'b', 'c'], 'unrecognized arguments: c')])
def test_a_command_line_without_two_files_is_refused(convert, arguments, said):
    refused(convert(*arguments), said)


def test_without_safetensors_it_is_asked_for(one, convert, monkeypatch, tmp_path):
    file = tmp_path / 'weights.safetensors'
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    refuses(file, 'is not installed: run pip install safetensors')
    refused(convert(file, tmp_path / 'out'), 'is not installed: run pip install safetensors')
