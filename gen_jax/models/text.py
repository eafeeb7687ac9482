"""The autoencoder of text: a sentence in a vector, as in Dai & Le 2015, a character at a time."""
import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, optimisers
from gen_jax.game import game
from gen_jax.nets import sequences
from gen_jax.optimisers import Optimiser
from gen_jax.types import ABOVE_0, ALONE, SHARE, BadInput, Batch, Context, Model, Player

def make(example: Batch, context: Context = ALONE, *, symbols: int = 96, latent: int = 64,
         width: int = 128, embed: int = 16, drop: float = .2,
         optimiser: Optimiser = optimisers.make(learning_rate=4e-3, clip_norm=1.)) -> Model:
    """Minimises the cross-entropy of integers x (n, t) below `symbols`, of which 0 is padding.

    In training the decoder sees the true characters before each (teacher forcing), but for a share
    `drop` of them, so that it heeds the code (Bowman et al. 2016); `decode` gives it those that it
    has chosen itself, each the likeliest.  The padding counts as far as its first character, which
    ends the text.  width: of the recurrent units.
    Metrics: loss, in nats per example; nats_per_character; accuracy_forced, the share of
    characters that are the likeliest given the true ones before them; in evaluation also accuracy,
    the share that decode(encode(x)) has right, the padding left out.
    Raises BadInput for what does not fit the data.
    """
    require_symbols(example.x, symbols)
    if not 0 <= drop < 1:
        raise BadInput(f'drop must be at least 0 and less than 1, not {drop}')
    encoder = sequences.encoder(symbols, latent, width=width, embed=embed)
    decoder = sequences.decoder(symbols, example.x.shape[1], width=width, embed=embed)

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
        return dict(loss=loss, nats_per_character=loss / length, accuracy_forced=right / length)

    def objective(state, batch, key):
        lost = jax.random.bernoulli(key, drop, batch.x.shape)
        values = terms(state, batch.x, jnp.where(lost, symbols, batch.x))
        metrics = jax.tree.map(jnp.mean, values)
        return metrics['loss'], metrics, {}

    def evaluate(state, batch, key):
        x = batch.x
        text = sequences.before_padding(x)
        right = losses.per_example(text & (decode(state, encode(state, x)) == x))
        return terms(state, x, x) | dict(accuracy=right / jnp.maximum(text.sum(1), 1))

    return game({'ae': Player(init, objective, optimiser)}, axis=context.axis, evaluate=evaluate,
                encode=encode, decode=decode,
                bounds=dict(loss=ABOVE_0, accuracy_forced=SHARE, accuracy=SHARE))


def require_symbols(x, symbols: int) -> None:
    """Raises BadInput where x is not rows of integers from 0 to symbols - 1."""
    if not jnp.issubdtype(x.dtype, jnp.integer) or x.ndim != 2:
        raise BadInput(f'text needs a data set of characters, integers (n, t), but this one has '
                       f'{x.dtype} of shape {tuple(x.shape)}; use --config=configs/text.py')
    if x.min() < 0 or x.max() >= symbols:
        raise BadInput(f'the data holds symbols from {x.min()} to {x.max()}, but symbols must be '
                       f'from 0 to {symbols - 1}; give --config.model.symbols')
