"""How a worker stops: it finishes what it holds and begins nothing more; and its children heed nobody but it."""

import mmap
import os
import signal
import threading
import time
from typing import Final

_ASKED: Final = mmap.mmap(-1, 1)
"""One byte that a worker shares with the children that it forks: whether it was asked to stop."""


def ask() -> None:
    """Begin nothing more, in this process and in those that it forked. Safe in a signal's handler."""
    _ASKED[0] = 1


def asked() -> bool:
    """Whether this worker is to stop after what it holds."""
    return _ASKED[0] == 1


def time_is_up(until: float) -> bool:
    """Whether a task leaves the rest to the next one: after `until` (time.monotonic()), or as its worker stops."""
    return asked() or time.monotonic() >= until


def heed_the_parent_alone() -> None:
    """In a child of a worker's pool: be ended by a SIGTERM of the parent, and by none that somebody sends to all.

    Terminals, supervisors and systemd ask a whole group of processes to end. A child that heeds that dies in the middle
    of a call, or with the lock of its siblings' queue, for which the parent then waits for ever.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS cannot say who sent it
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_heed, name="heed", daemon=True).start()


def _heed() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)
