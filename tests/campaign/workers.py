"""Real Celery workers on a real broker, whose processes are killed one by one or all at once."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
KEPT: Final = ("PATH", "HOME", "LANG")
PATIENCE: Final = 60.0


class Worker:
    """One prefork worker with its children, in a process group of its own."""

    def __init__(self, environment: dict[str, str], log: Path, children: int) -> None:
        self._command = [
            sys.executable, "-m", "celery", "-A", "tests.campaign.worker:celery", "worker", "--pool=prefork",
            f"--concurrency={children}", "--without-gossip", "--without-mingle", "--without-heartbeat",
            "--loglevel=CRITICAL",
        ]  # fmt: skip
        self._environment = {name: os.environ[name] for name in KEPT if name in os.environ} | environment
        self._log = log
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        """Returns when its children are there: one that loses them earlier gives up."""
        name = f"--hostname={self._environment['QUEUE']}-{time.monotonic_ns()}@%h"
        with self._log.open("ab") as out:
            process = subprocess.Popen(
                [*self._command, name], cwd=ROOT, env=self._environment, stdout=out, stderr=out, start_new_session=True
            )
        until = time.monotonic() + PATIENCE
        while f"ready {process.pid}\n" not in self._log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the worker did not start:\n{self._log.read_text(errors='replace')[-3_000:]}")
            time.sleep(0.05)
        return process

    def children(self) -> list[int]:
        """The processes that do the work, alive just now."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [int(pid) for pid in listed.read_text().split()]
        except FileNotFoundError:
            return []

    def kill(self) -> None:
        """SIGKILL to all of it at once."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """As whatever watches over processes does, when this one has ended or is to end."""
        self.kill()
        self.process = self._start()
