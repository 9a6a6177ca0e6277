"""A platform does not come back, and meanwhile customers and Stripe go on: what becomes of whom, and of their money."""

import time

import sqlalchemy as sa

from billing import following
from billing.outages import approvals, incidents, queries, tasks
from billing.outages.fates import SOLD_SINCE
from billing.outages.models import Grant, Step
from tenants.db import OPERATOR, Database
from tenants.models import Member
from tests.journeys.desk import STARTED, Desk
from tests.journeys.shop import Shop
from tests.journeys.test_channels import control
from tests.journeys.test_newcomers import looked
from tests.journeys.test_pausing import a_day_later, given_up_while_halted, go_on, waiting
from webhooks import inbox
from webhooks import tasks as webhook_tasks


def plan_of(shop: Shop, subscription: str) -> str:
    (item,) = shop.subscription(subscription)["items"]["data"]
    plan: str = item["price"]["id"]
    return plan


def change_plan(shop: Shop, subscription: str, plan: str) -> None:
    """As its owner does it: the item stays, and its price is another."""
    (item,) = shop.subscription(subscription)["items"]["data"]
    shop.post(f"/v1/subscriptions/{subscription}", items=[{"id": item["id"], "price": plan}])


def test_whoever_took_a_bigger_plan_meanwhile_is_not_moved_to_what_takes_the_place_of_the_smaller(
    shop: Shop, db: Database
) -> None:
    """They pay for a year of it: what a month of the other one is to become was decided about nobody of them."""
    both, other = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    bigger = shop.price_of(36_500, "facebook=2000,instagram=8000", interval="year")
    shop.sell(2, price=both)
    upgraded, stayed = shop.subscriptions
    desk = Desk(shop, shop.house(db))
    incident = given_up_while_halted(desk, **{both: other})
    change_plan(shop, upgraded, bigger)
    go_on(desk, incident)
    assert [plan_of(shop, id) for id in (upgraded, stayed)] == [bigger, other]
    assert waiting(db) == {f"subscription {upgraded}, to move: Its plans are others by now: move it in Stripe."}


def test_whoever_goes_back_to_a_plan_on_a_platform_that_was_given_up_is_for_a_person_again(
    shop: Shop, db: Database
) -> None:
    """One that the engine had moved, and one that its owner had: both would be charged for it from then on."""
    both, other = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    shop.sell(1, price=both)
    shop.sell(1)
    by_engine, by_owner = shop.subscriptions
    desk = Desk(shop, shop.house(db))
    incident = given_up_while_halted(desk, **{both: other})
    change_plan(shop, by_owner, other)
    go_on(desk, incident)
    desk.approve(incident)
    assert [plan_of(shop, id) for id in shop.subscriptions] == [other, other]
    assert waiting(db) == {"Nothing waits for a person."}

    change_plan(shop, by_engine, both)
    change_plan(shop, by_owner, shop.price)
    following.follow(desk.house, "")
    assert looked(desk.house, incident) == 1
    asked = {f"subscription {id}, to move: {SOLD_SINCE}" for id in shop.subscriptions}
    assert a_day_later(db, desk.house, incident) == waiting(db) == asked
    with db.work(OPERATOR) as session:
        shown = queries.shown(session, incident)
    assert shown["retired"] == [{"kind": "move", "state": "needs_person", "count": 2}]
    assert [plan_of(shop, id) for id in shop.subscriptions] == [both, shop.price]  # nobody decided about that
    for subscription in shop.subscriptions:
        change_plan(shop, subscription, other)
    assert a_day_later(db, desk.house, incident) == {"Nothing waits for a person."}


def given(db: Database) -> list[tuple[str, str, int]]:
    """Every grant, in the order in which they were made: its channel, its state, its amount."""
    with db.work(OPERATOR) as session:
        rows = session.execute(
            sa.select(Grant.channel, Grant.state, Grant.amount).where(Grant.state != "cancelled").order_by(Grant.id)
        )
        return [tuple(row) for row in rows]


def test_whoever_went_back_after_a_retraction_is_moved_again_when_the_platform_is_given_up_anew(
    shop: Shop, db: Database
) -> None:
    """Within the day for which Stripe repeats an answer to the same key."""
    both, other = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    shop.sell(1, price=both)
    (subscription,) = shop.subscriptions
    desk = Desk(shop, shop.house(db))
    mistaken = desk.begin()
    desk.retire(mistaken, **{both: other})
    desk.approve(mistaken)
    assert plan_of(shop, subscription) == other
    with db.work(OPERATOR) as session:
        by = session.get_one(Member, desk.people["finance"])
        incidents.retract(session, desk.house.clock.now(), mistaken, by, "test", reason="It came back after all.")
    desk.approve(mistaken)
    change_plan(shop, subscription, both)
    following.follow(desk.house, "")
    incident = desk.declare("facebook", STARTED)
    desk.retire(incident, **{both: other})
    desk.approve(incident)
    assert plan_of(shop, subscription) == other
    assert waiting(db) == {"Nothing waits for a person."}


def test_whoever_is_to_be_cancelled_gets_money_although_the_policy_is_credit(shop: Shop, db: Database) -> None:
    """90 of 744 hours until the declaration are 3.75 of 31.00, and of the half of it 1.88 (1.875). To the end of August
    220 are 9.17 (9.1667) and 4.58 (4.5833): 5.42 and 2.70 more. Whoever is moved is billed again."""
    both, other = shop.price_of(3_100, "facebook=5000,instagram=5000"), shop.price_of(1_500, "instagram=10000")
    shop.sell(1)
    shop.sell(1, price=both)
    desk = Desk(shop, shop.house(db))
    incident = desk.begin("credit")
    assert sorted(given(db)) == [("credit", "succeeded", 188), ("credit", "succeeded", 375)]
    desk.retire(incident, **{both: other})
    looked_at = desk.waits(incident)
    tasks.work_until_quiet(desk.house, incident, timeout=120)
    assert shop.subscription(shop.subscriptions[0])["status"] == "canceled"
    with db.work(OPERATOR) as session:  # what was looked at before they ended is what is approved
        by = session.get_one(Member, desk.people["approver"])
        approvals.approve(session, desk.house.clock.now(), incident, by, looked_at or "", "test")
    tasks.work_until_quiet(desk.house, incident, timeout=120)
    assert sorted(given(db)[2:]) == [("credit", "succeeded", 270), ("refund", "succeeded", 542)]


def test_a_refund_that_comes_back_to_whoever_is_to_be_cancelled_is_for_a_person(shop: Shop, db: Database) -> None:
    """On the balance it would be of no use: nothing is billed any more once they are cancelled, a moment later."""
    shop.sell(1)
    desk = Desk(shop, shop.house(db))
    incident = given_up_while_halted(desk)
    with db.work(OPERATOR) as session:
        refund = session.scalars(sa.select(Step.refund_id)).one()
    control(shop, f"refunds/{refund}/fail")
    following.follow(desk.house, "", inbox.taking("", live=False))
    webhook_tasks.sweep(desk.house, time.monotonic() + 30)
    go_on(desk, incident)
    assert shop.subscription(shop.subscriptions[0])["status"] == "canceled"
    assert given(db)[::2] == [("refund", "failed", 375), ("manual", "needs_person", 375)]
    assert shop.get(f"/v1/customers/{shop.customers[0]}")["balance"] == 0
