"""Checkpoints by orbax: asynchronous, atomic, the newest few and the best by a named metric.

Each holds `digests.txt`: of every file its CRC-32 and name, below the CRC-32 of these lines.
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
    """An orbax CheckpointManager that keeps the `keep` newest and the one of the lowest `best`.

    On leaving, all is on disk and no thread writes below the folder any more, also after an error.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import preservation_policy as policy
    from orbax.checkpoint.path import atomicity
    policies = [policy.LatestN(keep)]

    class Sealed(atomicity.AtomicRenameTemporaryPath):
        """Comes into its place with digests."""
        async def finalize(self):
            step = self.get_final().name.isdigit()  # and no part of one
            sums = _seal(Path(self.get()), {}) if step else {}
            await super().finalize()
            if step:  # which has just changed what lies beside the parts
                _seal(Path(self.get_final()), {k: v for k, v in sums.items() if '/' in k})

    def score(metrics):  # a state that training stopped at has none
        return metrics.get(best, float('inf'))

    if best:
        policies.append(policy.BestN(get_metric_fn=score, reverse=True, n=1,
                                     keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy.AnyPreservationPolicy(policies), cleanup_tmp_directories=True,
        best_fn=score if best else None, best_mode='min', temporary_path_class=Sealed)

    class Plain(ocp.StandardCheckpointHandler):
        """Each array in a folder of its own, so that there is nothing to merge at the end."""
        def finalize(self, directory):
            pass

    # tensorstore 0.1.86 never frees what orbax asks of it for merged files and for jax.Arrays, some
    # 40 kB a save of a small VAE: one process writes plain files of NumPy's arrays
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
        if jax.process_count() == 1:  # of several the others may be gone, and closing waits for all
            with contextlib.suppress(Exception):
                orbax_manager.close()
        raise
    finish(orbax_manager)
    orbax_manager.close()


def save(manager, state: State, metrics: dict[str, float]) -> None:
    """Starts writing the state under its step; returns before it is on disk.  Raises OSError where
    it, or the one before, cannot be written."""
    import orbax.checkpoint as ocp
    step = int(jax.device_get(state.step).ravel()[0])  # one, or that of all side by side
    require_space(manager.directory, sum(a.nbytes for a in jax.tree.leaves(state)))
    tree = state._asdict()
    tree = jax.device_get(tree) if jax.process_count() == 1 else tree  # see `manager`
    with _written():
        manager.save(step, args=ocp.args.StandardSave(tree), metrics=metrics)


def require_space(folder: Path, needed: int = 0) -> None:
    """Raises OSError unless the disk has room for so many bytes and some pictures: before orbax and
    TensorBoard find out, whose threads print tracebacks."""
    if shutil.disk_usage(folder).free < needed + MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def finish(manager) -> None:
    """Waits until all is on disk.  Raises OSError where it cannot be written."""
    with _written():
        manager.wait_until_finished()


@contextlib.contextmanager
def _written():
    try:
        yield
    except PROCESS_LOST:
        raise
    except Exception as e:  # of types that its layers choose, with the system's words in them
        number = re.search(r"os_error_code='(\d+)'", str(e))
        number = getattr(e, 'errno', None) or int(number[1] if number else errno.EIO)
        raise OSError(number, os.strerror(number)) from e


def restore(folder: Path, like: State, *, best: str | None = None, say=print) -> State | None:
    """The newest readable state below folder, or that of the lowest metric `best`, shaped and
    placed as `like`; None where there is none.

    A checkpoint that is not what was saved is named, and the one before it used; the damaged ones
    are removed once another has been read.  One without digests is said to be unverified.  Raises
    BadInput where none can be read, or where one that is whole is of another config.
    """
    import orbax.checkpoint as ocp
    scores, wrong = {}, {}
    for path in folder.glob('*') if folder.is_dir() else ():
        if path.name.isdigit():  # others are half-written, orbax' own to clean up
            try:
                scores[path] = _metrics(path)
            except (OSError, ValueError) as e:
                scores[path], wrong[path] = {}, e
    steps = sorted(scores, key=lambda path: int(path.name), reverse=True)
    if best:
        steps.sort(key=lambda path: scores[path].get(best, float('inf')))
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    state = None
    for path in steps:
        verified = False
        try:
            if path in wrong:
                raise wrong[path]
            if state is None:
                verified = _verified(path)
                if not verified:
                    say(f'checkpoint {path.name} is unverified: it is from before there were '
                        'digests')
                    _read_through(path / 'default')
                _fits(path / 'default', abstract)
                with ocp.StandardCheckpointer() as reader:
                    state = State(**reader.restore((path / 'default').absolute(), abstract))
        except Exception as e:  # every layer below has types of its own for a damaged file
            if jax.process_count() > 1 and isinstance(e, PROCESS_LOST):
                raise
            if verified:
                about = e if isinstance(e, BadInput) else f'{type(e).__name__}: {e}'
                raise BadInput(f'checkpoint {path} is as it was saved, but cannot be read '
                               f'({" ".join(str(about).split())[:200]}); give the config and the '
                               'model that it was trained with, or more memory') from e
            wrong[path] = e
            say(f'checkpoint {path.name} cannot be read '
                f'({e if isinstance(e, BadInput) else type(e).__name__}); '
                'trying the one before it')
    if steps and state is None:
        raise BadInput(f'no checkpoint in {folder} can be read; move it away to start anew')
    for path in wrong if jax.process_index() == 0 else ():
        shutil.rmtree(path, ignore_errors=True)  # of a run that may be another's
    return state


def newest_step(folder: Path) -> int | None:
    """The step of the newest state below folder; None where there is none."""
    steps = [int(p.name) for p in folder.glob('*') if p.name.isdigit()]  # others are half-written
    return max(steps, default=None)


def saved_metrics(folder: Path, step: int) -> dict[str, float]:
    """The metrics that were saved with the state of a step; {} where there are none."""
    return _metrics(folder / str(step))


def _seal(path: Path, sums: dict[str, str]) -> dict[str, str]:
    """Writes the digests of all files below path, and gives them by name; `sums` are known."""
    names = sorted(f.relative_to(path).as_posix() for f in path.rglob('*') if f.is_file())
    sums = {name: sums.get(name) or _crc(path / name) for name in names if name != DIGESTS}
    text = ''.join(f'{crc} {name}\n' for name, crc in sums.items()).encode()
    with cache.replaced(path / DIGESTS) as file:
        file.write(b'%08x\n' % zlib.crc32(text) + text)
    return sums


def _crc(file: Path) -> str:
    """The CRC-32 of a file, eight digits; '' where there is none."""
    crc = 0
    try:
        with file.open('rb', buffering=0) as f:
            while piece := f.read(2 ** 18):  # stays in the processor's cache
                crc = zlib.crc32(piece, crc)
    except FileNotFoundError:
        return ''
    return f'{crc:08x}'


def _verified(path: Path) -> bool:
    """Whether a checkpoint has digests.  Raises BadInput that names the first file that is not what
    was saved, in all of several processes, the first of which looks."""
    parallel.collectively(lambda: jax.process_index() or _verify(path))
    return (path / DIGESTS).exists()


def _verify(path: Path, part: str = '') -> None:
    """Raises BadInput that names the first file, of those whose names begin with `part`, that is
    not as its digest says."""
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


def _fits(path: Path, tree) -> None:
    """Raises BadInput with the first array below path that is of another shape than in the tree.

    orbax would raise too, but reads all at once, and what it abandons prints tracebacks.
    """
    ours = {jax.tree_util.keystr(place, simple=True, separator='.'): leaf.shape
            for place, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    store = _store(path)
    for name in _arrays(store):
        shape = tuple(json.loads(store.read(f'{name}/.zarray').result().value)['shape'])
        if shape != ours.get(name, shape):
            raise BadInput(f'{name} is {shape} there, and {ours[name]} in this run')


def _read_through(path: Path) -> None:
    """Reads every array below path that has no digest, one after the other, and what is said of
    them; raises at the first that is damaged as far as their own formats tell."""
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
    # merged by several processes, and by one in earlier versions
    return ts.KvStore.open(merged if (path / 'manifest.ocdbt').exists() else plain).result()


def _arrays(store) -> list[str]:
    """The names of all arrays, of which there is one or more."""
    keys = [key.decode() for key in store.list().result()]
    names = [key.removesuffix('/.zarray') for key in keys if key.endswith('/.zarray')]
    if not names:
        raise BadInput('it holds no arrays')
    return names


def _metrics(path: Path) -> dict:
    """The metrics saved with a checkpoint, {} without.  Raises OSError or ValueError where they are
    damaged, or the state is missing."""
    file = path / 'metrics' / 'metrics'
    _verify(path, 'metrics/')
    if not (path / 'default').is_dir():
        raise BadInput('default is missing')
    return dict(json.loads(file.read_text())) if file.exists() else {}
