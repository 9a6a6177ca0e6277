"""Turns at Stripe: many callers together keep to one rate, and a 429 slows all of them down."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import sqlalchemy as sa

from billing import gateway
from billing.answers import Outcome, Unreachable
from billing.gateway import Urgency
from billing.money import Money
from billing.rates import RateBucket, Turns, endpoint_of
from sandbox.stripe.server import start_in_thread
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.settings import Rate
from tests.billing.outages.rows import house_at
from tests.billing.wire import failure, listening

NOTES = "/v1/credit_notes"


def paced(database: Database, account: float, endpoint: float, url: str = "http://127.0.0.1:9") -> House:
    house = house_at(url, database)
    return dataclasses.replace(house, settings=dataclasses.replace(house.settings, stripe_rate=Rate(account, endpoint)))


@pytest.mark.parametrize(
    ("verb", "path", "name"),
    [
        ("post", "/v1/credit_notes", "POST /v1/credit_notes"),
        ("get", "/v1/credit_notes/preview", "GET /v1/credit_notes/preview"),
        ("get", "/v1/refunds/re_1", "GET /v1/refunds/{id}"),
        ("post", "/v1/invoices/in_1/void", "POST /v1/invoices/{id}/void"),
        ("get", "/v1/customers/cus_1/balance_transactions", "GET /v1/customers/{id}/balance_transactions"),
    ],
)
def test_an_endpoint_is_the_same_whatever_ids_stand_in_it(verb: str, path: str, name: str) -> None:
    assert endpoint_of(verb, path) == name


def test_callers_of_one_endpoint_share_its_rate(db: Database) -> None:
    """60 calls at 50 a second, of which 0.2 seconds' worth may be caught up: the last one 0.98 s after the first."""
    house = paced(db, 1_000, 50)

    def call(_: int) -> float:
        Turns(house, "", Urgency.PAUSE).wait("post", NOTES)
        return time.monotonic()

    with ThreadPoolExecutor(6) as pool:
        at = sorted(pool.map(call, range(60)))
    assert (60 - 1) / 50 - 0.2 - 0.05 <= at[-1] - at[0] < 3


def test_the_account_bounds_all_endpoints_together(db: Database) -> None:
    """60 calls to three endpoints at 50 a second in all, though each endpoint alone would allow 1,000."""
    house = paced(db, 50, 1_000)

    def call(n: int) -> float:
        Turns(house, "", Urgency.PAUSE).wait("post", f"/v1/{('refunds', 'credit_notes', 'subscriptions')[n % 3]}")
        return time.monotonic()

    with ThreadPoolExecutor(6) as pool:
        at = sorted(pool.map(call, range(60)))
    assert (60 - 1) / 50 - 0.2 - 0.05 <= at[-1] - at[0] < 3


def test_another_account_has_turns_of_its_own(db: Database) -> None:
    """At 1 a second the second call of an account waits 0.8 s; that of another account does not."""
    house = paced(db, 1, 1)
    Turns(house, "").wait("post", NOTES)
    began = time.monotonic()
    Turns(house, "acct_9").wait("post", NOTES)
    assert time.monotonic() - began < 0.5


def test_a_pause_may_book_where_a_read_may_not_yet(db: Database) -> None:
    """At 2 a second the second turn is 0.3 s ahead, the third 0.8 s, the fourth 1.3 s: that one is no read's."""
    house = paced(db, 2, 1_000)
    pause, read = Turns(house, "", Urgency.PAUSE), Turns(house, "", Urgency.READ)
    for _ in range(2):
        pause._book("POST /v1/subscriptions/{id}")
    pause._book("POST /v1/subscriptions/{id}")  # each of the two first calls made one of the rows
    _, read_booked = read._book("POST /v1/subscriptions/{id}")
    _, pause_booked = pause._book("POST /v1/subscriptions/{id}")
    assert (read_booked, pause_booked) == (False, True)


def test_a_429_that_names_a_limiter_halves_its_rate(db: Database) -> None:
    house = paced(db, 100, 20)
    turns = Turns(house, "")
    turns.wait("post", NOTES)
    turns.refused("post", NOTES, "endpoint-rate")
    turns.refused("post", NOTES, "endpoint-rate")  # of the same moment: counts once
    turns.refused("post", NOTES, "resource-specific")  # one object is in demand: no limiter of ours
    with db.work(OPERATOR) as session:
        slowed = dict(session.execute(sa.select(RateBucket.endpoint, RateBucket.slowed_to)).all())
    assert slowed == {"": None, "POST /v1/credit_notes": 10.0}
    turns.refused("post", NOTES, "global-rate")
    with db.work(OPERATOR) as session:
        assert session.scalar(sa.select(RateBucket.slowed_to).where(RateBucket.endpoint == "")) == 50.0


@pytest.mark.parametrize(
    ("fault", "slowed_to"),
    [({"kind": "429", "reason": None}, 10.0), ({"kind": "lock_timeout"}, None)],
    ids=["no reason", "a lock"],
)
@pytest.mark.parametrize("verb", ["read", "write"])
def test_a_429_without_a_reason_slows_its_endpoint_unless_it_is_a_lock(
    db: Database, monkeypatch: pytest.MonkeyPatch, fault: dict[str, str | None], slowed_to: float | None, verb: str
) -> None:
    """Half of 20 calls a second are 10."""
    monkeypatch.setattr(gateway, "SLOWER", (0,))
    handle = start_in_thread()
    try:
        rule = {"match": {"path": "/v1/refunds"}, "rate": 1.0, "count": 1, "seed": 1, **fault}
        requests.post(f"{handle.url}/_sandbox/faults", json={"rules": [rule]}, timeout=120).raise_for_status()
        connection = gateway.connect(paced(db, 100, 20, handle.url), "")
        if verb == "read":
            assert connection.refunds(payment_intent="pi_1") == []
        else:
            answer = connection.create_refund({"payment_intent": "pi_1", "amount": 1}, "key", Money(1, "usd"))
            assert answer.outcome in (Outcome.LIMITED, Outcome.BUSY)
    finally:
        handle.stop()
    with db.work(OPERATOR) as session:
        rates = dict(session.execute(sa.select(RateBucket.endpoint, RateBucket.slowed_to)).all())
    assert rates == {"": None, f"{'GET' if verb == 'read' else 'POST'} /v1/refunds": slowed_to}


def test_a_slowed_rate_recovers(db: Database) -> None:
    """Halved to 10 a second a minute ago it is 20 again: 10 + 20 × 60/60, at most 20."""
    house = paced(db, 100, 20)
    turns = Turns(house, "")
    turns.wait("post", NOTES)
    turns.refused("post", NOTES, "endpoint-rate")

    def gap() -> float:
        with db.work(OPERATOR) as session:
            before = session.scalars(sa.select(RateBucket.next_at).where(RateBucket.endpoint != "")).one()
        turns._book("POST /v1/credit_notes")
        with db.work(OPERATOR) as session:
            after = session.scalars(sa.select(RateBucket.next_at).where(RateBucket.endpoint != "")).one()
        return (after - before).total_seconds()

    with db.work(OPERATOR) as session:
        session.execute(sa.update(RateBucket).values(next_at=sa.func.clock_timestamp() + sa.text("interval '0.2 s'")))
    assert 0.09 < gap() <= 0.1
    with db.work(OPERATOR) as session:
        session.execute(sa.update(RateBucket).values(slowed_at=sa.func.clock_timestamp() - sa.text("interval '60 s'")))
    assert 0.049 < gap() < 0.051


def test_a_clock_that_goes_back_holds_up_calls_for_no_longer_than_a_turn_may_be_ahead(db: Database) -> None:
    """2 seconds that a pause may book ahead, and 1 of the slowest call: no turn that was booked before is later."""
    house = paced(db, 100, 20)
    turns = Turns(house, "", Urgency.READ)
    turns.wait("post", NOTES)
    turns.refused("post", NOTES, "endpoint-rate")
    with db.work(OPERATOR) as session:
        back = sa.text("interval '600 s'")
        session.execute(
            sa.update(RateBucket).values(next_at=RateBucket.next_at + back, slowed_at=RateBucket.slowed_at + back)
        )
    began = time.monotonic()
    turns.wait("post", NOTES)
    assert 2.9 < time.monotonic() - began < 5
    with db.work(OPERATOR) as session:  # at 10 a second still, and not at fewer than none
        slowed = RateBucket.endpoint != ""
        before = session.scalars(sa.select(RateBucket.next_at).where(slowed)).one()
    turns.wait("post", NOTES)
    with db.work(OPERATOR) as session:
        after = session.scalars(sa.select(RateBucket.next_at).where(slowed)).one()
    assert 0.09 < (after - before).total_seconds() < 0.5


def test_a_sandbox_with_stripes_limits_refuses_no_more_than_one_call_in_a_hundred(db: Database) -> None:
    """Eight threads read as fast as they may for 150 calls at 50 a second: at 2.8 s they are through."""
    handle = start_in_thread()
    try:
        set_to = {"global": 100, "endpoint": 50}
        assert requests.post(f"{handle.url}/_sandbox/limits", json=set_to, timeout=120).ok
        house = paced(db, 100, 50, handle.url)
        with ThreadPoolExecutor(8) as pool:
            began = time.monotonic()
            list(pool.map(lambda _: gateway.connect(house, "").available_balance(), range(150)))
            took = time.monotonic() - began
        shown = requests.get(f"{handle.url}/_sandbox/limits", timeout=120).json()
    finally:
        handle.stop()
    assert sum(shown["refused"].values()) <= 0.01 * shown["allowed"]
    assert took < 2 * 150 / 50


@pytest.mark.parametrize("urgency", [Urgency.PAUSE, Urgency.GRANT])
def test_whoever_holds_work_of_many_accounts_does_not_sit_out_the_storm_of_one(db: Database, urgency: Urgency) -> None:
    with listening() as wire:
        wire.answer = lambda request: failure(429, "rate_limit")
        with pytest.raises(Unreachable):
            gateway.connect(paced(db, 1_000, 1_000, wire.url), "acct_1", urgency).subscription("sub_1")
        assert len(wire.requests) == 1


def test_a_write_that_may_not_be_sent_any_more_is_not_sent(db: Database) -> None:
    handle = start_in_thread()
    try:
        house = house_at(handle.url, db)
        connection = gateway.connect(house, "", may_send=lambda: False)
        answer = connection.pause("sub_1", "keep_as_draft", "inc_1", key="k")
        assert answer.outcome is Outcome.STOPPED
        sent = requests.get(f"{handle.url}/_sandbox/limits", timeout=120).json()
    finally:
        handle.stop()
    assert sent["refused"] == {}
