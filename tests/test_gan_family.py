"""What the GANs promise, on points and patterns small enough to see that they keep it."""
import io

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from conftest import model as model_of, quick, thorough
from gen_jax import record
from gen_jax.data import points
from gen_jax.metrics import samples
from gen_jax.types import Batch, Context

CENTRES, SIGMA = points.MIXTURES['ring']
SMALL = dict(kind='mlp', width=(32, 32), norm='none', latent=2, b1=0.)
PLAYED = SMALL | dict(discriminator_norm='none', loss='relativistic', penalty='r1r2',
                      penalty_weight=.2, learning_rate=2e-3)


def key(seed=0):
    return jax.random.key(seed)


def ring(key, n=128):
    """As many points of every mode."""
    mode = jnp.arange(n) % 8
    return Batch(points.draw('ring', mode, key), mode)


def square(key, n=128):
    return Batch(jax.random.uniform(key, (n, 2), minval=-2, maxval=2))


def trained(model, draw, steps, keep=lambda state: state):
    """The state after so many steps, each on examples of its own, and the metrics of each; keep:
    what becomes of a state after a step."""
    def step(state, key):
        keys = jax.random.split(key)
        state, metrics = model.step(state, draw(keys[0]), keys[1])
        return keep(state), metrics

    return quick(lambda: lax.scan(step, keep(model.init(key(), draw(key()))),
                                  jax.random.split(key(1), steps)))()


def changed(state, player, change, part=None):
    """The state with parameters of a player, or of a part of it, changed."""
    local = state.params[player]
    local = local | {part: jax.tree.map(change, local[part])} if part else jax.tree.map(
        change, local)
    return state._replace(params=state.params | {player: local})


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other),
                                                    strict=True))


# GANs


@pytest.mark.full
def test_a_relativistic_gan_with_centred_gradients_finds_every_mode():
    model = model_of('gan', ring(key()), **PLAYED, b2=.9)
    state, _ = trained(model, ring, 800)
    x = model.decode(state, model.prior(state, key(3), 2500))
    result = samples.modes(x, CENTRES, 10 * SIGMA)  # after so few steps the modes are still wide
    assert result['modes'] == 8 and result['high_quality'] > .8 and result['kl'] < .05
    assert samples.modes(x, CENTRES, SIGMA)['modes'] == 8
    start = model.init(key(), ring(key()))
    before = samples.modes(model.decode(start, model.prior(start, key(3), 2500)), CENTRES, SIGMA)
    assert before['modes'] < 8 and before['high_quality'] < .1


@pytest.mark.parametrize('conditioning', thorough(['concat', 'norm'], 'concat'))
@pytest.mark.parametrize('condition', thorough(
    ['concat', 'projection', 'auxiliary'], 'projection'))
def test_a_conditional_gan_makes_what_is_asked_for(condition, conditioning):
    """The label is the mode: its samples lie near that centre, whatever the code."""
    norm = 'layer' if conditioning == 'norm' else 'none'
    model = model_of('gan', ring(key()), **PLAYED | dict(norm=norm), b2=.9,
                     discriminator_conditioning=condition, generator_conditioning=conditioning)
    state, metrics = trained(model, ring, 300)
    z, label = model.prior(state, key(3), 800)
    assert np.bincount(label).tolist() == [100] * 8
    x = np.asarray(quick(model.decode)(state, (z, label)))
    distance = np.linalg.norm(x[:, None] - CENTRES, axis=2)
    assert (distance.argmin(1) == label).mean() > .95
    assert distance[np.arange(800), label].mean() < .25
    if condition == 'auxiliary':
        assert metrics['label_accuracy_real'][-20:].mean(
        ) > .95 and metrics['label_accuracy_fake'][-20:].mean() > .95


@pytest.mark.parametrize('every', [1, 3])
def test_the_generator_moves_on_each_kth_step_only(every):
    model, draws = model_of('gan', ring(key()), **SMALL, discriminator_steps=every), []
    step, state = quick(model.step), model.init(key(), ring(key()))
    for i in range(5):
        after, _ = step(state, ring(key(i)), key(i))
        draws.append(
            [not same(state.params[p], after.params[p]) for p in ('generator', 'discriminator')])
        assert same(state.ema, after.ema) != draws[-1][0]
        state = after
    assert draws == [[i % every == 0, True] for i in range(5)]


@pytest.mark.full
def test_a_packed_discriminator_judges_an_example_with_its_neighbour():
    """In training two and two, in evaluation each with the next, the last with the first."""
    batch, tried = ring(key(), 12), {}
    for pack in 1, 2, 3:
        model = model_of('gan', batch, Context(batch=12), **SMALL, packing=pack)
        state = model.init(key(), batch)
        recorded = state.params['discriminator']['blocks_1']['Dense_0']['kernel']
        assert recorded.shape == (2 * pack, 32)
        evaluate = quick(model.evaluate)
        other = batch._replace(x=batch.x.at[5].add(1.))
        one, moved = (evaluate(state, b, key(1))['discriminator_loss'] for b in (batch, other))
        assert np.flatnonzero(one != moved).tolist() == list(range(6 - pack, 6))
        after, metrics = quick(model.step)(state, batch, key(1))
        assert np.isfinite(metrics['discriminator_loss']) and not same(state.params, after.params)
        tried[pack] = state.params['generator']
    assert same(tried[1], tried[2]) and same(tried[2], tried[3])


@pytest.mark.full
@pytest.mark.parametrize('pack', thorough([1, 2, 3], 2))
def test_a_packed_discriminator_sees_the_collapse(pack):
    """Of points 0 and -1, as likely, against a generator of zeros, none but those packs are taken
    for generated that hold zeros alone (Lin et al. 2018)."""
    def coins(key, n=120):
        return Batch(-jax.random.bernoulli(key, shape=(n, 1)).astype(jnp.float32))

    model = model_of('gan', coins(key()), Context(batch=120), **SMALL, learning_rate=5e-3,
                     ema_decay=0., packing=pack)
    _, metrics = trained(model, coins, 150,
                         lambda state: changed(state, 'generator', jnp.zeros_like))
    assert metrics['accuracy_fake'][-50:].mean() == 1
    assert float(metrics['accuracy_real'][-50:].mean()) == pytest.approx(1 - .5 ** pack, abs=.03)


# InfoGAN


@pytest.mark.full
def test_infogans_categories_can_be_read_off_its_samples():
    model = model_of('infogan', ring(key()), **PLAYED, num_categories=8, num_continuous=1)
    state, metrics = trained(model, ring, 500)
    result = {k: float(v.mean()) for k, v in
              quick(model.evaluate)(state, ring(key(5), 2000), key(6)).items()}
    most = np.log(8) + np.log(2) - stats.norm(0, .5).entropy() + .5  # of q at its densest
    assert result['category_accuracy'] > .97 and np.log(8) < result['mutual_info_bound'] < most
    assert metrics['mutual_info_bound'][0] < .5 and metrics['category_accuracy'][:5].mean() < .4
    parts = quick(model.show)(state, ring(key(), 64), key(7))
    assert set(parts) == {'a category a row', 'code 1 from left to right'}
    rows = np.asarray(parts['a category a row']).reshape(8, 8, 2)
    apart = np.linalg.norm(rows.mean(1)[:, None] - rows.mean(1), axis=2) + 9 * np.eye(8)
    assert rows.std(1).max() < apart.min(), 'rows lie apart, whatever the noise'


def test_infogans_information_is_the_entropy_and_the_density_of_its_codes():
    """A recognition network of zeros: all categories are equally likely, every code N(0, s)."""
    model = model_of('infogan', ring(key()), **SMALL, num_categories=4, num_continuous=2,
                     continuous_std=.7)
    state = changed(model.init(key(), ring(key())), 'recognition', jnp.zeros_like)
    result = quick(model.evaluate)(state, ring(key(1)), key(2))
    z = model.prior(state, key(2), 128)  # those that evaluation draws
    truth = np.log(4) - np.log(4) + 2 * np.log(2) + stats.norm(0, .7).logpdf(z[:, 4:6]).sum(1)
    np.testing.assert_allclose(result['mutual_info_bound'], truth, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result['category_accuracy'], z[:, :4].argmax(1) == 0)


@pytest.mark.full
def test_infogans_information_stays_below_what_is_told_and_comes_near_it():
    """Of a generator that makes the same of categories 2i and 2i + 1, and nothing of the noise,
    half of them are known."""
    small = PLAYED | dict(learning_rate=5e-4)  # so that the last steps do not decide
    model = model_of('infogan', ring(key()), **small, num_categories=8, num_continuous=0,
                     ema_decay=0.)
    built = model.init(key(9), ring(key())).params['generator']
    kernel = 2 * built['blocks_0']['Dense_0']['kernel']
    kernel = kernel.at[1:8:2].set(kernel[:8:2]).at[8:].set(0)
    built = built | dict(blocks_0=built['blocks_0'] | dict(Dense_0=dict(kernel=kernel)))
    fixed = lambda state: state._replace(params=state.params | dict(generator=built))
    state, metrics = trained(model, ring, 1500, fixed)
    result = quick(model.evaluate)(state, ring(key(5), 4000), key(6))
    truth, error = np.log(4), result['mutual_info_bound'].std() / 4000 ** .5
    assert truth - .1 < result['mutual_info_bound'].mean() < truth + 3 * error
    assert float(metrics['mutual_info_bound'].max()) < truth + .2  # of 128 each
    assert abs(result['category_accuracy'].mean() - .5) < .1


# VAE-GAN


def leaky(x):
    return np.where(x > 0, x, .2 * x)


def test_vaegan_compares_by_the_discriminators_last_features():
    batch = square(key())
    model = model_of('vaegan', batch, **SMALL | dict(width=(6,)), ema_decay=0.)
    state = model.init(key(), batch)
    evaluate = quick(model.evaluate)
    layer = state.params['discriminator']['first']['blocks_1']

    def features(x):
        return leaky(np.asarray(x, float) @ np.asarray(layer['Dense_0']['kernel'])
                     + np.asarray(layer['bias']))

    again = model.decode(state, model.encode(state, batch.x))
    truth = ((features(batch.x) - features(again)) ** 2).sum(1) / 2
    result = evaluate(state, batch, key(1))
    np.testing.assert_allclose(result['features'], truth, rtol=1e-4)
    twice = evaluate(changed(state, 'discriminator', lambda a: 2 * a, 'first'), batch, key(1))
    np.testing.assert_allclose(twice['features'], 4 * truth, rtol=1e-4)
    judged = evaluate(changed(state, 'discriminator', lambda a: a + 1, 'second'), batch, key(1))
    np.testing.assert_array_equal(judged['features'], result['features'])
    assert (judged['discriminator_loss'] != result['discriminator_loss']).any()
    for metric in 'mse', 'kl':
        np.testing.assert_array_equal(twice[metric], result[metric])


def test_vaegans_encoder_heeds_features_but_not_the_judgement():
    """The discriminator's last layer is nothing to the encoder, its features are; both are to the
    generator."""
    batch = square(key())
    model = model_of('vaegan', batch, **SMALL)
    state, step = model.init(key(), batch), quick(model.step)
    after = {
        part: step(changed(state, 'discriminator', lambda a: 1.5 * a + .1, part), batch, key(1))[0]
        for part in ('first', 'second')
    }
    after[None] = step(state, batch, key(1))[0]
    for player, heeds in dict(encoder=('first',), generator=('first', 'second')).items():
        for part in 'first', 'second':
            alike = same(after[None].params[player], after[part].params[player])
            assert alike == (part not in heeds), (player, part)


@pytest.mark.full
def test_vaegan_learns_to_reconstruct():
    model = model_of('vaegan', square(key()), **PLAYED | dict(penalty_weight=.1), beta=.01)
    state, metrics = trained(model, square, 600)
    start = model.init(key(), square(key()))
    before, after = (quick(model.evaluate)(s, square(key(5), 1000), key(6)) for s in (start, state))
    assert after['mse'].mean() < .05 * before['mse'].mean()
    assert after['kl'].mean() > 1 and np.isfinite(metrics['generator_loss']).all()


# The adversarial autoencoder


def skewed(key, n=128):
    """Points that no linear map makes normal."""
    return Batch(jax.random.exponential(key, (n, 2)))


def farthest(z):
    """The largest Kolmogorov-Smirnov distance of projections from N(0, 1)."""
    ways = np.linspace(0, np.pi, 6, endpoint=False)
    return max(stats.kstest(np.asarray(z) @ [np.cos(a), np.sin(a)], 'norm').statistic for a in ways)


@pytest.mark.full
def test_aaes_codes_become_normal():
    hyper = dict(kind='mlp', width=(32, 32), discriminator_width=(32, 32), latent=2, loss='mse')
    model = model_of('aae', skewed(key()), **hyper)
    batch, result = skewed(key(5), 2000), {}
    state, _ = trained(model, skewed, 1000)
    for when, s in dict(before=model.init(key(), skewed(key())), after=state).items():
        z = np.asarray(model.encode(s, batch.x))
        result[when] = dict(far=farthest(z), mean=abs(z.mean(0)).max(),
                            cov=abs(np.cov(z.T) - np.eye(2)).max())
    standard = (batch.x - batch.x.mean(0)) / batch.x.std(0)
    assert result['after']['far'] < .1 < farthest(standard) < result['before']['far']
    assert result['after']['mean'] < .2 and result['after']['cov'] < .5 < result['before']['cov']
    end = {k: float(v.mean()) for k, v in quick(model.evaluate)(state, batch, key(6)).items()}
    assert abs((end['accuracy_real'] + end['accuracy_fake']) / 2 - .5) < .1
    assert end['mse'] < .05 and end['pairwise_distance_fake'] == pytest.approx(
        end['pairwise_distance_real'], rel=.4)


@pytest.mark.full
def test_a_labelled_aae_keeps_in_its_code_what_the_label_leaves():
    """Points of the ring with a third number of their own: the code is that number alone."""
    def raised(key, n=128):
        batch = ring(key, n)
        return batch._replace(x=jnp.concatenate([batch.x, jax.random.normal(key, (n, 1))], 1))

    model = model_of('aae', raised(key()), width=(32, ), discriminator_width=(32, ), latent=1,
                     loss='mse', conditional=True, learning_rate=3e-3)
    assert model.encode is None
    state, _ = trained(model, raised, 800)
    z, label = model.prior(state, key(3), 160)
    assert np.bincount(label).tolist() == [20] * 8
    decode = quick(model.decode)
    for k in range(8):
        x = np.asarray(decode(state, (z, jnp.full(160, k))))
        assert np.linalg.norm(x[:, :2] - CENTRES[k], axis=1).mean() < .2
        assert abs(np.corrcoef(x[:, 2], z[:, 0])[0, 1]) > .95
    parts = quick(model.show)(state, raised(key(4), 160), key(5))
    assert set(parts) == {'test data', 'reconstructions', *(f'as {k}' for k in range(8))}
    for k in range(8):
        local = np.arange(160) % 8 == k
        np.testing.assert_allclose(parts[f'as {k}'][local], parts['reconstructions'][local],
                                   atol=1e-6)
        for label in range(8):
            third = (parts[name][label::8, 2] for name in (f'as {k}', 'test data'))
            assert np.corrcoef(*third)[0, 1] > .95


# BiGAN


@pytest.mark.full
def test_bigans_encoder_inverts_its_generator():
    model = model_of('bigan', square(key()),
                     **PLAYED | dict(width=(64, 64), penalty='r1', penalty_weight=.1))
    state, _ = trained(model, square, 1000)
    start, batch = model.init(key(), square(key())), square(key(5), 1000)
    wrong = []
    for s in start, state:
        z = model.prior(s, key(7), 1000)
        back, again = model.encode(s, model.decode(s, z)), model.decode(s, model.encode(s, batch.x))
        wrong.append([float(((a - b) ** 2).mean()) for a, b in ((back, z), (again, batch.x))])
        mse = quick(model.evaluate)(s, batch, key(6))['mse'].mean()
        assert float(mse) == pytest.approx(wrong[-1][1], rel=1e-4)
    assert min(wrong[0]) > .5 and max(wrong[1]) < .25
    z = np.asarray(model.encode(state, batch.x))
    assert abs(z.mean(0)).max() < .2 and abs(z.std(0) - 1).max() < .25


# Alarms

CALM = {'train/accuracy_real': .8, 'train/accuracy_fake': .995, 'test/pairwise_distance_real': 4.,
        'test/pairwise_distance_fake': 2., 'train/active_units': 3.}


@pytest.mark.parametrize('metrics, said',
                         [({}, []), (CALM, []),
                          (CALM | {'train/accuracy_real': .992}, ['the discriminator wins']),
                          (CALM | {'train/accuracy_real': .99}, []),
                          (CALM | {'test/pairwise_distance_fake': .39}, ['nearly all alike']),
                          (CALM | {'test/pairwise_distance_fake': .41}, []),
                          (CALM | {'train/active_units': 0.}, ['no unit']),
                          ({'train/loss': 4.9e3, 'test/loss': 10.}, []),
                          ({'train/loss': 5.1e3}, ['far above 5, where it began']),
                          ({'test/loss': 1e32, 'train/loss': 3.}, ['far above']),
                          ({'train/loss': -1e9}, []),
                          ({'train/accuracy': 1., 'test/accuracy': 1., 'train/loss': 0.}, []),
                          (CALM | {'train/accuracy_real': 1., 'test/pairwise_distance_fake': 0.},
                           ['discriminator wins', 'alike'])])
def test_alarms_say_what_is_wrong_and_nothing_else(metrics, said):
    result = record.alarms(metrics, 5.)
    assert len(result) == len(said) and all(word in a for word, a in zip(said, result))
    out = io.StringIO()
    record.Progress(2, 0, out)(1, {'test/loss': 1.} | metrics, 100., 5.)
    line, = out.getvalue().splitlines()
    assert line.count('!') == len(result)
    assert line.endswith(''.join(f'  ! {words}' for words in result))
