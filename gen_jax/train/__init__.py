"""The host's side of a run: restore, epoch, evaluate, record, save."""
import contextlib
import math
from pathlib import Path
import time

import jax
from ml_collections import ConfigDict

from gen_jax import checkpoint, loop, parallel, record
from gen_jax.data import points
from gen_jax.train.pictures import can_reconstruct, save_pictures, samples, reconstruction_rows
from gen_jax.train.faults import Stopped, exclusive, asked_to_stop
from gen_jax.train.model_info import save, example_batch, test_examples
from gen_jax.train.run import (
    PRECISIONS, Run, announce, batched, collector, described, evaluator, load, maker, over, prepare)
from gen_jax.train.config import (BATCH, HERE, choose, lock_workdir, defaults, find_model, leaves,
                                  check_same_config, stored_config, update)
from gen_jax.train.streamed import feed
from gen_jax.types import BadInput, State, closest_match

POINTS = points.NAMES
ROLLBACKS = 10


class Trainer:
    """Compiled epochs of a run; `compile_seconds` and `seconds` of training add up as it works.

    sums: the metrics of an epoch that is not over, weighed by its steps; again: how often training
    was taken up again after a rollback, with other random numbers each time; start: the loss of the
    first step, of a model with one.
    """

    def __init__(self, run: Run):
        self.run, self.compiled, self.sums, self.again = run, {}, {}, 0
        self.feed = feed(run)
        self.data = None if self.feed else run.layout.place(run.data.train)
        self.seconds, self.compile_seconds, self.start = 0., 0., float('nan')

    def call(self, state: State, steps: int):
        """The compiled call of so many steps."""
        run = self.run
        data = self.feed(int(state.step), steps) if self.feed else self.data
        if steps not in self.compiled:
            start = time.perf_counter()
            what = run.model, run.data.prepare
            more = dict(share=run.layout.share, skip=run.config.on_nan == 'skip')
            chunk = loop.streaming(*what, **more) if self.feed else loop.training(
                *what, len(run.data.train.x), run.config.batch_size, steps, **more)
            with jax.default_matmul_precision(run.config.precision):
                lowered = run.layout.compile(chunk, (0,)).lower(state, data, run.key)
            self.compiled[steps] = lowered.compile()
            self.compile_seconds += time.perf_counter() - start
        key = loop.stream(run.key, loop.AGAIN, self.again) if self.again else run.key
        return self.compiled[steps](state, data, key)

    def advance(self, state: State) -> tuple[State, dict[str, float] | None]:
        """One call more, and the metrics of an epoch that ends with it.  Raises FloatingPointError
        that says what is wrong, and at which step."""
        per_epoch = self.run.per_epoch
        at_once = self.feed.at_once if self.feed else self.run.config.steps_per_call or per_epoch
        done = int(state.step) % per_epoch
        steps = min(at_once - done % at_once, per_epoch - done)
        start, compiled = time.perf_counter(), self.compile_seconds
        state, metrics, bad = self.call(state, steps)
        first, means = float(metrics.pop('start', float('nan'))), record.flat(metrics, 'train')
        if int(state.step) == steps:
            self.start = first
        bad = int(bad)
        self.seconds += time.perf_counter() - start - (self.compile_seconds - compiled)
        if bad >= 0 and self.run.config.on_nan != 'skip':
            raise FloatingPointError(f'{self.trouble(means)} at step {bad}')
        for name, value in means.items():
            self.sums[name] = self.sums.get(name, 0.) + value * steps / per_epoch
        if done + steps < per_epoch:
            return state, None
        named, self.sums = self.sums, {}
        if named.get('train/skipped', 0) > 1 - .5 / per_epoch:
            raise FloatingPointError(f'{self.trouble(means)} at step {bad}')
        return state, named

    def trouble(self, named: dict[str, float]) -> str:
        """What is not finite, or impossible, among flat metrics."""
        return loop.trouble({name.split('/')[1]: v for name, v in named.items()},
                            self.run.model.bounds)

    def resume(self, saved: dict[str, float], step: int) -> None:
        """Takes up what was saved with the state of a step."""
        self.again = max(self.again, int(saved.get('again', 0)))
        self.start = saved.get('start', self.start)
        self.sums = {k: v for k, v in saved.items()
                     if k.startswith('train/') and step % self.run.per_epoch}

    def so_far(self) -> dict[str, float]:
        """What is to be saved with the state."""
        start = {} if math.isnan(self.start) else {'start': self.start}
        return self.sums | start | ({'again': self.again} if self.again else {})

    def epoch(self, state: State) -> tuple[State, dict[str, float]]:
        """What is left of an epoch, and the metrics of all of it.  Raises as `advance`."""
        named = None
        while named is None:
            state, named = self.advance(state)
        return state, named


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains until config.epochs, from the newest checkpoint in workdir where there is one.

    Raises BadInput for what does not fit together, for a workdir that cannot be written or is in
    use and for metrics that are not finite or impossible; Stopped after SIGINT or SIGTERM, when all
    is saved.
    """
    announce(config, workdir)
    run = parallel.collectively(prepare, config)
    print(described(run), flush=True)
    trainer, evaluate = Trainer(run), evaluator(run)
    config = run.config
    with lock_workdir(workdir, config), asked_to_stop() as asked:
        if jax.process_index() == 0:
            save(workdir, run.known)
        finished = False
        while not finished:
            state = checkpoint.restore(workdir / 'checkpoints', run.state)
            with (checkpoint.manager(workdir / 'checkpoints', best=config.eval.best) as saves,
                  contextlib.ExitStack() as cleanup):
                finished = follow(run, trainer, evaluate, state, saves, workdir, asked, cleanup)
            trainer.again += not finished


def follow(run: Run, trainer: Trainer, evaluate, state: State | None, saves, workdir: Path,
           asked: list[str], cleanup: contextlib.ExitStack) -> bool:
    """Trains from a restored state on, or from the first; whether to the end, or to a rollback.
    held: what is ended with it, whatever ends it."""
    config = run.config
    first = 0 if state is None else int(state.step)
    epoch = first // run.per_epoch
    if parallel.any_process(min(epoch, summary(workdir).get('epochs', 0)) >= config.epochs):
        print(f'this run is finished: {epoch} epochs, see {workdir}/summary.json; '
              'for more, raise --config.epochs')
        return True
    if state is None:
        state = run.state
    else:
        print(f'going on after epoch {epoch}')
        trainer.resume(checkpoint.saved_metrics(workdir / 'checkpoints', first), first)
    spent = summary(workdir).get('seconds', 0.) if first else 0.
    log, progress = record.Record(workdir, first), record.Progress(config.epochs, epoch)
    cleanup.callback(progress.end)
    began, measured = trainer.seconds, {}

    def summarise():
        seconds, examples = spent + trainer.seconds - began, int(state.step) * config.batch_size
        metrics = named_at_end(log.last) | (measured or evaluate(state))
        record.write_json(workdir / 'summary.json', dict(
            model=config.model.name, dataset=config.data.name, epochs=epoch, steps=int(state.step),
            seconds=seconds, compile_seconds=trainer.compile_seconds,
            examples_per_second=examples / seconds if seconds else 0., **record.machine(),
            alarms=record.alarms(metrics, trainer.start), metrics=metrics))

    while epoch < config.epochs:
        try:
            state, named = trainer.advance(state)
            due = bool(named) and ((epoch + 1) % config.eval.every == 0
                                   or epoch + 1 == config.epochs)
            if due:
                measured = evaluate(state)
                if wrong := trainer.trouble(measured):
                    raise FloatingPointError(f'{wrong} in the evaluation at step {int(state.step)}')
        except FloatingPointError as e:
            progress.end()
            log.close()
            checkpoint.finish(saves)
            kept = saves.latest_step()
            if config.on_nan == 'rollback' and kept is not None and trainer.again < ROLLBACKS:
                print(f'{e}; back to step {kept}, from there with other random numbers')
                return False
            kept = 'nothing was saved' if kept is None else f'the checkpoint of step {kept} is kept'
            raise BadInput(f'{e}; {kept}; try a lower --config.optimiser.learning_rate, or '
                           '--config.precision=float32 where that is not so already') from None
        if named:
            epoch += 1
            if due:
                named |= measured
                checkpoint.save(saves, state, measured | trainer.so_far())
            log.metrics(int(state.step), epoch, named)
            if due and epoch < config.epochs:  # so that a run that is killed knows its time
                summarise()
            examples = (int(state.step) - first) * config.batch_size
            progress(epoch, named, examples / (trainer.seconds - began), trainer.start, due)
        if epoch < config.epochs and parallel.any_process(bool(asked)):
            if not due:
                checkpoint.save(saves, state, trainer.so_far())
            checkpoint.finish(saves)
            log.close()
            progress.end()
            by = asked[0] if asked else 'another process'
            raise Stopped(f'stopped by {by} after step {int(state.step)}, which is saved; '
                          'the same command goes on from there')
    checkpoint.finish(saves)
    summarise()
    curves = record.curves(workdir / 'images' / 'curves.png', record.read_lines(log.file))
    files = [curves, *save_pictures(run, parallel.to_host(state), workdir)]
    log.close()
    print('pictures: ' + ', '.join(str(p) for p in files))
    return True


def named_at_end(lines: list[dict]) -> dict[str, float]:
    return {k: v for k, v in (lines[-1] if lines else {}).items() if '/' in k}


def summary(workdir: Path) -> dict:
    """What summary.json says; {} where there is none, or none that can be read."""
    return record.read_json(workdir / 'summary.json', 'it is written again when training ends')
