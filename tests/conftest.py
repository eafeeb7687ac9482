"""What several test files share: the command line as a user runs it, and where MNIST is."""
import gc
import itertools
import os
from pathlib import Path
import subprocess
import sys
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache
import pytest

ROOT = Path(__file__).resolve().parents[1]
PREPARED = 'mnist/3.0.1'
TESTS = itertools.count()


class Result(NamedTuple):
    code: int
    out: str
    err: str


def snapshot(folder) -> dict[str, bytes | None]:
    """Every path below a folder, files with their content."""
    folder = Path(folder)
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
            for p in sorted(folder.rglob('*'))}


def pytest_collection_modifyitems(config, items):
    """Tests of speed want the machine for themselves: they run with -m speed alone."""
    if 'speed' not in config.option.markexpr:
        timed = [item for item in items if item.get_closest_marker('speed')]
        config.hook.pytest_deselected(items=timed)
        items[:] = [item for item in items if item not in timed]


@pytest.fixture(scope='session')
def environment(tmp_path_factory):
    """The environment of a child process: this checkout, CPU, compiled programs kept for us all."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    compiled = tmp_path_factory.mktemp('compiled')
    return os.environ | dict(PYTHONPATH=path, JAX_PLATFORMS='cpu',
                             JAX_COMPILATION_CACHE_DIR=str(compiled))


@pytest.fixture(scope='module')
def compiled_once(tmp_path_factory):
    """Programs are compiled once and then read from disk, as a user's second command does."""
    options = dict(jax_compilation_cache_dir=str(tmp_path_factory.mktemp('compiled')),
                   jax_persistent_cache_min_compile_time_secs=.1)
    before = {name: getattr(jax.config, name) for name in options}
    for values in options, before:
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is options:
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
    if next(TESTS) % 20 == 0 and maps.exists() and maps.read_bytes().count(b'\n') > 30_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope='session')
def run_main(environment):
    """run_main(*flags) -> Result of `python -m gen_jax.main` with them."""
    def run(*args, env=None, cwd=ROOT, timeout=180) -> Result:
        done = subprocess.run([sys.executable, '-m', 'gen_jax.main', *map(str, args)], cwd=cwd,
                              env=environment | (env or {}), timeout=timeout, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)
    return run


@pytest.fixture(scope='session')
def prepared():
    """A TFDS data_dir that holds MNIST; not to be written to."""
    places = [os.environ.get('TFDS_DATA_DIR'), ROOT.parent / 'shared' / 'tensorflow_datasets']
    for place in filter(None, places):
        if (Path(place) / PREPARED / 'dataset_info.json').exists():
            return Path(place)
    pytest.skip(f'no prepared {PREPARED} in TFDS_DATA_DIR or ../shared/tensorflow_datasets')


@pytest.fixture(scope='session')
def mnist_dir(prepared, tmp_path_factory):
    """A data_dir of our own with links to the prepared files, so that caches are written here."""
    place = tmp_path_factory.mktemp('tensorflow_datasets')
    (place / PREPARED).mkdir(parents=True)
    for file in (prepared / PREPARED).iterdir():
        if file.suffix == '.json' or '.array_record' in file.name:
            (place / PREPARED / file.name).symlink_to(file.resolve())
    return place
