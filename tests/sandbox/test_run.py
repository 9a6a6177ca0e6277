"""`flask sandbox run` as a process of its own: it answers once it holds its seed, keeps what it was told, and ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.cases import CASES, DECLARED
from sandbox.processes import ROOT

FLASK = str(Path(sys.executable).with_name("flask"))
READY = "sandbox ready on "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the command keeps its state: beside wsgi.py, and not in this project's own folder."""
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    return tmp_path


@contextmanager
def running(folder: Path, *words: str, stderr: int | None = None) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The process, and the first line that it prints; dead when the block ends."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    with subprocess.Popen(
        [FLASK, "sandbox", "run", "--port", "0", *words], cwd=folder, env=kept | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def ended(process: "subprocess.Popen[str]", order: signal.Signals) -> tuple[int, str]:
    """Its exit status, and what else it printed."""
    process.send_signal(order)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def asked(url: str, path: str, **form: str) -> Any:
    session = requests.Session()
    session.trust_env = False
    with session:
        session.headers["Authorization"] = "Bearer sk_test_sandbox"
        answer = session.post(url + path, form, timeout=120) if form else session.get(url + path, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()


def test_it_begins_empty_answers_and_keeps_what_it_was_told(folder: Path) -> None:
    with running(folder) as (process, line):
        assert line.startswith(f"{READY}http://127.0.0.1:")
        url = line.removeprefix(READY)
        assert asked(url, "/v1/customers")["data"] == []
        made = asked(url, "/v1/customers", name="Corner Bakery")["id"]
        assert ended(process, signal.SIGINT) == (0, "")
    with running(folder, "--json") as (process, line):
        assert [one["id"] for one in asked(json.loads(line)["url"], "/v1/customers")["data"]] == [made]
        assert ended(process, signal.SIGTERM) == (0, "")


def test_it_begins_with_the_story(folder: Path) -> None:
    with running(folder, "--seed", "story", "--json") as (process, line):
        url = json.loads(line)["url"]
        assert asked(url, "/_sandbox/clock")["now"] == DECLARED.timestamp()
        assert asked(url, "/v1/customers?limit=100")["has_more"]
        for case in CASES:
            (found,) = asked(url, f"/v1/customers?email={case.name.replace(' ', '-')}-co@example.com")["data"]
            assert found["metadata"] == {"agency": "harbour-social"}
        assert ended(process, signal.SIGTERM) == (0, "")


def test_a_seed_for_one_that_holds_something_is_not_passed_over_in_silence(folder: Path) -> None:
    with running(folder) as (process, line):
        asked(line.removeprefix(READY), "/v1/customers", name="Corner Bakery")
        ended(process, signal.SIGTERM)
    with running(folder, "--seed", "40", stderr=subprocess.PIPE) as (process, line):
        assert len(asked(line.removeprefix(READY), "/v1/customers")["data"]) == 1
        process.terminate()
        _, said = process.communicate(timeout=120)
    assert said == (
        f"It goes on with what it held: a seed fills a new one. To begin anew, remove {folder}/var/sandbox.journal.\n"
    )


def test_it_begins_with_so_many_invoices(folder: Path) -> None:
    with running(folder, "--seed", "40", "--json") as (process, line):
        url = json.loads(line)["url"]
        assert len(asked(url, "/v1/customers?limit=100")["data"]) == 2  # each billed for twenty weeks
        invoices = asked(url, "/v1/invoices?limit=100")["data"]
        assert [(one["total"], one["currency"]) for one in invoices] == [(700, "usd")] * 40
        assert {one["status"] for one in invoices[2:]} == {"paid"}  # the last of each may be a draft for an hour
        assert ended(process, signal.SIGTERM) == (0, "")
