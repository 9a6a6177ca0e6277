"""A platform does not come back, and meanwhile customers and Stripe go on: what becomes of whom, and of their money."""

from billing import following
from billing.outages import queries
from billing.outages.fates import SOLD_SINCE
from tenants.db import OPERATOR, Database
from tests.journeys.desk import Desk
from tests.journeys.shop import Shop
from tests.journeys.test_newcomers import looked
from tests.journeys.test_pausing import a_day_later, given_up_while_halted, go_on, waiting


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
