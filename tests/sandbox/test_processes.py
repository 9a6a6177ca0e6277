"""What the demo starts is gone when it ends, in whatever way it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox.processes import ROOT, Ended, Processes, ProcessFailed, ended_by_signals, port_is_free

SLEEP = [sys.executable, "-u", "-c", "import time; print('up'); time.sleep(600)"]


def up(said: str) -> bool:
    return "up" in said


def runs(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pid_in(log: Path) -> int:
    return int(log.read_text().split()[0])


def test_all_are_ended_in_the_reverse_order(tmp_path: Path) -> None:
    ended: list[str] = []
    with Processes(tmp_path) as processes:
        processes.at_the_end(lambda: ended.append("database"))
        processes.start("first", SLEEP, None, up)
        processes.start("second", SLEEP, None, up)
        pids = [process.pid for process in processes._running.values()]
        assert all(runs(pid) for pid in pids)

    assert not any(runs(pid) for pid in pids)
    assert ended == ["database"]


def test_one_that_ends_by_itself_is_named_with_its_last_words(tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('no such table')"]

    with Processes(tmp_path) as processes, pytest.raises(ProcessFailed, match=r"web server ended.*\n?.*no such table"):
        processes.start("web server", broken, None, up)


@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(tmp_path: Path, order: signal.Signals) -> None:
    with ended_by_signals(), pytest.raises(Ended), Processes(tmp_path) as processes:
        processes.start("one", SLEEP, None, up)
        pids = [process.pid for process in processes._running.values()]
        os.kill(os.getpid(), order)
        time.sleep(10)

    assert not any(runs(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_parent_that_is_killed_takes_its_children_along(tmp_path: Path) -> None:
    child = "import os, time; print(os.getpid(), 'up', flush=True); time.sleep(600)"
    parent = (
        "import sys, time; from pathlib import Path; from sandbox.processes import Processes\n"
        f"with Processes(Path({str(tmp_path)!r})) as them:\n"
        f"    them.start('child', [sys.executable, '-c', {child!r}], None, lambda said: 'up' in said)\n"
        "    print('started', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        pid = pid_in(tmp_path / "child.log")
        assert runs(pid)
        process.kill()

    deadline = time.monotonic() + 60
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(pid)


def test_a_port_that_somebody_listens_on_is_taken(free_port: int) -> None:
    assert port_is_free(free_port)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port))
        listener.listen()

        assert not port_is_free(free_port)
