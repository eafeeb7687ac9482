"""A file that is damaged is named in a line, whatever it is; nothing is written where data lie."""
import argparse
from pathlib import Path
import os
import re
import shutil
import sys

from absl import flags
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import ROOT, defaults, snapshot, thorough
from gen_jax import checkpoint, data, sweep, train, evaluation
from gen_jax.data import streaming
from gen_jax.metrics import inception
from gen_jax.types import BadInput, State
from test_resume import by_path, same_bits
from test_streaming import image, store

sys.path.insert(0, str(ROOT / 'experiments'))
import study  # noqa: E402


def flip(file: Path, chance, padding: bool = True) -> None:
    """Flips one bit, if need be not of a byte that is 0, leaving the file's times as they are."""
    content, reported = bytearray(file.read_bytes()), file.stat()
    places = [i for i, byte in enumerate(content) if byte or padding]
    content[chance.choice(places)] ^= 1 << chance.integers(8)
    file.write_bytes(content)
    os.utime(file, ns=(reported.st_atime_ns, reported.st_mtime_ns))


def files_of(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob('*') if p.is_file())


# Checkpoints


def state_of(step: int, width: int = 50) -> State:
    a = step * jnp.arange(20. * width).reshape(20, width)
    return State(jnp.int32(step), dict(vae=dict(kernel=a, bias=a[0])), dict(vae=a + 1), {},
                 dict(vae=dict(mean=a[:, 0])))


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """A folder of checkpoints 1 and 2, of which the second is better; not to be changed."""
    folder = tmp_path_factory.mktemp('two')
    with checkpoint.manager(folder, best='test/loss') as saves:
        for step in 1, 2:
            checkpoint.save(saves, state_of(step), {'test/loss': 1. - .25 * step})
    return folder


@pytest.fixture
def copied(two, tmp_path):
    def copy(name='run'):
        return shutil.copytree(two, tmp_path / name)
    return copy


@pytest.mark.parametrize('flips', thorough([1, 200], 1), ids=['one of each file', '200'])
def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_named(two, copied, flips):
    files, chance = files_of(two / '2'), np.random.default_rng(0)
    assert len(files) > 8
    for i in range(max(flips, len(files))):
        folder, file, said = copied(), files[i % len(files)], []
        flip(folder / '2' / file, chance)
        values = checkpoint.restore(folder, state_of(0), say=said.append)
        same_bits(by_path(values), by_path(state_of(1)))
        assert said == [f'checkpoint 2 cannot be read ({file} is damaged); trying the one before '
                        'it']
        assert [p.name for p in folder.iterdir() if p.name.isdigit()] == ['1']
        shutil.rmtree(folder)


@pytest.mark.full
def test_a_file_that_a_checkpoint_lacks_is_named(copied, two):
    for file in files_of(two / '2'):
        if file.name != checkpoint.DIGESTS:
            folder, said = copied(), []
            (folder / '2' / file).unlink()
            assert int(checkpoint.restore(folder, state_of(0), say=said.append).step) == 1
            assert f'({file} is missing)' in said[0]
            shutil.rmtree(folder)


def test_a_flipped_bit_does_not_choose_the_best_checkpoint(copied):
    """Nor is the metrics' file of another one believed."""
    folder, said = copied(), []
    file = folder / '2' / 'metrics' / 'metrics'
    file.write_text(file.read_text().replace('0.5', '0.9'))
    values = checkpoint.restore(folder, state_of(0), best='test/loss', say=said.append)
    assert int(values.step) == 1 and 'checkpoint 2 cannot be read (metrics/metrics is d' in said[0]


def test_a_checkpoint_from_before_there_were_digests_is_said_to_be_unverified(copied):
    folder, said = copied(), []
    for step in '12':
        (folder / step / checkpoint.DIGESTS).unlink()
    assert int(checkpoint.restore(folder, state_of(0), say=said.append).step) == 2
    assert said == ['checkpoint 2 is unverified: it is from before there were digests']


def test_a_checkpoint_never_is_in_its_place_without_digests(tmp_path, monkeypatch):
    recorded = {}

    def noted(source, to, *args, rename=os.rename, **how):
        if Path(to).name.isdigit():
            recorded[Path(to).name] = (Path(source) / checkpoint.DIGESTS).read_text()
        return rename(source, to, *args, **how)

    monkeypatch.setattr(os, 'rename', noted)
    with checkpoint.manager(tmp_path) as saves:
        checkpoint.save(saves, state_of(1), {})
    assert recorded.keys() == {'1'} and 'default/' in recorded['1']


def test_a_whole_checkpoint_of_another_config_is_kept(copied):
    folder = copied()
    before = snapshot(folder)
    said = r'2 is as it was saved, .*\(opt.vae is \(20, 50\) there, and \(20, 40\) in this run\)'
    with pytest.raises(BadInput, match=said):
        checkpoint.restore(folder, state_of(0, width=40))
    assert snapshot(folder) == before


def config_of(**top):
    config = defaults('vae', 'digits', width=(16,), latent=4)
    config.epochs, config.eval.samples, config.eval.metrics = 2, 4, 'active_units'
    config.update(top)
    return config


@pytest.fixture(scope='module')
def trained_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    train.train(config_of(), workdir)
    return workdir


def damage_arrays(checkpoints: Path, step: str) -> None:
    """Flips a bit in the largest file of a checkpoint."""
    flip(max((p for p in (checkpoints / step).rglob('*') if p.is_file()),
             key=lambda p: p.stat().st_size), np.random.default_rng(0))


@pytest.mark.full
@pytest.mark.parametrize('read', ['resume', 'evaluate', 'load', 'init'])
def test_whatever_reads_a_run_verifies_it(trained_run, tmp_path, capsys, read):
    workdir = shutil.copytree(trained_run, tmp_path / 'run')
    damage_arrays(workdir / 'checkpoints', '22')
    classifier = defaults('classifier', 'digits')
    classifier.init_from = str(workdir)
    dict(resume=lambda: train.train(config_of(), workdir),
         evaluate=lambda: evaluation.run_mode(config_of(), workdir, 'evaluate'),
         load=lambda: train.load(workdir),
         init=lambda: train.prepare(classifier))[read]()
    out = capsys.readouterr().out
    assert re.search(r'checkpoint 22 cannot be read \(default/.* is damaged\); trying', out), out


@pytest.mark.full
def test_a_sweep_verifies_what_it_goes_on_from(tmp_path, capsys):
    for epochs in 2, 3:
        config = config_of(epochs=epochs)
        config.eval.every = 1
        group, = sweep.plan(config, sweep.grid({'seed': [0, 1]}))
        (built, points), = sweep.fitting(group, 'map', sweep.memory())
        sweep.follow(group, built, points, tmp_path)
        if epochs == 2:
            damage_arrays(tmp_path / 'checkpoints', '22')
    out = capsys.readouterr().out
    assert out.count('checkpoint 22 cannot be read (default/') == 1 and 'epoch 2/3' in out


# What a run says of itself


@pytest.mark.parametrize('flips', thorough([60, 1000], 60))
def test_a_flipped_bit_in_config_json_never_is_a_traceback(tmp_path, flips):
    config, chance = config_of(), np.random.default_rng(0)
    refused = 0
    for _ in range(flips):
        (tmp_path / 'config.json').write_text(config.to_json())
        flip(tmp_path / 'config.json', chance)
        try:
            train.stored_config(tmp_path)
        except BadInput as e:
            refused += 1
            assert str(e).startswith(f'{tmp_path}/config.json cannot be read')
            assert '\n' not in str(e)
    assert refused > flips / 4


@pytest.mark.full
def test_a_run_whose_config_json_has_a_flipped_bit_is_loaded_or_refused(trained_run, tmp_path):
    workdir = shutil.copytree(trained_run, tmp_path / 'run')
    config, chance = (workdir / 'config.json').read_bytes(), np.random.default_rng(0)
    before = snapshot(workdir / 'checkpoints')
    for _ in range(40):
        (workdir / 'config.json').write_bytes(config)
        flip(workdir / 'config.json', chance)
        try:
            train.load(workdir)
        except BadInput as e:
            assert '\n' not in str(e)
        assert snapshot(workdir / 'checkpoints') == before


@pytest.mark.parametrize('content', ['{"epochs": 4', '5', '[1]', '"x"', '', b'\xff'])
def test_a_damaged_summary_is_said_and_none(tmp_path, capsys, content):
    file = tmp_path / 'summary.json'
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert train.summary(tmp_path) == {}
    assert f'{file} cannot be read; it is written again' in capsys.readouterr().out


def test_a_damaged_point_of_an_experiment_is_measured_again(tmp_path, capsys):
    given = argparse.Namespace(dataset='digits', data_dir=None, workdir=str(tmp_path), quick=False)
    ours = study.Study('pca', given, '')
    assert ours.point('a', lambda: dict(value=1))['value'] == 1
    (tmp_path / 'points' / 'a.json').write_text('{"value": ')
    assert ours.point('a', lambda: dict(value=2))['value'] == 2
    assert 'a.json cannot be read; it is measured again' in capsys.readouterr().out


# Prepared sets


def load(folder, **how):
    return data.load('tiny', dir=str(folder), cache_dir=str(folder.parent / 'cache'), **how)


def place(folder: Path) -> Path:
    return folder / 'tiny' / '1.0.0'


def record(folder: Path) -> Path:
    return place(folder) / 'tiny-train.array_record-00000-of-00001'


@pytest.fixture
def tiny(tmp_path):
    return store(tmp_path / 'data', counts=(20, 5))


@pytest.mark.parametrize('flips', thorough([6, 300], 6))
@pytest.mark.parametrize('cache', thorough([True, False], True))
def test_a_flipped_bit_in_a_prepared_set_is_named_or_does_not_matter(tmp_path, flips, cache):
    chance, named = np.random.default_rng(0), 0
    expected = np.array([image(i) for i in range(20)])
    store(tmp_path / 'whole', counts=(20, 5))
    for i in range(flips):
        folder = shutil.copytree(tmp_path / 'whole', tmp_path / str(i) / 'data')
        flip(record(folder), chance, padding=False)
        try:
            values = load(folder, cache=cache, memory_limit=8000. if cache else 0.0001)
            np.testing.assert_array_equal(np.asarray(values.train.x), expected)
            np.testing.assert_array_equal(values.train.label, np.arange(20) % 3)
        except BadInput as e:
            named += 1
            assert str(e).startswith(f'{record(folder)} is damaged') and '\n' not in str(e)
            assert str(e).endswith(f'; remove {place(folder)} and prepare the set again')
    assert named


def cut(file):
    file.write_bytes(file.read_bytes()[:len(file.read_bytes()) // 2])


def emptied(file):
    file.write_bytes(b'')


def changed(old, new):
    def change(file):
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    return change


@pytest.mark.parametrize('name, damage, said', [
    ('tiny-train.array_record-00000-of-00001', cut, 'is damaged'),
    ('tiny-train.array_record-00000-of-00001', emptied, 'is damaged'),
    ('tiny-train.array_record-00000-of-00001', Path.unlink, 'is missing'),
    ('tiny-test.array_record-00000-of-00001', emptied, 'is damaged'),
    ('dataset_info.json', cut, 'is damaged: it is no JSON'),
    ('dataset_info.json', emptied, 'is damaged: it is no JSON'),
    ('dataset_info.json', Path.unlink, 'is missing'),
    ('dataset_info.json', changed('"array_record"', '"tfrecord"'),
     "says that the set is in 'tfrecord' files"),
    ('dataset_info.json', changed('{SPLIT}', '{SPLAT}'), 'cannot be used'),
    ('dataset_info.json', changed('"20"', '"2o"'), 'cannot be used'),
    ('features.json', cut, 'is damaged: it is no JSON'),
    ('features.json', Path.unlink, 'is missing')], ids=lambda v: getattr(v, '__name__', None))
def test_a_damaged_file_of_a_prepared_set_is_named(tiny, name, damage, said):
    damage(place(tiny) / name)
    before = snapshot(tiny)
    with pytest.raises(BadInput) as values:
        load(tiny)
    assert str(values.value).startswith(f'{place(tiny)}/{name} {said}'), values.value
    assert str(values.value).endswith(f'; remove {place(tiny)} and prepare the set again')
    assert '\n' not in str(values.value) and snapshot(tiny) == before


def test_a_file_of_another_number_of_examples_than_described_is_named(tiny):
    changed('"20"', '"19"')(place(tiny) / 'dataset_info.json')
    with pytest.raises(BadInput, match='00000-of-00001 holds 20 examples, but 19 by dataset_info'):
        load(tiny)


def test_images_of_another_shape_than_described_are_named(tiny):
    changed('["8", "8", "1"]', '["8", "9", "1"]')(place(tiny) / 'features.json')
    with pytest.raises(BadInput, match=r'\(8, 8, 1\), but by its features.json \(8, 9, 1\)'):
        load(tiny)


def test_a_set_that_tfds_knows_is_named_too(tmp_path):
    folder = tmp_path / 'mnist' / '3.0.1'
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{"name": "mnist", "vers')
    with pytest.raises(BadInput, match='mnist/3.0.1/dataset_info.json is damaged.*prepare the set'):
        data.load('mnist', dir=str(tmp_path))


@pytest.mark.full
def test_damage_that_a_worker_process_meets_is_named(tiny):
    """In a stream without a cache, as training goes on."""
    flags.FLAGS.mark_as_parsed()
    values = load(tiny, cache=False, memory_limit=0.0001, workers=2)
    file = record(tiny)
    file.write_bytes(file.read_bytes()[:2000] + bytes(1000) + file.read_bytes()[3000:])
    with pytest.raises(BadInput, match='is damaged: its example .*prepare the set again'):
        list(streaming.ahead(streaming.Batches(values.train, lambda i: np.arange(20), 4),
                             workers=2))


@pytest.mark.full
def test_a_damaged_set_ends_the_command_in_a_line(run_main, tiny, tmp_path):
    cut(record(tiny))
    result = run_main('--config=configs/ae.py:tiny', f'--config.data.dir={tiny}',
                      '--config.net.name=mlp', f'--workdir={tmp_path}/run')
    assert result.code == 1 and len(result.err.splitlines()) == 1, result
    assert result.err.startswith(f'gen_jax: {record(tiny)} is damaged')


# Weights


@pytest.mark.parametrize('flips', thorough([60, 2000], 60))
def test_a_flipped_bit_in_weights_is_named_or_does_not_matter(tmp_path, monkeypatch, flips):
    numpy = pytest.importorskip('safetensors.numpy')
    monkeypatch.setattr(inception, 'SHAPES', {'a.kernel': (1, 1, 3, 2), 'a.bias': (2,)})
    chance, file, named = np.random.default_rng(0), tmp_path / 'weights.safetensors', 0
    tensors = {k: chance.normal(size=s).astype(np.float32) for k, s in inception.SHAPES.items()}
    complete = numpy.save(tensors, metadata=dict(sha256=inception.digest(tensors)))
    for _ in range(flips):
        file.write_bytes(complete)
        flip(file, chance)
        try:
            values, _ = inception.load(file)
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(values[name], tensor)
        except BadInput as e:
            named += 1
            assert str(file) in str(e) and 'experiments/inception.py' in str(e), e
            assert '\n' not in str(e)
    assert named > flips / 2


# Where decoded images are kept


def copies(folder: Path) -> set[str]:
    return {'/'.join(p.parts[-3:-1]) + '/' + p.name.split('-')[1]
            for p in folder.rglob('gen_jax-*-image.npy')}


def test_nothing_is_written_where_a_set_lies_and_the_place_is_said_once(tiny, tmp_path, capsys):
    before = snapshot(tiny)
    for path in [tiny, *tiny.rglob('*')]:
        path.chmod(path.stat().st_mode & 0o555)
    try:
        for _ in range(2):
            values = load(tiny)
            np.testing.assert_array_equal(values.train.x, [image(i) for i in range(20)])
    finally:
        for path in [tiny, *tiny.rglob('*')]:
            path.chmod(path.stat().st_mode | 0o200)
    assert snapshot(tiny) == before
    kept = tmp_path / 'cache' / 'tiny' / '1.0.0'
    out = capsys.readouterr().out
    assert out.count(f'decoded images of tiny are kept in {kept} (data.cache_dir)') == 1
    assert out.count('decoding') == 2
    assert copies(tmp_path / 'cache') == {'tiny/1.0.0/train', 'tiny/1.0.0/test'}


def test_decoded_images_are_by_default_beside_compiled_programs(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    data.load('tiny', dir=str(tiny))
    assert len(copies(tmp_path / 'home' / 'gen_jax' / 'data')) == 2


def test_another_set_of_the_same_name_has_copies_of_its_own(tmp_path, monkeypatch):
    first = store(tmp_path / 'one', counts=(20, 5))
    monkeypatch.setattr('test_streaming.image', lambda i, shape: image(100 + i, shape))
    second = store(tmp_path / 'other', counts=(20, 5))
    for _ in range(2):
        for folder, start in (first, 0), (second, 100):
            np.testing.assert_array_equal(load(folder).train.x,
                                          [image(start + i) for i in range(20)])


def test_decoded_images_are_bounded_and_the_oldest_go_first(tmp_path, capsys):
    """Sets of some 2,700 bytes, of which two fit."""
    folders = [store(tmp_path / str(i), counts=(20 + i, 5)) for i in range(3)]
    for folder in folders[:2]:
        load(folder, cache_limit=.006)
    built = sorted((tmp_path / 'cache').rglob('*.npy'), key=lambda file: file.stat().st_mtime_ns)
    for i, file in enumerate(built):
        os.utime(file, (i, i))
    load(folders[0], cache_limit=.006)  # is used again
    assert 'removing' not in capsys.readouterr().out
    load(folders[2], cache_limit=.006)
    assert 'used longest ago, for data.cache_limit' in capsys.readouterr().out
    load(folders[0], cache_limit=.006)
    assert 'decoding' not in capsys.readouterr().out
    load(folders[1], cache_limit=.006)
    assert 'decoding' in capsys.readouterr().out
    with pytest.raises(BadInput, match='tiny takes .* more than data.cache_limit=0.001; raise'):
        load(store(tmp_path / '3', counts=(23, 5)), cache_limit=.001)
    assert sum(file.stat().st_size for file in (tmp_path / 'cache').rglob('*.npy')) < 6500


def test_where_decoded_images_are_kept_may_change_between_two_commands(tmp_path):
    for where in None, str(tmp_path / 'cache'):
        config = config_of()
        config.data.cache_dir = where
        with train.lock_workdir(tmp_path / 'run', config):
            pass
