"""Protects a run: one program per workdir, an orderly stop on a signal, errors of a full disk."""
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
    """Training received a signal to stop, and has saved its state."""


@contextlib.contextmanager
def exclusive(workdir: Path):
    """Locks workdir against other programs.
    Raises: BadInput if another program holds the lock.

    The operating system releases the lock of a program that has died, so no stale lock remains.
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
                continue  # the file of a program that has just ended
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


collecting = []  # not empty during garbage collection; set before and cleared after other callbacks
gc.callbacks.insert(0, lambda phase, _: phase == 'start' and collecting.append(phase))
gc.callbacks.append(lambda phase, _: phase == 'stop' and collecting.clear())


def interrupted(number, _):
    """Handles SIGINT: raises KeyboardInterrupt. During garbage collection Python would print and
    ignore the exception; the signal is then sent again after 0.1 s.
    """
    if collecting:
        threading.Timer(.1, os.kill, (os.getpid(), number)).start()
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def stop_signals():
    """Yields a list to which SIGINT and SIGTERM add their names. A second SIGINT interrupts at
    once.
    """
    received = []

    def on_signal(number, frame):
        if received and number == signal.SIGINT:
            interrupted(number, frame)
            return
        received.append(signal.Signals(number).name)
        # not by print, which the signal may have interrupted
        os.write(1, b'\nfinishing what is under way and saving; once more stops at once\n')

    if threading.current_thread() is not threading.main_thread():  # only it gets signals
        yield received
        return
    previous = {number: signal.signal(number, on_signal)
                for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def report_full_disk(workdir: Path):
    """Converts an OSError of writing, such as a full disk, to BadInput."""
    try:
        yield
    except TimeoutError:  # a subclass of OSError; it concerns other processes
        raise
    except OSError as e:
        raise BadInput(f'{workdir} cannot be written ({e.strerror or e}); what was saved is kept: '
                       'make room and run the same command again') from e
