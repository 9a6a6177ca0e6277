"""What a person has to pay back, because Stripe cannot: noted once it is done, so that the promise can be kept.

Money that was paid outside Stripe goes back outside Stripe, and so does a refund that came back where the customer's
balance is of no use to them any more, or that is not sent since others took of its payment while another payment's
refund of the same grant was out. Nothing is sent here: a person says that they paid, when, and how.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import BadRequest, Conflict, NotAllowed, NotFound
from billing.models import Customer
from billing.money import Money, plain
from billing.outages.decisions import Retirement
from billing.outages.freezing import is_frozen
from billing.outages.models import Grant, HandPayment, HeldInvoice, Pause, Step
from billing.outages.steps import GIVES_NOTHING, Move, gave_way, judge, move
from billing.windows import iso
from tenants import audit
from tenants.db import after_commit
from tenants.models import Agency, Member

LONGEST = 500


def record(session: Session, now: datetime, grant_id: int, by: Member, note: str, origin: str) -> HandPayment:
    """Note that the part of a grant that Stripe cannot pay has been paid. `note` says how, e.g. a bank's reference.

    The rest of the grant goes on: its credit note says what was refunded and what was paid by hand.
    Raises `Conflict` where nothing of the grant is to be paid by hand, or no longer.
    """
    if by.role != "finance":
        raise NotAllowed(f"{by.email} is {by.role}: what was paid by hand is noted by the operator's finance.")
    note = " ".join(note.split())
    if not note or len(note) > LONGEST or not note.isprintable():
        raise BadRequest(f"Say in 1 to {LONGEST} printable characters how it was paid, e.g. the bank's reference.")
    grant, steps = _taken(session, grant_id)
    left = set(session.scalars(sa.select(Step.id).where(Step.grant_id == grant.id, _stays_unsent())))
    unsent = [step for step in steps if step.id in left]
    if grant.state != "needs_person" or not (grant.out_of_band or unsent):
        raise Conflict(f"Grant {grant_id} is {grant.state.replace('_', ' ')}: nothing of it waits to be paid by hand.")
    noted = session.scalar(sa.select(_is_noted()).where(Grant.id == grant.id))
    if noted or (not unsent and any(step.state not in ("succeeded", *GIVES_NOTHING) for step in steps)):
        raise Conflict(f"Grant {grant_id} waits for something else first: {grant.reason}")
    for step in unsent:
        move(session, step, Move("cancelled", "It was paid by hand.", by_hand=True), actor=by.email, grant=grant)
    paid = HandPayment(
        agency_id=grant.agency_id, grant_id=grant.id, currency=grant.currency, amount=grant.out_of_band, note=note,
        paid_by=by.id, paid_at=now,
    )  # fmt: skip
    session.add(paid)
    session.flush()
    if steps:
        judge(session, grant)
    else:
        grant.state, grant.reason, grant.settled_at = "succeeded", None, sa.func.now()
    audit.record(
        session, by.email, origin, "grant.paid_by_hand", str(grant.id), agency_id=grant.agency_id,
        before={"state": "needs_person"},
        after={"state": grant.state, "amount": paid.amount, "currency": paid.currency, "note": note},
    )  # fmt: skip
    if unsent:
        after_commit(session, "outages.send", grant.incident_id)
    return paid


def _stays_unsent() -> sa.ColumnElement[bool]:
    """Of a Step: that it is the refund of one payment of several, and others took of that since the plan."""
    changed = Step.reason.startswith("plan_changed:")
    return sa.and_(Step.kind == "refund", Step.state == "needs_person", Step.stripe_id.is_(None), changed)


def _is_noted() -> sa.ColumnElement[bool]:
    """Of a Grant: that something of it was noted already."""
    return sa.exists().where(HandPayment.agency_id == Grant.agency_id, HandPayment.grant_id == Grant.id)


def _by_hand() -> sa.ColumnElement[int]:
    """Of a Grant: how much of it waits to be paid by hand."""
    unsent = sa.select(sa.func.coalesce(sa.func.sum(Step.amount), 0)).where(
        Step.agency_id == Grant.agency_id, Step.grant_id == Grant.id, _stays_unsent()
    )
    waits = sa.and_(Grant.state == "needs_person", ~_is_noted())
    return sa.case((waits, Grant.out_of_band + sa.cast(unsent.scalar_subquery(), sa.BigInteger)), else_=0)


def retry(session: Session, grant_id: int, by: Member, why: str, origin: str) -> list[int]:
    """A person has looked: let what waits of a grant be tried again, under a new key where it was sent before.

    It is looked for in Stripe once more first, so that what is there after all is taken for it. A note that was refused
    is tried as another one where refunds that it links came back since, or its incident was retracted. Returns the
    steps.
    Raises `Conflict` where nothing of the grant waits, or where it waits for something else.
    """
    if by.role != "finance":
        raise NotAllowed(f"{by.email} is {by.role}: grants are tried again by the operator's finance.")
    why = " ".join(why.split())
    if not why or len(why) > LONGEST or not why.isprintable():
        raise BadRequest(f"Say in 1 to {LONGEST} printable characters what was seen in Stripe.")
    grant, steps = _taken(session, grant_id)
    if session.scalar(sa.select(is_frozen(grant.invoice_id))):
        raise Conflict(f"The invoice {grant.invoice_id} is frozen: lift that first.")
    tried = [step for step in steps if step.state in ("needs_person", "blocked")]
    if not tried:
        raise Conflict(f"Grant {grant_id} is {grant.state.replace('_', ' ')}: nothing of it waits to be tried again.")
    for step in tried:
        if gave_way(session, step, grant, by.email):
            continue
        # Also where it was never sent: what came before it may have been refused, under a key of its own.
        step.epoch += 1
        move(session, step, Move("approved", evidence={"retried": why}), actor=by.email)
    audit.record(
        session, by.email, origin, "grant.retried", str(grant.id), agency_id=grant.agency_id,
        after={"why": why, "steps": [step.id for step in tried]},
    )  # fmt: skip
    after_commit(session, "outages.send", grant.incident_id)
    return [step.id for step in tried]


def _taken(session: Session, grant_id: int) -> tuple[Grant, list[Step]]:
    """The grant and its steps, locked as whoever sends them locks them: the steps first. Raises `NotFound`."""
    taken = sa.select(Step).where(Step.grant_id == grant_id).order_by(Step.no).with_for_update()
    steps = session.scalars(taken, execution_options={"populate_existing": True}).all()
    grant = session.scalar(
        sa.select(Grant).where(Grant.id == grant_id).with_for_update(),
        execution_options={"populate_existing": True},
    )
    if grant is None:
        raise NotFound(f"There is no grant {grant_id}.")
    return grant, list(steps)


def waiting(session: Session, limit: int = 200) -> dict[str, list[dict[str, Any]]]:
    """Everything that waits for a person, the oldest first: grants, subscriptions and held invoices.

    A subscription is among `pauses` where it could not be held or released, and among `retirements` where it could not
    be cancelled or moved.
    """
    grants = session.execute(
        sa.select(Grant, Customer.name, Agency.slug, _by_hand())
        .join(Customer, sa.and_(Customer.agency_id == Grant.agency_id, Customer.id == Grant.customer_id))
        .join(Agency, Agency.id == Grant.agency_id)
        .where(Grant.state.in_(("needs_person", "blocked")))
        .order_by(Grant.state.desc(), Grant.id)
        .limit(limit)
    )
    pauses = session.scalars(sa.select(Pause).where(Pause.state == "needs_person").order_by(Pause.id).limit(limit))
    retirements = session.scalars(
        sa.select(Retirement)
        .where(Retirement.state == "needs_person")
        .order_by(Retirement.incident_id, Retirement.subscription_id)
        .limit(limit)
    )
    held = session.execute(
        sa.select(HeldInvoice, Pause.incident_id)
        .join(Pause, sa.and_(Pause.agency_id == HeldInvoice.agency_id, Pause.id == HeldInvoice.pause_id))
        .where(HeldInvoice.state == "needs_person")
        .order_by(HeldInvoice.invoice_id)
        .limit(limit)
    )
    return {
        "grants": [
            {
                "id": grant.id, "incident": grant.incident_id, "agency": slug, "customer": grant.customer_id,
                "customer_name": name, "invoice": grant.invoice_id, "currency": grant.currency, "amount": grant.amount,
                "by_hand": by_hand, "state": grant.state, "reason": grant.reason,
                "since": iso(grant.settled_at or grant.created_at),
            }
            for grant, name, slug, by_hand in grants
        ],
        "pauses": [
            {"subscription": pause.subscription_id, "incident": pause.incident_id, "reason": pause.reason}
            for pause in pauses
        ],
        "retirements": [
            {"subscription": one.subscription_id, "incident": one.incident_id, "kind": one.kind, "reason": one.reason}
            for one in retirements
        ],
        "held": [
            {"invoice": held_invoice.invoice_id, "incident": incident, "reason": held_invoice.reason}
            for held_invoice, incident in held
        ],
    }  # fmt: skip


def in_words(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """One line for each, or one that says that nothing waits."""
    lines = []
    for one in found["grants"]:
        money, whose = plain(Money(one["amount"], one["currency"])), one["customer_name"] or one["customer"]
        if one["by_hand"]:
            money += f", of which {plain(Money(one['by_hand'], one['currency']))} by hand"
        lines.append(f"grant {one['id']}  {money}  {whose}: {one['reason'] or one['state']}")
    lines += [f"subscription {one['subscription']}: {one['reason']}" for one in found["pauses"]]
    lines += [f"subscription {one['subscription']}, to {one['kind']}: {one['reason']}" for one in found["retirements"]]
    lines += [f"invoice {one['invoice']}: {one['reason']}" for one in found["held"]]
    return lines or ["Nothing waits for a person."]
