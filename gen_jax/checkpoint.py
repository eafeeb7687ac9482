"""Checkpoints by orbax: asynchronous, atomic, the newest few and the best by a named metric."""
import contextlib
import errno
import json
import os
from pathlib import Path
import re
import shutil

import jax

from gen_jax.types import BadInput, State

ROOM = 16_000_000


@contextlib.contextmanager
def manager(folder: Path, *, keep: int = 3, best: str | None = None):
    """An orbax CheckpointManager that keeps the `keep` newest and the one of the lowest `best`.

    On leaving, all is on disk and no thread writes below the folder any more, also after an error.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import preservation_policy as policy
    kept = [policy.LatestN(keep)]

    def score(metrics):  # a state that training stopped at has none
        return metrics.get(best, float('inf'))

    if best:
        kept.append(policy.BestN(get_metric_fn=score, reverse=True, n=1,
                                 keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy.AnyPreservationPolicy(kept), cleanup_tmp_directories=True,
        best_fn=score if best else None, best_mode='min')
    made = ocp.CheckpointManager(Path(folder).absolute(), options=options)
    try:
        yield made
    except BaseException:
        if jax.process_count() == 1:  # of several the others may be gone, and closing waits for all
            with contextlib.suppress(Exception):
                made.close()
        raise
    finish(made)
    made.close()


def save(manager, state: State, metrics: dict[str, float]) -> None:
    """Starts writing the state under its step; returns before it is on disk.  Raises OSError where
    it, or the one before, cannot be written."""
    import orbax.checkpoint as ocp
    step = int(jax.device_get(state.step).ravel()[0])  # one, or that of all side by side
    spare(manager.directory, sum(a.nbytes for a in jax.tree.leaves(state)))
    with _written():
        manager.save(step, args=ocp.args.StandardSave(state._asdict()), metrics=metrics)


def spare(folder: Path, needed: int = 0) -> None:
    """Raises OSError unless the disk has room for so many bytes and some pictures: before orbax and
    TensorBoard find out, whose threads print tracebacks."""
    if shutil.disk_usage(folder).free < needed + ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def finish(manager) -> None:
    """Waits until all is on disk.  Raises OSError where it cannot be written."""
    with _written():
        manager.wait_until_finished()


@contextlib.contextmanager
def _written():
    try:
        yield
    except (TimeoutError, jax.errors.JaxRuntimeError):  # of other processes
        raise
    except Exception as e:  # of types that its layers choose, with the system's words in them
        number = re.search(r"os_error_code='(\d+)'", str(e))
        number = getattr(e, 'errno', None) or int(number[1] if number else errno.EIO)
        raise OSError(number, os.strerror(number)) from e


def restore(folder: Path, like: State, *, best: str | None = None, say=print) -> State | None:
    """The newest readable state below folder, or that of the lowest metric `best`, shaped and
    placed as `like`; None where there is none.

    A checkpoint that cannot be read is named, and the one before it used; the damaged ones are
    removed once another has been read.  Raises BadInput where none can be read.
    """
    import orbax.checkpoint as ocp
    scores, damaged = {}, []
    for path in folder.glob('*') if folder.is_dir() else ():
        if path.name.isdigit():  # others are half-written, orbax' own to clean up
            scores[path] = _metrics(path)
    steps = sorted(scores, key=lambda path: int(path.name), reverse=True)
    if best:
        steps.sort(key=lambda path: (scores[path] or {}).get(best, float('inf')))
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    state = None
    for path in steps:
        try:
            if scores[path] is None:
                raise ValueError('parts of it are missing')
            if state is None:
                _read_through(path / 'default')
                with ocp.StandardCheckpointer() as reader:
                    state = State(**reader.restore((path / 'default').absolute(), abstract))
        except Exception as e:  # every layer below has types of its own for a damaged file
            damaged.append(path)
            say(f'checkpoint {path.name} cannot be read ({type(e).__name__}); '
                'trying the one before it')
    if steps and state is None:
        raise BadInput(f'no checkpoint in {folder} can be read; move it away to start anew')
    for path in damaged if jax.process_index() == 0 else ():
        shutil.rmtree(path)
    return state


def saved_with(folder: Path, step: int) -> dict[str, float]:
    """The metrics that were saved with the state of a step; {} where there are none."""
    return _metrics(folder / str(step)) or {}


def _read_through(path: Path) -> None:
    """Reads every array below path, one after the other, and what is said of them; raises at the
    first that is damaged.

    orbax reads them all at once, and those it abandons at an error print tracebacks of their own.
    """
    import tensorstore as ts
    store = dict(driver='ocdbt', base=path.absolute().as_uri() + '/')
    keys = [key for key in ts.KvStore.open(store).result().list().result()
            if key.endswith(b'/.zarray')]
    if not keys:
        raise ValueError('it holds no arrays')
    for file in (path / 'array_metadatas').glob('*'):
        json.loads(file.read_text())
    for key in keys:
        array = dict(driver='zarr', kvstore=store | dict(path=key[:-len('.zarray')].decode()))
        ts.open(array, open=True).result().read().result()


def _metrics(path: Path) -> dict | None:
    """The metrics saved with a checkpoint, {} without; None where they or the state are damaged."""
    file = path / 'metrics' / 'metrics'
    try:
        found = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and (path / 'default').is_dir() else None
