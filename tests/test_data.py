"""The data sets, their caches, and the loop that shows each example as often as it should."""
import functools
import gzip
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import thorough
from gen_jax import data, loop, train
from gen_jax.data import cache, builtin, tfds_sets
from gen_jax.types import BadInput, Batch, Model, State

KEY = jax.random.key(0)


def same_examples(x, label, others, labels):
    """Both hold the same examples with the same labels, in whatever order."""
    def rows(x, label):
        joint = np.column_stack([np.reshape(x, (len(label), -1)), label]).astype(np.uint8)
        return np.sort(joint.view(f'V{joint.shape[1]}').ravel())

    np.testing.assert_array_equal(rows(x, label), rows(others, labels))


# The embedded sets


@pytest.fixture(scope='module')
def digits():
    return data.load('digits')


def test_digits_are_1797_in_a_fixed_split(digits):
    assert digits.train.x.shape == (1438, 8, 8, 1) and digits.test.x.shape == (359, 8, 8, 1)
    for batch in digits.train, digits.test:
        assert batch.x.dtype == np.uint8 and batch.label.dtype == np.int32
        assert (batch.x.min(), batch.x.max()) == (0, 255)
        assert set(batch.label) == set(range(10))
    again = data.load('digits')
    np.testing.assert_array_equal(again.train.x, digits.train.x)
    np.testing.assert_array_equal(again.test.label, digits.test.label)


def test_digits_are_those_of_scikit_learn_every_fifth_for_testing(digits):
    from sklearn.datasets import load_digits
    x, label = load_digits(return_X_y=True)
    np.testing.assert_array_equal(digits.test.label, label[4::5])
    joined = np.concatenate([digits.train.x, digits.test.x])
    labels = np.concatenate([digits.train.label, digits.test.label])
    same_examples(np.rint(joined * (16 / 255)), labels, x, label)


def test_digits_are_prepared_as_float32_in_the_unit_interval(digits):
    x = digits.prepare(digits.train, KEY).x
    assert x.dtype == jnp.float32 and (float(x.min()), float(x.max())) == (0, 1)
    np.testing.assert_allclose(x, digits.train.x / 255., rtol=1e-6)


def test_breast_cancer_holds_vectors_standardised_by_the_training_split_alone():
    from sklearn.datasets import load_breast_cancer
    dataset = data.load('breast_cancer')
    assert dataset.train.x.shape == (456, 30) and dataset.test.x.shape == (113, 30)
    x = dataset.train.x
    assert x.dtype == np.float32 and set(dataset.train.label) == {0, 1}
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-5)
    raw = load_breast_cancer().data
    known = raw[np.arange(569) % 5 != 4]
    np.testing.assert_allclose(dataset.test.x, (raw[4::5] - known.mean(0)) / known.std(0),
                               rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(dataset.prepare(dataset.train, KEY).x, dataset.train.x)


# What numbers and labels mean


@pytest.fixture
def mine(monkeypatch):
    """mine(x, label, **options) -> the Dataset of such arrays, the last fifth for testing."""
    def load(x, label=None, **options):
        end = len(x) - len(x) // 5
        splits = [Batch(x[rows], None if label is None else np.asarray(label)[rows])
                  for rows in (slice(end), slice(end, None))]
        monkeypatch.setitem(builtin.SETS, 'mine', lambda: tuple(splits))
        return data.load('mine', **options)
    return load


def recorded(dataset):
    """All examples as models see them."""
    return np.concatenate([dataset.prepare(b, KEY).x for b in (dataset.train, dataset.test)])


def whole_numbers(most, dtype, shape=(20, 4, 5, 1)):
    x = np.random.default_rng(0).integers(0, most + 1, shape).astype(dtype)
    x.flat[:2] = 0, most
    return x


@pytest.mark.parametrize('most, dtype, options, full', thorough([
    (1, bool, {}, 1), (1, np.uint8, {}, 1), (1, np.int64, {}, 1), (1, np.uint16, {}, 1),
    (65535, np.uint16, {}, 65535), (4000, np.uint16, {}, 65535), (255, np.uint8, {}, 255),
    (1, np.float64, {}, 1), (1, np.uint8, dict(range='8bit'), 255),
    (255, np.int32, dict(range='8bit'), 255), (255, np.float32, dict(range='8bit'), 255),
    (300, np.int64, dict(range='16bit'), 65535), (300, np.int16, dict(range='real'), 1),
    (255, np.uint16, dict(range='8bit'), 255)],
    (1, bool, {}, 1), (1, np.uint8, {}, 1), (1, np.int64, {}, 1), (65535, np.uint16, {}, 65535),
    (255, np.int32, dict(range='8bit'), 255)))
def test_numbers_are_scaled_by_what_they_mean(mine, most, dtype, options, full):
    x = whole_numbers(most, dtype)
    result = mine(x, **options)
    ours = recorded(result)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, x.astype(float) / full, rtol=1e-6)
    if options.get('range') != 'real':
        bits = recorded(mine(x, binarize='static', **options))
        assert set(np.unique(bits)) <= {0, 1} and abs(bits.mean() - ours.mean()) < .2
        np.testing.assert_array_equal(recorded(mine(x, binarize='dynamic', **options))[x == 0], 0)
        assert full > 1 or np.array_equal(bits, ours)


@pytest.mark.parametrize('most, dtype, options, said', [
    (300, np.int32, {}, 'mine holds int32 from 0 to 300.*--config.data.range=8bit'),
    (255, np.uint16, {}, 'mine holds uint16 from 0 to 255.*--config.data.range=8bit'),
    (300, np.int32, dict(range='8bit'),
     r'training split of mine holds 300 in row 0, place 0, 1, 0 .*range=8bit is from 0 to 255'),
    (9, 'U1', {}, 'mine holds <U1, but numbers are needed'),
    (1, bool, dict(range='bit'), "unknown data.range 'bit'.*bits, 8bit, 16bit, unit, real"),
    (9, np.float32, dict(binarize='static'), r'static needs images in \[0, 1\].*real.*data.range'),
    (9, np.uint8, dict(standardise=True), 'standardise is for real numbers, but.*mine are 8bit')])
def test_numbers_whose_meaning_is_not_clear_are_asked_for(mine, most, dtype, options, said):
    with pytest.raises(BadInput, match=said) as result:
        mine(whole_numbers(most, dtype), **options)
    assert '\n' not in str(result.value)


def test_range_is_not_for_what_is_drawn():
    with pytest.raises(BadInput, match='data.range is for stored numbers, but ring is drawn'):
        data.load('ring', range='8bit')


@pytest.mark.parametrize('wrong', thorough([np.nan, np.inf, -np.inf], np.nan))
@pytest.mark.parametrize('shape, place', thorough([((50, 7), (3,)), ((50, 4, 4, 1), (1, 2, 0))],
                                                  ((50, 7), (3,))))
def test_what_is_not_finite_is_named_by_split_row_and_value(mine, wrong, shape, place):
    for row, where in (17, 'training split of mine holds VALUE in row 17'), (
            44, 'test split of mine holds VALUE in row 4'):
        x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
        x[(row, *place)] = wrong
        said = f'{where}, place {", ".join(map(str, place))} '.replace('VALUE', str(wrong))
        with pytest.raises(BadInput, match=said):
            mine(x)


def test_labels_become_those_that_are_there_and_keep_their_names(mine):
    x, order = whole_numbers(255, np.uint8, (40, 4, 5, 1)), np.arange(40) % 4
    for known, names in ((np.array([2, 5, 9, 40]), ('2', '5', '9', '40')),
                         (np.array([2., 5., 9., 40.]), ('2', '5', '9', '40')),
                         (np.array(['ant', 'bee', 'cat', 'dog']), ('ant', 'bee', 'cat', 'dog'))):
        result = mine(x, known[order])
        assert result.names == names and result.train.label.dtype == np.int32
        np.testing.assert_array_equal(result.train.label, order[:32])
        np.testing.assert_array_equal(result.test.label, order[32:])
    result = mine(x, np.array([2, 5, 9, 40])[order], identities=(40, 5))
    assert result.names == ('40', '5') and set(result.test.label) == {0, 1}


@pytest.mark.parametrize('label, said', [
    (np.where(np.arange(40) == 35, 7, np.arange(40) % 4 + 1),
     'test split of mine has label 7 in row 3 .*there are 1, 2, 3, 4: .*data.identities'),
    (np.where(np.arange(40) == 38, 'eel', 'ant'), "has label eel in row 6 .*there are ant"),
    (np.arange(40) / 8, r'training split of mine has label 0.125 in row 1 .*whole numbers')])
def test_labels_that_cannot_be_are_refused_by_name(mine, label, said):
    with pytest.raises(BadInput, match=said):
        mine(whole_numbers(255, np.uint8, (40, 4, 5, 1)), label)


def test_labels_that_one_split_has_not_are_not_used(mine, capsys):
    x = whole_numbers(255, np.uint8, (40, 4, 5, 1))
    result = mine(x, np.where(np.arange(40) < 32, np.arange(40) % 3, -1))
    assert result.train.label is result.test.label is None and result.names == ()
    assert 'the test split of mine has no labels, so none are used' in capsys.readouterr().out


def test_large_numbers_are_warned_of_and_standardised(mine, capsys):
    x = np.random.default_rng(0).normal(3e4, [1e4, 1, 0], (50, 3))
    warned = mine(x)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith('warning: mine holds real numbers of size 3')
    assert '--config.data.standardise' in lines[0]
    np.testing.assert_allclose(warned.train.x, x[:40], rtol=1e-6)
    result = mine(x, standardise=True)
    assert capsys.readouterr().out == ''
    np.testing.assert_allclose(result.train.x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(result.train.x.std(0), [1, 1, 0], rtol=1e-5)
    expected = (x[40:] - x[:40].mean(0)) / np.where(x[:40].std(0) > 1e-6, x[:40].std(0), 1)
    np.testing.assert_allclose(result.test.x, expected, rtol=1e-4, atol=1e-5)
    mine(whole_numbers(255, np.float32))
    assert '--config.data.range=8bit' in capsys.readouterr().out
    for name in 'digits', 'breast_cancer', 'text', 'ring':
        data.load(name)
    assert capsys.readouterr().out == ''


# Bits


def test_static_bits_are_the_same_at_each_load_and_never_drawn_again(digits):
    one, two = (data.load('digits', binarize='static') for _ in range(2))
    np.testing.assert_array_equal(one.train.x, two.train.x)
    np.testing.assert_array_equal(one.test.x, two.test.x)
    assert set(np.unique(one.train.x)) == {0, 255} and one.train.x.dtype == np.uint8
    recorded = [one.prepare(one.train, jax.random.key(seed)).x for seed in (0, 1)]
    np.testing.assert_array_equal(*recorded)
    assert set(np.unique(recorded[0])) == {0, 1}


def test_static_bits_have_the_grey_value_as_probability(digits):
    bits = data.load('digits', binarize='static')
    for ours, grey in (bits.train.x, digits.train.x), (bits.test.x, digits.test.x):
        for level in np.unique(grey):
            samples, p = ours[grey == level] == 255, level / 255
            assert abs(samples.mean() - p) <= 5 * np.sqrt(p * (1 - p) / samples.size)


def test_static_bits_of_train_and_test_are_drawn_apart():
    x = np.full((64, 8, 8, 1), 128, np.uint8)
    assert 0.4 < (data.binarize_with_noise(x, 0) == data.binarize_with_noise(x, 1)).mean() < 0.6


def test_dynamic_bits_have_the_grey_value_as_probability():
    dataset, draws = data.load('digits', binarize='dynamic'), 2000
    stored_batch = Batch(dataset.train.x[:16])
    keys = jax.random.split(KEY, draws)
    bits = jax.jit(jax.vmap(lambda key: dataset.prepare(stored_batch, key).x))(keys)
    assert bits.dtype == jnp.float32 and set(np.unique(bits)) == {0, 1}
    p = stored_batch.x / 255.
    error = np.abs(np.mean(bits, 0) - p) / np.sqrt(np.maximum(p * (1 - p), 1e-9) / draws)
    assert error.max() < 5  # of 1024 pixels, one in 2000 runs would leave five sigma
    assert np.sqrt((error[(p > 0) & (p < 1)] ** 2).mean()) == pytest.approx(1, abs=.15)


def test_dynamic_bits_are_the_key_s():
    dataset = data.load('digits', binarize='dynamic')
    one, same, other = (dataset.prepare(dataset.train, jax.random.key(s)).x for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_unknown_binarize_is_refused():
    with pytest.raises(BadInput, match="'yes'.*none, dynamic, static"):
        data.load('digits', binarize='yes')


@pytest.mark.parametrize('binarize', ['static', 'dynamic'])
def test_bits_of_vectors_are_refused(binarize):
    with pytest.raises(BadInput, match=f'{binarize}.*breast_cancer'):
        data.load('breast_cancer', binarize=binarize)


# Views and selections


@pytest.mark.parametrize('binarize', ['none', 'static'])
def test_rows_are_the_images_as_sequences(binarize):
    images, rows = (data.load(name, binarize=binarize) for name in ('digits', 'rows:digits'))
    one, other = (d.prepare(d.train, KEY) for d in (images, rows))
    assert other.x.shape == (1438, 8, 8) and other.x.dtype == jnp.float32
    np.testing.assert_array_equal(other.x, np.asarray(one.x)[..., 0])
    np.testing.assert_array_equal(other.label, one.label)


def test_rows_of_colour_images_hold_all_channels():
    images, rows = (data.load(name, size=5, limit=9) for name in ('photos', 'rows:photos'))
    one, other = (np.asarray(d.prepare(d.train, KEY).x) for d in (images, rows))
    assert other.shape == (9, 5, 15)
    np.testing.assert_array_equal(other[:, 2, 3:6], one[:, 2, 1])


@pytest.mark.parametrize('name, said', [('rows:breast_cancer', 'rows: needs images.*real vectors'),
                                        ('rows:text', 'rows: needs images.*text'),
                                        ('columns:digits', "'columns'.*rows:digits")])
def test_views_of_what_has_none_are_refused(name, said):
    with pytest.raises(BadInput, match=said):
        data.load(name)


@pytest.mark.parametrize('identities', [(3, 5), (5, 3), (9, 0, 4)])
def test_identities_are_relabelled_in_their_order(digits, identities):
    chosen = data.load('digits', identities=identities)
    for ours, complete in (chosen.train, digits.train), (chosen.test, digits.test):
        kept = [i for i, label in enumerate(complete.label) if label in identities]
        np.testing.assert_array_equal(ours.x, complete.x[kept])
        np.testing.assert_array_equal(np.array(identities)[ours.label], complete.label[kept])
        assert ours.label.dtype == np.int32


def test_identities_choose_among_swapped_pictures_too():
    swapped = np.arange(4 * 3 * 2).reshape(4, 3, 2)
    batch = Batch(np.arange(4)[:, None], np.array([0, 2, 1, 2]), swapped)
    kept = data.keep_identities(batch, (2, 0), 'faces')
    np.testing.assert_array_equal(kept.x[:, 0], [0, 1, 3])
    np.testing.assert_array_equal(kept.label, [1, 0, 0])
    np.testing.assert_array_equal(kept.swapped, swapped[[0, 1, 3]][:, [2, 0]])


@pytest.mark.parametrize('name, identities, said', [
    ('digits', (3, 10), 'no label 10; there are 0, 1, 2'), ('digits', (-1,), 'no label -1'),
    ('digits', (3, 5, 3), 'twice'), ('text', (0, 1), 'text has no label 0; there are none'),
    ('breast_cancer', ('a',), "no label 'a'")])
def test_identities_that_are_not_there_are_refused(name, identities, said):
    with pytest.raises(BadInput, match=said):
        data.load(name, identities=identities)


@pytest.mark.parametrize('limit', [1, 7, 10, 95, 1438])
def test_limit_takes_the_first_examples_equally_of_all_labels(digits, limit, capsys):
    result = data.load('digits', limit=limit)
    assert result.train.x.shape == (limit, 8, 8, 1) and len(result.test.x) == 359
    if limit < 10:  # those of the others would be of no class
        assert result.train.label is result.test.label is None
        assert f'data.limit={limit} leaves label' in capsys.readouterr().out
        return
    counts = np.bincount(result.train.label, minlength=10)
    if limit < 1000:
        assert np.ptp(counts) <= 1
    for label, count in enumerate(counts):
        np.testing.assert_array_equal(result.train.x[result.train.label == label],
                                      digits.train.x[digits.train.label == label][:count])


def test_limit_where_a_label_runs_out_takes_more_of_the_others():
    batch = Batch(np.arange(8), np.array([0, 0, 0, 0, 0, 1, 1, 2]))
    for limit, counts in (3, [1, 1, 1]), (5, [2, 2, 1]), (7, [4, 2, 1]):
        result = data.balanced(batch, limit, 'set')
        np.testing.assert_array_equal(np.bincount(result.label), counts)
        assert (np.diff(result.x) > 0).all()
    np.testing.assert_array_equal(data.balanced(Batch(np.arange(8)), 3, 'set').x, [0, 1, 2])


@pytest.mark.parametrize('limit', [-1, 1439])
def test_limit_that_cannot_be_is_refused(limit):
    with pytest.raises(BadInput, match=f'data.limit.*1438.*digits.*{limit}'):
        data.load('digits', limit=limit)


def test_limit_counts_the_examples_of_the_identities():
    result = data.load('digits', identities=(3, 5), limit=21)
    assert np.ptp(np.bincount(result.train.label)) == 1 and len(result.train.x) == 21
    with pytest.raises(BadInput, match='data.limit'):
        data.load('digits', identities=(3, 5), limit=1000)


@pytest.mark.parametrize('labelled', [True, False])
def test_what_a_model_sees_at_first_holds_every_label(labelled):
    label = np.zeros(3000, np.int32)
    label[[2000, 2500, 2600]] = 2, 1, 2
    batch = Batch(np.arange(3000), label if labelled else None)
    example = train.example_batch(data.Dataset(batch, batch, unprepared), KEY)
    rows = np.asarray(example.x)
    np.testing.assert_array_equal(rows[:1024], np.arange(1024))
    if labelled:
        assert sorted(rows[1024:]) == [2000, 2500]
        np.testing.assert_array_equal(example.label, label[rows])
    else:
        assert len(rows) == 1024 and example.label is None


# Photographs


SIDE = 32


@pytest.fixture(scope='module')
def photos():
    return builtin.photos(SIDE)


def test_photos_are_crops_of_two_photographs(photos):
    for batch, count in zip(photos, (8000, 1000)):
        assert batch.x.shape == (count, SIDE, SIDE, 3) and batch.x.dtype == np.uint8
        np.testing.assert_array_equal(batch.label, np.arange(count) % 2)
    for one, again in zip(photos, builtin.photos()):
        assert np.array_equal(one.x, again.x), 'not the same each time'
    dataset = data.load('photos', size=8)
    assert dataset.train.x.shape == (8000, 8, 8, 3)
    x = dataset.prepare(jax.tree.map(lambda a: a[:9], dataset.test), KEY).x
    np.testing.assert_allclose(x, dataset.test.x[:9] / 255., rtol=1e-6)


def found_in(image, crops):
    """The columns, from and to, where each crop stands in a photograph; None where it does not."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE, 3))[:, :, 0]
    lines = windows[..., 0, :, :]  # the first row of a crop, a key to look it up by
    h, w = lines.shape[:2]
    place = {lines[i, j].tobytes(): [] for i in range(h) for j in range(w)}
    for i in range(h):
        for j in range(w):
            place[lines[i, j].tobytes()].append((i, j))
    columns = []
    for crop in crops:
        at = [j for i, j in place.get(crop[0].tobytes(), ()) if np.array_equal(windows[i, j], crop)]
        columns.append((at[0], at[0] + SIDE) if len(set(at)) == 1 else None)
    return columns


@pytest.mark.parametrize('which', thorough([0, 1], 0))
def test_photos_for_testing_come_from_columns_of_their_own(photos, which):
    from sklearn.datasets import load_sample_images
    image = load_sample_images().images[which]
    train_set, test_set = (found_in(image, b.x[b.label == which][:300]) for b in photos)
    assert None not in train_set and None not in test_set, 'a crop that is not in the photograph'
    assert all(128 <= start and end <= 256 for start, end in test_set)
    assert all(end <= 128 or start >= 256 for start, end in train_set)
    assert min(test_set)[0] < 140 and max(test_set)[1] > 244, 'the whole band is used'
    assert min(train_set)[0] < 12 and max(train_set)[1] > 628


@pytest.mark.parametrize('size', [-4, 3, 129])
def test_photos_of_a_size_that_cannot_be_are_refused(size):
    with pytest.raises(BadInput, match=f'between 4 and 128.*{size}'):
        data.load('photos', size=size)


@pytest.mark.parametrize('name', ['digits', 'breast_cancer', 'mnist'])
def test_size_of_a_set_that_has_one_is_refused(name):
    with pytest.raises(BadInput, match=f'{name} has one size.*faces, photos, sprites, text'):
        data.load(name, size=16)


# Caches, with a builder that stands in for TFDS'


class Image(SimpleNamespace):
    pass


class ClassLabel(SimpleNamespace):
    pass


class Source(list):
    def __getitems__(self, rows):
        return [self[i] for i in rows]


SPLITS = dict(train=7, test=3)


def example(i):
    image = np.random.default_rng(i).integers(0, 256, (4, 5, 1)).astype(np.uint8)
    return dict(image=image, label=i % 3)


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """What tfds_sets.py uses of a TFDS builder; `decoded` counts the splits that were read."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    features = dict(image=Image(shape=(4, 5, 1), np_dtype=np.uint8), label=ClassLabel())
    splits = {name: SimpleNamespace(num_examples=n, filepaths=[], shard_lengths=[])
              for name, n in SPLITS.items()}
    decoded = []

    def source(split):
        decoded.append(split)
        return Source(example(i) for i in range(SPLITS[split]))

    (tmp_path / 'set').mkdir()
    return SimpleNamespace(
        name='fake', data_dir=str(tmp_path / 'set'), as_data_source=source, decoded=decoded,
        info=SimpleNamespace(splits=splits, features=features, full_name='fake/1.0.0'))


def files(builder, split='train'):
    """The files of a split in the cache."""
    return sorted((Path(builder.data_dir).parent / 'cache').rglob(f'gen_jax-{split}-*.npy'))


def part_of(builder, part, split='train'):
    file, = (file for file in files(builder, split) if file.stem.endswith(part))
    return file


def holds_all(batch, split='train'):
    expected = [example(i) for i in range(SPLITS[split])]
    np.testing.assert_array_equal(batch.x, [e['image'] for e in expected])
    np.testing.assert_array_equal(batch.label, [e['label'] for e in expected])


def test_cache_is_made_once_and_then_mapped(builder, capsys):
    holds_all(tfds_sets.cached(builder, 'train'))
    assert 'decoding 7 images of fake train' in capsys.readouterr().out
    again = tfds_sets.cached(builder, 'train')
    holds_all(again)
    assert builder.decoded == ['train'] and capsys.readouterr().out == ''
    assert isinstance(again.x, np.memmap) and again.x.dtype == np.uint8
    assert [file.stem.split('-')[-1] for file in files(builder)] == ['image', 'label', 'sum']


def test_splits_have_caches_of_their_own(builder):
    holds_all(tfds_sets.cached(builder, 'train'))
    holds_all(tfds_sets.cached(builder, 'test'), 'test')
    holds_all(tfds_sets.cached(builder, 'train'))
    assert builder.decoded == ['train', 'test']


def truncated(file):
    file.write_bytes(file.read_bytes()[:-20])


def header_only(file):
    file.write_bytes(file.read_bytes()[:40])


def emptied(file):
    file.write_bytes(b'')


def garbage(file):
    file.write_bytes(b'garbage' * 100)


def pickled(file):
    np.save(file, np.array([dict(a=1)] * 7, object), allow_pickle=True)


def of_another_set(file):
    np.save(file, np.zeros((5, 4, 5, 1), np.uint8))


@pytest.mark.parametrize('part', ['image', 'label', 'sum'])
@pytest.mark.parametrize('damage', [truncated, header_only, emptied, garbage, pickled,
                                    of_another_set])
def test_damaged_cache_is_made_again_and_said_so(builder, capsys, damage, part):
    tfds_sets.cached(builder, 'train')
    damage(part_of(builder, part))
    capsys.readouterr()
    holds_all(tfds_sets.cached(builder, 'train'))
    out = capsys.readouterr().out
    assert 'the cache ' in out and 'making it again' in out and 'decoding 7' in out
    holds_all(tfds_sets.cached(builder, 'train'))
    assert builder.decoded == ['train', 'train']


def test_cache_of_another_number_of_examples_is_made_again(builder):
    tfds_sets.cached(builder, 'train')
    for part, array in dict(image=np.zeros((5, 4, 5, 1), np.uint8), label=np.zeros(5)).items():
        np.save(part_of(builder, part), array)
    holds_all(tfds_sets.cached(builder, 'train'))


@pytest.mark.parametrize('part', ['image', 'label', 'sum'])
def test_missing_part_of_a_cache_is_made_again(builder, part):
    tfds_sets.cached(builder, 'train')
    part_of(builder, part).unlink()
    holds_all(tfds_sets.cached(builder, 'train'))
    assert builder.decoded == ['train', 'train']


def test_write_that_fails_leaves_the_file_there_was(tmp_path, monkeypatch):
    file = tmp_path / 'a.npy'
    cache.write(file, np.arange(3))

    def fails(part, array, **_):
        part.write(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(np, 'save', fails)
    with pytest.raises(OSError, match='disk full'):
        cache.write(file, np.arange(4))
    monkeypatch.undo()
    np.testing.assert_array_equal(np.load(file), np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ['a.npy']


def test_write_leaves_one_file_that_all_can_read(tmp_path):
    cache.write(tmp_path / 'a.npy', np.arange(3))
    file, = tmp_path.iterdir()
    assert file.name == 'a.npy' and file.stat().st_mode & 0o777 == 0o644


def test_cache_that_cannot_be_written_is_said(builder, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(BadInput, match='file/fake/1.0.0 cannot be written.*data.cache_dir'):
        tfds_sets.cached(builder, 'train', tfds_sets.ReadOptions(cache_dir=str(tmp_path / 'file')))


@pytest.mark.parametrize('flip', [*range(12), *(pytest.param(i, marks=pytest.mark.full)
                                                for i in range(12, 200))])
def test_a_flipped_bit_anywhere_in_a_cache_is_seen(builder, flip):
    """All of its three files, their headers too, whose padding alone does not matter."""
    tfds_sets.cached(builder, 'train')
    chance = np.random.default_rng(flip)
    file = files(builder)[flip % 3]
    content = bytearray(file.read_bytes())
    content[chance.integers(len(content))] ^= 1 << chance.integers(8)
    file.write_bytes(content)
    holds_all(tfds_sets.cached(builder, 'train'))


@pytest.mark.parametrize('image', [
    Image(shape=(None, None, 3), np_dtype=np.uint8), Image(shape=(None, 4, 1), np_dtype=np.uint16),
    SimpleNamespace()], ids=['any size', '16 bits of any size', 'none'])
def test_set_without_images_of_one_size_is_refused(builder, image):
    builder.info.features['image'] = image
    with pytest.raises(BadInput, match='fake'):
        tfds_sets.cached(builder, 'train')
    assert files(builder) == []


@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_cache_keeps_the_type_of_images(builder, dtype):
    builder.info.features['image'] = Image(shape=(4, 5, 1), np_dtype=dtype)
    for _ in range(2):
        result = tfds_sets.cached(builder, 'train').x
        assert result.dtype == dtype and len(builder.decoded) == 1
        np.testing.assert_array_equal(result, [example(i)['image'] for i in range(7)])


def test_set_without_labels_has_them_all_minus_one(builder):
    del builder.info.features['label']
    assert set(tfds_sets.cached(builder, 'train').label) == {-1}


# MNIST


@pytest.fixture(scope='module')
def mnist(mnist_dir):
    return data.load('mnist', dir=str(mnist_dir))


@pytest.mark.full
def test_mnist_has_its_examples(mnist):
    assert mnist.train.x.shape == (60000, 28, 28, 1) and mnist.test.x.shape == (10000, 28, 28, 1)
    for batch in mnist.train, mnist.test:
        assert batch.x.dtype == np.uint8 and isinstance(batch.x, np.memmap)
        assert len(batch.label) == len(batch.x) and set(batch.label) == set(range(10))
    assert np.mean(mnist.train.x) / 255 == pytest.approx(.1307, abs=1e-4)


@pytest.mark.full
@pytest.mark.parametrize('split, prefix', [('train', 'train'), ('test', 't10k')])
def test_mnist_is_that_of_the_original_files(mnist, mnist_dir, split, prefix):
    """TFDS shuffles, so the images are compared as a set, each with its label."""
    folder = mnist_dir / 'downloads' / 'manual'
    if not folder.exists():
        pytest.skip(f'no original files in {folder}')

    def read(name, header):
        raw = gzip.decompress((folder / f'{prefix}-{name}-ubyte.gz').read_bytes())
        return np.frombuffer(raw, np.uint8, offset=header)

    ours = getattr(mnist, split)
    same_examples(ours.x, ours.label, read('images-idx3', 16), read('labels-idx1', 8))


@pytest.mark.full
def test_mnist_is_not_decoded_again(mnist, mnist_dir, capsys):
    again = data.load('mnist', dir=str(mnist_dir))
    assert 'decoding' not in capsys.readouterr().out
    np.testing.assert_array_equal(again.test.x[:100], mnist.test.x[:100])


@pytest.mark.full
def test_mnist_is_found_by_the_environment(mnist, mnist_dir, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(mnist_dir))
    assert len(data.load('mnist').train.x) == 60000


def test_mnist_static_bits_keep_the_mean(mnist, mnist_dir):
    bits = data.load('mnist', dir=str(mnist_dir), binarize='static')
    assert np.mean(bits.test.x) == pytest.approx(np.mean(mnist.test.x), rel=2e-3)


# The loop


def counter(size):
    """A model whose state counts how often it saw each example, which is its own number."""
    def step(state, batch, key):
        recorded = state.params['recorded'].at[batch.x].add(1)
        first = state.params['first'].at[state.step].set(batch.x[0])
        return state._replace(
            step=state.step + 1, params=dict(recorded=recorded, first=first)), dict(
                loss=batch.x.sum().astype(jnp.float32), step=state.step.astype(jnp.float32))

    def init(steps):
        params = dict(recorded=jnp.zeros(size, jnp.int32), first=jnp.zeros(steps, jnp.int32))
        return State(jnp.zeros((), jnp.int32), params, {}, {}, {})

    return Model(init=init, step=step, decode=None,
                 evaluate=lambda state, batch, key: dict(
                     x=batch.x, row=jnp.stack([batch.x, batch.x ** 2], 1)))


def unprepared(batch, key):
    return batch


@functools.cache
def compiled(size, batch, steps):
    return jax.jit(loop.training(counter(size), unprepared, size, batch, steps))


def played(size, batch, epochs, seed=0, steps=None):
    """The counting model's state after so many epochs, `steps` a call."""
    model, per_epoch = counter(size), size // batch
    steps = steps or per_epoch
    run = compiled(size, batch, steps)
    state, rows = model.init(epochs * per_epoch), Batch(jnp.arange(size))
    for _ in range(epochs * per_epoch // steps):
        state, metrics, bad = run(state, rows, jax.random.key(seed))
        assert int(bad) == -1
    return state, metrics


@pytest.mark.parametrize('size, batch', [(23, 5), (60, 10), (7, 7), (9, 1)])
def test_epoch_shows_each_example_at_most_once_and_whole_batches(size, batch):
    recorded = played(size, batch, 1)[0].params['recorded']
    assert int(recorded.max()) == 1 and int(recorded.sum()) == size // batch * batch


def test_examples_left_out_differ_between_epochs():
    recorded = played(23, 5, 8)[0].params['recorded']
    assert int(recorded.sum()) == 8 * 20 and int(recorded.min()) > 0


def test_order_is_a_new_one_each_epoch_and_the_seed_s():
    one, same, other = (np.asarray(played(60, 10, 3, s)[0].params['first']) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    epochs = one.reshape(3, 6)
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])


@pytest.mark.parametrize('steps', [1, 3])
def test_steps_in_several_calls_are_those_of_one(steps):
    complete, parts = played(60, 10, 2)[0], played(60, 10, 2, steps=steps)[0]
    np.testing.assert_array_equal(complete.params['first'], parts.params['first'])
    assert int(parts.step) == 12 and int(parts.params['recorded'].max()) == 2


def test_metrics_are_means_over_the_steps():
    state, metrics = played(60, 10, 2)
    assert float(metrics['loss']) == pytest.approx(np.arange(60).sum() / 6)
    assert float(metrics['step']) == pytest.approx(np.arange(6, 12).mean())


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_first_step_that_is_not_finite_is_named(wrong):
    def step(state, batch, key):
        bad = jnp.where(state.step >= 9, wrong, 0.)
        return state._replace(step=state.step + 1), dict(fine=jnp.ones(()), loss=bad)

    run = jax.jit(loop.training(counter(60)._replace(step=step), unprepared, 60, 10, 6))
    state, rows = counter(60).init(12), Batch(jnp.arange(60))
    state, _, bad = run(state, rows, KEY)
    assert int(bad) == -1
    assert int(run(state, rows, KEY)[2]) == 9


@pytest.mark.parametrize('size, batch', [(1, 5), (7, 1), (10, 5), (23, 5), (23, 64)])
def test_evaluation_counts_each_example_once(size, batch):
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    run = jax.jit(loop.evaluation(counter(size).evaluate, unprepared, size, batch))
    result = run(counter(size).init(1), Batch(jnp.asarray(x)), KEY)
    np.testing.assert_allclose(result['x'], x.mean(dtype=np.float64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result['row'], [x.mean(), (x ** 2).mean()], rtol=1e-5, atol=1e-6)


def noise_of(steps):
    """What a model saw of its key and of prepare's in each step of an epoch."""
    def step(state, batch, key):
        samples = dict(step=jax.random.uniform(key), prepared=batch.x[0])
        return state._replace(step=state.step + 1,
                              params=jax.tree.map(lambda a, v: a.at[state.step].set(v),
                                                  state.params, samples)), dict(loss=jnp.zeros(()))

    def prepare(batch, key):
        return Batch(jax.random.uniform(key, (2,)))

    zeros = jnp.zeros(steps)
    state = State(jnp.zeros((), jnp.int32), dict(step=zeros, prepared=zeros), {}, {}, {})
    run = jax.jit(loop.training(counter(8)._replace(step=step), prepare, 8, 2, 4))
    for _ in range(steps // 4):
        state = run(state, Batch(jnp.arange(8)), KEY)[0]
    return state.params


def test_each_step_has_noise_of_its_own():
    samples = noise_of(8)
    assert len(np.unique(np.concatenate([samples['step'], samples['prepared']]))) == 16
