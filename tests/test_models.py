"""Every file of gen_jax/models has the interface of a model, learns, and rejects invalid inputs.

A new model is tested without further code: the tests read its abilities off its Model and its
`make`; `fitting` says which examples it takes where these are not images or vectors in general.
"""
import functools
import inspect
import itertools
import pkgutil

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from conftest import model as model_of, quick, spread, takes, thorough
from gen_jax import losses, models, nets, ops, parts, train
from gen_jax.models import colorize, deepfake, denoising
from gen_jax.nets import layers, residual
from gen_jax.types import BadInput, Batch, Context

NAMES = sorted(m.name for m in pkgutil.iter_modules(models.__path__))
N, LABELS, CHARACTERS = 6, 3, 96
UNIT_INTERVAL = Context(axis='data')
GANS = {'gan', 'infogan', 'vaegan', 'aae', 'bigan'}  # their `loss` is that of the game
every_model = pytest.mark.parametrize('name', NAMES)
some_models = pytest.mark.parametrize('name', thorough(NAMES, 'vae', 'gan'))


IMAGES, VECTORS = ((7, 9, 3), 'conv'), ((13,), 'mlp')  # shape of an example, kind of net


def fitting(name):
    """The pairs of shape and kind that a model takes: colorize needs colour images, text needs
    characters and has no kind.
    """
    return dict(colorize=[IMAGES], text=[((13,), None)]).get(name, [IMAGES, VECTORS])


CASES = [(name, *case) for name in NAMES for case in fitting(name)]
every_case = pytest.mark.parametrize('name, shape, kind', thorough(CASES, *(
    case for case in CASES if case[1:] == fitting(case[0])[-1] or case[0] in ('ae', 'gan'))))
on_vectors = pytest.mark.parametrize('name', [n for n in NAMES if VECTORS in fitting(n)])




def matches_kind(name, hyper, value):
    """Whether a value has the type of the hyper-parameter: `noise` is a name in one model and a
    number in another.
    """
    if not takes(name, hyper):
        return False
    make = train.find_model(name).make
    nested, known = spread(name, **{hyper: value}), parts.find_parts(make)
    group, key = next(iter(nested.items()))
    default = (known[group].spec.keys[next(iter(key))] if group in known else
               inspect.signature(make).parameters[group].default)
    return isinstance(value, int if default is None else type(default))


def make(name, batch, context=None, **hyper):
    """A small model; hyper-parameters that it does not have are left out."""
    hyper = dict(latent=3, width=(6, 4), encoder='scratch') | hyper
    if name == 'text' and isinstance(hyper['width'], tuple):
        hyper['width'] = hyper['width'][0]
    return model_of(name, batch, context, **{k: v for k, v in hyper.items() if takes(name, k, v)})


def data(shape, seed=0, name=None):
    """N examples, real numbers or for `text` characters, and their labels."""
    rng = np.random.default_rng(seed)
    x = jnp.float32(rng.uniform(size=(N, *shape)))
    if name == 'text':
        x = jnp.int32(rng.integers(1, CHARACTERS, (N, *shape)))
    return Batch(x, jnp.arange(N, dtype=jnp.int32) % LABELS)


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


def compiled(model):
    return model._replace(**{
        k: quick(f) for k, f in model._asdict().items() if callable(f) and k != 'prior'})


def traced(model):
    """The model that was given to `compiled`, with functions that can be traced."""
    return model._replace(**{
        k: f.__wrapped__ for k, f in model._asdict().items() if hasattr(f, '__wrapped__')})


@functools.cache
def built(name, shape, kind, **hyper):
    """A model with compiled functions, the batch, and the initial state."""
    batch = data(shape, name=name)
    model = compiled(make(name, batch, kind=kind, **hyper))
    return model, batch, model.init(jax.random.key(0), batch)


def kinds(tree):
    """The structure, shapes, dtypes and weak types of a tree."""
    return jax.tree.map(jax.typeof, tree)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(x, y, **tolerance)


def healthy(tree):
    return all(np.isfinite(a).all() and a.dtype in (jnp.float32, jnp.int32) and
               not jax.typeof(a).weak_type for a in jax.tree.leaves(tree))


def draws(f, state, batch):
    """Whether f(state, batch, key) draws random numbers: its program contains their primitive."""
    f = getattr(f, '__wrapped__', f)  # what `compiled` compiled
    return 'random_bits' in str(jax.make_jaxpr(f)(state, batch, keys(1)[0]))


def code(model, state, batch):
    """A code that the model can decode, from its prior or, without one, from its encoder."""
    return model.prior(state, keys(1)[0], N) if model.prior else model.encode(state, batch.x)


def test_there_are_models():
    assert {'ae', 'vae', 'gan', 'denoising', 'colorize', 'contractive', 'sparse', 'rae', 'deepfake',
            'classifier'} <= set(NAMES)


@every_case
def test_init_and_step_make_one_kind_of_finite_float32_state(name, shape, kind):
    model, batch, state = built(name, shape, kind)
    after, metrics = model.step(state, batch, keys(1)[0])
    assert kinds(state) == kinds(after)
    assert healthy(state) and healthy(after) and healthy(metrics)
    assert metrics and all(m.shape == () for m in metrics.values())
    assert (int(state.step), int(after.step)) == (0, 1)
    assert all(not equal(state.params[p], after.params[p]) for p in state.params)


@every_case
def test_evaluate_gives_a_finite_row_per_example(name, shape, kind):
    model, batch, state = built(name, shape, kind)
    metrics = model.evaluate(state, batch, keys(1)[0])
    assert metrics and healthy(metrics)
    assert all(m.shape[0] == N for m in metrics.values())


@every_case
def test_decode_encode_and_prior_are_consistent(name, shape, kind):
    model, batch, state = built(name, shape, kind)
    assert model.encode or model.prior and model.decode, 'neither encodes nor makes anything'
    z = code(model, state, batch)
    assert healthy(z) and all(a.shape[0] == N for a in jax.tree.leaves(z))
    if model.decode:
        x = model.decode(state, z)
        assert x.shape == (N, *shape) and x.dtype == batch.x.dtype and healthy(x)
        if x.dtype == jnp.float32:
            assert x.min() >= 0 and x.max() <= 1, 'data in [0, 1] asks for outputs in [0, 1]'
    if model.encode:
        encoded = model.encode(state, batch.x)
        assert healthy(encoded) and kinds(encoded) == kinds(z)
    if model.show:
        parts = model.show(state, batch, keys(1)[0])
        assert len(parts) > 1 and all(x.shape == batch.x.shape for x in parts.values())
    if model.prior:
        model_built = model.prior(state, keys(1)[0], 2000)  # a ladder's lower prior is learned
        for z in jax.tree.leaves(model_built['z2'] if name == 'ladder' else model_built):
            assert z.shape[0] == 2000
            if name == 'infogan':  # ten indicators, two codes on (-1, 1), and the noise
                assert equal(jnp.sort(z[:, :10]), jnp.eye(10)[jnp.full(2000, 9)])
                assert abs(z[:, :10].mean(0) - .1).max() < .03
                for uniform in z[:, 10:12].T:
                    assert stats.kstest(uniform, 'uniform', (-1, 2)).pvalue > 1e-3
                z = z[:, 12:]
            if z.dtype == jnp.float32:
                assert abs(z.mean()) < .1 and abs(z.std() - 1) < .1


@some_models
def test_devices_with_shares_of_a_batch_end_in_one_state_or_are_refused(name):
    """shard_map and pmap map a step so; without noise the state is that of the full batch."""
    (shape, kind), *_ = reversed(fitting(name))
    batch = data(shape, name=name)
    single, *_ = built(name, shape, kind)
    if single.full_batch:
        with pytest.raises(BadInput,
                           match=f'{single.full_batch}.* of the whole batch.*parallel=jit'):
            make(name, batch, kind=kind, context=UNIT_INTERVAL)
        return
    model = make(name, batch, kind=kind, context=UNIT_INTERVAL)
    state = quick(model.init)(jax.random.key(0), batch)
    shares = jax.tree.map(lambda a: a.reshape(2, N // 2, *a.shape[1:]), batch)
    result = quick(jax.vmap(model.step, (None, 0, 0), axis_name='data'))(state, shares, keys(2))
    first, second = (jax.tree.map(lambda a, i=i: a[i], result) for i in range(2))
    assert equal(first, second)
    if name != 'vq' and not draws(single.step, state, batch):
        by_itself, _ = single.step(state, batch, keys(1)[0])
        close(first[0].params, by_itself.params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name, hyper',
                         [('sparse', dict(sparsity='kl')), ('vae', dict(free_bits=.5)),
                          *((name, dict(penalty='dragan', norm='none', discriminator_norm='none'))
                            for name in sorted(GANS)), *((name, dict(loss='relativistic_average'))
                                                         for name in sorted(GANS))])
def test_full_batch_losses_are_refused_where_no_device_has_the_batch(name, hyper):
    make(name, data((13,)), kind='mlp', **hyper)
    with pytest.raises(BadInput, match='of the whole batch'):
        make(name, data((13,)), kind='mlp', context=UNIT_INTERVAL, **hyper)


@some_models
def test_three_steps_in_a_scan_are_three_steps(name):
    model, batch, state = built(name, *fitting(name)[0])
    scanned, metrics = run(make(name, batch, kind='conv'), batch, 3, state)
    for i, key in enumerate(keys(3)):
        state, single = model.step(state, batch, key)
        close(single, jax.tree.map(lambda m, i=i: m[i], metrics), rtol=1e-4, atol=1e-5)
    close(state, scanned, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', thorough(NAMES, 'vae', 'gan'))
def test_one_key_one_result(name):
    model, batch, state = built(name, *fitting(name)[-1])
    assert equal(state, model.init(jax.random.key(0), batch))
    assert not equal(state, model.init(jax.random.key(5), batch))
    for f in model.step, model.evaluate:
        first, again, other = (f(state, batch, k) for k in keys(2)[jnp.array([0, 0, 1])])
        assert equal(first, again)
        assert equal(first, other) == (not draws(f, state, batch))


GAME = {'discriminator_loss', 'generator_loss', 'accuracy_real', 'accuracy_fake'}
METRICS = dict(
    ae={'loss'}, vae={'loss', 'elbo', 'recon', 'kl'}, denoising={'loss'}, gan=GAME,
    infogan=GAME | {'mutual_info_bound', 'category_accuracy'}, vaegan=GAME | {'features', 'kl'},
    aae=GAME | {'loss'}, bigan=GAME - {'generator_loss'} | {'encoder_generator_loss'}, colorize={
        'loss'
    }, contractive={'loss', 'recon', 'jacobian'}, sparse={'recon', 'active_fraction'}, rae={
        'loss', 'recon', 'squared_norm'
    }, deepfake={'recon'}, classifier={'loss', 'accuracy'}, factor={
        'loss', 'elbo', 'tc', 'accuracy'
    }, tcvae={'loss', 'elbo', 'recon', 'kl', 'mi', 'tc', 'dimwise_kl'}, mmd={
        'loss', 'elbo', 'recon', 'kl', 'mmd'
    }, ladder={'loss', 'iwae'}, vq={'loss', 'recon', 'prior_nll', 'perplexity', 'codebook_usage'})


@every_model
def test_metrics_in_training_and_evaluation_have_the_same_names(name):
    model, batch, state = built(name, *fitting(name)[-1])
    _, trained = model.step(state, batch, keys(1)[0])
    both = set(trained) & set(model.evaluate(state, batch, keys(1)[0]))
    assert both and METRICS.get(name, set()) <= both


OTHERWISE = {'colorize', 'iwae', 'ladder'}  # cut off in evaluation alone; k codes by k keys


@pytest.mark.parametrize('name', sorted(set(NAMES) - OTHERWISE))
def test_training_and_evaluation_measure_the_same(name):
    """Without batch statistics, a step of one player, whose key is fold_in(key, 0), reports the
    mean of the metrics of evaluation.
    """
    quiet = dict(deepfake=dict(color_jitter=0.), text=dict(word_dropout=0.)).get(name, {})
    model, batch, state = built(name, *fitting(name)[-1], **quiet)
    if len(state.params) > 1:
        pytest.skip('several players, of whom each moves before the next')
    key = keys(1)[0]
    _, trained = model.step(state, batch, key)
    tested = model.evaluate(state, batch, jax.random.fold_in(key, 0))
    for metric in set(trained) & set(tested):
        np.testing.assert_allclose(trained[metric], tested[metric].mean(), rtol=2e-5, atol=1e-5,
                                   err_msg=metric)


@pytest.mark.full
@pytest.mark.parametrize('beta', [1., 2.5])
def test_vae_metrics_add_up(beta):
    """The elbo does not depend on beta; the loss does."""
    model, batch, state = built('vae', (13,), 'mlp', beta=beta)
    _, trained = model.step(state, batch, keys(1)[0])
    for m in trained, model.evaluate(state, batch, keys(1)[0]):
        np.testing.assert_allclose(m['elbo'], -(m['recon'] + m['kl']), rtol=1e-5)
        np.testing.assert_allclose(m['loss'], m['recon'] + beta * m['kl'], rtol=1e-5)
        assert (np.asarray(m['kl']) > 0).all()
    np.testing.assert_allclose(m['kl_per_dim'].sum(1), m['kl'], rtol=1e-4)
    assert trained['active_units'] in range(4)


@pytest.mark.parametrize('likelihood, scale', [('bernoulli', 'fixed'), ('gaussian', 'fixed'),
                                               ('gaussian', 'learned')])
def test_vae_training_and_evaluation_measure_the_same(likelihood, scale):
    """Without batch statistics a step reports the mean of the metrics of evaluation."""
    model, batch, state = built('vae', (13,), 'mlp', likelihood=likelihood, scale=scale, sigma=.5)
    key = keys(1)[0]
    _, trained = model.step(state, batch, key)
    tested = model.evaluate(state, batch, jax.random.fold_in(key, 0))
    for name in METRICS['vae']:
        np.testing.assert_allclose(trained[name], tested[name].mean(), rtol=1e-5)


@pytest.mark.parametrize('sigma', [1., .5])
def test_vae_gaussian_likelihood_is_the_density_of_its_output(sigma):
    """A decoder that ignores its code removes the noise of the code."""
    model, batch, state = built('vae', (13,), 'mlp', likelihood='gaussian', sigma=sigma)
    params = state.params['vae'] | dict(
        decoder=jax.tree.map(jnp.zeros_like, state.params['vae']['decoder']))
    result = model.evaluate(state._replace(params=dict(vae=params)), batch, keys(1)[0])['recon']
    square = ((np.asarray(batch.x, float) - .5) ** 2).sum(1)  # the output is sigmoid(0)
    truth = square / (2 * sigma ** 2) + 13 * np.log(sigma * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(result, truth, rtol=1e-5)


@pytest.mark.full
def test_vae_learns_its_sigma():
    """The maximum-likelihood sigma of a constant output is the data's standard deviation."""
    x = .5 + .1 * jax.random.normal(jax.random.key(3), (64, 13))
    model = make('vae', Batch(x), likelihood='gaussian', scale='learned', beta=100., kind='mlp',
                 learning_rate=.02)
    state = run(model, Batch(x), 400)[0]
    sigma = np.exp(state.params['vae']['scale']['logvar'] / 2)
    np.testing.assert_allclose(sigma, .1, rtol=.1)


@pytest.mark.parametrize('loss', ['mse', 'cross_entropy'])
def test_ae_evaluation_measures_sum_and_mean(loss):
    model, batch, state = built('ae', *IMAGES, loss=loss)
    y = np.asarray(model.decode(state, model.encode(state, batch.x)), float)
    result, x = model.evaluate(state, batch, None), np.asarray(batch.x, float)
    square = ((x - y) ** 2).sum((1, 2, 3))
    nats = -(x * np.log(y) + (1 - x) * np.log1p(-y)).sum((1, 2, 3))
    np.testing.assert_allclose(result['mse'], square / 189, rtol=1e-4)
    np.testing.assert_allclose(result['loss'], square if loss == 'mse' else nats, rtol=1e-4)
    np.testing.assert_allclose(model.step(state, batch, keys(1)[0])[1]['loss'],
                               result['loss'].mean(), rtol=1e-5)


def run(model, batch, steps, state=None):
    """The state after `steps` steps on one batch, and the metrics of each step."""
    if state is None:
        state = quick(model.init)(jax.random.key(0), batch)
    return jax.jit(lambda s, k: lax.scan(lambda s, k: model.step(s, batch, k), s, k))(
        state, keys(steps))


def patterns(name=None):
    """Four 8x8 images, far from each other: left, right, top and bottom half. For colorize each has
    a colour; for text they are four lines of eight characters.
    """
    i, j = np.mgrid[:8, :8]
    x = np.stack([j < 4, j >= 4, i < 4, i >= 4])[..., None]
    if name == 'colorize':
        tints = np.float32([[1, .2, .2], [.1, .7, .1], [.3, .3, 1], [.8, .7, 0]])
        return jnp.where(x, tints[:, None, None], jnp.float32(.5))
    if name == 'text':
        return jnp.int32(1 + np.random.default_rng(0).permutation(32).reshape(4, 8))
    return jnp.float32(x)


def to_nearest(x):
    """The mean over x of the distance per pixel to the nearest pattern, and the share of x nearest
    to each pattern.
    """
    d = ((np.asarray(x)[:, None] - np.asarray(patterns())[None]) ** 2).mean((2, 3, 4))
    return d.min(1).mean(), np.bincount(d.argmin(1), minlength=4) / len(x)


TRAINING_OPTIONS = dict(
    infogan=dict(num_categories=4, num_continuous=0),  # as many as there are patterns
    bigan=dict(loss='relativistic', penalty='r1', penalty_weight=.02, discriminator_norm='none'))


@functools.cache
def train_on_patterns(name):
    """A model, its state before and after some hundreds of steps on the four patterns, and the
    metrics. Each pattern has three labels; for the classifier the label is the pattern.
    """
    number = jnp.arange(36, dtype=jnp.int32)
    x = patterns(name)[number % 4]
    batch = Batch(x, number % 4 if name == 'classifier' else number // 4 % LABELS)
    model = make(name, batch, kind='mlp', width=(32,), norm='none',
                 learning_rate=3e-3, ema_decay=.9, latent=4, **TRAINING_OPTIONS.get(name, {}))
    start = quick(model.init)(jax.random.key(0), batch)
    end, metrics = run(model, batch, 1200 if name == 'bigan' else 600, start)
    return model, start, end, metrics


def mistakes(name, model, state):
    """The error that learning the patterns makes small: the mean squared error of a reconstruction,
    or of its colour only, or the share of wrong labels or characters.
    """
    x = patterns(name)
    if name == 'classifier':
        result = model.evaluate(state, Batch(x, jnp.arange(4)), keys(1)[0])
        return 1 - float(result['accuracy'].mean())
    y = model.decode(state, model.encode(state, x))
    if name == 'text':
        return float((y != x).mean())
    if name == 'colorize':
        x, y = (10 * colorize.chroma(a) for a in (x, y))
    return float(((y - x) ** 2).mean())


@pytest.mark.parametrize('name', thorough(
    NAMES, 'ae', 'classifier', 'colorize', 'gan'))
def test_learns_four_patterns(name):
    model, start, end, _ = train_on_patterns(name)
    if model.encode and name != 'bigan':  # no map of only four points has normal codes to invert
        before, after = (mistakes(name, model, s) for s in (start, end))
        assert before > .2 and after < .01
    else:
        z = model.prior(end, jax.random.key(7), 200)
        (before, _), (after, share) = (to_nearest(model.decode(s, z)) for s in (start, end))
        assert before > .2 and after < .05
        assert (share > .05).sum() >= 2, 'the samples are all alike'


@pytest.mark.parametrize('name', ['ae', 'vae'])
def test_the_loss_falls_far(name):
    loss = np.asarray(train_on_patterns(name)[3]['loss'])
    assert loss[-20:].mean() < .2 * loss[0]


@pytest.mark.full
def test_samples_of_the_vae_are_patterns():
    model, start, end, _ = train_on_patterns('vae')
    z = model.prior(end, jax.random.key(7), 200)
    (before, _), (after, share) = (to_nearest(model.decode(s, z)) for s in (start, end))
    assert before > .2 and after < .05 and share.min() > .05


PLAIN = dict(aae='discriminator', factor='discriminator',
             infogan='recognition')  # players whose net has no norm
# a net stores the statistics of its norm; a model only passes them on
WITH_NORMS = [kind for kind in nets.NAMES if 'norm' in nets.make(kind).spec.keys]
NORMED = [*itertools.product(['ae'], WITH_NORMS, ['batch', 'spectral']),
          *itertools.product(['ae'], ['mlp', 'conv'], nets.NORMS),
          *itertools.product(['gan'], ['conv', 'mlp'], ['batch', 'spectral']),
          *itertools.product(NAMES, ['mlp'], ['batch'])]


EVERY_DAY = [('ae', 'mlp', 'batch'), ('gan', 'mlp', 'spectral')]


@pytest.mark.parametrize('name, kind, norm', thorough([
    case for case in dict.fromkeys(NORMED) if takes(case[0], 'norm') and case[0] != 'vq'
    and case[1:] not in itertools.product(['recurrent'], nets.NORMS[1:])
    and case[1:] not in itertools.product(['mlp', 'linear'], ['instance'])],
    *EVERY_DAY))  # instance is for images
def test_buffers_are_there_where_the_norm_has_statistics(name, kind, norm):
    batch = data((4, 5, 3))
    model = make(name, batch, kind=kind, norm=norm, width=(4, 3, 3) if kind == 'rae' else (4, 3))

    @quick
    def first_step(key):
        state = model.init(key, batch)
        return state, *model.step(state, batch, key)

    state, after, metrics = first_step(keys(1)[0])
    assert healthy(after) and healthy(metrics) and kinds(state) == kinds(after)
    has_statistics = norm == 'spectral' or norm == 'batch' and kind != 'linear'  # it has none
    for player, buffers in state.buffers.items():
        expected = has_statistics and player != PLAIN.get(name)
        assert bool(jax.tree.leaves(buffers)) == expected, player
        assert equal(buffers, after.buffers[player]) != expected, player


@pytest.mark.full
def test_gan_norms_of_the_two_nets_differ_where_asked():
    _, _, state = built('gan', *IMAGES, norm='none', discriminator_norm='spectral')
    assert jax.tree.leaves(state.buffers['discriminator'])
    assert not jax.tree.leaves(state.buffers['generator'])


BAD = (dict(latent=0), dict(latent=-1), dict(kind='cnn'), dict(norm='weight'), dict(width=()),
       dict(width=(4, 0)), dict(width=0), dict(likelihood='laplace'), dict(loss='mae'),
       dict(loss='mae'), dict(discriminator_norm='weight'), dict(penalty='r3'),
       dict(noise='speckle'), dict(sparsity='l2'), dict(target_activation=0.),
       dict(target_activation=1.5), dict(regulariser='wavelet'), dict(probes=-1),
       dict(encoder='warm'), dict(noise_level=-.1))


@pytest.mark.parametrize('name, bad', [
    (n, b) for n, b in itertools.product(NAMES, BAD) for k, v in b.items() if matches_kind(n, k, v)
    and (n, b) != ('infogan', dict(latent=0))])  # without noise it has its other codes
def test_bad_hyper_parameters_are_refused_by_name(name, bad):
    (hyper, value), = bad.items()
    message = dict(kind='net').get(hyper, hyper.removeprefix('discriminator_'))
    with pytest.raises(BadInput, match=message) as e:
        make(name, data(fitting(name)[0][0], name=name), **bad)
    assert hyper == 'width' or str(value) in str(e.value)


@pytest.mark.parametrize('kind', ['conv', 'residual', 'recurrent'])
@on_vectors
def test_kinds_for_images_refuse_vectors(name, kind):
    with pytest.raises(BadInput, match='config.net.name=mlp'):
        make(name, data((13,)), kind=kind)


def test_recurrent_nets_refuse_norms_and_codes_without_a_size():
    with pytest.raises(BadInput, match="'recurrent' has no norm 'batch'"):
        make('ae', data((8, 8, 1)), kind='recurrent', norm='batch')
    for kind in 'mlp', 'linear', 'recurrent':
        with pytest.raises(BadInput, match='config.model.latent'):
            make('ae', data((8, 8, 1)), kind=kind, latent=None)


@pytest.mark.parametrize('name, hyper', [('vae', dict(likelihood='bernoulli')),
                                         *((n, {k: 'cross_entropy'}) for n in NAMES
                                           for k in ('loss', 'error') if takes(n, k)
                                           and n != 'text' and (k != 'loss' or n not in GANS))])
@pytest.mark.parametrize('scale, shift', [(2, -1), (255, 0)])
def test_cross_entropy_refuses_data_outside_0_1(name, hyper, scale, shift):
    batch = data((8, 8, 1))
    with pytest.raises(BadInput, match=r'\[0, 1\]'):
        make(name, batch._replace(x=batch.x * scale + shift), **hyper)


STARTED = 'ae', 'vae', 'sparse', 'deepfake', *sorted(GANS)


@pytest.mark.parametrize('name', thorough(STARTED, 'vae'))
@pytest.mark.parametrize('shape, kind, scale, shift', [
    ((3, 4, 2), 'conv', .8, 0.), ((13,), 'mlp', .8, 0.), ((13,), 'mlp', 3., -4.)])
def test_the_decoder_starts_at_the_best_constant(name, shape, kind, scale, shift):
    """A code of zeros gives the mean of the data, by pixel or by channel, with either link."""
    weights = jnp.linspace(.2, 1, shape[-1])
    batch = Batch(data(shape).x * weights * scale + shift, data(shape).label)
    model = make(name, batch, kind=kind, likelihood='gaussian', loss='mse', width=(4,))
    state = quick(model.init)(jax.random.key(0), batch)
    result = quick(lambda s: model.decode(s, jnp.zeros_like(code(model, s, batch))))(state)
    best = batch.x.mean(0 if kind == 'mlp' else (0, 1, 2))
    np.testing.assert_allclose(result, jnp.broadcast_to(best, result.shape), rtol=1e-3, atol=1e-3)


@some_models
def test_batch_norm_in_evaluation_is_per_example(name):
    if not takes(name, 'norm') or name == 'vq':
        pytest.skip(f'{name} has no norm')
    shape, kind = fitting(name)[-1]
    model, batch, state = built(name, shape, kind, norm='batch')
    state, key = model.step(state, batch, keys(1)[0])[0], keys(1)[0]
    # all but the first and the next, from which a GAN measures its distance
    others = batch._replace(x=batch.x.at[2:].set(data(shape, 5, name).x[2:]))
    a, b = (model.evaluate(state, x, key) for x in (batch, others))
    if not model.full_batch:  # of which an example is measured by the others
        close(jax.tree.map(lambda m: m[0], a), jax.tree.map(lambda m: m[0], b), rtol=1e-6)
    assert not equal(a, b)
    if model.encode:
        z, same = (model.encode(state, b.x) for b in (batch, others))
        close(*(jax.tree.map(lambda a: a[0], c) for c in (z, same)), rtol=1e-6)


def single(linear, norm):
    return layers.net(layers.Block(linear, norm, layers.identity))


def test_batch_norm_uses_the_batch_in_training_and_running_statistics_after():
    net = single(layers.dense(4), 'batch')
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 5))
    params, buffers = net.init(jax.random.key(1), x)
    train = quick(net.train)
    y, new_buffers = train(params, buffers, x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-2)
    before = jnp.abs(net.apply(params, new_buffers, x) - y).max()
    for _ in range(80):
        buffers = train(params, buffers, x)[1]
    np.testing.assert_allclose(net.apply(params, buffers, x), y, atol=1e-2)
    assert before > .3, 'one batch must not replace the running statistics'


def test_group_norm_makes_eight_groups_of_an_example_standard():
    net = single(layers.dense(48), 'group')
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (N, 5))
    y = net.apply(*net.init(jax.random.key(1), x), x).reshape(N, 8, 6)
    np.testing.assert_allclose(y.mean(2), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(2), 1, atol=1e-2)


def matrix(net, params, buffers, size, channels):
    """The linear map of a one-layer net as the matrix that spectral normalisation normalises."""
    if size is None:
        return net.apply(params, buffers, jnp.eye(channels))
    x = jnp.zeros((channels, 5, 5, channels)).at[jnp.arange(channels), 2, 2,
                                                 jnp.arange(channels)].set(1)
    y = net.apply(params, buffers, x)[:, 1:4, 1:4]
    return y.reshape(-1, y.shape[-1])


@pytest.mark.parametrize('linear, size', [(layers.dense(7), None),
                                          (layers.convolve(ops.conv, 3, 4), 5)],
                         ids=["mlp", "conv"])
def test_spectral_norm_makes_the_largest_singular_value_one(linear, size):
    net, x = single(linear, 'spectral'), jnp.ones((1, *(size and (5, 5) or ()), 3))
    params, buffers = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: 5 * p, params)
    train, start = quick(net.train), buffers
    for _ in range(60):
        buffers = train(params, buffers, x)[1]
    before, after = (np.linalg.svd(matrix(net, params, b, size, 3), compute_uv=False)[0]
                     for b in (start, buffers))
    np.testing.assert_allclose(after, 1, rtol=1e-3)
    assert before > 1.01


@pytest.mark.full
def test_output_is_a_sigmoid_only_for_data_in_0_1():
    x = 4 * jax.random.normal(jax.random.key(0), (N, 13))
    batch = data((13,))._replace(x=x)
    for name in STARTED:
        model = make(name, batch, kind='mlp', likelihood='gaussian', loss='mse')
        state = quick(model.init)(jax.random.key(0), batch)
        model_built = quick(model.decode)(state, 9 * code(model, state, batch))
        assert model_built.min() < 0 or model_built.max() > 1, name
    assert not losses.in_unit_interval(x)


# Nets


@pytest.mark.full
def test_residual_block_adds_to_its_input():
    net, x = layers.net(residual.Residual(3)), jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    params, buffers = net.init(jax.random.key(1), x)
    assert set(params) == {'Block_0', 'Block_1'}, 'no convolution where the width stays'
    still = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(net.apply(still, buffers, x), np.maximum(x, 0), rtol=1e-6)
    wider = layers.net(residual.Residual(5))
    params, buffers = wider.init(jax.random.key(1), x)
    still = {k: v if k == 'Convolve_0' else jax.tree.map(jnp.zeros_like, v)
             for k, v in params.items()}
    y = np.asarray(x) @ np.asarray(params['Convolve_0']['kernel'][0, 0])
    np.testing.assert_allclose(wider.apply(still, buffers, x), np.maximum(y, 0), rtol=1e-4,
                               atol=1e-5)


@pytest.mark.full
def test_recurrent_nets_read_images_row_by_row():
    x = data((4, 3, 2)).x
    net = nets.make('recurrent', width=(6,)).encoder((4, 3, 2), 5)
    params, buffers = net.init(jax.random.key(0), x)
    z = net.apply(params, buffers, x)
    rows = nets.make('recurrent', width=(6,)).encoder((4, 6), 5)
    np.testing.assert_allclose(rows.apply(params, buffers, x.reshape(N, 4, 6)), z, rtol=1e-6)
    for row in range(4):
        moved = net.apply(params, buffers, x.at[:, row].add(.5))
        assert (abs(moved - z).max(1) > 1e-3).all(), f'row {row} is not read'


def test_linear_nets_are_linear_and_ignore_width():
    batch = data((3, 4, 2))
    model = make('ae', batch, kind='linear', width=(77,))
    state = quick(model.init)(jax.random.key(0), batch)
    sizes = sorted(a.size for a in jax.tree.leaves(state.params))
    assert sizes == [3, 24, 72, 72]
    f = quick(lambda x: model.decode(state, model.encode(state, x)))
    a, b = batch.x, 30 * batch.x[::-1]
    np.testing.assert_allclose(f(a + b), f(a) + f(b) - f(0 * a), rtol=1e-3, atol=1e-3)
    assert f(b).min() < 0 or f(b).max() > 1
    logits = make('ae', batch, kind='linear', loss='cross_entropy')
    y = quick(logits.decode)(state, 30 * model.encode(state, a))
    assert 0 <= y.min() and y.max() <= 1


def test_compose_applies_a_function_and_keeps_the_parameters():
    x = data((13,)).x
    plain = nets.make('mlp', width=(5,), norm='batch').encoder((13,), 4)
    behind = nets.compose(plain, lambda y: y ** 2)
    params, buffers = plain.init(jax.random.key(0), x)
    assert equal((params, buffers), behind.init(jax.random.key(0), x))
    np.testing.assert_allclose(behind.apply(params, buffers, x),
                               plain.apply(params, buffers, x) ** 2, rtol=1e-6)
    for one, other, power in zip(plain.train(params, buffers, x), behind.train(params, buffers, x),
                                 (2, 1)):
        close(jax.tree.map(lambda a, power=power: a ** power, one), other, rtol=1e-6)


@pytest.mark.parametrize('norm', thorough(('batch', 'group', 'layer', 'instance'), 'group'))
def test_norms_are_exact_where_the_mean_is_large(norm):
    """1000 +- .1 against float64: one image and one group, so that every norm is over the pixels of
    a channel, or over all pixels of two channels.
    """
    x = np.float32(1000 + .1 * np.random.default_rng(0).normal(size=(1, 64, 64, 2)))
    layer = layers.Norm(norm)
    y = quick(lambda x: layer.apply(layer.init(jax.random.key(0), x, True), x, True,
                                    mutable=['batch_stats'])[0])(x)
    axes = (1, 2) if norm in ('batch', 'instance') else (1, 2, 3)
    x64 = np.asarray(x, float)
    centred = x64 - x64.mean(axes, keepdims=True)
    eps = 1e-5 if norm == 'batch' else 1e-6
    truth = centred / np.sqrt((centred ** 2).mean(axes, keepdims=True) + eps)
    np.testing.assert_allclose(y, truth, rtol=0, atol=.01)


def test_per_label_applies_the_copy_of_each_examples_label():
    x, label = data((13,)).x, jnp.array([2, 0, 1, 1, 2, 0])
    plain = nets.make('mlp', width=(5,)).encoder((13,), 4)
    copies = nets.per_label(plain, 3)
    params, buffers = copies.init(jax.random.key(0), (x, label))
    assert all(a.shape[0] == 3 for a in jax.tree.leaves(params))
    local = [jax.tree.map(lambda a, i=i: a[i], params) for i in range(3)]
    assert not equal(local[0], local[1]) and not equal(local[1], local[2])
    y, trained = (f(params, buffers, (x, label)) for f in (copies.apply, copies.train))
    for i in range(N):
        by_itself = plain.apply(local[int(label[i])], {}, x[i:i + 1])[0]
        np.testing.assert_allclose(y[i], by_itself, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(trained[0][i], by_itself, rtol=1e-5, atol=1e-6)


def test_ignore_label_ignores_the_label():
    x = data((13,)).x
    plain = nets.make('mlp', width=(5,)).encoder((13,), 4)
    params, buffers = plain.init(jax.random.key(0), x)
    blind = nets.ignore_label(plain)
    assert equal(params, blind.init(jax.random.key(0), (x, None))[0])
    for label in None, jnp.arange(N):
        assert equal(blind.apply(params, buffers, (x, label)), plain.apply(params, buffers, x))


# Denoising


@pytest.fixture(scope='module')
def grey():
    return jnp.float32(np.random.default_rng(0).uniform(.2, .8, (200, 10, 10, 1)))


@pytest.mark.parametrize('level', [.1, .5])
def test_masking_makes_a_share_of_the_dimensions_zero(grey, level):
    y = np.asarray(denoising.damage(keys(1)[0], grey, 'masking', level))
    hit = y != grey
    assert (y[hit] == 0).all()
    assert abs(hit.mean() - level) < 5 * np.sqrt(level * (1 - level) / y.size)
    assert np.ptp(hit.mean((0, 3))) < .35, 'every pixel can be hit'


@pytest.mark.parametrize('level', [.1, .5])
def test_salt_and_pepper_are_ones_and_zeros_in_equal_share(grey, level):
    y = np.asarray(denoising.damage(keys(1)[0], grey, 'salt_pepper', level))
    hit = y != grey
    assert set(np.unique(y[hit])) == {0, 1}
    assert abs(hit.mean() - level) < 5 * np.sqrt(level * (1 - level) / y.size)
    assert abs(y[hit].mean() - .5) < 5 * .5 / np.sqrt(hit.sum())


@pytest.mark.parametrize('level', [.1, .5])
def test_gaussian_noise_has_the_standard_deviation_of_its_level(grey, level):
    noise = np.asarray(denoising.damage(keys(1)[0], grey, 'gaussian', level) - grey).ravel()
    assert noise.std() == pytest.approx(level, rel=.02)
    assert stats.kstest(noise / level, 'norm').pvalue > .01


@pytest.mark.parametrize('noise', denoising.NOISES)
def test_noise_is_the_keys_and_none_at_level_zero(grey, noise):
    a, b = keys(2)
    one, same, other = (denoising.damage(k, grey, noise, .3) for k in (a, a, b))
    assert equal(one, same) and not equal(one, other)
    assert equal(denoising.damage(a, grey, noise, 0.), grey)


@pytest.mark.parametrize('scale', [1, 4])
def test_denoising_is_measured_on_what_it_shows(scale):
    """Noise is clipped to [0, 1] where the data lie in [0, 1], and only there."""
    batch = data((13,))._replace(x=data((13,)).x * scale)
    model = compiled(make('denoising', batch, kind='mlp', noise_level=.6))
    state, key = model.init(jax.random.key(0), batch), keys(1)[0]
    parts, result = model.show(state, batch, key), model.evaluate(state, batch, key)
    assert set(parts) == {'test data', 'noisy', 'restored'} and equal(parts['test data'], batch.x)
    noisy, restored, x = (np.asarray(parts[k]) for k in ('noisy', 'restored', 'test data'))
    inside = noisy.min() >= 0 and noisy.max() <= 1
    assert inside == (scale == 1) and not np.array_equal(noisy, x)
    if scale == 1:
        assert (noisy == 0).any() and (noisy == 1).any()
    np.testing.assert_allclose(restored, model.decode(state, model.encode(state, noisy)), rtol=1e-5)
    np.testing.assert_allclose(result['noisy_mse'], ((noisy - x) ** 2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(result['mse'], ((restored - x) ** 2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(result['loss'], ((restored - x) ** 2).sum(1), rtol=1e-5)


def test_salt_and_pepper_refuse_data_outside_0_1():
    batch = data((13,))._replace(x=4 * data((13,)).x)
    with pytest.raises(BadInput, match=r'salt_pepper needs data in \[0, 1\]'):
        make('denoising', batch, kind='mlp', noise='salt_pepper')


# Colour

JPEG = np.array([[.299, .587, .114], [-.168736, -.331264, .5], [.5, -.418688, -.081312]])


def test_chroma_is_that_of_jpeg_and_zero_for_grey():
    x = data((7, 9, 3)).x
    truth = np.asarray(x, float) @ JPEG.T
    np.testing.assert_allclose(colorize.chroma(x), truth[..., 1:], atol=1e-5)
    np.testing.assert_allclose(colorize.chroma(jnp.broadcast_to(x[..., :1], x.shape)), 0, atol=1e-6)
    corners = jnp.float32(list(itertools.product([0, 1], repeat=3)))[None, None]
    assert abs(colorize.chroma(corners)).max() <= .5 + 1e-6


def test_colour_undoes_chroma_and_stays_in_0_1():
    x = data((7, 9, 3)).x
    np.testing.assert_allclose(colorize.colour(x @ colorize.LUMA, colorize.chroma(x)), x, atol=1e-5)
    wild = colorize.colour(x @ colorize.LUMA, 9 * colorize.chroma(x))
    assert wild.min() == 0 and wild.max() == 1


def test_colorize_keeps_the_lightness_and_ignores_colour():
    model, batch, state = built('colorize', *IMAGES)
    model_built = np.asarray(model.decode(state, model.encode(state, batch.x)), float)
    x = np.asarray(batch.x, float)
    unclipped = ((model_built > 0) & (model_built < 1)).all(-1)
    assert unclipped.mean() > .5
    np.testing.assert_allclose((model_built @ JPEG[0])[unclipped], (x @ JPEG[0])[unclipped],
                               atol=1e-5)
    grey = np.float32(np.broadcast_to((x @ JPEG[0])[..., None], x.shape))
    close(*(model.encode(state, a) for a in (jnp.asarray(grey), batch.x)), rtol=1e-3, atol=1e-4)


def test_colorize_is_measured_against_the_grey_image():
    model, batch, state = built('colorize', *IMAGES)
    result = model.evaluate(state, batch, None)
    truth, model_built = (np.asarray(a, float) @ JPEG[1:].T for a in (
        batch.x, model.decode(state, model.encode(state, batch.x))))
    square = ((model_built - truth) ** 2).sum((1, 2, 3))
    copied = -10 * np.log10((truth ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(result['loss'], square, rtol=1e-3)
    np.testing.assert_allclose(result['grey_loss'], (truth ** 2).sum((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(result['chroma_psnr'], -10 * np.log10(square / 126), rtol=1e-4)
    np.testing.assert_allclose(result['grey_chroma_psnr'], copied, rtol=1e-4)
    np.testing.assert_allclose(result['psnr_gain'],
                               result['chroma_psnr'] - result['grey_chroma_psnr'], atol=1e-5)


def test_colorize_starts_at_the_mean_colour():
    model, batch, state = built('colorize', *IMAGES)
    z = model.encode(state, batch.x)
    model_built = model.decode(state,
                               dict(luma=jnp.full_like(z['luma'], .5), features=0 * z['features']))
    best = (np.asarray(batch.x, float) @ JPEG[1:].T).mean((0, 1, 2))
    result = np.asarray(colorize.chroma(model_built))
    np.testing.assert_allclose(result, np.broadcast_to(best, result.shape), atol=1e-5)


@pytest.mark.parametrize('shape', [(8, 8, 1), (8, 8, 4), (8, 3), (13,)])
def test_colorize_refuses_what_has_no_colour(shape):
    with pytest.raises(BadInput, match=r'colour images \(h, w, 3\).*configs/colorize.py:photos'):
        make('colorize', data(shape))


# Penalties


def matrices(f, x):
    """The Jacobian of f at each example, (n, outputs, inputs), by forward mode."""
    each = quick(jax.vmap(jax.jacfwd(lambda row: f(row[None])[0])))(x)
    return np.asarray(each, float).reshape(len(x), -1, x[0].size)


def test_contractive_penalty_is_the_norm_of_the_encoders_jacobian():
    model, batch, state = built('contractive', *VECTORS, penalty_weight=.7)
    norm = (matrices(lambda x: traced(model).encode(state, x), batch.x) ** 2).sum((1, 2))
    y = np.asarray(model.decode(state, model.encode(state, batch.x)))
    error = ((y - batch.x) ** 2).sum(1)
    result = model.evaluate(state, batch, None)
    np.testing.assert_allclose(result['jacobian'], norm, rtol=1e-4)
    np.testing.assert_allclose(result['recon'], error, rtol=1e-4)
    np.testing.assert_allclose(result['loss'], error + .7 * norm, rtol=1e-4)


@pytest.mark.full
def test_contractive_penalty_makes_the_jacobian_smaller():
    norms = []
    for penalty in 0., 1.:
        batch = data((13,))
        model = make('contractive', batch, kind='mlp', penalty_weight=penalty, learning_rate=3e-3)
        norms.append(np.asarray(run(model, batch, 200)[1]['jacobian']))
    assert norms[0][0] == norms[1][0] and norms[1][-1] < .5 * norms[0][-1]


def test_contractive_probes_estimate_the_penalty():
    model, batch, state = built('contractive', *VECTORS, penalty_weight=.7)
    probed, *_ = built('contractive', *VECTORS, penalty_weight=.7, probes=64)
    exact = np.asarray(model.evaluate(state, batch, None)['jacobian'])
    one, other = (probed.evaluate(state, batch, k)['jacobian'] for k in keys(2))
    assert not equal(one, other)
    for result in one, other:
        assert (abs(result - exact) < 5 * np.sqrt(2 / 64) * exact).all()


@pytest.mark.parametrize('penalty', [.03, 2.])
def test_sparse_l1_is_the_sum_of_the_rectified_code(penalty):
    model, batch, state = built('sparse', *VECTORS, penalty_weight=penalty, latent=9)
    z = np.asarray(model.encode(state, batch.x))
    assert z.min() == 0 and z.max() > .01
    y = np.asarray(model.decode(state, jnp.asarray(z)))
    result, (_, trained) = model.evaluate(state, batch, None), model.step(state, batch, keys(1)[0])
    error, size = ((y - batch.x) ** 2).sum(1), abs(z).sum(1)
    np.testing.assert_allclose(result['recon'], error, rtol=1e-4)
    np.testing.assert_allclose(result['active_fraction'], (z > .01).mean(1), rtol=1e-5)
    np.testing.assert_allclose(trained['sparsity'], size.mean(), rtol=1e-4)
    np.testing.assert_allclose(trained['loss'], error.mean() + penalty * size.mean(), rtol=1e-4)


def test_sparse_kl_is_that_of_the_batchs_mean_activations():
    model, batch, state = built('sparse', *VECTORS, sparsity='kl', penalty_weight=.7,
                                target_activation=.1, latent=9)
    z = np.asarray(model.encode(state, batch.x), float)
    assert 0 < z.min() and z.max() < 1
    result, (_, trained) = model.evaluate(state, batch, None), model.step(state, batch, keys(1)[0])
    rho = z.mean(0)
    kl = stats.entropy(np.stack([np.full(9, .1), np.full(9, .9)]), np.stack([rho, 1 - rho])).sum()
    np.testing.assert_allclose(trained['sparsity'], kl, rtol=1e-4)
    np.testing.assert_allclose(trained['loss'], result['recon'].mean() + .7 * kl, rtol=1e-4)
    np.testing.assert_allclose(result['active_fraction'], (z > .5).mean(1), rtol=1e-5)


@pytest.mark.full
def test_sparse_penalty_makes_the_code_sparse():
    ends = []
    for sparsity, penalty in ('l1', 0.), ('l1', .3), ('kl', 1.):
        model = make('sparse', data((13,)), kind='mlp', sparsity=sparsity, penalty_weight=penalty,
                     latent=9, learning_rate=3e-3, target_activation=.05)
        state, metrics = run(model, data((13,)), 400)
        ends.append(np.asarray(metrics['sparsity']))
    assert ends[1][-1] < .2 * ends[0][-1] and ends[2][-1] < .2 * ends[2][0]


@pytest.mark.parametrize('regulariser', ['none', 'l2', 'gradient_penalty', 'spectral'])
def test_rae_loss_is_error_and_size_and_roughness(regulariser):
    model, batch, state = built('rae', *VECTORS, regulariser=regulariser, beta=.3,
                                penalty_weight=.2, probes=0)
    z = model.encode(state, batch.x)
    y = np.asarray(model.decode(state, z))
    error, size = ((y - batch.x) ** 2).sum(1), (np.asarray(z) ** 2).sum(1)
    weights = sum((np.asarray(a, float) ** 2).sum()
                  for a in jax.tree.leaves(state.params['ae']['decoder']))
    penalty = dict(none=0, spectral=0, l2=weights)
    if regulariser == 'gradient_penalty':
        jacobian = matrices(lambda z: traced(model).decode(state, z), z)
        penalty['gradient_penalty'] = (jacobian ** 2).sum((1, 2))
    result = model.evaluate(state, batch, None)
    np.testing.assert_allclose(result['recon'], error, rtol=1e-4)
    np.testing.assert_allclose(result['squared_norm'], size, rtol=1e-4)
    np.testing.assert_allclose(result['loss'], error + .15 * size + .2 * penalty[regulariser],
                               rtol=1e-4)
    buffers = state.buffers['ae']
    assert bool(jax.tree.leaves(buffers['decoder'])) == (regulariser == 'spectral')
    assert not jax.tree.leaves(buffers['encoder'])


# Faces


@pytest.mark.full
def test_deepfake_has_a_decoder_for_each_label_and_one_encoder():
    _, batch, state = built('deepfake', *VECTORS)
    params = state.params['ae']
    assert all(a.shape[0] == LABELS for a in jax.tree.leaves(params['decoder']))
    _, _, by_itself = built('ae', *VECTORS)
    assert jax.tree.map(jnp.shape, params['encoder']) == jax.tree.map(
        jnp.shape, by_itself.params['ae']['encoder'])
    _, _, control = built('deepfake', *VECTORS, shared_encoder=False)
    assert jax.tree.map(lambda a: a.shape[1:], control.params['ae']['encoder']) == jax.tree.map(
        jnp.shape, params['encoder'])
    assert all(a.shape[0] == LABELS for a in jax.tree.leaves(control.params['ae']['encoder']))


@pytest.mark.parametrize('shared', [True, False])
def test_deepfake_step_on_one_label_does_not_change_the_nets_of_others(shared):
    """Adam does not change a parameter whose gradient is exactly zero."""
    model, batch, state = built('deepfake', *VECTORS, shared_encoder=shared)
    for label in 0, 2:
        after, _ = model.step(state, batch._replace(label=jnp.full_like(batch.label, label)),
                              keys(1)[0])
        for part in ('decoder',) if shared else ('decoder', 'encoder'):
            before, now = (s.params['ae'][part] for s in (state, after))
            for i in range(LABELS):
                same = equal(*(jax.tree.map(lambda a, i=i: a[i], p) for p in (before, now)))
                assert same == (i != label), (part, i)
        assert not equal(state.params['ae']['encoder'], after.params['ae']['encoder'])


@pytest.mark.parametrize('shared', [True, False])
def test_deepfake_measures_swaps_against_the_truth(shared):
    """`swapped` holds every example with every label; the metrics leave out its own label."""
    model, batch, state = built('deepfake', *VECTORS, shared_encoder=shared)
    truth = np.random.default_rng(3).uniform(size=(N, LABELS, 13)).astype(np.float32)
    result = model.evaluate(state, batch._replace(swapped=jnp.asarray(truth)), None)
    z = model.encode(state, batch.x, batch.label)
    model_built = [np.asarray(model.decode(state, z, jnp.full(N, k)), float) for k in range(LABELS)]
    for i in range(N):
        others = [k for k in range(LABELS) if k != i % LABELS]
        swap, copy = (np.mean([-10 * np.log10(((y - truth[i, k]) ** 2).mean()) for k, y in pairs])
                      for pairs in ([(k, model_built[k][i]) for k in others],
                                    [(k, batch.x[i]) for k in others]))
        np.testing.assert_allclose(result['swap_psnr'][i], swap, rtol=1e-4)
        np.testing.assert_allclose(result['copy_psnr'][i], copy, rtol=1e-4)
        local = ((model_built[i % LABELS][i] - batch.x[i]) ** 2).sum()
        np.testing.assert_allclose(result['recon'][i], local, rtol=1e-4)
    assert 'swap_psnr' not in model.evaluate(state, batch, None)


def test_deepfake_disguise_scales_and_shifts_channels():
    """An image of zeros shows the offsets, and one of ones the factors as well."""
    zeros = jnp.zeros((500, 2, 3, 3))
    shift, both = (np.asarray(deepfake.disguise(keys(1)[0], zeros + v, .3)) for v in (0, 1))
    scale = both - shift - 1
    for result in scale, shift:
        assert np.ptp(result, (1, 2)).max() < 1e-6
        assert stats.kstest(result[:, 0, 0].ravel(), stats.uniform(-.3, .6).cdf).pvalue > .01
    assert abs(np.corrcoef(scale[:, 0, 0].ravel(), shift[:, 0, 0].ravel())[0, 1]) < .1
    x = data((2, 3, 3)).x
    assert equal(deepfake.disguise(keys(1)[0], x, 0.), x)
    for vectors in data((13,)).x, jnp.ones((N, 4, 3)):
        assert deepfake.disguise(keys(1)[0], vectors, .3).shape == vectors.shape


@pytest.mark.full
def test_deepfake_spread_is_that_of_the_labels_moments():
    z, label = np.random.default_rng(0).normal(size=(40, 2, 3)), np.arange(40) % 7 % 3
    z[label == 1] += 1
    z[label == 2] *= 2
    flat = z.reshape(40, 6)
    truth = np.mean([((part.mean(0) - flat.mean(0)) ** 2).sum() + (
        (part.std(0) - flat.std(0)) ** 2).sum() for part in (flat[label == i] for i in range(3))])
    for labels in 3, 5:  # two of the five have no example
        result = deepfake.spread(jnp.float32(z), jnp.asarray(label), labels)
        np.testing.assert_allclose(result, truth, rtol=1e-3)
    alike = jnp.float32(np.repeat(z[:10], 3, 0))
    np.testing.assert_allclose(deepfake.spread(alike, jnp.arange(30) % 3, 3), 0, atol=1e-5)
    shifted = [deepfake.spread(jnp.float32(shift + z), jnp.asarray(label), labels)
               for shift in (0, 4096)]  # exact in float32 up to rounding of the codes
    np.testing.assert_allclose(*shifted, rtol=1e-2)
    gradient = jax.grad(lambda z: deepfake.spread(z, jnp.arange(4) % 2, 2))(jnp.ones((4, 3)))
    assert np.isfinite(gradient).all(), 'codes that do not vary'


def test_deepfake_loss_adds_the_spread_of_the_codes():
    model, batch, state = built('deepfake', *VECTORS, color_jitter=0.)
    _, result = model.step(state, batch, keys(1)[0])
    z = model.encode(state, batch.x, batch.label)
    np.testing.assert_allclose(result['alignment'], deepfake.spread(z, batch.label, LABELS),
                               rtol=1e-4)
    weight = inspect.signature(deepfake.make).parameters['alignment_weight'].default
    np.testing.assert_allclose(result['loss'], result['recon'] + weight * result['alignment'],
                               rtol=1e-5)


@pytest.mark.full
def test_deepfake_shows_every_example_as_every_label():
    model, batch, state = built('deepfake', *VECTORS)
    truth = jnp.float32(np.random.default_rng(3).uniform(size=(N, LABELS, 13)))
    parts = make('deepfake', batch, kind='mlp').show(state, batch._replace(swapped=truth), None)
    assert list(parts) == ['test data', 'as 0', 'as 1', 'as 2', '', 'true 0', 'true 1', 'true 2']
    z = model.encode(state, batch.x, batch.label)
    for i in range(LABELS):
        y = model.decode(state, z, jnp.full(N, i))
        np.testing.assert_allclose(parts[f'as {i}'], y, rtol=1e-5)
        assert equal(parts[f'true {i}'], truth[:, i])
    assert equal(model.decode(state, z), parts['as 0'])


@pytest.mark.parametrize('label', [None, jnp.zeros(N, jnp.int32), jnp.full(N, -1, jnp.int32)])
@pytest.mark.parametrize('name, remedy', [
    ('deepfake', 'identities'), ('classifier', 'another data set'), ('cvae', 'configs/vae.py'),
    ('gan', 'discriminator_conditioning none'), ('aae', 'conditional=False')])
def test_fewer_than_two_labels_are_refused(name, remedy, label):
    with pytest.raises(BadInput, match=f'at least two labels.*{remedy}'):
        make(name,
             data((13, ))._replace(label=label), kind='mlp', discriminator_conditioning='concat',
             conditional=True)


# From codes to labels


def head_params(state):
    """The weights and bias of the classifier's one dense layer."""
    leaves = jax.tree.leaves(state.params['classifier']['head'])
    weights, = (np.asarray(a, float) for a in leaves if a.ndim == 2)
    bias, = (np.asarray(a, float) for a in leaves if a.ndim == 1)
    return weights, bias


@functools.cache
def classifier(encoder, source='ae'):
    """A classifier on the encoder of another model, and the initial states of both."""
    model, batch, state = built(source, *VECTORS)
    start = Context(source=(traced(model), state))
    model_built = compiled(make('classifier', batch, context=start, encoder=encoder))
    return model, state, model_built, model_built.init(jax.random.key(4), batch), batch


@pytest.mark.parametrize('encoder', ['frozen', 'finetuned'])
def test_classifier_starts_from_its_sources_parameters(encoder):
    source, trained, model, state, batch = classifier(encoder)
    np.testing.assert_allclose(model.encode(state, batch.x), source.encode(trained, batch.x),
                               rtol=1e-6)


def test_classifier_from_scratch_starts_elsewhere():
    source, trained, model, state, batch = classifier('scratch')
    codes = model.encode(state, batch.x)
    assert codes.shape == source.encode(trained, batch.x).shape
    assert abs(codes - source.encode(trained, batch.x)).max() > .01
    assert kinds(state) == kinds(classifier('finetuned')[3])


@pytest.mark.parametrize('encoder, moves', [('frozen', False), ('finetuned', True),
                                            ('scratch', True)])
def test_classifier_trains_its_head_and_the_encoder_unless_frozen(encoder, moves):
    _, _, model, state, batch = classifier(encoder)
    after = state
    for key in keys(3):
        after, _ = model.step(after, batch, key)
    before, now = (s.params['classifier'] for s in (state, after))
    assert not equal(before['head'], now['head'])
    assert equal(before['encoder'], now['encoder']) != moves
    assert equal(state.buffers, after.buffers)
    assert equal(model.encode(state, batch.x), model.encode(after, batch.x)) != moves


def test_classifier_is_measured_by_log_likelihood_and_the_largest_logit():
    _, _, model, state, batch = classifier('frozen')
    weights, bias = head_params(state)
    bias = bias + np.array([.5, -.2, .1])
    head = jax.tree.map(lambda a: jnp.float32(bias) if a.ndim == 1 else a,
                        state.params['classifier']['head'])
    state = state._replace(params=dict(classifier=state.params['classifier'] | dict(head=head)))
    logits = np.asarray(model.encode(state, batch.x), float) @ weights + bias
    result = model.evaluate(state, batch, None)
    truth = -special.log_softmax(logits, 1)[np.arange(N), batch.label]
    np.testing.assert_allclose(result['loss'], truth, rtol=1e-4)
    np.testing.assert_array_equal(result['accuracy'], logits.argmax(1) == batch.label)
    assert 0 < result['accuracy'].mean() < 1 or len(set(logits.argmax(1))) == 1


@pytest.mark.full
def test_classifier_keeps_a_sources_batch_statistics():
    source, batch, state = built('ae', *VECTORS, norm='batch')
    for key in keys(3):
        state, _ = source.step(state, batch, key)
    start = Context(source=(traced(source), state))
    model = make('classifier', batch, context=start, encoder='finetuned')
    first = quick(model.init)(jax.random.key(0), batch)
    close(model.encode(first, batch.x), source.encode(state, batch.x), rtol=1e-5)
    after, _ = quick(model.step)(first, batch, keys(1)[0])
    assert equal(after.buffers['classifier']['encoder'], state.buffers)
    assert not equal(after.params, first.params)


@pytest.mark.full
@pytest.mark.parametrize('name', [n for n in NAMES
                                  if n not in ('gan', 'infogan', 'classifier', 'cvae')])
def test_classifier_takes_every_encoder(name):
    """Only shapes: nothing is compiled."""
    source, batch, state = built(name, *fitting(name)[-1])
    start = Context(source=(traced(source), state))
    model = make('classifier', batch, context=start, encoder='frozen',
                 head=(5,))
    start = jax.eval_shape(model.init, jax.random.key(0), batch)
    after, metrics = jax.eval_shape(model.step, start, batch, jax.random.key(0))
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, after)
    assert set(metrics) == {'loss', 'accuracy'}
    assert all(a.shape == (N,) for a in jax.tree.leaves(
        jax.eval_shape(model.evaluate, start, batch, jax.random.key(0))))


@pytest.mark.parametrize('encoder', ['frozen', 'finetuned'])
def test_classifier_without_a_source_is_refused(encoder):
    with pytest.raises(BadInput, match=f'{encoder} encoder.*--config.init_from=DIR'):
        make('classifier', data((13,)), kind='mlp', encoder=encoder)
