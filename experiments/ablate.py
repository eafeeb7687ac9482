"""A grid of trainings as few compiled programs: what a number in a config does.

    python experiments/ablate.py --config=configs/vae.py:mnist --sweep.model.beta=.25,.5,1,2,4,8 \\
        --sweep.model.latent=2,5,10,20,40 --sweep.seed=0,1,2 [--config.KEY=VALUE ...]

--sweep.KEY=A,B,... takes any number in the config.  Points that differ in numbers that can be
traced (beta, rates, weights, noise levels, seeds, and the latent size by masking) share a
compilation; others (batch, epochs, data.limit ...) have one for each value.  --how=map trains them
one after the other in one program, vmap side by side, shard over all devices; the default is map on
one CPU, vmap on one accelerator, shard on several devices.  --dry prints points, compilations and
memory, and trains nothing.  A grid that needs more than --memory gigabytes is trained in parts.

At the end each point is measured by --config.eval.metrics, see gen_jax.metrics; by default the nll
and active units, of models without a density the Frechet distance of samples.  The workdir then has
ablate.csv (a row per point and epoch, the last with the measures), ablate.md (means and deviations
over seeds), ablate.png and samples.png.  Killed, the same command goes on.

    python experiments/ablate.py ... --search=optuna --trials=50 --objective=test/nll

tries 50 points of the grid, chosen by Optuna's sampler, eight at a time; search.db keeps them.
"""
import csv
import json
from pathlib import Path
import re
import shlex
import sys
import time

from absl import flags
import jax
import numpy as np
from figures import over_seeds, pictures
from study import guarded

from gen_jax import data, main as cli, parallel, record, sweep, train
from gen_jax.types import BadInput

HOW = flags.DEFINE_enum('how', '', ('', *parallel.SIDE_BY_SIDE), 'how points are trained together')
DRY = flags.DEFINE_bool('dry', False, 'print what would be done')
YES = flags.DEFINE_bool('yes', False, 'also more than 10,000 points')
MEMORY = flags.DEFINE_float('memory', 0., 'gigabytes for a part of the grid; 0: most there are')
SEARCH = flags.DEFINE_enum('search', '', ('', 'optuna'), 'choose among the points')
TRIALS = flags.DEFINE_integer('trials', 50, 'points to try in a search', lower_bound=1)
OBJECTIVE = flags.DEFINE_string('objective', '', 'what a search makes least, and a heat map shows')
MANY, AT_ONCE, SHOWN = 10_000, 8, 9


def split(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """The flags for absl, and the lists of values by swept key."""
    swept = {}
    for word in argv:
        if result := re.match(r'--?sweep\.([^=]+)=(.*)', word):
            swept[result[1]] = result[2]
    return [w for w in argv if not re.match(r'--?sweep\.', w)], swept


class Ablation:
    """A workdir and what is known of its points."""

    def __init__(self, config, workdir: Path, grid: dict[str, list]):
        self.config, self.workdir, self.grid = config, workdir, grid
        self.before, self.since = train.summary(workdir), time.perf_counter()
        self.how = HOW.value or ('shard' if jax.device_count() > 1 else
                                 'map' if jax.default_backend() == 'cpu' else 'vmap')
        self.limit = MEMORY.value * 1e9 or sweep.memory()

    def evaluator(self, g: sweep.Group, most: int | None = None) -> sweep.Evaluator:
        return sweep.Evaluator(g, re.findall(r'\w+', self.config.eval.metrics), most)

    def file(self, point: dict) -> Path:
        return self.workdir / 'points' / f'{sweep.name(point)}.json'

    def by(self) -> dict:
        """What decides a point's result but for what the whole workdir shares."""
        e = self.config.eval
        return dict(epochs=self.config.epochs, metrics=e.metrics, k=e.k, features=e.features,
                    weights=e.weights)

    def known(self, point: dict) -> bool:
        return record.read_json(self.file(point), 'it is made again').get('by') == self.by()

    def measure(self, points: list[dict]) -> None:
        """Trains and measures those of the points that have not been."""
        for g in sweep.plan(self.config, points):
            if all(map(self.known, g.points)):
                continue
            print(f'{len(g.points)} points share a program, by {self.how}; they differ in '
                  f'{", ".join(g.traced) or "nothing"}', flush=True)
            evaluator = self.evaluator(g)
            for built, part in sweep.fitting(g, self.how, self.limit):
                if all(map(self.known, part)):
                    continue
                ends = sweep.follow(g, built, part, self.workdir / sweep.label(part))
                for point, (rows, state) in zip(part, ends):
                    if not self.known(point):
                        self.write(evaluator, point, rows, state)

    def write(self, evaluator: sweep.Evaluator, point: dict, rows: list[dict], state) -> None:
        result = dict(values=point, batch=evaluator.g.run.config.batch_size, by=self.by(),
                      rows=rows, metrics={}, samples=[])
        if state is not None:
            print(f'measuring {sweep.name(point)}', flush=True)
            samples = evaluator.samples(state, SHOWN)
            result |= dict(metrics=train.named_at_end(rows) | evaluator(point, state),
                           samples=[] if samples is None else samples.round(3).tolist())
        self.file(point).parent.mkdir(parents=True, exist_ok=True)
        record.write_json(self.file(point), result)
        self.summary()

    def summary(self, **result) -> None:
        """Keeps what is known of the whole grid, and the time it has taken so far."""
        spent = self.before.get('seconds', 0.) + time.perf_counter() - self.since
        record.write_json(self.workdir / 'summary.json',
                          self.before | dict(seconds=spent, **result))

    def result(self, points: list[dict]) -> list[dict]:
        return [json.loads(self.file(p).read_text()) for p in points]


def dry(ablation: Ablation, points: list[dict]) -> None:
    groups = sweep.plan(ablation.config, points)
    print(f'{len(points)} points, {len(groups)} compilation{"s" * (len(groups) > 1)}, '
          f'by {ablation.how}')
    for g in groups:
        parts = sweep.fitting(g, ablation.how, ablation.limit)
        most = max(built.bytes for built, _ in parts) / 1e9
        print(f'{len(g.points)} points that differ in {", ".join(g.traced) or "nothing"}: '
              f'{len(parts)} part{"s" * (len(parts) > 1)} of {most:.3f} GB; measured by '
              f'{", ".join(ablation.evaluator(g).names)}')


def check_objective(ablation: Ablation) -> None:
    """Raises BadInput where nobody measures it."""
    g = sweep.plan(ablation.config, sweep.grid(ablation.grid)[:1])[0]
    known = ablation.evaluator(g, most=200).known()
    if OBJECTIVE.value not in known:
        raise BadInput(
            f'objective {OBJECTIVE.value!r} is not measured'
            f'{train.closest_match(OBJECTIVE.value, known)}; there are {", ".join(known)}')


def search(ablation: Ablation) -> list[dict]:
    """The points that Optuna chose, measured; the objective is made least."""
    try:
        import optuna
    except ImportError:
        raise BadInput("--search=optuna needs Optuna: pip install '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=f'sqlite:///{ablation.workdir}/search.db', load_if_exists=True,
        study_name=json.dumps([OBJECTIVE.value, ablation.grid, ablation.by()]),  # or trials mix
        sampler=optuna.samplers.TPESampler(seed=ablation.config.seed, constant_liar=True))
    state, points = optuna.trial.TrialState, []
    while True:
        started = [t for t in study.trials if t.state == state.RUNNING and t.params]
        done = [t for t in study.trials if t.state in (state.COMPLETE, state.FAIL) and t.params]
        points = [t.params for t in done]
        if len(done) >= TRIALS.value:
            break
        asked = [(t.number, t.params) for t in started]
        for _ in range(min(AT_ONCE, TRIALS.value - len(done)) - len(asked)):
            trial = study.ask()
            asked.append((trial.number, {k: trial.suggest_categorical(k, v)
                                         for k, v in ablation.grid.items()}))
        ablation.measure([dict(p) for p in {sweep.name(p): p for _, p in asked}.values()])
        for number, point in asked:
            value = ablation.result([point])[0]['metrics'].get(OBJECTIVE.value)
            study.tell(number, value, state=state.FAIL if value is None else state.COMPLETE)
        best = 'none with a finite loss'
        if study.get_trials(deepcopy=False, states=[state.COMPLETE]):
            best = f'least {OBJECTIVE.value} {study.best_value:.4f} at ' \
                   f'{sweep.name(study.best_params)}'
        print(f'{len(done) + len(asked)} of {TRIALS.value} trials: {best}', flush=True)
    return list({sweep.name(p): p for p in points}.values())


def tables(workdir: Path, result: list[dict]) -> None:
    """ablate.csv, a row per point and epoch, the last with what was measured at the end; ablate.md,
    means and deviations over seeds."""
    lines = [f['values'] | row | (f['metrics'] if row is f['rows'][-1] else {})
             for f in result for row in f['rows']]
    columns = list(dict.fromkeys(k for line in lines for k in line if k != 'point'))
    with (workdir / 'ablate.csv').open('w', newline='') as f:
        writer = csv.DictWriter(f, columns, extrasaction='ignore')
        writer.writeheader()
        writer.writerows(lines)
    displayed = [k for k in dict.fromkeys(k for f in result for k in f['metrics'])
                 if k.startswith('test/') and k.count('/') == 1]
    keys = [k for k in result[0]['values'] if k != sweep.SEED]
    head = [*keys, 'seeds', *(k.removeprefix('test/') for k in displayed)]
    text = ['| ' + ' | '.join(head) + ' |', '|' + ' --- |' * len(head)]
    for key, members in over_seeds(result).items():
        alive = [m for m in members if m['metrics']]
        cells = [f'{v:g}' for v in key] + [f'{len(alive)} of {len(members)}']
        for k in displayed:
            values = [m['metrics'][k] for m in alive if k in m['metrics']]
            cells.append('' if not values else f'{np.mean(values):.4g}' + (
                f' +- {np.std(values):.2g}' if len(members) > 1 else ''))
        text.append('| ' + ' | '.join(cells) + ' |')
    (workdir / 'ablate.md').write_text('\n'.join(text) + '\n')
    print('\n'.join(text))


def headline(result: list[dict], objective: str) -> str:
    """How many points, and that of the least objective, or of the largest elbo."""
    alive = [f for f in result if objective in f['metrics']]
    if not alive:
        return f'{len(result)} points'
    most = objective == 'test/elbo'
    best = (max if most else min)(alive, key=lambda f: f['metrics'][objective])
    return f'{len(result)} points, {"largest" if most else "least"} ' \
           f'{objective.removeprefix("test/").replace("_", " ")} ' \
           f'{best["metrics"][objective]:.4g} at {sweep.name(best["values"])}'


def main(argv: list[str]) -> None:
    if cli.helped(argv, __doc__, (HOW, DRY, YES, MEMORY, SEARCH, TRIALS, OBJECTIVE)):
        return
    argv, words = split(argv)
    cli.parse(argv)
    config = cli.CONFIG.value
    if not words:
        raise BadInput('give a number to sweep, for example --sweep.model.beta=0.5,1,2')
    grid = {key: sweep.numbers(config, key, text) for key, text in words.items()}
    count = int(np.prod([len(v) for v in grid.values()]))
    if count > MANY and not (YES.value or SEARCH.value):
        raise BadInput(f'the grid has {count:,} points; give --yes for more than {MANY:,}')
    if SEARCH.value and not OBJECTIVE.value:
        raise BadInput('a search needs --objective, for example --objective=test/nll')
    source = Path(cli.source(argv).split(':')[0]).stem
    local = f'runs/ablate-{source}-{config.data.name.replace(":", "-")}'
    workdir = Path(cli.WORKDIR.value or local)
    print(f'{count:,} points of', end=' ')
    train.announce(config, workdir)
    ablation = Ablation(config, workdir, grid)
    if DRY.value:
        dry(ablation, sweep.grid(grid))
        return
    points = sweep.grid(grid)
    with train.lock_workdir(workdir, train.batched(config, len(data.load(**config.data).train.x))):
        if OBJECTIVE.value:
            check_objective(ablation)
        if SEARCH.value:
            points = search(ablation)
        else:
            ablation.measure(points)
        result = ablation.result(points)
        tables(workdir, result)
        measured = {k for f in result for k in f['metrics']}
        expected = [OBJECTIVE.value, *(f'test/{k}' for k in (  # loss is weighted by beta
            'nll', 'frechet_distance_classifier', 'frechet_distance_pixels', 'elbo', 'loss'))]
        objective = next((k for k in expected if k in measured), '')
        files = pictures(workdir, result, objective)
        (workdir / 'study.json').write_text(json.dumps(words))  # what readme.py knows studies by
        ablation.summary(
            command=shlex.join(['python', 'experiments/ablate.py', *(
                w for w in sys.argv[1:]
                if not re.match('--?(workdir|config.data.dir|how|memory)', w))]),
            headline=headline(result, objective), **record.machine())
    print(f'{workdir}/ablate.csv, ablate.md' + ''.join(f', {f.name}' for f in files))


if __name__ == '__main__':
    guarded('ablate', lambda: main(sys.argv))
