"""Worker processes that a test starts, kills, and never leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0


@contextmanager
def worker(
    environment: dict[str, str], *, celery: bool, log: Path, concurrency: int = 2
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with its children in a process group of its own, dead when the block ends."""
    command = [sys.executable, "-m", "tests.faults.worker"]
    if celery:
        command = [
            sys.executable, "-m", "celery", "-A", "tests.faults.worker:celery", "worker", "--pool=prefork",
            f"--concurrency={concurrency}", "--without-gossip", "--without-mingle", "--loglevel=INFO",
            f"--hostname={environment.get('QUEUE', 'w')}-{time.monotonic_ns()}@%h",
        ]  # fmt: skip
    with _started(command, environment, log) as process:
        yield process


@contextmanager
def beat(environment: dict[str, str], *, log: Path, remembers: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A beat that rings every `LOOK_EVERY` seconds, dead when the block ends. `remembers` is a file of its own."""
    command = [
        sys.executable, "-m", "celery", "-A", "tests.faults.worker:celery", "beat", "--loglevel=INFO",
        f"--schedule={remembers}", "--pidfile=", "--max-interval=1",
    ]  # fmt: skip
    with _started(command, environment, log) as process:
        yield process


@contextmanager
def _started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=kept | environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the worker and its children, at once. Nothing of theirs runs any more when this returns."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def eventually(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait until `holds()`; fail with `what` when it never does."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"after {seconds} s still not: {what}"
        time.sleep(0.05)
