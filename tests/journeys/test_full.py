"""The policy `full`, from the charge to the fresh period: Social Report's promise, in the sandbox."""

import time
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest
import sqlalchemy as sa

from billing import following
from billing.models import Subscription
from billing.outages import settling
from billing.outages.messages import composing, facts, letters
from billing.outages.messages.models import Message
from billing.outages.models import Grant, Pause
from billing.writes import Writes
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.journeys.desk import Desk
from tests.journeys.shop import Shop
from webhooks import inbox
from webhooks import tasks as webhook_tasks

SINCE = datetime(2019, 8, 23, 9, tzinfo=UTC)
RESOLVED = datetime(2019, 8, 30, 8, tzinfo=UTC)


def period(shop: Shop, subscription: str) -> tuple[datetime, datetime]:
    (item,) = shop.subscription(subscription)["items"]["data"]
    start, end = (datetime.fromtimestamp(item[f"current_period_{edge}"], UTC) for edge in ("start", "end"))
    return start, end


def test_whoever_had_all_of_it_back_starts_afresh_and_nobody_else(shop: Shop, db: Database) -> None:
    shop.sell(1)  # 1 August: the month was paid before it began
    shop.now(SINCE)
    shop.sell(2)
    before, since, leaving = shop.subscriptions
    shop.post(f"/v1/subscriptions/{leaving}", cancel_at_period_end=True)
    house = shop.house(db)
    desk = Desk(shop, house)
    incident = desk.begin("full")
    # 90 of 744 hours of 31.00 are 3.75; the two payments since are whole.
    assert sorted(sum(one.values()) for one in desk.given().values()) == [375, 3_100, 3_100]

    shop.now(RESOLVED + timedelta(hours=1))
    following.follow(house, "")
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    # Another 90 hours.
    assert sorted(sum(one.values()) for one in desk.given().values()) == [750, 3_100, 3_100]
    afresh = RESOLVED + timedelta(hours=1)
    assert period(shop, before)[0] == datetime(2019, 8, 1, tzinfo=UTC)
    assert period(shop, since) == (afresh, datetime(2019, 9, 30, 9, tzinfo=UTC))
    assert period(shop, leaving) == (SINCE, datetime(2019, 9, 23, 9, tzinfo=UTC))
    invoices = shop.get("/v1/invoices", subscription=since)["data"]
    assert [(one["status"], one["amount_paid"]) for one in invoices] == [("paid", 3_100), ("paid", 3_100)]
    assert desk.paused() == [None, None, None]
    told = resumed(house)
    assert set(told) == {before, since}  # nobody is billed any more who is leaving
    assert not any("next invoice" in text or "usual" in text for text in told.values())  # one of them has just had it

    # Nothing of it happens again, and the fresh payment is nobody's loss.
    desk.approve(incident)
    following.follow(house, "")
    assert len(shop.get("/v1/invoices", subscription=since)["data"]) == 2
    desk.agrees(incident)


def test_a_refund_that_its_bank_keeps_for_days_begins_a_fresh_period_as_well(shop: Shop, db: Database) -> None:
    shop.now(SINCE)
    shop.sell(1, card="pm_card_pendingRefund")
    (subscription,) = shop.subscriptions
    desk = Desk(shop, shop.house(db))
    incident = desk.begin("full")
    shop.now(RESOLVED + timedelta(hours=1))
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    with db.work(OPERATOR) as session:
        assert session.scalars(sa.select(Grant.state).where(Grant.amount > 0)).all() == ["pending"]
    assert period(shop, subscription)[0] == RESOLVED + timedelta(hours=1)
    shop.now(RESOLVED + timedelta(days=10))
    hear(desk.house)
    # The first payment went back whole, the second one, for the fresh period, did not.
    assert desk.given() == {shop.customers[0]: {incident: 3_100}}
    invoices = shop.get("/v1/invoices", subscription=subscription)["data"]
    assert [one["amount_paid"] for one in invoices] == [3_100, 3_100]


def resumed(house: House) -> dict[str, str]:
    """What is written about billing that has resumed, by subscription."""
    while composing.compose_due(house):
        pass
    with house.database.work(OPERATOR) as session:
        theirs = sa.and_(Subscription.agency_id == Message.agency_id, Subscription.customer_id == Message.customer_id)
        found = session.execute(
            sa.select(Subscription.id, Message).join(Message, theirs).where(Message.kind == "resumed")
        ).all()
        return {
            subscription: letters.written(
                letters.BUILT_IN["resumed"], facts.values(session, facts.subject_of(session, message), "")
            ).text
            for subscription, message in found
        }


class Died(BaseException):
    """A power cut."""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_whoever_dies_over_a_fresh_period_has_it_charged_once(
    shop: Shop, db: Database, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    shop.now(SINCE)
    shop.sell(1)
    (subscription,) = shop.subscriptions
    desk = Desk(shop, shop.house(db))
    incident = desk.begin("full")
    shop.now(RESOLVED + timedelta(hours=1))
    following.follow(desk.house, "")
    desk.resolve(incident, RESOLVED)
    restart = Writes.restart

    def dies(self: Writes, subscription: str, key: str) -> NoReturn:
        monkeypatch.undo()
        if moment == "after":
            restart(self, subscription, key)
        raise Died

    monkeypatch.setattr(Writes, "restart", dies)
    with pytest.raises(Died):
        desk.approve(incident)
    assert len(shop.get("/v1/invoices", subscription=subscription)["data"]) == (2 if moment == "after" else 1)

    with db.work(OPERATOR) as session:  # the lease of whoever died runs out
        session.execute(sa.update(Pause).values(lease_until=sa.func.now(), due_at=sa.func.now()))
    desk.approve(incident)
    invoices = shop.get("/v1/invoices", subscription=subscription)["data"]
    assert [(one["status"], one["amount_paid"]) for one in invoices] == [("paid", 3_100), ("paid", 3_100)]
    assert period(shop, subscription)[0] == RESOLVED + timedelta(hours=1)
    assert desk.paused() == [None]
    desk.agrees(incident)


def test_a_late_payment_is_given_back_whole_as_soon_as_it_is_heard_of(shop: Shop, db: Database) -> None:
    """Asked for on the 25th, paid on the 27th, after the declaration and its run: none of it waits for the resolution.

    Of the open invoice 38 of 744 hours of 31.00 are taken off: 1.58 (1.5833). What is paid is the other 29.42.
    """
    shop.now(datetime(2019, 8, 25, tzinfo=UTC))
    [invoice] = shop.sell(1, collection_method="send_invoice", days_until_due=7)
    shop.post(f"/v1/invoices/{invoice}/finalize")
    house = shop.house(db)
    desk = Desk(shop, house)
    incident = desk.begin("full")
    assert [list(one.values()) for one in desk.given().values()] == [[158]]

    shop.now(datetime(2019, 8, 27, 9, tzinfo=UTC))
    shop.post(f"/v1/invoices/{invoice}/pay")
    shop.now(datetime(2019, 8, 27, 10, tzinfo=UTC))
    hear(house)
    assert settling.settle_due(house, 10) == 1
    desk.approve(incident)
    assert [charge["refunded"] for charge in shop.ledger()["charges"]] == [2_942]
    assert [list(one.values()) for one in desk.given().values()] == [[3_100]]

    shop.now(RESOLVED)
    hear(house)
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    assert [list(one.values()) for one in desk.given().values()] == [[3_100]]  # and never again
    desk.agrees_but_for_reductions(incident)


def hear(house: House) -> None:
    """Every event since, as the workers hear of it."""
    following.follow(house, "", inbox.taking("", live=False))
    webhook_tasks.sweep(house, time.monotonic() + 30)
