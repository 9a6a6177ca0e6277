"""Whoever is told to end does so within seconds, finishes the calls that it holds, and leaves nothing running."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa

from billing import importing
from billing.outages import approvals
from billing.outages.models import Step
from sandbox import postgres
from tenants.db import OPERATOR, Database
from tenants.models import Member
from tests.faults.processes import ROOT, eventually, kill
from tests.journeys import shop as shops
from tests.journeys.desk import Desk
from tests.journeys.shop import DECLARED, STARTED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who sent a signal, and has /proc")
BIN = Path(sys.executable).parent
WORKERS = [["flask", "worker"], ["celery", "--app", "wsgi.celery", "worker", "--concurrency=2", "--loglevel=INFO"]]
READY = b" ready."
CUSTOMERS = 12
A_FEW_SECONDS = 15.0
"""A machine that is busy with other tests takes longer than the two seconds that a worker waits for a message."""


@contextmanager
def begun(log: Path, command: list[str], **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`command` of this installation as the leader of a process group of its own, dead when the block ends."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    kept |= {"ENV_FILE": os.devnull, "CELERY_BROKER_URL": "memory://"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=ROOT, env=kept | environ, stdin=subprocess.DEVNULL, stdout=out,
            stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)


def told_to_end(process: "subprocess.Popen[bytes]", *, all_of_them: bool) -> int:
    """Its exit status after a SIGTERM, which it takes no longer than a few seconds for; its children are gone, too."""
    (os.killpg if all_of_them else os.kill)(process.pid, signal.SIGTERM)
    status = process.wait(A_FEW_SECONDS)
    eventually(lambda: not running(process.pid), f"nothing of group {process.pid} runs", A_FEW_SECONDS)
    return status


def running(group: int) -> list[str]:
    """Who runs in a process group. Who has ended, and was not asked how, does not."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            state, _parent, its_group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.parametrize("command", WORKERS, ids=lambda words: words[0])
def test_an_idle_worker_ends(clean_database: postgres.Urls, log: Path, command: list[str]) -> None:
    with begun(log, command, DATABASE_URL=clean_database.app) as process:
        eventually(lambda: READY in log.read_bytes(), "the worker is ready")
        assert told_to_end(process, all_of_them=True) == 0
    assert b"Traceback" not in log.read_bytes()
    assert b"SIGTERM" not in log.read_bytes()  # of a child that died of it


@pytest.mark.parametrize("all_of_them", [True, False], ids=["the whole group", "it alone"])
def test_a_worker_finishes_what_it_holds_and_begins_nothing_more(
    db: Database, clean_database: postgres.Urls, log: Path, all_of_them: bool
) -> None:
    with shops.opened() as shop:
        shop.sell(CUSTOMERS)
        shop.now(DECLARED)
        desk = Desk(shop, shop.house(db))
        importing.import_account(desk.house, "")
        id = desk.declare("facebook", STARTED)
        fingerprint = desk.waits(id)
        assert fingerprint is not None
        with db.work(OPERATOR) as session:
            by = session.get_one(Member, desk.people["approver"])
            approvals.approve(session, desk.house.clock.now(), id, by, fingerprint, "test")
        slow = {"match": {"method": "POST", "path": "/v1/credit_notes"}, "kind": "slow", "ms": 1_500}
        requests.post(f"{shop.url}/_sandbox/faults", json=slow, timeout=120).raise_for_status()
        at_the_shop = {"STRIPE_API_BASE": shop.url, "STRIPE_SECRET_KEY": shops.KEY, "CLOCK": "sandbox"}
        with begun(log, ["flask", "worker"], DATABASE_URL=clean_database.app, **at_the_shop) as process:
            eventually(lambda: states(db)["sent"] > 0, "a call is under way")
            began = time.monotonic()
            assert told_to_end(process, all_of_them=all_of_them) == 0, log.read_text()
            took = time.monotonic() - began
        found = states(db)
        assert found["succeeded"] >= 1
        assert found["sent"] == found["unknown"] == 0
        assert found["approved"] >= 1, f"it went on for {took:.0f} s"
        requests.delete(f"{shop.url}/_sandbox/faults", timeout=120).raise_for_status()
        desk.approve(id)
        # 31.00 x 90 h / 744 h = 3.75 each, once
        assert [charge["refunded"] for charge in shop.ledger()["charges"]] == [375] * CUSTOMERS
        desk.agrees(id)


def states(db: Database) -> Counter[str]:
    with db.work(OPERATOR) as session:
        return Counter(dict(session.execute(sa.select(Step.state, sa.func.count()).group_by(Step.state)).all()))


@pytest.mark.parametrize(
    ("command", "statuses"),
    [
        (["gunicorn", "--bind", "127.0.0.1:{port}", "wsgi:app"], {0}),
        (["waitress-serve", "--listen=127.0.0.1:{port}", "wsgi:app"], {0, -signal.SIGTERM}),
        (["flask", "run", "--port", "{port}"], {0, -signal.SIGTERM}),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_web_server_answers_and_ends(
    clean_database: postgres.Urls, log: Path, free_port: int, command: list[str], statuses: set[int]
) -> None:
    words = [word.format(port=free_port) for word in command]
    with begun(log, words, DATABASE_URL=clean_database.app) as process:
        eventually(lambda: answers(f"http://127.0.0.1:{free_port}/healthz"), f"it answers; {log}")
        measured = requests.get(f"http://127.0.0.1:{free_port}/metrics", timeout=120)
        assert (measured.status_code, "\noutage_ready 1.0\n" in measured.text) == (200, True), measured.text
        assert told_to_end(process, all_of_them=True) in statuses
    assert b"Traceback" not in log.read_bytes()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).json() == {"status": "ok"}
    except requests.ConnectionError:
        return False
