"""Renewals of which no event ever told us: they are asked for no more than what was not lost of them, all the same."""

from datetime import UTC, datetime, timedelta

from billing import following
from billing.outages import report
from tenants.db import OPERATOR, Database
from tests.journeys.desk import Desk
from tests.journeys.shop import Shop

RESOLVED = datetime(2019, 9, 3, 9, tzinfo=UTC)


def test_a_renewal_that_nobody_heard_of_is_credited_before_it_is_collected(shop: Shop, db: Database) -> None:
    shop.sell(2)
    house = shop.house(db)
    desk = Desk(shop, house)
    incident = desk.begin()
    # 1 September: both renew, as drafts. Every event is lost.
    shop.now(RESOLVED)
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    # August: 220 of 744 hours of 31.00 are 9.17 (9.1666); the drafts are found at the release, and planned at once.
    assert [sum(one.values()) for one in desk.given().values()] == [917, 917]
    drafts = [shop.get("/v1/invoices", subscription=id)["data"][0] for id in shop.subscriptions]
    assert [one["status"] for one in drafts] == ["draft", "draft"]

    desk.approve(incident)
    # September: 57 of 720 hours are 2.45 (2.4541).
    assert [sum(one.values()) for one in desk.given().values()] == [1_162, 1_162]
    shop.now(RESOLVED + timedelta(hours=3))
    renewals = [shop.get(f"/v1/invoices/{one['id']}") for one in drafts]
    assert [(one["status"], one["amount_paid"]) for one in renewals] == [("paid", 2_855)] * 2
    following.follow(house, "")
    desk.approve(incident)
    desk.agrees_but_for_reductions(incident)
    with db.work(OPERATOR) as session:
        held = report.report(session, house.clock.now(), incident)["held"]
    # Asked for 62.00 in all, less 2.45 each: 57.10 came in.
    assert held == [
        {"currency": "usd", "renewals": 2, "asked_for": 6_200, "not_collected": 490, "brought_in": 5_710, "open": 0}
    ]


def test_a_renewal_that_owes_its_customer_something_asks_for_nothing(shop: Shop, db: Database) -> None:
    """Sold for 31.00 on 1 August, and for 1.00 from 11 August on: 21/31 of the 30.00 less come to more than 1.00."""
    _cheaper, _as_it_was = shop.sell(2)
    shop.now(datetime(2019, 8, 11, tzinfo=UTC))
    (item,) = shop.subscription(shop.subscriptions[0])["items"]["data"]
    shop.post(f"/v1/subscription_items/{item['id']}", price=shop.price_of(100, "facebook=10000"))
    house = shop.house(db)
    desk = Desk(shop, house)
    incident = desk.begin()
    shop.now(RESOLVED)
    drafts = [shop.get("/v1/invoices", subscription=id)["data"][0] for id in shop.subscriptions]
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    assert [(one["status"], one["total"] < 0) for one in drafts] == [("draft", True), ("draft", False)]
    with db.work(OPERATOR) as session:
        (held,) = report.report(session, house.clock.now(), incident)["held"]
    assert (held["renewals"], held["asked_for"]) == (2, 3_100)
