"""Commands as processes of their own: interrupted in the middle, without a terminal or standard input, two at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from billing import importing
from billing.outages import queries, tasks
from sandbox.postgres import Urls
from tenants.db import OPERATOR, Database
from tenants.models import OPERATOR_AGENCY, Agency, Member
from tenants.policy import set_policy
from tests.journeys import shop as shops
from tests.journeys.desk import Desk
from tests.journeys.shop import DECLARED, STARTED, Shop

ROOT = Path(__file__).resolve().parent.parent
FLASK = str(Path(sys.executable).with_name("flask"))
SINCE = ["--platform", "facebook", "--since", "2019-08-22T20:00Z"]
CUSTOMERS = 12


@pytest.fixture
def shop() -> Iterator[Shop]:
    with shops.opened() as opened:
        opened.sell(CUSTOMERS)
        opened.now(DECLARED)
        yield opened


@pytest.fixture
def desk(shop: Shop, db: Database) -> Desk:
    """Everything imported, and people: each customer is owed 3.75 of 31.00."""
    house = shop.house(db)
    importing.import_account(house, "")
    return Desk(shop, house)


@pytest.fixture
def surroundings(shop: Shop, database_urls: Urls) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    return kept | {
        "DATABASE_URL": database_urls.app, "STRIPE_API_BASE": shop.url, "STRIPE_SECRET_KEY": shops.KEY,
        "CLOCK": "sandbox", "CELERY_BROKER_URL": "memory://", "ENV_FILE": os.devnull,
    }  # fmt: skip


def begun(surroundings: dict[str, str], *words: str, **how: Any) -> "subprocess.Popen[str]":
    """As from a terminal, also where the tests run in the background: there interrupts are ignored, by children too."""
    out = subprocess.PIPE
    usual = {"stdin": out, "preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(
        [FLASK, *words], cwd=ROOT, env=surroundings, stdout=out, stderr=out, text=True, **usual | how
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    said, complained = process.communicate(timeout=120)
    assert "Traceback" not in complained, complained
    return process.returncode, said, complained


def refunded(shop: Shop) -> list[int]:
    return sorted(charge["refunded"] for charge in shop.ledger()["charges"])


def approving(desk: Desk) -> list[str]:
    """An incident that waits, and the words that approve it."""
    id = desk.declare("facebook", STARTED)
    fingerprint = desk.waits(id)
    assert fingerprint is not None
    return ["incidents", "approve", id, "--by", "approver@example.com", "--fingerprint", fingerprint, "--wait"]


def test_ctrl_c_in_the_middle_of_a_run_leaves_nothing_half_sent_and_another_worker_goes_on(
    desk: Desk, surroundings: dict[str, str]
) -> None:
    shop = desk.shop
    words = approving(desk)
    faults = f"{shop.url}/_sandbox/faults"
    held = {"match": {"method": "POST", "path": "/v1/credit_notes", "after": 2}, "kind": "slow", "ms": "release"}
    requests.post(faults, json=held, timeout=120).raise_for_status()
    process = begun(surroundings, *words, "--json")
    deadline = time.monotonic() + 110
    while sum(refunded(shop)) < 2 * 375 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # of two it is known, and the others are held on their way
    while process.poll() is None and time.monotonic() < deadline + 110:
        requests.post(f"{faults}/release", timeout=120).raise_for_status()  # one that has just begun is held by now
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
    status, said, complained = ended(process)
    assert (status, said) == (130, "")
    (sentence,) = [line for line in complained.splitlines() if line.startswith('{"error"')]  # beside what is logged
    assert json.loads(sentence)["error"]["code"] == "interrupted"
    given = refunded(shop)
    assert 2 <= given.count(375) < CUSTOMERS
    assert set(given) <= {0, 375}
    requests.delete(faults, timeout=120).raise_for_status()
    tasks.work_until_quiet(desk.house, words[2], 120)
    assert refunded(shop) == [375] * CUSTOMERS
    desk.agrees(words[2])


def test_two_that_approve_at_once_send_once(desk: Desk, surroundings: dict[str, str]) -> None:
    words = approving(desk)
    both = [ended(process) for process in [begun(surroundings, *words) for _ in range(2)]]
    (status, _said, complained) = max(both)
    assert sorted(one[0] for one in both) == [0, 1]
    assert status == 1
    assert "waits for" in complained
    assert refunded(desk.shop) == [375] * CUSTOMERS


def test_two_that_declare_the_same_outage_at_once_make_one(desk: Desk, surroundings: dict[str, str]) -> None:
    words = ["incidents", "declare", *SINCE, "--by", "finance@example.com"]
    both = [ended(process) for process in [begun(surroundings, *words) for _ in range(2)]]
    assert sorted(status for status, _said, _complained in both) == [0, 1]
    assert any("it overlaps incident" in complained for _status, _said, complained in both)
    with desk.house.database.work(OPERATOR) as session:
        assert len(queries.listed(session)) == 1


@pytest.mark.parametrize("words", [["incidents", "list"], ["incidents", "preview", *SINCE, "--json"]])
def test_without_a_terminal_or_standard_input_a_command_says_what_it_says(
    desk: Desk, surroundings: dict[str, str], words: list[str]
) -> None:
    bare = {name: value for name, value in surroundings.items() if name not in ("HOME", "LANG", "TMPDIR")}
    usual = ended(begun(surroundings, *words))
    assert usual[0] == 0
    for how in ({"start_new_session": True, "stdin": subprocess.DEVNULL}, {"preexec_fn": lambda: os.close(0)}):
        assert ended(begun(bare, *words, **how)) == usual


def test_a_file_from_a_standard_input_that_is_closed_is_refused(surroundings: dict[str, str], desk: Desk) -> None:
    status, said, complained = ended(
        begun(surroundings, "agencies", "load", "-", preexec_fn=lambda: os.close(0))
    )  # fmt: skip
    assert (status, said) == (2, "")
    assert "Standard input is closed: name a file." in complained


def test_a_machine_elsewhere_comes_to_the_same_numbers(desk: Desk, surroundings: dict[str, str]) -> None:
    """The operator counts by days of Kiritimati, UTC+14; the outage there is from the 23rd, 10:00 to the 27th, 04:00.

    Five of August's 31 days of 31.00 are 5.00 for each of the twelve: 60.00.
    """
    with desk.house.database.work(OPERATOR) as session:
        operator, finance = session.get_one(Agency, OPERATOR_AGENCY), session.get_one(Member, desk.people["finance"])
        operator.time_zone = "Pacific/Kiritimati"
        set_policy(session, desk.house.clock.now(), operator, {"granularity": "day"}, finance, "test")
    elsewhere = {"TZ": "Pacific/Auckland", "PGTZ": "Pacific/Auckland"}
    shown = []
    for zone in ({}, elsewhere):
        status, said, complained = ended(begun(surroundings | zone, "incidents", "preview", *SINCE, "--json"))
        assert status == 0, complained
        shown.append(json.loads(said))
    assert shown[0] == shown[1]
    assert [(one["currency"], one["amount"]) for one in shown[0]["totals"]] == [("usd", 6_000)]
    declared = ended(
        begun(surroundings | elsewhere, "incidents", "declare", *SINCE, "--by", "finance@example.com", "--json")
    )
    assert declared[0] == 0, declared
    incident = json.loads(declared[1])["id"]
    desk.approve(incident)
    assert desk.given() == {customer: {incident: 500} for customer in desk.shop.customers}
    assert refunded(desk.shop) == [500] * CUSTOMERS
    desk.agrees(incident)
