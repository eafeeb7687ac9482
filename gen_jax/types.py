"""The types: data, states, players and models."""
import difflib
from typing import Any, Callable, NamedTuple

import jax

Array = jax.Array
Tree = Any  # a pytree of arrays
NON_NEGATIVE, UNIT_INTERVAL = (0., float('inf')), (0., 1.)  # bounds of metrics


class BadInput(ValueError):
    """The user's input cannot be used; the message says what is wrong and how to correct it."""


def closest_match(word: str, known) -> str:
    """', did you mean ..?' with the most similar of the known words; '' where none is similar.

    >>> closest_match('bata', ['beta', 'latent'])
    ", did you mean 'beta'?"
    """
    match = difflib.get_close_matches(word, list(known), 1, cutoff=.4)
    return f', did you mean {match[0]!r}?' if match else ''


class Batch(NamedTuple):
    """Examples x (n, ...), and what else the data set has for them.

    label: integers (n,); swapped: (n, labels, ...), each example as it would be with every label.
    """
    x: Array
    label: Array | None = None
    swapped: Array | None = None


class State(NamedTuple):
    """Everything that training changes, as arrays: the carry of the scan, and the content of a
    checkpoint.
    """
    step: Array                # int32 scalar
    params: dict[str, Tree]    # by player
    opt: dict[str, Tree]       # by player
    ema: dict[str, Tree]   # by player, where asked for: moving averages of both, as a dict
    buffers: dict[str, Tree]   # by player: batch statistics, power-iteration vectors, codebooks

    def averaged(self) -> 'State':
        """The state for evaluation and sampling: moving averages replace the parameters and buffers
        they are of, and are themselves left out.
        """
        kept = self.ema.items()
        return self._replace(
            params=self.params | {name: ema['params'] for name, ema in kept},
            buffers=self.buffers | {name: ema['buffers'] for name, ema in kept},
            ema={})


class Player(NamedTuple):
    """A player takes gradient steps on its own loss with respect to its own parameters.

    init:  (key, batch) -> (params, buffers)
    loss:  (state, batch, key) -> (scalar, metrics, buffers); the last two are dicts: what to
           report, and the player's new buffers ({} for no change); it may use every player's
           parameters
    optimiser: from gen_jax.optimisers, or from optax itself
    update_every: the player is updated in steps divisible by this number
    frozen: names of top-level parameters that are not trained
    project: parameters -> the nearest allowed parameters, after each update
    """
    init: Callable[[Array, Batch], tuple[Tree, Tree]]
    loss: Callable[[State, Batch, Array], tuple[Array, dict[str, Array], Tree]]
    optimiser: Any
    update_every: int = 1
    frozen: tuple[str, ...] = ()
    project: Callable[[Tree], Tree] | None = None


class Density(NamedTuple):
    """The densities of a model with p(x, z) and q(z | x); log densities are in nats, of shape (n,).

    posterior: (state, batch, key) -> (z, log q(z | x)), with z sampled from q
    joint:     (state, batch, z) -> (log p(x | z), log p(z))
    prior:     (state, batch, key) -> z, sampled from p(z)
    observe:   (state, batch, z, key) -> x, sampled from p(x | z); only the batch's labels are used
    moments:   (state, batch) -> (mean, logvar), where q is a diagonal Gaussian
    """
    posterior: Callable
    joint: Callable
    prior: Callable
    observe: Callable
    moments: Callable | None = None


class Context(NamedTuple):
    """What a model needs to be made besides examples and hyper-parameters.

    axis: the mapped axis of the devices, each of which has a share of the batch; None where the
    model gets all of it. batch: examples of a step that the model gets; size: training examples; 0
    where these are not known. source: a trained model to start from, and its state.
    """
    axis: str | None = None
    batch: int = 0
    size: int = 0
    source: 'tuple[Model, State] | None' = None


DEFAULT_CONTEXT = Context()


class Model(NamedTuple):
    """A model: pure functions over a State. Nothing outside models/ uses more than this.

    init:     (key, batch) -> state
    step:     (state, batch, key) -> (state, metrics), scalars; every player has been updated
    evaluate: (state, batch, key) -> metrics, one value (or row) for each example
    decode:   (state, z) -> examples; None for a classifier
    encode:   (state, x) -> z; None for a GAN
    prior:    (state, key, n) -> z; None for an autoencoder
    show:     (state, batch, key) -> {title: examples}, columns of a picture of what the model
              does to a batch, where that is more than a reconstruction; a title `as 3` or
              `true 3` is of label 3
    classify: (state, x) -> logits (n, labels), of a classifier
    gradients: (state, batch, key) -> {player: gradient of its loss}, all at this state
    density:  its p and q, where it has them; a code z is then an array (n, d) or a pytree of such
    bounds:   metric -> its smallest and largest possible value, where these are known
    from_source: whether it starts from Context.source
    full_batch: the loss terms that need the full batch, in words; '' for none
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
    from_source: bool = False
    full_batch: str = ''
