"""Webhooks that never come: what happened is found in Stripe's list of events, all of it."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from billing import check, following, importing
from billing.models import SyncCursor
from billing.outages import tasks
from billing.outages.models import Grant, Step
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, Shop
from webhooks import inbox
from webhooks import tasks as webhook_tasks
from webhooks.models import InboxEvent
from webhooks.tasks import catch_up, sweep

THREE_DAYS = DECLARED + timedelta(days=3)


@pytest.fixture
def shop() -> Iterator[Shop]:
    with shops.opened() as opened:
        yield opened


@pytest.fixture
def house(shop: Shop, db: Database) -> House:
    """Nobody has told Stripe where to send events."""
    return shop.house(db)


def follow(house: House) -> int:
    """What the worker does every five minutes."""
    return following.follow(house, "", inbox.taking("", live=False))


def test_three_days_without_a_single_webhook_are_caught_up_with(shop: Shop, house: House, db: Database) -> None:
    invoices = shop.sell(12)
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.approved_run(session)
        for invoice in invoices[:6]:
            shops.grant(session, invoice, refund=400)
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    with db.work(OPERATOR) as session:
        refunds = list(session.scalars(sa.select(Step.refund_id).order_by(Step.id)))
    for day in (1, 2):
        shop.now(DECLARED + timedelta(days=day))
        shop.post(f"/_sandbox/refunds/{refunds[day]}/fail")
        shop.post(f"/v1/subscriptions/{shop.subscriptions[day + 6]}", pause_collection={"behavior": "void"})
        shop.post(f"/v1/customers/{shop.customers[day + 6]}", name=f"Renamed {day}")
        shop.post("/v1/refunds", payment_intent=intent(shop, invoices[day + 6]), amount=100)
        shop.sell(4)
    shop.now(THREE_DAYS)
    told = {one["id"] for one in every_event(shop, since=DECLARED)}
    assert len(told) > 100  # more than one page
    assert follow(house) >= len(told)
    assert sweep(house, float("inf")) is False
    with db.work(OPERATOR) as session:
        kept = dict(session.execute(sa.select(InboxEvent.event_id, InboxEvent.state)).all())
    assert told <= kept.keys()
    assert set(kept.values()) <= {"handled", "ignored"}
    assert check.check(house, "") == []
    with db.work(OPERATOR) as session:
        came_back = set(session.scalars(sa.select(Step.refund_id).where(Step.state == "failed")))
        fallbacks = session.scalar(sa.select(sa.func.count()).where(Grant.fallback_of.is_not(None)))
    assert (came_back, fallbacks) == ({refunds[1], refunds[2]}, 2)
    assert follow(house) >= 0
    with db.work(OPERATOR) as session:
        assert session.scalar(sa.select(sa.func.count()).where(InboxEvent.state == "received")) == 0


def test_what_webhooks_brought_already_is_not_taken_twice(shop: Shop, house: House, db: Database) -> None:
    shop.sell(2)
    shop.now(DECLARED)
    importing.import_account(house, "")
    shop.post(f"/v1/customers/{shop.customers[0]}", name="Renamed")
    shop.now(DECLARED + timedelta(minutes=5))
    follow(house)
    with db.work(OPERATOR) as session:
        before = session.scalar(sa.select(sa.func.count()).select_from(InboxEvent))
        session.execute(sa.update(SyncCursor).values(fresh_at=DECLARED))
    follow(house)
    with db.work(OPERATOR) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(InboxEvent)) == before


def test_what_there_is_much_of_is_kept_as_far_as_it_was_read(
    shop: Shop, house: House, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is newest first: cut off, it says nothing of what is older. Whoever has little time leaves something."""
    monkeypatch.setattr(following, "MOST_EVENTS", 30)
    shop.now(DECLARED)
    importing.import_account(house, "")
    for day in range(4):
        shop.now(DECLARED + timedelta(days=day, hours=3))
        shop.sell(4)
    shop.now(THREE_DAYS + timedelta(hours=4))
    told = {one["id"] for one in every_event(shop, since=DECLARED)}
    assert len(told) > 100
    reached = []
    for _ in range(200):
        following.follow(house, "", inbox.taking("", live=False), until=lambda: True)
        with db.work(OPERATOR) as session:
            reached.append(session.scalars(sa.select(SyncCursor.fresh_at)).one())
            kept = set(session.scalars(sa.select(InboxEvent.event_id)))
        missing = [one for one in every_event(shop, since=DECLARED) if one["id"] not in kept]
        assert all(one["created"] >= reached[-1].timestamp() for one in missing)
        if reached[-1] == house.clock.now():
            break
        assert following.due(house) == ""  # what is left is due at once
    assert told <= kept
    assert len(reached) >= 4
    assert reached == sorted(set(reached))


def test_a_second_that_has_more_events_than_are_taken_together_is_taken_whole(
    shop: Shop, house: House, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.now(DECLARED)
    importing.import_account(house, "")
    monkeypatch.setattr(following, "MOST_EVENTS", 5)
    shop.sell(4)  # the sandbox's clock stands still
    follow(house)
    with db.work(OPERATOR) as session:
        kept = set(session.scalars(sa.select(InboxEvent.event_id)))
    assert {one["id"] for one in every_event(shop, since=DECLARED)} <= kept


def test_any_worker_asks_once_in_five_minutes_with_nobody_to_ring(shop: Shop, house: House, db: Database) -> None:
    shop.sell(2)
    shop.now(DECLARED)
    importing.import_account(house, "")
    celery = tasks.make_celery(house)
    webhook_tasks.join(celery, house)
    queue = next(one for one in celery.conf["watched"] if one.task == "webhooks.follow")
    shop.post(f"/v1/customers/{shop.customers[0]}", name="Renamed")

    def is_due() -> bool:
        with db.work(OPERATOR) as session:
            oldest, now = session.execute(queue.oldest_due).one()
        return oldest is not None and bool(oldest <= now)

    assert not is_due()  # the import has just looked
    with db.work(OPERATOR) as session:
        session.execute(sa.update(SyncCursor).values(looked_at=sa.func.now() - timedelta(minutes=5)))
    assert is_due()
    assert queue.drain(house, time.monotonic() + 20) is False
    with db.work(OPERATOR) as session:
        renamed = sa.select(InboxEvent.id).where(InboxEvent.type == "customer.updated")
        assert len(session.scalars(renamed).all()) == 1
    assert not is_due()
    assert following.due(house) is None


def test_an_account_whose_events_are_gone_keeps_no_other_from_its_turn(
    shop: Shop, house: House, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        session.execute(sa.update(SyncCursor).values(looked_at=sa.func.now() - timedelta(minutes=5)))
        months = DECLARED - timedelta(days=60)
        long_ago = sa.func.now() - timedelta(hours=1)
        session.add(SyncCursor(stripe_account="acct_gone", fresh_at=months, imported_at=months, looked_at=long_ago))
    shop.now(DECLARED + timedelta(minutes=5))
    assert catch_up(house, time.monotonic() + 20) is False
    with db.work(OPERATOR) as session:
        assert session.get_one(SyncCursor, "").fresh_at == DECLARED + timedelta(minutes=5)
    assert "acct_gone: This account was last followed at 2019-06-27T14:00:00Z" in caplog.text


def every_event(shop: Shop, since: datetime) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    more = True
    while more:
        after = {"starting_after": found[-1]["id"]} if found else {}
        page = shop.get("/v1/events", limit=100, created={"gte": int(since.timestamp())}, **after)
        found += page["data"]
        more = page["has_more"]
    return found


def intent(shop: Shop, invoice: str) -> str:
    payments = shop.get("/v1/invoice_payments", invoice=invoice)["data"]
    return str(payments[0]["payment"]["payment_intent"])
