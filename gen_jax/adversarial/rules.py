"""Adversarial losses, penalties on the discriminator, and augmentations of its inputs.

They combine freely: each is a function of its own.
"""
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp

from gen_jax import losses
from gen_jax.types import Array, BadInput, Tree

PENALTIES = ('none', 'gradient', 'onesided', 'dragan', 'r1', 'r2', 'r1r2', 'clip')
AUGMENTS = 'colour', 'translation', 'cutout'


class Loss(NamedTuple):
    """discriminator, generator: (real, fake) -> (n,), the losses of both players, of the
    discriminator's logits (n,); threshold: (real, fake) -> the logit above which an example counts
    as real; full_batch: see `game`, of that loss.
    """
    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]
    threshold: Callable[[Array, Array], Array | float] = lambda real, fake: 0.
    full_batch: str = ''


def relu(x: Array) -> Array:
    return jnp.maximum(x, 0)


def mean_of_all(real: Array, fake: Array) -> Array:
    return (real.mean() + fake.mean()) / 2


def average_pair(real: Array, fake: Array) -> Array:
    """The discriminator's loss of RaGAN: each logit is compared with the mean of the other side
    (Jolicoeur-Martineau 2019).
    """
    return losses.softplus(fake.mean() - real) + losses.softplus(fake - real.mean())


LOSSES = dict(
    # Goodfellow et al. 2014: the value of the game itself, and what they train with
    minimax=Loss(losses.discriminator_loss, lambda real, fake: -losses.softplus(fake)),
    nonsaturating=Loss(losses.discriminator_loss, lambda real, fake: losses.non_saturating(fake)),
    # Mao et al. 2017, targets 1 and 0
    least_squares=Loss(lambda real, fake: ((real - 1) ** 2 + fake ** 2) / 2,
                       lambda real, fake: (fake - 1) ** 2 / 2, lambda real, fake: .5),
    # Lim & Ye 2017, Miyato et al. 2018
    hinge=Loss(lambda real, fake: relu(1 - real) + relu(1 + fake), lambda real, fake: -fake),
    # Arjovsky et al. 2017; a constant more or less in the logits means nothing
    wasserstein=Loss(lambda real, fake: fake - real, lambda real, fake: -fake, mean_of_all),
    # Jolicoeur-Martineau 2019: the i-th real example against the i-th generated; and averages
    relativistic=Loss(lambda real, fake: losses.softplus(fake - real),
                      lambda real, fake: losses.softplus(real - fake), mean_of_all),
    relativistic_average=Loss(average_pair, lambda real, fake: average_pair(fake, real),
                              mean_of_all, "the mean of the discriminator's logits"))


def find_loss(name: str, label_smoothing: float = 0.) -> Loss:
    """The loss called `name`. For the discriminator, real examples have the target 1 -
    label_smoothing (one-sided label smoothing, Salimans et al. 2016).

    Raises: BadInput for an unknown name, and for smoothing where the loss has no targets.
    """
    if name not in LOSSES:
        raise BadInput(f'unknown loss {name!r}; choose one of {", ".join(LOSSES)}')
    loss = LOSSES[name]
    if name in ('minimax', 'nonsaturating'):
        return loss._replace(discriminator=lambda real, fake: losses.discriminator_loss(real, fake)
                             + label_smoothing * real)
    if name == 'least_squares':
        return loss._replace(
            discriminator=lambda real, fake: ((real - 1 + label_smoothing) ** 2 + fake ** 2) / 2)
    if losses.enabled(label_smoothing):
        raise BadInput(f'loss {name!r} has no targets to smooth; leave smooth 0, or use loss '
                       'minimax, nonsaturating or least_squares')
    return loss


def squared_gradient_norm(discriminator: Callable[[Array], Array], x: Array) -> Array:
    """The squared norm (n,) of the gradient of the discriminator's logit with respect to each
    example of x (n, ...); for discriminators that treat the examples of a batch independently.
    """
    return losses.per_example(jax.grad(lambda x: discriminator(x).sum())(x) ** 2)


class TermInputs(NamedTuple):
    """The inputs of the terms of a discriminator's loss: real and generated examples (n, ...) as
    the net gets them, their logits (n,), the cross-entropies of their labels (n,), 0 without an
    auxiliary classifier; logits_of: x -> logits of examples x with the labels of the real ones; and
    a key.
    """
    real: Array
    fake: Array
    real_logit: Array
    fake_logit: Array
    real_label_loss: Array
    fake_label_loss: Array
    logits_of: Callable[[Array], Array]
    key: Array


class Term(NamedTuple):
    """A summand of a discriminator's loss: weight times the mean of of(inputs). It is reported
    under its name; several of one name are reported as their sum.
    """
    name: str
    weight: float
    of: Callable[[TermInputs], Array]


def penalties(names: str, loss: str, clip_value: float = .01) -> list[Callable]:
    """The penalties of these names, with commas between them: each (discriminator, real, fake, key)
    -> (n,), where discriminator is x (n, ...) -> logits (n,).

    With g the norm of the gradient of the logit: gradient, (g - 1)^2 on lines between real and
    generated examples (Gulrajani et al. 2017); onesided, the same for g above 1 only (Petzka et al.
    2018); dragan, at real examples with noise of half their standard deviation (Kodali et al.
    2017); r1 and r2, g^2 / 2 at real or at generated examples (Mescheder et al. 2018), r1r2 both.
    none is no penalty, and clip is none either: it clips the discriminator's weights at clip_value
    after each update (Arjovsky et al. 2017).
    Raises: BadInput for an unknown name, and for clip with a loss other than wasserstein.
    """
    names = [name.strip() for name in names.split(',')]
    for name in names:
        if name not in PENALTIES:
            raise BadInput(f'unknown penalty {name!r}; choose of {", ".join(PENALTIES)}')
    if 'clip' in names and loss != 'wasserstein':
        raise BadInput(f'penalty clip is defined for loss wasserstein, not for {loss}; '
                       'use penalty r1')
    if 'clip' in names and not clip_value > 0:
        raise BadInput(f'penalty clip cuts weights off at a positive number, not {clip_value}')

    def distance(discriminator, x):  # the root has no slope of its own at 0
        return jnp.sqrt(squared_gradient_norm(discriminator, x) + 1e-12)

    def gradient(discriminator, real, fake, key):
        share = jax.random.uniform(key, (len(real), *(1,) * (real.ndim - 1)))
        return distance(discriminator, share * real + (1 - share) * fake) - 1

    def dragan(discriminator, real, fake, key):
        noise = .5 * real.std() * jax.random.normal(key, real.shape)
        return (distance(discriminator, real + noise) - 1) ** 2

    r1 = lambda discriminator, real, fake, key: squared_gradient_norm(discriminator, real) / 2
    r2 = lambda discriminator, real, fake, key: squared_gradient_norm(discriminator, fake) / 2
    known = dict(gradient=lambda *args: gradient(*args) ** 2,
                 onesided=lambda *args: relu(gradient(*args)) ** 2, dragan=dragan, r1=r1, r2=r2,
                 r1r2=lambda *args: r1(*args) + r2(*args))
    return [known[name] for name in names if name in known]


def clip_params(clip_value: float) -> Callable[[Tree], Tree]:
    """Parameters -> these, clipped to [-clip_value, clip_value]."""
    return lambda params: jax.tree.map(lambda p: jnp.clip(p, -clip_value, clip_value), params)


def augmentation(names: Sequence[str], shape: Sequence[int]) -> Callable[[Array, Array], Array]:
    """(x, key) -> x, augmented at random and differentiably, real and generated examples alike
    (Zhao et al. 2020).

    colour: brightness, saturation (of three channels) and contrast; translation: by up to an eighth
    of the side, with zeros moved in; cutout: a square of half the side becomes 0.
    Raises: BadInput for an unknown name, and for examples that are not images.
    """
    if unknown := [n for n in names if n not in AUGMENTS]:
        raise BadInput(f'unknown augment {unknown[0]!r}; choose of {", ".join(AUGMENTS)}')
    if names and len(shape) != 3:
        raise BadInput(f'augment needs images (h, w, c), but an example here has shape '
                       f'{tuple(shape)}; leave it empty')

    def uniform(key, n, low, high):
        return jax.random.uniform(key, (n, 1, 1, 1), minval=low, maxval=high)

    def colour(x, key):
        keys = jax.random.split(key, 3)
        x = x + uniform(keys[0], len(x), -.5, .5)
        grey = x.mean(3, keepdims=True)
        x = grey + uniform(keys[1], len(x), 0, 2) * (x - grey)
        mean = x.mean((1, 2, 3), keepdims=True)
        return mean + uniform(keys[2], len(x), .5, 1.5) * (x - mean)

    def within(size, n, key, width):
        """Which places of an axis a window covers that lies anywhere on it, (n, size)."""
        first = jax.random.randint(key, (n, 1), -(width // 2), size - width // 2 + 1 - width % 2)
        return (jnp.arange(size) >= first) & (jnp.arange(size) < first + width)

    def moved(size, n, key):
        """Matrices (n, size, size) that move an axis."""
        by = jax.random.randint(key, (n, 1, 1), -(size // 8), size // 8 + 1)
        place = jnp.arange(size)
        return (place[:, None] + by == place).astype(jnp.float32)

    def translation(x, key):
        keys = jax.random.split(key)
        rows, columns = (moved(s, len(x), k) for s, k in zip(x.shape[1:3], keys))
        return jnp.einsum('nih,njw,nhwc->nijc', rows, columns, x)

    def cutout(x, key):
        keys = jax.random.split(key)
        rows, columns = (within(s, len(x), k, -(-s // 2)) for s, k in zip(x.shape[1:3], keys))
        return jnp.where((rows[:, :, None] & columns[:, None])[..., None], 0, x)

    known = dict(colour=colour, translation=translation, cutout=cutout)

    def change(x, key):
        for i, name in enumerate(names):
            x = known[name](x, jax.random.fold_in(key, i))
        return x

    return change


def pack(x: Array, pack: int) -> Array:
    """Examples (n, ..., c) as packs (n / pack, ..., pack * c) (PacGAN, Lin et al. 2018)."""
    x = x.reshape(-1, pack, *x.shape[1:])
    return jnp.concatenate([x[:, i] for i in range(pack)], -1)


def pairwise_distance(real: Array, fake: Array) -> dict[str, Array]:
    """pairwise_distance_real and pairwise_distance_fake (n,), the squared distance of each example
    from the next one.
    """
    return {f'pairwise_distance_{side}': losses.squared_error(x, jnp.roll(x, -1, 0))
            for side, x in dict(real=real, fake=fake).items()}
