"""What the GANs share: the two players, a critic and a generator; `rules` has the game's."""
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, nets
from gen_jax.adversarial.rules import (Loss, adversary, augmentation, charge, clipped, packed,
                                       spread)
from gen_jax.types import SHARE, Array, BadInput, Batch, State, Tree

GANS = dict(conv='dcgan', residual='sngan')  # what these kinds are in a GAN
CONDITIONS = 'none', 'concat', 'projection', 'auxiliary'
BOUNDS = dict.fromkeys(('accuracy_real', 'accuracy_fake', 'label_real', 'label_fake'), SHARE)


class Critic(NamedTuple):
    """The player who tells real from generated examples: its net, and how it is played against.

    penalty, weight: what its loss is charged, where it is charged at all; view: (x, key, step) -> x
    as the net sees it; pack: so many examples are judged at once; condition: see `critic`; cut: its
    parameters' bound, or None.
    """
    player: str
    net: nets.Net
    loss: Loss
    penalty: Callable
    charged: bool
    weight: float
    view: Callable[[Array, Array, Array], Array]
    pack: int
    condition: str
    cut: float | None

    def init(self, key: Array, x: Array, label: Array | None) -> tuple[Tree, Tree]:
        x = jnp.concatenate([x] * self.pack, -1)
        return self.net.init(key, self._told(x, label))

    def adam(self, rate: float, b1: float, b2: float = .999) -> optax.GradientTransformation:
        """Its optimiser, which keeps its parameters within -cut and cut where these are given."""
        found = optax.adam(rate, b1=b1, b2=b2)
        return found if self.cut is None else optax.chain(found, clipped(self.cut))

    def move(self, state: State, real: Batch, fake: Batch, key: Array):
        """What Player.loss returns, of examples (n, ...) real and generated, which stand still."""
        keys = jax.random.split(key, 3)
        buffers = state.buffers[self.player]
        seen = self._seen(state, losses.stop(fake), keys[0]), self._seen(state, real, keys[1])
        y_fake, buffers = self._judge(state, buffers, seen[0])
        y_real, buffers = self._judge(state, buffers, seen[1])
        logits = self.logits(y_real, real.label), self.logits(y_fake, fake.label)
        value = self.loss.critic(*logits).mean()
        metrics = dict(critic_loss=value) | self._shares(*logits)
        if self.charged:
            def alone(x):
                y = self._judge(state, buffers, seen[1]._replace(x=x))[0]
                return self.logits(y, real.label)
            due = self.penalty(alone, seen[1].x, seen[0].x, keys[2]).mean()
            value, metrics = value + self.weight * due, metrics | dict(penalty=due)
        told = self._told_apart(y_real, real.label) + self._told_apart(y_fake, fake.label)
        if self.condition == 'auxiliary':
            metrics |= dict(label_real=losses.accuracy(y_real[:, 1:], real.label).mean(),
                            label_fake=losses.accuracy(y_fake[:, 1:], fake.label).mean())
        return value + told, metrics, buffers

    def against(self, state: State, real: Batch, fake: Batch, key: Array) -> Array:
        """What the generated examples are to lose; the critic stands still."""
        keys, buffers = jax.random.split(key), state.buffers[self.player]
        y_fake = self._judge(state, buffers, self._seen(state, fake, keys[0]))[0]
        y_real = self._judge(state, buffers, self._seen(state, real, keys[1]))[0]
        value = self.loss.generator(self.logits(y_real, real.label),
                                    self.logits(y_fake, fake.label)).mean()
        return value + self._told_apart(y_fake, fake.label)

    def exchanged(self, state: State, real: Batch, fake: Batch, key: Array) -> Array:
        """What one who makes both sides is to lose: the critic's loss with the sides exchanged."""
        seen = (self._seen(state, side, k) for side, k in zip((fake, real), jax.random.split(key)))
        logits = (self.logits(self._judge(state, state.buffers[self.player], side)[0], side.label)
                  for side in seen)
        return self.loss.critic(*logits).mean()

    def score(self, state: State, batch: Batch) -> Array:
        """Logits (n,) of examples as they are; a pack is an example and those after it."""
        x = jnp.concatenate([jnp.roll(batch.x, -i, 0) for i in range(self.pack)], -1)
        y = self.net.apply(state.params[self.player], state.buffers[self.player],
                           self._told(x, batch.label))
        return self.logits(y, batch.label)

    def evaluate(self, state: State, real: Batch, fake: Batch) -> dict[str, Array]:
        """critic_loss, generator_loss, accuracy_real, accuracy_fake, and what `spread` gives."""
        logits = self.score(state, real), self.score(state, fake)
        middle = self.loss.middle(*logits)
        return dict(critic_loss=self.loss.critic(*logits),
                    generator_loss=self.loss.generator(*logits),
                    accuracy_real=(logits[0] > middle).astype(jnp.float32),
                    accuracy_fake=(logits[1] < middle).astype(jnp.float32),
                    **spread(real.x, fake.x))

    def logits(self, y: Array, label: Array | None) -> Array:
        """Logits (n,) of being real, of the net's outputs."""
        if self.condition == 'projection':  # its embeddings are the last layer's columns
            return y[:, 0] + jnp.take_along_axis(y[:, 1:], label[:, None], 1)[:, 0]
        return y[:, 0]

    def _seen(self, state, batch, key):
        return batch._replace(x=packed(self.view(batch.x, key, state.step), self.pack))

    def _judge(self, state, buffers, batch):
        return self.net.train(state.params[self.player], buffers,
                              self._told(batch.x, batch.label))

    def _told(self, x, label):
        return (x, label[:len(x)]) if self.condition == 'concat' else x

    def _told_apart(self, y, label):
        """Cross-entropy of the labels (Odena et al. 2017)."""
        if self.condition != 'auxiliary':
            return 0.
        return optax.softmax_cross_entropy_with_integer_labels(y[:, 1:], label).mean()

    def _shares(self, real, fake):
        middle = self.loss.middle(real, fake)
        return dict(accuracy_real=jnp.mean(real > middle), accuracy_fake=jnp.mean(fake < middle))


def architecture(kind: str, **hyper) -> nets.Nets:
    """The nets of a GAN, see nets.of, where `conv` are DCGAN's and `residual` SNGAN's."""
    return nets.of(GANS.get(kind, kind), **hyper)


def critic(player: str, shape: Sequence[int], *, loss: str = 'nonsaturating', smooth: float = 0.,
           penalty: str = 'none', weight: float = 10., cut: float = .01, kind: str = 'mlp',
           width: Sequence[int] = (256,), norm: str = 'none', condition: str = 'none',
           labels: int = 0, act: str = 'leaky', augment: str = '', noise: float = 0.,
           noise_steps: int = 0, pack: int = 1, batch: int = 0,
           net: nets.Net | None = None) -> Critic:
    """The critic of examples (n, *shape).

    loss, smooth: see `adversary`; penalty, cut: see `charge`, times weight; kind, width, norm, act:
    of its net, see `architecture`, or `net` itself.
    condition: how it is told labels: concat, as indicators behind the last axis (Mirza & Osindero
    2014); projection (Miyato & Koyama 2018); auxiliary: it has to name them (Odena et al. 2017).
    augment: names of `augmentation`, with commas; noise: standard deviation of the normal noise on
    whatever it sees (Sonderby et al. 2017), falling to 0 over noise_steps where these are given.
    pack: so many examples are judged together; of a step's batch, whose size is `batch`.
    Raises BadInput for what does not fit.
    """
    names = [n.strip() for n in augment.split(',') if n.strip()]
    change = augmentation(names, shape)
    if condition not in CONDITIONS:
        raise BadInput(f'unknown condition {condition!r}; choose one of {", ".join(CONDITIONS)}')
    if pack < 1 or batch % pack:
        raise BadInput(f'pack {pack} does not divide the batch of {batch}; '
                       'use a batch that is a multiple of it')
    if pack > 1 and condition != 'none':
        raise BadInput(f'a pack of {pack} examples has no one label; use condition none or pack 1')
    if net is None:
        seen = *shape[:-1], shape[-1] * pack + (labels if condition == 'concat' else 0)
        out = 1 + labels if condition in ('projection', 'auxiliary') else 1
        net = architecture(kind, width=width, norm=norm, act=act).encoder(seen, out)
        net = nets.conditioned(net, labels) if condition == 'concat' else net

    def view(x, key, step):
        keys = jax.random.split(key)
        x = change(x, keys[0])
        if not losses.wanted(noise):
            return x
        left = jnp.maximum(1 - step / noise_steps, 0) if noise_steps else 1.
        return x + noise * left * jax.random.normal(keys[1], x.shape)

    played = adversary(loss, smooth)
    if penalty == 'dragan':
        played = played._replace(whole="the data's deviation in penalty dragan")
    return Critic(player, net, played, charge(
        penalty, loss, norm, cut), penalty not in ('none', 'clip'), weight, view, pack,
        condition, cut if penalty == 'clip' else None)


class Generator(NamedTuple):
    """The player who makes examples of codes, or of pairs (code, label) where labels are told."""
    player: str
    net: nets.Net
    link: Callable[[Array], Array]
    latent: int
    told: bool

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        z = jnp.zeros((1, self.latent))
        return self.net.init(key, (z, batch.label[:1]) if self.told else z)

    def make(self, state: State, z: Array, label: Array | None = None) -> tuple[Batch, Tree]:
        """Examples with their labels, as in training, and the player's new buffers."""
        y, buffers = self.net.train(state.params[self.player], state.buffers[self.player],
                                    (z, label) if self.told else z)
        return Batch(self.link(y), label), buffers

    def decode(self, state: State, z: Tree) -> Array:
        return self.link(self.net.apply(state.smooth(self.player), state.buffers[self.player], z))


def generator(player: str, example: Array, latent: int, *, kind: str, width: Sequence[int],
              norm: str, told: str = 'concat', labels: int = 0) -> Generator:
    """The generator of examples such as these; `width` is the critic's, and reversed.

    told: how the labels reach it, where there are any: concat, as indicators behind the code, or
    norm, as the gains and biases of its normalisations.  Raises BadInput for what does not fit.
    """
    if told not in ('concat', 'norm'):
        raise BadInput(f'unknown told {told!r}; choose concat or norm')
    if latent < 1:
        raise BadInput(f'latent must be at least 1, not {latent}')
    by_norm = labels if told == 'norm' else 0
    made = architecture(kind, width=width, norm=norm)
    link = nets.link(example, made)
    net = made.decoder(example, latent, link, by_norm)
    net = nets.conditioned(net, labels) if labels and not by_norm else net
    return Generator(player, net, link, latent, bool(labels))
