"""The nouns: what data, a state, a player and a model are."""
import difflib
from typing import Any, Callable, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays
ABOVE_0, SHARE = (0., float('inf')), (0., 1.)  # bounds of metrics


class BadInput(ValueError):
    """What the user gave cannot be used; the message says what is wrong and what would be right."""


def near(word: str, known) -> str:
    """The nearest of the known words, as a question; '' where none is near."""
    match = difflib.get_close_matches(word, list(known), 1, cutoff=.4)
    return f', did you mean {match[0]!r}?' if match else ''


class Batch(NamedTuple):
    """Examples x (n, ...), and what else the data set knows of them.

    label: integers (n,); swapped: (n, labels, ...), each example as it would be with every label.
    """
    x: Array
    label: Array | None = None
    swapped: Array | None = None


class State(NamedTuple):
    """Everything that training changes, arrays only: what scan carries and a checkpoint holds."""
    step: Array                # int32 scalar
    params: dict[str, Tree]    # by player
    opt: dict[str, Tree]       # by player
    average: dict[str, Tree]   # by player, where asked for: moving averages of both, as a dict
    buffers: dict[str, Tree]   # by player: batch statistics, power-iteration vectors, codebooks

    def averaged(self) -> 'State':
        """The state that is evaluated and sampled from: the moving averages in the place of what
        they are kept of, with none of their own."""
        kept = self.average.items()
        return self._replace(
            params=self.params | {name: average['params'] for name, average in kept},
            buffers=self.buffers | {name: average['buffers'] for name, average in kept},
            average={})


class Player(NamedTuple):
    """One who moves down the gradient of its own loss in its own parameters.

    init:  (key, batch) -> (params, buffers)
    loss:  (state, batch, key) -> (scalar, metrics, buffers), the last two dicts: what to report,
           and the player's new buffers ({} where nothing changed); sees every player's parameters
    optimiser: of gen_jax.optimisers, or of optax itself
    every: it moves on the steps divisible by this number
    frozen: names of parameters, of the topmost level, that stay as they are
    project: parameters -> the nearest that are allowed, after each move
    """
    init: Callable[[Array, Batch], tuple[Tree, Tree]]
    loss: Callable[[State, Batch, Array], tuple[Array, dict[str, Array], Tree]]
    optimiser: Any
    every: int = 1
    frozen: tuple[str, ...] = ()
    project: Callable[[Tree], Tree] | None = None


class Density(NamedTuple):
    """What a model with p(x, z) and q(z | x) knows of them; log densities in nats, shape (n,).

    posterior: (state, batch, key) -> (z, log q(z | x)), z drawn from q
    joint:     (state, batch, z) -> (log p(x | z), log p(z))
    prior:     (state, batch, key) -> z, drawn from p(z)
    observe:   (state, batch, z, key) -> x, drawn from p(x | z); of the batch only labels are seen
    moments:   (state, batch) -> (mean, logvar), where q is a diagonal Gaussian
    """
    posterior: Callable
    joint: Callable
    prior: Callable
    observe: Callable
    moments: Callable | None = None


class Context(NamedTuple):
    """What a model is made for besides its examples and hyper-parameters.

    axis: that of the devices over which a step is mapped, of whose batch it sees a share; None
    where it sees all of it.  batch: examples of a step, as it sees them; size: training examples;
    0 where these are not known.  source: a trained model to start from, and its state.
    """
    axis: str | None = None
    batch: int = 0
    size: int = 0
    source: 'tuple[Model, State] | None' = None


ALONE = Context()


class Model(NamedTuple):
    """The interface: pure functions over a State.  Nothing outside models/ sees more than this.

    init:     (key, batch) -> state
    step:     (state, batch, key) -> (state, metrics), scalars; every player has had its turn
    evaluate: (state, batch, key) -> metrics, one value (or row) per example
    decode:   (state, z) -> examples; a classifier has none
    encode:   (state, x) -> z; a GAN has none
    prior:    (state, key, n) -> z; an autoencoder has none
    show:     (state, batch, key) -> {title: examples}, side by side what the model does to a batch,
              where that is more than to reconstruct it; of label 3 `as 3` or `true 3`
    classify: (state, x) -> logits (n, labels), of a classifier
    gradients: (state, batch, key) -> {player: gradient of its loss}, all of them at this state
    density:  its p and q, where it has them; a code z is then an array (n, d) or a pytree of such
    bounds:   metric -> the least and the most that it can be, where that is known
    started:  whether it begins where Context.source stands
    whole:    what in its losses takes the whole batch, in words, where something does
    """
    init: Callable[[Array, Batch], State]
    step: Callable[[State, Batch, Array], tuple[State, dict[str, Array]]]
    evaluate: Callable[[State, Batch, Array], dict[str, Array]]
    decode: Callable[..., Array] | None = None
    encode: Callable[..., Array] | None = None
    prior: Callable[[State, Array, int], Tree] | None = None
    show: Callable[[State, Batch, Array], dict[str, Array]] | None = None
    classify: Callable[[State, Array], Array] | None = None
    density: Density | None = None
    bounds: dict[str, tuple[float, float]] = {}
    gradients: Callable[[State, Batch, Array], dict[str, Tree]] | None = None
    started: bool = False
    whole: str = ''
