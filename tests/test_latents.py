"""Every VAE takes any likelihood, prior and posterior, or says why it cannot."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import model as model_of, quick, thorough
from gen_jax import densities, latents
from gen_jax.densities.likelihoods import LIKELIHOODS, SCALES
from gen_jax.densities.posteriors import POSTERIORS
from gen_jax.densities.priors import PRIORS
from gen_jax.types import BadInput, Batch

N, LABELS, LEVELS = 6, 3, 4
VAES = dict(vae={}, cvae={}, iwae=dict(k=2), dreg=dict(k=2, gradient_estimator='dreg'), tcvae={},
            factor={}, mmd={}, wae=dict(deterministic=True), ladder=dict(k=2),
            vq=dict(num_positions=2))
CALLED = dict(dreg='iwae', wae='mmd')


def data():
    chance = np.random.default_rng(0)
    x = chance.integers(0, LEVELS, (N, 5)) / (LEVELS - 1)
    return Batch(jnp.float32(x), jnp.arange(N, dtype=jnp.int32) % LABELS)


def make(name, **hyper):
    return model_of(CALLED.get(name, name), data(), **VAES[name], **dict(
        kind='mlp', width=(4,), latent=3, levels=LEVELS, components=5) | hyper)


def refused(name, likelihood, scale, posterior, prior):
    """Why a combination cannot be, in a word of what is said; None where it can."""
    plain = posterior == 'diagonal' and prior == 'normal'
    if prior == 'vamp' and posterior != 'diagonal':
        return 'mixes posteriors that are diagonal'
    if name == 'tcvae' and not plain:
        return 'density of each dimension of the code by itself'
    if name == 'ladder' and not plain:
        return 'those of two layers'
    if name == 'vq' and (not plain or scale != 'fixed' or likelihood not in (
            'bernoulli', 'gaussian')):
        return 'those of a codebook'
    if name == 'dreg' and posterior != 'diagonal':
        return 'a Gaussian q in closed form'
    if name == 'cvae' and prior == 'vamp':
        return 'no labels for its pseudo-inputs'
    return None


DENSITIES = [(*pair, 'diagonal', 'normal') for pair in itertools.product(LIKELIHOODS, SCALES)
             if pair[1] == 'fixed' or pair[0] == 'gaussian'] + [
    ('bernoulli', 'fixed', *pair) for pair in itertools.product(POSTERIORS, PRIORS)]


@pytest.mark.parametrize('name', VAES)
@pytest.mark.parametrize('likelihood, scale, posterior, prior', thorough(
    DENSITIES, ('bernoulli', 'fixed', 'iaf', 'mixture'), ('bernoulli', 'fixed', 'diagonal', 'vamp'),
    ('gaussian', 'learned', 'diagonal', 'normal')))
def test_a_vae_takes_any_density_or_says_why_not(name, likelihood, scale, posterior, prior):
    chosen = dict(likelihood=likelihood, scale=scale, posterior=posterior, prior=prior)
    why = refused(name, likelihood, scale, posterior, prior)
    if why:
        with pytest.raises(BadInput, match=why):
            make(name, **chosen)
        return
    model, batch = make(name, **chosen), data()

    def all_of_it(key):
        state = model.init(key, batch)
        after, trained = model.step(state, batch, key)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after)
        z = model.prior(state, key, 4)
        return trained, model.evaluate(state, batch, key), model.decode(state, z)

    trained, tested, built = jax.eval_shape(all_of_it, jax.random.key(0))
    assert 'loss' in trained and tested['loss'].shape == (N,) and built.shape == (4, 5)


FORMULAS = dict(
    vae=(dict(beta=3.), lambda m, w, cost: m['recon'] + 3 * w * cost),
    cvae=(dict(beta=3.), lambda m, w, cost: m['recon'] + 3 * w * cost),
    factor=(dict(gamma=7.), lambda m, w, cost: m['recon'] + w * cost + 7 * m['tc']),
    mmd=(dict(alpha=.3, mmd_weight=20.),
         lambda m, w, cost: m['recon'] + .7 * w * cost + 19.3 * m['mmd']),
    tcvae=(dict(alpha=2., beta=5., gamma=.5), lambda m, w, cost: m['recon'] + w * (
        2 * m['mi'] + 5 * m['tc'] + .5 * m['dimwise_kl'])))


@pytest.mark.parametrize('name, free', thorough(
    [(name, free) for name in FORMULAS for free in (False, True)],
    ('vae', True), ('tcvae', False), ('mmd', False)))
def test_the_kl_of_every_vae_is_warmed_up_and_free_bits_cost_nothing(name, free):
    """Training's loss at step 3 of 8; evaluation has the whole KL, whatever is free."""
    hyper, formula = FORMULAS[name]
    warm = dict(kl_schedule='linear', kl_warmup_steps=8)
    if name == 'tcvae' and free:
        with pytest.raises(BadInput, match='each dimension of the code by itself'):
            make(name, free_bits=.1, **warm, **hyper)
        return
    model = make(name, **warm, **hyper)
    state = quick(model.init)(jax.random.key(0), data())
    encoder = jax.tree.map(lambda a: 1.5 * a, state.params['vae']['encoder'])  # a KL to speak of
    state = state._replace(step=jnp.int32(3), params=state.params | dict(
        vae=state.params['vae'] | dict(encoder=encoder)))
    tested = quick(model.evaluate)(state, data(), jax.random.key(1))
    unit = np.sort(np.asarray(tested['kl_per_dim']).mean(0))
    bits = float(unit[:2].mean()) if free else 0.  # more than one dimension has, less than another
    model = make(name, free_bits=bits, **warm, **hyper)
    trained = quick(model.step)(state, data(), jax.random.key(1))[1]
    cost = np.maximum(unit, bits).sum() if free else trained['kl']
    assert unit[0] > .01
    np.testing.assert_allclose(trained['loss'], formula(trained, 3 / 8, cost), rtol=1e-4)
    np.testing.assert_allclose(tested['loss'], formula(tested, 1, tested['kl']), rtol=1e-4)
    if name != 'tcvae':
        np.testing.assert_allclose(trained['kl'], unit.sum(), rtol=1e-4)


@pytest.mark.parametrize('name', ['iwae', 'ladder', 'vq'])
@pytest.mark.parametrize(
    'asked', [dict(free_bits=.1), dict(kl_schedule='linear', kl_warmup_steps=9)])
def test_bounds_without_a_kl_refuse_to_weigh_it(name, asked):
    with pytest.raises(BadInput, match='latents.(free_bits|kl_schedule) cannot be .*, as .*; use '):
        make(name, **asked)


def test_bits_are_free_of_a_kl_by_dimension_alone():
    for other in dict(posterior='full'), dict(prior='mixture'):
        with pytest.raises(BadInput, match='free_bits are for the KL of each dimension'):
            latents.make(free_bits=.1, **other)


def test_a_flow_is_in_the_bound_of_several_codes():
    """IWAE of an inverse autoregressive flow: by hand from its density's own functions."""
    model = make('iwae', posterior='iaf', prior='mixture')
    state = quick(model.init)(jax.random.key(0), data())
    result = quick(model.evaluate)(state, data(), jax.random.key(1))['iwae']

    @quick
    def log_weights(key):
        z, log_q = model.density.posterior(state, data(), key)
        return sum(model.density.joint(state, data(), z)) - log_q

    log_w = np.stack([log_weights(key) for key in jax.random.split(jax.random.key(1), 2)])
    np.testing.assert_allclose(result, np.logaddexp(*log_w) - np.log(2), rtol=1e-5)


def test_mmd_compares_with_the_prior_that_is_chosen():
    """Codes drawn from a mixture far from 0 are near that prior, and far from N(0, I)."""
    from gen_jax.models import mmd
    keys = jax.random.split(jax.random.key(0), 3)
    params = dict(mean=jnp.full((5, 3), 4.), logvar=jnp.zeros((5, 3)), logit=jnp.zeros(5))
    samples = densities.prior('mixture', 3, 5).sample(params, keys[0], 200, None)
    model = make('mmd', prior='mixture', mmd_weight=1., alpha=1.)
    state = quick(model.init)(jax.random.key(0), data())
    state = state._replace(params=dict(vae=state.params['vae'] | dict(prior=params)))
    local = model.prior(state, keys[1], 200)
    close_to, far = (float(mmd.discrepancy('imq', samples, other).mean())
                     for other in (local, jax.random.normal(keys[2], (200, 3))))
    assert abs(close_to) < .02 < .3 < far
    codes = quick(model.evaluate)(state, data(), keys[0])['mmd'].mean()
    assert codes > .3  # the encoder's are about 0


def table() -> str:
    """What goes with what, in Markdown: `PYTHONPATH=. python tests/test_latents.py`."""
    lines = ['| model | likelihoods | posteriors with priors | not |', '|---|---|---|---|']
    for name in VAES:
        why = {case: refused(name, *case) for case in DENSITIES}
        for case, reason in why.items():  # as the program itself says
            try:
                make(name, **dict(zip(('likelihood', 'scale', 'posterior', 'prior'), case)))
                assert reason is None, (name, case)
            except BadInput as e:
                assert reason and reason in str(e), (name, case)
        recorded = [
            f'{a} ({b})' if a == 'gaussian' else a for (a, b, *_), r in why.items() if not r
        ]
        pairs = {}
        for (a, _, q, p), reason in why.items():
            if a == 'bernoulli' and not reason:
                pairs.setdefault(q, []).append(p)
        grouped = {}
        for q, ps in pairs.items():
            grouped.setdefault(', '.join(dict.fromkeys(ps)), []).append(q)
        reasons = '; '.join(dict.fromkeys(r for r in why.values() if r))
        lines.append(f'| {name} | {", ".join(dict.fromkeys(recorded))} | ' + '; '.join(
            f'{", ".join(qs)} with {ps}' for ps, qs in grouped.items()) + f' | {reasons} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    print(table())
