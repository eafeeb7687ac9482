"""The errors of the functions of a loaded model for invalid arguments, and that valid ones pass."""
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import defaults
from gen_jax import checkpoint, record, train
from gen_jax.types import BadInput

SMALL = dict(vae=dict(width=(8, ), latent=3), gan=dict(kind='mlp', width=(8, ), latent=3), ae=dict(
    kind='mlp', width=(8, ), latent=3), cvae=dict(width=(8, ), latent=3), ladder=dict(
        width=(8, ), latent=3, bottom_latent=4, top=(8, )), text=dict(width=8, latent=3), vq=dict(
            width=(4, ), latent=3, codebook_size=8, prior_width=8), colorize=dict(
                width=(4, ), latent=3), classifier=dict(encoder='scratch', kind='mlp', width=(8, )),
             aae=dict(width=(8, ), latent=3, discriminator_width=(8, ), conditional=True))


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    """(model, data set) -> (run, state) of a run that was saved before its first step."""
    built = {}

    def get(name, dataset='digits', size=0):
        if (name, dataset) not in built:
            workdir = tmp_path_factory.mktemp('loaded')
            config = defaults(name, dataset, **SMALL[name])
            config.data.size, config.eval.best = size, ''
            if dataset in ('breast_cancer', 'ring') and 'latents' in config:
                config.latents.likelihood = 'gaussian'
            run = train.prepare(config)
            record.write_json(workdir / 'config.json', json.loads(run.config.to_json()))
            with checkpoint.manager(workdir / 'checkpoints') as saves:
                checkpoint.save(saves, run.state, {})
            built[name, dataset] = train.load(str(workdir))
        return built[name, dataset]
    return get


def examples(run, n=4):
    return np.asarray(train.test_examples(run.data, n, run.key).x)


def refused(f, *args):
    """The error message of f for these arguments."""
    with pytest.raises(BadInput) as raised:
        f(*args)
    assert '\n' not in str(raised.value)
    return str(raised.value)


def test_encode_and_decode_say_what_they_take(loaded):
    run, state = loaded('vae')
    encode, decode, x = run.model.encode, run.model.decode, examples(run)
    for argument, problem in [
            (np.uint8(255 * x), 'uint8 (4, 8, 8, 1): divide 0..255 by 255'),
            (x[0], 'one example, float32 (8, 8, 1): give it the axis of examples, by [None]'),
            (x[:, 1:], 'float32 (4, 7, 8, 1)'),
            (255 * x, 'from 0 to 255: bring them to that range'),
            (2 * x - 1, 'from -1 to 1: bring them to that range'),
            (np.where(x > .5, np.nan, x), 'from nan to nan: bring them to that range'),
            (x > .5, 'bool (4, 8, 8, 1): use .astype("float32")'),
            (x.tolist(), 'list')]:
        assert refused(encode, state, argument) == 'encode of vae takes float32 (n, 8, 8, 1) of ' \
                                                f'values from 0 to 1, not {problem}'
    z = encode(state, x)
    assert z.shape == (4, 3) and np.isfinite(z).all()
    close_to = x + .1 * jax.random.normal(run.key, x.shape)  # noisy examples are valid
    assert encode(state, close_to).shape == (4, 3)
    for argument, problem in [(z[:, :2], 'float32 (4, 2)'), (jnp.int32(z), 'int32 (4, 3): '
                           'use .astype("float32")'),
                              (z[0], 'one example, float32 (3,): give it the axis of examples, by '
                               '[None]'), ((z, z), 'tuple')]:
        assert refused(decode, state,
                       argument) == f'decode of vae takes float32 (n, 3), not {problem}'
    np.testing.assert_array_equal(decode(state, np.float64(z)), decode(state, z))


def test_under_jit_shapes_and_types_are_checked(loaded):
    run, state = loaded('vae')
    x = examples(run)
    encode = jax.jit(run.model.encode)
    assert refused(encode, state, np.uint8(x)).endswith('uint8 (4, 8, 8, 1): divide 0..255 by 255')
    np.testing.assert_allclose(encode(state, x), run.model.encode(state, x), rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_a_missing_map_says_so_and_is_false(loaded):
    run, state = loaded('gan')
    batch = train.test_examples(run.data, 2, run.key)
    assert not run.model.encode and not run.model.show and not run.model.classify
    message = 'model gan has no encode, only decode, prior'
    assert refused(run.model.encode, state, batch.x) == message
    assert refused(train.reconstruction_rows, run, state, batch) == message
    assert refused(train.samples, run, state, 'gmm', 4) == message
    assert not train.can_reconstruct(run.model)
    assert train.samples(run, state, 'prior', 4).shape == (4, 8, 8, 1)


@pytest.mark.full
def test_prior_and_samplers_say_what_they_take(loaded):
    run, state = loaded('vae')
    for key, n, problem in [(0, 4, 'a key, as jax.random.key(0), not int'),
                            (run.key, 0, 'a number of codes, at least 1, not 0'),
                            (run.key, 2.5, 'a number of codes, at least 1, not 2.5')]:
        assert refused(run.model.prior, state, key, n) == f'prior of vae takes {problem}'
    assert run.model.prior(state, run.key, np.int64(2)).shape == (2, 3)
    assert refused(train.samples, run, state, 'gm', 4).startswith(
        "unknown sampler 'gm'; there are prior, gmm, ")


@pytest.mark.full
@pytest.mark.parametrize('name, dataset, takes', [
    ('ae', 'breast_cancer', 'float32 (n, 3)'), ('vae', 'ring', 'float32 (n, 3)'),
    ('cvae', 'digits', '(float32 (n, 3), int32 (n,))'),
    ('aae', 'digits', '(float32 (n, 3), int32 (n,))'),
    ('ladder', 'digits', '{z1: float32 (n, 4), z2: float32 (n, 3)}'),
    ('vq', 'digits', 'int32 (n, 16)'), ('text', 'text', 'float32 (n, 3)'),
    ('colorize', 'photos', '{features: float32 (n, 3), luma: float32 (n, 8, 8)}')])
def test_every_kind_of_code_and_example_is_taken(loaded, name, dataset, takes):
    """Codes of the model and examples of its data are valid; codes of twice the size are not."""
    run, state = loaded(name, dataset, 8 if dataset in ('text', 'photos') else 0)
    model, x = run.model, examples(run)
    z = model.encode(state, x) if model.encode else model.prior(state, run.key, 4)
    if model.prior and model.encode:
        assert jax.tree.structure(model.prior(state, run.key, 4)) == jax.tree.structure(z)
    built = model.decode(state, z)
    assert built.shape == x.shape and np.isfinite(built).all()
    wrong = jax.tree.map(lambda a: jnp.concatenate([a, a], -1), z)
    assert refused(model.decode, state, wrong).startswith(f'decode of {name} takes {takes}, not ')


@pytest.mark.full
@pytest.mark.parametrize('name, dataset, change, problem', [
    ('ae', 'breast_cancer', lambda x: np.int32(x), 'float32 (n, 30), not int32 (4, 30): use '),
    ('text', 'text', lambda x: x + 90, 'int32 (n, 8) of values from 0 to 95, not from '),
    ('text', 'text', lambda x: np.float32(x), 'not float32 (4, 8): use .astype("int32")'),
    ('classifier', 'digits', lambda x: 255 * x, 'of values from 0 to 1, not from 0 to 255')])
def test_data_of_every_kind_has_its_range(loaded, name, dataset, change, problem):
    run, state = loaded(name, dataset, 8 if dataset == 'text' else 0)
    maps = [run.model.encode] + [run.model.classify] * (name == 'classifier')
    for f in maps:
        assert problem in refused(f, state, change(examples(run)))
    if name == 'ae':  # nothing bounds standardised vectors
        assert run.model.encode(state, 1e4 * examples(run)).shape == (4, 3)


@pytest.mark.full
def test_parts_of_a_code_belong_together(loaded):
    run, state = loaded('cvae')
    z, label = run.model.prior(state, run.key, 4)
    assert refused(run.model.decode, state, (z, label[:3])).endswith(
        'not parts of 4 and 3 examples')
    assert re.search(r'not list$', refused(run.model.decode, state, [z, label]))
