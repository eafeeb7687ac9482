"""What the GANs share: the two players, a critic and a generator; `rules` has the game's."""
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, nets
from gen_jax.adversarial.rules import (Loss, Round, Term, adversary, augmentation, clipped, packed,
                                       penalties, spread)
from gen_jax.parts import Made, part
from gen_jax.types import SHARE, Array, BadInput, Batch, State, Tree

CONDITIONS = 'none', 'concat', 'projection', 'auxiliary'
BOUNDS = dict.fromkeys(('accuracy_real', 'accuracy_fake', 'label_real', 'label_fake'), SHARE)


class Discriminator(NamedTuple):
    """What a discriminator's loss is, and what it sees of an example, see `make`."""
    loss: str
    smooth: float
    penalty: str
    weight: float
    cut: float
    augment: str
    noise: float
    noise_steps: int
    pack: int
    made: Made | None = None


@part
def make(loss: str = 'nonsaturating', smooth: float = 0., penalty: str = 'none',
         weight: float = 10., cut: float = .01, augment: str = '', noise: float = 0.,
         noise_steps: int = 0, pack: int = 1) -> Discriminator:
    """loss, smooth: see `adversary`; penalty, with commas between several, and cut: see
    `penalties`, times weight.  augment: names of `augmentation`, with commas; noise: standard
    deviation of the normal noise on whatever it sees (Sonderby et al. 2017), falling to 0 over
    noise_steps where these are given.  pack: so many examples are judged together.  Raises BadInput
    for what does not fit together."""
    adversary(loss, smooth)
    penalties(penalty, loss, cut)
    if pack < 1:
        raise BadInput(f'pack must be at least 1, not {pack}')
    return Discriminator(loss, smooth, penalty, weight, cut, augment, noise, noise_steps, pack)


class Critic(NamedTuple):
    """The player who tells real from generated examples: its net, and how it is played against.

    terms: the summands of its loss; view: (x, key, step) -> x as the net sees it; pack: so many
    examples are judged at once; condition: see `critic`; project: see Player.
    """
    player: str
    net: nets.Net
    loss: Loss
    terms: tuple[Term, ...]
    view: Callable[[Array, Array, Array], Array]
    pack: int
    condition: str
    project: Callable[[Tree], Tree] | None

    def init(self, key: Array, x: Array, label: Array | None) -> tuple[Tree, Tree]:
        x = jnp.concatenate([x] * self.pack, -1)
        return self.net.init(key, self._told(x, label))

    def move(self, state: State, real: Batch, fake: Batch, key: Array):
        """What Player.loss returns, of examples (n, ...) real and generated, which stand still."""
        keys = jax.random.split(key, 3)
        buffers = state.buffers[self.player]
        seen = self._seen(state, losses.stop(fake), keys[0]), self._seen(state, real, keys[1])
        y_fake, buffers = self._judge(state, buffers, seen[0])
        y_real, buffers = self._judge(state, buffers, seen[1])

        def judge(x):
            y = self._judge(state, buffers, seen[1]._replace(x=x))[0]
            return self.logits(y, real.label)

        logits = self.logits(y_real, real.label), self.logits(y_fake, fake.label)
        found = Round(seen[1].x, seen[0].x, *logits, self._label_loss(y_real, real.label),
                      self._label_loss(y_fake, fake.label), judge, keys[2])
        value, metrics = 0., self._shares(*logits)
        for term in self.terms:
            mean = term.of(found).mean()
            value += term.weight * mean
            metrics[term.name] = metrics.get(term.name, 0.) + mean
        if self.condition == 'auxiliary':
            metrics |= dict(label_real=losses.accuracy(y_real[:, 1:], real.label).mean(),
                            label_fake=losses.accuracy(y_fake[:, 1:], fake.label).mean())
        return value, metrics, buffers

    def against(self, state: State, real: Batch, fake: Batch, key: Array) -> Array:
        """What the generated examples are to lose; the critic stands still."""
        keys, buffers = jax.random.split(key), state.buffers[self.player]
        y_fake = self._judge(state, buffers, self._seen(state, fake, keys[0]))[0]
        y_real = self._judge(state, buffers, self._seen(state, real, keys[1]))[0]
        value = self.loss.generator(self.logits(y_real, real.label),
                                    self.logits(y_fake, fake.label)).mean()
        return value + self._label_loss(y_fake, fake.label).mean()

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

    def _label_loss(self, y, label):
        """Cross-entropy of the labels (n,) (Odena et al. 2017)."""
        if self.condition != 'auxiliary':
            return jnp.zeros(len(y))
        return optax.softmax_cross_entropy_with_integer_labels(y[:, 1:], label)

    def _shares(self, real, fake):
        middle = self.loss.middle(real, fake)
        return dict(accuracy_real=jnp.mean(real > middle), accuracy_fake=jnp.mean(fake < middle))


def critic(player: str, shape: Sequence[int], rules: Discriminator, net: nets.Nets | nets.Net, *,
           condition: str = 'none', labels: int = 0, batch: int = 0) -> Critic:
    """The critic of examples (n, *shape), trained by these rules.

    net: its encoder, or the Net itself.  condition: how it is told labels: concat, as indicators
    behind the last axis (Mirza & Osindero 2014); projection (Miyato & Koyama 2018); auxiliary: it
    has to name them (Odena et al. 2017).  batch: examples of a step, in whole packs.
    Raises BadInput for what does not fit.
    """
    change = augmentation([n.strip() for n in rules.augment.split(',') if n.strip()], shape)
    played, pack = adversary(rules.loss, rules.smooth), rules.pack
    charged = penalties(rules.penalty, rules.loss, rules.cut)
    if condition not in CONDITIONS:
        raise BadInput(f'unknown condition {condition!r}; choose one of {", ".join(CONDITIONS)}')
    if batch % pack:
        raise BadInput(f'pack {pack} does not divide the batch of {batch}; '
                       'use a batch that is a multiple of it')
    if pack > 1 and condition != 'none':
        raise BadInput(f'a pack of {pack} examples has no one label; use condition none or pack 1')
    if isinstance(net, nets.Nets):
        if charged and net.made and net.made.keys.get('norm') == 'batch':
            raise BadInput(f'penalty {rules.penalty} needs a gradient of each example alone, which '
                           'batch normalisation mixes; use --config.discriminator_net.norm=layer, '
                           'group, spectral or none')
        seen = *shape[:-1], shape[-1] * pack + (labels if condition == 'concat' else 0)
        out = 1 + labels if condition in ('projection', 'auxiliary') else 1
        net = net.encoder(seen, out)
        net = nets.conditioned(net, labels) if condition == 'concat' else net

    def view(x, key, step):
        keys = jax.random.split(key)
        x = change(x, keys[0])
        if not losses.wanted(rules.noise):
            return x
        left = jnp.maximum(1 - step / rules.noise_steps, 0) if rules.noise_steps else 1.
        return x + rules.noise * left * jax.random.normal(keys[1], x.shape)

    def of(penalty, i):
        return lambda r: penalty(r.judge, r.real, r.fake,
                                 jax.random.fold_in(r.key, i) if i else r.key)

    terms = [Term('critic_loss', 1., lambda r: played.critic(r.real_logit, r.fake_logit)),
             *(Term('penalty', rules.weight, of(penalty, i)) for i, penalty in enumerate(charged))]
    if condition == 'auxiliary':
        terms.append(Term('label_loss', 1., lambda r: r.real_label_loss + r.fake_label_loss))
    if 'dragan' in rules.penalty:
        played = played._replace(whole="the data's deviation in penalty dragan")
    return Critic(player, net, played, tuple(terms), view, pack, condition,
                  clipped(rules.cut) if 'clip' in rules.penalty else None)


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
        return self.link(self.net.apply(state.params[self.player], state.buffers[self.player], z))


def generator(player: str, example: Array, latent: int, net: nets.Nets, *, told: str = 'concat',
              labels: int = 0) -> Generator:
    """The generator of examples such as these, the decoder of a net.

    told: how the labels reach it, where there are any: concat, as indicators behind the code, or
    norm, as the gains and biases of its normalisations.  Raises BadInput for what does not fit.
    """
    if told not in ('concat', 'norm'):
        raise BadInput(f'unknown told {told!r}; choose concat or norm')
    if latent < 1:
        raise BadInput(f'latent must be at least 1, not {latent}')
    by_norm = labels if told == 'norm' else 0
    link = nets.link(example, net)
    made = net.decoder(example, latent, link, by_norm)
    made = nets.conditioned(made, labels) if labels and not by_norm else made
    return Generator(player, made, link, latent, bool(labels))
