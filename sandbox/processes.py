"""The demo's processes: started one by one, watched while they serve, ended in the reverse order whatever happens."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 60.0
"""Seconds for a process to answer after its start, and to end after it was asked to."""
DIE_WITH_PARENT: Final = 1
"""PR_SET_PDEATHSIG of Linux's prctl(2)."""
LAST_WORDS: Final = 2_000
ORDERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(Exception):
    """Somebody asked the demo to end: Ctrl-C, a closed terminal, or a polite kill."""

    serving = False
    """Whether the story had been told by then."""


class ProcessFailed(Exception):
    """A process of the demo did not start, ended by itself or said no; the message has its last words."""


class Processes:
    """Children of this process, each with a log of its own in `logs`. Use as a context: at its end nothing is left."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: list[Callable[[], object]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        with _unheard():  # whoever asks again to end must not leave the half of it running
            for name in reversed(list(self._running)):
                self.end(name)
            for end in reversed(self._ending):
                end()

    def at_the_end(self, end: Callable[[], object]) -> None:
        """Call `end` when every process has ended."""
        self._ending.append(end)

    def start(self, name: str, command: list[str], env: Mapping[str, str] | None, ready: Callable[[str], bool]) -> str:
        """Start a process; what it has printed once `ready` says yes to that. Raises `ProcessFailed`.

        Only from the main thread: on Linux it lives as long as the thread that started it.
        """
        log = self._logs / f"{name}.log"
        with log.open("wb") as output:
            # A session of its own: a Ctrl-C in the terminal is for the demo, which then ends its children in order.
            self._running[name] = subprocess.Popen(
                command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=_die_with(os.getpid()) if sys.platform == "linux" else None,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not ready(said := self._output(name)):
            self.check()
            if time.monotonic() > deadline:
                raise ProcessFailed(
                    f"The {name} does not answer after {PATIENCE:.0f} seconds. {self._last_words(name)}"
                )
            time.sleep(0.05)  # it writes to a file
        return said

    def check(self) -> None:
        """Raise `ProcessFailed` when one of them has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise ProcessFailed(f"The {name} ended by itself ({process.returncode}). {self._last_words(name)}")

    def end(self, name: str) -> None:
        """Ask a process to end, and insist when it does not. Safe for one that has ended."""
        process = self._running.pop(name)
        for order in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(order)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=PATIENCE / 4)
                return

    def _output(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text("utf-8", "replace")

    def _last_words(self, name: str) -> str:
        said = self._output(name)[-LAST_WORDS:].strip()
        return f"Its last words, in {self._logs / f'{name}.log'}:\n{said}" if said else "It said nothing."


def _die_with(parent: int) -> Callable[[], None]:
    """For a child on Linux: end when `parent` does, even if that is killed and can end nobody."""
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        prctl(DIE_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the arrangement
            os._exit(1)

    return arrange


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Ended` here for SIGINT, SIGTERM and SIGHUP; once that has happened, further ones are not heard."""

    def end(number: int, _frame: FrameType | None) -> None:
        for order in ORDERS:
            signal.signal(order, signal.SIG_IGN)
        raise Ended(signal.Signals(number).name)

    with _heard_by(end):
        yield


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    with _heard_by(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _heard_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    before = {order: signal.signal(order, handler) for order in ORDERS}
    try:
        yield
    finally:
        for order, one in before.items():
            signal.signal(order, one)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a second demo may follow
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def a_free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
