"""Eight devices give the results of one. A child process with eight virtual CPU devices computes,
and this file compares. `python test_parallel.py FOLDER` is the child.
"""
import contextlib
import functools
import json
import os
from pathlib import Path
import subprocess
import sys
import traceback
from unittest import mock

import numpy as np
import pytest

from conftest import defaults, quick, takes, thorough, virtual_devices
import test_streaming

DEVICES, STEPS, BATCH = 8, 3, 64
EIGHT = virtual_devices(DEVICES)
MODES = 'jit', 'shard_map', 'pmap'
# Under jit XLA itself divides the program, whatever the model: these have averages over the batch,
# batch statistics, integer examples, labels that choose a decoder, and buffers of another player.
DIVIDED = 'vae', 'gan', 'tcvae', 'vq', 'deepfake', 'text', 'classifier'
NOISY = 'vae', 'gan', 'deepfake', 'text'  # with noise, two players, or special codes or batches
SAVED = [('ae', 'jit'), ('vae', 'shard_map'), ('gan', 'pmap'), ('classifier', 'pmap'),
         ('deepfake', 'shard_map'), ('vae', 'fsdp')]
CONVOLUTIONS = 'ae', 'gan', 'vq'
WIDE = dict(kind='mlp', width=(64,), latent=8)  # large enough to split
FSDP = dict(ae=dict(norm='group'), vae=dict(norm='batch'), gan=dict(norm='spectral', ema_decay=.9))
NOISELESS = [('ae', 'none', 'mlp'), ('ae', 'group', 'mlp'), ('contractive', 'none', 'mlp')]
GANS = {
    norm: dict(norm=norm, kind='mlp', width=(8,)) for norm in ('batch', 'spectral')
} | {
    'options': dict(norm='none', loss='relativistic_average', penalty='gradient', packing=2,
                    augment='colour,cutout', instance_noise=.1, update_order='simultaneous',
                    discriminator_steps=2)
}
DATA = dict(colorize=dict(name='photos', size=8),
            text=dict(name='text', size=8),
            deepfake=dict(name='digits', identities=(3, 5)))

EVERY_DAY = ('vae-noise', 'vae-fsdp', 'init-sharded', 'share',
             'ae-none-mlp')  # what the child computes when no test marked full runs


# The child


def config_of(name, mode='jit', **hyper):
    """A small model of that name; hyper-parameters that its `make` does not have are left out."""
    few = {} if name in CONVOLUTIONS else dict(kind='mlp', width=(8,))
    few |= {} if mode in ('jit',
                          'fsdp') else dict(alignment_weight=0.)  # deepfake's needs the full batch
    hyper = dict(width=(4, 6), latent=5, encoder='scratch') | few | hyper
    if name == 'text':
        hyper['width'] = hyper['width'][0]
    config = defaults(name, 'digits', **{k: v for k, v in hyper.items() if takes(name, k, v)})
    config.data.update(dict(limit=STEPS * BATCH) | DATA.get(name, {}))
    config.batch_size, config.parallel = BATCH, mode
    config.eval.batch_size, config.eval.best = 100, ''
    return config


def by_path(tree):
    import jax
    return {jax.tree_util.keystr(path): np.array(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def by_itself(run, steps):
    """The arrays after `steps` steps and evaluation on one device, without gen_jax.parallel."""
    import jax
    from gen_jax import loop, train
    config, size, first = run.config, len(run.data.train.x), jax.devices()[:1]
    model = train.maker(config, run.known, run.layout)(axis=None)
    state, data, test = jax.device_put(jax.tree.map(np.array, (run.state, run.data.train,
                                                               run.data.test)), first[0])
    chunk = loop.training(model, run.data.prepare, size, config.batch_size, steps)
    evaluation = loop.evaluation(model.evaluate, run.data.prepare, len(test.x),
                                 min(config.eval.batch_size, len(test.x)))

    @jax.jit
    def both(state, data, test, key):
        state, metrics, _ = chunk(state, data, key)
        return state, metrics, evaluation(state, test, key)

    state, metrics, tested = both(state, data, test, run.key)
    assert state.step.devices() == set(first)
    return by_path(dict(state=state._asdict(), train=metrics, test=tested))


def joint(trainer, evaluate, steps):
    """The state and the arrays after the same steps on all devices, by the layout of the config."""
    import jax
    sizes = [leaf.size for leaf in jax.tree.leaves(trainer.run.state)]
    state, metrics, bad = trainer.call(trainer.run.state, steps)
    used = trainer.compiled[steps].memory_analysis()
    assert int(bad) == -1
    tested = {}
    for name, value in evaluate(state).items():
        tested.setdefault(name.split('/')[1], []).append(value)
    return state, by_path(dict(state=state._asdict(), train=metrics)) | {
        f"['test']['{k}']": np.array(v if len(v) > 1 else v[0]) for k, v in tested.items()
    } | dict(devices=np.array(len(state.step.devices())), replicas=np.array(spread(state)),
             sizes=np.array(sizes), device_share=device_share(state),
             at_once=np.array(trainer.feed.at_once if trainer.feed else 0), bytes=np.array(
                 used.argument_size_in_bytes + used.temp_size_in_bytes))


def spread(state):
    """The number of arrays of a state that are not bitwise equal on all devices that hold the same
    part of them.
    """
    import jax
    return sum(len({(str(s.index), np.asarray(s.data).tobytes()) for s in leaf.addressable_shards})
               > len({str(s.index) for s in leaf.addressable_shards})
               for leaf in jax.tree.leaves(state))


def device_share(state):
    """The share of each array of a state that one device holds."""
    import jax
    return np.array([leaf.addressable_shards[0].data.size / max(leaf.size, 1)
                     for leaf in jax.tree.leaves(state)])


def initial():
    """A wide state initialised under fsdp, without copying any array to the devices."""
    import jax
    from gen_jax import train
    run = train.prepare(config_of('vae', 'fsdp', **WIDE))
    args = run.layout.place((run.key, train.example_batch(run.data, run.key)))
    with mock.patch.multiple(jax, device_put=None, make_array_from_callback=None):
        return dict(device_share=device_share(run.layout.init_sharded(run.model.init, *args)))


def saved(trainer, evaluate, state, folder):
    """Trains, evaluates and saves an epoch; trains the next from memory and from disk, and compares
    them bitwise.
    """
    import jax
    from gen_jax import checkpoint
    like = jax.tree.map(lambda a: jax.device_put(np.array(a), a.sharding), state)
    state, named = trainer.epoch(state)
    step, tested = int(state.step), evaluate(state)
    with checkpoint.manager(folder) as saves:
        checkpoint.save(saves, state, tested)
        state, later = trainer.epoch(state)
    restored = checkpoint.restore(folder, like)
    assert int(restored.step) == step and (device_share(restored) == device_share(like)).all()
    again, relater = trainer.epoch(restored)
    one, other = by_path(state._asdict()), by_path(again._asdict())
    assert later == relater
    return dict(differ=np.array(sum(one[k].tobytes() != other[k].tobytes() for k in one)),
                finite=np.isfinite(list((named | tested | later).values())),
                replicas=np.array(spread(again)), device_share=device_share(again))


def streamed(folder, mode, limit):
    """A VAE with wide layers on a stored set, which is streamed, two steps a call, where it is
    larger than the limit.
    """
    config = config_of('vae', mode, **WIDE)
    config.data.update(name='tiny', dir=str(folder), memory_limit=limit, limit=0)
    return config


def shared(mode):
    """The rows of a batch that each device takes, and its key."""
    import jax
    from jax import lax
    from gen_jax import parallel
    layout = parallel.layout(mode, BATCH)

    def run(state, data, key):
        rows, key = layout.share(state, key)
        gather = functools.partial(lax.all_gather, axis_name=layout.axis)
        return dict(rows=gather(rows), keys=gather(jax.random.key_data(key)))

    rows, key = layout.place((np.arange(BATCH), jax.random.key(0)))
    return {k: np.array(v) for k, v in layout.compile(run, ())(rows, rows, key).items()}


def child(folder, labels):
    import jax
    from gen_jax import train
    assert jax.device_count() == DEVICES

    @contextlib.contextmanager
    def saving(*labels):
        """A dictionary for the arrays of each label, which are saved at the end. An error of one
        label does not stop the others.
        """
        values = {}
        try:
            yield values
            for label in labels:
                np.savez(folder / f'{label}.npz', **values[label])
        except Exception:
            for label in labels:
                (folder / f'{label}.txt').write_text(traceback.format_exc())

    def compute(name, what, config, steps=STEPS, single=False, save=False):
        """NAME-WHAT-MODE, and on request NAME-WHAT-single and NAME-WHAT-MODE-saved."""
        one, many = f'{name}-{what}-single', f'{name}-{what}-{config.parallel}'
        again = f'{many}-saved'
        if not many.startswith(labels):
            return
        with saving(many, *[one] * single, *[again] * save) as values:
            run = train.prepare(config)
            trainer, evaluate = train.Trainer(run), train.evaluator(run)
            if single:
                values[one] = by_itself(run, steps)
            state, values[many] = joint(trainer, evaluate, steps)
            if save:
                values[again] = saved(trainer, evaluate, state, folder / again)

    for name in dict.fromkeys((*DIVIDED, *(name for name, _ in SAVED))):
        if name in DIVIDED:
            compute(name, 'default', config_of(name), single=True)
        for mode in MODES:
            noisy, save = mode != 'jit' and name in NOISY, (name, mode) in SAVED
            if noisy or save:
                compute(name, 'noise', config_of(name, mode, norm='batch', kind='mlp', width=(8,)),
                        save=save)
    if 'init-sharded'.startswith(labels):
        with saving('init-sharded') as values:
            values['init-sharded'] = initial()
    for name, hyper in FSDP.items():
        for mode in 'jit', 'fsdp':
            compute(name, 'fsdp', config_of(name, mode, **WIDE, **hyper), single=mode == 'jit',
                    save=(name, mode) in SAVED)
    tiny = test_streaming.store(folder / 'stored', counts=(1000, 700))
    compute('vae', 'streamed', streamed(tiny, 'jit', 9.), single=True)
    compute('vae', 'streamed', streamed(tiny, 'fsdp', .042), save=True)
    for what, hyper in GANS.items():
        compute('gan', what, config_of('gan', **hyper), single=True)
    for mode in 'shard_map', 'pmap':
        if f'share-{mode}'.startswith(labels):
            with saving(f'share-{mode}') as values:
                values[f'share-{mode}'] = shared(mode)
    for name, norm, kind in NOISELESS:
        for mode in 'jit', 'shard_map', 'pmap':
            compute(name, f'{norm}-{kind}', config_of(name, mode, norm=norm, kind=kind), steps=1,
                    single=mode == 'jit')


# The comparison


@pytest.fixture(scope='module')
def results(request, environment, tmp_path_factory):
    """label -> the arrays that the child computed."""
    folder = tmp_path_factory.mktemp('eight')
    every = any(item.get_closest_marker('full') for item in request.session.items
                if 'results' in item.fixturenames)
    done = subprocess.run([sys.executable, __file__, str(folder), *(() if every else EVERY_DAY)],
                          env=environment | EIGHT, capture_output=True,
                          text=True, timeout=1800, check=False)

    def get(label):
        failed = folder / f'{label}.txt'
        assert not failed.exists(), failed.read_text()
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(np.load(folder / f'{label}.npz'))
    return get


def part(arrays, *starts):
    return {k: v for k, v in arrays.items() if k.startswith(starts)}


STATE, METRICS = "['state']", ("['train']", "['test']")
MOMENTS = "['state']['opt']"


def close(one, other, rtol, atol):
    assert one and one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], rtol=rtol, atol=atol, err_msg=path)


def equals_one_device(shared, single, atol=1e-5, state=2e-5):
    assert int(shared['devices']) == DEVICES and int(shared['replicas']) == 0
    close(part(shared, *METRICS), part(single, *METRICS), rtol=1e-4, atol=atol)
    close(part(shared, STATE), part(single, STATE), rtol=1e-3, atol=state)


@pytest.mark.parametrize('name', thorough(DIVIDED))
def test_jit_over_eight_devices_equals_one(results, name):
    differences = dict(tcvae=1e-4)  # small differences of log densities of tens of nats
    # one of 8,192 gradients of its prior is so small that Adam, whose three steps are 3e-3, turns
    # its rounding into 2.6e-5
    steps = dict(vq=1e-4)
    equals_one_device(results(f'{name}-default-jit'), results(f'{name}-default-single'),
                      differences.get(name, 1e-5), steps.get(name, 2e-5))


@pytest.mark.parametrize('norm', thorough(('batch', 'spectral')))
def test_statistics_of_norms_over_eight_devices_equal_those_of_one(results, norm):
    shared, single = results(f'gan-{norm}-jit'), results(f'gan-{norm}-single')
    equals_one_device(shared, single)
    close(part(shared, "['state']['buffers']"), part(single, "['state']['buffers']"), rtol=1e-4,
          atol=1e-6)


@pytest.mark.full
def test_jit_over_eight_devices_pairs_and_packs_what_one_does(results):
    """Losses of averages, packs and lines between real and generated examples mix the batch. Such a
    loss does not depend on a constant in the logits: the gradient of the last bias is rounding,
    which Adam scales to any size.
    """
    def but_last_bias(values):
        return {
            k: v
            for k, v in values.items() if 'discriminator' not in k or "blocks_3']['bias" not in k
        }

    shared, single = (results(f'gan-options-{mode}') for mode in ('jit', 'single'))
    equals_one_device(but_last_bias(shared), but_last_bias(single))
    assert len(shared) - len(but_last_bias(shared)) == 3  # the bias, and Adam's two moments


@pytest.mark.parametrize('name', thorough(FSDP, 'vae'))
def test_fsdp_over_eight_devices_equals_one_and_holds_an_eighth(results, name):
    shared, complete = results(f'{name}-fsdp-fsdp'), results(f'{name}-fsdp-jit')
    single = results(f'{name}-fsdp-single')
    equals_one_device(shared, single)
    equals_one_device(complete, single)
    large = shared['sizes'] >= 1024
    assert large.any() and (shared['device_share'] == np.where(large, 1 / DEVICES, 1)).all()
    assert (complete['device_share'] == 1).all()
    saved = 4 * shared['sizes'][large].sum() * (1 - 1 / DEVICES)
    assert shared['bytes'] < complete['bytes'] - .9 * saved


@pytest.mark.parametrize('shape, axis', [
    ((8, 800), 1), ((800, 8), 0), ((3, 16, 64), 2), ((7, 800), 1), ((1600,), 0), ((999, 7), None),
    ((8, 8), None)])
def test_fsdp_splits_the_largest_axis_that_devices_share(shape, axis):
    from gen_jax import parallel
    values = [i for i, name in enumerate(parallel.spec(shape, DEVICES)) if name]
    assert values == ([] if axis is None else [axis])


@pytest.mark.full
def test_fsdp_of_what_is_streamed_equals_one_device_in_memory(results):
    shared = results('vae-streamed-fsdp')
    equals_one_device(shared, results('vae-streamed-single'))
    assert int(shared['at_once']) == 2 and (shared['device_share'] == 1 / DEVICES).any()
    again = results('vae-streamed-fsdp-saved')
    assert int(again['differ']) == 0 and (again['device_share'] == shared['device_share']).all()


def test_fsdp_states_are_initialised_sharded(results):
    assert (results('init-sharded')['device_share'] == 1 / DEVICES).any()


@pytest.mark.parametrize('mode', ['shard_map', 'pmap'])
@pytest.mark.parametrize('name, norm, kind', thorough(NOISELESS, ('ae', 'none', 'mlp')))
def test_gradients_equal_one_device_without_noise(results, name, norm, kind, mode):
    """After one step Adam's first moment is a tenth of the gradient: it shows a wrong scale, which
    the parameters would not show.
    """
    shared = results(f'{name}-{norm}-{kind}-{mode}')
    single = results(f'{name}-{norm}-{kind}-single')
    equals_one_device(shared, single)
    moments = {k: v for k, v in part(shared, MOMENTS).items() if '.mu' in k}
    assert moments and max(np.abs(v).max() for v in moments.values()) > 1e-3
    for path, value in moments.items():
        scale = np.abs(single[path]).max()
        np.testing.assert_allclose(value, single[path], rtol=1e-4, atol=1e-5 * scale, err_msg=path)


@pytest.mark.parametrize('label', thorough([
    *('-'.join(case) for case in NOISELESS), *(f'{name}-noise' for name in NOISY)],
    'ae-none-mlp', 'vae-noise'))
def test_shard_map_and_pmap_equal_each_other(results, label):
    one, other = results(f'{label}-shard_map'), results(f'{label}-pmap')
    close(part(one, STATE, *METRICS), part(other, STATE, *METRICS), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('name', thorough(NOISY, 'vae'))
def test_every_device_holds_the_same_state(results, name):
    for mode in 'shard_map', 'pmap':
        values = results(f'{name}-noise-{mode}')
        assert int(values['devices']) == DEVICES and int(values['replicas']) == 0, mode


@pytest.mark.parametrize('name, mode', thorough(SAVED, ('vae', 'shard_map')))
def test_run_with_batch_statistics_is_evaluated_saved_and_resumed(results, name, mode):
    values = results(f'{name}-{"fsdp" if mode == "fsdp" else "noise"}-{mode}-saved')
    assert values['finite'].all() and int(values['replicas']) == 0
    assert int(values['differ']) == 0 and (values['device_share'] < 1).any() == (mode == 'fsdp')


@pytest.mark.parametrize('mode', ['shard_map', 'pmap'])
def test_devices_share_the_rows_and_have_different_noise(results, mode):
    values = results(f'share-{mode}')
    np.testing.assert_array_equal(np.sort(values['rows'].ravel()), np.arange(BATCH))
    assert values['rows'].shape == (DEVICES, BATCH // DEVICES)
    assert len(np.unique(values['keys'], axis=0)) == DEVICES


@pytest.mark.parametrize('mode', thorough(MODES, 'jit'))
def test_batch_that_devices_cannot_share_is_refused(run_main, tmp_path, mode):
    result = run_main('--config=configs/vae.py', '--config.batch_size=100',
                      f'--config.parallel={mode}', f'--workdir={tmp_path}/run', env=EIGHT)
    assert result.code == 1 and len(result.err.splitlines()) == 1, result
    assert result.err.startswith('gen_jax: ')
    for word in '100', '8 devices', 'multiple of 8':
        assert word in result.err
    assert not (tmp_path / 'run').exists()


@pytest.mark.full
def test_default_batch_is_what_devices_can_share(run_main, tmp_path):
    flags = ('--config=configs/vae.py', '--config.epochs=1', '--config.net.width=(8,)',
             f'--workdir={tmp_path}/run')
    result = run_main(*flags, '--config.data.limit=100', env=EIGHT)
    assert result.code == 0 and 'batch_size 96 rather than 128' in result.out, result
    assert json.loads((tmp_path / 'run' / 'config.json').read_text())['batch_size'] == 96
    result = run_main(*flags[:-1], '--config.data.limit=7', f'--workdir={tmp_path}/no', env=EIGHT)
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert '7 training examples, fewer than the 8 devices' in result.err


# Undeclared losses of the full batch


def declared_coupled(name, **hyper):
    return pytest.param(name, hyper, True, marks=pytest.mark.full)


@pytest.mark.parametrize('name, hyper, coupled', [
    ('factor', {}, True), ('vae', dict(norm='batch'), False),
    declared_coupled('deepfake'),
    declared_coupled('mmd'),
    declared_coupled('sparse', sparsity='kl'),
    declared_coupled('gan', loss='relativistic_average', norm='none'),
    declared_coupled('gan', penalty='dragan', norm='none', packing=3, kind='conv', width=(4, 6)),
    declared_coupled('vae', likelihood='gaussian', scale='optimal'),
    *(pytest.param(n, {}, False, marks=pytest.mark.full)
      for n in ('ae', 'classifier', 'contractive', 'iwae', 'infogan', 'ladder', 'text', 'vq')),
    *(pytest.param(n, dict(norm='batch', discriminator_norm='batch'), False, marks=pytest.mark.full)
      for n in ('gan', 'vaegan')),
    pytest.param('deepfake', dict(alignment_weight=0., norm='batch'), False,
                 marks=pytest.mark.full),
    pytest.param(
        'gan',
        dict(norm='none', loss='relativistic', penalty='gradient', packing=2,
             augment='colour,cutout', instance_noise=.1), False, marks=pytest.mark.full),
    pytest.param('ae', dict(kind='conv', norm='batch'), False, marks=pytest.mark.full)
])
def test_gradients_show_whether_a_loss_needs_the_full_batch(name, hyper, coupled):
    """Also for models that declare such a loss; their declaration is ignored here."""
    import jax
    from gen_jax import data, parallel, train
    from gen_jax.train import model_info, batch_coupling
    config = config_of(name, **dict(kind='mlp', width=(8,)) | hyper)
    config.batch_size = 96
    dataset, key = data.load(**config.data), jax.random.key(0)
    known = model_info.model_info(dataset, key)
    make, example = train.maker(config, known, parallel.layout('jit')), known.example
    state = quick(make().init)(key, example)
    assert bool(batch_coupling.coupled_players(config, make, state, example, key)) == coupled


@pytest.mark.parametrize('mode', thorough(['shard_map', 'pmap'], 'shard_map'))
def test_undeclared_full_batch_loss_is_refused(monkeypatch, mode):
    """With and without the standard deviation of the codes over the batch in the loss."""
    import jax
    import optax
    from gen_jax import train
    from gen_jax.game import game
    from gen_jax.models import ae
    from gen_jax.types import BadInput, Player

    def make(example, context, *, late: bool = False, complete: bool = True):
        def code(state, x):
            return x.reshape(len(x), -1) @ state.params['local']

        def loss(state, batch, key):
            z = code(state, batch.x)
            value = ((z - 1) ** 2).mean()
            if complete:
                value += (state.step > 1000 if late else 1.) * z.std()
            return value, dict(loss=value), {}

        def evaluate(state, batch, key):
            return dict(loss=(code(state, batch.x) - 1) ** 2)

        def init(key, batch):
            return jax.numpy.zeros(batch.x[0].size), {}

        return game(dict(local=Player(init, loss, optax.sgd(.1))), axis=context.axis,
                    evaluate=evaluate)

    monkeypatch.setattr(ae, 'make', make)
    config = defaults('ae', 'digits')
    train.prepare(config)
    config.parallel = mode
    for late in False, True:
        config.model.late = late
        with pytest.raises(BadInput, match='loss of local in model ae takes the whole batch.*=jit'):
            train.prepare(config)
    config.model.complete = False
    train.prepare(config)


@pytest.mark.full
def test_command_line_trains_and_goes_on_over_eight_devices(run_main, tmp_path):
    flags = ('--config=configs/gan.py', '--config.parallel=pmap', '--config.net.width=(4,)',
             '--config.discriminator_net.width=(4,)',
             '--config.eval.every=1', f'--workdir={tmp_path}')
    assert run_main(*flags, '--config.epochs=1', env=EIGHT).code == 0
    result = run_main(*flags, '--config.epochs=2', env=EIGHT)
    assert result.code == 0 and 'going on after epoch 1' in result.out, result
    assert (tmp_path / 'images' / 'samples.png').exists()


@pytest.mark.full
def test_classifier_starts_from_a_run_of_one_device_on_eight(run_main, tmp_path):
    small = '--config.net.width=(4,)', '--config.epochs=1'
    assert run_main('--config=configs/ae.py', *small, f'--workdir={tmp_path}/ae').code == 0
    result = run_main('--config=configs/classifier.py', f'--config.init_from={tmp_path}/ae',
                      small[1], '--config.parallel=shard_map', f'--workdir={tmp_path}/run',
                      env=EIGHT)
    assert (result.code, result.err) == (0, ''), result


if __name__ == '__main__':
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    child(Path(sys.argv[1]), tuple(sys.argv[2:]) or '')
