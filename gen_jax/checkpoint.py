"""Checkpoints by orbax: asynchronous, atomic, the newest few kept and the best by a named metric."""
from pathlib import Path

import jax

from gen_jax.types import BadInput, State


def manager(folder: Path, *, keep: int = 3, best: str | None = None):
    """An orbax CheckpointManager that keeps the `keep` newest and the one of the lowest `best`."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import preservation_policy as policy
    kept = [policy.LatestN(keep)]
    if best:
        kept.append(policy.BestN(get_metric_fn=lambda m: m[best], reverse=True, n=1,
                                 keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy.AnyPreservationPolicy(kept), cleanup_tmp_directories=True,
        best_fn=(lambda m: m[best]) if best else None, best_mode='min')
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


def save(manager, state: State, metrics: dict[str, float]) -> None:
    """Starts writing the state under its step; returns before it is on disk."""
    import orbax.checkpoint as ocp
    manager.save(int(state.step), args=ocp.args.StandardSave(state._asdict()), metrics=metrics)


def restore(manager, like: State, *, best: bool = False, say=print) -> State | None:
    """The newest (or best) readable state, shaped and placed as `like`; None where there is none.

    A checkpoint that cannot be read is named, and the one before it used; the damaged one is
    removed only once another has been read.  Raises BadInput where none can be read.
    """
    import orbax.checkpoint as ocp
    steps = sorted(manager.all_steps(), reverse=True)
    if best and manager.best_step() in steps:
        steps.insert(0, steps.pop(steps.index(manager.best_step())))
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
    damaged = []
    for step in steps:
        try:
            state = State(**manager.restore(step, args=ocp.args.StandardRestore(abstract)))
        except Exception as e:  # every layer below has types of its own for a damaged file
            say(f'checkpoint {step} cannot be read ({type(e).__name__}); trying the one before it')
            damaged.append(step)
            continue
        for step in damaged:
            manager.delete(step)
        return state
    if steps:
        raise BadInput(f'no checkpoint in {manager.directory} can be read; move it away to start anew')
    return None
