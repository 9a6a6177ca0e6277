"""Processes that are made in a few milliseconds, to be killed: forks of one that has everything loaded and one thread.

`python -m tests.faults.forks MODULE` calls `MODULE.act(…)` with each line of JSON that it reads, in a fork or, to have
everything warm in the forks to come, in itself; and answers with how that ended: 0, or minus the signal that killed it.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300
"""Seconds after which a fork is killed by an alarm, so that nothing hangs."""


class Forks:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def act(self, *, here: bool = False, **told: Any) -> int:
        """Once, until the end of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([here, told]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def forking(module: str, log: Path) -> Iterator[Forks]:
    """What the forks print goes to `log`, tracebacks included."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    with log.open("ab") as out:
        command = [sys.executable, "-m", "tests.faults.forks", module]
        process = subprocess.Popen(
            command, cwd=ROOT, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True
        )
    try:
        yield Forks(process)
    finally:
        process.communicate()  # it ends when nobody tells it anything more


def _serve(module: str) -> None:
    act = importlib.import_module(module).act
    for line in sys.stdin:
        here, told = json.loads(line)
        print(_tried(act, told) if here else _forked(act, told), flush=True)


def _forked(act: Any, told: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE)
        os._exit(_tried(act, told))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _tried(act: Any, told: dict[str, Any]) -> int:
    try:
        act(**told)
    except BaseException:  # noqa: BLE001 - whatever it was, the test is told where to read it
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
