"""Keep the engine's hands off the payments of one invoice, and off nothing else, until a person has looked."""

from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from billing.errors import BadRequest, NotAllowed, NotFound
from billing.outages import settlements
from billing.outages.findings import Frozen
from billing.outages.models import Grant, Step
from billing.outages.steps import Move, move
from tenants import audit
from tenants.models import Member

LIFTERS: Final = ("finance", "approver")
WAITS: Final = "frozen: our books and Stripe's differ about this invoice; a person has to look."


def is_frozen(invoice_id: InstrumentedAttribute[str] | sa.ColumnElement[str] | str) -> sa.ColumnElement[bool]:
    return sa.exists().where(Frozen.invoice_id == invoice_id, Frozen.lifted_at.is_(None))


def freeze(session: Session, found: Iterable[tuple[int, str, str]]) -> int:
    """From now on nothing is planned or sent for these (agency, invoice, reason); returns how many are new.

    Safe to repeat: for a reason that stands already nothing is added.
    """
    new = 0
    for agency_id, invoice_id, reason in sorted(set(found)):
        adding = insert(Frozen).values(agency_id=agency_id, invoice_id=invoice_id, reason=reason)
        once = adding.on_conflict_do_nothing(
            index_elements=["agency_id", "invoice_id", "reason"], index_where=Frozen.lifted_at.is_(None)
        )
        if session.execute(once.returning(Frozen.id)).first() is None:
            continue
        new += 1
        facts = {"reason": reason}
        audit.record(session, "engine", "worker", "invoice.frozen", invoice_id, agency_id=agency_id, after=facts)
    return new


def lift(session: Session, invoice_id: str, by: Member, why: str, origin: str) -> list[str]:
    """A person has looked: the engine may give again. Returns the reasons it was frozen for.

    What waited for it is approved still, and due now; what a run left out for it is planned. Raises `NotFound`,
    `NotAllowed`, `BadRequest` without a reason.
    """
    if by.role not in LIFTERS:
        raise NotAllowed(f"{by.email} is {by.role}: invoices are unfrozen by the operator's finance.")
    if not why.strip():
        raise BadRequest("Say why the invoice may be given to again.")
    standing = sa.select(Frozen).where(Frozen.invoice_id == invoice_id, Frozen.lifted_at.is_(None))
    rows = session.scalars(standing.with_for_update()).all()
    if not rows:
        raise NotFound(f"The invoice {invoice_id[:80]} is not frozen.")
    for row in rows:
        row.lifted_at, row.lifted_by, row.why_lifted = sa.func.clock_timestamp(), by.id, why.strip()
        facts = {"reason": row.reason, "why": why.strip()}
        audit.record(session, by.email, origin, "invoice.unfrozen", invoice_id, agency_id=row.agency_id, before=facts)
    session.flush()
    waiting = (
        sa.select(Step)
        .join(Grant, sa.and_(Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id))
        .where(Grant.invoice_id == invoice_id, Step.state == "blocked", Step.reason == WAITS)
        .with_for_update(of=Step)
    )
    for step in session.scalars(waiting).all():
        move(session, step, Move("approved", evidence={"unfrozen": why.strip()}), actor=by.email)
    for agency_id in sorted({row.agency_id for row in rows}):
        settlements.what_was_left_out(session, agency_id, "frozen")
    return [row.reason for row in rows]
