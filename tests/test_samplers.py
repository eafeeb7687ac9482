"""Densities fitted to codes: known Gaussians are recovered, flows are normalised, AEs generate."""
import importlib

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from scipy import stats
from sklearn.datasets import make_moons

from conftest import snapshot, thorough
from gen_jax import losses, samplers
from gen_jax.game import game
from gen_jax.types import BadInput, Batch, Density, Model, Player

KEY = jax.random.key(0)
WEIGHT, CENTRE = np.array([.3, .7]), np.array([[-3., 10.], [3., 11.]])
WITHIN = np.array([[.25, .2], [.2, .25]])


def two_modes(n, seed=0):
    """Samples of two correlated Gaussians, (n, 2)."""
    rng = np.random.default_rng(seed)
    mode = rng.choice(2, n, p=WEIGHT)
    return np.float32(CENTRE[mode] + rng.multivariate_normal([0, 0], WITHIN, n))


def moons(seed):
    x = make_moons(2000, noise=.1, random_state=seed)[0]
    return np.float32((x - [.5, .25]) / [.87, .5])


@pytest.fixture
def steps(monkeypatch):
    return lambda n: monkeypatch.setattr(samplers, 'STEPS', n)


@pytest.fixture(scope='module')
def flow():
    """The parameters of a flow fitted to moons, in fewer steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers, 'STEPS', 1000)
        return samplers.trained(samplers.flow_model(2), moons(0), KEY).params['flow']


# Fitted densities


@pytest.mark.parametrize('name, off, between', thorough([
    ('gmm', .04, .005), ('aggregate', .04, .005), ('flow', .15, .06), ('twostage', .2, .06)],
    ('gmm', .04, .005), ('twostage', .2, .06)))
def test_two_gaussians_come_back(name, off, between, steps):
    """Mean and covariance to `off`, in standard deviations of the data; the weights of the modes,
    and the mean and correlation of each; at most `between` of the samples between them.
    """
    steps(1000)
    draw = samplers.fit(name, two_modes(4000), KEY)
    x = np.asarray(draw(jax.random.key(1), 3000))
    assert x.shape == (3000, 2) and x.dtype == np.float32
    mean = WEIGHT @ CENTRE
    cov = WITHIN + (WEIGHT[:, None] * (CENTRE - mean)).T @ (CENTRE - mean)
    sd = np.sqrt(np.diag(cov))
    noise = 4 / 3000 ** .5  # of the samples, in standard deviations
    assert (abs(x.mean(0) - mean) / sd).max() < off + noise
    assert (abs(np.cov(x.T) - cov) / np.outer(sd, sd)).max() < off + 1.5 * noise
    left = x[:, 0] < 0
    assert left.mean() == pytest.approx(.3, abs=.3 * off + .035)
    assert (abs(x[:, 0]) < 1).mean() < between  # 4 standard deviations from either mode
    for part, centre in zip((x[left], x[~left]), CENTRE):
        part = part[abs(part[:, 0] - centre[0]) < 2]
        assert abs(part.mean(0) - centre).max() < off + 4 * .5 / len(part) ** .5
        assert np.corrcoef(part.T)[0, 1] == pytest.approx(.8, abs=.03 + off)


@pytest.mark.full
def test_log_density_of_a_flow_integrates_to_one(flow):
    side = np.linspace(-6, 6, 601, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    p = np.exp(np.asarray(jax.jit(samplers.log_prob)(flow, grid), np.float64))
    assert p.sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=5e-3)


def test_log_density_of_a_flow_is_that_of_the_change_of_variables(flow):
    x = moons(2)[:20]
    u, logdet = samplers.maf(flow, x)
    jacobian = jax.vmap(jax.jacfwd(lambda x: samplers.maf(flow, x[None])[0][0]))(x)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(jacobian)[1], atol=1e-3)
    truth = stats.norm.logpdf(u).sum(1) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(samplers.log_prob(flow, x), truth, atol=1e-3)


@pytest.mark.full
def test_flow_of_three_dimensions_is_inverted_exactly():
    model = samplers.flow_model(3)
    params = model.init(KEY, Batch(jnp.zeros((1, 3)))).params['flow']
    params = jax.tree.map(lambda a: a + .1 * jax.random.normal(KEY, a.shape), params)
    u = jax.random.normal(KEY, (50, 3))
    x = jax.jit(samplers.unmaf)(params, u)
    np.testing.assert_allclose(samplers.maf(params, x)[0], u, atol=2e-3)
    assert abs(x - u).max() > .5


def test_flow_finds_moons_likelier_than_a_gaussian_does(flow):
    x, test = moons(0), moons(1)
    gaussian = stats.multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(test).mean()
    assert float(samplers.log_prob(flow, test).mean()) > gaussian + .5


# Codes of any kind


def deterministic(**fields):
    return Model(None, None, None, encode=lambda state, x: 2 * x, decode=lambda state, z: z / 2,
                 **fields)


def test_codes_without_a_posterior_are_the_encoders():
    x = jnp.arange(6.).reshape(3, 2)
    assert (samplers.codes(deterministic())(None, Batch(x), KEY) == 2 * x).all()


@pytest.mark.parametrize('logvar', [-np.inf, 0.])
def test_aggregate_draws_of_the_posterior(logvar):
    """Without variance these are the training codes, each once; otherwise they lie around them."""
    def posterior(state, batch, key):
        return losses.reparameterise(key, 2 * batch.x, jnp.full(batch.x.shape, logvar)), None

    x = 100 * jax.random.normal(KEY, (50, 2))
    model = deterministic(density=Density(posterior, None, None, None))
    built = samplers.codes(model)(None, Batch(x), KEY)
    samples = samplers.fit('aggregate', built, KEY)(KEY, 50)
    difference = jnp.sort(samples, axis=0) - jnp.sort(2 * x, axis=0)
    assert float(difference.std()) == pytest.approx(np.exp(logvar / 2), abs=.3)
    if logvar < 0:
        assert not difference.any() and (samples != 2 * x).any()
    more = samplers.fit('aggregate', built, KEY)(KEY, 70)
    assert {tuple(z) for z in np.asarray(more)} <= {tuple(z) for z in np.asarray(built)}


@pytest.mark.parametrize('name', thorough(samplers.FITTED, 'gmm', 'aggregate'))
def test_shape_of_the_codes_is_restored(name, steps):
    """Each dimension has its mean and scale; a constant dimension stays constant."""
    steps(40)
    centre = 10. * np.arange(8).reshape(2, 2, 2)
    scale = np.linspace(0, 2, 8).reshape(2, 2, 2)
    x = centre + scale * np.random.default_rng(0).normal(size=(400, 2, 2, 2))
    built = np.asarray(samplers.fit(name, x, KEY)(KEY, 300))
    assert built.shape == (300, 2, 2, 2) and (built[:, 0, 0, 0] == 0).all()
    np.testing.assert_allclose(built.mean(0), centre, atol=1)
    np.testing.assert_allclose(built.std(0), scale, rtol=.5)


@pytest.mark.parametrize('name', thorough(samplers.FITTED, 'gmm'))
def test_samples_are_decided_by_the_keys(name, steps):
    steps(20)
    x = two_modes(200)
    draw = samplers.fit(name, x, KEY)
    one = np.asarray(draw(KEY, 5))
    np.testing.assert_array_equal(one, samplers.fit(name, x, KEY)(KEY, 5))
    assert (one != np.asarray(draw(jax.random.key(1), 5))).any()
    if name in ('flow', 'twostage'):  # they start at random
        assert (one != np.asarray(samplers.fit(name, x, jax.random.key(1))(KEY, 5))).any()


# Errors


@pytest.mark.parametrize('name', samplers.FITTED)
@pytest.mark.parametrize('x', [np.array([[0., 1.], [np.nan, 1.], [2., 3.]]), np.ones((1, 2))])
def test_codes_that_are_not_finite_or_too_few_are_refused(name, x):
    with pytest.raises(BadInput, match=f'{name} needs at least two codes, all finite'):
        samplers.fit(name, x, KEY)


@pytest.mark.parametrize('last', [30, 10_000])
def test_loss_that_is_not_finite_is_refused(last, steps):
    """In training from step `last` on, or only on the held-out codes."""
    steps(100)

    def loss(state, batch, key):
        value = jnp.where(state.step < last, (state.params['mean'] ** 2).sum(), jnp.nan)
        return value, dict(loss=value), {}

    model = game(dict(mean=Player(lambda key, batch: (jnp.ones(2), {}), loss,
                                  samplers.optax.sgd(.1))),
                 evaluate=lambda state, batch, key: dict(
                     loss=jnp.zeros(len(batch.x)) if last < 100 else jnp.full(1, jnp.inf)))
    with pytest.raises(BadInput, match='not finite'):
        samplers.trained(model, two_modes(50), KEY)


@pytest.mark.parametrize('model, sampler, message', [
    ('ae', 'prior', 'model ae has no prior.*gmm, aggregate, flow, twostage'),
    ('cvae', 'gmm', 'gmm cannot.*model cvae has no encoder.*sampler=prior'),
    ('gan', 'flow', 'flow cannot.*model gan has no encoder.*sampler=prior'),
    ('colorize', 'gmm', 'model colorize has codes that are no vectors of real numbers$'),
    ('colorize', 'prior', 'model colorize has no prior to sample, and has codes that are no vec'),
    ('classifier', 'prior', 'model classifier has no prior to sample, and has no decoder'),
    ('infogan', 'gmm', 'gmm cannot.*model infogan has no encoder.*sampler=prior'),
    ('ae', 'gmm', None), ('vae', 'prior', None), ('vae', 'twostage', None), ('gan', 'prior', None),
    ('aae', 'gmm', None), ('bigan', 'flow', None), ('vaegan', 'aggregate', None)])
def test_sampler_that_does_not_fit_the_model_is_refused(model, sampler, message):
    batch = Batch(jax.random.uniform(KEY, (16, 8, 8, 3)), jnp.arange(16) % 2)
    hyper = dict(encoder='scratch') if model == 'classifier' else {}
    built = importlib.import_module(f'gen_jax.models.{model}').make(batch, **hyper)
    args = sampler, model, built, jax.eval_shape(built.init, KEY, batch), batch
    if message is None:
        samplers.require(*args)
    else:
        with pytest.raises(BadInput, match=message):
            samplers.require(*args)


# The command line


@pytest.fixture(scope='module')
def trained(run_main, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('runs') / 'ae'
    flags = ('--config=configs/ae.py', '--config.net.name=mlp', '--config.model.latent=4',
             '--config.net.width=(16,)', '--config.epochs=2', '--config.eval.samples=9',
             f'--workdir={workdir}')
    result = run_main(*flags)
    assert (result.code, result.err) == (0, ''), result
    return workdir, flags


@pytest.mark.full
def test_autoencoder_generates_by_a_mixture_and_nothing_else_changes(run_main, trained):
    workdir, flags = trained
    before, file = snapshot(workdir), workdir / 'images' / 'samples-gmm.png'
    result = run_main(*flags, '--mode=sample', '--config.sampler=gmm')
    assert (result.code, result.err) == (0, ''), result
    assert result.out.splitlines()[1:] == [f'pictures: {file}']
    after = snapshot(workdir)
    del after['images/samples-gmm.png']
    assert after == before
    with Image.open(file) as image:
        grey = np.asarray(image.convert('L'))
    assert grey[len(grey) // 4:-len(grey) // 4].std() > 5


@pytest.mark.parametrize('sampler, message', [
    ('prior', ['model ae has no prior', 'gmm']), ('gnm', ["'gnm'", "did you mean 'gmm'?"])])
def test_sampler_that_cannot_be_is_refused_in_one_line(run_main, trained, sampler, message):
    workdir, flags = trained
    before = snapshot(workdir)
    result = run_main(*flags, '--mode=sample', f'--config.sampler={sampler}')
    assert result.code == 1 and result.err.startswith('gen_jax: ')
    assert len(result.err.splitlines()) == 1 and all(word in result.err for word in message), result
    assert snapshot(workdir) == before
