"""A platform does not come back, and meanwhile customers and Stripe go on: what becomes of whom, and of their money."""

from tenants.db import Database
from tests.journeys.desk import Desk
from tests.journeys.shop import Shop
from tests.journeys.test_pausing import given_up_while_halted, go_on, waiting


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
