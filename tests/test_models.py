"""Every file of gen_jax/models keeps the interface, learns, and refuses what does not fit.

A new model is tested by being there: what it can do is read off its Model and its `make`.
"""
import functools
import importlib
import inspect
import itertools
import pkgutil

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import losses, models, nets, ops
from gen_jax.types import BadInput, Batch

NAMES = sorted(m.name for m in pkgutil.iter_modules(models.__path__))
N = 6
CASES = ((8, 8, 1), 'conv'), ((7, 9, 3), 'conv'), ((13,), 'mlp')
# nearly all the time here is XLA's, compiling programs that run once
quick = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
every_model = pytest.mark.parametrize('name', NAMES)
every_case = pytest.mark.parametrize('shape, kind', CASES)


def maker(name):
    return importlib.import_module(f'gen_jax.models.{name}').make


def takes(name, hyper):
    return hyper in inspect.signature(maker(name)).parameters


def make(name, x, **hyper):
    """A small model; hyper-parameters that its `make` has not are left out."""
    hyper = dict(latent=3, width=(6, 4)) | hyper
    return maker(name)(Batch(x), **{k: v for k, v in hyper.items() if takes(name, k)})


def data(shape, seed=0):
    return Batch(jnp.float32(np.random.default_rng(seed).uniform(size=(N, *shape))))


def keys(count, seed=1):
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def built(name, shape, kind, **hyper):
    """A model with its functions compiled, and its first state."""
    batch = data(shape)
    model = make(name, batch.x, kind=kind, **hyper)
    model = model._replace(**{
        k: quick(f) for k, f in model._asdict().items() if f and k != 'prior'})
    return model, batch, model.init(jax.random.key(0), batch)


def kinds(tree):
    """Structure, shapes, dtypes and weak types."""
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


def code(model, state, batch):
    """A code that the model can decode, from its prior or else its encoder."""
    return model.prior(keys(1)[0], N) if model.prior else model.encode(state, batch.x)


def test_there_are_models():
    assert {'ae', 'vae', 'gan'} <= set(NAMES)


@every_model
@every_case
def test_init_and_step_make_one_kind_of_finite_float32_state(name, shape, kind):
    model, batch, state = built(name, shape, kind)
    after, metrics = model.step(state, batch, keys(1)[0])
    assert kinds(state) == kinds(after)
    assert healthy(state) and healthy(after) and healthy(metrics)
    assert metrics and all(m.shape == () for m in metrics.values())
    assert (int(state.step), int(after.step)) == (0, 1)
    assert all(not equal(state.params[p], after.params[p]) for p in state.params)


@every_model
@every_case
def test_evaluate_gives_a_finite_row_per_example(name, shape, kind):
    model, batch, state = built(name, shape, kind)
    metrics = model.evaluate(state, batch, keys(1)[0])
    assert metrics and healthy(metrics)
    assert all(m.shape[0] == N for m in metrics.values())


@every_model
@every_case
def test_decode_encode_and_prior_fit_together(name, shape, kind):
    model, batch, state = built(name, shape, kind)
    z = code(model, state, batch)
    x = model.decode(state, z)
    assert x.shape == (N, *shape) and healthy((x, z))
    assert x.min() >= 0 and x.max() <= 1, 'data in [0, 1] asks for outputs in [0, 1]'
    if model.encode:
        encoded = model.encode(state, batch.x)
        assert healthy(encoded) and encoded.shape[1:] == z.shape[1:]
        assert model.decode(state, encoded).shape == (N, *shape)
    if model.prior:
        z = model.prior(keys(1)[0], 2000)
        assert z.shape[0] == 2000 and abs(z.mean()) < .1 and abs(z.std() - 1) < .1


@every_model
def test_three_steps_in_a_scan_are_three_steps(name):
    model, batch, state = built(name, (8, 8, 1), 'conv')
    scanned, metrics = run(make(name, batch.x, kind='conv'), batch, 3, state)
    for i, key in enumerate(keys(3)):
        state, single = model.step(state, batch, key)
        close(single, jax.tree.map(lambda m, i=i: m[i], metrics), rtol=1e-4, atol=1e-5)
    close(state, scanned, rtol=1e-3, atol=1e-4)


@every_model
def test_one_key_one_result(name):
    model, batch, state = built(name, (8, 8, 1), 'conv')
    assert equal(state, model.init(jax.random.key(0), batch))
    assert not equal(state, model.init(jax.random.key(5), batch))
    for f in model.step, model.evaluate:
        first, again, other = (f(state, batch, k) for k in keys(2)[jnp.array([0, 0, 1])])
        assert equal(first, again)
        if model.prior:
            assert not equal(first, other)


def test_the_autoencoder_draws_no_noise():
    model, batch, state = built('ae', (8, 8, 1), 'conv')
    a, b = keys(2)
    assert equal(model.step(state, batch, a), model.step(state, batch, b))


METRICS = dict(ae={'loss'}, vae={'loss', 'elbo', 'recon', 'kl'},
               gan={'critic_loss', 'generator_loss', 'accuracy_real', 'accuracy_fake'})


@pytest.mark.parametrize('name', METRICS)
def test_metrics_in_training_and_evaluation_have_the_same_names(name):
    model, batch, state = built(name, (8, 8, 1), 'conv')
    _, trained = model.step(state, batch, keys(1)[0])
    assert METRICS[name] <= set(trained) & set(model.evaluate(state, batch, keys(1)[0]))


@pytest.mark.parametrize('beta', [1., 2.5])
def test_vae_metrics_add_up(beta):
    """The elbo has nothing to do with beta; the loss has."""
    model, batch, state = built('vae', (13,), 'mlp', beta=beta)
    _, trained = model.step(state, batch, keys(1)[0])
    for m in trained, model.evaluate(state, batch, keys(1)[0]):
        np.testing.assert_allclose(m['elbo'], -(m['recon'] + m['kl']), rtol=1e-5)
        np.testing.assert_allclose(m['loss'], m['recon'] + beta * m['kl'], rtol=1e-5)
        assert (np.asarray(m['kl']) > 0).all()
    np.testing.assert_allclose(m['kl_unit'].sum(1), m['kl'], rtol=1e-4)
    assert trained['active_units'] in range(4)


@pytest.mark.parametrize('likelihood, sigma', [('bernoulli', 1.), ('gaussian', .5),
                                               ('gaussian', None)])
def test_vae_training_and_evaluation_measure_the_same(likelihood, sigma):
    """Without batch statistics a step reports the mean of what evaluation would have said."""
    model, batch, state = built('vae', (13,), 'mlp', likelihood=likelihood, sigma=sigma)
    key = keys(1)[0]
    _, trained = model.step(state, batch, key)
    tested = model.evaluate(state, batch, jax.random.fold_in(key, 0))
    for name in METRICS['vae']:
        np.testing.assert_allclose(trained[name], tested[name].mean(), rtol=1e-5)


@pytest.mark.parametrize('sigma', [1., .5])
def test_vae_gaussian_likelihood_is_the_density_of_its_output(sigma):
    """The code's noise is taken away by a decoder that ignores its code."""
    model, batch, state = built('vae', (13,), 'mlp', likelihood='gaussian', sigma=sigma)
    params = state.params['vae'] | dict(
        decoder=jax.tree.map(jnp.zeros_like, state.params['vae']['decoder']))
    found = model.evaluate(state._replace(params=dict(vae=params)), batch, keys(1)[0])['recon']
    square = ((np.asarray(batch.x, float) - .5) ** 2).sum(1)  # the output is sigmoid(0)
    truth = square / (2 * sigma ** 2) + 13 * np.log(sigma * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_vae_learns_its_sigma():
    """The maximum-likelihood sigma of a constant output is the data's standard deviation."""
    x = .5 + .1 * jax.random.normal(jax.random.key(3), (64, 13))
    model = make('vae', x, likelihood='gaussian', sigma=None, beta=100., kind='mlp', rate=.02)
    state = run(model, Batch(x), 400)[0]
    sigma = np.exp(state.params['vae']['scale']['logvar'] / 2)
    np.testing.assert_allclose(sigma, .1, rtol=.1)


@pytest.mark.parametrize('loss', ['mse', 'cross_entropy'])
def test_ae_evaluation_measures_sum_and_mean(loss):
    model, batch, state = built('ae', (8, 8, 1), 'conv', loss=loss)
    y = np.asarray(model.decode(state, model.encode(state, batch.x)), float)
    found, x = model.evaluate(state, batch, None), np.asarray(batch.x, float)
    square = ((x - y) ** 2).sum((1, 2, 3))
    nats = -(x * np.log(y) + (1 - x) * np.log1p(-y)).sum((1, 2, 3))
    np.testing.assert_allclose(found['mse'], square / 64, rtol=1e-4)
    np.testing.assert_allclose(found['loss'], square if loss == 'mse' else nats, rtol=1e-4)
    np.testing.assert_allclose(model.step(state, batch, keys(1)[0])[1]['loss'],
                               found['loss'].mean(), rtol=1e-5)


def run(model, batch, steps, state=None):
    """The state after so many steps on one batch, and the metrics of each."""
    if state is None:
        state = quick(model.init)(jax.random.key(0), batch)
    return jax.jit(lambda s, k: lax.scan(lambda s, k: model.step(s, batch, k), s, k))(
        state, keys(steps))


def patterns():
    """Four 8x8 images, far from each other: left, right, top and bottom half."""
    i, j = np.mgrid[:8, :8]
    return jnp.float32(np.stack([j < 4, j >= 4, i < 4, i >= 4])[..., None])


def to_nearest(x):
    """Mean over x of the distance per pixel to the nearest pattern, and which are nearest."""
    d = ((np.asarray(x)[:, None] - np.asarray(patterns())[None]) ** 2).mean((2, 3, 4))
    return d.min(1).mean(), np.bincount(d.argmin(1), minlength=4) / len(x)


@functools.cache
def taught(name):
    """A model before and after some hundreds of steps on the four patterns."""
    batch = Batch(jnp.tile(patterns(), (8, 1, 1, 1)))
    model = make(name, batch.x, kind='mlp', width=(32,), norm='none', rate=3e-3, average=.9,
                 latent=4)
    start = quick(model.init)(jax.random.key(0), batch)
    end, metrics = run(model, batch, 600, start)
    return model, start, end, metrics


@every_model
def test_learns_four_patterns(name):
    model, start, end, _ = taught(name)
    x = patterns()
    if model.encode:
        error = [float(((model.decode(s, model.encode(s, x)) - x) ** 2).mean())
                 for s in (start, end)]
        assert error[0] > .2 and error[1] < .01
    else:
        z = model.prior(jax.random.key(7), 200)
        (before, _), (after, share) = (to_nearest(model.decode(s, z)) for s in (start, end))
        assert before > .2 and after < .05
        assert (share > .05).sum() >= 2, 'the samples are all alike'


@pytest.mark.parametrize('name', ['ae', 'vae'])
def test_the_loss_falls_far(name):
    loss = np.asarray(taught(name)[3]['loss'])
    assert loss[-20:].mean() < .2 * loss[0]


def test_samples_of_the_vae_are_patterns():
    model, start, end, _ = taught('vae')
    z = model.prior(jax.random.key(7), 200)
    (before, _), (after, share) = (to_nearest(model.decode(s, z)) for s in (start, end))
    assert before > .2 and after < .05 and share.min() > .05


@every_model
@pytest.mark.parametrize('kind', nets.KINDS)
@pytest.mark.parametrize('norm', nets.NORMS)
def test_buffers_are_there_where_the_norm_has_statistics(name, kind, norm):
    if not takes(name, 'norm'):
        pytest.skip(f'{name} has no norm')
    batch = data((4, 5, 2))
    model = make(name, batch.x, kind=kind, norm=norm, width=(4, 3))

    @quick
    def first_step(key):
        state = model.init(key, batch)
        return state, *model.step(state, batch, key)

    state, after, metrics = first_step(keys(1)[0])
    assert healthy(after) and healthy(metrics) and kinds(state) == kinds(after)
    for player, buffers in state.buffers.items():
        assert bool(jax.tree.leaves(buffers)) == (norm in ('batch', 'spectral')), player
        assert equal(buffers, after.buffers[player]) == (norm in ('none', 'group')), player


def test_gan_norms_of_the_two_nets_differ_where_asked():
    _, _, state = built('gan', (8, 8, 1), 'conv', norm='none', critic_norm='spectral')
    assert jax.tree.leaves(state.buffers['critic'])
    assert not jax.tree.leaves(state.buffers['generator'])


BAD = (dict(latent=0), dict(latent=-1), dict(kind='cnn'), dict(norm='layer'), dict(width=()),
       dict(width=(4, 0)), dict(likelihood='laplace'), dict(loss='mae'), dict(critic_norm='layer'))


@pytest.mark.parametrize('name, bad', [(n, b) for n, b in itertools.product(NAMES, BAD)
                                       if all(takes(n, k) for k in b)])
def test_bad_hyper_parameters_are_refused_by_name(name, bad):
    (what, value), = bad.items()
    with pytest.raises(BadInput, match=what.removeprefix('critic_')) as e:
        make(name, data((8, 8, 1)).x, **bad)
    assert what == 'width' or str(value) in str(e.value)


@every_model
def test_convolutions_on_vectors_are_refused(name):
    if not takes(name, 'kind'):
        pytest.skip(f'{name} has no kind')
    with pytest.raises(BadInput, match="kind='mlp'"):
        make(name, data((13,)).x, kind='conv')


@pytest.mark.parametrize('name, hyper', [('vae', dict(likelihood='bernoulli')),
                                         ('ae', dict(loss='cross_entropy'))])
@pytest.mark.parametrize('scale, shift', [(2, -1), (255, 0)])
def test_cross_entropy_refuses_data_outside_0_1(name, hyper, scale, shift):
    x = data((8, 8, 1)).x * scale + shift
    with pytest.raises(BadInput, match=r'\[0, 1\]'):
        make(name, x, **hyper)


@every_model
@pytest.mark.parametrize('shape, kind, scale, shift', [
    ((3, 4, 2), 'conv', .8, 0.), ((13,), 'mlp', .8, 0.), ((13,), 'mlp', 3., -4.)])
def test_the_decoder_starts_at_the_best_constant(name, shape, kind, scale, shift):
    """A code of zeros gives the mean of the data, by pixel or by channel, whatever the link."""
    weights = jnp.linspace(.2, 1, shape[-1])
    batch = Batch(data(shape).x * weights * scale + shift)
    model = make(name, batch.x, kind=kind, likelihood='gaussian', width=(4,))
    state = quick(model.init)(jax.random.key(0), batch)
    found = quick(lambda s: model.decode(s, jnp.zeros_like(code(model, s, batch))))(state)
    best = batch.x.mean(0 if kind == 'mlp' else (0, 1, 2))
    np.testing.assert_allclose(found, jnp.broadcast_to(best, found.shape), rtol=1e-3, atol=1e-3)


@every_model
def test_batch_norm_in_evaluation_looks_at_one_example_alone(name):
    model, batch, state = built(name, (8, 8, 1), 'conv', norm='batch')
    state, key = model.step(state, batch, keys(1)[0])[0], keys(1)[0]
    others = Batch(batch.x.at[1:].set(data((8, 8, 1), 5).x[1:]))
    a, b = (model.evaluate(state, x, key) for x in (batch, others))
    close(jax.tree.map(lambda m: m[0], a), jax.tree.map(lambda m: m[0], b), rtol=1e-6)
    assert not equal(a, b)
    if model.encode:
        z, same = (model.encode(state, x)[0] for x in (batch.x, others.x))
        np.testing.assert_allclose(z, same, rtol=1e-6)


def single(linear, norm):
    return nets.net(nets.Block(linear, norm, nets.identity))


def test_batch_norm_uses_the_batch_in_training_and_running_statistics_after():
    net = single(nets.dense(4), 'batch')
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 5))
    params, buffers = net.init(jax.random.key(1), x)
    train = quick(net.train)
    y, once = train(params, buffers, x)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-2)
    before = jnp.abs(net.apply(params, once, x) - y).max()
    for _ in range(80):
        buffers = train(params, buffers, x)[1]
    np.testing.assert_allclose(net.apply(params, buffers, x), y, atol=1e-2)
    assert before > .3, 'one batch must not replace the running statistics'


def test_group_norm_makes_eight_groups_of_an_example_standard():
    net = single(nets.dense(48), 'group')
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (N, 5))
    y = net.apply(*net.init(jax.random.key(1), x), x).reshape(N, 8, 6)
    np.testing.assert_allclose(y.mean(2), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(2), 1, atol=1e-2)


def matrix(net, params, buffers, size, channels):
    """The linear map of a one-layer net as the matrix that spectral normalisation sees."""
    if size is None:
        return net.apply(params, buffers, jnp.eye(channels))
    x = jnp.zeros((channels, 5, 5, channels)).at[jnp.arange(channels), 2, 2,
                                                 jnp.arange(channels)].set(1)
    y = net.apply(params, buffers, x)[:, 1:4, 1:4]
    return y.reshape(-1, y.shape[-1])


@pytest.mark.parametrize('linear, size', [(nets.dense(7), None),
                                          (nets.convolve(ops.conv, 3, 4), 5)],
                         ids=nets.KINDS)
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


def test_the_sigmoid_goes_with_data_in_0_1_alone():
    x = 4 * jax.random.normal(jax.random.key(0), (N, 13))
    for name in NAMES:
        model = make(name, x, kind='mlp', likelihood='gaussian')
        state = quick(model.init)(jax.random.key(0), Batch(x))
        made = quick(model.decode)(state, 9 * code(model, state, Batch(x)))
        assert made.min() < 0 or made.max() > 1, name
    assert not losses.in_unit(x)
