"""Billing stops while the outage lasts and goes on after it: renewals become drafts, drafts are released."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest
import sqlalchemy as sa

from billing import following, importing, mirror
from billing.outages import approvals, by_hand, incidents, queries, retirements, tasks
from billing.outages.decisions import Retirement
from billing.outages.models import HeldInvoice, Incident, Pause
from billing.writes import Writes
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tests.journeys import shop as shops
from tests.journeys.desk import Desk
from tests.journeys.shop import DECLARED, STARTED, Shop

RENEWAL = datetime(2019, 9, 1, tzinfo=UTC)
RESOLVED = datetime(2019, 9, 3, 9, tzinfo=UTC)


@pytest.fixture
def house(shop: Shop, db: Database) -> House:
    return shop.house(db)


def resolved(database: Database) -> None:
    with database.work(OPERATOR) as session:
        incident = session.get_one(Incident, "inc_1")
        incident.state, incident.ended_at = "resolved", RESOLVED
        incident.policy = "none"  # what is owed for the drafts is tests.journeys.test_unheard_drafts' business


def test_renewals_are_held_as_drafts_and_collected_after_the_release(shop: Shop, house: House, db: Database) -> None:
    shop.sell(3)
    shop.post(f"/v1/subscriptions/{shop.subscriptions[2]}", pause_collection={"behavior": "void"})  # its owner's
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.pause_all(session)
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    assert shops.seen(db, Pause) == {"held": 2, "left": 1}

    shop.now(RENEWAL + timedelta(hours=3))  # three subscriptions renew: two drafts, one voided by its owner's pause
    invoices = [shop.get("/v1/invoices", subscription=id)["data"][0] for id in shop.subscriptions]
    assert [one["status"] for one in invoices] == ["draft", "draft", "void"]

    resolved(db)
    shop.now(RESOLVED)
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    assert shops.seen(db, Pause) == {"released": 2, "left": 1}
    behaviors = [shop.subscription(id)["pause_collection"] for id in shop.subscriptions]
    assert [one and one["behavior"] for one in behaviors] == [None, None, "void"]
    assert shops.seen(db, HeldInvoice) == {"collecting": 2}

    shop.now(RESOLVED + timedelta(hours=3))
    for invoice in invoices[:2]:
        assert shop.get(f"/v1/invoices/{invoice['id']}")["status"] == "paid"
        mirror.refresh(house, "", "invoice", invoice["id"])
    assert not shop.get("/v1/invoices", status="draft")["data"]


def test_a_draft_in_its_last_hour_is_stopped_with_the_pause(shop: Shop, house: House, db: Database) -> None:
    """It was made before the pause: without `auto_advance=false` it would be finalized and charged."""
    shop.sell(1)
    shop.now(RENEWAL + timedelta(minutes=30))
    (draft,) = shop.get("/v1/invoices", status="draft")["data"]
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.pause_all(session)
        pause = session.scalars(sa.select(Pause)).one()
        session.add(
            HeldInvoice(
                agency_id=pause.agency_id, invoice_id=draft["id"], pause_id=pause.id, kind="draft",
                found_auto_advance=True, state="planned",
            )
        )  # fmt: skip
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    shop.now(RENEWAL + timedelta(hours=5))
    assert shop.get(f"/v1/invoices/{draft['id']}")["status"] == "draft"
    resolved(db)
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    shop.now(RENEWAL + timedelta(hours=8))
    assert shop.get(f"/v1/invoices/{draft['id']}")["status"] == "paid"


def test_a_move_that_stripe_refuses_is_listed_and_tried_each_day_until_it_or_a_person_is_through(
    shop: Shop, house: House, db: Database
) -> None:
    both, alone = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    smaller = shop.price_of(900, "instagram=10000")
    shop.sell(3, price=both)
    by_person, by_end, by_engine = shop.subscriptions
    desk = Desk(shop, house)
    shop.now(DECLARED)
    importing.import_account(house, "")
    incident = desk.declare("facebook", STARTED)
    desk.approve(incident)
    shop.post(f"/v1/prices/{alone}", active=False)
    desk.retire(incident, **{both: alone})
    desk.approve(incident)
    refused = "Stripe refused: The price specified is inactive. This field only accepts active prices."
    assert waiting(db) == {f"subscription {id}, to move: {refused}" for id in shop.subscriptions}
    assert shops.seen(db, Pause) == {"held": 3}
    with db.work(OPERATOR) as session:
        words = queries.in_words(queries.shown(session, incident))
    assert "  subscriptions that a person has to move to another plan: 3" in words

    item = shop.subscription(by_person)["items"]["data"][0]["id"]
    shop.post(f"/v1/subscriptions/{by_person}", items=[{"id": item, "price": smaller}], proration_behavior="none")
    shop.delete(f"/v1/subscriptions/{by_end}")
    assert a_day_later(db, house, incident) == {f"subscription {by_engine}, to move: {refused}"}
    assert shops.seen(db, Pause) == {"held": 1, "released": 2}
    shop.post(f"/v1/prices/{alone}", active=True)
    assert a_day_later(db, house, incident) == {"Nothing waits for a person."}
    assert shops.seen(db, Pause) == {"released": 3}
    # From 22 August 20:00 to the end of August are 220 of 744 hours: 31.00 x 0.5 x 220/744 = 4.5833, each.
    assert [sum(one.values()) for one in desk.given().values()] == [458] * 3

    shop.now(RENEWAL + timedelta(hours=3))
    renewals = [shop.get("/v1/invoices", subscription=id)["data"][0] for id in (by_person, by_engine)]
    assert [(one["status"], one["amount_paid"]) for one in renewals] == [("paid", 900), ("paid", 1_500)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_whoever_dies_over_a_move_that_had_been_refused_leaves_it_to_the_next(
    shop: Shop, house: House, db: Database, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    both, alone = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    shop.sell(1, price=both)
    desk = Desk(shop, house)
    shop.now(DECLARED)
    importing.import_account(house, "")
    incident = desk.declare("facebook", STARTED)
    desk.approve(incident)
    shop.post(f"/v1/prices/{alone}", active=False)
    desk.retire(incident, **{both: alone})
    desk.approve(incident)
    shop.post(f"/v1/prices/{alone}", active=True)
    move = Writes.move

    def dies(self: Writes, subscription: str, moves: Mapping[str, str], key: str) -> NoReturn:
        monkeypatch.undo()
        if moment == "after":
            move(self, subscription, moves, key)
        raise Died

    monkeypatch.setattr(Writes, "move", dies)
    with pytest.raises(Died):
        a_day_later(db, house, incident)
    (item,) = shop.subscription(shop.subscriptions[0])["items"]["data"]
    assert item["price"]["id"] == (alone if moment == "after" else both)
    with db.work(OPERATOR) as session:  # the lease of whoever died runs out
        session.execute(sa.update(Retirement).values(lease_until=sa.func.now()))
    assert a_day_later(db, house, incident) == {"Nothing waits for a person."}
    (item,) = shop.subscription(shop.subscriptions[0])["items"]["data"]
    assert (item["price"]["id"], shops.seen(db, Pause)) == (alone, {"released": 1})
    with db.work(OPERATOR) as session:
        assert "person" not in (session.scalars(sa.select(Retirement.reason)).one() or "")


def given_up_while_halted(desk: Desk, **moves: str) -> str:
    """Facebook, declared and approved, then halted and given up: what becomes of whom is decided, and not done."""
    desk.shop.now(DECLARED)
    importing.import_account(desk.house, "")
    incident = desk.declare("facebook", STARTED)
    desk.approve(incident)
    with desk.house.database.work(OPERATOR) as session:
        approvals.halt(session, incident, session.get_one(Member, desk.people["finance"]), "test")
    desk.retire(incident, **moves)
    tasks.work_until_quiet(desk.house, incident, timeout=120)
    return incident


def go_on(desk: Desk, incident: str) -> None:
    with desk.house.database.work(OPERATOR) as session:
        approvals.resume(session, incident, session.get_one(Member, desk.people["finance"]), "test")
    tasks.work_until_quiet(desk.house, incident, timeout=120)


def test_nobody_is_cancelled_or_moved_for_a_platform_that_was_given_up_by_mistake(
    shop: Shop, house: House, db: Database
) -> None:
    both, other = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    shop.sell(1)
    shop.sell(1, price=both)
    desk = Desk(shop, house)
    incident = given_up_while_halted(desk, **{both: other})
    with db.work(OPERATOR) as session:
        finance = session.get_one(Member, desk.people["finance"])
        incidents.retract(session, house.clock.now(), incident, finance, "test", reason="It came back the same day.")
    go_on(desk, incident)
    found = [shop.subscription(id) for id in shop.subscriptions]
    assert [one["status"] for one in found] == ["active", "active"]
    assert [one["items"]["data"][0]["price"]["id"] for one in found] == [shop.price, both]
    assert desk.paused() == [None, None]
    assert waiting(db) == {"Nothing waits for a person."}


def test_whoever_has_something_else_by_now_is_not_cancelled_for_what_they_had(
    shop: Shop, house: House, db: Database
) -> None:
    """Four on Facebook alone or in part; while all was halted one was moved by hand and two have more."""
    both, other = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    shop.sell(3)
    shop.sell(1, price=both)
    moved, more, gone, partly = shop.subscriptions
    desk = Desk(shop, house)
    incident = given_up_while_halted(desk, **{both: other})
    item = shop.subscription(moved)["items"]["data"][0]["id"]
    shop.post(f"/v1/subscriptions/{moved}", items=[{"id": item, "price": other}], proration_behavior="none")
    shop.post(f"/v1/subscriptions/{more}", items=[{"price": other}], proration_behavior="none")
    shop.post(f"/v1/subscriptions/{partly}", items=[{"price": shop.price}], proration_behavior="none")
    go_on(desk, incident)
    desk.approve(incident)
    statuses = {id: shop.subscription(id)["status"] for id in shop.subscriptions}
    assert statuses == {moved: "active", more: "active", gone: "canceled", partly: "active"}
    assert shops.seen(db, Pause) == {"held": 2, "released": 2}
    assert waiting(db) == {
        f"subscription {more}, to cancel: It has something else by now: move or cancel it in Stripe.",
        f"subscription {partly}, to move: Its plans are others by now: move it in Stripe.",
    }
    shop.delete(f"/v1/subscriptions/{partly}")
    assert len(a_day_later(db, house, incident)) == 1


class Died(BaseException):
    """A power cut."""


def waiting(database: Database) -> set[str]:
    with database.work(OPERATOR) as session:
        return set(by_hand.in_words(by_hand.waiting(session)))


def a_day_later(database: Database, house: House, incident: str) -> set[str]:
    """What waits for a person after what was refused has been tried again."""
    with database.work(OPERATOR) as session:
        session.execute(sa.update(Retirement).values(due_at=sa.func.now()))
    retirements.carry_out_due(house, 10)
    tasks.work_until_quiet(house, incident, timeout=120)
    return waiting(database)


@pytest.mark.parametrize(("policy", "heard", "paid"), [("none", True, 3_100), ("prorated", False, 2_867)])
def test_a_draft_made_before_another_incident_goes_on_holding_is_handed_over_at_the_end_of_that(
    shop: Shop, house: House, db: Database, policy: str, heard: bool, paid: int
) -> None:
    """31.00 x 0.5 x 57/720 for Facebook's hours of September and 31.00 x 0.5 x 51/720 for Instagram's are 2.3250."""
    shop.sell(1, price=shop.price_of(3_100, "facebook=5000,instagram=5000"))
    desk = Desk(shop, house)
    shop.now(DECLARED)
    importing.import_account(house, "")
    first = desk.declare("facebook", STARTED, policy=policy)
    desk.approve(first)
    shop.now(RENEWAL + timedelta(hours=36))
    if heard:
        following.follow(house, "")
    (draft,) = shop.get("/v1/invoices", status="draft")["data"]
    second = desk.declare("instagram", RENEWAL + timedelta(hours=30), policy=policy)
    desk.approve(second)
    for incident, ended_at in ((first, RESOLVED), (second, RESOLVED + timedelta(days=1))):
        assert desk.paused() != [None]
        shop.now(ended_at)
        desk.resolve(incident, ended_at)
        desk.approve(incident)
    assert desk.paused() == [None]
    desk.approve(second)

    shop.now(RESOLVED + timedelta(days=1, hours=3))
    collected = shop.get(f"/v1/invoices/{draft['id']}")
    assert (collected["status"], collected["amount_paid"]) == ("paid", paid)
