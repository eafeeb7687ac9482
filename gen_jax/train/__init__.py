"""The training loop on the host: restores a run, trains epochs, evaluates, records and saves."""
import contextlib
import math
from pathlib import Path
import time

import jax
from ml_collections import ConfigDict

from gen_jax import checkpoint, loop, parallel, record
from gen_jax.data import points
from gen_jax.train.pictures import can_reconstruct, save_pictures, samples, reconstruction_rows
from gen_jax.train.faults import Stopped, exclusive, stop_signals
from gen_jax.train.model_info import save, example_batch, test_examples
from gen_jax.train.run import (
    PRECISIONS, Run, announce, batched, collector, compile_evaluation, described, evaluator, load,
    maker, prepare)
from gen_jax.train.config import (BATCH, HERE, choose, lock_workdir, defaults, find_model, leaves,
                                  check_same_config, stored_config, update)
from gen_jax.train.streamed import feed
from gen_jax.types import BadInput, State, closest_match

POINTS = points.NAMES
MAX_ROLLBACKS = 10


class Trainer:
    """Calls the compiled epochs of a run.

    `seconds` and `compile_seconds` add up the time of training and of compilation. `sums` are the
    metrics of the current epoch so far, weighted by the number of steps. `rollbacks` counts how
    often training went back to a checkpoint; each time it continues with other random numbers.
    `start` is the loss of the first step, or nan for a model without one.
    """

    def __init__(self, run: Run):
        self.run, self.compiled, self.sums, self.rollbacks = run, {}, {}, 0
        self.feed = feed(run)
        self.data = None if self.feed else run.layout.place(run.data.train)
        self.seconds, self.compile_seconds, self.start = 0., 0., float('nan')

    def call(self, state: State, steps: int):
        """Makes one call of `steps` training steps; compiles for each number of steps once."""
        run = self.run
        data = self.feed(int(state.step), steps) if self.feed else self.data
        if steps not in self.compiled:
            start = time.perf_counter()
            args = run.model, run.data.prepare
            kwargs = dict(share=run.layout.share, skip=run.config.on_nan == 'skip')
            chunk = loop.streaming(*args, **kwargs) if self.feed else loop.training(
                *args, len(run.data.train.x), run.config.batch_size, steps, **kwargs)
            with jax.default_matmul_precision(run.config.precision):
                lowered = run.layout.compile(chunk, (0,)).lower(state, data, run.key)
            self.compiled[steps] = lowered.compile()
            self.compile_seconds += time.perf_counter() - start
        key = loop.stream(run.key, loop.AGAIN, self.rollbacks) if self.rollbacks else run.key
        return self.compiled[steps](state, data, key)

    def advance(self, state: State) -> tuple[State, dict[str, float] | None]:
        """Makes one more call; returns the state, and the metrics of the epoch if the call ends it,
        else None.
        Raises: FloatingPointError that names the metric that is not finite or impossible, and the
        step.
        """
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
        """The first flat metric that is not finite or impossible, in words; '' if there is none."""
        return loop.trouble({name.split('/')[1]: v for name, v in named.items()},
                            self.run.model.bounds)

    def resume(self, saved: dict[str, float], step: int) -> None:
        """Takes the values that were saved with the state of a step."""
        self.rollbacks = max(self.rollbacks, int(saved.get('again', 0)))
        self.start = saved.get('start', self.start)
        self.sums = {k: v for k, v in saved.items()
                     if k.startswith('train/') and step % self.run.per_epoch}

    def so_far(self) -> dict[str, float]:
        """The values to save with the state."""
        start = {} if math.isnan(self.start) else {'start': self.start}
        return self.sums | start | ({'again': self.rollbacks} if self.rollbacks else {})

    def epoch(self, state: State) -> tuple[State, dict[str, float]]:
        """Trains to the end of the epoch; returns the state and the metrics of the epoch. Raises as
        `advance`.
        """
        named = None
        while named is None:
            state, named = self.advance(state)
        return state, named


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains for config.epochs epochs, from the newest checkpoint in workdir if there is one.

    Raises: BadInput for a config that is inconsistent, for a workdir that cannot be written or is
    in use, and for metrics that are not finite or impossible; Stopped after SIGINT or SIGTERM, once
    everything is saved.
    """
    announce(config, workdir)
    run = parallel.collectively(prepare, config)
    print(described(run), flush=True)
    trainer, evaluate = Trainer(run), evaluator(run)
    config = run.config
    with lock_workdir(workdir, config), stop_signals() as received:
        if jax.process_index() == 0:
            save(workdir, run.known)
        finished = False
        while not finished:
            state = checkpoint.restore(workdir / 'checkpoints', run.state)
            with (checkpoint.manager(workdir / 'checkpoints', best=config.eval.best) as saves,
                  contextlib.ExitStack() as cleanup):
                finished = follow(run, trainer, evaluate, state, saves, workdir, received, cleanup)
            trainer.rollbacks += not finished


def follow(run: Run, trainer: Trainer, evaluate, state: State | None, saves, workdir: Path,
           received: list[str], cleanup: contextlib.ExitStack) -> bool:
    """Trains from a restored state, or from the initial one if `state` is None. Returns True at the
    end of training and False for a rollback. `cleanup` closes the progress line however this ends.
    """
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
    previous_seconds = summary(workdir).get('seconds', 0.) if first else 0.
    log, progress = record.Record(workdir, first), record.Progress(config.epochs, epoch)
    cleanup.callback(progress.end)
    start_seconds, measured = trainer.seconds, {}

    def summarise():
        seconds, examples = (previous_seconds + trainer.seconds - start_seconds,
                             int(state.step) * config.batch_size)
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
            last_saved = saves.latest_step()
            if (config.on_nan == 'rollback' and last_saved is not None
                    and trainer.rollbacks < MAX_ROLLBACKS):
                print(f'{e}; back to step {last_saved}, from there with other random numbers')
                return False
            last_saved = ('nothing was saved' if last_saved is None else
                          f'the checkpoint of step {last_saved} is kept')
            raise BadInput(f'{e}; {last_saved}; try a lower --config.optimiser.learning_rate, or '
                           '--config.precision=float32 where that is not so already') from None
        if named:
            epoch += 1
            if due:
                named |= measured
                checkpoint.save(saves, state, measured | trainer.so_far())
            log.metrics(int(state.step), epoch, named)
            if due and epoch < config.epochs:  # keeps the time if the run is killed
                summarise()
            examples = (int(state.step) - first) * config.batch_size
            progress(epoch, named, examples / (trainer.seconds - start_seconds), trainer.start, due)
        if epoch < config.epochs and parallel.any_process(bool(received)):
            if not due:
                checkpoint.save(saves, state, trainer.so_far())
            checkpoint.finish(saves)
            log.close()
            progress.end()
            sender = received[0] if received else 'another process'
            raise Stopped(f'stopped by {sender} after step {int(state.step)}, which is saved; '
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
    """The contents of summary.json; {} if it is missing or cannot be read."""
    return record.read_json(workdir / 'summary.json', 'it is written again when training ends')
