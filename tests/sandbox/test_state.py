"""The clock, the state file, and what becomes of both when the sandbox is stopped or killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stripe import StripeClient

from sandbox.stripe.server import start_in_thread
from tests.sandbox.conftest import NOON, Sandbox
from tests.sandbox.payments import paid, plain

ROOT = Path(__file__).parents[2]


def whole(sandbox: Sandbox) -> dict[str, Any]:
    """Everything that can be seen of the default account."""
    lists = (
        "customers",
        "charges",
        "payment_intents",
        "refunds",
        "products",
        "prices",
        "disputes",
        "events",
        "balance_transactions",
    )
    seen = {name: sandbox.raw("GET", f"/v1/{name}?limit=100").json() for name in lists}
    return seen | {"ledger": sandbox.control("GET", "ledger"), "clock": sandbox.control("GET", "clock")}


def busy(sandbox: Sandbox) -> None:
    """Some of everything: rows, changes, removals, events, kept keys, jobs that are still due."""
    client = sandbox.client
    client.v1.customers.delete(client.v1.customers.create({"name": "gone"}).id)
    elm = client.v1.customers.create({"name": "Elm"}, {"idempotency_key": "elm"}).id
    client.v1.customers.update(elm, {"metadata": {"a": "1"}})
    client.v1.customers.balance_transactions.create(elm, {"amount": -100, "currency": "usd"})
    client.v1.products.create({"name": "Pages", "default_price_data": {"currency": "usd", "unit_amount": 3_100}})
    account = client.v1.accounts.create({"type": "standard"}).id
    client.v1.customers.create({"name": "theirs"}, {"stripe_account": account})
    client.v1.refunds.create({"payment_intent": paid(client, 2_000, "pm_card_refundFail").id, "amount": 700})
    sandbox.control("POST", "disputes", payment_intent=paid(client, 900).id)


def test_time_stands_still_until_it_is_moved(sandbox: Sandbox, client: StripeClient) -> None:
    assert sandbox.control("GET", "clock") == {"now": NOON}
    assert client.v1.customers.create({}).created == NOON
    assert sandbox.control("POST", "clock", advance=60) == {"now": NOON + 60}
    assert sandbox.control("POST", "clock", now=NOON + 90) == {"now": NOON + 90}
    assert client.v1.customers.create({}).created == NOON + 90


@pytest.mark.parametrize(
    "document", [{}, {"now": "noon"}, {"advance": 1, "now": 2}, {"now": NOON - 1}, {"advance": -1}]
)
def test_a_clock_that_would_go_wrong_is_refused(
    sandbox: Sandbox, client: StripeClient, document: dict[str, Any]
) -> None:
    client.v1.customers.create({})
    answer = sandbox.raw("POST", "/_sandbox/clock", json.dumps(document))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert sandbox.control("GET", "clock") == {"now": NOON}


def test_jobs_run_at_their_own_time_in_due_order(sandbox: Sandbox, client: StripeClient) -> None:
    intents = []
    for _ in range(3):
        intents.append(paid(client, 2_000, "pm_card_refundFail"))
        client.v1.refunds.create({"payment_intent": intents[-1].id})
        sandbox.advance(100)
    sandbox.advance(7 * 24 * 3600)
    failed = client.v1.events.list({"type": "refund.failed"}).data[::-1]
    assert [event.created for event in failed] == [NOON + 3600, NOON + 3700, NOON + 3800]
    assert [event.data.object["payment_intent"] for event in failed] == [intent.id for intent in intents]


def test_state_outlives_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "stripe.jsonl"
    first = Sandbox(start_in_thread(state_file=state))
    first.control("POST", "clock", now=NOON)
    busy(first)
    before = whole(first)
    first.close()
    for _ in range(2):
        second = Sandbox(start_in_thread(state_file=state))
        assert whole(second) == before
        replayed = second.client.v1.customers.create({"name": "Elm"}, {"idempotency_key": "elm"})
        assert replayed.last_response.headers["Idempotent-Replayed"] == "true"
        removed = [row["data"]["object"]["id"] for row in before["events"]["data"] if row["type"] == "customer.deleted"]
        assert plain(second.client.v1.customers.retrieve(removed[0]))["deleted"] is True
        second.close()
    third = Sandbox(start_in_thread(state_file=state))
    third.advance(3600)
    assert third.client.v1.refunds.list().data[0].status == "failed"
    assert all(sums["difference"] == 0 for sums in third.control("GET", "ledger")["sums"])
    known = {row["id"] for name in ("customers", "charges") for row in before[name]["data"]}
    assert third.client.v1.customers.create({}).id not in known
    third.close()


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    state = tmp_path / "stripe.jsonl"
    first = Sandbox(start_in_thread(state_file=state))
    first.client.v1.customers.create({"name": "whole"})
    kept = state.read_bytes()
    first.client.v1.customers.create({"name": "torn"})
    first.close()
    with state.open("r+b") as file:
        file.truncate(len(kept) + 40)
    second = Sandbox(start_in_thread(state_file=state))
    assert [row.name for row in second.client.v1.customers.list().data] == ["whole"]
    second.client.v1.customers.create({"name": "after"})
    second.close()
    third = Sandbox(start_in_thread(state_file=state))
    assert [row.name for row in third.client.v1.customers.list().data] == ["after", "whole"]
    third.close()


def _process(state: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "sandbox.stripe", "--port", "0", "--state", str(state)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("sandbox ready on http://127.0.0.1:")
    return process, line.split()[-1]


def test_what_was_answered_survives_being_killed(tmp_path: Path) -> None:
    import requests

    state = tmp_path / "stripe.jsonl"
    with requests.Session() as http:
        http.trust_env = False
        http.headers["Authorization"] = "Bearer sk_test_sandbox"
        process, url = _process(state)
        ids = [
            http.post(f"{url}/v1/customers", {"name": str(number)}, timeout=120).json()["id"] for number in range(50)
        ]
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        process, url = _process(state)
        found = [row["id"] for row in http.get(f"{url}/v1/customers?limit=100", timeout=120).json()["data"]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
        assert process.stdout is not None
        process.stdout.close()
    assert found == ids[::-1]


def test_reset_leaves_nothing(sandbox: Sandbox, client: StripeClient) -> None:
    busy(sandbox)
    assert sandbox.control("POST", "reset", now=NOON + 5)["now"] == NOON + 5
    seen = whole(sandbox)
    assert [seen[name]["data"] for name in ("customers", "charges", "events", "products")] == [[], [], [], []]
    assert sandbox.control("GET", "ledger")["charges"] == []


def test_an_unknown_control_is_refused(sandbox: Sandbox) -> None:
    answer = sandbox.raw("POST", "/_sandbox/nonsense")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        404,
        "There is no control POST /_sandbox/nonsense.",
    )
    assert sandbox.raw("POST", "/_sandbox/refunds/re_unknown/fail").status_code == 404
    assert sandbox.raw("POST", "/_sandbox/reset", "not json").status_code == 400
