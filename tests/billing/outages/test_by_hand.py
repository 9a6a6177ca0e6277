"""What people paid back because Stripe could not: noted once, by finance, and the grant is then given."""

import pytest
from flask import Flask
from sqlalchemy.exc import DBAPIError

from billing.errors import BadRequest, Conflict, NotAllowed, NotFound, Refused
from billing.outages import by_hand, desk, grants
from billing.outages.models import Grant, HandPayment
from tenants import audit
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Member
from tests.billing.outages.august import DECLARED
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.factories import MemberFactory, building
from tests.web import app_of, browser, house_of, link_for, send

NOTE = "Bank transfer 4711"


@pytest.fixture
def finance(world: Approved) -> Member:
    with building(world.database):
        return MemberFactory(email="books@operator.example")


@pytest.fixture
def outside(world: Approved, house: House) -> int:
    """A grant of 7.00 of an invoice that was paid outside Stripe, its note made."""
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (5_800,))
        grant = world.grant(session, n, out_of_band=700)
        world.step(session, grant)
    grants.send_due(house, 10)
    return grant.id


def noted(world: Approved, grant_id: int, by: Member, note: str = NOTE) -> None:
    with world.database.work(OPERATOR) as session:
        by_hand.record(session, DECLARED, grant_id, by, note, "test")


def test_what_was_paid_by_hand_is_given(world: Approved, outside: int, finance: Member) -> None:
    noted(world, outside, finance)
    assert world.seen(Grant, outside).state == "succeeded"
    with world.database.work(OPERATOR) as session:
        (payment,) = session.query(HandPayment)
        assert (payment.amount, payment.currency, payment.note, payment.paid_at) == (700, "usd", NOTE, DECLARED)
        assert by_hand.waiting(session)["grants"] == []
        assert audit.breaks(session) == {}


def test_a_refund_that_came_back_of_a_customer_who_left_is_paid_by_hand(
    world: Approved, house: House, stripe: SmallStripe, finance: Member
) -> None:
    world.refund_of(1_200, status="canceled")
    stripe.refund_status = "failed"
    while grants.send_due(house, 10):
        pass
    with world.database.work(OPERATOR) as session:
        (one,) = by_hand.waiting(session)["grants"]
    assert (one["amount"], one["by_hand"]) == (1_200, 1_200)
    noted(world, one["id"], finance)
    assert world.seen(Grant, one["id"]).state == "succeeded"


@pytest.mark.parametrize(
    ("note", "role", "error"),
    [
        ("", "finance", BadRequest),
        ("x" * 501, "finance", BadRequest),
        ("a\u202eb", "finance", BadRequest),
        (NOTE, "approver", NotAllowed),
        (NOTE, "auditor", NotAllowed),
    ],
)
def test_what_cannot_be_noted_changes_nothing(
    world: Approved, outside: int, note: str, role: str, error: type[Refused]
) -> None:
    with building(world.database):
        by = MemberFactory(role=role)
    with pytest.raises(error):
        noted(world, outside, by, note)
    assert world.seen(Grant, outside).state == "needs_person"
    with world.database.work(OPERATOR) as session:
        assert session.query(HandPayment).count() == 0


def test_nothing_is_noted_twice_nor_where_nothing_waits(
    world: Approved, house: House, outside: int, finance: Member
) -> None:
    noted(world, outside, finance)
    with pytest.raises(Conflict, match="nothing of it waits"):
        noted(world, outside, finance)
    with pytest.raises(NotFound):
        noted(world, 10**9, finance)


def test_a_note_stands_for_good(world: Approved, outside: int, finance: Member) -> None:
    noted(world, outside, finance)
    with pytest.raises(DBAPIError), world.database.work(OPERATOR) as session:
        session.query(HandPayment).update({"amount": 1})


def test_the_desk_shows_what_waits_and_takes_the_note(world: Approved, outside: int, finance: Member) -> None:
    house = house_of(world.database)
    app: Flask = app_of(house, desk.blueprint)
    client = browser(app, link_for(house, finance))
    page = client.get("/console/desk").text
    assert "7.00 USD of this invoice was paid outside Stripe" in page
    assert send(client, "/console/desk", f"/console/desk/grants/{outside}/paid", {"note": NOTE}).status_code == 303
    assert "Nothing waits for a person" in client.get("/console/desk").text
    assert world.seen(Grant, outside).state == "succeeded"
