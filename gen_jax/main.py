"""python -m gen_jax.main --config=configs/NAME.py[:DATASET] [--workdir=DIR] [--mode=MODE] ..."""
import difflib
from pathlib import Path
import runpy
import sys

from absl import flags, logging
from ml_collections import config_flags

from gen_jax import parallel, train, trained
from gen_jax.data import cache
from gen_jax.types import BadInput

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file('config', None, 'configs/NAME.py[:DATASET]')
WORKDIR = flags.DEFINE_string('workdir', None, 'where the run is kept; default: runs/NAME-DATASET')
MODE = flags.DEFINE_enum('mode', 'train', ('train', *trained.MODES), 'what to do')
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'compute with the other processes of this '
                                'TPU pod or Slurm job, in which the same command is started')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0, to compute with '
                                  'processes elsewhere')
PROCESS = flags.DEFINE_integer('process', None, 'which of the processes this is, from 0')
PROCESSES = flags.DEFINE_integer('processes', None, 'how many there are')
PATIENCE = flags.DEFINE_integer('patience', 100, 'seconds of silence after which another process '
                                'is held to be dead', lower_bound=1)


def parse(argv):
    """absl's parsing, every error as BadInput of one line."""
    try:
        rest = FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
        raise BadInput(unknown_key(argv) or ' '.join(str(e).split())) from None
    if len(rest) > 1:
        raise BadInput(f'{rest[1]!r} is not a flag; overrides are written --config.KEY=VALUE')
    if not source(argv):
        raise BadInput('give a config, for example --config=configs/vae.py')
    get_config(argv)


def source(argv) -> str:
    """The --config flag's value: FILE[:DATASET]."""
    words = [word.lstrip('-') if word.startswith('-') else word for word in argv]
    return next((w.partition('=')[2] for w in words if w.startswith('config=')),
                next((after for w, after in zip(words, words[1:]) if w == 'config'), ''))


def get_config(argv):
    """The config as its file has it.  Raises BadInput where there is no such file."""
    file, *dataset = source(argv).split(':', 1)
    if not Path(file).is_file():
        beside = sorted(str(p) for p in Path(file).parent.glob('*.py'))
        raise BadInput(f'config file {file!r} cannot be read' + (
            f'; there are {", ".join(beside)}' if beside else ''))
    return runpy.run_path(file)['get_config'](*dataset)


def unknown_key(argv) -> str | None:
    """What to say of the first --config.KEY that is not in the config."""
    known = [f'{k}.{sub}' if sub else k for k, v in get_config(argv).items()
             for sub in (v.keys() if hasattr(v, 'keys') else [''])]
    for word in argv:
        key = word.lstrip('-').split('=')[0].removeprefix('config.')
        if word.lstrip('-').startswith('config.') and key not in known:
            leaf = [k for k in known if k.split('.')[-1] == key.split('.')[-1]]
            near = (leaf or difflib.get_close_matches(key, known, 1, cutoff=0))[0]
            return f'unknown config key {key!r}; the nearest is {near!r}'
    return None


def join():
    """Joins the other processes, where the flags speak of them."""
    given = COORDINATOR.value, PROCESS.value, PROCESSES.value
    if DISTRIBUTED.value or given != (None, None, None):
        parallel.join(*given, PATIENCE.value)


def main(argv):
    config = CONFIG.value
    workdir = Path(WORKDIR.value or
                   f'runs/{Path(source(argv).split(":")[0]).stem}-'
                   f'{config.data.name.replace(":", "-")}')
    with parallel.watched():
        if MODE.value == 'train':
            train.train(config, workdir)
        else:
            trained.use(config, workdir, MODE.value)


def guarded(argv):
    """main; bad input becomes one line and status 1, an interruption a word and status 130, or 0
    where all is saved."""
    try:
        parse(argv)
        join()
        main(argv)
    except BadInput as e:
        print(f'gen_jax: {e}', file=sys.stderr)
        return 1
    except train.Stopped as e:
        print(e)
    except parallel.Lost as e:
        print(f'gen_jax: {e}', file=sys.stderr, flush=True)
        return parallel.leave(1)
    except KeyboardInterrupt:
        print('\nstopped; the same command goes on from the newest checkpoint', file=sys.stderr,
              flush=True)
        return parallel.leave(130)
    return 0


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # what matters of libraries' errors is raised
    cache.keep_compiled()
    sys.exit(guarded(sys.argv))
