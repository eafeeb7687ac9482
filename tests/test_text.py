"""Text as integers, the data set of prose, and the autoencoder of characters."""
import functools

from hypothesis import given, strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import quick
from gen_jax import optimisers
from gen_jax.data import text as data
from gen_jax.models import text as model
from gen_jax.nets import sequences
from gen_jax.types import BadInput, Batch

T, SYMBOLS = 12, 96
SMALL = dict(latent=5, width=7, embed_dim=3)
PRINTABLE = st.text(st.sampled_from([chr(c) for c in range(32, 127)]), min_size=1, max_size=20)


def one_line(error):
    return '\n' not in str(error.value) and str(error.value)


def rows(*texts, length=T):
    return np.stack([data.ids(t, length) for t in texts])


# Characters


def test_alphabet_is_padding_and_printable_ascii():
    assert len(data.ALPHABET) == SYMBOLS and data.ALPHABET[0] == '\0'
    assert data.ALPHABET[1:] == ''.join(chr(c) for c in range(128) if chr(c).isprintable())


@given(PRINTABLE, st.integers(0, 9))
def test_ids_and_text_are_inverse(text, more):
    numbers = data.ids(text, len(text) + more)
    assert numbers.dtype == np.int32 and numbers.shape == (len(text) + more,)
    assert data.text(numbers) == text
    assert (numbers[:len(text)] > 0).all() and not numbers[len(text):].any()


def test_text_ends_at_the_first_padding():
    numbers = rows('ab cd')[0]
    numbers[2] = 0
    assert data.text(numbers) == 'ab'
    assert data.text(np.zeros(3, np.int32)) == ''


@pytest.mark.parametrize('text, message', [
    ('', 'empty'), ('x' * (T + 1), f'has {T + 1} characters, but the window is only {T}'),
    ('naïve', r"'\xef'"), ('a\nb', r"'\n'"), ('a\0', r"'\x00'")])
def test_ids_refuse_what_they_cannot_hold(text, message):
    with pytest.raises(BadInput) as error:
        data.ids(text, T)
    assert message in one_line(error)


# The set of prose


TOPIC = '''The "with" statement
********************

The *with* statement is “used” to wrap [1] the execution of a
block.  This isn’t code, e.g. it is prose!  Too short.

   with_stmt ::= "with" with_stmt_contents ":" suite

* Here is an item of a list.

   if x: return y
   A = {1: 2} This block holds a table of something.

   >>> The session is not prose either.
'''


def test_sentences_are_prose_without_markup():
    assert data.sentences(TOPIC) == [
        'The with statement is used to wrap the execution of a block.',
        "This isn't code, e.g. it is prose!", 'Here is an item of a list.']


@given(st.lists(PRINTABLE.map(lambda w: w.replace(' ', '-')), min_size=1), st.integers(8, 24))
def test_a_sentence_is_cut_between_words(words, length):
    fit = [w for w in words if len(w) <= length]
    pieces = data.pieces(' '.join(words), length)
    assert ' '.join(pieces).split() == fit
    assert all(len(p) <= length for p in pieces)
    assert all(len(p) + 1 + len(q.split()[0]) > length for p, q in zip(pieces, pieces[1:]))
    windows = data.windows(' '.join(words), length)
    assert [w.split()[0] for w in windows] == fit and all(len(w) <= length for w in windows)
    assert all(f' {w} ' in f' {" ".join(words)} ' for w in windows)


@pytest.fixture(scope='module', params=[8, 32, 40])
def prose(request):
    return request.param, *data.text_set(request.param)


def test_set_is_rows_of_characters_with_padding_at_the_end_only(prose):
    length, *parts = prose
    for batch in parts:
        assert batch.x.dtype == np.int32 and batch.x.shape[1] == length and batch.label is None
        assert (batch.x[:, 0] > 0).all() and (batch.x < SYMBOLS).all() and (batch.x >= 0).all()
        assert not (batch.x[:, 1:] * (batch.x[:, :-1] == 0)).any()


def test_test_pieces_are_new_and_nothing_is_there_twice(prose):
    train, test = ([data.text(row) for row in b.x] for b in prose[1:])
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    assert not set(train) & set(test)
    assert len(train) > 2 * len(test) > 200


def test_set_is_prose(prose):
    texts = [data.text(row) for b in prose[1:] for row in b.x]
    assert all(t == t.strip() and '  ' not in t for t in texts)
    assert not set(''.join(texts)) & set('"*`{}<>=|\\')
    share = np.mean([c.isalpha() or c == ' ' for t in texts for c in t])
    assert share > .9


def test_set_is_the_same_each_time():
    for a, b in zip(data.text_set(10), data.text_set(10)):
        assert np.array_equal(a.x, b.x)


def test_too_small_a_window_is_refused():
    with pytest.raises(BadInput) as error:
        data.text_set(7)
    assert 'at least 8' in one_line(error) and '7' in one_line(error)


# The model


TEXTS = 'abc', 'hello, world', 'x', 'two words', 'Is it?'


@functools.cache
def built():
    """A small compiled model, its initial state with all biases changed, and data."""
    batch = Batch(jnp.asarray(rows(*TEXTS)))
    m = model.make(batch, **SMALL, word_dropout=1 - 1e-6)
    m = m._replace(**{f: quick(getattr(m, f)) for f in ('step', 'evaluate', 'encode', 'decode')})
    state = quick(m.init)(jax.random.key(0), batch)
    noise = jax.random.key(7)
    return m, state._replace(params=jax.tree.map(
        lambda p: p + .3 * jax.random.normal(noise, p.shape), state.params)), batch


@functools.cache
def speller():
    model_built = sequences.decoder(SYMBOLS, T, width=SMALL['width'], embed_dim=SMALL['embed_dim'])
    return model_built._replace(logits=quick(model_built.logits))


def logits(m, state, x, characters):
    """The logits of the model's decoder for z = encode(x) and the given characters."""
    return speller().logits(state.params['ae']['decoder'], m.encode(state, x), characters)


def surprise(y, x, text):
    """-log p of each character of a text and of its end, from logits (t, symbols)."""
    y = np.float64(y)
    return [np.log(np.exp(y[t]).sum()) - y[t, x[t]] for t in range(min(len(text) + 1, T))]


def test_evaluation_is_plain_numpy_of_the_logits():
    m, state, batch = built()
    y, x = np.asarray(logits(m, state, batch.x, batch.x)), np.asarray(batch.x)
    result = m.evaluate(state, batch, jax.random.key(1))
    for i, text in enumerate(TEXTS):
        nll = surprise(y[i], x[i], text)
        np.testing.assert_allclose(result['loss'][i], sum(nll), rtol=1e-5)
        np.testing.assert_allclose(result['nats_per_character'][i], np.mean(nll), rtol=1e-5)
        forced = [y[i, t].argmax() == x[i, t] for t in range(len(nll))]
        np.testing.assert_allclose(result['teacher_forced_accuracy'][i], np.mean(forced), rtol=1e-6)


def test_a_step_reports_what_evaluation_does_where_nothing_is_dropped():
    m, state, batch = built()
    evaluated = m.evaluate(state, batch, jax.random.key(1))
    step = quick(model.make(batch, **SMALL, word_dropout=0.).step)
    after, metrics = step(state, batch, jax.random.key(1))
    assert set(metrics) == {'loss', 'nats_per_character', 'teacher_forced_accuracy'}
    for name, value in metrics.items():
        np.testing.assert_allclose(value, evaluated[name].mean(), rtol=1e-5)
    assert int(after.step) == 1


def test_a_step_gives_the_decoder_nothing_where_all_is_dropped():
    m, state, batch = built()
    y = logits(m, state, batch.x, jnp.full_like(batch.x, SYMBOLS))
    nll = [sum(surprise(*args)) for args in zip(y, batch.x, TEXTS)]
    _, metrics = m.step(state, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics['loss'], np.mean(nll), rtol=1e-5)


def test_what_follows_the_first_padding_changes_nothing():
    m, state, batch = built()
    behind = np.cumsum(batch.x == 0, 1) > 1
    assert behind.any()
    changed = Batch(jnp.where(behind, 37, batch.x))
    np.testing.assert_array_equal(m.encode(state, batch.x), m.encode(state, changed.x))
    a, b = (m.evaluate(state, b, jax.random.key(1)) for b in (batch, changed))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


def test_every_character_of_the_text_changes_the_code():
    m, state, batch = built()
    z = np.asarray(m.encode(state, batch.x))
    for t in range(T):
        other = m.encode(state, batch.x.at[:, t].set(jnp.where(batch.x[:, t] == 50, 51, 50)))
        moved = np.abs(np.asarray(other) - z).max(1) > 1e-6
        lengths = np.array([len(text) for text in TEXTS])
        assert moved[lengths >= t].all() and not moved[lengths < t].any()


def test_decoding_is_an_autoregressive_argmax():
    few = 5  # symbols, so that some texts end early
    m = model.make(Batch(jnp.ones((1, T), jnp.int32)), vocab_size=few, **SMALL)
    state = quick(m.init)(jax.random.key(0), Batch(jnp.ones((1, T), jnp.int32)))
    z = jax.random.normal(jax.random.key(5), (40, SMALL['latent'])) * 3
    decoder = sequences.decoder(few, T, width=SMALL['width'], embed_dim=SMALL['embed_dim'])
    logits = quick(functools.partial(decoder.logits, state.params['ae']['decoder']))
    x = np.zeros((len(z), T), np.int32)
    for t in range(T):
        y = np.asarray(logits(z, jnp.asarray(x)))[:, t].argmax(-1)
        x[:, t] = np.where((x[:, :t] == 0).any(1), 0, y)
    decoded = quick(m.decode)(state, z)
    assert decoded.dtype == jnp.int32
    np.testing.assert_array_equal(decoded, x)
    assert len(np.unique(x)) == few and 0 < (x == 0).any(1).mean() < 1


def test_decoder_is_causal():
    m, state, batch = built()
    params, z = state.params['ae']['decoder'], m.encode(state, batch.x)
    y = speller().logits(params, z, batch.x)
    for t in (0, 5, T - 1):
        other = speller().logits(params, z, batch.x.at[:, t].set(60))
        np.testing.assert_array_equal(y[:, :t + 1], other[:, :t + 1])
        assert t == T - 1 or np.abs(y[:, t + 1] - other[:, t + 1]).max() > 1e-5


@functools.cache
def learned():
    """A model of eight texts after 300 steps, its first loss, and the texts."""
    texts = ('A cat sat.', 'No, it ran.', 'Why?', 'Here we go!', 'One two', 'x = y', 'Stop', 'end.')
    batch = Batch(jnp.asarray(rows(*texts)))
    m = model.make(batch, latent=16, width=32, embed_dim=8,
                   optimiser=optimisers.make(learning_rate=1e-2, clip_norm=1.))
    m = m._replace(evaluate=quick(m.evaluate), encode=quick(m.encode), decode=quick(m.decode))

    @quick
    def learn(state):
        return lax.scan(lambda s, key: m.step(s, batch, key), state,
                        jax.random.split(jax.random.key(1), 300))

    state, metrics = learn(quick(m.init)(jax.random.key(0), batch))
    return m, state, metrics['loss'][0], texts


@pytest.mark.full
def test_eight_sentences_are_memorised():
    m, state, before, texts = learned()
    batch = Batch(jnp.asarray(rows(*texts)))
    result = m.evaluate(state, batch, jax.random.key(2))
    assert result['accuracy'].min() == 1 and result['loss'].max() < 1 < before
    decoded = m.decode(state, m.encode(state, batch.x))
    assert [data.text(row) for row in decoded] == list(texts)


@pytest.mark.full
def test_accuracy_is_the_share_of_characters_right_when_decoding_freely():
    m, state, _, texts = learned()
    others = [text[::-1].replace('e', 'Z') for text in texts]  # other than the learned ones
    batch = Batch(jnp.asarray(rows(*others)))
    decoded = np.asarray(m.decode(state, m.encode(state, batch.x)))
    shares = [np.mean([decoded[i, t] == batch.x[i, t] for t in range(len(text))])
              for i, text in enumerate(others)]
    result = m.evaluate(state, batch, jax.random.key(2))['accuracy']
    np.testing.assert_allclose(result, shares, rtol=1e-6)
    assert len(set(shares)) > 3


@pytest.mark.parametrize('x, hyper, message', [
    (np.zeros((2, 4), np.float32), {}, '--config=configs/text.py'),
    (np.zeros((2, 4, 4, 1), np.int32), {}, '--config=configs/text.py'),
    (np.full((2, 4), 96, np.int32), {}, 'from 0 to 95'),
    (np.full((2, 4), 9, np.int32), dict(vocab_size=9), 'from 0 to 8'),
    (np.full((2, 4), -1, np.int32), {}, 'from -1'),
    (np.ones((2, 4), np.int32), dict(latent=0), 'latent must be at least 1'),
    (np.ones((2, 4), np.int32), dict(width=0), 'width must be at least 1'),
    (np.ones((2, 4), np.int32), dict(embed_dim=0), 'embed_dim must be at least 1'),
    (np.ones((2, 4), np.int32), dict(word_dropout=1.), 'word_dropout must be')])
def test_what_does_not_fit_is_refused(x, hyper, message):
    with pytest.raises(BadInput) as error:
        model.make(Batch(jnp.asarray(x)), **hyper)
    assert message in one_line(error)
