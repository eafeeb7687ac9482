"""The rules of the game: losses, penalties on a critic, and what it sees of an example.

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
    """critic, generator: (real, fake) -> (n,), what each minimises, of the critic's logits (n,);
    middle: (real, fake) -> the logit above which an example counts as judged real; whole: see
    game, of that loss."""
    critic: Callable[[Array, Array], Array]
    generator: Callable[[Array, Array], Array]
    middle: Callable[[Array, Array], Array | float] = lambda real, fake: 0.
    whole: str = ''


def relu(x: Array) -> Array:
    return jnp.maximum(x, 0)


def mean_of_all(real: Array, fake: Array) -> Array:
    return (real.mean() + fake.mean()) / 2


def average_pair(real: Array, fake: Array) -> Array:
    """RaGAN's critic: each logit against the mean of the other side (Jolicoeur-Martineau 2019)."""
    return losses.softplus(fake.mean() - real) + losses.softplus(fake - real.mean())


LOSSES = dict(
    # Goodfellow et al. 2014: the value of the game itself, and what they train with
    minimax=Loss(losses.critic_loss, lambda real, fake: -losses.softplus(fake)),
    nonsaturating=Loss(losses.critic_loss, lambda real, fake: losses.non_saturating(fake)),
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
                              mean_of_all, "the mean of the critic's logits"))


def adversary(name: str, smooth: float = 0.) -> Loss:
    """The loss called `name`; for the critic, real examples have the target 1 - smooth (one-sided
    label smoothing, Salimans et al. 2016).

    Raises BadInput for another name, or for smoothing where the loss has no targets.
    """
    if name not in LOSSES:
        raise BadInput(f'unknown loss {name!r}; choose one of {", ".join(LOSSES)}')
    loss = LOSSES[name]
    if name in ('minimax', 'nonsaturating'):
        return loss._replace(critic=lambda real, fake: losses.critic_loss(real, fake)
                             + smooth * real)
    if name == 'least_squares':
        return loss._replace(
            critic=lambda real, fake: ((real - 1 + smooth) ** 2 + fake ** 2) / 2)
    if losses.wanted(smooth):
        raise BadInput(f'loss {name!r} has no targets to smooth; leave smooth 0, or use loss '
                       'minimax, nonsaturating or least_squares')
    return loss


def slope(critic: Callable[[Array], Array], x: Array) -> Array:
    """Squared norm (n,) of the gradient of the critic's logit at each example of x (n, ...), over
    all axes of the example; for critics that treat the examples of a batch alone."""
    return losses.per_example(jax.grad(lambda x: critic(x).sum())(x) ** 2)


class Round(NamedTuple):
    """What the terms of a discriminator's loss are made of: real and generated examples (n, ...) as
    it sees them, their logits (n,), the cross-entropies of their labels (n,), 0 where it names
    none; judge: x -> logits of examples x with the labels of the real ones; and a key."""
    real: Array
    fake: Array
    real_logit: Array
    fake_logit: Array
    real_label_loss: Array
    fake_label_loss: Array
    judge: Callable[[Array], Array]
    key: Array


class Term(NamedTuple):
    """A summand of a discriminator's loss: weight times the mean of of(round), which is reported by
    its name; several of one name are reported as their sum."""
    name: str
    weight: float
    of: Callable[[Round], Array]


def penalties(names: str, loss: str, cut: float = .01) -> list[Callable]:
    """The penalties called so, with commas between: each (critic, real, fake, key) -> (n,), of a
    critic x (n, ...) -> logits (n,).

    gradient: (|slope| - 1)^2 on straight lines between real and generated examples (Gulrajani et
    al. 2017); onesided: of slopes above 1 alone (Petzka et al. 2018); dragan: at real examples
    with noise of half their standard deviation (Kodali et al. 2017); r1, r2: slope^2 / 2 at real
    or at generated examples (Mescheder et al. 2018), r1r2: both.  none and clip, where the
    critic's weights are cut off at -cut and cut after each move (Arjovsky et al. 2017), are no
    penalties.  Raises BadInput for another name, and for clip with a loss other than wasserstein.
    """
    names = [name.strip() for name in names.split(',')]
    for name in names:
        if name not in PENALTIES:
            raise BadInput(f'unknown penalty {name!r}; choose of {", ".join(PENALTIES)}')
    if 'clip' in names and loss != 'wasserstein':
        raise BadInput(f'penalty clip is defined for loss wasserstein, not for {loss}; '
                       'use penalty r1')
    if 'clip' in names and not cut > 0:
        raise BadInput(f'penalty clip cuts weights off at a positive number, not {cut}')

    def distance(critic, x):  # the root has no slope of its own at 0
        return jnp.sqrt(slope(critic, x) + 1e-12)

    def gradient(critic, real, fake, key):
        share = jax.random.uniform(key, (len(real), *(1,) * (real.ndim - 1)))
        return distance(critic, share * real + (1 - share) * fake) - 1

    def dragan(critic, real, fake, key):
        noise = .5 * real.std() * jax.random.normal(key, real.shape)
        return (distance(critic, real + noise) - 1) ** 2

    r1 = lambda critic, real, fake, key: slope(critic, real) / 2
    r2 = lambda critic, real, fake, key: slope(critic, fake) / 2
    known = dict(gradient=lambda *args: gradient(*args) ** 2,
                 onesided=lambda *args: relu(gradient(*args)) ** 2, dragan=dragan, r1=r1, r2=r2,
                 r1r2=lambda *args: r1(*args) + r2(*args))
    return [known[name] for name in names if name in known]


def clipped(cut: float) -> Callable[[Tree], Tree]:
    """Parameters -> these, cut off at -cut and cut."""
    return lambda params: jax.tree.map(lambda p: jnp.clip(p, -cut, cut), params)


def augmentation(names: Sequence[str], shape: Sequence[int]) -> Callable[[Array, Array], Array]:
    """(x, key) -> x changed at random, differentiably, real and generated examples alike (Zhao et
    al. 2020).

    colour: brightness, saturation (of three channels) and contrast; translation: by up to an
    eighth, zeros come in; cutout: a square of half the size becomes 0.  Raises BadInput for
    another name, or for examples that are no images.
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


def packed(x: Array, pack: int) -> Array:
    """Examples (n, ..., c) as packs (n / pack, ..., pack * c) (PacGAN, Lin et al. 2018)."""
    x = x.reshape(-1, pack, *x.shape[1:])
    return jnp.concatenate([x[:, i] for i in range(pack)], -1)


def spread(real: Array, fake: Array) -> dict[str, Array]:
    """spread_real, spread_fake (n,), the squared distance of an example from the next."""
    return {f'spread_{side}': losses.squared_error(x, jnp.roll(x, -1, 0))
            for side, x in dict(real=real, fake=fake).items()}
