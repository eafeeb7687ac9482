"""So that no work is lost: one program for a workdir, and a request to stop that is heeded."""
import contextlib
import fcntl
import gc
import os
from pathlib import Path
import signal
import socket
import threading

from gen_jax.types import BadInput


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and has saved where it stands."""


@contextlib.contextmanager
def exclusive(workdir: Path):
    """Keeps other programs out of workdir.  Raises BadInput where one is in it.

    The system lets go of the lock of a program that is dead, so that none stays behind.
    """
    path = workdir / 'lock'
    while True:
        with path.open('a+') as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = False
            except BlockingIOError:
                locked = True
            file.seek(0)
            owner = file.read()
            if locked:
                raise BadInput(f'workdir {workdir} is in use by {owner or "another program"}; '
                               'wait for it, stop it, or give another --workdir')
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # of a program that has just ended
            if owner:
                print(f'{owner}, which had this workdir, is gone')
            file.truncate(0)
            file.write(f'process {os.getpid()} on {socket.gethostname()}')
            file.flush()
            try:
                yield
            finally:
                path.unlink()
            return


collecting = []  # whether Python is at it, before and after all other callbacks
gc.callbacks.insert(0, lambda phase, _: phase == 'start' and collecting.append(phase))
gc.callbacks.append(lambda phase, _: phase == 'stop' and collecting.clear())


def interrupted(number, _):
    """Raises KeyboardInterrupt, as a handler of SIGINT; a little later while garbage is collected,
    where Python would print and ignore it."""
    if collecting:
        threading.Timer(.1, os.kill, (os.getpid(), number)).start()
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def asked_to_stop():
    """A list that SIGINT and SIGTERM add their names to; a second SIGINT interrupts at once."""
    asked = []

    def note(number, frame):
        if asked and number == signal.SIGINT:
            interrupted(number, frame)
            return
        asked.append(signal.Signals(number).name)
        # not by print, which may just be at work
        os.write(1, b'\nfinishing what is under way and saving; once more stops at once\n')

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield asked
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def report_full_disk(workdir: Path):
    """Turns what writing raises, as on a full disk, into BadInput."""
    try:
        yield
    except TimeoutError:  # is one too, but of other processes
        raise
    except OSError as e:
        raise BadInput(f'{workdir} cannot be written ({e.strerror or e}); what was saved is kept: '
                       'make room and run the same command again') from e
