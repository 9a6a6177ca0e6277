"""Invoices that our pause keeps from being collected: stopped, finalized for their credit note, collected again.

Stripe goes on retrying invoices that were open before a pause, and lifting a pause touches no draft, so each invoice is
stopped and released one by one. Safe to run anywhere, any number of times: every step begins with a fresh look.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from billing import circuits, gateway, mirror
from billing.answers import Answer, Gone, LockedOut, Outcome, ReadRefused, Unreachable
from billing.facts import InvoiceFact
from billing.gateway import Urgency
from billing.models import Invoice
from billing.outages import settlements, switch
from billing.outages.models import NOT_LET_GO, Grant, HeldInvoice, Incident, Pause
from billing.outages.steps import AT_WORK
from billing.outages.waits import DAILY, LATER, LEASE, look_again_after
from tenants.db import BY_INDEX, OPERATOR, one_of, planned, prepared
from tenants.house import House
from tenants.models import Agency

PAUSED = ("planned", "held", "releasing", "needs_person")
PAUSE_OVER = ("released", "left", "cancelled")


@dataclass(frozen=True)
class Claim:
    row: HeldInvoice
    account: str


@dataclass(frozen=True)
class Ending:
    state: str
    reason: str | None = None
    due_in: timedelta = timedelta(0)
    fact: InvoiceFact | None = None
    found_auto_advance: bool | None = None


def stop_due(house: House, limit: int) -> int:
    """Stop collecting the drafts and open invoices that a pause found. Returns how many were worked on."""
    return _each_due(house, _next_to_stop, limit, _stop)


def release_due(house: House, limit: int) -> int:
    """Collect again what was stopped, once its pause is over, no other holds it and its grants are through."""
    return _each_due(house, _next_to_release, limit, _release)


def notice(session: Session, invoice: InvoiceFact) -> None:
    """A draft or open invoice that collects by itself, although its subscription is ours to pause: stop it too."""
    if invoice.status not in ("draft", "open") or not invoice.auto_advance or invoice.subscription_id is None:
        return
    holding = sa.select(Pause).where(
        Pause.subscription_id == invoice.subscription_id, Pause.state.in_(("planned", "held"))
    )
    pause = session.scalar(holding.order_by(Pause.id).limit(1))
    known = sa.select(HeldInvoice).where(HeldInvoice.invoice_id == invoice.id)
    if pause is None or session.scalar(known.limit(1)) is not None:
        return
    session.add(_row(pause, invoice, state="planned"))


def confirm(session: Session, invoice: InvoiceFact) -> None:
    """An invoice that we let go for collection was paid, voided, or not."""
    ends = {"paid": "collected", "void": "voided"}
    if invoice.status in ends:
        session.execute(
            sa.update(HeldInvoice)
            .where(HeldInvoice.invoice_id == invoice.id, HeldInvoice.state == "collecting")
            .values(state=ends[invoice.status])
        )


def finalized(
    house: House,
    account: str,
    agency_id: int,
    invoice_id: str,
    attempt: str,
    may_send: Callable[[], bool],
) -> InvoiceFact:
    """The invoice, finalized if it was a draft, without anything being collected: so that it can be credited.

    Raises Unreachable when that is not known to have happened, Gone when there is no such invoice, ReadRefused when
    Stripe will not have it, such as where it cannot tell which tax is due.
    """
    connection = gateway.connect(house, account, Urgency.PAUSE, may_send)
    invoice = connection.invoice(invoice_id)
    if invoice.status == "draft":
        # Noted before: afterwards it is in no list of drafts, and nobody would collect it again.
        with house.database.work(OPERATOR) as session:
            mirror.record_invoice(session, agency_id, invoice)
            session.flush()
            _adopt(session, invoice)
        answer = connection.finalize(invoice_id, key=_key(house, agency_id, invoice_id, "finalize", attempt))
        if answer.outcome is Outcome.REFUSED:
            raise ReadRefused(f"it does not finalize the invoice: {answer.message}", answer.code)
        if answer.fact is None:
            raise Unreachable(answer.message or "Stripe did not finalize the invoice.")
        invoice = answer.fact
    with house.database.work(OPERATOR) as session:
        mirror.record_invoice(session, agency_id, invoice)
        session.execute(
            sa.update(HeldInvoice)
            .where(HeldInvoice.invoice_id == invoice_id, HeldInvoice.state == "held", HeldInvoice.kind == "draft")
            .values(state="finalized")
        )
    return invoice


def was_draft_of(invoice: type[Invoice]) -> sa.ColumnElement[bool]:
    """Of an Invoice: that it is, or was when our pause held it, a draft."""
    held_as_draft = sa.exists().where(HeldInvoice.invoice_id == invoice.id, HeldInvoice.kind == "draft")
    return sa.or_(held_as_draft, invoice.status == "draft")


def take_in_drafts(house: House, account: str, pause: Pause) -> None:
    """Note every draft that the subscription made while it was paused, so that none is left stranded.

    Those that no run has looked at, as the mirror had not heard of them, are planned before they are collected.
    """
    drafts = gateway.connect(house, account, Urgency.PAUSE).drafts(pause.subscription_id)
    with house.database.work(OPERATOR) as session:
        paused = _paused_during(session, pause)
        for draft in drafts:
            by_itself = (draft.billing_reason or "").startswith("subscription")
            made_at = draft.created_at
            meanwhile = any(since <= made_at and (until is None or made_at <= until) for since, until in paused)
            known = sa.select(HeldInvoice.pause_id).where(HeldInvoice.invoice_id == draft.id)
            if by_itself and meanwhile and session.scalar(known.limit(1)) is None:
                mirror.record_invoice(session, pause.agency_id, draft)
                session.flush()
                session.add(_row(pause, draft, state="held"))
                planned = sa.exists().where(Grant.invoice_id == draft.id, Grant.incident_id == pause.incident_id)
                if not session.scalar(sa.select(planned)):
                    settlements.at_once(session, pause.agency_id, pause.incident_id)


def _paused_during(session: Session, pause: Pause) -> list[tuple[datetime, datetime | None]]:
    """From when until when we may have held its subscription, for other incidents before it too.

    What another one ended while this one went on holding, it left to this one: lifting the pause, and the drafts.
    """
    others = (
        sa.select(Incident.declared_at, Pause.released_at)
        .join(Incident, Incident.id == Pause.incident_id)
        .where(Pause.subscription_id == pause.subscription_id, Pause.id != pause.id, Pause.state == "released")
    )
    declared_at = session.get_one(Incident, pause.incident_id).declared_at
    return [(declared_at, None), *((since, until) for since, until in session.execute(others))]


def _adopt(session: Session, invoice: InvoiceFact) -> None:
    """A draft that was made while its subscription was paused, and is finalized before the pause is lifted."""
    known = sa.select(HeldInvoice.pause_id).where(HeldInvoice.invoice_id == invoice.id)
    pause = session.scalar(
        sa.select(Pause)
        .where(Pause.subscription_id == invoice.subscription_id, Pause.state.in_((*PAUSED, "released")))
        .order_by(Pause.id.desc())
        .limit(1)
    )
    if pause is not None and session.scalar(known.limit(1)) is None:
        session.add(_row(pause, invoice, state="held"))


def _row(pause: Pause, invoice: InvoiceFact, state: str) -> HeldInvoice:
    return HeldInvoice(
        agency_id=pause.agency_id,
        invoice_id=invoice.id,
        pause_id=pause.id,
        kind="draft" if invoice.status == "draft" else "open",
        found_auto_advance=True,
        state=state,
    )


def _each_due(house: House, following: Callable[[], sa.Select[HeldInvoice]], limit: int, work: Any) -> int:
    worked = 0
    while worked < limit:
        with house.database.work(OPERATOR) as session, planned(session, **BY_INDEX):
            claim = _claim(session, session.scalar(following()))
        if claim is None:
            break
        worked += 1
        ending = work(house, claim)
        house.database.retried(OPERATOR, lambda session: _end(session, claim, ending))  # noqa: B023
    return worked


@prepared
def _next_to_stop() -> sa.Select[HeldInvoice]:
    return _next(_is_to_stop())


@prepared
def _next_to_release() -> sa.Select[HeldInvoice]:
    return _next(_may_go())


def is_work() -> sa.ColumnElement[bool]:
    """Of a HeldInvoice beside its Pause: that, once it is due, a worker may stop it or let it go."""
    waits = one_of(HeldInvoice.state, *NOT_LET_GO)  # of either: said once more, as the index says it
    return sa.and_(of_pause(), waits, sa.or_(_is_to_stop(), _may_go()), ~is_halted())


def _is_to_stop() -> sa.ColumnElement[bool]:
    return sa.and_(one_of(HeldInvoice.state, "planned"), Pause.state.in_(PAUSED))


def _may_go() -> sa.ColumnElement[bool]:
    """What Stripe refused to let go is tried each day: a person may have seen to it."""
    other = aliased(Pause)
    held_by_another = sa.exists().where(
        other.subscription_id == Pause.subscription_id, other.id != Pause.id, other.state.in_(PAUSED)
    )
    owed_still = sa.exists().where(Grant.invoice_id == HeldInvoice.invoice_id, Grant.state.in_(AT_WORK))
    return sa.and_(
        one_of(HeldInvoice.state, *NOT_LET_GO),
        Pause.state.in_(PAUSE_OVER),
        ~held_by_another,
        ~owed_still,
        ~settlements.is_overdue(Pause),
    )


def _next(wanted: sa.ColumnElement[bool]) -> sa.Select[HeldInvoice]:
    free = sa.or_(HeldInvoice.lease_until.is_(None), HeldInvoice.lease_until < sa.func.clock_timestamp())
    left_alone = circuits.is_open(switch.account_of(HeldInvoice.agency_id))
    return (
        sa.select(HeldInvoice)
        .join(Pause, of_pause())
        .where(wanted, HeldInvoice.due_at <= sa.func.clock_timestamp(), free, ~is_halted(), ~left_alone)
        .order_by(HeldInvoice.due_at, HeldInvoice.invoice_id)
        .limit(1)
        .with_for_update(of=HeldInvoice, skip_locked=True)
    )


def _claim(session: Session, row: HeldInvoice | None) -> Claim | None:
    if row is None:
        return None
    row.attempt_no += 1
    row.lease_until = sa.func.clock_timestamp() + LEASE
    session.flush()
    session.refresh(row)
    return Claim(row, session.get_one(Agency, row.agency_id).stripe_account or "")


def of_pause() -> sa.ColumnElement[bool]:
    """Joins a HeldInvoice to its Pause."""
    return sa.and_(Pause.agency_id == HeldInvoice.agency_id, Pause.id == HeldInvoice.pause_id)


def is_halted() -> sa.ColumnElement[bool]:
    """Of a HeldInvoice beside its Pause: that nothing of the incident, or on the account, may be sent now."""
    return switch.is_off(Pause.incident_id, switch.account_of(Pause.agency_id))


def _may_leave(house: House, claim: Claim) -> bool:
    with house.database.work(OPERATOR) as session:
        return session.scalar(sa.select(Pause.id).where(Pause.id == claim.row.pause_id, ~is_halted())) is not None


def _stop(house: House, claim: Claim) -> Ending:
    connection = gateway.connect(house, claim.account, Urgency.PAUSE, partial(_may_leave, house, claim))
    try:
        invoice = connection.invoice(claim.row.invoice_id)
    except Gone:
        return Ending("released", "The invoice is no longer there.")
    except (Unreachable, LockedOut) as error:
        return _again(claim, str(error))
    if invoice.status not in ("draft", "open"):
        return Ending("released", f"It was {invoice.status} already.", fact=invoice)
    if not invoice.auto_advance:
        return Ending("held", fact=invoice)
    answer = connection.stop_collecting(invoice.id, key=_key_of(house, claim, "stop"))
    if answer.outcome is not Outcome.DONE:
        return _not_done(claim, answer)
    return Ending("held", fact=answer.fact, found_auto_advance=True)


def _release(house: House, claim: Claim) -> Ending:
    row, may_send = claim.row, partial(_may_leave, house, claim)
    connection = gateway.connect(house, claim.account, Urgency.PAUSE, may_send)
    try:
        invoice = connection.invoice(row.invoice_id)
        if invoice.status == "draft" and row.state != "planned":
            invoice = finalized(house, claim.account, row.agency_id, row.invoice_id, f"{row.attempt_no}", may_send)
    except Gone:
        return Ending("released", "The invoice is no longer there.")
    except ReadRefused as error:
        return Ending("needs_person", f"Stripe refused: {error}", DAILY)
    except (Unreachable, LockedOut) as error:
        return _again(claim, str(error))
    if invoice.status in ("paid", "void"):
        drafted = row.kind == "draft"
        return Ending({"paid": "collected", "void": "voided"}[invoice.status] if drafted else "released", fact=invoice)
    if invoice.status != "open" or row.state == "planned" or not row.found_auto_advance:
        return Ending("released", fact=invoice)
    answer = connection.collect(invoice.id, key=_key_of(house, claim, "collect"))
    after = answer.fact
    if after is None:
        return _not_done(claim, answer)
    if row.kind == "draft":
        return Ending("collected" if after.status == "paid" else "collecting", fact=after)
    return Ending("released", fact=after)


def _again(claim: Claim, reason: str | None) -> Ending:
    return Ending(claim.row.state, reason, look_again_after(claim.row.attempt_no))


def _not_done(claim: Claim, answer: Answer[InvoiceFact]) -> Ending:
    if answer.outcome is Outcome.REFUSED:
        return Ending("needs_person", f"Stripe refused: {answer.message}", DAILY)
    if answer.outcome is Outcome.STOPPED:
        return Ending(claim.row.state, answer.message)
    if answer.outcome in (Outcome.BUSY, Outcome.LIMITED, Outcome.NOT_SENT):
        return Ending(claim.row.state, answer.message, LATER)
    return _again(claim, answer.message)


def _end(session: Session, claim: Claim, ending: Ending) -> None:
    row = session.scalars(
        sa.select(HeldInvoice)
        .where(HeldInvoice.invoice_id == claim.row.invoice_id, HeldInvoice.pause_id == claim.row.pause_id)
        .with_for_update()
    ).one()
    if ending.fact is not None:
        mirror.record_invoice(session, row.agency_id, ending.fact)
    if row.attempt_no != claim.row.attempt_no:
        return
    row.lease_until = None
    # A grant may have finalized it meanwhile: do not go back behind that.
    row.state = row.state if ending.state == "held" and row.state == "finalized" else ending.state
    row.reason = ending.reason
    row.due_at = sa.func.clock_timestamp() + ending.due_in
    if ending.found_auto_advance is not None:
        row.found_auto_advance = ending.found_auto_advance
    if ending.state in ("collecting", "collected") and ending.fact is not None:
        row.due = _asked_for(session, row)


def _asked_for(session: Session, row: HeldInvoice) -> int:
    """What the customer is asked for in the end: the invoice less what was credited before it was paid."""
    amounts = sa.select(Invoice.total - Invoice.pre_payment_credited).where(
        Invoice.agency_id == row.agency_id, Invoice.id == row.invoice_id
    )
    return int(session.scalar(amounts) or 0)


def _key(house: House, agency_id: int, invoice_id: str, verb: str, attempt: int | str) -> str:
    return f"e{gateway.engine(house)}:a{agency_id}:i{invoice_id}:{verb}:n{attempt}"


def _key_of(house: House, claim: Claim, verb: str) -> str:
    of_pause = f"p{claim.row.pause_id}:{verb}"  # what was held before may be again, within a day
    return _key(house, claim.row.agency_id, claim.row.invoice_id, of_pause, claim.row.attempt_no)
