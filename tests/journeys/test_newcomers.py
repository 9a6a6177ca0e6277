"""Subscriptions that nobody knew of when the incident was declared: they are held while it goes on, like the others."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from billing import following, importing
from billing.outages import newcomers, tasks
from billing.outages.decisions import Retirement
from billing.outages.models import Incident, Pause
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.journeys import shop as shops
from tests.journeys.desk import Desk
from tests.journeys.shop import DECLARED, STARTED, Shop
from tests.journeys.test_pausing import a_day_later, waiting

RENEWED = datetime(2019, 9, 28, tzinfo=UTC)


def look(house: House) -> int:
    """What a worker does by itself, once a minute has gone by on the database's clock."""
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(followed_at=sa.func.now() - newcomers.EVERY))
    return newcomers.look_due(house, 10)


def looked(house: House, incident: str) -> int:
    found = look(house)
    tasks.work_until_quiet(house, incident, 60)
    return found


def behaviors(desk: Desk) -> list[str | None]:
    return [one and one["behavior"] for one in desk.paused()]


def test_whoever_buys_while_it_goes_on_is_not_charged_for_a_renewal_either(shop: Shop, db: Database) -> None:
    shop.sell(1)
    elsewhere = shop.price_of(900, "")
    shop.sell(1, price=elsewhere)
    house = shop.house(db)
    desk = Desk(shop, house)
    incident = desk.begin()
    assert behaviors(desk) == ["keep_as_draft", None]

    shop.now(datetime(2019, 8, 27, tzinfo=UTC))
    shop.sell(1)  # somebody new, a subscription that moves to the platform, and one that has nothing to do with it
    shop.sell(1, price=elsewhere)
    [item] = shop.subscription(shop.subscriptions[1])["items"]["data"]
    shop.post(f"/v1/subscription_items/{item['id']}", price=shop.price)
    following.follow(house, "")
    assert behaviors(desk) == ["keep_as_draft", None, None, None]
    assert looked(house, incident) == 1
    assert behaviors(desk) == ["keep_as_draft", "keep_as_draft", "keep_as_draft", None]
    assert looked(house, incident) == 1  # and nobody twice
    with db.work(OPERATOR) as session:
        assert shops.states(session, Pause) == {"held": 3}

    shop.now(datetime(2019, 9, 10, tzinfo=UTC))
    following.follow(house, "")
    shop.now(RENEWED)
    newest = [shop.get("/v1/invoices", subscription=id)["data"][0]["status"] for id in shop.subscriptions]
    assert newest == ["draft", "draft", "draft", "paid"]
    following.follow(house, "")
    desk.resolve(incident, RENEWED)
    desk.approve(incident)
    assert behaviors(desk) == [None] * 4
    assert looked(house, incident) == 0  # it is over


def test_what_others_have_paused_or_lifted_stays_theirs(shop: Shop, db: Database) -> None:
    shop.sell(2)
    shop.now(DECLARED)
    house = shop.house(db)
    shop.post(f"/v1/subscriptions/{shop.subscriptions[0]}", pause_collection={"behavior": "void"})
    importing.import_account(house, "")
    desk = Desk(shop, house)
    incident = desk.declare("facebook", STARTED)
    desk.approve(incident)
    with db.work(OPERATOR) as session:
        lifted = session.scalars(sa.select(Pause).where(Pause.subscription_id == shop.subscriptions[1])).one()
        lifted.state, lifted.reason = "needs_person", "Somebody lifted it."
    shop.post(f"/v1/subscriptions/{shop.subscriptions[1]}", pause_collection="")
    assert looked(house, incident) == 1
    assert behaviors(desk) == ["void", None]


def test_nothing_is_looked_at_within_a_minute(shop: Shop, db: Database) -> None:
    shop.sell(1)
    shop.now(DECLARED)
    house = shop.house(db)
    importing.import_account(house, "")
    desk = Desk(shop, house)
    desk.declare("facebook", STARTED)
    assert newcomers.look_due(house, 10) == 0
    with db.work(OPERATOR) as session:
        due, now = session.execute(newcomers.oldest_due()).one()
    assert now < due <= now + newcomers.EVERY


def dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_worker_that_dies_before_its_commit_has_held_nothing_and_the_next_one_does(
    shop: Shop, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, incident = somebody_new(shop, db)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(newcomers.audit, "record", dies)
        look(desk.house)
    with db.work(OPERATOR) as session:
        assert shops.states(session, Pause) == {"held": 1}
    assert newcomers.look_due(desk.house, 10) == 1
    tasks.work_until_quiet(desk.house, incident, 60)
    assert behaviors(desk) == ["keep_as_draft", "keep_as_draft"]


def test_a_worker_that_dies_after_its_commit_leaves_a_pause_that_needs_no_bell(
    shop: Shop, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, incident = somebody_new(shop, db)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(db, "ring", dies)
        look(desk.house)
    with db.work(OPERATOR) as session:
        assert shops.states(session, Pause) == {"held": 1, "planned": 1}
    tasks.work_until_quiet(desk.house, incident, 60)
    assert behaviors(desk) == ["keep_as_draft", "keep_as_draft"]


def somebody_new(shop: Shop, db: Database) -> tuple[Desk, str]:
    """One subscription that is held, and one that nobody has looked at."""
    shop.sell(1)
    desk = Desk(shop, shop.house(db))
    incident = desk.begin()
    shop.sell(1)
    following.follow(desk.house, "")
    return desk, incident


def test_what_is_sold_on_a_platform_that_was_given_up_is_for_a_person_until_it_is_off_it(
    shop: Shop, db: Database
) -> None:
    shop.sell(1)
    house = shop.house(db)
    desk = Desk(shop, house)
    incident = desk.begin()
    desk.retire(incident)
    desk.approve(incident)
    assert shop.subscription(shop.subscriptions[0])["status"] == "canceled"
    assert (looked(house, incident), waiting(db)) == (1, {"Nothing waits for a person."})

    shop.sell(2)
    shop.sell(1, price=shop.price_of(900, ""))
    following.follow(house, "")
    _, moved, kept, _ = shop.subscriptions
    asked = "It was sold after its platform had been given up: move it in Stripe to a plan without that, or cancel it."
    assert looked(house, incident) == 1
    assert waiting(db) == {f"subscription {id}, to move: {asked}" for id in (moved, kept)}
    assert looked(house, incident) == 1  # and nobody twice
    (item,) = shop.subscription(moved)["items"]["data"]
    shop.post(f"/v1/subscription_items/{item['id']}", price=shop.price_of(3_100, "instagram=10000"))
    assert a_day_later(db, house, incident) == {f"subscription {kept}, to move: {asked}"}
    with db.work(OPERATOR) as session:  # as after a day on which Stripe could not be asked
        session.execute(sa.update(Retirement).values(reason="Stripe did not answer."))
    assert a_day_later(db, house, incident) == {f"subscription {kept}, to move: {asked}"}
    assert [shop.subscription(id)["status"] for id in (moved, kept)] == ["active", "active"]  # nobody decided to end it
    shop.delete(f"/v1/subscriptions/{kept}")
    assert a_day_later(db, house, incident) == {"Nothing waits for a person."}
