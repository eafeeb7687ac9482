"""gen_jax trains autoencoders, VAEs and GANs, and evaluates, samples and reconstructs with trained
runs.

    python -m gen_jax.main --config=vae
    python -m gen_jax.main --config=vae:mnist --config.epochs=3 --workdir=runs/mine
    python -m gen_jax.main --workdir=runs/mine --mode=evaluate --config.eval.metrics=nll
    python -m gen_jax.main --list
    python -m gen_jax.main --config=vae --describe

The same command again continues a run that was stopped.  --list names models, nets, data sets,
metrics and samplers; --describe, with a config or a workdir, every key, its value and meaning.
"""
import os
import signal

if __name__ == '__main__':  # the other imports take seconds
    def end(*_):
        os.write(2, b'\nstopped before anything was done\n')
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)

import difflib
from pathlib import Path
import re
import runpy
import sys

from absl import flags, logging
from ml_collections import config_flags

from gen_jax import checkpoint, evaluation, parallel, train
from gen_jax.data import cache
from gen_jax.train import config_from_flags, config_from_workdir, faults
from gen_jax.types import BadInput

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file('config', None, 'a file of configs/, and behind a colon '
                                         'the data set, where it is not the default of that file')
WORKDIR = flags.DEFINE_string('workdir', None, 'where the run is kept; default: runs/NAME-DATASET')
MODE = flags.DEFINE_enum('mode', 'train', ('train', *evaluation.MODES), 'what to do')
DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'compute with the other processes of this '
                                'TPU pod or Slurm job, in which the same command is started')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0, to compute with '
                                  'processes elsewhere')
PROCESS = flags.DEFINE_integer('process', None, 'which of the processes this is, from 0')
PROCESSES = flags.DEFINE_integer('processes', None, 'how many there are')
PATIENCE = flags.DEFINE_integer('patience', 100, 'seconds of silence after which another process '
                                'is held to be dead', lower_bound=1)
PROGRAM_FLAGS = CONFIG, WORKDIR, MODE, DISTRIBUTED, COORDINATOR, PROCESS, PROCESSES, PATIENCE
HELP = {'h', 'help', 'helpfull'}
PLACES = 'configs', Path(__file__).parents[1] / 'configs', Path(__file__).with_name('configs')
CONFIGS = next((p for p in map(Path, PLACES) if (p / 'vae.py').exists()), Path('configs'))
EXPECTED = dict(bool='True or False', tuple='whole numbers in brackets, as (256,)')  # by type


def parse(argv):
    """Parses the flags by absl. Raises BadInput of one line for every error."""
    argv = completed(argv)
    config = get_config(argv)
    try:
        rest = FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as e:
        raise BadInput(unknown_key(argv, config) or unknown_flag(argv, config, e) or
                       wrong_type(argv, e) or ' '.join(str(e).split())) from None
    if len(rest) > 1:
        raise BadInput(f'{rest[1]!r} is not a flag; overrides are written --config.KEY=VALUE')


def values(argv, name: str) -> list[str]:
    """All values that argv gives for a flag."""
    given = zip(argv[1:], [*argv[2:], ''])
    return [after if word.lstrip('-') == name else word.partition('=')[2] for word, after in given
            if re.match(f'--?{re.escape(name)}(=|$)', word)]


def source(argv) -> str:
    """The value of --config, FILE[:DATASET]; '' if it is not given."""
    return next(iter(values(argv, 'config')), '')


def completed(argv) -> list[str]:
    """argv with a complete --config: the file of a config that is given by name alone, or the
    config of the workdir's run if none is given; and, if argv names other parts
    (--config.net.name=NAME), a config with their keys.
    """
    name, colon, dataset = source(argv).partition(':')
    if re.fullmatch(r'\w+', name) and (CONFIGS / f'{name}.py').is_file():
        argv = with_config(argv, f'{CONFIGS / name}.py{colon}{dataset}')
    if not source(argv) and values(argv, 'workdir'):
        argv = with_config(argv, f'{config_from_workdir.__file__}:{values(argv, "workdir")[-1]}')
    names = {group: given[-1] for group in parts_of(argv)
             if (given := values(argv, f'config.{group}.name'))}
    if not names:
        return argv
    named = ','.join(f'{group}={name}' for group, name in names.items())
    return with_config(argv, f'{config_from_flags.__file__}:{named};{source(argv)}')


def with_config(argv, value: str) -> list[str]:
    """argv with this value of --config, instead of another where there is one."""
    at = [i for i, word in enumerate(argv) if re.match('--?config(=|$)', word)][:1] or [1]
    after = 0 if not source(argv) else 1 if '=' in argv[at[0]] else 2
    return [*argv[:at[0]], f'--config={value}', *argv[at[0] + after:]]


def parts_of(argv) -> list[str]:
    """The groups of the config whose part can be chosen by name."""
    if not source(argv) or not any('.name' in word for word in argv):
        return []
    return [group for group, keys in get_config(argv).items()
            if group not in ('model', 'data') and 'name' in getattr(keys, 'keys', dict)()]


def get_config(argv):
    """The config that its file returns. Raises BadInput if there is no such file, or it fails."""
    file, *dataset = source(argv).split(':', 1)
    if not file:
        raise BadInput('give a config, for example --config=configs/vae.py, or the --workdir of a '
                       'run; --help says more')
    if not Path(file).is_file():
        folder = next((f for f in (Path(file).parent, CONFIGS) if f.name and [*f.glob('*.py')]), '')
        known = [p.stem for p in sorted(folder.glob('*.py'))] if folder else []
        close = [':'.join([f'{folder}/{stem}.py', *dataset]) for stem in
                 difflib.get_close_matches(Path(file).stem, known, 1, cutoff=.4)]
        raise BadInput(f'config file {file!r} cannot be read'
                       + ''.join(f', did you mean --config={path}?' for path in close)
                       + f'; in {folder}/ there are {", ".join(known)}' * bool(known))
    try:
        module = runpy.run_path(file)
        if 'get_config' not in module:
            raise BadInput(f'config file {file!r} has no get_config, which a config needs; those '
                           f'in {CONFIGS}/ have one')
        return module['get_config'](*dataset)
    except BadInput:
        raise
    except Exception as e:  # from any user's program
        raise BadInput(f'config file {file!r} fails: {type(e).__name__}: '
                       f'{" ".join(str(e).split())}') from e


def unknown_key(argv, config) -> str | None:
    """The error message for the first --config.KEY that is not in the config."""
    known = list(train.leaves(config.to_dict()))
    for word in argv:
        key = word.lstrip('-').split('=')[0].removeprefix('config.')
        if word.lstrip('-').startswith('config.') and key not in known:
            leaf = [k for k in known if k.split('.')[-1] == key.split('.')[-1]]
            siblings = [k for k in known if k.rpartition('.')[0] == key.rpartition('.')[0]]
            close = (leaf or difflib.get_close_matches(key, siblings or known, 1, cutoff=0))[0]
            return f'unknown config key {key!r}; the nearest is {close!r}'
    return None


def unknown_flag(argv, config, e: Exception) -> str | None:
    """The error message for an unknown flag, which may be a key of the config."""
    if not isinstance(e, flags.UnrecognizedFlagError):
        return None
    keys = sorted(train.leaves(config.to_dict()), key=lambda key: -key.count('.'))
    known = {key.rpartition('.')[2]: f'config.{key}' for key in keys}
    known |= {key: f'config.{key}' for key in keys} | {name: name for name in FLAGS}
    close = difflib.get_close_matches(e.flagname, known, 1)
    value = ''.join(f'={v}' for v in values(argv, e.flagname)[:1] if v)
    suggestion = f', did you mean --{known[close[0]]}{value}?' if close else ''
    return f'there is no flag --{e.flagname}{suggestion}; --help says which there are'


def wrong_type(argv, e: Exception) -> str | None:
    """The error message for a value that does not have the type of its flag."""
    match = re.match(r'flag --([^=]+)=', str(e))
    if not isinstance(e, flags.IllegalFlagValueError) or not match or match[1] not in FLAGS:
        return None
    name, parser = match[1], FLAGS[match[1]].parser
    choices = getattr(parser, 'enum_values', ())
    kind = (f'one of {", ".join(choices)}' if choices else
            parser.syntactic_help or EXPECTED.get(parser.flag_type()))
    for value in values(argv, name):
        if kind and str(e).startswith(f'flag --{name}={value}: '):
            return f'{name.removeprefix("config.")} must be {kind}, not {value!r}' \
                   f'{train.closest_match(value, choices)}'
    return None


# Help


def helped(argv, about: str = __doc__, more_flags=()) -> bool:
    """Whether argv asks for help, a list or a description, which is then printed: `about` a program
    and its flags."""
    given = {word.lstrip('-') for word in argv if word.startswith('-')}
    if not given & (HELP | {'list', 'describe'}):
        return False
    from gen_jax import help
    if given & HELP:
        named = {f'--{flag.name}': FLAGS[flag.name] for flag in (*more_flags, *PROGRAM_FLAGS)}
        wide = 2 + max(map(len, named))
        print('\n'.join([help.folded(about), '', 'Flags:', *(help.filled(
            f'{name:{wide}}{flag.help}' + (f' [{flag.default}]' if flag.default else ''),
            more=wide * ' ') for name, flag in named.items())]))
    elif 'list' in given:
        print(help.listing(CONFIGS))
    else:
        argv = completed([word for word in argv if word.lstrip('-') != 'describe'])
        parse(argv)
        print(help.describe(CONFIG.value))
    return True


# Running


def join():
    """Joins the other processes if the flags ask for this."""
    given = COORDINATOR.value, PROCESS.value, PROCESSES.value
    if DISTRIBUTED.value or given != (None, None, None):
        parallel.join(*given, PATIENCE.value)


def workdir(argv) -> Path:
    name, data = Path(source(argv).split(':')[0]).stem, CONFIG.value.data.name
    return Path(WORKDIR.value or f'runs/{name}-{data.replace(":", "-")}')


def main(argv):
    with parallel.heartbeat():
        if MODE.value == 'train':
            train.train(CONFIG.value, workdir(argv))
        else:
            evaluation.run_mode(CONFIG.value, workdir(argv), MODE.value)


def guarded(argv):
    """Runs main and returns the exit status. Bad input prints one line and gives 1; an interruption
    prints one line and gives 130, or 0 once everything is saved.
    """
    try:
        if helped(argv):
            return 0
        parse(argv)
        join()
        main(argv)
    except BadInput as e:
        print(f'gen_jax: {e}', file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads it, as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except train.Stopped as e:
        print(e)
    except parallel.ProcessLost as e:
        print(f'gen_jax: {e}', file=sys.stderr, flush=True)
        return parallel.exit_process(1)
    except KeyboardInterrupt:
        print(f'\nstopped{interruption_message(argv)}', file=sys.stderr, flush=True)
        return parallel.exit_process(130)
    return 0


def interruption_message(argv) -> str:
    """What remains after an interruption, and what the same command will do."""
    if not FLAGS.is_parsed():
        return ' before anything was done'
    if MODE.value == 'evaluate':
        return f'; what was measured is in {workdir(argv)}/summary.json, and the same command ' \
               'measures all of it again'
    if MODE.value != 'train':
        return '; nothing was drawn, and the same command begins anew'
    step = checkpoint.newest_step(workdir(argv) / 'checkpoints')
    if step is None:
        return ' before the first checkpoint; the same command begins anew'
    return f'; the same command goes on from the checkpoint of step {step}'


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # libraries raise the errors that matter
    cache.keep_compiled()
    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, faults.interrupted)
    sys.exit(guarded(sys.argv))
