"""Renewals held by `void`: Stripe voids them while the outage lasts, so nobody pays for time that nobody could use."""

from datetime import UTC, datetime, timedelta

from billing import following, importing
from billing.outages import report as reporting
from billing.outages.models import HeldInvoice, Pause
from tenants.db import OPERATOR, Database
from tenants.models import OPERATOR_AGENCY, Agency, Member
from tenants.policy import set_policy
from tests.journeys import shop as shops
from tests.journeys.desk import Desk
from tests.journeys.shop import DECLARED, STARTED, Shop

RENEWAL = datetime(2019, 9, 1, tzinfo=UTC)
RESOLVED = datetime(2019, 9, 3, 9, tzinfo=UTC)


def test_what_renews_during_the_pause_is_voided_and_never_asked_for(shop: Shop, db: Database) -> None:
    """August was paid with 31.00. Of its 744 hours 90 are lost by the declaration, 220 by its end.

    31.00 x 90/744 = 3.75; 31.00 x 220/744 = 9.1667, less 3.75 are 5.4167 = 5.42. Nothing was paid for September, so
    of its 57 lost hours nothing is owed; October is paid whole.
    """
    shop.sell(2)
    shop.now(DECLARED)
    desk = Desk(shop, shop.house(db))
    with db.work(OPERATOR) as session:
        by = session.get_one(Member, desk.people["finance"])
        set_policy(session, DECLARED, session.get_one(Agency, OPERATOR_AGENCY), {"hold": "void"}, by, "test")
    importing.import_account(desk.house, "")
    incident = desk.declare("facebook", STARTED)
    desk.approve(incident)
    assert [pause and pause["behavior"] for pause in desk.paused()] == ["void", "void"]
    assert {customer: one[incident] for customer, one in desk.given().items()} == dict.fromkeys(shop.customers, 375)

    shop.now(RENEWAL + timedelta(hours=3))
    following.follow(desk.house, "")
    renewals = [shop.get("/v1/invoices", subscription=id)["data"][0] for id in shop.subscriptions]
    assert [(one["status"], one["total"], one["amount_paid"]) for one in renewals] == [("void", 3_100, 0)] * 2

    shop.now(RESOLVED)
    following.follow(desk.house, "")
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    assert desk.paused() == [None, None]
    assert shops.seen(db, Pause) == {"released": 2}
    assert {customer: one[incident] for customer, one in desk.given().items()} == dict.fromkeys(shop.customers, 917)
    assert shops.seen(db, HeldInvoice) == {}
    with db.work(OPERATOR) as session:
        held = reporting.report(session, RESOLVED, incident)["held"]
    assert held == [
        {"currency": "usd", "renewals": 2, "asked_for": 6_200, "not_collected": 6_200, "brought_in": 0, "open": 0}
    ]

    shop.now(datetime(2019, 10, 1, 3, tzinfo=UTC))
    following.follow(desk.house, "")
    desk.approve(incident)
    invoices = [
        [(one["status"], one["amount_paid"]) for one in shop.get("/v1/invoices", subscription=id)["data"]]
        for id in shop.subscriptions
    ]
    assert invoices == [[("paid", 3_100), ("void", 0), ("paid", 3_100)]] * 2
    assert {customer: one[incident] for customer, one in desk.given().items()} == dict.fromkeys(shop.customers, 917)
    desk.agrees(incident)


def test_what_the_agency_says_between_two_incidents_is_for_the_second_and_begins_as_the_first_lets_go(
    shop: Shop, db: Database
) -> None:
    """September is made while facebook's hold decides, and stays a draft; October while instagram's does."""
    shop.sell(1, price=shop.price_of(3_100, "facebook=5000,instagram=5000"))
    desk = Desk(shop, shop.house(db))
    facebook = desk.begin(policy="none")
    with db.work(OPERATOR) as session:
        by = session.get_one(Member, desk.people["finance"])
        set_policy(session, DECLARED, session.get_one(Agency, OPERATOR_AGENCY), {"hold": "void"}, by, "test")
    instagram = desk.declare("instagram", STARTED, policy="none")
    desk.approve(instagram)
    assert shops.seen(db, Pause) == {"held": 2}
    assert [pause["behavior"] for pause in desk.paused()] == ["keep_as_draft"]
    desk.agrees(facebook, instagram)

    shop.now(RESOLVED)
    following.follow(desk.house, "")
    desk.resolve(facebook, RESOLVED)
    desk.approve(facebook)
    assert shops.seen(db, Pause) == {"held": 1, "released": 1}
    assert [pause["behavior"] for pause in desk.paused()] == ["void"]
    desk.agrees(facebook, instagram)

    shop.now(datetime(2019, 10, 1, 3, tzinfo=UTC))
    following.follow(desk.house, "")
    invoices = shop.get("/v1/invoices", subscription=shop.subscriptions[0])["data"]
    assert [one["status"] for one in invoices] == ["void", "draft", "paid"]
    desk.resolve(instagram, datetime(2019, 10, 1, 2, tzinfo=UTC))
    desk.approve(instagram)
    assert desk.paused() == [None]
    assert shops.seen(db, Pause) == {"released": 2}
    shop.now(datetime(2019, 10, 1, 6, tzinfo=UTC))
    invoices = shop.get("/v1/invoices", subscription=shop.subscriptions[0])["data"]
    assert [(one["status"], one["amount_paid"]) for one in invoices] == [("void", 0), ("paid", 3_100), ("paid", 3_100)]
    following.follow(desk.house, "")
    desk.agrees(facebook, instagram)
