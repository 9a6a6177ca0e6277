"""An agency with a Stripe account of its own: what its customers are owed comes from there, and from nowhere else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import requests
import sqlalchemy as sa

from billing import check, following, importing
from billing.models import Payment
from billing.outages import approvals, fees, grants, pauses, preflight, reconcile, tasks
from billing.outages.models import Grant, HeldInvoice, Pause
from billing.rates import RateBucket
from tenants.db import OPERATOR, Database
from tenants.models import Agency, Member
from tenants.settings import Rate
from tests.journeys import shop as shops
from tests.journeys.desk import Desk
from tests.journeys.shop import DECLARED, STARTED, Shop

RENEWED = datetime(2019, 9, 1, 3, tzinfo=UTC)
RESOLVED = datetime(2019, 9, 3, 9, tzinfo=UTC)


@dataclass
class Street:
    """The operator's shop and that of Elm, which has an account of its own; the same prices and cards in both."""

    operator: Shop
    elm: Shop
    desk: Desk

    def follow(self) -> None:
        for account in ("", self.elm.account):
            following.follow(self.desk.house, account)

    def written_to(self) -> set[str]:
        """The account of every call since the last look that may have changed something."""
        calls = requests.get(f"{self.elm.url}/_sandbox/requests", timeout=120).json()["requests"]
        requests.delete(f"{self.elm.url}/_sandbox/requests", timeout=120)
        return {one["account"] for one in calls if one["method"] != "GET"}

    def refunded(self) -> dict[str, list[int]]:
        """What has gone back of each charge, by account ('' is the operator's)."""
        charges = self.elm.ledger()["charges"]
        of = {one: [c["refunded"] for c in charges if c["account"] == one] for one in {c["account"] for c in charges}}
        return {one if one == self.elm.account else "": sorted(refunded) for one, refunded in of.items()}


@pytest.fixture
def street(db: Database) -> Iterator[Street]:
    with shops.opened() as operator:
        account = operator.post("/v1/accounts", type="standard", country="US")["id"]
        elm = Shop(operator.url, account).open()
        operator.sell(1)
        elm.sell(2)
        operator.now(DECLARED)
        desk = Desk(elm, operator.house(db))
        with db.work(OPERATOR) as session:
            session.add(Agency(slug="elm", name="Elm Street", stripe_account=account))
        for one in ("", account):
            importing.import_account(desk.house, one)
        yield Street(operator, elm, desk)


def test_pause_refund_and_release_go_to_the_account_of_the_agency_alone(street: Street, db: Database) -> None:
    """31.00 for August. 90 of 744 hours lost by the declaration are 3.75, 220 by the end of the month 9.17 (9.1667).

    Of September's 720 hours 57 are lost: 31.00 x 57/720 = 2.4542 = 2.45 off the draft, of which 28.55 are collected.
    """
    desk, elm, operator = street.desk, street.elm, street.operator
    street.written_to()
    incident = desk.declare("facebook", STARTED, agencies=("elm",))
    desk.approve(incident)
    assert [pause["behavior"] for pause in desk.paused()] == ["keep_as_draft"] * 2
    assert operator.subscription(operator.subscriptions[0])["pause_collection"] is None
    assert street.refunded() == {"": [0], elm.account: [375, 375]}

    elm.now(RENEWED)
    street.follow()
    newest = [elm.get("/v1/invoices", subscription=id)["data"][0] for id in elm.subscriptions]
    assert [one["status"] for one in newest] == ["draft", "draft"]
    elm.now(RESOLVED)
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    assert street.written_to() == {elm.account}
    assert desk.paused() == [None, None]
    assert shops.seen(db, Pause) == {"released": 2}
    assert shops.seen(db, HeldInvoice) == {"collecting": 2}

    elm.now(RESOLVED + timedelta(hours=3))
    street.follow()
    assert [elm.get(f"/v1/invoices/{one['id']}")["amount_paid"] for one in newest] == [2_855] * 2
    assert {customer: one[incident] for customer, one in desk.given().items()} == dict.fromkeys(
        elm.customers, 917 + 245
    )
    # The operator's own customer was charged for September, and had nothing back.
    assert street.refunded() == {"": [0, 0], elm.account: [0, 0, 917, 917]}
    assert reconcile.reconcile(desk.house, incident).differences == []


def test_one_incident_over_two_accounts_gives_back_from_each_what_was_paid_there(street: Street) -> None:
    desk, elm, operator = street.desk, street.elm, street.operator
    street.written_to()
    incident = desk.declare("facebook", STARTED)
    desk.approve(incident)
    assert len(street.written_to()) == 2
    assert street.refunded() == {"": [375], elm.account: [375, 375]}
    assert {one["customer"] for one in operator.get("/v1/credit_notes")["data"]} == set(operator.customers)
    assert {one["customer"] for one in elm.get("/v1/credit_notes")["data"]} == set(elm.customers)
    elm.now(datetime(2019, 8, 30, 8, tzinfo=UTC))
    desk.resolve(incident, datetime(2019, 8, 30, 8, tzinfo=UTC))
    desk.approve(incident)
    # 180 of 744 hours: 7.50.
    assert street.refunded() == {"": [750], elm.account: [750, 750]}
    assert desk.paused() == [None, None]
    assert operator.subscription(operator.subscriptions[0])["pause_collection"] is None
    assert reconcile.reconcile(desk.house, incident).differences == []


def test_a_customer_who_was_copied_to_the_agencys_account_is_two_of_one_name(street: Street, db: Database) -> None:
    """Stripe copies customers to another account under the same id. Each is charged, and had back, where it pays."""
    desk, elm, operator = street.desk, street.elm, street.operator
    copied = operator.customers[0]
    requests.post(f"{elm.url}/_sandbox/copies", json={"customer": copied, "to": elm.account}, timeout=120)
    elm.sell_to([copied])
    for _ in "12":
        for account in ("", elm.account):
            importing.import_account(desk.house, account)
            assert check.check(desk.house, account) == []
    incident = desk.declare("facebook", STARTED)
    desk.approve(incident)
    assert street.refunded() == {"": [375], elm.account: [0, 375, 375]}
    elm.now(datetime(2019, 8, 30, 8, tzinfo=UTC))
    desk.resolve(incident, datetime(2019, 8, 30, 8, tzinfo=UTC))
    desk.approve(incident)
    # 180 of 744 hours are 7.50; whoever bought at the declaration lost 90 of theirs: 3.75.
    assert street.refunded() == {"": [750], elm.account: [375, 750, 750]}
    assert desk.paused() == [None] * 3
    assert reconcile.reconcile(desk.house, incident).differences == []


def test_an_account_whose_turns_are_taken_keeps_no_worker_from_the_others(street: Street, db: Database) -> None:
    """Its pauses are the most urgent, and as many workers wait for it as may: the next one goes on elsewhere."""
    desk, account = street.desk, street.elm.account
    desk.house = replace(desk.house, settings=replace(desk.house.settings, stripe_rate=Rate(100, 0.1)))
    incident = desk.declare("facebook", STARTED)
    fingerprint = desk.waits(incident)
    with db.work(OPERATOR) as session:
        by = session.get_one(Member, desk.people["approver"])
        approvals.approve(session, desk.house.clock.now(), incident, by, fingerprint or "", "test")
        of_elm = Pause.agency_id.in_(sa.select(Agency.id).where(Agency.slug == "elm"))
        session.execute(sa.update(Pause).where(of_elm).values(renews_at=STARTED))
    while preflight.look_due(desk.house, 10):
        pass
    taken_by_others = [
        {"account": account, "endpoint": endpoint, "next_at": sa.func.now() + timedelta(seconds=10)}
        for endpoint in ("GET /v1/subscriptions/{id}", "GET /v1/credit_notes/preview")
    ]
    with db.work(OPERATOR) as session:
        session.execute(sa.insert(RateBucket).values(taken_by_others))
    assert pauses.hold_due(desk.house, 1) == grants.send_due(desk.house, 1) == 1
    with db.work(OPERATOR) as session:
        for table, done in ((Pause, "held"), (Grant, "succeeded")):
            owners = session.scalars(sa.select(Agency.slug).join(table).where(table.state == done))
            assert set(owners) == {"operator"}


def test_an_account_that_lets_us_go_in_the_middle_of_a_run_is_told_of(street: Street, db: Database) -> None:
    desk, account = street.desk, street.elm.account
    incident = desk.declare("facebook", STARTED, agencies=("elm",))
    fingerprint = desk.waits(incident)
    with db.work(OPERATOR) as session:
        by = session.get_one(Member, desk.people["approver"])
        approvals.approve(session, desk.house.clock.now(), incident, by, fingerprint or "", "test")
    while pauses.hold_due(desk.house, 10) + preflight.look_due(desk.house, 10):
        pass
    assert grants.send_due(desk.house, 1) == 1
    assert shops.seen(db, Grant) == {"succeeded": 1, "approved": 1}

    street.operator.delete(f"/v1/accounts/{account}")
    while grants.send_due(desk.house, 10):
        pass
    assert shops.seen(db, Grant) == {"succeeded": 1, "approved": 1}
    told = tasks.not_ready(desk.house) or ""
    assert f"Stripe is left alone for now: {account}: " in told
    assert "Application access may have been revoked." in told


def test_an_account_that_let_us_go_keeps_no_other_waiting_for_its_fees(db: Database) -> None:
    with shops.opened() as operator:
        elm, oak = (
            Shop(operator.url, operator.post("/v1/accounts", type="standard", country="US")["id"]).open() for _ in "12"
        )
        elm.sell(2)
        oak.sell(1)
        operator.now(DECLARED)
        desk = Desk(elm, operator.house(db))
        for slug, shop in (("elm", elm), ("oak", oak)):
            with db.work(OPERATOR) as session:
                session.add(Agency(slug=slug, name=slug, stripe_account=shop.account))
            importing.import_account(desk.house, shop.account)
        desk.approve(desk.declare("facebook", STARTED))
        operator.delete(f"/v1/accounts/{elm.account}")
        assert fees.learn_due(desk.house, 10) == 1
        with db.work(OPERATOR) as session:
            known = session.execute(
                sa.select(Agency.slug, Payment.fee).join(Agency, Agency.id == Payment.agency_id).order_by(Payment.fee)
            )
            # 2.9 % of 31.00 are 0.899, rounded 0.90, and 0.30 are 1.20.
            assert [tuple(one) for one in known] == [("oak", 120), ("elm", None), ("elm", None)]
