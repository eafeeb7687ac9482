"""Every file of gen_jax/nets has the interface of a net, learns, and works in configs and sweeps;
also the tests of the parts of a model. A new net is tested without further code.
"""
import inspect

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import quick, thorough
from gen_jax import adversarial, latents, nets, optimisers, parts, train
from gen_jax.models import ae, gan, vae
from gen_jax.types import BadInput, Batch

# small values of the keys of nets, and other values that must make a difference
SMALL = dict(width=(6, 4), hidden=8, depth=1, heads=2, up=1, patch=3)
OTHER = dict(width=(5, 3), hidden=7, depth=2, heads=1, up=0, patch=2, norm='group',
             activation='tanh')
SHAPES = (8, 8, 1), (7, 9, 3)
every_net = pytest.mark.parametrize('name', nets.NAMES)


def keys_of(name, values=SMALL):
    known = nets.make(name).spec.keys
    result = {k: v for k, v in values.items() if k in known}
    if isinstance(known.get('width'), int):
        result['width'] = 2 * result['width'][0]
    return result


def small(name, **keys):
    return nets.make(name, **keys_of(name) | keys)


def pictures(shape, n=6, seed=0):
    return jnp.float32(np.random.default_rng(seed).uniform(size=(n, *shape)))


def shapes(net, x, latent):
    """Of codes and examples, through both nets."""
    encoder = net.encoder(x.shape[1:], latent)
    code = jax.eval_shape(lambda key: encoder.apply(*encoder.init(key, x), x), jax.random.key(0))
    decoder = net.decoder(x, latent, nets.identity, 0)
    built = jax.eval_shape(lambda key, z: decoder.apply(*decoder.init(key, z), z),
                           jax.random.key(0), code)
    return code.shape, built.shape


@pytest.mark.parametrize('shape', SHAPES)
@every_net
def test_codes_have_their_size_and_examples_their_shape(name, shape):
    x, net = pictures(shape), small(name)
    assert shapes(net, x, 5) == ((6, 5), x.shape)
    if net.images_only and name != 'rae':  # rae's decoder begins with another shape
        features, built = shapes(net, x, None)
        assert built == x.shape and features[0] == 6


@pytest.mark.parametrize('name', thorough(nets.NAMES, 'conv'))
def test_every_key_makes_a_difference_and_no_other_is_taken(name):
    """A key changes the shapes of the parameters, or the output for the same parameters."""
    x = pictures((8, 8, 1))

    def built(net):
        encoder, decoder = net.encoder(x.shape[1:], 5), net.decoder(x, 5, nets.identity, 0)

        def run(key):
            state = encoder.init(key, x)
            z = encoder.apply(*state, x)
            other = decoder.init(key, z)
            return state, other, z, decoder.apply(*other, z)
        return run

    key, before = jax.random.key(0), built(small(name))
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(before, key))
    for word, value in keys_of(name, OTHER).items():
        if (name, word) in (('linear', 'norm'), ('recurrent', 'norm')):
            continue  # they have no norm, and reject the key
        after = built(small(name, **{word: value}))
        if jax.tree.map(jnp.shape, jax.eval_shape(after, key)) == shapes:
            assert not np.allclose(*(quick(f)(key)[2] for f in (before, after))), word
    with pytest.raises(BadInput, match=f"net '{name}' has no breadth; it has "):
        nets.make(name, breadth=3)


@pytest.mark.parametrize('name', thorough(nets.NAMES, 'mlp'))
def test_every_net_learns_four_patterns(name):
    """Left, right, top and bottom half, by an autoencoder with four latent dimensions."""
    i, j = np.mgrid[:8, :8]
    x = jnp.float32(np.stack([j < 4, j >= 4, i < 4, i >= 4])[..., None])
    width = dict(width=32 if isinstance(nets.make(name).spec.keys.get('width'), int) else (16, 16))
    net = small(name, **width if 'width' in nets.make(name).spec.keys else {})
    model = ae.make(Batch(x), latent=4, net=net, optimiser=optimisers.make(learning_rate=3e-3))

    @jax.jit
    def run():
        start = model.init(jax.random.key(0), Batch(x))
        end, _ = lax.scan(lambda s, k: model.step(s, Batch(x), k), start,
                          jax.random.split(jax.random.key(1), 600))
        return [((model.decode(s, model.encode(s, x)) - x) ** 2).mean() for s in (start, end)]

    before, after = run()
    assert before > .2 and after < .01


@pytest.mark.full
@pytest.mark.parametrize('name', nets.NAMES)
def test_every_net_is_a_vaes_and_a_gans(name):
    batch = Batch(pictures((8, 8, 1)), jnp.arange(6) % 2)
    discriminator = small(name)
    models = dict(vae=vae.make(batch, latent=3, net=small(name)),
                  gan=gan.make(batch, latent=3, net=small(name), discriminator_net=discriminator))
    for model in models.values():
        state = quick(model.init)(jax.random.key(0), batch)
        after, metrics = quick(model.step)(state, batch, jax.random.key(1))
        built = quick(model.decode)(after, model.prior(after, jax.random.key(2), 4))
        assert built.shape == (4, 8, 8, 1) and np.isfinite(built).all()
        assert np.isfinite(jax.tree.leaves(metrics)).all()
        for player, params in state.params.items():
            still = [a.shape for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(
                after.params[player])) if np.array_equal(a, b)]
            assert not still, (player, still)


def count(net, x, out):
    encoder = net.encoder(x.shape[1:], out)
    params, _ = jax.eval_shape(encoder.init, jax.random.key(0), x)
    return sum(a.size for a in jax.tree.leaves(params))


def test_the_nets_of_papers_have_their_numbers_of_parameters():
    """Counted by hand from the tables of the papers: kernels, biases, and two numbers per channel
    of a norm.
    """
    x = jnp.zeros((1, 64, 64, 1))
    lib = (16 * 32 + 32, 16 * 32 * 32 + 32, 4 * 32 * 64 + 64, 4 * 64 * 64 + 64,
           4 * 4 * 64 * 256 + 256, 256 * 20 + 20)
    assert count(nets.make('disentangle'), x, 20) == sum(lib)
    x = jnp.zeros((1, 32, 32, 3))
    widths = 3, 128, 256, 512, 1024
    rae = sum(16 * a * b + 2 * b for a, b in zip(widths, widths[1:])) + 2 * 2 * 1024 * 16 + 16
    assert count(nets.make('rae'), x, 16) == rae
    pairs = (9, 3, 64), (16, 64, 64), (9, 64, 128), (16, 128, 128), (9, 128, 256), (
        16, 256, 256), (9, 256, 512)
    sn = sum(k * a * b + b for k, a, b in pairs) + 4 * 4 * 512 + 1
    assert count(nets.make('sndcgan'), x, 1) == sn
    vit = nets.make('vit', patch=8, width=32, depth=3, heads=4)
    block = 4 * (32 * 32 + 32) + 32 * 128 + 128 + 128 * 32 + 32 + 4 * 32
    assert count(vit, x, 7) == 8 * 8 * 3 * 32 + 32 + 16 * 32 + 3 * block + 2 * 32 + 16 * 32 * 7 + 7


def test_patches_are_the_pixels_of_the_image():
    x = jnp.arange(2 * 4 * 6 * 2.).reshape(2, 4, 6, 2)
    from gen_jax.nets.vit import Patches, Unpatch
    built = Patches(2).apply({}, x, False)
    assert built.shape == (2, 2, 3, 8)
    np.testing.assert_array_equal(built[1, 1, 2], np.asarray(x)[1, 2:4, 4:6].ravel())
    np.testing.assert_array_equal(Unpatch(2).apply({}, built, False), x)


def test_attention_depends_on_every_patch_and_their_order():
    """A distant pixel changes every token, and exchanging two patches changes the code."""
    net = nets.make('vit', patch=2, width=8, depth=1, heads=2)
    encoder, x = net.encoder((4, 6, 1), None), pictures((4, 6, 1), 1)
    params = quick(encoder.init)(jax.random.key(0), x)
    apply = quick(lambda x: encoder.apply(*params, x))
    difference = abs(apply(x.at[0, 0, 0].add(1)) - apply(x)).max(-1)
    assert (difference > 1e-6).all()
    exchanged = x.at[0, :2, :2].set(x[0, 2:, 4:]).at[0, 2:, 4:].set(x[0, :2, :2])
    assert abs(apply(exchanged).sum((1, 2)) - apply(x).sum((1, 2))).max() > 1e-4


# Parts


PARTS = dict(net=nets.make('mlp'), latents=latents.make(), optimiser=optimisers.make(),
             discriminator=adversarial.make())


@pytest.mark.parametrize('group', PARTS)
def test_a_part_is_rebuilt_from_its_keys(group):
    part = PARTS[group]
    again = parts.replace(part)
    assert again.spec.keys == part.spec.keys and type(again) is type(part)
    signature = inspect.signature(part.spec.make)
    if 'name' not in part.spec.keys:
        assert list(signature.parameters) == list(part.spec.keys)
    with pytest.raises(BadInput, match='there is no depht among'):
        parts.replace(part, depht=1)


def test_a_net_of_another_name_has_other_defaults():
    conv = parts.replace(nets.make('mlp', width=(7,), norm='batch'), name='conv')
    assert conv.spec.keys == nets.make('conv').spec.keys
    same = parts.replace(nets.make('mlp', width=(7,), norm='batch'), name='mlp', activation='tanh')
    assert same.spec.keys == dict(name='mlp', width=(7,), norm='batch', activation='tanh')


def test_a_config_is_a_complete_list_of_defaults():
    config = train.defaults('gan', 'digits', net=dict(name='vit', depth=3))
    assert config.net.to_dict() == dict(name='vit', patch=4, width=64, depth=3, heads=4)
    for group, part in parts.find_parts(gan.make).items():
        if group != 'net':
            assert config[group].to_dict() == dict(part.spec.keys)


# Optimisers


def updates(built, grads):
    """The parameter, initially 1, after each of the gradients."""
    params, result = jnp.float32(1), []
    state = built.init(params)
    for g in grads:
        step, state = built.update(jnp.float32(g), state, params)
        params += step
        result.append(float(params))
    return result


def adam(grads, learning_rate=lambda t: .1, b1=.9, b2=.999, eps=1e-8, decay=0., clip=np.inf):
    """Algorithm 1 of Kingma & Ba in NumPy, with decoupled weight decay."""
    m = v = 0.
    x, result = 1., []
    for t, g in enumerate(grads):
        g = g if abs(g) < clip else np.sign(g) * clip
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        update = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        x -= learning_rate(t) * (update + decay * x)
        result.append(x)
    return result


GRADS = 1., -.3, 2., .1, 0., -4., .5, .5


@pytest.mark.parametrize('keys, truth', [
    ({}, {}), (dict(b1=.5, b2=.9, eps=1e-2), dict(b1=.5, b2=.9, eps=1e-2)),
    (dict(weight_decay=.2), dict(decay=.2)), (dict(clip_norm=.6), dict(clip=.6)),
    (dict(schedule='cosine', schedule_steps=5),
     dict(learning_rate=lambda t: .1 * (1 + np.cos(np.pi * min(t, 5) / 5)) / 2)),
    (dict(schedule='staged', schedule_steps=1),  # stage i lasts 3^i steps
     dict(learning_rate=lambda t: .1 * 10 ** (-(0 if t < 1 else 1 if t < 4 else 2) / 7)))])
def test_adam_is_the_papers(keys, truth):
    result = updates(optimisers.make(learning_rate=.1, **keys), GRADS)
    np.testing.assert_allclose(result, adam(GRADS, **truth), rtol=1e-5)


def test_a_traced_clip_of_0_is_none():
    run = jax.jit(lambda clip: updates_traced(clip))
    np.testing.assert_allclose(run(0.), adam(GRADS)[-1], rtol=1e-5)
    np.testing.assert_allclose(run(.6), adam(GRADS, clip=.6)[-1], rtol=1e-5)


def updates_traced(clip):
    built, params = optimisers.make(learning_rate=.1, clip_norm=clip), jnp.float32(1)
    state = built.init(params)
    for g in GRADS:
        step, state = built.update(jnp.float32(g), state, params)
        params += step
    return params


@pytest.mark.parametrize('bad, message', [
    (dict(name='adamw'), "unknown optimiser 'adamw'"), (dict(schedule='step'), 'constant, cosine'),
    (dict(schedule='cosine'), 'positive number'), (dict(schedule_steps=9), 'constant has 0 steps'),
    (dict(ema_decay=1.), 'less than 1')])
def test_optimisers_that_cannot_be_are_refused(bad, message):
    with pytest.raises(BadInput, match=message):
        optimisers.make(**bad)
