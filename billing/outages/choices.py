"""What customers choose to get for an outage: money the way it was paid, credit, or nothing."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.errors import BadRequest, Conflict, NotFound
from billing.models import Invoice, InvoiceLine, PlanWeight, Platform
from billing.outages import elsewhere, terms
from billing.outages.decisions import Choice, Settlement
from billing.outages.in_force import COUNTED, EVERYBODY
from billing.outages.models import Incident, IncidentScope
from billing.stretches import Counting
from billing.windows import in_words, iso, unix
from tenants import audit

CHOICES: Final = {
    "money": "Money back, the way I paid",
    "credit": "Credit towards my next invoice",
    "waive": "Nothing, thank you",
}


@dataclass(frozen=True)
class Offer:
    """What one customer may still choose for one incident; `choice` is what they said last, None: nothing yet."""

    incident_id: str
    title: str
    platform: str
    started_at: datetime
    closes_at: datetime
    choice: str | None
    by_credit: bool
    """Without an answer it is credited."""


@dataclass(frozen=True)
class Asked:
    """That a customer was asked about one incident. `decided`: a run has been made of what was answered by then.

    `of_another`: they chose a way about another one, which is taken for this one as well where they said nothing of it.
    """

    closes_at: datetime
    choice: str | None
    decided: bool
    of_another: bool = False


def offered(session: Session, now: datetime, agency_id: int, customer_id: str) -> list[Offer]:
    """Every incident for which this customer may choose at `now`: they paid for time that it took."""
    rows = _questions(session, agency_id, customer_id, _open(now))
    policies = terms.granted_by(session) if rows else {}
    return [
        Offer(
            incident.id, incident.title, name, incident.started_at, row.closes_at, choice,
            policies.get((incident.id, agency_id)) == "credit",
        )
        for incident, name, row, choice in rows
        if row.closes_at is not None
    ]  # fmt: skip


def asked(session: Session, agency_id: int, customer_id: str, incident_id: str) -> Asked | None:
    """What one customer was asked about one incident, whatever time it is; None where their agency asks nobody."""
    found = _questions(session, agency_id, customer_id, Incident.id == incident_id)
    if not found or (closes_at := found[0][2].closes_at) is None:
        return None
    due_at = found[0][2].due_at
    chosen = sa.exists().where(
        Choice.agency_id == agency_id, Choice.customer_id == customer_id, Choice.choice != "waive",
        Incident.id == Choice.incident_id, Incident.id != incident_id, Incident.state.in_(COUNTED),
    )  # fmt: skip
    decided = due_at is None or due_at > closes_at
    return Asked(closes_at, found[0][3], decided, session.execute(sa.select(chosen)).scalar_one())


def _questions(
    session: Session, agency_id: int, customer_id: str, which: sa.ColumnElement[bool]
) -> list[sa.Row[Incident, str, Settlement, str | None]]:
    """Every incident about which this customer was asked, with its platform's name, and what they answered."""
    said = sa.and_(
        Choice.agency_id == agency_id, Choice.incident_id == Incident.id, Choice.customer_id == customer_id
    )  # fmt: skip
    found = session.execute(
        sa.select(Incident, Platform.name, Settlement, Choice.choice)
        .join(Settlement, Settlement.incident_id == Incident.id)
        .join(Platform, Platform.id == Incident.platform_id)
        .outerjoin(Choice, said)
        .where(Settlement.agency_id == agency_id, Settlement.closes_at.is_not(None), Incident.state.in_(COUNTED), which)
        .order_by(Settlement.closes_at, Incident.id)
    ).all()
    if not found:
        return []
    counting = terms.now(session, [agency_id])[agency_id].counting
    return [row for row in found if _took_something(session, agency_id, customer_id, row[0], counting)]


def _took_something(session: Session, agency_id: int, customer_id: str, incident: Incident, counting: Counting) -> bool:
    """Whether the customer was charged for time that the incident took, as their agency counts it.

    Whoever was charged nothing, or has all of it back, or is not to pay, and whose agency it does not cover any more,
    has nothing to choose.
    """
    began, ended = counting.around(unix(incident.started_at), unix(incident.ended_at or incident.started_at))
    covered = sa.exists().where(
        IncidentScope.incident_id == incident.id, IncidentScope.agency_id.in_((EVERYBODY, agency_id))
    )
    of_invoice = sa.and_(InvoiceLine.agency_id == Invoice.agency_id, InvoiceLine.invoice_id == Invoice.id)
    took = (
        sa.select(InvoiceLine.id)
        .join(Invoice, of_invoice)
        .join(PlanWeight, PlanWeight.plan_id == InvoiceLine.plan_id)
        .where(
            Invoice.agency_id == agency_id,
            Invoice.customer_id == customer_id,
            Invoice.status.in_(("draft", "open", "paid")),
            Invoice.total > elsewhere.of_invoice(),
            InvoiceLine.net + InvoiceLine.tax > 0,
            ~InvoiceLine.metered,
            PlanWeight.platform_id == incident.platform_id,
            PlanWeight.weight_bp > 0,
            InvoiceLine.period_end > sa.func.to_timestamp(began),
            sa.true() if incident.ended_at is None else InvoiceLine.period_start < sa.func.to_timestamp(ended),
        )
    )
    return bool(session.scalar(sa.select(sa.and_(covered, took.exists()))))


def choose(
    session: Session, now: datetime, agency_id: int, customer_id: str, incident_id: str, choice: str, origin: str
) -> None:
    """Note what a customer wants; until the date they may change their mind. Raises `Conflict` after it, `NotFound`
    for an incident that took nothing of theirs."""
    if choice not in CHOICES:
        raise BadRequest("Choose money, credit, or nothing.")
    row = session.scalar(
        sa.select(Settlement)
        .where(
            Settlement.agency_id == agency_id, Settlement.incident_id == incident_id, Settlement.closes_at.is_not(None)
        )
        .with_for_update(read=True)
        .execution_options(populate_existing=True)
    )
    if row is None or row.closes_at is None:
        raise NotFound("There is nothing to choose for this outage.")
    if row.closes_at <= now or row.due_at is None or row.due_at > row.closes_at:
        raise Conflict(f"You could choose until {in_words(row.closes_at)}: what you are owed is on its way.")
    before = {offer.incident_id: offer for offer in offered(session, now, agency_id, customer_id)}.get(incident_id)
    if before is None:
        raise NotFound("There is nothing to choose for this outage.")
    values = {"choice": choice, "chosen_at": now}
    session.execute(
        insert(Choice)
        .values(agency_id=agency_id, incident_id=incident_id, customer_id=customer_id, **values)
        .on_conflict_do_update(index_elements=["incident_id", "customer_id", "agency_id"], set_=values)
    )
    audit.record(
        session, customer_id, origin, "incident.chosen", incident_id, agency_id=agency_id,
        before={"choice": before.choice}, after={"choice": choice, "at": iso(now)},
    )  # fmt: skip


def _open(now: datetime) -> sa.ColumnElement[bool]:
    """Of a Settlement: that customers may choose at `now`, and no run has been made of what they chose."""
    return sa.and_(Settlement.closes_at > now, Settlement.due_at <= Settlement.closes_at)
