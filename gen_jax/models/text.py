"""The autoencoder of text, one character at a time, as in Dai & Le 2015."""
import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, optimisers
from gen_jax.game import game
from gen_jax.nets import sequences
from gen_jax.optimisers import Optimiser
from gen_jax.types import (NON_NEGATIVE, DEFAULT_CONTEXT, UNIT_INTERVAL, BadInput, Batch, Context,
                           Model, Player)


def make(
    example: Batch, context: Context = DEFAULT_CONTEXT, *, vocab_size: int = 96, latent: int = 64,
    width: int = 128, embed_dim: int = 16, word_dropout: float = .2,
    optimiser: Optimiser = optimisers.make(learning_rate=4e-3, clip_norm=1.)
) -> Model:
    """Minimises the cross-entropy of integers x (n, t) below vocab_size, of which 0 is padding.

    In training the decoder gets the true characters before each (teacher forcing), except for a
    share word_dropout of them, so that it uses the code (Bowman et al. 2016); `decode` feeds back
    the likeliest character. The padding counts up to its first character, which ends the text.

    Args:
        vocab_size: number of symbols, padding included.
        latent: size of the code.
        width: number of gated recurrent units.
        embed_dim: size of a symbol's embedding.
        word_dropout: share of the decoder's inputs that are dropped in training.

    Metrics: loss, in nats per example; nats_per_character; teacher_forced_accuracy, the share of
    characters that are the likeliest given the true ones before them; in evaluation also accuracy,
    the share that decode(encode(x)) gets right, without the padding.
    Raises: BadInput for options that do not fit the data.
    """
    require_vocab(example.x, vocab_size)
    if not 0 <= word_dropout < 1:
        raise BadInput(f'word_dropout must be at least 0 and less than 1, not {word_dropout}')
    encoder = sequences.encoder(vocab_size, latent, width=width, embed_dim=embed_dim)
    decoder = sequences.decoder(vocab_size, example.x.shape[1], width=width, embed_dim=embed_dim)

    def init(key, batch):
        keys = jax.random.split(key)
        params, _ = encoder.init(keys[0], batch.x)
        return dict(encoder=params, decoder=decoder.init(keys[1], jnp.zeros((1, latent)))), {}

    def encode(state, x):
        return encoder.apply(state.params['ae']['encoder'], {}, x)

    def decode(state, z):
        return decoder.greedy(state.params['ae']['decoder'], z)

    def terms(state, x, given):
        y = decoder.logits(state.params['ae']['decoder'], encode(state, x), given)
        text = sequences.before_padding(x)
        counts = jnp.pad(text[:, :-1], ((0, 0), (1, 0)), constant_values=True)  # and its end
        length = counts.sum(1)
        nll = optax.softmax_cross_entropy_with_integer_labels(y, x)
        loss = losses.per_example(jnp.where(counts, nll, 0))
        right = losses.per_example(counts & (y.argmax(-1) == x))
        return dict(loss=loss, nats_per_character=loss / length,
                    teacher_forced_accuracy=right / length)

    def objective(state, batch, key):
        lost = jax.random.bernoulli(key, word_dropout, batch.x.shape)
        values = terms(state, batch.x, jnp.where(lost, vocab_size, batch.x))
        metrics = jax.tree.map(jnp.mean, values)
        return metrics['loss'], metrics, {}

    def evaluate(state, batch, key):
        x = batch.x
        text = sequences.before_padding(x)
        right = losses.per_example(text & (decode(state, encode(state, x)) == x))
        return terms(state, x, x) | dict(accuracy=right / jnp.maximum(text.sum(1), 1))

    return game({'ae': Player(init, objective, optimiser)}, axis=context.axis,
                evaluate=evaluate, encode=encode, decode=decode, bounds=dict(
                    loss=NON_NEGATIVE, teacher_forced_accuracy=UNIT_INTERVAL,
                    accuracy=UNIT_INTERVAL))


def require_vocab(x, vocab_size: int) -> None:
    """Raises BadInput where x is not rows of integers from 0 to symbols - 1."""
    if not jnp.issubdtype(x.dtype, jnp.integer) or x.ndim != 2:
        raise BadInput(f'text needs a data set of characters, integers (n, t), but this one has '
                       f'{x.dtype} of shape {tuple(x.shape)}; use --config=configs/text.py')
    if x.min() < 0 or x.max() >= vocab_size:
        raise BadInput(f'the data holds symbols from {x.min()} to {x.max()}, but symbols must be '
                       f'from 0 to {vocab_size - 1}; give --config.model.vocab_size')
