"""What a report says is owed and where it is, and whether the promise was kept. 15/124 of 31.00 are 3.75."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from billing.models import BalanceEntry, Customer
from billing.outages import approvals, papers, report, steps
from billing.outages.models import Incident, Step
from tenants.db import OPERATOR, Database
from tenants.models import Member
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, August, begun
from tests.factories import building

OVER = replace(FACEBOOK_IS_DOWN, ended_at=DECLARED)
"""Nothing more is to come after its run."""

FREEZE = """
INSERT INTO frozen_invoices (agency_id, invoice_id, reason)
SELECT agency_id, id, 'They differ.' FROM invoices WHERE id = :invoice
"""


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


def told(august: August, incident: str, **later: int) -> dict[str, Any]:
    """The report, so much later than the promised date."""
    with august.db.work(OPERATOR) as session:
        by = session.get_one(Incident, incident).promise_at
        return report.report(session, by + timedelta(**later), incident)


def kept(august: August, incident: str) -> list[bool | None]:
    """An hour before the promised date, and an hour after it."""
    return [told(august, incident, hours=hours)["promise"]["kept"] for hours in (-1, 1)]


def sold(august: August, hindrance: str = "") -> str:
    with building(august.db) as session:
        invoice = august.sell().id
        if hindrance:
            session.execute(sa.text(hindrance), {"invoice": invoice})
    return invoice


def declared(august: August) -> str:
    incident = august.declare(OVER)
    august.resolve(incident, now=DECLARED, at=DECLARED)
    return incident


def ways(august: August, incident: str) -> dict[str, int]:
    """Where the money is, and all of it."""
    (money,) = told(august, incident)["money"]
    return {name: amount for name, amount in money.items() if name not in ("currency", "grants") and amount}


def test_what_was_given_in_time_is_a_promise_kept(august: August) -> None:
    sold(august)
    incident = declared(august)
    assert kept(august, incident) == [None, False]
    assert ways(august, incident) == {"waiting": 375, "owed": 375}
    august.give_back(incident)
    assert kept(august, incident) == [True, True]
    assert ways(august, incident) == {"refunded": 375, "given": 375, "owed": 375}


def test_a_credit_that_stood_in_for_a_refund_and_came_late_breaks_it(august: August) -> None:
    sold(august)
    incident = declared(august)
    august.approve(incident)
    with august.db.work(OPERATOR) as session:
        refund = session.scalars(sa.select(Step).where(Step.state == "approved")).one()
        begun(session, refund)
        steps.move(session, refund, steps.Move("failed", "The bank sent it back.", stripe_id="cn_1"))
        credit = session.scalars(sa.select(Step).where(Step.state == "approved")).one()
        begun(session, credit)
        steps.move(session, credit, steps.Move("succeeded", stripe_id="cbtxn_1"))
        steps.finish(session)
        late = session.get_one(Incident, incident).promise_at + timedelta(days=1)
        entry = BalanceEntry(
            agency_id=august.agency.id, id="cbtxn_1", customer_id=session.scalars(sa.select(Customer.id)).one(),
            currency="usd", amount=-375, type="adjustment", step_id=credit.id, created_at=late,
        )  # fmt: skip
        session.add(entry)
    assert ways(august, incident) == {"credited": 375, "given": 375, "owed": 375}
    promise = told(august, incident, days=2)["promise"]
    assert (promise["kept"], promise["open_grants"]) == (False, 0)
    assert "the last of it was on 5 September 2019" in "\n".join(papers.in_lines(told(august, incident, days=2)))


def test_what_was_declined_is_owed_and_late(august: August) -> None:
    sold(august)
    incident = declared(august)
    with august.db.work(OPERATOR) as session:
        approvals.decline(session, incident, session.get_one(Member, august.approver.id), "Not now.", "test")
    assert ways(august, incident) == {"left_out": 375, "owed": 375}
    assert told(august, incident)["left_out"] == [
        {"currency": "usd", "reason": "declined", "count": 1, "amount": 375}
    ]  # fmt: skip
    assert kept(august, incident) == [None, False]
    said = "\n".join(papers.in_lines(told(august, incident, hours=1)))
    assert "and was not: 1 invoice not decided." in said
    assert "declined" in said


@pytest.mark.parametrize(
    ("hindrance", "reason", "late"),
    [
        ("UPDATE payments SET dispute_open = true WHERE invoice_id = :invoice", "disputed", [True, True]),
        (
            FREEZE,
            "frozen",
            [None, False],
        ),
    ],
)
def test_what_was_left_out_is_shown_with_its_reason(
    august: August, hindrance: str, reason: str, late: list[bool | None]
) -> None:
    """A dispute is the customer's with their bank: no promise is broken by it. A frozen invoice waits for us."""
    sold(august, hindrance)
    sold(august)
    incident = declared(august)
    august.give_back(incident)
    assert ways(august, incident) == {"refunded": 375, "given": 375, "left_out": 375, "owed": 750}
    assert told(august, incident)["left_out"] == [{"currency": "usd", "reason": reason, "count": 1, "amount": 375}]
    assert kept(august, incident) == late
