"""Halting one incident, one account, or everything; and who may."""

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import Conflict, NotAllowed, NotFound
from billing.outages import approvals, grants, restore
from billing.outages.models import Control, Step
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import AuditEntry, Member
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe


def finance(session: Session) -> Member:
    return session.scalars(sa.select(Member).where(Member.role == "finance")).one()


@pytest.mark.parametrize("account", [None, ""], ids=["everything", "the operator's account"])
def test_what_a_person_halts_goes_on_when_they_continue_it(
    world: Approved, house: House, stripe: SmallStripe, account: str | None
) -> None:
    step = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        approvals.halt_scope(session, account, finance(session), "cli")
    assert grants.send_due(house, 10) == 0
    with world.database.work(OPERATOR) as session:
        approvals.resume_scope(session, account, finance(session), "cli")
    assert grants.send_due(house, 10) == 1
    assert world.seen(Step, step).state == "succeeded"
    with world.database.work(OPERATOR) as session:
        told = session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.seq)).all()
    assert [action for action in told if action.startswith("sending")] == ["sending.halted", "sending.continued"]


def test_what_is_not_halted_cannot_be_continued_and_unknown_accounts_not_halted(world: Approved) -> None:
    with pytest.raises(Conflict, match="not halted"), world.database.work(OPERATOR) as session:
        approvals.resume_scope(session, None, finance(session), "cli")
    with pytest.raises(NotFound, match="acct_nobody"), world.database.work(OPERATOR) as session:
        approvals.halt_scope(session, "acct_nobody", finance(session), "cli")


def test_nobody_continues_what_stands_still_because_an_older_database_came_back(world: Approved) -> None:
    with world.database.work(OPERATOR) as session:
        restore.stop(session, "1 attempt is missing.")
    with pytest.raises(Conflict, match="by itself"), world.database.work(OPERATOR) as session:
        approvals.resume_scope(session, None, finance(session), "cli")
    with world.database.work(OPERATOR) as session:
        assert session.get_one(Control, restore.EVERYTHING).sending is False


def test_an_auditor_halts_nothing(world: Approved) -> None:
    with world.database.work(OPERATOR) as session:
        session.add(Member(email="auditor@example.com", role="auditor"))
    with pytest.raises(NotAllowed), world.database.work(OPERATOR) as session:
        auditor = session.scalars(sa.select(Member).where(Member.role == "auditor")).one()
        approvals.halt_scope(session, None, auditor, "cli")
