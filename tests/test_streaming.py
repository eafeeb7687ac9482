"""Data sets larger than memory: streamed training equals training in memory.

`python test_streaming.py WORDS` is a child process of these tests.
"""
import functools
from http import server
import io
import json
import os
from pathlib import Path
import re
import resource
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import defaults, thorough
from gen_jax import checkpoint, data, loop, sweep, train, evaluation
from gen_jax.data import tfds_files, tfds_sets, streaming, ranges
from gen_jax.train import streamed
from gen_jax.types import BadInput, Batch
from test_resume import by_path, same_bits, same_runs

SHAPE, TRAIN, TEST, BATCH = (8, 8, 1), 333, 133, 10
LIMIT = .007  # in megabytes: two steps a call, and smaller than either split
FEATURES = 'tensorflow_datasets.core.features.'
KINDS = dict(image='image_feature.Image', label='class_label_feature.ClassLabel')


def image(i, shape=SHAPE):
    """The i-th image; where a side is None, images have many sizes."""
    rng = np.random.default_rng(i)
    return rng.integers(0, 256, [n or int(rng.integers(5, 20)) for n in shape], np.uint8)


def png(x):
    from PIL import Image
    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, 'PNG')
    return file.getvalue()


def store(folder, shape=SHAPE, counts=(TRAIN, TEST), encoded=None, dtype='uint8', names=()):
    """Writes the TFDS set `tiny` below a folder, in the format of TFDS, but without TensorFlow."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2
    root = Path(folder) / 'tiny' / '1.0.0'
    root.mkdir(parents=True)
    features = dict(image=dict(image=dict(dtype=dtype, shape=dict(
        dimensions=[str(n or -1) for n in shape]))), label=dict(classLabel=dict(numClasses='3')))
    for name, kind in KINDS.items():
        features[name]['pythonClassName'] = FEATURES + kind
    (root / 'features.json').write_text(json.dumps(dict(
        featuresDict=dict(features=features), pythonClassName=FEATURES +
        'features_dict.FeaturesDict')))
    if names:
        (root / 'label.labels.txt').write_text('\n'.join(names))
    splits = dict(zip(('train', 'test'), counts))
    (root / 'dataset_info.json').write_text(json.dumps(dict(
        name='tiny', version='1.0.0', fileFormat='array_record',
        splits=[dict(name=name, shardLengths=[str(n)], numBytes='1',
                     filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}')
                for name, n in splits.items()])))
    for name, n in splits.items():
        writer = ArrayRecordWriter(str(root / f'tiny-{name}.array_record-00000-of-00001'),
                                   'group_size:1')
        for i in range(n):
            example = tf_example_pb2.Example()
            result = example.features.feature
            result['image'].bytes_list.value.append(
                encoded[i % len(encoded)] if encoded else png(image(i, shape)))
            result['label'].int64_list.value.append(i % 3)
            writer.write(example.SerializeToString())
        writer.close()
    return folder


def config_of(folder, name='ae', **changed):
    config = defaults(name, 'tiny', kind='mlp', width=(16,), latent=4)
    config.data.update(dict(dir=str(folder), memory_limit=LIMIT) | changed)
    config.batch_size = config.eval.batch_size = BATCH
    config.epochs, config.eval.samples = 2, 4
    return config


# Child processes


def decode_at_once(folder):
    """Loads the set when the other process is ready too."""
    import tensorflow_datasets  # noqa: F401  slow, so before the wait
    Path(folder, f'ready-{os.getpid()}').touch()
    while len(list(Path(folder).glob('ready-*'))) < 2:
        time.sleep(.001)
    result = data.load('tiny', dir=folder)
    print(json.dumps([int(b.x.astype(int).sum() + b.label.sum())
                      for b in (result.train, result.test)]))


def anonymous():
    """The anonymous memory of this process in megabytes, which no file backs."""
    return int(re.search(r'RssAnon:\s+(\d+)', Path('/proc/self/status').read_text())[1]) / 1e3


def memory(folder):
    """Prints the largest memory that a stream takes beyond that before it."""
    folder, limit = folder.split(':')
    config = config_of(folder, memory_limit=float(limit))
    config.batch_size = config.eval.batch_size = 128
    x = data.load(**config.data).train.x
    list(streaming.ahead(np.arange(9)))  # memory that grain, and JAX below, allocate once
    run = SimpleNamespace(config=config, key=KEY, per_epoch=len(x) // 128,
                          data=SimpleNamespace(train=Batch(x)))
    feed = streamed.feed(run)
    jax.block_until_ready(jnp.asarray(feed.source.rows(0)))
    before, most, done = anonymous(), [0.], threading.Event()

    def record_memory():
        while not done.wait(.001):
            most.append(anonymous())

    thread = threading.Thread(target=record_memory)
    thread.start()
    chunk = 0.
    for epoch in range(4):
        for i in range(0, run.per_epoch, feed.at_once):
            steps = min(feed.at_once, run.per_epoch - i)
            locked = jax.block_until_ready(feed(run.per_epoch * epoch + i, steps))
            chunk = max(chunk, locked.x.nbytes / 1e6)
            time.sleep(.01)  # the next chunk is read meanwhile
    done.set()
    thread.join()
    print(json.dumps(dict(grown=max(most) - before, chunk=chunk, before=before,
                          peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
                          bytes=np.prod(x.shape) / 1e6)))


KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return store(tmp_path_factory.mktemp('tiny'))


@functools.cache
def run_of(folder, name='ae', **changed):
    return train.prepare(config_of(folder, name, **changed))


def copied_state(run):
    """A copy of the initial state, as training donates its memory."""
    return jax.tree.map(jnp.copy, run.state)


def trained_for(run, epochs=2):
    trainer, state = train.Trainer(run), copied_state(run)
    for _ in range(epochs):
        state, named = trainer.epoch(state)
    return state, named, trainer


# Reading


def test_rows_are_read_when_they_are_indexed():
    x, requested = np.arange(60, dtype=np.uint8).reshape(20, 3), []

    def read(rows):
        requested.append(rows.tolist())
        return x[rows]

    rows = streaming.Rows(read, (3,), np.arange(20), workers=2)
    part = rows[4:16][2:8]
    assert requested == [] and part.workers == 2
    assert (part.shape, part.ndim, part.dtype, len(part)) == ((6, 3), 2, np.uint8, 6)
    np.testing.assert_array_equal(part[np.array([5, 0])], x[[11, 6]])
    assert requested == [[11, 6]]
    np.testing.assert_array_equal(np.asarray(part), x[6:12])
    np.testing.assert_array_equal(jnp.asarray(part), x[6:12])


@pytest.mark.parametrize('workers, most', [(0, 1), (0, 5), (2, 5)])
def test_batches_are_read_ahead_in_order_from_any_start(workers, most):
    flags.FLAGS.mark_as_parsed()
    rows = Batch(np.arange(40), np.arange(40) % 7)
    source = streaming.Batches(rows, lambda i: np.array([i, 2 * i]), 20)
    result = list(streaming.ahead(source, 6, workers=workers, most=most))
    np.testing.assert_array_equal([b.x for b in result], [[i, 2 * i] for i in range(6, 20)])
    np.testing.assert_array_equal([b.label for b in result],
                                  [[i % 7, 2 * i % 7] for i in range(6, 20)])


def test_order_is_that_of_training_in_memory_at_any_step():
    order = streamed.Order(tuple(jax.random.key_data(KEY).tolist()), 23, 5, np.arange(5))
    for epoch in 3, 0:
        expected = jax.random.permutation(loop.stream(KEY, loop.ORDER, epoch), 23)
        result = [order(4 * epoch + i) for i in (3, 0, 2, 1)]
        np.testing.assert_array_equal(result, expected[:20].reshape(4, 5)[np.array([3, 0, 2, 1])])


def test_order_differs_by_epoch_and_seed():
    def epoch(seed, number):
        key = tuple(jax.random.key_data(jax.random.key(seed)).tolist())
        order = streamed.Order(key, 60, 10, np.arange(10))
        return np.concatenate([order(6 * number + i) for i in range(6)]).tolist()

    assert sorted(epoch(0, 0)) == list(range(60))
    assert len({tuple(epoch(*args)) for args in ((0, 0), (0, 1), (1, 0))}) == 3


def sharding_of(layout):
    """A sharding of chunks (steps, batch); `layout` gives the process and rows of each device."""
    class Device:
        def __init__(self, process):
            self.process_index = process

    def devices_indices_map(shape):
        return {Device(process): (slice(None), rows) for process, rows in layout}
    return SimpleNamespace(devices_indices_map=devices_indices_map)


LAYOUTS = {
    'two processes of two': [(0, slice(0, 3)), (0, slice(3, 6)), (1, slice(6, 9)),
                             (1, slice(9, 12))],
    'taking turns': [(0, slice(0, 3)), (1, slice(3, 6)), (0, slice(6, 9)), (1, slice(9, 12))],
    'out of order': [(1, slice(6, 12)), (0, slice(0, 6))],
    'copies within a process': [(0, slice(0, 6)), (0, slice(0, 6)), (1, slice(6, 12)),
                                (1, slice(6, 12))],
    'one': [(0, slice(None))]}


@pytest.mark.parametrize('name', LAYOUTS)
def test_processes_share_a_batch_without_gap_or_overlap(name):
    layout = LAYOUTS[name]
    result = [streaming.local_rows(sharding_of(layout), 12, p).tolist()
              for p in sorted({p for p, _ in layout})]
    assert sorted(sum(result, [])) == list(range(12))
    for process, rows in enumerate(result):
        assert rows == sorted({r for p, span in layout if p == process
                               for r in range(12)[span]})


def test_process_reads_only_its_rows_of_each_batch():
    batch, requested = Batch(np.arange(60), np.arange(60) % 7), []
    key = tuple(jax.random.key_data(KEY).tolist())
    for process in 0, 1:
        local = streaming.local_rows(sharding_of(LAYOUTS['taking turns']), 12, process)
        source = streaming.Batches(batch, streamed.Order(key, 60, 12, local), 10)
        requested.append([source[i].x for i in range(5)])
    complete = [streamed.Order(key, 60, 12, np.arange(12))(i) for i in range(5)]
    np.testing.assert_array_equal(np.array(requested[0])[:, 3:], np.array(complete)[:, 6:9])
    np.testing.assert_array_equal(np.array(requested[1])[:, :3], np.array(complete)[:, 3:6])


def test_chunk_is_what_fits_into_the_limit():
    rows = streaming.Rows(None, (10, 10), np.arange(3))
    assert streaming.chunk(rows, 10, .1) == 20  # of 1 kB each, five such chunks
    assert streaming.chunk(rows, 10, 1e9) == streaming.MOST
    rows.workers = 2
    assert streaming.chunk(rows, 10, .1) == 19


# Training


def test_streamed_training_is_that_in_memory(tiny):
    """Order and noise are the same: they do not depend on the limit."""
    streamed_run = run_of(tiny, 'vae', binarize='dynamic')
    memory_run = run_of(tiny, 'vae', binarize='dynamic', memory_limit=100.)
    state, named, trainer = trained_for(streamed_run)
    other, same, complete = trained_for(memory_run)
    assert trainer.feed.at_once == 2 and sorted(trainer.compiled) == [1, 2]
    assert complete.feed is None and sorted(complete.compiled) == [33]
    assert int(state.step) == int(other.step) == 66
    memory_run = by_path(other._asdict())
    for path, value in by_path(state._asdict()).items():
        np.testing.assert_allclose(value, memory_run[path], rtol=1e-3, atol=2e-5, err_msg=path)
    assert named == pytest.approx(same, rel=1e-4, abs=1e-6)


@pytest.mark.full
def test_each_epoch_shows_each_example_at_most_once(tiny, monkeypatch):
    monkeypatch.setattr(streaming, 'READERS', 1)  # several readers read ahead into the next epoch
    run = run_of(tiny)
    recorded = []

    def recording(read, rows):
        recorded.extend(rows.tolist())
        return read(rows)

    x = run.data.train.x
    train_x = streaming.Rows(functools.partial(recording, x.read), x.shape[1:], x.rows)
    run = run._replace(data=run.data._replace(train=run.data.train._replace(x=train_x)))
    trained_for(run, 1)
    first = recorded[:330]
    assert len(set(first)) == 330 and max(first) < TRAIN


@pytest.mark.full
@pytest.mark.parametrize('stop', thorough([2, 6, 33, 40], 6))
def test_run_that_is_stopped_at_any_step_resumes_bit_by_bit(tiny, tmp_path, stop):
    """From a checkpoint, with a new stream that reads no earlier batches."""
    run = run_of(tiny, 'vae', binarize='dynamic')
    complete = by_path(trained_for(run)[0]._asdict())
    trainer, state = train.Trainer(run), copied_state(run)
    while int(state.step) < stop:
        step = int(state.step) % 33
        state, _, bad = trainer.call(state, min(2, 33 - step))
        assert int(bad) == -1
    with checkpoint.manager(tmp_path) as saves:
        checkpoint.save(saves, state, {})
    state = checkpoint.restore(tmp_path, run.state)
    assert int(state.step) >= stop
    trainer, requested = train.Trainer(run), []
    source = trainer.feed.source
    trainer.feed.source = streaming.Batches(source.examples, lambda i: (
        requested.append(i), source.rows(i))[1], source.count)
    while int(state.step) < 66:
        state, _ = trainer.epoch(state)
    assert min(requested) >= stop
    same_bits(by_path(state._asdict()), complete)


@pytest.mark.full
def test_run_in_two_commands_is_the_run_in_one(tiny, tmp_path):
    one, other = tmp_path / 'one', tmp_path / 'other'
    train.train(config_of(tiny), one)
    for epochs in 1, 2:
        config = config_of(tiny)
        config.epochs = epochs
        train.train(config, other)
    same_runs(one, other)


def test_what_is_of_this_machine_may_change_between_two_commands(tiny, tmp_path):
    for may in config_of(tiny), config_of(tiny, memory_limit=100., workers=1, cache=False):
        with train.lock_workdir(tmp_path, may):
            pass
    with pytest.raises(BadInput, match='data.binarize'):
        with train.lock_workdir(tmp_path, config_of(tiny, binarize='dynamic')):
            pass


@pytest.mark.full
def test_worker_processes_decode_what_the_cache_has(tiny):
    """Without a cache each image is decoded at every use; training is the same, bit by bit."""
    worker_run = run_of(tiny, cache=False, workers=2)
    assert worker_run.data.train.x.workers == 2
    np.testing.assert_array_equal(worker_run.data.train.label, run_of(tiny).data.train.label)
    state, _, trainer = trained_for(worker_run, 1)
    trainer.feed.pool.submit(trainer.feed.close).result()
    config = run_of(tiny).config.copy_and_resolve_references()
    config.steps_per_call = trainer.feed.at_once
    cached_run = run_of(tiny)._replace(config=config)
    same_bits(by_path(state._asdict()), by_path(trained_for(cached_run, 1)[0]._asdict()))


def test_next_chunk_is_read_while_one_is_trained_on(tiny):
    requested = []
    rows = Batch(streaming.Rows(lambda r: np.zeros((len(r), 2), np.uint8), (2,), np.arange(99)))
    source = streaming.Batches(rows, lambda i: (requested.append(i), np.arange(3))[1], 40)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    feed = streaming.Feed(source, 9, 2, 3, sharding)
    result = feed(4, 2)
    assert result.x.shape == (2, 3, 2) and isinstance(result.x, jax.Array)
    feed.pending.result(timeout=20)  # without a request
    assert feed.place == (6, 2) and {6, 7} <= set(requested)
    assert feed(6, 2).x.shape == (2, 3, 2)
    assert feed(8, 1).x.shape == (1, 3, 2)  # the end of an epoch


# Evaluation


def test_evaluation_counts_each_example_once(tiny):
    streamed_run, memory_run = run_of(tiny), run_of(tiny, memory_limit=100.)
    assert streaming.streamed(
        streamed_run.data.test) and not streaming.streamed(memory_run.data.test)
    result = train.evaluator(streamed_run)(streamed_run.state)
    assert result == pytest.approx(train.evaluator(memory_run)(streamed_run.state), rel=1e-5)


@pytest.mark.full
def test_collected_are_the_rows_of_all(tiny):
    def inspect(state, batch, key):
        return batch.x.sum((1, 2, 3)), jax.random.uniform(key, (len(batch.x),))

    streamed_rows, memory_rows = (train.collector(run, run.state) for run in
                                  (run_of(tiny), run_of(tiny, memory_limit=100.)))
    for split, most, n in ('test', None, TEST), ('train', 57, 57), ('train', None, TRAIN):
        for one, other in zip(streamed_rows(inspect, split, most), memory_rows(
                inspect, split, most)):
            assert len(one) == n
            np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.full
def test_streamed_run_is_evaluated(tiny, tmp_path, capsys):
    config = config_of(tiny, 'vae')
    config.epochs, config.eval.metrics = 1, 'active_units,frechet_distance'
    train.train(config, tmp_path)
    evaluation.run_mode(config, tmp_path, 'evaluate')
    assert f'{TEST} test examples' in capsys.readouterr().out
    result = json.loads((tmp_path / 'summary.json').read_text())['metrics']
    assert all(np.isfinite(result[f'test/{k}']) for k in
               ('active_units', 'frechet_distance_pixels', 'loss'))


# Bad input


@pytest.mark.parametrize('changed, message', [
    (dict(memory_limit=-1.), 'data.memory_limit must be at least 0, not -1'),
    (dict(workers=-2), 'data.workers must be at least 0, not -2'),
    (dict(memory_limit=.003), r'memory_limit=0.003.*batches of 10.*raise it to 0.01'),
    (dict(identities=(0, 1)), 'data.identities takes tiny into memory'),
    (dict(binarize='static'), 'data.binarize=static takes tiny into memory'),
    (dict(limit=300), 'data.limit takes tiny into memory'),
    (dict(size=16), 'tiny has one size')])
def test_what_cannot_be_streamed_is_refused(tiny, changed, message):
    with pytest.raises(BadInput, match=message) as result:
        train.prepare(config_of(tiny, **changed))
    assert '\n' not in str(result.value)


def test_limit_that_fits_into_memory_is_taken_there(tiny):
    run = run_of(tiny, limit=60)
    assert run.data.train.x.shape == (60, *SHAPE) and not streaming.streamed(run.data.train)
    np.testing.assert_array_equal(np.bincount(run.data.train.label), [20] * 3)


@pytest.mark.parametrize('mode', ['shard_map', 'pmap'])
def test_streams_are_for_jit(tiny, mode):
    config = config_of(tiny)
    config.parallel = mode
    with pytest.raises(BadInput, match='tiny is streamed.*parallel=jit'):
        train.prepare(config)


def test_sweep_of_what_is_streamed_is_refused(tiny):
    with pytest.raises(BadInput, match='sweep.*in memory.*tiny.*memory_limit'):
        sweep.plan(config_of(tiny), sweep.grid({'seed': [0, 1]}))


# Ranges and names of labels


def floats(x):
    """One image of float32 (h, w, 1) in the encoding of TFDS: each number as four channels."""
    return png(np.float32(x).view(np.uint8))


@pytest.mark.parametrize('cache, workers', thorough([(True, 0), (False, 0), (False, 2)], (True, 0)))
def test_stream_of_floats_says_where_one_is_not_finite(tmp_path, monkeypatch, cache, workers):
    monkeypatch.setattr(ranges, 'SOME', 10)  # examples that are checked at the start
    x = np.random.default_rng(0).uniform(size=(1200, *SHAPE)).astype(np.float32)
    x[1100, 3, 4] = np.nan  # after the examples that are checked at the start
    store(tmp_path, counts=(1200, TEST), encoded=[floats(one) for one in x], dtype='float32')
    config = config_of(tmp_path, memory_limit=.028, cache=cache, workers=workers)
    config.steps_per_call = 2
    run = train.prepare(config)
    assert streaming.streamed(run.data.train) and run.data.train.x.dtype == np.float32
    rows = np.array([300, 7])
    np.testing.assert_array_equal(run.data.prepare(Batch(run.data.train.x[rows]), KEY).x, x[rows])
    trainer = train.Trainer(run)
    with pytest.raises(BadInput, match='training split of tiny holds nan in row 1100, place 3, 4'):
        trainer.epoch(copied_state(run))
    trainer.feed.pool.submit(trainer.feed.close).result()


def test_stream_of_bits_is_of_bits_until_there_is_another_number(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (TRAIN, *SHAPE), np.uint8)
    store(tmp_path, encoded=[png(one) for one in x])
    result = data.load('tiny', dir=str(tmp_path), memory_limit=LIMIT)
    np.testing.assert_array_equal(result.prepare(Batch(result.train.x[np.arange(9)]), KEY).x, x[:9])
    monkeypatch.setattr(ranges, 'SOME', 10)
    x[200, 1, 2] = 9
    store(tmp_path / 'other', encoded=[png(one) for one in x])
    other = data.load('tiny', dir=str(tmp_path / 'other'), memory_limit=LIMIT)
    with pytest.raises(BadInput, match=r'holds 9 in row 200, place 1, 2.*range=bits.*=8bit'):
        other.train.x[np.arange(150, 250)]
    complete = data.load('tiny', dir=str(tmp_path / 'other'), memory_limit=LIMIT, range='8bit')
    np.testing.assert_allclose(complete.prepare(Batch(complete.train.x[np.arange(9)]), KEY).x,
                               x[:9] / 255., rtol=1e-6)


def test_labels_of_a_stored_set_have_its_names(tmp_path):
    names = 'ant', 'bee', 'cat'
    store(tmp_path, counts=(12, 5), names=names)
    assert data.load('tiny', dir=str(tmp_path)).names == names
    assert data.load('tiny', dir=str(tmp_path), identities=(2, 1)).names == ('cat', 'bee')


# Images of many sizes


def test_center_crop_of_an_image_at_another_size():
    wide = np.zeros((6, 10, 3), np.uint8)
    wide[:, 2:8] = 200
    np.testing.assert_array_equal(tfds_sets.center_crop(wide, 3), np.full((3, 3, 3), 200))
    tall = image(0, (8, 4, 1))
    np.testing.assert_array_equal(tfds_sets.center_crop(tall, 4), tall[2:6])


@pytest.mark.parametrize('cache', [True, False])
def test_images_of_many_sizes_are_brought_to_one(tmp_path, cache):
    store(tmp_path, (None, None, 3), (9, 5))
    for limit in 100., .0005:
        result = data.load('tiny', dir=str(tmp_path), size=6, memory_limit=limit, cache=cache)
        assert streaming.streamed(result.train) == (limit < 1)
        expected = [tfds_sets.center_crop(image(i, (None, None, 3)), 6) for i in range(9)]
        np.testing.assert_array_equal(np.asarray(result.train.x), expected)
        np.testing.assert_array_equal(result.train.label, np.arange(9) % 3)
    with pytest.raises(BadInput, match='tiny have many sizes.*data.size'):
        data.load('tiny', dir=str(tmp_path))


# Caches


def decoded(folder, part, split='train'):
    """The file of the cache of the set in the folder."""
    builder = tfds_files.builder('tiny', str(folder))
    file, = (file for file in tfds_sets.home(builder, split, tfds_sets.IN_MEMORY)
             if part in file.stem)
    return file


@pytest.mark.parametrize('part', ['image', 'label', 'sum'])
def test_flipped_bit_is_named_and_the_cache_rebuilt(tmp_path, capsys, part):
    store(tmp_path, counts=(20, 5))
    expected = np.array([image(i) for i in range(20)])
    data.load('tiny', dir=str(tmp_path))
    file = decoded(tmp_path, part)
    content = bytearray(file.read_bytes())
    content[-9] ^= 4
    file.write_bytes(content)
    capsys.readouterr()
    np.testing.assert_array_equal(data.load('tiny', dir=str(tmp_path)).train.x, expected)
    out = capsys.readouterr().out
    assert re.search(r'gen_jax-train-\w{8}-image.npy in .* is damaged; making it again', out)
    data.load('tiny', dir=str(tmp_path))
    assert capsys.readouterr().out == ''


def test_flipped_bit_of_a_stream_stops_the_run_which_then_goes_on(tmp_path, capsys):
    store(tmp_path / 'data')
    config = config_of(tmp_path / 'data')
    config.epochs = 1
    train.train(config, tmp_path / 'run')
    file = decoded(tmp_path / 'data', 'image')
    content = bytearray(file.read_bytes())
    content[128 + 64 * 200 + 7] ^= 1
    file.write_bytes(content)
    config.epochs = 3
    with pytest.raises(BadInput, match='-image.npy was damaged.*same command'):
        train.train(config, tmp_path / 'run')
    train.train(config, tmp_path / 'run')
    assert 'decoding 333 images' in capsys.readouterr().out
    assert json.loads((tmp_path / 'run' / 'summary.json').read_text())['epochs'] == 3


def child(environment, *words):
    return subprocess.Popen([sys.executable, __file__, *map(str, words)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.full
def test_two_processes_at_once_make_one_cache(tmp_path, environment):
    store(tmp_path)
    both = [child(environment, 'decode', tmp_path) for _ in range(2)]
    outputs = [c.communicate(timeout=120) for c in both]
    assert [c.returncode for c in both] == [0, 0], outputs
    sums = [int(sum(image(i).astype(int).sum() + i % 3 for i in range(n))) for n in (TRAIN, TEST)]
    assert [json.loads(out.splitlines()[-1]) for out, _ in outputs] == [sums, sums]
    assert not list(tmp_path.rglob('*.part'))


@pytest.mark.full
def test_memory_is_bounded_by_the_limit(tmp_path, environment):
    """A set four times the limit, in four epochs."""
    flat = [png(np.full((64, 64, 3), i, np.uint8)) for i in range(16)]
    store(tmp_path, (64, 64, 3), (13_056, 128), flat)  # 102 batches
    out, err = child(environment, 'memory', f'{tmp_path}:40').communicate(timeout=120)
    result = json.loads(out.splitlines()[-1]) if out else err
    assert result['bytes'] >= 4 * 40 and result['chunk'] > 40 / streaming.CHUNKS - 2
    assert result['grown'] < 40, result


# Buckets


@pytest.fixture
def bucket(tmp_path_factory, monkeypatch):
    """gs://bucket is a folder with a small set: Python reads it by fsspec, array_record by HTTP."""
    folder = store(tmp_path_factory.mktemp('bucket'), counts=(12, 5))
    import fsspec
    from fsspec.implementations.local import LocalFileSystem
    from etils import epath

    class Bucket(LocalFileSystem):
        protocol = 'gs', 'gcs'
        cachable = False

        def __init__(self, **_):
            super().__init__()

        @classmethod
        def _strip_protocol(cls, path):
            path = os.fspath(path)
            return path.replace('gs://bucket', str(folder)).rstrip('/')

    class Handler(server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def do_GET(self):
            name = re.search(r'tiny-\w+\.array_record-\d+-of-\d+', self.path)[0]
            content = next(folder.rglob(name)).read_bytes()
            byte_range = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range') or 'bytes=0-')
            first, last = (int(n) if n else None for n in byte_range.groups())
            first = max(0, len(content) - last) if first is None else first
            last = len(content) - 1 if last is None or byte_range[1] == '' else min(
                last, len(content) - 1)
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {first}-{last}/{len(content)}')
            self.send_header('Content-Length', str(last + 1 - first))
            self.end_headers()
            self.wfile.write(content[first:last + 1])

        def log_message(self, *_):
            pass

    monkeypatch.setattr(server.ThreadingHTTPServer, 'handle_error', lambda *_: None)
    httpd = server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setenv('CLOUD_STORAGE_EMULATOR_ENDPOINT', f'http://127.0.0.1:{httpd.server_port}')
    monkeypatch.setenv('EPATH_USE_TF', 'false')
    fsspec.register_implementation('gs', Bucket, clobber=True)
    fsspec.register_implementation('gcs', Bucket, clobber=True)
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    yield 'gs://bucket'
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize('cache', thorough([True, False], True))
def test_set_in_a_bucket_is_read_and_cached_here(bucket, tmp_path, monkeypatch, cache):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    result = data.load('tiny', dir=bucket, memory_limit=.0001, cache=cache)
    rows = np.array([0, 7, 11])
    np.testing.assert_array_equal(result.train.x[rows], [image(i) for i in rows])
    np.testing.assert_array_equal(result.test.label, np.arange(5) % 3)
    cached = sorted(p.name for p in tmp_path.rglob('*.npy'))
    assert [re.sub(r'\w{8}-', '', name) for name in cached] == [
        f'gen_jax-{split}-{part}.npy' for split in ('test', 'train')
        for part in ('image', 'label', 'sum')] * cache
    assert not cached or (tmp_path / 'gen_jax' / 'data' / 'tiny' / '1.0.0').is_dir()


def test_bucket_that_cannot_be_read_is_named(monkeypatch):
    with pytest.raises(BadInput, match=r's3://nowhere cannot be read.*s3fs'):
        data.load('mnist', dir='s3://nowhere')


if __name__ == '__main__':
    dict(decode=decode_at_once, memory=memory)[sys.argv[1]](sys.argv[2])
