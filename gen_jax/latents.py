"""Likelihood, prior and posterior of the VAEs as one part, and the player they make with nets."""
from typing import Callable, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from gen_jax import densities, losses, nets
from gen_jax.densities import Likelihood, Posterior, Prior
from gen_jax.parts import Spec, with_spec
from gen_jax.types import NON_NEGATIVE, Array, BadInput, Batch, Density, State, Tree

# nats; an estimate from drawn codes crosses its bound by t with a chance of at most exp(-t), as the
# mean of p / q over codes of q is 1 (Markov's inequality)
CHANCE = 50.


class Latents(NamedTuple):
    """The densities of a VAE, and what its KL costs, see `make`."""
    likelihood: str
    scale: str
    sigma: float
    levels: int
    posterior: str
    flows: int
    prior: str
    components: int
    kl_schedule: str
    kl_warmup_steps: int
    free_bits: float
    spec: Spec | None = None

    @property
    def closed_form_kl(self) -> bool:
        """Whether the KL has a closed form, by dimension."""
        return self.posterior == 'diagonal' and self.prior == 'normal'

    @property
    def full_batch(self) -> str:
        """Names what needs the full batch; see `game`."""
        return 'the KL below free_bits' if losses.enabled(self.free_bits) else ''

    def require(self, reason: str, **only: tuple) -> None:
        """Raises BadInput, with the reason, unless each of these is among the values given."""
        for key, values in only.items():
            value = getattr(self, key)
            known = ' or '.join(map(str, values))
            if losses.is_traced(value) or value not in values:
                raise BadInput(f'latents.{key} cannot be {value} here, as {reason}; use {known}')


@with_spec
def make(likelihood: str = 'bernoulli', scale: str = 'fixed', sigma: float = 1., levels: int = 256,
         posterior: str = 'diagonal', flows: int = 4, prior: str = 'normal', components: int = 500,
         kl_schedule: str = 'constant', kl_warmup_steps: int = 0, free_bits: float = 0.) -> Latents:
    """The likelihood, prior and posterior of a VAE, and the weight of its KL.

    Args:
        likelihood: bernoulli, on logits, for data in [0, 1]; gaussian; categorical, a softmax over
            `levels` values of each dimension; or logistic_mixture (Salimans et al. 2017).
        scale: of the gaussian: fixed to sigma, learned, or optimal (Rybkin et al. 2021).
        sigma: standard deviation where scale is fixed.
        levels: number of values of categorical and logistic_mixture.
        posterior: diagonal, full, planar (Rezende & Mohamed 2015) or iaf (Kingma et al. 2016).
        flows: number of flows of planar and iaf.
        prior: normal, N(0, I); mixture, of learned Gaussians; or vamp (Tomczak & Welling 2018).
        components: number of components of mixture, and of pseudo-inputs of vamp.
        kl_schedule: of the KL's weight in training: constant, linear or cyclical (Fu et al. 2019).
        kl_warmup_steps: steps over which the weight rises from 0 to 1.
        free_bits: nats of each dimension's mean KL that cost nothing (Kingma et al. 2016).

    Raises: BadInput for options that do not fit together."""
    losses.check_kl_schedule(kl_schedule, kl_warmup_steps)
    if prior == 'vamp' and posterior != 'diagonal':
        raise BadInput(f"prior 'vamp' mixes posteriors that are diagonal, not {posterior!r}")
    latents = Latents(likelihood, scale, sigma, levels, posterior, flows, prior, components,
                      kl_schedule, kl_warmup_steps, free_bits)
    if losses.enabled(free_bits) and not latents.closed_form_kl:
        raise BadInput('free_bits are for the KL of each dimension, which only posterior diagonal '
                       'with prior normal has; set free_bits to 0')
    return latents


LATENTS = make()


class LatentSample(NamedTuple):
    """Of a batch and k codes for each example, k the first axis where it is not 1: codes z, log
    q(z | x), log p(z) and nll = -log p(x | z), each (n,); kl (n, d) in closed form, None where
    there is none; and the player's new buffers."""
    z: Array
    log_q: Array
    log_p: Array
    nll: Array
    kl: Array | None
    buffers: Tree

    def divergence(self) -> Array:
        """KL(q(z | x) || p(z)) of each example, or its estimate from the code drawn."""
        return self.log_q - self.log_p if self.kl is None else self.kl.sum(-1)

    def log_weight(self) -> Array:
        """log p(x, z) - log q(z | x)."""
        return self.log_p - self.nll - self.log_q

    def bound(self, k: int) -> Array:
        """log 1/k sum_i p(x, z_i) / q(z_i | x), of an example's k codes (Burda et al. 2015)."""
        return jax.nn.logsumexp(self.log_weight().reshape(k, -1), axis=0) - jnp.log(k)


class Variational(NamedTuple):
    """A latent variable model as one player's: its parameters are those of encoder and decoder,
    and of posterior, prior and scale where these have any."""
    player: str
    encoder: nets.Net
    decoder: nets.Net
    posterior: Posterior
    prior: Prior
    likelihood: Likelihood
    shape: tuple[int, ...]
    latent: int
    labels: int
    latents: Latents
    closed_form_kl: bool  # whether the KL has a closed form

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        keys = jax.random.split(key, 4)
        z = jnp.zeros((1, self.latent))
        initial = dict(encoder=self.encoder.init(keys[0], self.inputs(batch.x, batch)),
                       decoder=self.decoder.init(keys[1], self.inputs(z, batch, slice(1))))
        for name, parts in dict(posterior=(self.posterior.init(keys[2]), {}),
                                prior=(self.prior.init(keys[3], batch), {}),
                                scale=self.likelihood.init()).items():
            if any(parts):
                initial[name] = parts
        return {n: p for n, (p, _) in initial.items()}, {n: b for n, (_, b) in initial.items()}

    def inputs(self, x: Array, batch: Batch, rows=slice(None)):
        """What a net sees: x, with the label where there are labels to be told."""
        return (x, batch.label[rows]) if self.labels else x

    def variables(self, state: State, part: str) -> tuple[Tree, Tree]:
        both = state.params[self.player], state.buffers[self.player]
        return tuple(tree.get(part, {}) for tree in both)

    def encode(self, state: State, batch: Batch) -> tuple[Array, Tree]:
        """The encoder's output, and its new buffers."""
        return self.encoder.train(*self.variables(state, 'encoder'), self.inputs(batch.x, batch))

    def sample_posterior(self, state: State, code: Array, key: Array) -> tuple[Array, Array]:
        """A code z drawn from q, and log q(z | x)."""
        return self.posterior.sample(self.variables(state, 'posterior')[0], code, key)

    def reconstruction_nll(self, state: State, z: Array, batch: Batch) -> tuple[Array, dict]:
        """-log p(x | z), and new buffers of decoder and scale."""
        y, decoder = self.decoder.train(*self.variables(state, 'decoder'), self.inputs(z, batch))
        y = self._outputs(y)
        params, kept = self.variables(state, 'scale')
        new = dict(decoder=decoder)
        if 'scale' in state.buffers[self.player]:
            new['scale'] = self.likelihood.keep(kept, y, batch.x)
        return self.likelihood.nll(params, new.get('scale', kept), y, batch.x), new

    def kl_cost(self, sample: LatentSample, state: State) -> Array:
        """What the KL of a batch costs at this step: its mean above free_bits, warmed up."""
        kl = (sample.divergence().mean() if sample.kl is None else
              jnp.maximum(sample.kl.mean(0), self.latents.free_bits).sum())
        return self.kl_weight(state) * kl

    def kl_weight(self, state: State) -> Array:
        """The weight of the KL at this step, from 0 to 1."""
        return losses.kl_weight(self.latents.kl_schedule, state.step, self.latents.kl_warmup_steps)

    def log_prior(self, state: State, z: Array) -> Array:
        return self.prior.log_prob(self.variables(state, 'prior')[0], z, self._infer(state))

    def sample_prior(self, state: State, key: Array, n: int) -> Array:
        """n codes drawn from p(z)."""
        return self.prior.sample(self.variables(state, 'prior')[0], key, n, self._infer(state))

    def train(self, state: State, batch: Batch, key: Array, k: int = 1) -> LatentSample:
        """What a loss is made of."""
        code, new_encoder = self.encode(state, batch)
        many, examples = jax.tree.map(lambda a: jnp.tile(a, (k, *(1,) * (a.ndim - 1))),
                                      (code, batch))
        z, log_q = self.sample_posterior(state, many, key)
        nll, new_buffers = self.reconstruction_nll(state, z, examples)
        parts = z, log_q, self.log_prior(state, z), nll
        if k > 1:
            parts = jax.tree.map(lambda a: a.reshape(k, -1, *a.shape[1:]), parts)
        return LatentSample(*parts, self._kl(code),
                            state.buffers[self.player] | new_buffers | dict(encoder=new_encoder))

    def test(self, state: State, batch: Batch, key: Array) -> LatentSample:
        """The same as in evaluation."""
        z, log_q = self._posterior(state, batch, key)
        log_x, log_p = self._joint(state, batch, z)
        return LatentSample(z, log_q, log_p, -log_x, self._kl(self._code(state, batch)), {})

    def evaluate(self, state: State, batch: Batch, key: Array) -> dict[str, Array]:
        """elbo, recon and kl (n,) in nats, and kl_per_dim (n, d) where there is a closed form."""
        sample = self.test(state, batch, key)
        kl = sample.divergence()
        metrics = dict(elbo=-(sample.nll + kl), recon=sample.nll, kl=kl)
        return metrics if sample.kl is None else metrics | dict(kl_per_dim=sample.kl)

    def evaluate_iwae(self, state: State, batch: Batch, key: Array, k: int) -> dict[str, Array]:
        """iwae (n,), the bound of k codes, and loss = -iwae; with what evaluate gives."""
        keys = jax.random.split(key, k)
        bound = lax.map(lambda key: self.test(state, batch, key)._replace(kl=None), keys).bound(k)
        return dict(loss=-bound, iwae=bound) | self.evaluate(state, batch, keys[0])

    def maps(self) -> dict[str, Callable]:
        """The fields of Model but those that a loss decides."""
        moments = self.posterior.moments
        density = Density(
            self._posterior, self._joint,
            lambda state, batch, key: self.sample_prior(state, key, len(batch.x)), self._observe,
            moments and (lambda state, batch: moments(self._code(state, batch))))
        maps = dict(decode=self._decode, prior=self._sample, density=density, bounds=self.bounds())
        if self.labels:
            return maps | dict(show=self._show)
        return maps | dict(encode=lambda state, x: self._centre(state, Batch(x)))

    def bounds(self, exact: bool = True) -> dict[str, tuple[float, float]]:
        """Of each metric; those of kl and elbo are exact where `exact` and in closed form."""
        chance = 0. if exact and self.closed_form_kl else CHANCE
        limits = dict(kl=(0 - chance, float('inf')), kl_per_dim=NON_NEGATIVE)  # not -0
        if not self.likelihood.discrete:
            return limits
        return limits | dict(recon=NON_NEGATIVE, elbo=(-float('inf'), chance),
                             iwae=(-float('inf'), CHANCE))

    def _code(self, state, batch):
        return self.encoder.apply(*self.variables(state, 'encoder'), self.inputs(batch.x, batch))

    def _infer(self, state):
        return lambda x: self.posterior.moments(self._code(state, Batch(x)))

    def _kl(self, code):
        return losses.gaussian_kl(*self.posterior.moments(code)) if self.closed_form_kl else None

    def _outputs(self, y):
        m = self.likelihood.outputs
        return y if m == 1 else y.reshape(len(y), *self.shape, m)

    def _posterior(self, state, batch, key):
        return self.sample_posterior(state, self._code(state, batch), key)

    def _centre(self, state, batch):
        return self.posterior.centre(
            self.variables(state, 'posterior')[0], self._code(state, batch))

    def _output(self, state, z):
        return self._outputs(self.decoder.apply(*self.variables(state, 'decoder'), z))

    def _joint(self, state, batch, z):
        y = self._output(state, self.inputs(z, batch))
        nll = self.likelihood.nll(*self.variables(state, 'scale'), y, batch.x)
        return -nll, self.log_prior(state, z)

    def _observe(self, state, batch, z, key):
        y = self._output(state, self.inputs(z, batch))
        return self.likelihood.sample(*self.variables(state, 'scale'), y, key)

    def _decode(self, state, z):
        return self.likelihood.mean(self._output(state, z))

    def _sample(self, state, key, n):
        z = self.sample_prior(state, key, n)
        return (z, jnp.arange(n) % self.labels) if self.labels else z

    def _show(self, state, batch, key):
        """Reconstructions, and the codes with every label."""
        z = self._centre(state, batch)
        named = {f'as {i}': self._decode(state, (z, jnp.full(len(z), i)))
                 for i in range(self.labels)}
        same_label = self._decode(state, (z, batch.label))
        return {'test data': batch.x, 'reconstructions': same_label, **named}


def variational(player: str, example: Batch, latent: int, latents: Latents, net: nets.Nets,
                labels: int = 0) -> Variational:
    """The player for examples such as these; encoder and decoder get one of `labels` labels."""
    x = example.x
    q = densities.posterior(latents.posterior, latent, latents.flows)
    p = densities.prior(latents.prior, latent, latents.components)
    if latents.prior == 'vamp' and labels:
        raise BadInput("prior 'vamp' has no labels for its pseudo-inputs; use prior normal")
    link = nets.link(x, net, latents.likelihood == 'bernoulli')
    observation = densities.likelihood(latents.likelihood, x, link, scale=latents.scale,
                                       sigma=latents.sigma, levels=latents.levels)
    shape = x.shape[1:]
    encoder = net.encoder((*shape[:-1], shape[-1] + labels), q.outputs)
    start, output = (x, link) if observation.start is None else (observation.start, nets.identity)
    decoder = net.decoder(start, latent + labels, output, 0)
    if labels:
        encoder, decoder = (nets.concat_label(net, labels) for net in (encoder, decoder))
    return Variational(player, encoder, decoder, q, p, observation, shape, latent, labels, latents,
                       latents.closed_form_kl)
