"""One customer's arithmetic, out of the facts that were kept when each grant was planned: the same years later."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import NotFound
from billing.models import Customer, Plan
from billing.money import Money, plain, round_half_up
from billing.outages.arithmetic import arithmetic
from billing.outages.loss import Invoice, InvoiceGrant, Line, LineGrant, Step
from billing.outages.models import Grant, GrantLine, RunLoss
from billing.outages.queries import find
from billing.windows import iso, unix

_WAYS = (
    ("refund", "to the card or account it was paid with"),
    ("credit", "to your balance, which the next invoice uses"),
    ("reduce", "off what the invoice still asks for"),
    ("out_of_band", "by a person, because it was paid outside Stripe"),
)


def explain(session: Session, incident_id: str, customer_id: str) -> dict[str, Any]:
    """Every grant of one customer for one incident with its arithmetic, as data and as `text`, a list of lines.

    Raises `NotFound` for an incident or a customer that is not there.
    """
    incident = find(session, incident_id)
    customer = session.scalar(sa.select(Customer).where(Customer.id == customer_id))
    if customer is None:
        raise NotFound(f"There is no customer {customer_id[:40]}.")
    grants = session.scalars(
        sa.select(Grant)
        .where(Grant.incident_id == incident_id, Grant.customer_id == customer_id, Grant.state != "cancelled")
        .order_by(Grant.created_at, Grant.id)
    ).all()
    told = [_told(session, grant) for grant in grants]
    heading = f"{customer.name or customer.id}: {incident.title}, {iso(incident.started_at)} to "
    heading += iso(incident.ended_at) if incident.ended_at else "now"
    return {
        "incident": incident_id,
        "customer": customer_id,
        "grants": [data for data, _text in told],
        "text": [heading, *(line for _data, text in told for line in text)]
        if told
        else [heading, "Nothing was owed for this incident."],
    }


def of_grant(session: Session, grant: Grant) -> dict[str, Any]:
    """The arithmetic of one grant as data, with its `text`."""
    data, text = _told(session, grant)
    return {**data, "text": text}


def of_invoice(session: Session, agency_id: int, invoice_id: str) -> list[str]:
    """How what came back of one invoice was computed, as its customer reads it; nothing where nothing came back."""
    grants = session.scalars(
        sa.select(Grant)
        .where(
            Grant.agency_id == agency_id,
            Grant.invoice_id == invoice_id,
            Grant.state.in_(("pending", "succeeded", "needs_person")),
        )
        .order_by(Grant.created_at, Grant.id)
    )
    told = [_told(session, grant)[1][1:-1] for grant in grants]
    return [line for number, lines in enumerate(told) for line in (["", *lines] if number else lines)]


def _told(session: Session, grant: Grant) -> tuple[dict[str, Any], list[str]]:
    original = grant
    if grant.fallback_of is not None:
        original = session.scalars(sa.select(Grant).where(Grant.id == grant.fallback_of)).one()
    parts = {name: getattr(grant, name) for name, _way in _WAYS}
    ways = [f"  {plain(Money(parts[name], grant.currency))} {way}" for name, way in _WAYS if parts[name]]
    state = f"  {grant.state.replace('_', ' ')}{f': {grant.reason}' if grant.reason else ''}"
    facts = {"grant": grant.id, "state": grant.state, "reason": grant.reason, "channel": grant.channel, "parts": parts}
    if original is not grant:
        amount = plain(Money(grant.amount, grant.currency))
        return facts | {"fallback_of": original.id}, [f"Instead of a refund that did not work: {amount}", *ways, state]
    made = arithmetic(*_computed(session, grant))
    return facts | made.data, [f"Invoice {grant.invoice_id}", *made.text, *ways, state]


def _computed(session: Session, grant: Grant) -> tuple[InvoiceGrant, dict[str, Sequence[Step]]]:
    """The grant as the formula made it, from `grant_lines` and `run_losses`."""
    losses = session.scalars(sa.select(RunLoss).where(RunLoss.run_id == grant.run_id).order_by(RunLoss.starts_at)).all()
    schedules: dict[str, list[Step]] = {}
    for loss in losses:
        schedules.setdefault(loss.plan_id, []).append(Step(unix(loss.starts_at), unix(loss.ends_at), loss.share))
    rows = session.execute(
        sa.select(GrantLine, Plan.name)
        .outerjoin(Plan, Plan.id == GrantLine.plan_id)
        .where(GrantLine.grant_id == grant.id)
        .order_by(GrantLine.period_start, GrantLine.line_id)
    ).all()
    lines = [
        LineGrant(
            Line(
                net=kept.net, period=(unix(kept.period_start), unix(kept.period_end)), plan=kept.plan_id or "",
                tax=kept.tax, id=kept.line_id, name=name or "",
            ),
            int(kept.lost), Fraction(kept.owed), kept.amount,
        )
        for kept, name in rows
    ]  # fmt: skip
    exact = Fraction(grant.owed)
    owed = sum((line.owed for line in lines), Fraction(0))
    base = Fraction(grant.base)
    rounded = round_half_up(exact)
    invoice = Invoice(
        [line.line for line in lines], grant.currency, grant.amount, base, grant.granted_before, grant.invoice_id
    )
    return InvoiceGrant(invoice, lines, owed * base, exact, rounded, grant.amount), dict(schedules)
