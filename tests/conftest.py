"""What several test files share: the two tiers, the command line as a user runs it, compiled
programs, and where MNIST is."""
import functools
import gc
import inspect
import itertools
import json
import os
from pathlib import Path
import re
import select
import subprocess
import sys
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
import pytest

ROOT = Path(__file__).resolve().parents[1]
PREPARED = 'mnist/3.0.1'
TESTS = itertools.count()
LONGEST = ('test_parallel', 'test_sweep', 'test_experiments', 'test_mnist', 'test_notebooks',
           'test_processes', 'test_resume', 'test_main', 'test_faults', 'test_gan_family',
           'test_vae_family', 'test_likelihood')  # so that all workers end together
APART = 'test_models', 'test_experiments', 'test_mnist', 'test_notebooks'  # a group for each case


class Result(NamedTuple):
    code: int
    out: str
    err: str


def snapshot(folder) -> dict[str, bytes | None]:
    """Every path below a folder, files with their content."""
    folder = Path(folder)
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
            for p in sorted(folder.rglob('*'))}


def thorough(values, *every_day) -> list:
    """Parameters of which all but some are marked full."""
    return [pytest.param(*(value if isinstance(value, tuple) else (value,)),
                         marks=() if value in every_day else pytest.mark.full)
            for value in values]


# what of a part a short name means in tests
NET = dict(kind='name', width='width', norm='norm', activation='activation')
ADAM = 'learning_rate', 'b1', 'b2', 'eps', 'ema_decay'
GANS = 'gan', 'infogan', 'vaegan', 'bigan'  # whose nets all see examples, and learn at one rate
OF_GANS = dict(conv='dcgan', residual='sngan')


def spread(name: str, **hyper) -> dict:
    """The keywords of train.defaults for a model and hyper-parameters without their part: those of
    nets are of every net that sees examples, with the norm, activation and width that it had, those
    of Adam of every player, and `discriminator_...` is the discriminator's alone.  Raises KeyError
    for one that the model has not."""
    from gen_jax import nets, parts, train
    from gen_jax.adversarial import rules
    make = train.find_model(name).make
    known, local = parts.find_parts(make), inspect.signature(make).parameters
    result = {}

    def give(group, key, value):
        result.setdefault(group, {})[key] = value

    seeing = [g for g in known if g.endswith('net') and g != 'top_net' and (
        g != 'discriminator_net' or name in GANS)]
    for key, value in hyper.items():
        kind = OF_GANS.get(value, value) if key == 'kind' and name in GANS else value
        if key == 'loss' and 'discriminator' in known and value in rules.LOSSES:
            give('discriminator', key, value)
        elif key in local and key not in known:
            result[key] = value
        elif key in known:
            result[key] = result.get(key, {}) | value
        elif (short := key.removeprefix('discriminator_')) != key and short in (*NET, *ADAM) and (
                'discriminator_net' in known):
            key = short
            group = 'discriminator_optimiser' if key in ADAM else 'discriminator_net'
            give(group, NET.get(key, key), value)
        elif key in NET and seeing:
            for group in seeing:
                if (group, key) != ('recognition_net', 'norm') and not (
                        group == 'discriminator_net' and f'discriminator_{key}' in hyper):
                    give(group, NET[key], kind)
        elif key == 'top' and 'top_net' in known:
            give('top_net', 'width', value)
        elif key == 'ema_decay' and 'optimiser' in known:
            give('optimiser', key, value)
        elif key in ADAM and 'optimiser' in known:
            for group in known:
                of_a_discriminator = group == 'discriminator_optimiser' and (
                    f'discriminator_{key}' in hyper or key == 'learning_rate' and name not in GANS)
                others = 'prior_optimiser', *['discriminator_optimiser'] * of_a_discriminator
                if group.endswith('optimiser') and group not in others:
                    give(group, key, value)
        else:
            group = next((g for g in ('latents', 'discriminator')
                          if g in known and key in known[g].spec.keys), None)
            if group is None or value in ('mse', 'l1', 'cross_entropy', 'ssim'):  # reconstructions'
                raise KeyError(key)
            give(group, key, value)
    for group in seeing:
        other = result.get(group, {}).get('name')
        if other in nets.NAMES and other != known[group].spec.keys['name']:
            has = nets.make(other).spec.keys
            result[group] = {k: v for k, v in (known[group].spec.keys | result[group]).items()
                             if k in has}
    return result


def takes(name: str, key: str, value=None) -> bool:
    """Whether a model has such a hyper-parameter."""
    try:
        spread(name, **{key: value})
    except KeyError:
        return False
    return True


def defaults(name: str, dataset: str, **hyper):
    """train.defaults with hyper-parameters as `spread` takes them."""
    from gen_jax import train
    return train.defaults(name, dataset, **spread(name, **hyper))


def model(name: str, batch, context=None, **hyper):
    """A model of gen_jax/models with hyper-parameters as `spread` takes them."""
    from gen_jax import parts, train
    from gen_jax.types import DEFAULT_CONTEXT
    make = train.find_model(name).make
    known, given = parts.find_parts(make), spread(name, **hyper)
    local = {k: v for k, v in given.items() if k not in known}
    groups = {k: v for k, v in given.items() if k in known}
    return parts.build_model(make, batch, context or DEFAULT_CONTEXT, groups=groups, **local)


def pytest_addoption(parser):
    parser.addoption('--all', action='store_true', help='run the tests marked full, too')


def pytest_configure(config):
    """Compiles in a third of the time, unless the environment says how to compile."""
    if 'XLA_FLAGS' not in os.environ:
        os.environ['XLA_FLAGS'] = xla_flags(xla_backend_optimization_level=0, **older())


@functools.cache
def older() -> dict[str, bool]:
    """The option of XLA's older code generator for CPUs; none where XLA no longer has it."""
    option = dict(xla_cpu_use_fusion_emitters=False)
    try:
        jax.jit(lambda: 0, compiler_options=option)()
    except jax.errors.JaxRuntimeError:
        return {}
    return option


def quick(f, **how):
    """jax.jit for a program that takes longer to compile than to run."""
    return jax.jit(f, compiler_options=dict(xla_backend_optimization_level=0) | older(), **how)


def xla_flags(**options) -> str:
    """XLA_FLAGS with these options, too."""
    given = [flag for flag in os.environ.get('XLA_FLAGS', '').split()
             if flag[2:].partition('=')[0] not in options]
    return ' '.join(given + [f'--{k}={v}'.lower() for k, v in options.items()])


def optimised() -> dict[str, str]:
    """The environment of a process that computes for longer than it compiles."""
    return dict(XLA_FLAGS=xla_flags(xla_backend_optimization_level=3))


def virtual_devices(n: int, **options) -> dict[str, str]:
    """The environment of a process with n virtual CPU devices, which compiles quickly."""
    return dict(JAX_PLATFORMS='cpu', XLA_FLAGS=xla_flags(
        xla_force_host_platform_device_count=n, xla_backend_optimization_level=0, **options))


def pytest_xdist_auto_num_workers(config):
    """A worker for each core; none where one test is named, or where times are measured."""
    if any('::' in arg for arg in config.args) or 'speed' in config.option.markexpr:
        config.option.dist = 'no'
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def group(nodeid: str) -> str:
    """Tests of one group run in one worker: those that share trained runs or compiled programs."""
    name, _, case = nodeid.partition('.py::')
    if not name.endswith(APART):
        return name
    parameter = re.match('[^]-]*', case.partition('[')[2])[0]
    return f'{name} {case if name.endswith("test_mnist") else parameter}'


def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group(nodeid)

    return Scheduler(config, log)


def pytest_collection_modifyitems(config, items):
    """Leaves out what is not asked for, and begins with the files that take longest."""
    named = any('::' in arg for arg in config.args)
    marks = {'full': config.option.all or named or 'full' in config.option.markexpr,
             'speed': 'speed' in config.option.markexpr}  # these want the machine for themselves
    left = [item for item in items for mark, asked in marks.items()
            if item.get_closest_marker(mark) and not asked]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in set(left)]
    items.sort(key=lambda item: (*LONGEST, item.path.stem).index(item.path.stem))


@pytest.fixture(scope='session', autouse=True)
def compiled(tmp_path_factory):
    """The folder of compiled programs, which all workers and the processes they start share."""
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    folder = folder / 'compiled'
    options = dict(jax_compilation_cache_dir=str(folder),
                   jax_persistent_cache_min_compile_time_secs=.1)
    before = {name: getattr(jax.config, name) for name in options}
    for values in options, before:
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is options:
            yield folder


@pytest.fixture(scope='session', autouse=True)
def kept(compiled):
    """The folder of what gen_jax keeps between runs, shared as that one; matplotlib's list of fonts
    stays where it is."""
    fonts = os.environ.get('MPLCONFIGDIR') or str(Path('~/.cache/matplotlib').expanduser())
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv('MPLCONFIGDIR', fonts)
        patched.setenv('XDG_CACHE_HOME', str(compiled.with_name('kept')))
        yield compiled.with_name('kept')


@pytest.fixture(scope='session')
def environment(compiled, kept):
    """The environment of a child process: this checkout, CPU, compiled programs kept for us all."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return os.environ | dict(
        PYTHONPATH=path, JAX_PLATFORMS='cpu',
        JAX_COMPILATION_CACHE_DIR=str(compiled), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='.05')


@pytest.fixture(scope='module')
def undrawn():
    """Trains without pictures, which take as long as the rest of a short training."""
    from gen_jax import record, train
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, 'save_pictures', lambda *_: [])
        patched.setattr(record, 'curves', lambda *_: '')
        yield


@pytest.fixture(scope='module', autouse=True)
def compiled_no_longer():
    """Lets go of a file's programs when it is done."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def compiled_few():
    """The same within a file of many: XLA maps each program into memory several times, and of maps
    Linux gives a process 65,530, beyond which it crashes."""
    yield
    maps = Path('/proc/self/maps')
    if next(TESTS) % 10 == 0 and maps.exists() and maps.read_bytes().count(b'\n') > 45_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope='session')
def python(environment, tmp_path_factory):
    """python(*argv) -> Result of `python ARGV`, in a fork of tests/warm.py."""
    place = tmp_path_factory.mktemp('python')
    warm = subprocess.Popen([sys.executable, ROOT / 'tests' / 'warm.py'], env=environment, cwd=ROOT,
                            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(*argv, env=None, cwd=ROOT, timeout=180) -> Result:
        files = [place / name for name in ('out', 'err')]
        for file in files:
            file.write_bytes(b'')
        command = dict(argv=[str(a) for a in argv], cwd=str(cwd), env=environment | (env or {}),
                       out=str(files[0]), err=str(files[1]))
        warm.stdin.write(f'{json.dumps(command)}\n')
        warm.stdin.flush()
        child = int(warm.stdout.readline())
        if not select.select([warm.stdout], [], [], timeout)[0]:
            os.kill(child, 9)
        status = int(warm.stdout.readline())
        return Result(status, *(file.read_text() for file in files))

    yield run
    warm.stdin.close()
    warm.wait()


@pytest.fixture(scope='session')
def run_main(python):
    """run_main(*flags) -> Result of `python -m gen_jax.main` with them."""
    def run(*args, **how) -> Result:
        return python('-m', 'gen_jax.main', *args, **how)
    return run


@pytest.fixture(scope='session')
def mnist_dir():
    """A TFDS data_dir that holds MNIST."""
    places = [os.environ.get('TFDS_DATA_DIR'), ROOT.parent / 'shared' / 'tensorflow_datasets']
    for place in filter(None, places):
        if (Path(place) / PREPARED / 'dataset_info.json').exists():
            return Path(place)
    pytest.skip(f'no prepared {PREPARED} in TFDS_DATA_DIR or ../shared/tensorflow_datasets')
