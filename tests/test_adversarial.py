"""The parts of GANs against formulas in NumPy and SciPy, discriminators in closed form, and games
whose moves are known."""
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from conftest import model as model_of, quick, thorough
from gen_jax import adversarial, game, nets
from gen_jax.adversarial import rules
from gen_jax.adversarial.rules import find_loss, augmentation, pack, penalties
from gen_jax.optimisers import Optimiser
from gen_jax.nets import layers, sngan
from gen_jax.types import BadInput, Batch, Context, Player, State

KEY = jax.random.key(0)
FAMILY = 'gan', 'infogan', 'vaegan', 'aae', 'bigan'


@pytest.fixture(scope='module', autouse=True)
def unoptimised():
    """What is not jitted here is compiled as quickly, too."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


def random(shape, seed=0, scale=1.):
    return jnp.float32(np.random.default_rng(seed).normal(scale=scale, size=shape))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def leaky(x):
    return np.where(x > 0, x, .2 * x)


def uniform(samples, low, high):
    """Whether these numbers are drawn from U(low, high)."""
    return stats.kstest(np.ravel(samples), 'uniform', (low, high - low)).pvalue > 1e-3


def weights(params):
    """Kernels and biases of a net of dense layers, in order."""
    blocks = [block for _, block in sorted(params.items())]
    return [tuple(np.asarray(a, float) for a in (b['Dense_0']['kernel'], b['bias']))
            for b in blocks]


def plain(f):
    """A net without parameters."""
    return nets.Net(lambda key, x: ({}, {}), lambda p, b, x: f(x), lambda p, b, x: (f(x), {}))


def make_discriminator(f, shape=(2,), **options):
    """A discriminator whose net is the function f, and a state to play it in."""
    state = State(jnp.int32(0), dict(discriminator={}), {}, {}, dict(discriminator={}))
    played = {k: options.pop(k) for k in ('conditioning', 'labels', 'batch') if k in options}
    return adversarial.discriminator('discriminator', shape, adversarial.make(**options), plain(f),
                                     **played), state


# Losses

log = np.log
PAPERS = dict(
    minimax=(lambda r, f: -log(sigmoid(r)) - log(1 - sigmoid(f)), lambda r, f: log(1 - sigmoid(f))),
    nonsaturating=(lambda r, f: -log(sigmoid(r)) - log(1 - sigmoid(f)),
                   lambda r, f: -log(sigmoid(f))),
    least_squares=(lambda r, f: .5 * (r - 1) ** 2 + .5 * f ** 2, lambda r, f: .5 * (f - 1) ** 2),
    hinge=(lambda r, f: -np.minimum(0, r - 1) - np.minimum(0, -f - 1), lambda r, f: -f),
    wasserstein=(lambda r, f: f - r, lambda r, f: -f),
    relativistic=(lambda r, f: -log(sigmoid(r - f)), lambda r, f: -log(sigmoid(f - r))),
    relativistic_average=(
        lambda r, f: -log(sigmoid(r - f.mean())) - log(1 - sigmoid(f - r.mean())),
        lambda r, f: -log(sigmoid(f - r.mean())) - log(1 - sigmoid(r - f.mean()))))
LOGITS = random(50, 1, 2.), random(50, 2, 2.) - 1


def slopes(loss, real, fake):
    """Of the mean losses of discriminator and generator in all logits."""
    return [jax.grad(lambda a, b, side=side: side(a, b).mean(), (0, 1))(real, fake)
            for side in (loss.discriminator, loss.generator)]


def test_the_papers_and_the_losses_are_the_same_ones():
    assert PAPERS.keys() == rules.LOSSES.keys()


@pytest.mark.parametrize('name', PAPERS)
def test_losses_are_those_of_the_papers(name):
    for values, truth in zip(find_loss(name), PAPERS[name]):
        y = np.broadcast_to(values(*LOGITS), 50)
        np.testing.assert_allclose(y, truth(*(np.asarray(a, float) for a in LOGITS)), rtol=2e-5,
                                   atol=1e-6)


@pytest.mark.parametrize('name', PAPERS)
def test_only_differences_of_logits_matter_to_some(name):
    loss, shifted = find_loss(name), [a + 3 for a in LOGITS]
    same = [np.allclose(a, b, atol=1e-6) for a, b in zip(
        jax.tree.leaves(slopes(loss, *LOGITS)), jax.tree.leaves(slopes(loss, *shifted)))]
    relative = name in ('wasserstein', 'relativistic', 'relativistic_average')
    assert all(same) == relative
    assert np.allclose(loss.discriminator(*LOGITS), loss.discriminator(*shifted),
                       atol=1e-5) == relative
    moved = np.mean(loss.threshold(*shifted) - loss.threshold(*LOGITS))
    assert moved == pytest.approx(3 if relative else 0, abs=1e-5)


@pytest.mark.parametrize('name', PAPERS)
def test_who_is_told_apart_is_on_either_side_of_the_middle(name):
    """The middle is halfway between the logits at which the discriminator is content."""
    content = dict(least_squares=(1., 0.), wasserstein=(7., 3.), relativistic=(7., 3.),
                   relativistic_average=(7., 3.)).get(name, (1., -1.))
    assert np.mean(find_loss(name).threshold(*map(jnp.atleast_1d, content))) == np.mean(content)


@pytest.mark.parametrize('name', ['minimax', 'wasserstein'])
def test_zero_sum_games_are_zero_sum(name):
    discriminator, generator = slopes(find_loss(name), *LOGITS)
    np.testing.assert_allclose(discriminator[1], -generator[1], rtol=1e-5)


@pytest.mark.parametrize('name', PAPERS)
def test_the_generator_gains_where_its_examples_are_believed(name):
    between = jnp.linspace(.05, .95, 50)
    discriminator, generator = slopes(find_loss(name), between, between[::-1])
    assert (generator[1] < 0).all() and (discriminator[1] > 0).all() and (discriminator[0]
                                                                          < 0).all()


def test_where_the_discriminator_wins_only_minimax_falls_silent():
    fake = jnp.array([-8., 0.])
    derivative = {name: slopes(find_loss(name), fake, fake)[1][1] * 2 for name in PAPERS}
    np.testing.assert_allclose(derivative['minimax'], -sigmoid(fake), rtol=1e-5)
    np.testing.assert_allclose(derivative['nonsaturating'], sigmoid(fake) - 1, rtol=1e-5)


P, Q = stats.norm(-.7, 1), stats.norm(1, .6)


def test_cross_entropy_of_the_best_discriminator_is_the_jensen_shannon_divergence():
    """2 log 2 - 2 JSD, and any other discriminator loses more; JSD from entropies."""
    x = np.linspace(-9, 9, 20001)
    p, q = P.pdf(x), Q.pdf(x)
    logit, dx = P.logpdf(x) - Q.logpdf(x), x[1] - x[0]
    m = (p + q) / 2
    jsd = -(m * np.log(m)).sum() * dx - (P.entropy() + Q.entropy()) / 2

    def loss(shift=0., scale=1.):
        """Of either side: the other's is log 2 where its logit is 0."""
        said, zero = jnp.float32(scale * logit + shift), jnp.zeros(len(x))
        discriminator = find_loss('minimax').discriminator
        real, fake = (np.asarray(a, float) - np.log(2) for a in (discriminator(said, zero),
                                                                 discriminator(zero, said)))
        return (real * p + fake * q).sum() * dx

    assert loss() == pytest.approx(2 * np.log(2) - 2 * jsd, abs=1e-4)
    assert min(loss(.3), loss(-.3), loss(0, .7), loss(0, 1.3)) > loss() + 1e-3


@pytest.mark.parametrize('share', [.2, .5, .9])
@pytest.mark.parametrize('smooth', [0., .1, .3])
@pytest.mark.parametrize('name', ['minimax', 'nonsaturating', 'least_squares'])
def test_the_best_discriminator_says_the_share_of_the_data_times_its_target(name, smooth, share):
    """D = (1 - smooth) p / (p + q), Salimans et al. 2016: there the slope is 0."""
    best = (1 - smooth) * share
    logit = jnp.float32(best if name == 'least_squares' else np.log(best / (1 - best)))
    real, fake = jax.grad(find_loss(name, smooth).discriminator, (0, 1))(logit, logit)
    assert share * real + (1 - share) * fake == pytest.approx(0, abs=1e-6)


def test_smoothing_is_cross_entropy_with_another_target_for_the_discriminator_alone():
    real, fake = (np.asarray(a, float) for a in LOGITS)
    for name in 'minimax', 'nonsaturating':
        loss = find_loss(name, .1)
        truth = -.9 * log(sigmoid(real)) - .1 * log(sigmoid(-real)) - log(sigmoid(-fake))
        np.testing.assert_allclose(loss.discriminator(*LOGITS), truth, rtol=1e-5)
        np.testing.assert_allclose(loss.generator(*LOGITS), PAPERS[name][1](real, fake), rtol=1e-5)
    np.testing.assert_allclose(find_loss('least_squares', .1).discriminator(*LOGITS),
                               .5 * (real - .9) ** 2 + .5 * fake ** 2, rtol=1e-4, atol=1e-6)


# Penalties

CHARGED = 'gradient', 'onesided', 'dragan', 'r1', 'r2', 'r1r2'


def charged(name, discriminator, real, fake, key=KEY):
    return sum(
        (penalty(discriminator, real, fake, key) for penalty in penalties(name, 'wasserstein')),
        jnp.zeros(len(real)))


def due(name, discriminator, real, fake, key=KEY):
    """What a discriminator is charged, (n,)."""
    return np.asarray(charged(name, discriminator, real, fake, key))


@pytest.mark.parametrize('norm', [.3, 2.5])
@pytest.mark.parametrize('shape', [(3,), (4, 5, 2)])
def test_penalties_of_a_linear_discriminator(shape, norm):
    """Its slope is |w| over all axes of an example, wherever it is measured."""
    w = random(shape, 3)
    w = norm * w / jnp.sqrt((w ** 2).sum())
    discriminator = lambda x: (x * w).reshape(len(x), -1).sum(1)
    truth = dict(gradient=(norm - 1) ** 2, onesided=max(norm - 1, 0) ** 2, dragan=(norm - 1) ** 2,
                 r1=norm ** 2 / 2, r2=norm ** 2 / 2, r1r2=norm ** 2, none=0, clip=0)
    assert truth.keys() == set(rules.PENALTIES)
    for name, value in truth.items():
        np.testing.assert_allclose(
            due(name, discriminator, random((6, *shape)), random((6, *shape), 1)), [value] * 6,
            rtol=1e-4, err_msg=name)


def bowl(x):
    """A discriminator whose gradient is the example itself."""
    return (x ** 2).reshape(len(x), -1).sum(1) / 2


@pytest.mark.parametrize('shape', [(3,), (2, 3, 2)])
def test_r1_is_at_the_data_and_r2_at_the_samples(shape):
    real, fake = random((6, *shape)), random((6, *shape), 1, 2.)
    r1, r2 = (np.square(a).reshape(6, -1).sum(1) / 2 for a in (real, fake))
    for name, truth in dict(r1=r1, r2=r2, r1r2=r1 + r2).items():
        np.testing.assert_allclose(due(name, bowl, real, fake), truth, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('shape', [(1,), (2, 2, 1)])
def test_the_gradient_is_penalised_evenly_between_real_and_generated(shape):
    """From 3 to 5 in every pixel: all pixels of an example lie as far along."""
    n, size = 2000, np.prod(shape) ** .5
    for name in 'gradient', 'onesided':
        values = np.sqrt(due(name, bowl, jnp.full((n, *shape), 3.), jnp.full((n, *shape), 5.))) + 1
        assert uniform(values, 3 * size, 5 * size)


def test_dragan_looks_around_the_data():
    """Normally, by half its standard deviation, whatever the samples."""
    real = jnp.where(jnp.arange(2000)[:, None] % 2, 18., 22.)
    values = np.sqrt(due('dragan', bowl, real, jnp.full_like(real, jnp.nan))) + 1
    away = values - np.asarray(real)[:, 0]
    assert stats.kstest(away, stats.norm(0, 1).cdf).pvalue > 1e-3


def test_penalties_are_those_of_finite_differences():
    net = nets.make('mlp', width=(7, 6), activation='tanh').encoder((4,), 1)
    x = random((5, 4), 4)
    params, buffers = quick(net.init)(KEY, x)
    params = jax.tree.map(lambda a: 2 * a + .1, params)

    def logit(x):
        for i, (w, b) in enumerate(weights(params)):
            x = x @ w + b
            x = np.tanh(x) if i < 2 else x
        return x[:, 0]

    steps = 1e-5 * np.eye(4)
    at = np.asarray(x, float)
    truth = np.array([(logit(at + e) - logit(at - e)) / 2e-5 for e in steps]).T
    square = (truth ** 2).sum(1)
    discriminator = lambda x: net.apply(params, buffers, x)[:, 0]
    for name, value in dict(r1=square / 2, r1r2=square, gradient=(square ** .5 - 1) ** 2,
                            onesided=np.maximum(square ** .5 - 1, 0) ** 2).items():
        np.testing.assert_allclose(due(name, discriminator, x, x), value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('name', CHARGED)
def test_a_discriminator_learns_by_the_penaltys_own_slope(name):
    """Through the gradient inside: (|w| - 1)^2 has 2 (|w| - 1) w / |w|, and |w|^2 / 2 has w."""
    w = jnp.array([3., 4.])
    values = jax.grad(lambda w: charged(
        name, lambda x: x @ w, random((6, 2)), random((6, 2), 1)).mean())(w)
    truth = dict(r1=1., r2=1., r1r2=2.).get(name, 2 * (5 - 1) / 5)
    np.testing.assert_allclose(values, truth * w, rtol=1e-5)


@pytest.mark.parametrize('name', CHARGED)
def test_a_flat_discriminator_has_a_finite_penalty_and_slope(name):
    value, derivative = jax.value_and_grad(lambda w: charged(
        name, lambda x: x @ w, random((6, 2)), random((6, 2), 1)).mean())(jnp.zeros(2))
    assert np.isfinite(value) and np.isfinite(derivative).all()


@pytest.mark.parametrize('penalty', CHARGED)
def test_the_discriminator_pays_weight_times_the_penalty(penalty):
    """The sides as they are: r1 of the data, r2 of the samples; and none for the generator."""
    real, fake = Batch(random((6, 2), 1, 3.)), Batch(random((6, 2), 2, 5.))
    net = lambda x: bowl(x)[:, None]
    discriminator, state = make_discriminator(net, loss='wasserstein', penalty=penalty,
                                              penalty_weight=7.)
    value, metrics, _ = discriminator.loss_and_metrics(state, real, fake, KEY)
    r1, r2 = (float(np.square(b.x).sum(1).mean() / 2) for b in (real, fake))
    np.testing.assert_allclose(metrics['discriminator_loss'], r2 - r1, rtol=1e-5)
    np.testing.assert_allclose(value, r2 - r1 + 7 * metrics['penalty'], rtol=1e-5)
    if penalty in ('r1', 'r2', 'r1r2'):
        np.testing.assert_allclose(metrics['penalty'], dict(r1=r1, r2=r2, r1r2=r1 + r2)[penalty],
                                   rtol=1e-5)
    np.testing.assert_allclose(discriminator.generator_loss(state, real, fake, KEY), -r2, rtol=1e-5)
    free, _ = make_discriminator(net, loss='wasserstein')
    assert 'penalty' not in free.loss_and_metrics(state, real, fake, KEY)[1]


def test_clipped_parameters_stop_at_the_cut():
    moved = rules.clip_params(.1)(dict(a=jnp.array([-.5, .05, .14]), b=jnp.array(-.2)))
    np.testing.assert_allclose(moved['a'], [-.1, .05, .1], rtol=1e-6)
    assert float(moved['b']) == pytest.approx(-.1)


# The family: what their makes have in common


def examples(n=16, label=False):
    """Vectors of five numbers, most of them near 1."""
    x = jnp.float32(np.random.default_rng(0).uniform(size=(n, 5))) ** .25
    return Batch(x, jnp.arange(n, dtype=jnp.int32) % 3 if label else None)


def make(name, example=None, **hyper):
    """A small model of the family on vectors."""
    sizes = dict(discriminator_width=(16, ), width=(12, )) if name == 'aae' else dict(
        width=(16, ), ema_decay=0.)
    kind = dict(kind='mlp', norm='none', latent=3)
    if name == 'infogan':
        kind |= dict(num_categories=3, num_continuous=1)
    if name == 'bigan':
        kind |= dict(discriminator_norm='none')
    return model_of(name, example or examples(), **kind | sizes | hyper)


def play(model, steps, batch, key=lambda i: jax.random.fold_in(KEY, i), start=None):
    """The states (stacked, from the start on) and metrics of so many steps."""
    def step(state, key):
        state, metrics = model.step(state, batch, key)
        return state, (state, metrics)

    start = start or model.init(KEY, batch)
    _, (states, metrics) = lax.scan(step, start, jax.vmap(key)(jnp.arange(steps)))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, states), metrics


def largest(tree):
    return max(float(abs(a).max()) for a in jax.tree.leaves(tree))


@pytest.mark.parametrize('name', thorough(FAMILY, 'gan'))
def test_either_side_learns_while_the_other_stands_still(name):
    """A rate of 0 for one side: its parameters stay as they were to the bit, those of the other all
    change, and its loss falls.  The discriminator's are clipped at its first update, and stay
    within clip_value; no other player's are."""
    lost = 'encoder_generator_loss' if name == 'bigan' else 'generator_loss'
    more = dict(aae=dict(adversarial_weight=1e6), vaegan=dict(gamma=0.), gan=dict(clip_value=.03),
                infogan=dict(info_weight=0.)).get(name, {})
    batch, cut = jax.tree.map(np.asarray, examples()), more.get('clip_value', .01)

    # compiled apart, since within `run` XLA may round what is drawn otherwise for either use
    how = dict(loss='wasserstein', penalty='clip') | more
    start = quick(make(name, batch, **how).init)(KEY, batch)

    @quick
    def run(rate, discriminator_rate):
        model = make(name, batch, learning_rate=rate,
                     discriminator_learning_rate=discriminator_rate, **how)
        return play(model, 30, batch, lambda i: KEY, start)

    for rates, what in (((.003, 0.), lost), ((0., .003), 'discriminator_loss')):
        states, metrics = run(*rates)
        for player, params in states.params.items():
            first = 2 * (player == 'discriminator')  # once for the cut, once for its rounding
            moves = (player == 'discriminator') == (rates[1] > 0)
            for path, leaf in jax.tree.leaves_with_path(params):
                if leaf[0].size > 1:  # a constant in all logits means nothing to this loss
                    assert (leaf[first] == leaf[-1]).all() != moves, (player, path)
            assert bool(first) == (largest(jax.tree.map(lambda a: a[1:], params)) < 1.0001 * cut)
            assert largest(params) > 2 * cut
        lost_first, lost_last = metrics[what][1], metrics[what][-1]
        assert lost_last < lost_first - 1e-6, (what, metrics[what])
        assert 'penalty' not in metrics and np.isfinite(jax.tree.leaves(metrics)).all()


@pytest.mark.parametrize('name', thorough(['gan', 'infogan', 'aae', 'bigan'], 'gan'))
def test_gradients_are_those_of_the_losses_that_evaluation_measures(name):
    """Norms of the true gradients, each in the player's parameters, the discriminator constant."""
    model, batch = make(name, discriminator_learning_rate=0., learning_rate=0.), examples()
    state = quick(model.init)(KEY, batch)
    losing = dict(gan=lambda m: m['generator_loss'], bigan=lambda m: m['encoder_generator_loss'],
                  infogan=lambda m: m['generator_loss'] - m['mutual_info_bound'],
                  aae=lambda m: m['loss'] + m['generator_loss'])[name]
    side = dict(aae='ae', bigan='encoder_generator').get(name, 'generator')
    sides = {side: losing
             } | ({} if name == 'aae' else dict(discriminator=lambda m: m['discriminator_loss']))
    if name == 'infogan':
        sides['recognition'] = lambda m: -m['mutual_info_bound']
    said = quick(model.step)(state, batch, KEY)[1]

    @quick
    def gradients():
        values = {}
        for player, loss in sides.items():
            def value(local, player=player, loss=loss):
                moved = state._replace(params=state.params | {player: local})
                return loss(model.evaluate(moved, batch, key[player])).mean()
            values[player] = optax.tree.norm(jax.grad(value)(state.params[player]))
        return values

    key = {player: jax.random.fold_in(KEY, i) for i, player in enumerate(
        ('ae', 'discriminator') if name == 'aae' else ('discriminator', side, 'recognition'))}
    for player, truth in gradients().items():
        assert truth > 1e-3
        np.testing.assert_allclose(said[f'grad_norm_{player}'], truth, rtol=1e-4, err_msg=player)


@pytest.mark.parametrize('name', FAMILY)
def test_a_sweep_can_trace_rates_and_weights(name):
    """The model is made of examples on the device inside of what is compiled."""
    batch = examples()
    jax.eval_shape(
        lambda rate: make(name, batch, learning_rate=rate, penalty_weight=rate, penalty='r1').init(
            KEY, batch), .1)


def test_a_condition_counts_the_labels():
    model = make('gan', examples(label=True), discriminator_conditioning='concat')
    state = quick(model.init)(KEY, examples(label=True))
    z, label = model.prior(state, KEY, 7)
    assert z.shape == (7, 3) and label.tolist() == [0, 1, 2, 0, 1, 2, 0]


# Augmentation


def images(n=400, h=16, w=17, c=3, seed=0):
    return jnp.float32(np.random.default_rng(seed).uniform(.2, 1, (n, h, w, c)))


def changed(names, x, key=KEY):
    return np.asarray(augmentation(names, x.shape[1:])(x, key))


def test_without_names_nothing_is_changed():
    x = images(3)
    assert augmentation([], x.shape[1:])(x, KEY) is x
    v = random((3, 5))
    assert augmentation([], (5,))(v, KEY) is v


@pytest.mark.parametrize('channels', [1, 3])
def test_colour_changes_brightness_saturation_and_contrast(channels):
    x = np.asarray(images(c=channels), float)
    y = changed(['colour'], jnp.float32(x))
    mean = lambda a, axes: a.mean(axes, keepdims=True)
    bright = mean(y, (1, 2, 3)) - mean(x, (1, 2, 3))
    assert uniform(bright, -.5, .5)
    grey = [mean(a, 3) - mean(a, (1, 2, 3)) for a in (x, y)]
    contrast = mean(grey[0] * grey[1], (1, 2, 3)) / mean(grey[0] ** 2, (1, 2, 3))
    assert uniform(contrast, .5, 1.5)
    tint = [a - mean(a, 3) for a in (x, y)]
    saturation = 0.
    if channels > 1:
        power = mean(tint[0] ** 2, (1, 2, 3))
        saturation = mean(tint[0] * tint[1], (1, 2, 3)) / power / contrast
        assert uniform(saturation, 0, 2)
        assert abs(np.corrcoef([a.ravel() for a in (bright, contrast, saturation)])
                   - np.eye(3)).max() < .2
    complete = mean(x, (1, 2, 3)) + bright + contrast * (grey[0] + saturation * tint[0])
    np.testing.assert_allclose(y, complete, atol=1e-5)


def test_translation_moves_whole_pixels_and_brings_in_zeros():
    """By up to an eighth: every one of 5 x 5 moves is as likely."""
    x = images(1000)
    y, count = changed(['translation'], x), np.zeros((5, 5), int)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for i in range(5):
        for j in range(5):
            count[i, j] = (y == padded[:, i:i + 16, j:j + 17]).all((1, 2, 3)).sum()
    assert count.sum() == len(x) and stats.chisquare(count.ravel()).pvalue > 1e-3


@pytest.mark.parametrize('h, w', [(8, 8), (7, 10)])
def test_cutout_blanks_a_window_of_half_the_size(h, w):
    """Cut off by the border, wherever its middle lies, and nothing else."""
    x = images(2000, h, w)
    y = changed(['cutout'], x)
    gone = (y == 0).all(3)
    np.testing.assert_array_equal(y, np.where(gone[..., None], 0, x))
    for axis, size in (2, h), (1, w):
        covered = gone.any(axis)
        np.testing.assert_array_equal(gone, gone.any(2)[:, :, None] & gone.any(1)[:, None])
        ends = covered.argmax(1), size - covered[:, ::-1].argmax(1)
        length, half = ends[1] - ends[0], -(-size // 2)
        assert (covered.sum(1) == length).all() and length.max() == half
        inside = (ends[0] > 0) & (ends[1] < size)
        assert (length[inside] == half).all() and inside.any()
        first = np.arange(size + (half % 2 == 0)) - half // 2  # DiffAugment's, both ends alike
        likely = [((first <= i) & (i < first + half)).mean() for i in range(size)]
        np.testing.assert_allclose(covered.mean(0), likely, atol=.045)


@pytest.mark.parametrize('name', rules.AUGMENTS)
def test_augmentation_is_of_every_example_and_key_its_own_and_differentiable(name):
    """Given the key it is affine: a difference is the derivative, and slopes reach all that is
    seen."""
    x, v = jnp.repeat(images(1), 12, 0), images(12, seed=1)
    change = lambda x: augmentation([name], x.shape[1:])(x, KEY)
    y, along = jax.jvp(change, (x,), (v,))
    np.testing.assert_allclose(along, change(x + v) - y, atol=1e-5)
    assert len(np.unique(np.asarray(y).reshape(12, -1), axis=0)) > 6
    assert not np.array_equal(y, changed([name], x, jax.random.key(1)))
    derivative = jax.grad(lambda x: (change(x) * v).sum())(x)
    assert ((derivative != 0).mean((1, 2, 3)) > .5).all() and np.isfinite(derivative).all()


def test_augmentations_follow_each_other_and_both_sides_see_them():
    """Real and generated examples alike; with keys of their own."""
    x, names = images(8), ['colour', 'translation', 'cutout']
    y = changed(names, x)
    assert ((y == 0).mean((1, 2, 3)) > .1).all() and np.isin(y[y != 0], x).mean() < .01
    recorded = []

    def spy(x):
        recorded.append(np.asarray(x))
        return x.sum((1, 2, 3))[:, None]

    discriminator, state = make_discriminator(spy, x.shape[1:], augment='cutout, translation')
    discriminator.loss_and_metrics(state, Batch(x), Batch(x), KEY)
    discriminator.generator_loss(state, Batch(x), Batch(x), jax.random.key(1))
    assert all((a == 0).mean() > .1 for a in recorded)
    assert len({a.tobytes() for a in recorded}) == len(recorded) == 4
    discriminator.score(state, Batch(x))
    np.testing.assert_array_equal(recorded[-1], x)  # examples as they are
    discriminator = make_discriminator(lambda x: x.sum((1, 2, 3))[:, None], x.shape[1:],
                                       augment='cutout', loss='wasserstein')[0]
    gradient = jax.grad(lambda f: discriminator.generator_loss(state, Batch(x), Batch(f), KEY))(x)
    assert (abs(gradient).sum((1, 2, 3)) > 0).all()


# Packs and noise


@pytest.mark.parametrize('shape', [(3,), (2, 4, 3)])
@pytest.mark.parametrize('size', [1, 2, 3])
def test_a_pack_holds_neighbours_one_behind_the_other(size, shape):
    x = random((12, *shape))
    y = np.asarray(pack(x, size))
    for i in range(12 // size):
        np.testing.assert_array_equal(y[i], np.concatenate(x[i * size:(i + 1) * size], -1))


def test_the_order_of_packs_is_that_of_the_batch():
    """Whole packs that change places do so; within a pack, blocks of channels do."""
    x = random((12, 2, 3))
    groups = np.arange(12).reshape(4, 3)
    perm = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(pack(x[groups[perm].ravel()], 3), pack(x, 3)[perm])
    within = x[groups[:, ::-1].ravel()]
    blocks = np.asarray(pack(x, 3)).reshape(4, 2, 3, 3)
    np.testing.assert_array_equal(pack(within, 3), blocks[:, :, ::-1].reshape(4, 2, 9))


def test_a_pack_is_judged_at_once():
    """By the product of its examples' sums, which is not the sum of what each would get."""
    def net(x):
        return x.reshape(len(x), 2, -1).sum(2).prod(1)[:, None]

    real, fake = random((8, 3), 1), random((8, 3), 2)
    discriminator, state = make_discriminator(net, (3, ), packing=2, batch=8, loss='wasserstein',
                                              penalty='r1', penalty_weight=0.)
    of = lambda x: np.asarray(x, float).sum(1).reshape(4, 2).prod(1)
    value, metrics, _ = discriminator.loss_and_metrics(state, Batch(real), Batch(fake), KEY)
    assert value == pytest.approx(of(fake).mean() - of(real).mean(), rel=1e-5)
    assert discriminator.generator_loss(state, Batch(real), Batch(fake), KEY) == pytest.approx(
        -of(fake).mean(), rel=1e-5)
    pairs = np.asarray(real, float).sum(1).reshape(4, 2)  # by either sum the slope is the other
    assert metrics['penalty'] == pytest.approx(1.5 * (pairs ** 2).sum(1).mean(), rel=1e-5)
    sums = np.asarray(real, float).sum(1)
    np.testing.assert_allclose(discriminator.score(state, Batch(real)), sums * np.roll(sums, -1),
                               rtol=1e-4)


def test_instance_noise_falls_to_nothing():
    x, wide = jnp.zeros((4000, 2)), dict(instance_noise=.5, instance_noise_steps=4)
    for options, levels in ((wide, [.5, .375, .25, .125, 0,
                                    0]), (dict(instance_noise=.5), [.5] * 6), ({}, [0] * 6),
                            (dict(instance_noise_steps=4), [0] * 6)):
        discriminator, _ = make_discriminator(bowl, **options)
        for step, level in enumerate(levels):
            recorded = discriminator.view(x, KEY, jnp.int32(step))
            assert float(recorded.std()) == pytest.approx(level, rel=.05)
            assert level == 0 or stats.kstest(np.ravel(recorded) / level, 'norm').pvalue > 1e-3
            assert level > 0 or (recorded == x).all()


def test_noise_is_put_on_whatever_the_discriminator_sees_at_the_states_step():
    discriminator, state = make_discriminator(lambda x: x.sum(1)[:, None], instance_noise=3.,
                                              instance_noise_steps=10, loss='wasserstein')
    nothing = Batch(jnp.zeros((4, 2)))
    for step, some in (0, True), (9, True), (10, False):
        at = state._replace(step=jnp.int32(step))
        assert (discriminator.loss_and_metrics(at, nothing, nothing, KEY)[0] != 0) == some
        assert (discriminator.generator_loss(at, nothing, nothing, KEY) != 0) == some
        assert not discriminator.score(at, nothing).any()


# Conditions


def weighted(discriminator, x):
    """A state of a discriminator of one hidden layer, and its weights."""
    params, buffers = discriminator.init(KEY, x, LABEL)
    params = jax.tree.map(lambda a: a + .3 * random(a.shape, a.size), params)
    state = State(jnp.int32(0), dict(discriminator=params), {}, {}, dict(discriminator=buffers))
    return state, *weights(params)


LABEL = jnp.array([0, 3, 1, 2, 1], jnp.int32)
X = random((5, 6), 9)


def test_projection_is_psi_and_the_product_with_the_labels_embedding():
    """psi(phi(x)) + <e(y), phi(x)> (Miyato & Koyama 2018), the embedding with a bias."""
    net = nets.make('mlp', width=(7,), activation='leaky_relu')
    discriminator = adversarial.discriminator('discriminator', (6, ), adversarial.make(), net,
                                              conditioning='projection', labels=4)
    state, (w, b), (last, bias) = weighted(discriminator, X)
    phi = leaky(np.asarray(X, float) @ w + b)
    assert last.shape == (7, 5)
    embedding, local = last[:, 1:][:, LABEL], bias[1:][np.asarray(LABEL)]
    truth = phi @ last[:, 0] + bias[0] + (phi * embedding.T).sum(1) + local
    np.testing.assert_allclose(discriminator.score(state, Batch(X, LABEL)), truth, rtol=1e-4,
                               atol=1e-5)
    said = discriminator.loss_and_metrics(state, Batch(X, LABEL), Batch(X, LABEL),
                                          KEY)[1]['discriminator_loss']
    np.testing.assert_allclose(said, PAPERS['minimax'][0](truth, truth).mean(), rtol=1e-4)


def test_concat_sees_the_labels_indicator():
    net = nets.make('mlp', width=(7,), activation='leaky_relu')
    discriminator = adversarial.discriminator('discriminator', (6, ), adversarial.make(), net,
                                              conditioning='concat', labels=4)
    state, (w, b), (last, bias) = weighted(discriminator, X)
    both = np.concatenate([np.asarray(X, float), np.eye(4)[np.asarray(LABEL)]], 1)
    truth = (leaky(both @ w + b) @ last + bias)[:, 0]
    np.testing.assert_allclose(discriminator.score(state, Batch(X, LABEL)), truth, rtol=1e-4,
                               atol=1e-5)
    said = discriminator.loss_and_metrics(state, Batch(X, LABEL), Batch(X, LABEL),
                                          KEY)[1]['discriminator_loss']
    np.testing.assert_allclose(said, PAPERS['minimax'][0](truth, truth).mean(), rtol=1e-4)


def test_an_auxiliary_discriminator_names_labels_and_the_generator_helps_it():
    """Each pays the cross-entropy of SciPy's softmax: the discriminator of both sides."""
    discriminator, state = make_discriminator(lambda x: x, (5,), conditioning='auxiliary', labels=4)
    real, fake = Batch(random((5, 5), 1), LABEL), Batch(random((5, 5), 2), LABEL)

    def named(batch):
        y = np.asarray(batch.x[:, 1:], float)
        p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        right = y.argmax(1) == np.asarray(LABEL)
        return -np.log(p[np.arange(5), LABEL]).mean(), right.mean()

    value, metrics, _ = discriminator.loss_and_metrics(state, real, fake, KEY)
    logits = real.x[:, 0], fake.x[:, 0]
    loss = PAPERS['nonsaturating']
    assert metrics['discriminator_loss'] == pytest.approx(loss[0](*logits).mean(), rel=1e-5)
    truth = metrics['discriminator_loss'] + named(real)[0] + named(fake)[0]
    assert value == pytest.approx(float(truth), rel=1e-5)
    assert metrics['label_accuracy_real'] == pytest.approx(named(real)[1])
    assert metrics['label_accuracy_fake'] == pytest.approx(named(fake)[1])
    value = discriminator.generator_loss(state, real, fake, KEY)
    assert value == pytest.approx(loss[1](*logits).mean() + named(fake)[0], rel=1e-5)


@pytest.mark.parametrize('conditioning', ['concat', 'norm'])
def test_the_generator_makes_what_its_label_says(conditioning):
    """In evaluation a label changes its own examples and no others, and one code can be shown under
    every label; before training all labels are alike to the norms."""
    norm = 'layer' if conditioning == 'norm' else 'none'
    model = make('gan', examples(label=True), discriminator_conditioning='projection',
                 generator_conditioning=conditioning, norm=norm)
    state = quick(model.init)(KEY, examples(label=True))
    params = jax.tree.map(lambda a: a + .5 * random(a.shape, a.size), state.params['generator'])
    fresh, state = state, state._replace(params=state.params | dict(generator=params))
    z = jnp.repeat(random((1, 3)), 4, 0)
    displayed = np.asarray(model.decode(state, (z, jnp.array([0, 1, 2, 1]))))
    assert len(np.unique(displayed.round(5), axis=0)) == 3 and np.allclose(
        displayed[1], displayed[3])
    if conditioning == 'norm':
        displayed = np.asarray(model.decode(fresh, (z, jnp.array([0, 1, 2, 1]))))
        assert np.allclose(displayed, displayed[:1], atol=1e-6)


# The order of play

RATE = .3


def tug(order, names='xy', every=1):
    """min over x, max over y of x y, by plain gradient descent."""
    def player(name, sign):
        def loss(state, batch, key):
            return sign * state.params['x'] * state.params['y'], {}, {}
        start = dict(x=1., y=.5)[name]
        return Player(lambda key, batch: (jnp.float32(start), {}), loss, optax.sgd(RATE),
                      every if name == 'y' else 1)

    both = dict(x=player('x', 1), y=player('y', -1))
    return game.game({name: both[name]
                      for name in names}, update_order=order, evaluate=None, decode=None)


def path(order, steps=40, **options):
    """x and y from the start on, and metrics."""
    states, metrics = quick(lambda: play(tug(order, **options), steps, Batch(jnp.zeros((1, 1)))))()
    return *(np.asarray(states.params[name], float) for name in 'xy'), metrics


@pytest.mark.parametrize('names', ['xy', 'yx'])
def test_simultaneous_moves_spiral_outwards(names):
    """x + iy is multiplied by 1 + i rate: its square by 1 + rate^2 a step, whoever is first."""
    x, y, _ = path('simultaneous', names=names)
    np.testing.assert_allclose(x + 1j * y, (1 + .5j) * (1 + 1j * RATE) ** np.arange(41), rtol=1e-4)


@pytest.mark.parametrize('names', ['xy', 'yx'])
def test_alternating_moves_stay_on_an_ellipse(names):
    """x^2 + y^2 -+ rate x y is kept, and each move is that of a matrix."""
    x, y, _ = path('alternating', names=names)
    sign = -1 if names == 'xy' else 1
    kept = x ** 2 + y ** 2 + sign * RATE * x * y
    np.testing.assert_allclose(kept, kept[0], rtol=1e-4)
    x_move, y_move = np.array([[1, -RATE], [0, 1]]), np.array([[1, 0], [RATE, 1]])
    step = y_move @ x_move if names == 'xy' else x_move @ y_move
    for i in range(40):
        np.testing.assert_allclose(step @ [x[i], y[i]], [x[i + 1], y[i + 1]], atol=1e-5)


@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
@pytest.mark.parametrize('every', [1, 2, 4])
def test_gradients_are_reported_as_norms_whose_mean_is_that_of_the_moves(order, every):
    x, y, said = path(order, every=every)
    np.testing.assert_allclose(said['grad_norm_x'], abs(y[:-1]), rtol=1e-4)
    recorded = x[1:] if order == 'alternating' else x[:-1]
    moves = np.arange(40) % every == 0
    np.testing.assert_allclose(said['grad_norm_y'], every * moves * abs(recorded), rtol=1e-4)
    in_turn = said['grad_norm_y'].reshape(-1, every).mean(1)
    np.testing.assert_allclose(in_turn, abs(np.diff(y)).reshape(-1, every).sum(1) / RATE, rtol=1e-3,
                               atol=1e-5)


def trio(first, order):
    """Three players with momenta, averages and buffers; `first` moves first."""
    def player(name):
        def loss(state, batch, key):
            others = sum(jnp.sin((i + 1) * state.params[other]).sum()
                         for i, other in enumerate('abc') if other != name)
            return ((state.params[name] * others) ** 2).sum(), {}, dict(recorded=others)
        start = random((2,), ord(name))
        return Player(lambda key, batch: (start, dict(recorded=jnp.zeros(()))), loss,
                      Optimiser(*optax.sgd(.1, momentum=.9), ema_decay=.9))
    names = first + 'abc'.replace(first, '')
    return game.game({n: player(n) for n in names}, update_order=order, evaluate=None, decode=None)


def test_simultaneously_everyone_moves_as_if_first():
    """In parameters, momenta, averages and buffers; and sees the others' last step."""
    batch = Batch(jnp.zeros((1, 1)))
    state = play(trio('b', 'simultaneous'), 2, batch)[0]
    last, end = (jax.tree.map(lambda a, i=i: a[i], state) for i in (1, 2))
    for name in 'abc':
        single, _ = trio(name, 'alternating').step(last, batch, KEY)
        for part in 'params', 'opt', 'ema', 'buffers':
            for a, b in zip(*(jax.tree.leaves(getattr(s, part)[name]) for s in (single, end))):
                np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=f'{name} {part}')
    assert int(end.step) == 2


def test_one_player_has_no_gradient_to_compare():
    model = game.game(dict(x=Player(lambda key, batch: (jnp.ones(2), {}), lambda s, b, k: (
        s.params['x'].sum(), {}, {}), optax.sgd(.1))), evaluate=None, decode=None)
    assert not play(model, 1, examples())[1]


def test_over_a_mapped_axis_the_norm_is_that_of_the_mean_gradient():
    def loss(state, batch, key):
        return (state.params['x'] * batch.x).sum(), {}, {}
    one = Player(lambda key, batch: (jnp.zeros(2), {}), loss, optax.sgd(.1))
    model = game.game(dict(x=one, y=one), axis='i', evaluate=None, decode=None)
    x = jnp.array([[3., 0.], [0., 4.]])
    start = model.init(KEY, Batch(x[:1]))
    said = jax.vmap(model.step, (None, 0, None), axis_name='i')(start, Batch(x), KEY)[1]
    np.testing.assert_allclose(said['grad_norm_x'], [2.5, 2.5], rtol=1e-6)


# Nets


def standard(x, axes):
    x = np.asarray(x, float)
    return (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


@pytest.mark.parametrize('channels, groups', thorough(
    [(6, 1), (8, 4), (12, 2), (32, 8), (3, 1)], (8, 4), (3, 1)))
def test_groups_hold_at_least_two_channels(channels, groups):
    x = 2 * random((3, 4, 5, channels)) + 1
    parts = x.reshape(3, 4, 5, groups, -1)
    net = layers.net(layers.Norm('group'))
    np.testing.assert_allclose(net.train(*net.init(KEY, x), x)[0],
                               standard(parts, (1, 2, 4)).reshape(x.shape), atol=1e-4)


@pytest.mark.parametrize('norm, axes', [('layer', (1, 2, 3)), ('instance', (1, 2)),
                                        ('batch', (0, 1, 2))])
def test_norms_make_standard_what_they_are_named_after(norm, axes):
    x = 3 * random((4, 5, 6, 8)) * jnp.arange(1, 9) + 2
    net = layers.net(layers.Norm(norm))
    params, buffers = net.init(KEY, x)
    y, _ = net.train(params, buffers, x)
    np.testing.assert_allclose(y, standard(x, axes), atol=1e-4)
    assert bool(buffers) == (norm == 'batch')
    gains = jax.tree.map(lambda a: random(a.shape, a.size), params)
    gain, bias = (next(v for k, v in gains.popitem()[1].items() if k == what)
                  for gains, what in ((dict(gains), 'scale'), (dict(gains), 'bias')))
    y, _ = net.train(gains, buffers, x)
    np.testing.assert_allclose(y, standard(x, axes) * gain + bias, atol=1e-3)


def test_layer_norm_of_vectors_is_over_their_features():
    x = 3 * random((4, 10)) + 2
    net = layers.net(layers.Norm('layer'))
    np.testing.assert_allclose(net.apply(*net.init(KEY, x), x), standard(x, 1), atol=1e-4)


@pytest.mark.parametrize('norm, shape, axes', [
    ('batch', (6, 5, 5, 4), (0, 1, 2)), ('layer', (6, 5, 5, 4), (1, 2, 3)),
    ('instance', (6, 5, 5, 4), (1, 2)), ('batch', (6, 4), 0), ('layer', (6, 4), 1)])
def test_conditional_norms_have_gain_and_shift_of_the_label(norm, shape, axes):
    """And no others: at first, those of 1 and 0."""
    x, label = 3 * random(shape) + 2, jnp.array([0, 2, 2, 1, 0, 2])
    net = layers.net(layers.Layers([layers.Norm(norm, labels=3)]))
    params, buffers = net.init(KEY, (x, label))
    np.testing.assert_allclose(net.train(params, buffers, (x, label))[0], standard(x, axes),
                               atol=1e-3)
    local = params['blocks_0']
    assert local.keys() == {'gain', 'shift'}
    assert {a.shape for a in jax.tree.leaves(params)} == {(3, 4)}
    params = jax.tree.map(lambda a: random(a.shape, 5), params)
    params['blocks_0']['shift']['embedding'] = random((3, 4), 6)
    gain, shift = (np.asarray(random((3, 4), seed))[np.asarray(label)].reshape(
        6, *(1,) * (len(shape) - 2), 4) for seed in (5, 6))
    np.testing.assert_allclose(net.train(params, buffers, (x, label))[0],
                               standard(x, axes) * gain + shift, atol=1e-3)


def convolution(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME',
                                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def pooled(x):
    """Means of 2 x 2 blocks, the last row and column doubled, in NumPy."""
    x = np.asarray(x, float)
    h, w = x.shape[1:3]
    rows, columns = ([(i, min(i + 1, s - 1)) for i in range(0, s, 2)] for s in (h, w))
    return np.stack([np.stack([x[:, r][:, :, c].mean((1, 2)) for c in map(list, columns)], 1)
                     for r in map(list, rows)], 1)


@pytest.mark.parametrize('h, w', [(4, 6), (5, 6), (7, 3), (1, 1)])
def test_mean_pool_is_the_mean_of_blocks(h, w):
    x = random((3, h, w, 2))
    np.testing.assert_allclose(sngan.mean_pool(x), pooled(x), atol=1e-6)


@pytest.mark.parametrize('change, raw, size, width', thorough([
    ('down', True, (5, 8), 4), ('down', False, (6, 7), 3), ('up', False, (5, 6), 4),
    ('none', False, (4, 5), 3), ('none', False, (4, 5), 4)],
    ('down', True, (5, 8), 4), ('up', False, (5, 6), 4)))
def test_resample_is_sngans_block(change, raw, size, width):
    """Activation and 3x3 convolution twice, and beside it x by a 1x1 convolution, or as it is where
    nothing changes."""
    x = random((2, *size, 3))
    net = layers.net(sngan.Resample(width, change, raw=raw))
    params, buffers = quick(net.init)(KEY, x)
    params = jax.tree.map(lambda a: random(a.shape, a.size, .5), params)
    larger = (lambda a: a.repeat(2, 1).repeat(2, 2)) if change == 'up' else lambda a: a
    relu = lambda a: jnp.maximum(a, 0)

    @quick
    def truth(params, x):
        (first, a), (second, b), *beside = [(block['Convolve_0']['kernel'], block['bias'])
                                            for _, block in sorted(params.items())]
        y = convolution(larger(x if raw else relu(x)), first) + a
        y = convolution(relu(y), second) + b
        for kernel, bias in beside:
            assert kernel.shape == (1, 1, 3, width)
            x = convolution(x, kernel) + bias
        return larger(x) + y

    assert len(params) == (3 if change != 'none' or width != 3 else 2)
    y = truth(params, x)
    np.testing.assert_allclose(quick(net.apply)(params, buffers, x),
                               pooled(y) if change == 'down' else y, atol=1e-4)


@pytest.mark.parametrize('height, width', thorough([(8, 14), (9, 33)], (9, 33)))
def test_sngans_nets_take_and_give_images_of_any_size(height, width):
    size = height, width
    x = jnp.float32(np.random.default_rng(0).uniform(size=(4, *size, 3)))
    shapes = {}
    of = functools.partial(nets.make, 'sngan', width=(4, 6, 8))
    body = of(norm='layer', activation='leaky_relu').encoder(x.shape[1:], None)
    complete = of(norm='spectral', activation='leaky_relu').encoder(x.shape[1:], 5)
    make = of(norm='batch').decoder(x, 5, nets.identity, labels=3)
    for name, net, given in (('body', body, x), ('complete', complete, x),
                             ('make', make, (jnp.zeros((4, 5)), jnp.zeros(4, jnp.int32)))):
        def both(net=net, given=given):
            params, buffers = net.init(KEY, given)
            return net.apply(params, buffers, given), net.train(params, buffers, given)[0]
        shapes[name] = {y.shape for y in jax.eval_shape(both)}
    assert shapes == dict(body={(4, 8)}, complete={(4, 5)}, make={x.shape})


def test_a_chain_is_the_second_net_of_the_first():
    """Its parameters by name, and the statistics of both."""
    x = random((6, 5), 3, 2.)
    first = nets.make('mlp', width=(3,), norm='batch').encoder((5,), 4)
    second = nets.make('mlp', width=(3,), norm='batch').encoder((4,), 2)
    both = nets.sequential(first, second)
    params, buffers = quick(both.init)(KEY, x)
    assert params.keys() == buffers.keys() == {'first', 'second'}
    ours, theirs = ((params[name], buffers[name]) for name in ('first', 'second'))

    @quick
    def links():
        a, recorded = first.train(*ours, x)
        b, built = second.train(*theirs, a)
        return (b, dict(first=recorded, second=built)), second.apply(*theirs, first.apply(*ours, x))

    values = quick(lambda: (both.train(params, buffers, x), both.apply(params, buffers, x)))()
    assert jax.tree.structure(values) == jax.tree.structure(links())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), values, links())


# What cannot be

IMAGE = Batch(jnp.float32(np.random.default_rng(0).uniform(size=(4, 8, 8, 1))))


@pytest.mark.parametrize(
    'bad, said',
    [(dict(loss='wgan'), 'minimax, nonsaturating'), (dict(penalty='l2'), 'none, gradient'),
     (dict(discriminator_conditioning='acgan'), 'none, concat'),
     (dict(generator_conditioning='gain', discriminator_conditioning='concat'), 'concat or norm'),
     (dict(augment='colour,blur'), "'blur'"), (dict(augment='colour'), 'needs images'),
     (dict(update_order='at once'), 'alternating or simultaneous'),
     (dict(penalty='clip'), 'wasserstein'), (dict(penalty='clip', loss='hinge'), 'wasserstein'),
     (dict(penalty='clip', loss='wasserstein', clip_value=0.), 'positive'),
     (dict(discriminator_norm='huge'), 'unknown norm'),
     (dict(discriminator_norm='instance'), 'for images'),
     (dict(packing=3), 'divide the batch of 16'),
     (dict(packing=0), 'packing must be at least 1, not 0'),
     (dict(packing=2, discriminator_conditioning='concat'), 'no one label'),
     (dict(discriminator_conditioning='concat', generator_conditioning='norm'), "norm 'none'"),
     (dict(discriminator_conditioning='concat',
           generator_conditioning='norm', kind='linear', norm='batch'), 'norm'),
     (dict(latent=0), 'latent'), *((dict(penalty=name, discriminator_norm='batch'), name)
                                   for name in CHARGED),
     *((dict(label_smoothing=.1, loss=name), 'targets')
       for name in PAPERS if name not in ('minimax', 'nonsaturating', 'least_squares'))])
def test_what_cannot_be_is_refused(bad, said):
    with pytest.raises(BadInput) as error:
        make('gan', examples(label=True), context=Context(batch=16), **bad)
    assert said in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('condition', ['concat', 'projection', 'auxiliary'])
def test_conditions_need_two_labels(condition):
    for batch in examples(), examples()._replace(label=jnp.zeros(16, jnp.int32)):
        with pytest.raises(BadInput, match='at least two labels'):
            make('gan', batch, discriminator_conditioning=condition)


@pytest.mark.parametrize('name', FAMILY)
def test_the_family_refuses_alike(name):
    for bad in dict(loss='wgan'), dict(penalty='l2'), dict(penalty='clip'), dict(latent=-1):
        with pytest.raises(BadInput, match=next(iter(bad))):
            make(name, **bad)
    if name != 'aae':
        with pytest.raises(BadInput, match='batch'):
            make(name, penalty='gradient', discriminator_norm='batch')


@pytest.mark.parametrize('dataset, flags, said', [
    ('digits', ['discriminator.penalty=clip'], 'wasserstein'),
    ('ring', ['discriminator.augment=colour'], 'needs images')])
def test_the_command_line_says_so_in_one_line(run_main, tmp_path, dataset, flags, said):
    result = run_main(f'--config=configs/gan.py:{dataset}', f'--workdir={tmp_path}/run',
                      *(f'--config.{flag}' for flag in flags))
    assert result.code == 1 and 'Traceback' not in result.err + result.out
    assert len(result.err.splitlines()) == 1 and said in result.err
    assert not (tmp_path / 'run').exists()
