"""Send, settle, ask again: how an approved step becomes exactly one object in Stripe.

Two transactions stand around each call, with none open while it lasts. The first commits the attempt with its frozen
body and key; the second writes the answer. A success is a fact whoever brings it; a failure counts only for whoever
still holds the attempt; what is not known is asked again under the same key, never sent anew.
"""

import json
import logging
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import gateway
from billing.answers import Answer, Gone, LockedOut, Outcome, ReadRefused, Unreachable
from billing.batches import Batch, Reading
from billing.facts import BalanceEntryFact, CreditNoteFact, InvoiceFact, RefundFact
from billing.gateway import Urgency
from billing.models import Payment
from billing.money import Money
from billing.outages import (
    bodies,
    claims,
    funding,
    hindrances,
    ramp,
    settlements,
    sightings,
    stopping,
    switch,
    verdicts,
)
from billing.outages.bodies import Unsendable
from billing.outages.claims import Claim, Sent
from billing.outages.models import Grant, Step
from billing.outages.steps import Move, finish, locked, may_follow, move
from billing.outages.verdicts import Object
from billing.outages.waits import DAILY, RECALLED, ask_again_after
from billing.recording import record
from tenants.db import OPERATOR
from tenants.house import House

log = logging.getLogger(__name__)

MOST_DEATHS = 5
"""Workers that may die over one step before a person has to look at it."""
_UNREAD = (Unreachable, LockedOut, ReadRefused, Gone)


@dataclass(frozen=True)
class Seen:
    """Our object as Stripe shows it, and the refund that it made, where that could be read."""

    fact: Object
    refund: RefundFact | None

    def verdict(self, step: Step) -> Move:
        return verdicts.of_object(step, self.fact, self.refund)


def send_due(house: House, limit: int) -> int:
    """Work on up to `limit` steps that are due: send, ask again, look. Returns how many; fewer means none is left.

    Safe to run anywhere, any number of times at once.
    """
    worked = 0
    while worked < limit and not stopping.asked():
        with house.database.work(OPERATOR) as session:
            claim = claims.claim(session)
        if claim is not None:
            _carry_on(house, claim)
            worked += 1
        elif not house.database.retried(OPERATOR, ramp.review):
            break
    house.database.retried(OPERATOR, ramp.review)
    house.database.retried(OPERATOR, finish)
    return worked


def settle(session: Session, refund: RefundFact, account: str, engine: str) -> None:
    """A refund as Stripe shows it now, in the step that it belongs to, if it is one of ours. Order cannot matter."""
    step = _step_of(session, refund, account, engine)
    if step is None or refund.currency != step.currency or refund.amount != (step.refund or step.amount):
        return
    before = step.state
    if step.kind == "refund":
        _write_fact(session, step, verdicts.of_refund(refund.id, None, refund))
    elif step.stripe_id is not None:
        _write_fact(session, step, verdicts.of_refund(step.stripe_id, refund.id, refund))
    if step.state != before:
        _gave_up(session, step, refund)


def settle_note(session: Session, note: CreditNoteFact, account: str, engine: str) -> None:
    """A credit note as Stripe shows it now: the answer to a step that is still waiting for one."""
    step_id = note.metadata.get("step", "")
    if note.metadata.get("engine") != engine or not (step_id.isascii() and step_id.isdecimal()):
        return
    step = locked(session, int(step_id))
    if step is None or step.stripe_account != account or step.state not in ("sent", "unknown", "needs_person"):
        return
    if step.kind == "credit_note" and step.stripe_id is None:
        _write_fact(session, step, verdicts.of_object(step, note, None))


def unblock(session: Session, payment_intent: str | None, charge: str | None) -> None:
    """The dispute of a payment is over: what waited for it is due now, and what a run left out for it is planned."""
    over = sa.and_(
        sa.or_(
            sa.and_(Payment.payment_intent.is_not(None), Payment.payment_intent == payment_intent),
            sa.and_(Payment.charge.is_not(None), Payment.charge == charge),
        ),
        ~Payment.dispute_open,
    )
    invoices = session.execute(sa.select(Payment.agency_id, Payment.invoice_id).where(over).distinct()).all()
    waiting = (
        sa.select(Step)
        .join(Grant, sa.and_(Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id))
        .outerjoin(Payment, sa.and_(Payment.agency_id == Step.agency_id, Payment.id == Step.payment_id))
        .where(
            sa.tuple_(Grant.agency_id, Grant.invoice_id).in_(invoices),
            hindrances.waits_for_a_dispute(),
            sa.or_(Step.payment_id.is_(None), over),
        )
        .with_for_update(of=Step)
    )
    for step in session.scalars(waiting).all() if invoices else ():
        if step.first_sent_at is not None:
            step.epoch += 1  # Stripe keeps its refusal under the old key, under which nothing was done
        move(session, step, Move("approved", evidence={"dispute": "over"}), actor="stripe")
    for agency_id in sorted({agency_id for agency_id, _ in invoices}):
        settlements.what_was_left_out(session, agency_id, "disputed")


def _gave_up(session: Session, step: Step, refund: RefundFact) -> None:
    """Stripe waited for money in vain: what has not been sent would only come to the same, so it waits for it here."""
    if refund.status == "failed" and funding.lacked(refund):
        funding.ran_short(session, step, refund)


def _carry_on(house: House, claim: Claim) -> None:
    if claim.step.state == "pending":
        _poll(house, claim)
        return
    if claim.step.state == "blocked":
        _ask_about_dispute(house, claim)
        return
    decided: Move | Seen | None
    try:
        decided = _looked(house, claim) if claim.doubtful else _recalled(claim)
        if decided is None and claim.rested:
            bodies.look_again(house, claim.step)
        written = bodies.written(house, claim.dossier) if decided is None and claim.dossier else None
    except Unsendable as unsendable:
        decided, written = unsendable.move, None
    if decided is not None:
        house.database.retried(OPERATOR, lambda session: _decided(session, house, claim, decided))
        return
    sent = house.database.retried(OPERATOR, lambda session: claims.begin(session, house, claim, written))
    if sent is not None:
        _send(house, sent)


def _poll(house: House, claim: Claim) -> None:
    """Ask how a refund fares that is on its way."""
    step = claim.step
    refund_id = step.refund_id if step.kind == "credit_note" else step.stripe_id
    reading = Reading(step.stripe_account, gateway.engine(house), claim.claimed_at)
    try:
        refund = gateway.connect(house, step.stripe_account, Urgency.GRANT).refund(refund_id or "")
    except _UNREAD as error:
        later = Move("pending", str(error), due_in=ask_again_after(4))
        house.database.retried(OPERATOR, lambda session: claims.decide(session, claim, later))
        return
    found = verdicts.of_refund(step.stripe_id or "", step.refund_id, refund)

    def decide(session: Session) -> None:
        claims.decide(session, claim, found)
        _mirrored(session, reading, step, refund, None)
        _gave_up(session, step, refund)

    house.database.retried(OPERATOR, decide)


def _ask_about_dispute(house: House, claim: Claim) -> None:
    """Whether a dispute that a step waits for is over: its event may have been lost, or have come before the step."""
    step = claim.step
    reading = Reading(step.stripe_account, gateway.engine(house), claim.claimed_at)
    with house.database.work(OPERATOR) as session:
        payments = bodies.payments_of(session, step)
    try:
        connection = gateway.connect(house, step.stripe_account, Urgency.GRANT)
        found = [one for paid in payments for one in connection.disputes(paid.payment_intent, paid.charge)]
    except _UNREAD as error:
        log.warning("Whether the dispute of step %s is over is not known: %s", step.id, error)
        found = None
    later = Move("blocked", step.reason, due_in=DAILY)

    def decide(session: Session) -> None:
        claims.decide(session, claim, later)
        if found is not None:
            record(session, reading, Batch(disputes=found), owner=step.agency_id)
            for paid in payments:
                unblock(session, paid.payment_intent, paid.charge)

    house.database.retried(OPERATOR, decide)


def _looked(house: House, claim: Claim) -> Move | Seen | None:
    """Look for the object of an attempt whose answer stayed away. None: it is not there, ask under the same key."""
    step = claim.step
    try:
        seen = sightings.look(house, step, claim.grant, claim.payment, claim.known_refunds)
        if seen.found is not None:
            return Seen(seen.found, _refund_of(house, step, seen.found))
    except _UNREAD as error:
        return Move(step.state, str(error), due_in=ask_again_after(claim.silences))
    if step.state == "needs_person":
        return Move("needs_person", step.reason, due_in=DAILY)
    if claim.deaths >= MOST_DEATHS:
        return Move("needs_person", f"{claim.deaths} workers ended while they sent this.", due_in=DAILY)
    if claim.key_is_dead:
        why = "Stripe never said whether this was done, and no list shows it: look there first."
        return Move("needs_person", why, due_in=DAILY)
    if claim.called_off and step.state == "approved":  # a person has looked for it too, and let it be tried again
        why = "The incident was retracted, and no list shows this."
        return Move("needs_person" if seen.strange else "cancelled", why, due_in=DAILY)
    if claim.called_off:
        return Move(step.state, "The incident was retracted: this is looked for and not sent again.", due_in=RECALLED)
    if claim.key_is_spent and (step.epoch > 0 or seen.strange):
        why = "Stripe goes on repeating a failure, and no list shows the object."
        return Move("needs_person", why, due_in=DAILY)
    return None


def _recalled(claim: Claim) -> Move | None:
    """What never reached Stripe of an incident that was retracted ends here, and a note about nothing."""
    if claim.moot:
        return Move("cancelled", "All refunds that it links came back.")
    return Move("cancelled", "The incident was retracted before this was sent.") if claim.called_off else None


def _refund_of(house: House, step: Step, found: Object) -> RefundFact | None:
    """The refund that our note made. None when Stripe cannot be asked: it is then polled for."""
    if not isinstance(found, CreditNoteFact) or not found.refunds or not step.refund:
        return None
    try:
        return gateway.connect(house, step.stripe_account, Urgency.GRANT).refund(found.refunds[0][0])
    except _UNREAD:
        return None


def _send(house: House, sent: Sent) -> None:
    step = sent.step
    answer = _post(house, sent)
    if answer.outcome is Outcome.KEY_MISUSED or (answer.outcome is Outcome.UNKNOWN and answer.http_status == 200):
        log.error("Step %s is for a person: %s", step.id, answer.message)
    found: Move | Seen
    if answer.outcome is Outcome.DONE and answer.fact is not None:
        found = Seen(answer.fact, _refund_of(house, step, answer.fact))
    elif answer.outcome is Outcome.REFUSED:
        found = _refused(house, sent, answer)
    else:
        found = verdicts.of_no_success(answer, sent.claim.silences + 1)
    house.database.retried(OPERATOR, lambda session: _answered(session, house, sent, answer, found))


def _may_still_leave(house: House, sent: Sent) -> bool:
    """Whether the switch is on, seen no longer than a moment ago: the call may have waited for its turn since."""
    if time.monotonic() < sent.seen_on + switch.FRESH:
        return True
    with house.database.work(OPERATOR) as session:
        return claims.may_leave(session, sent)


def _post(house: House, sent: Sent) -> Answer[Object]:
    step = sent.step
    body = json.loads(step.body or "")
    connection = gateway.connect(house, step.stripe_account, Urgency.GRANT, partial(_may_still_leave, house, sent))
    expect, version = Money(step.amount, step.currency), step.stripe_version
    if step.kind == "credit_note":
        return connection.create_credit_note(body, sent.key, expect, version)
    if step.kind == "refund":
        return connection.create_refund(body, sent.key, expect, version)
    if step.kind == "balance":
        return connection.create_balance_entry(body.pop("customer"), body, sent.key, version)
    return connection.void_invoice(body["invoice"], sent.key, version)


def _refused(house: House, sent: Sent, answer: Answer[Object]) -> Move | Seen:
    """Stripe says no. An earlier attempt may have been the one that did it, so look before believing."""
    claim, step = sent.claim, sent.step
    refundable: int | None = None
    disputed = False
    try:
        seen = sightings.look(house, step, claim.grant, claim.payment, claim.known_refunds)
        if seen.found is not None:
            return Seen(seen.found, _refund_of(house, step, seen.found))
        if claim.payment is not None:
            connection = gateway.connect(house, step.stripe_account, Urgency.GRANT)
            disputes = connection.disputes(claim.payment.payment_intent, claim.payment.charge)
            disputed = any(one.status not in verdicts.DISPUTE_OVER for one in disputes)
            if claim.payment.charge:
                charge = connection.charge(claim.payment.charge)
                lost = sum(one.amount for one in disputes if one.status == "lost")
                refundable = max(0, charge.captured - charge.refunded - lost)
    except Gone:
        refundable = None
    except (Unreachable, LockedOut, ReadRefused) as error:
        return Move("unknown", f"{answer.message} {error}", due_in=ask_again_after(claim.silences + 1))
    found = verdicts.of_refusal(step, answer, refundable, disputed=disputed)
    if found.to == "cancelled":
        try:
            bodies.look_again(house, step)  # else the next plan does not know of it either
        except Unsendable as unsendable:
            return Move("unknown", unsendable.move.reason, due_in=ask_again_after(claim.silences + 1))
    return found


def _answered(session: Session, house: House, sent: Sent, answer: Answer[Object], found: Move | Seen) -> None:
    told = {"outcome": str(answer.outcome), "status": answer.http_status, "replayed": answer.replayed}
    attempt = {"agency": sent.step.agency_id, "step": sent.step.id, "no": sent.no, "request": answer.request_id}
    sent_at, now = session.execute(_ENDED, attempt | told).one()
    step = locked(session, sent.step.id)
    if step is None:
        return
    verdict = found.verdict(step) if isinstance(found, Seen) else found
    if verdict.stripe_id is not None:
        _write_fact(session, step, verdict)
    elif step.attempt_no == sent.no and step.state == "sent":
        claims.turn_away(session, step, verdict, refused=answer.outcome is Outcome.REFUSED)
    if isinstance(found, Seen) and verdict.stripe_id is not None:
        _taken_in(session, house, step, found, now if answer.outcome is Outcome.DONE else sent_at)


def _decided(session: Session, house: House, claim: Claim, decided: Move | Seen) -> None:
    verdict = decided.verdict(claim.step) if isinstance(decided, Seen) else decided
    claims.decide(session, claim, verdict)
    if isinstance(decided, Seen) and verdict.stripe_id is not None:
        _taken_in(session, house, claim.step, decided, claim.claimed_at)


def _taken_in(session: Session, house: House, step: Step, seen: Seen, at: datetime) -> None:
    _mirrored(session, Reading(step.stripe_account, gateway.engine(house), at), step, seen.fact, seen.refund)
    money = seen.fact if isinstance(seen.fact, RefundFact) else seen.refund
    if money is not None and funding.lacked(money):
        funding.ran_short(session, step, money)


_ENDED: Final = sa.text(
    """
    UPDATE attempts SET ended_at = clock_timestamp(), outcome = :outcome, http_status = :status, replayed = :replayed,
        request_id = :request
    WHERE agency_id = :agency AND step_id = :step AND no = :no RETURNING sent_at, ended_at
    """
)


def _write_fact(session: Session, step: Step, fact: Move) -> None:
    """An object that is there is a fact, whoever brings it and whatever the lease says."""
    if step.state == fact.to and step.stripe_id == fact.stripe_id:
        step.refund_id = fact.refund_id or step.refund_id
        step.lease_until = None
        return
    if step.stripe_id not in (None, fact.stripe_id):
        raise RuntimeError(f"step {step.id} has two objects in Stripe: {step.stripe_id} and {fact.stripe_id}")
    if may_follow(step, fact.to):
        move(session, step, fact, actor="stripe")


def _mirrored(session: Session, reading: Reading, step: Step, fact: Object, refund: RefundFact | None) -> None:
    """The answer is the newest that is known of these objects: whoever reads the mirror sees them at once."""
    refunds = [one for one in (fact, refund) if isinstance(one, RefundFact)]
    batch = Batch(
        refunds=refunds,
        credit_notes=[fact] if isinstance(fact, CreditNoteFact) else (),
        balance_entries=[fact] if isinstance(fact, BalanceEntryFact) else (),
        invoices=[fact] if isinstance(fact, InvoiceFact) else (),
    )
    record(session, reading, batch, owner=step.agency_id)


def _step_of(session: Session, refund: RefundFact, account: str, engine: str) -> Step | None:
    named = refund.metadata.get("step", "")
    if refund.metadata.get("engine") == engine and named.isascii() and named.isdecimal():
        step = locked(session, int(named))
    else:
        ours = sa.select(Step).where(Step.refund_id == refund.id, Step.stripe_account == account)
        step = session.scalar(ours.with_for_update())
    if step is None or step.stripe_account != account:
        return None
    return step
