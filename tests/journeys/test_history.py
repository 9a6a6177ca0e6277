"""Outages that happened, with their published times, replayed from the declaration to the last cent.

Meta, 4 October 2021: facebook and instagram at once, from about 15:40 to about 22:45 UTC
(https://engineering.fb.com/2021/10/05/networking-traffic/outage-details/). Meta, 5 March 2024: 15:00 to 17:35 UTC.
Twitter, 12 January 2023: third-party clients were cut off without a word, taken as 13 January 03:30 UTC, and never came
back; their makers gave back annual subscriptions in proportion, as of that day.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from billing import following, importing, portal
from billing.errors import BadRequest
from billing.outages import choices, customers, papers, queries, report, settling, supposing
from tenants import people
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import OPERATOR_AGENCY, Agency, Member
from tenants.policy import set_policy
from tests.journeys import shop as shops
from tests.journeys.desk import Desk
from tests.journeys.shop import Shop
from tests.web import app_of, browser, send


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with shops.opened(request.param) as opened:
        yield opened


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize("shop", [at(2021, 10, 1)], indirect=True)
def test_meta_in_october_2021_takes_two_platforms_at_once(shop: Shop, db: Database) -> None:
    both = shop.price_of(9_300, "facebook=6000,instagram=4000")
    most = shop.price_of(9_300, "facebook=5000,instagram=3000,linkedin=2000")
    yen = shop.price_of(31_000, "instagram=10000", "jpy")
    other = shop.price_of(9_300, "linkedin=10000")
    for price in (both, most, yen, other):
        shop.sell(1, price=price)
    with_both, with_most, with_yen, with_other = shop.customers

    shop.now(at(2021, 10, 4, 18))
    desk = Desk(shop, shop.house(db))
    importing.import_account(desk.house, "")
    began, ended = at(2021, 10, 4, 15, 40), at(2021, 10, 4, 22, 45)
    facebook, instagram = (desk.declare(platform, began) for platform in ("facebook", "instagram"))
    for incident in (facebook, instagram):
        desk.approve(incident)
    # By 18:00 2 h 20 min of October's 744 h were lost: 8,400 s of 2,678,400 s.
    # What is owed is owed for both together, so facebook's plan, made before instagram was declared, is reviewed again
    # and gives all of it: 93.00 x (0.6 + 0.4) x 8,400/2,678,400 = 0.2917 = 0.29; 93.00 x 0.8 x … = 0.2333 = 0.23.
    # instagram's run is left with those whom facebook does not touch: 31,000 x 8,400/2,678,400 = 97.2 = 97 yen.
    assert desk.given() == {
        with_both: {facebook: 29}, with_most: {facebook: 23}, with_yen: {instagram: 97},
    }  # fmt: skip
    assert [pause is not None for pause in desk.paused()] == [True, True, True, False]

    shop.now(at(2021, 10, 5, 9))
    desk.resolve(facebook, ended)
    desk.approve(facebook)
    assert [pause is not None for pause in desk.paused()] == [True, True, True, False]  # instagram goes on holding them
    desk.resolve(instagram, ended)
    desk.approve(instagram)
    # 7 h 5 min in all: 25,500 s. 93.00 x 25,500/2,678,400 = 0.8854 = 0.89; 93.00 x 0.8 x … = 0.7083 = 0.71;
    # 31,000 x … = 295.1 = 295 yen.
    assert {customer: sum(one.values()) for customer, one in desk.given().items()} == {
        with_both: 89, with_most: 71, with_yen: 295,
    }  # fmt: skip
    assert with_other not in desk.given()
    assert desk.paused() == [None] * 4
    desk.agrees(facebook, instagram)


@pytest.mark.parametrize("shop", [at(2024, 3, 1)], indirect=True)
def test_meta_in_march_2024_was_over_before_it_was_declared(shop: Shop, db: Database) -> None:
    month = shop.price_of(9_300, "facebook=10000")
    week = shop.price_of(7_000, "facebook=10000", interval="week")
    year = shop.price_of(366_000, "facebook=10000", interval="year")
    for price in (month, week, year):
        shop.sell(1, price=price)
    by_month, by_week, by_year = shop.customers

    shop.now(at(2024, 3, 6, 9))
    desk = Desk(shop, shop.house(db))
    importing.import_account(desk.house, "")
    incident = desk.declare("facebook", at(2024, 3, 5, 15), at(2024, 3, 5, 17, 35))
    desk.approve(incident)
    # 2 h 35 min are 9,300 s. March has 2,678,400 s: 93.00 x 9,300/2,678,400 = 0.3229 = 0.32.
    # A week has 604,800 s: 70.00 x 9,300/604,800 = 1.0764 = 1.08.
    # The year from 1 March 2024 has 365 days, since 29 February lies before it: 3,660.00 x 9,300/31,536,000 = 1.0793.
    assert desk.given() == {by_month: {incident: 32}, by_week: {incident: 108}, by_year: {incident: 108}}
    assert desk.paused() == [None] * 3  # it was over: nobody's billing has to be held
    desk.resolve(incident, at(2024, 3, 5, 17, 35))
    desk.approve(incident)
    assert desk.given() == {by_month: {incident: 32}, by_week: {incident: 108}, by_year: {incident: 108}}
    desk.agrees(incident)


@pytest.mark.parametrize("shop", [at(2022, 7, 1)], indirect=True)
def test_twitter_in_january_2023_did_not_come_back(shop: Shop, db: Database) -> None:
    year = shop.price_of(36_500, "x=10000", interval="year")
    month = shop.price_of(3_100, "x=10000")
    suite = shop.price_of(3_100, "x=4000,linkedin=6000")
    without = shop.price_of(1_900, "linkedin=10000")
    shop.sell(1, price=year)
    shop.now(at(2023, 1, 1))
    shop.sell(1, price=month)
    shop.sell(1, price=suite)
    by_year, by_month, with_suite = shop.customers

    shop.now(at(2023, 1, 14, 12))
    desk = Desk(shop, shop.house(db))
    importing.import_account(desk.house, "")
    incident = desk.declare("x", at(2023, 1, 13, 3, 30))
    desk.approve(incident)
    # 32 h 30 min so far, 117,000 s: 365.00 x 117,000/31,536,000 = 1.3542; 31.00 x 117,000/2,678,400 = 1.3542;
    # 31.00 x 0.4 x … = 0.5417.
    assert desk.given() == {by_year: {incident: 135}, by_month: {incident: 135}, with_suite: {incident: 54}}
    shop.now(at(2023, 2, 2, 9))  # the renewals of 1 February are held as drafts, first of all
    following.follow(desk.house, "")
    assert [pause is not None for pause in desk.paused()] == [True, True, True]

    with pytest.raises(BadRequest, match="takes the place"):
        desk.retire(incident)
    with pytest.raises(BadRequest, match="depends on x too"):
        desk.retire(incident, **{suite: month})
    desk.retire(incident, **{suite: without})
    desk.approve(incident)
    # To the end of what was paid. The year ends on 1 July: from 13 January 03:30 that are 168 d 20 h 30 min, or
    # 14,589,000 s: 365.00 x 14,589,000/31,536,000 = 168.85. January has 18 d 20 h 30 min left, 1,629,000 s:
    # 31.00 x 1,629,000/2,678,400 = 18.8542 = 18.85, and 0.4 of that 7.54. February was not paid yet: of the drafts
    # 31.00 are lost, and 0.4 x 31.00 = 12.40 of the suite's.
    assert {customer: sum(one.values()) for customer, one in desk.given().items()} == {
        by_year: 16_885, by_month: 1_885 + 3_100, with_suite: 754 + 1_240,
    }  # fmt: skip
    ended = [shop.subscription(id) for id in shop.subscriptions]
    assert [one["status"] for one in ended] == ["canceled", "canceled", "active"]
    assert ended[2]["items"]["data"][0]["price"]["id"] == without
    assert desk.paused()[2] is None
    with desk.house.database.work(OPERATOR) as session:
        shown = queries.shown(session, incident)
        told = papers.in_lines(report.report(session, desk.house.clock.now(), incident))
    # Of the drafts of 1 February all of 31.00 is lost, and 12.40 of 31.00: the first asks for nothing any more.
    assert shown["held_invoices"] == {"collecting": 1, "voided": 1}
    assert shown["retired"] == [
        {"kind": "cancel", "state": "done", "count": 2}, {"kind": "move", "state": "done", "count": 1},
    ]  # fmt: skip
    words = queries.in_words(shown)
    assert "  invoices held: 1 collecting, 1 voided" in words
    assert words.index("  subscriptions ended: 2") + 1 == words.index("  subscriptions moved to another plan: 1")
    after = told[told.index("What became of the subscriptions") + 1 :]
    assert [line.split() for line in after[:3]] == [
        ["subscriptions", "count"], ["ended", "2"], ["moved", "to", "another", "plan", "1"],
    ]  # fmt: skip
    shop.now(at(2023, 3, 2))
    invoices = shop.get("/v1/invoices", limit=100)["data"]
    assert {(one["customer"], one["status"], one["amount_paid"]) for one in invoices} >= {
        (by_month, "void", 0), (with_suite, "paid", 1_860),
    }  # fmt: skip
    latest = shop.get("/v1/invoices", customer=with_suite, limit=1)["data"][0]
    assert (latest["status"], latest["total"]) == ("paid", 1_900)  # from March on without it
    assert shop.get("/v1/invoices", customer=by_month, limit=1)["data"][0]["created"] < at(2023, 2, 2).timestamp()
    desk.agrees_but_for_reductions(incident)
    with db.work(OPERATOR) as session:
        notes = {one.credit_note[:3] for one in report.documents(session, incident) if one.reduce == 3_100}
        totals = supposing.simulate(session, desk.house.clock.now(), "prorated")["totals"]
    assert notes == {""}  # a void invoice has no credit note
    # 168.85 + 49.85 + 19.94, as above: also what was never collected, of the draft that was voided all of it.
    assert [(one["currency"], one["amount"]) for one in totals] == [("usd", 23_864)]


@pytest.mark.parametrize("shop", [at(2022, 7, 1)], indirect=True)
def test_who_wants_nothing_back_for_twitter_gets_nothing(shop: Shop, db: Database) -> None:
    year = shop.price_of(36_500, "x=10000", interval="year")
    month = shop.price_of(3_100, "x=10000")
    shop.sell(2, price=year)
    shop.now(at(2023, 1, 1))
    shop.sell(1, price=month)
    generous, silent, by_month = shop.customers

    shop.now(at(2023, 1, 14, 12))
    desk = Desk(shop, shop.house(db))
    with db.work(OPERATOR) as session:
        by = session.get_one(Member, desk.people["finance"])
        set_policy(
            session, desk.house.clock.now(), session.get_one(Agency, OPERATOR_AGENCY), {"choice_days": 5}, by, ""
        )
    importing.import_account(desk.house, "")
    incident = desk.declare("x", at(2023, 1, 13, 3, 30))
    desk.approve(incident)
    assert desk.given() == {}
    assert says_in_the_portal(desk.house, generous, incident, "waive") == 303

    shop.now(at(2023, 1, 19, 13))
    settling.settle_due(desk.house, 10)
    desk.approve(incident)
    # 6 d 9 h 30 min so far, 552,600 s: 365.00 x 552,600/31,536,000 = 6.3958; 31.00 x 552,600/2,678,400 = 6.3958.
    assert desk.given() == {silent: {incident: 640}, by_month: {incident: 640}}
    shop.now(at(2023, 2, 2, 9))
    following.follow(desk.house, "")
    desk.retire(incident)
    desk.approve(incident)
    # As above: 168.85 of the year, 18.85 of January, and all of February's draft. With the one who waived it would be
    # 168.85 + 168.85 + 49.85 = 387.55, so 168.85 less are 218.70.
    assert desk.given() == {silent: {incident: 16_885}, by_month: {incident: 1_885 + 3_100}}
    assert sum(one[incident] for one in desk.given().values()) == 38_755 - 16_885
    with db.work(OPERATOR) as session:
        told = report.report(session, desk.house.clock.now(), incident)
    assert told["waived"] == [{"currency": "usd", "amount": 16_885, "invoices": 1, "customers": 1}]
    assert told["money"][0]["given"] == 21_870
    assert [charge["refunded"] for charge in shop.ledger()["charges"] if charge["customer"] == generous] == [0]
    assert [shop.subscription(id)["status"] for id in shop.subscriptions] == ["canceled"] * 3
    assert says_in_the_portal(desk.house, generous, incident, "money") == 409
    desk.agrees_but_for_reductions(incident)


def says_in_the_portal(house: House, customer: str, incident: str, choice: str) -> int:
    """The status of the answer."""
    app = app_of(house, portal.blueprint, customers.blueprint)
    app.extensions[portal.CHOOSABLE] = choices.offered
    with house.database.work(OPERATOR) as session:
        key = house.settings.secret_key
        token = people.link_for_customer(session, OPERATOR_AGENCY, customer, key, "test", "test")
    client = browser(app, f"/sign-in/{token}")
    return send(client, "/portal", f"/portal/choices/{incident}", {"choice": choice}).status_code
