"""The host's side of a run: restore, epoch, evaluate, record, save."""
import json
from pathlib import Path
import time

import jax
from ml_collections import ConfigDict

from gen_jax import checkpoint, loop, parallel, record
from gen_jax.data import points
from gen_jax.train.draw import can_reconstruct, draw, samples, shown
from gen_jax.train.run import (
    PRECISIONS, Run, collector, evaluator, load, maker, over, prepare, seen, tested)
from gen_jax.train.settings import claim, defaults, find, leaves, match, near, stored_config
from gen_jax.types import BadInput, State

POINTS = points.NAMES


class Trainer:
    """Compiled epochs of a run; `compile_seconds` and `seconds` of training add up as it works."""

    def __init__(self, run: Run):
        self.run, self.compiled = run, {}
        self.data = run.layout.place(run.data.train)
        self.seconds = self.compile_seconds = 0.

    def call(self, state: State, steps: int):
        """The compiled call of so many steps."""
        run = self.run
        if steps not in self.compiled:
            start = time.perf_counter()
            chunk = loop.training(run.model, run.data.prepare, len(run.data.train.x),
                                  run.config.batch, steps, run.layout.share)
            with jax.default_matmul_precision(run.config.precision):
                lowered = run.layout.compile(chunk, (0,)).lower(state, self.data, run.key)
            self.compiled[steps] = lowered.compile()
            self.compile_seconds += time.perf_counter() - start
        return self.compiled[steps](state, self.data, run.key)

    def epoch(self, state: State) -> tuple[State, dict[str, float]]:
        """A whole epoch.  Raises FloatingPointError with the first step of a loss not finite."""
        per_epoch, at_once = self.run.per_epoch, self.run.config.scan or self.run.per_epoch
        start, compiled = time.perf_counter(), self.compile_seconds
        sums = {}
        for done in range(0, per_epoch, at_once):
            steps = min(at_once, per_epoch - done)
            state, metrics, bad = self.call(state, steps)
            if int(bad) >= 0:
                raise FloatingPointError(int(bad))
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.) + float(value) * steps / per_epoch
        self.seconds += time.perf_counter() - start - (self.compile_seconds - compiled)
        return state, record.flat(sums, 'train')


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains until config.epochs, from the newest checkpoint in workdir where there is one."""
    run = parallel.together(prepare, config)
    claim(workdir, config)
    state = checkpoint.restore(workdir / 'checkpoints', run.state)
    saves = checkpoint.manager(workdir / 'checkpoints', best=config.eval.best)
    epoch = 0 if state is None else int(state.step) // run.per_epoch
    if parallel.anywhere(min(epoch, summary(workdir).get('epochs', 0)) >= config.epochs):
        print(f'this run is finished: {epoch} epochs, see {workdir}/summary.json; '
              'for more, raise --config.epochs')
        return
    if state is None:
        state = run.state
    else:
        print(f'going on after epoch {epoch}')
    spent = summary(workdir).get('seconds', 0.) if epoch else 0.
    log = record.Record(workdir, int(state.step))
    progress = record.Progress(config.epochs, epoch)
    trainer, evaluate = Trainer(run), evaluator(run)
    measured = {}

    def summarise(epoch):
        seconds, examples = spent + trainer.seconds, int(state.step) * config.batch
        record.write_json(workdir / 'summary.json', dict(
            model=config.model.name, dataset=config.data.name, epochs=epoch, steps=int(state.step),
            seconds=seconds, compile_seconds=trainer.compile_seconds,
            examples_per_second=examples / seconds if seconds else 0.,
            metrics=named_at_end(log.lines) | (measured or evaluate(state))))

    while epoch < config.epochs:
        try:
            state, named = trainer.epoch(state)
        except FloatingPointError as e:
            log.close()
            saves.wait_until_finished()
            kept = saves.latest_step()
            kept = 'nothing was saved' if kept is None else f'the checkpoint of step {kept} is kept'
            raise BadInput(f'the loss is not finite at step {e}; {kept}; '
                           'try a lower --config.model.rate') from None
        epoch += 1
        due = epoch % config.eval.every == 0 or epoch == config.epochs
        if due:
            measured = evaluate(state)
            named |= measured
            checkpoint.save(saves, state, measured)
        log.metrics(int(state.step), epoch, named)
        if due and epoch < config.epochs:  # so that a run that is killed knows its time
            summarise(epoch)
        done = epoch - progress.done
        progress(epoch, named, done * run.per_epoch * config.batch / trainer.seconds)
    saves.wait_until_finished()
    summarise(epoch)
    curves = record.curves(workdir / 'images' / 'curves.png', log.lines)
    drawn = [curves, *draw(run, parallel.local(state), workdir)]
    log.close()
    saves.close()
    print('pictures: ' + ', '.join(str(p) for p in drawn))


def named_at_end(lines: list[dict]) -> dict[str, float]:
    return {k: v for k, v in (lines[-1] if lines else {}).items() if '/' in k}


def summary(workdir: Path) -> dict:
    file = workdir / 'summary.json'
    return json.loads(file.read_text()) if file.exists() else {}
