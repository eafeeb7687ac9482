"""The two players of the GANs, discriminator and generator; `rules` has losses and penalties."""
from typing import Callable, NamedTuple, Sequence

import jax
import jax.numpy as jnp
import optax

from gen_jax import losses, nets
from gen_jax.adversarial.rules import (Loss, TermInputs, Term, find_loss, augmentation, clip_params,
                                       pack, penalties, pairwise_distance)
from gen_jax.parts import Spec, with_spec
from gen_jax.types import UNIT_INTERVAL, Array, BadInput, Batch, State, Tree

CONDITIONINGS = 'none', 'concat', 'projection', 'auxiliary'
BOUNDS = dict.fromkeys(
    ('accuracy_real', 'accuracy_fake', 'label_accuracy_real', 'label_accuracy_fake'), UNIT_INTERVAL)


class DiscriminatorOptions(NamedTuple):
    """The options of a discriminator's loss and inputs, see `make`."""
    loss: str
    label_smoothing: float
    penalty: str
    penalty_weight: float
    clip_value: float
    augment: str
    instance_noise: float
    instance_noise_steps: int
    packing: int
    spec: Spec | None = None


@with_spec
def make(loss: str = 'nonsaturating', label_smoothing: float = 0., penalty: str = 'none',
         penalty_weight: float = 10., clip_value: float = .01, augment: str = '',
         instance_noise: float = 0., instance_noise_steps: int = 0,
         packing: int = 1) -> DiscriminatorOptions:
    """The options of a discriminator: its loss, penalties, and what is done to its inputs.

    Args:
        loss: minimax, nonsaturating, least_squares, hinge, wasserstein, relativistic or
            relativistic_average, see `rules.LOSSES`.
        label_smoothing: real examples have the target 1 - label_smoothing (Salimans et al. 2016).
        penalty: none, gradient, onesided, dragan, r1, r2, r1r2 or clip, with commas between
            several; see `rules.penalties`.
        penalty_weight: weight of each penalty.
        clip_value: largest absolute weight for penalty clip.
        augment: colour, translation and cutout, with commas (Zhao et al. 2020); empty for none.
        instance_noise: standard deviation of the noise on all inputs (Sonderby et al. 2017).
        instance_noise_steps: steps over which the noise falls to 0; 0 for constant noise.
        packing: number of examples that are judged together (PacGAN, Lin et al. 2018).

    Raises: BadInput for options that do not fit together.
    """
    find_loss(loss, label_smoothing)
    penalties(penalty, loss, clip_value)
    if packing < 1:
        raise BadInput(f'packing must be at least 1, not {packing}')
    return DiscriminatorOptions(loss, label_smoothing, penalty, penalty_weight, clip_value, augment,
                                instance_noise, instance_noise_steps, packing)


class Discriminator(NamedTuple):
    """The player that tells real from generated examples.

    terms: the summands of its loss; view: (x, key, step) -> x as the net gets it; packing: number
    of examples in one input; conditioning: see `discriminator`; project: see Player.
    """
    player: str
    net: nets.Net
    loss: Loss
    terms: tuple[Term, ...]
    view: Callable[[Array, Array, Array], Array]
    packing: int
    conditioning: str
    project: Callable[[Tree], Tree] | None

    def init(self, key: Array, x: Array, label: Array | None) -> tuple[Tree, Tree]:
        x = jnp.concatenate([x] * self.packing, -1)
        return self.net.init(key, self._with_label(x, label))

    def loss_and_metrics(self, state: State, real: Batch, fake: Batch, key: Array):
        """The loss, metrics and new buffers (see Player.loss) for real and generated examples (n,
        ...), of which no gradient reaches the generator.
        """
        keys = jax.random.split(key, 3)
        buffers = state.buffers[self.player]
        views = self._view(state, losses.stop_gradient(fake), keys[0]), self._view(
            state, real, keys[1])
        y_fake, buffers = self._outputs(state, buffers, views[0])
        y_real, buffers = self._outputs(state, buffers, views[1])

        def logits_of(x):
            y = self._outputs(state, buffers, views[1]._replace(x=x))[0]
            return self.logits(y, real.label)

        logits = self.logits(y_real, real.label), self.logits(y_fake, fake.label)
        inputs = TermInputs(views[1].x, views[0].x, *logits, self._label_loss(y_real, real.label),
                            self._label_loss(y_fake, fake.label), logits_of, keys[2])
        value, metrics = 0., self._shares(*logits)
        for term in self.terms:
            mean = term.of(inputs).mean()
            value += term.weight * mean
            metrics[term.name] = metrics.get(term.name, 0.) + mean
        if self.conditioning == 'auxiliary':
            metrics |= dict(label_accuracy_real=losses.accuracy(y_real[:, 1:], real.label).mean(),
                            label_accuracy_fake=losses.accuracy(y_fake[:, 1:], fake.label).mean())
        return value, metrics, buffers

    def generator_loss(self, state: State, real: Batch, fake: Batch, key: Array) -> Array:
        """The loss of the generator, of these generated examples; the discriminator is constant."""
        keys, buffers = jax.random.split(key), state.buffers[self.player]
        y_fake = self._outputs(state, buffers, self._view(state, fake, keys[0]))[0]
        y_real = self._outputs(state, buffers, self._view(state, real, keys[1]))[0]
        value = self.loss.generator(self.logits(y_real, real.label),
                                    self.logits(y_fake, fake.label)).mean()
        return value + self._label_loss(y_fake, fake.label).mean()

    def swapped_loss(self, state: State, real: Batch, fake: Batch, key: Array) -> Array:
        """The discriminator's loss with real and generated examples swapped: the loss of a player
        that makes both.
        """
        views = (self._view(state, side, k) for side, k in zip((fake, real), jax.random.split(key)))
        logits = (self.logits(self._outputs(state, state.buffers[self.player], side)[0], side.label)
                  for side in views)
        return self.loss.discriminator(*logits).mean()

    def score(self, state: State, batch: Batch) -> Array:
        """Logits (n,) of examples as they are; a pack is an example and those after it."""
        x = jnp.concatenate([jnp.roll(batch.x, -i, 0) for i in range(self.packing)], -1)
        y = self.net.apply(state.params[self.player], state.buffers[self.player],
                           self._with_label(x, batch.label))
        return self.logits(y, batch.label)

    def evaluate(self, state: State, real: Batch, fake: Batch) -> dict[str, Array]:
        """discriminator_loss, generator_loss, accuracy_real, accuracy_fake, and
        `pairwise_distance`.
        """
        logits = self.score(state, real), self.score(state, fake)
        threshold = self.loss.threshold(*logits)
        return dict(discriminator_loss=self.loss.discriminator(*logits),
                    generator_loss=self.loss.generator(*logits),
                    accuracy_real=(logits[0] > threshold).astype(jnp.float32),
                    accuracy_fake=(logits[1] < threshold).astype(jnp.float32),
                    **pairwise_distance(real.x, fake.x))

    def logits(self, y: Array, label: Array | None) -> Array:
        """Logits (n,) of being real, of the net's outputs."""
        if self.conditioning == 'projection':  # its embeddings are the last layer's columns
            return y[:, 0] + jnp.take_along_axis(y[:, 1:], label[:, None], 1)[:, 0]
        return y[:, 0]

    def _view(self, state, batch, key):
        return batch._replace(x=pack(self.view(batch.x, key, state.step), self.packing))

    def _outputs(self, state, buffers, batch):
        return self.net.train(state.params[self.player], buffers,
                              self._with_label(batch.x, batch.label))

    def _with_label(self, x, label):
        return (x, label[:len(x)]) if self.conditioning == 'concat' else x

    def _label_loss(self, y, label):
        """Cross-entropy of the labels (n,) (Odena et al. 2017)."""
        if self.conditioning != 'auxiliary':
            return jnp.zeros(len(y))
        return optax.softmax_cross_entropy_with_integer_labels(y[:, 1:], label)

    def _shares(self, real, fake):
        threshold = self.loss.threshold(real, fake)
        return dict(accuracy_real=jnp.mean(real > threshold),
                    accuracy_fake=jnp.mean(fake < threshold))


def discriminator(player: str, shape: Sequence[int], rules: DiscriminatorOptions,
                  net: nets.Nets | nets.Net, *, conditioning: str = 'none', labels: int = 0,
                  batch: int = 0) -> Discriminator:
    """The discriminator of examples (n, *shape).

    net: the net whose encoder is used, or the Net itself. conditioning: how it gets the labels:
    concat, one-hot, appended to the last axis (Mirza & Osindero 2014); projection (Miyato & Koyama
    2018); auxiliary, it predicts them (Odena et al. 2017). batch: examples of a step, which packing
    must divide.
    Raises: BadInput for options that do not fit.
    """
    change = augmentation([n.strip() for n in rules.augment.split(',') if n.strip()], shape)
    played, packing = find_loss(rules.loss, rules.label_smoothing), rules.packing
    charged = penalties(rules.penalty, rules.loss, rules.clip_value)
    if conditioning not in CONDITIONINGS:
        raise BadInput(
            f'unknown conditioning {conditioning!r}; choose one of {", ".join(CONDITIONINGS)}')
    if batch % packing:
        raise BadInput(f'pack {packing} does not divide the batch of {batch}; '
                       'use a batch that is a multiple of it')
    if packing > 1 and conditioning != 'none':
        raise BadInput(
            f'a pack of {packing} examples has no one label; use discriminator_conditioning none '
            'or packing 1'
        )
    if isinstance(net, nets.Nets):
        if charged and net.spec and net.spec.keys.get('norm') == 'batch':
            raise BadInput(f'penalty {rules.penalty} needs a gradient of each example alone, which '
                           'batch normalisation mixes; use --config.discriminator_net.norm=layer, '
                           'group, spectral or none')
        input_shape = *shape[:-1], shape[-1] * packing + (labels if conditioning == 'concat' else 0)
        out = 1 + labels if conditioning in ('projection', 'auxiliary') else 1
        net = net.encoder(input_shape, out)
        net = nets.concat_label(net, labels) if conditioning == 'concat' else net

    def view(x, key, step):
        keys = jax.random.split(key)
        x = change(x, keys[0])
        if not losses.enabled(rules.instance_noise):
            return x
        left = jnp.maximum(1 - step / rules.instance_noise_steps,
                           0) if rules.instance_noise_steps else 1.
        return x + rules.instance_noise * left * jax.random.normal(keys[1], x.shape)

    def of(penalty, i):
        return lambda r: penalty(r.logits_of, r.real, r.fake,
                                 jax.random.fold_in(r.key, i) if i else r.key)

    terms = [
        Term('discriminator_loss', 1., lambda r: played.discriminator(r.real_logit, r.fake_logit)),
        *(Term('penalty', rules.penalty_weight, of(penalty, i))
          for i, penalty in enumerate(charged))
    ]
    if conditioning == 'auxiliary':
        terms.append(Term('label_loss', 1., lambda r: r.real_label_loss + r.fake_label_loss))
    if 'dragan' in rules.penalty:
        played = played._replace(full_batch="the data's deviation in penalty dragan")
    return Discriminator(player, net, played, tuple(terms), view, packing, conditioning,
                         clip_params(rules.clip_value) if 'clip' in rules.penalty else None)


class Generator(NamedTuple):
    """The player that makes examples from codes, or from pairs (code, label) where it is
    conditional.
    """
    player: str
    net: nets.Net
    link: Callable[[Array], Array]
    latent: int
    labelled: bool

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        z = jnp.zeros((1, self.latent))
        return self.net.init(key, (z, batch.label[:1]) if self.labelled else z)

    def make(self, state: State, z: Array, label: Array | None = None) -> tuple[Batch, Tree]:
        """Examples with their labels, as in training, and the player's new buffers."""
        y, buffers = self.net.train(state.params[self.player], state.buffers[self.player],
                                    (z, label) if self.labelled else z)
        return Batch(self.link(y), label), buffers

    def decode(self, state: State, z: Tree) -> Array:
        return self.link(self.net.apply(state.params[self.player], state.buffers[self.player], z))


def generator(player: str, example: Array, latent: int, net: nets.Nets, *,
              conditioning: str = 'concat', labels: int = 0) -> Generator:
    """The generator of examples such as these: the decoder of a net.

    conditioning: how it gets the labels, where there are any: concat, one-hot, appended to the
    code; or norm, as gains and biases of the normalisations. Raises BadInput for options that do
    not fit.
    """
    if conditioning not in ('concat', 'norm'):
        raise BadInput(f'unknown generator_conditioning {conditioning!r}; choose concat or norm')
    if latent < 1:
        raise BadInput(f'latent must be at least 1, not {latent}')
    by_norm = labels if conditioning == 'norm' else 0
    link = nets.link(example, net)
    network = net.decoder(example, latent, link, by_norm)
    network = nets.concat_label(network, labels) if labels and not by_norm else network
    return Generator(player, network, link, latent, bool(labels))
