"""Runs commands in forks of one process that has the imports behind it, which take seconds each.

    python tests/warm.py

reads one command a line, as JSON: its arguments, folder, environment, and the files that its output
goes to.  It answers with the process number and, when the command has ended, with its status.
"""
import contextlib
import importlib
import json
import os
from pathlib import Path
import runpy
import sys

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ('gen_jax.sweep', 'gen_jax.train', 'gen_jax.evaluation', 'matplotlib.pyplot', 'optuna',
            'orbax.checkpoint', 'scipy.stats', 'sklearn.linear_model', 'sklearn.manifold',
            'tensorboardX', 'tensorflow_datasets')


def execute(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    """What `python ARGV` does there: -m MODULE or a file, with its arguments."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = cwd if argv[0] == '-m' else str(Path(argv[0]).parent)
    sys.argv = argv[argv[0] == '-m':]
    if argv[0] == '-m':
        runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    else:
        runpy.run_path(argv[0], run_name='__main__')


def forked(out: str, err: str, **command) -> int:
    """The number of a process that executes the command."""
    child = os.fork()
    if child:
        return child
    for path, stream in (os.devnull, 0), (out, 1), (err, 2):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), stream)
    sys.stdout.reconfigure(line_buffering=False)
    try:
        execute(**command)
    except SystemExit as e:
        status = e.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    else:
        status = 0
    finish(status or 0)


def finish(status: int) -> None:
    """As the interpreter ends: what threads do and what was registered first."""
    import atexit
    import threading
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main():
    sys.path.insert(0, str(ROOT))
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # what is in an extra
            importlib.import_module(name)
    for line in sys.stdin:
        child = forked(**json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == '__main__':
    main()
