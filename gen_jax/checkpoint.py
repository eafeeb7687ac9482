"""Checkpoints by orbax: asynchronous and atomic; keeps the newest ones and the best by a metric.

Each checkpoint has a file `digests.txt`. It lists the CRC-32 and the name of every file; its first
line is the CRC-32 of this list.
"""
from concurrent.futures import ThreadPoolExecutor
import contextlib
import errno
import json
import os
from pathlib import Path
import re
import shutil
import zlib

import jax

from gen_jax import parallel
from gen_jax.data import cache
from gen_jax.types import BadInput, State

MIN_FREE_BYTES = 16_000_000
DIGESTS = 'digests.txt'
PROCESS_LOST = TimeoutError, jax.errors.JaxRuntimeError  # of other processes


@contextlib.contextmanager
def manager(folder: Path, *, keep: int = 3, best: str | None = None):
    """An orbax CheckpointManager that keeps the `keep` newest checkpoints and the one with the
    lowest metric `best`.

    At exit everything is on disk and no thread writes to the folder any more, also after an error.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import preservation_policy as policy
    from orbax.checkpoint.path import atomicity
    policies = [policy.LatestN(keep)]

    class Sealed(atomicity.AtomicRenameTemporaryPath):
        """Writes the digests when a checkpoint is moved to its final path."""
        async def finalize(self):
            step = self.get_final().name.isdigit()  # not an item of a step
            sums = _seal(Path(self.get()), {}) if step else {}
            await super().finalize()
            if step:  # super() has just changed files outside the items
                _seal(Path(self.get_final()), {k: v for k, v in sums.items() if '/' in k})

    def score(metrics):  # a state saved by a stop has no such metric
        return metrics.get(best, float('inf'))

    if best:
        policies.append(policy.BestN(get_metric_fn=score, reverse=True, n=1,
                                     keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy.AnyPreservationPolicy(policies), cleanup_tmp_directories=True,
        best_fn=score if best else None, best_mode='min', temporary_path_class=Sealed)

    class Plain(ocp.StandardCheckpointHandler):
        """Each array has a folder of its own, so nothing is merged at the end."""
        def finalize(self, directory):
            pass

    # tensorstore 0.1.86 leaks memory for merged files and for jax.Arrays, some 40 kB for each save
    # of a small VAE: a single process therefore writes plain files of NumPy arrays
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    if jax.process_count() == 1:
        plain = Plain(use_ocdbt=False)
        for args in ocp.args.StandardSave, ocp.args.StandardRestore:
            handlers.add('default', args, plain)
    orbax_manager = ocp.CheckpointManager(Path(folder).absolute(), options=options,
                                          handler_registry=handlers)
    try:
        yield orbax_manager
    except BaseException:
        if jax.process_count() == 1:  # otherwise others may be dead, and closing waits for all
            with contextlib.suppress(Exception):
                orbax_manager.close()
        raise
    finish(orbax_manager)
    orbax_manager.close()


def save(manager, state: State, metrics: dict[str, float]) -> None:
    """Starts to write the state under its step, and returns before it is on disk.
    Raises: OSError if this checkpoint or the previous one cannot be written.
    """
    import orbax.checkpoint as ocp
    step = int(jax.device_get(state.step).ravel()[0])  # a scalar, or equal steps of a sweep
    require_space(manager.directory, sum(a.nbytes for a in jax.tree.leaves(state)))
    tree = state._asdict()
    tree = jax.device_get(tree) if jax.process_count() == 1 else tree  # see `manager`
    with _written():
        manager.save(step, args=ocp.args.StandardSave(tree), metrics=metrics)


def require_space(folder: Path, needed: int = 0) -> None:
    """Checks for free space before orbax and TensorBoard write, because their threads print
    tracebacks.
    Raises: OSError if the disk has less than `needed` bytes plus MIN_FREE_BYTES for pictures.
    """
    if shutil.disk_usage(folder).free < needed + MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def finish(manager) -> None:
    """Waits until everything is on disk.
    Raises: OSError if it cannot be written.
    """
    with _written():
        manager.wait_until_finished()


@contextlib.contextmanager
def _written():
    try:
        yield
    except PROCESS_LOST:
        raise
    except Exception as e:  # of many types; the text holds the system's error
        number = re.search(r"os_error_code='(\d+)'", str(e))
        number = getattr(e, 'errno', None) or int(number[1] if number else errno.EIO)
        raise OSError(number, os.strerror(number)) from e


def restore(folder: Path, like: State, *, best: str | None = None, say=print) -> State | None:
    """The newest readable state below folder, or the one with the lowest metric `best`, with the
    shapes and the sharding of `like`; None if there is no checkpoint.

    A damaged checkpoint is reported and the previous one is used; the damaged ones are deleted once
    another has been read. A checkpoint without digests is reported as unverified.
    Raises: BadInput if no checkpoint can be read, or if an intact one belongs to another config.
    """
    import orbax.checkpoint as ocp
    scores, errors = {}, {}
    for path in folder.glob('*') if folder.is_dir() else ():
        if path.name.isdigit():  # others are incomplete; orbax removes them
            try:
                scores[path] = _metrics(path)
            except (OSError, ValueError) as e:
                scores[path], errors[path] = {}, e
    steps = sorted(scores, key=lambda path: int(path.name), reverse=True)
    if best:
        steps.sort(key=lambda path: scores[path].get(best, float('inf')))
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    state = None
    for path in steps:
        verified = False
        try:
            if path in errors:
                raise errors[path]
            if state is None:
                verified = _verified(path)
                if not verified:
                    say(f'checkpoint {path.name} is unverified: it is from before there were '
                        'digests')
                    _read_through(path / 'default')
                _check_shapes(path / 'default', abstract)
                with ocp.StandardCheckpointer() as reader:
                    state = State(**reader.restore((path / 'default').absolute(), abstract))
        except Exception as e:  # each library has its own types for a damaged file
            if jax.process_count() > 1 and isinstance(e, PROCESS_LOST):
                raise
            if verified:
                message = e if isinstance(e, BadInput) else f'{type(e).__name__}: {e}'
                raise BadInput(f'checkpoint {path} is as it was saved, but cannot be read '
                               f'({" ".join(str(message).split())[:200]}); give the config and the '
                               'model that it was trained with, or more memory') from e
            errors[path] = e
            say(f'checkpoint {path.name} cannot be read '
                f'({e if isinstance(e, BadInput) else type(e).__name__}); '
                'trying the one before it')
    if steps and state is None:
        raise BadInput(f'no checkpoint in {folder} can be read; move it away to start anew')
    for path in errors if jax.process_index() == 0 else ():
        shutil.rmtree(path, ignore_errors=True)  # of a run that may be another's
    return state


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint below folder; None if there is none."""
    steps = [int(p.name) for p in folder.glob('*') if p.name.isdigit()]  # others are incomplete
    return max(steps, default=None)


def saved_metrics(folder: Path, step: int) -> dict[str, float]:
    """The metrics that were saved with the state of a step; {} if there are none."""
    return _metrics(folder / str(step))


def _seal(path: Path, sums: dict[str, str]) -> dict[str, str]:
    """Writes the digests of all files below path, and returns them by name; those in `sums` are not
    computed again.
    """
    names = sorted(f.relative_to(path).as_posix() for f in path.rglob('*') if f.is_file())
    sums = {name: sums.get(name) or _crc(path / name) for name in names if name != DIGESTS}
    text = ''.join(f'{crc} {name}\n' for name, crc in sums.items()).encode()
    with cache.replaced(path / DIGESTS) as file:
        file.write(b'%08x\n' % zlib.crc32(text) + text)
    return sums


def _crc(file: Path) -> str:
    """The CRC-32 of a file as eight hexadecimal digits; '' if there is no file."""
    crc = 0
    try:
        with file.open('rb', buffering=0) as f:
            while piece := f.read(2 ** 18):  # fits in the processor's cache
                crc = zlib.crc32(piece, crc)
    except FileNotFoundError:
        return ''
    return f'{crc:08x}'


def _verified(path: Path) -> bool:
    """Whether a checkpoint has digests. Only the first process checks them.
    Raises: BadInput, in all processes, that names the first file that differs from its digest.
    """
    parallel.collectively(lambda: jax.process_index() or _verify(path))
    return (path / DIGESTS).exists()


def _verify(path: Path, part: str = '') -> None:
    """Raises BadInput that names the first file that differs from its digest, of the files whose
    names begin with `part`.
    """
    if not (path / DIGESTS).exists():
        return
    head, _, text = (path / DIGESTS).read_bytes().partition(b'\n')
    if head != b'%08x' % zlib.crc32(text):
        raise BadInput(f'{DIGESTS} is damaged')
    sums = dict(line.split(' ', 1)[::-1] for line in text.decode().split('\n')[:-1])
    names = [name for name in sums if name.startswith(part)]
    with ThreadPoolExecutor() as pool:
        for name, crc in zip(names, pool.map(lambda name: _crc(path / name), names)):
            if crc != sums[name]:
                raise BadInput(f'{name} is {"damaged" if crc else "missing"}')


def _check_shapes(path: Path, tree) -> None:
    """Raises BadInput that names the first array below path whose shape differs from that in the
    tree.

    orbax would raise too, but it reads everything at once, and its abandoned reads print
    tracebacks.
    """
    expected = {jax.tree_util.keystr(place, simple=True, separator='.'): leaf.shape
                for place, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    store = _store(path)
    for name in _arrays(store):
        shape = tuple(json.loads(store.read(f'{name}/.zarray').result().value)['shape'])
        if shape != expected.get(name, shape):
            raise BadInput(f'{name} is {shape} there, and {expected[name]} in this run')


def _read_through(path: Path) -> None:
    """Reads every array below path and its metadata, one after the other, for checkpoints without
    digests. Raises at the first one that its own format shows to be damaged.
    """
    import tensorstore as ts
    store = _store(path)
    spec = dict(path='') | store.spec().to_json()
    for file in (path / 'array_metadatas').glob('*'):
        json.loads(file.read_text())
    for name in _arrays(store):
        array = dict(driver='zarr', kvstore=spec | dict(path=f'{spec["path"]}{name}/'))
        ts.open(array, open=True).result().read().result()


def _store(path: Path):
    import tensorstore as ts
    merged = dict(driver='ocdbt', base=path.absolute().as_uri() + '/')
    plain = dict(driver='file', path=f'{path.absolute()}/')
    # several processes write merged files, as did one process in earlier versions
    return ts.KvStore.open(merged if (path / 'manifest.ocdbt').exists() else plain).result()


def _arrays(store) -> list[str]:
    """The names of all arrays.
    Raises: BadInput if there is none.
    """
    keys = [key.decode() for key in store.list().result()]
    names = [key.removesuffix('/.zarray') for key in keys if key.endswith('/.zarray')]
    if not names:
        raise BadInput('it holds no arrays')
    return names


def _metrics(path: Path) -> dict:
    """The metrics saved with a checkpoint; {} if there are none.
    Raises: OSError or ValueError if they are damaged, BadInput if the state is missing.
    """
    file = path / 'metrics' / 'metrics'
    _verify(path, 'metrics/')
    if not (path / 'default').is_dir():
        raise BadInput('default is missing')
    return dict(json.loads(file.read_text())) if file.exists() else {}
