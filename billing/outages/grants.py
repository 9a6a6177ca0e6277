"""Send, settle, ask again: how an approved step becomes exactly one object in Stripe.

Two transactions stand around each call, with none open while it lasts. The first commits the attempt with its frozen
body and key; the second writes the answer. A success is a fact whoever brings it; a failure counts only for whoever
still holds the attempt; what is not known is asked again under the same key, never sent anew.
"""

import json

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import gateway
from billing.answers import Answer, Gone, LockedOut, Outcome, ReadRefused, Unreachable
from billing.facts import BalanceEntryFact, CreditNoteFact, InvoiceFact, RefundFact
from billing.models import Payment
from billing.money import Money
from billing.outages import bodies, claims, sightings, verdicts
from billing.outages.bodies import Unsendable
from billing.outages.claims import Claim, Sent
from billing.outages.models import Attempt, Step
from billing.outages.steps import Move, finish, locked, may_follow, move
from billing.outages.verdicts import Object
from billing.outages.waits import ask_again_after
from billing.recording import Batch, Reading, record
from tenants.db import OPERATOR
from tenants.house import House

MOST_DEATHS = 5
"""Workers that may die over one step before a person has to look at it."""
_UNREAD = (Unreachable, LockedOut, ReadRefused, Gone)


def send_due(house: House, limit: int) -> int:
    """Work on up to `limit` steps that are due: send, ask again, look. Returns how many; fewer means none is left.

    Safe to run anywhere, any number of times at once.
    """
    worked = 0
    while worked < limit:
        with house.database.work(OPERATOR) as session:
            claim = claims.claim(session)
        if claim is None:
            break
        _carry_on(house, claim)
        worked += 1
    house.database.retried(OPERATOR, finish)
    return worked


def settle(session: Session, refund: RefundFact, account: str, engine: str) -> None:
    """A refund as Stripe shows it now, in the step that it belongs to, if it is one of ours. Order cannot matter."""
    step = _step_of(session, refund, account, engine)
    if step is None or refund.currency != step.currency or refund.amount != (step.refund or step.amount):
        return
    if step.kind == "refund":
        _write_fact(session, step, verdicts.of_refund(refund.id, None, refund))
    elif step.stripe_id is not None:
        _write_fact(session, step, verdicts.of_refund(step.stripe_id, refund.id, refund))


def settle_note(session: Session, note: CreditNoteFact, account: str, engine: str) -> None:
    """A credit note as Stripe shows it now: the answer to a step that is still waiting for one."""
    step_id = note.metadata.get("step", "")
    if note.metadata.get("engine") != engine or not step_id.isdecimal():
        return
    step = locked(session, int(step_id))
    if step is None or step.stripe_account != account or step.state not in ("sent", "unknown", "needs_person"):
        return
    if step.kind == "credit_note" and step.stripe_id is None:
        _write_fact(session, step, verdicts.of_object(step, note, None))


def unblock(session: Session, payment_intent: str | None, charge: str | None) -> None:
    """The dispute of a payment is over: what waited for it is approved still, and due now."""
    of = sa.select(Payment.id).where(
        sa.or_(
            sa.and_(Payment.payment_intent.is_not(None), Payment.payment_intent == payment_intent),
            sa.and_(Payment.charge.is_not(None), Payment.charge == charge),
        ),
        ~Payment.dispute_open,
    )
    waiting = sa.select(Step).where(Step.payment_id.in_(of), Step.state == "blocked")
    for step in session.scalars(waiting.with_for_update()).all():
        move(session, step, Move("approved", evidence={"dispute": "over"}), actor="stripe")


def _carry_on(house: House, claim: Claim) -> None:
    try:
        if claim.step.state == "pending":
            decided: Move | None = _polled(house, claim)
        else:
            decided = _looked(house, claim) if claim.doubtful else None
        written = bodies.written(house, claim.dossier) if decided is None and claim.dossier else None
    except Unsendable as unsendable:
        decided, written = unsendable.move, None
    if decided is not None:
        house.database.retried(OPERATOR, lambda session: claims.decide(session, claim, decided))
        return
    sent = house.database.retried(OPERATOR, lambda session: claims.begin(session, house, claim, written))
    if sent is not None:
        _send(house, sent)


def _polled(house: House, claim: Claim) -> Move:
    step = claim.step
    refund_id = step.refund_id if step.kind == "credit_note" else step.stripe_id
    try:
        refund = gateway.connect(house, step.stripe_account).refund(refund_id or "")
    except _UNREAD as error:
        return Move("pending", str(error), due_in=ask_again_after(4))
    return verdicts.of_refund(step.stripe_id or "", step.refund_id, refund)


def _looked(house: House, claim: Claim) -> Move | None:
    """Look for the object of an attempt whose answer stayed away. None: it is not there, ask under the same key."""
    step = claim.step
    try:
        seen = sightings.look(house, step, claim.grant, claim.payment, claim.known_refunds)
        if seen.found is not None:
            return verdicts.of_object(step, seen.found, _refund_of(house, step, seen.found))
    except _UNREAD as error:
        return Move(step.state, str(error), due_in=ask_again_after(claim.silences))
    if claim.deaths >= MOST_DEATHS:
        return Move("needs_person", f"{claim.deaths} workers ended while they sent this.")
    if claim.key_is_dead:
        return Move("needs_person", "Stripe never said whether this was done, and no list shows it: look there first.")
    if claim.key_is_spent and (step.epoch > 0 or seen.strange):
        return Move("needs_person", "Stripe goes on repeating a failure, and no list shows the object.")
    return None


def _refund_of(house: House, step: Step, found: Object) -> RefundFact | None:
    """The refund that our note made. None when Stripe cannot be asked: it is then polled for."""
    if not isinstance(found, CreditNoteFact) or not found.refunds or not step.refund:
        return None
    try:
        return gateway.connect(house, step.stripe_account).refund(found.refunds[0][0])
    except _UNREAD:
        return None


def _send(house: House, sent: Sent) -> None:
    answer = _post(house, sent)
    step = sent.step
    refund = None
    if answer.outcome is Outcome.DONE and answer.fact is not None:
        refund = _refund_of(house, step, answer.fact)
        found = verdicts.of_object(step, answer.fact, refund)
    elif answer.outcome is Outcome.REFUSED:
        found = _refused(house, sent, answer)
    else:
        found = verdicts.of_no_success(answer, sent.claim.silences + 1)
    house.database.retried(OPERATOR, lambda session: _answered(session, house, sent, answer, found, refund))


def _post(house: House, sent: Sent) -> Answer[Object]:
    step = sent.step
    body = json.loads(step.body or "")
    connection = gateway.connect(house, step.stripe_account)
    expect, version = Money(step.amount, step.currency), step.stripe_version
    if step.kind == "credit_note":
        return connection.create_credit_note(body, sent.key, expect, version)
    if step.kind == "refund":
        return connection.create_refund(body, sent.key, expect, version)
    if step.kind == "balance":
        return connection.create_balance_entry(body.pop("customer"), body, sent.key, version)
    return connection.void_invoice(body["invoice"], sent.key, version)


def _refused(house: House, sent: Sent, answer: Answer[Object]) -> Move:
    """Stripe says no. An earlier attempt may have been the one that did it, so look before believing."""
    claim, step = sent.claim, sent.step
    refundable: int | None = None
    try:
        seen = sightings.look(house, step, claim.grant, claim.payment, claim.known_refunds)
        if seen.found is not None:
            return verdicts.of_object(step, seen.found, _refund_of(house, step, seen.found))
        if claim.payment is not None and claim.payment.charge:
            charge = gateway.connect(house, step.stripe_account).charge(claim.payment.charge)
            refundable = charge.captured - charge.refunded
    except Gone:
        refundable = None
    except (Unreachable, LockedOut, ReadRefused) as error:
        return Move("unknown", f"{answer.message} {error}", due_in=ask_again_after(claim.silences + 1))
    return verdicts.of_refusal(step, answer, refundable)


def _answered(
    session: Session, house: House, sent: Sent, answer: Answer[Object], found: Move, refund: RefundFact | None
) -> None:
    session.execute(
        sa.update(Attempt)
        .where(Attempt.step_id == sent.step.id, Attempt.no == sent.no)
        .values(
            ended_at=sa.func.clock_timestamp(),
            outcome=str(answer.outcome),
            http_status=answer.http_status,
            replayed=answer.replayed,
            request_id=answer.request_id,
        )
    )
    step = locked(session, sent.step.id)
    if step is None:
        return
    if found.stripe_id is not None:
        _write_fact(session, step, found)
    elif step.attempt_no == sent.no and step.state == "sent":
        move(session, step, found)
    if answer.fact is not None and found.stripe_id is not None:
        _mirrored(session, gateway.engine(house), step, answer.fact, refund)


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


def _mirrored(session: Session, engine: str, step: Step, fact: Object, refund: RefundFact | None) -> None:
    """The answer is the newest that is known of these objects: whoever reads the mirror sees them at once."""
    now = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    refunds = [one for one in (fact, refund) if isinstance(one, RefundFact)]
    batch = Batch(
        refunds=refunds,
        credit_notes=[fact] if isinstance(fact, CreditNoteFact) else (),
        balance_entries=[fact] if isinstance(fact, BalanceEntryFact) else (),
        invoices=[fact] if isinstance(fact, InvoiceFact) else (),
    )
    record(session, Reading(step.stripe_account, engine, now), batch)


def _step_of(session: Session, refund: RefundFact, account: str, engine: str) -> Step | None:
    named = refund.metadata.get("step", "")
    if refund.metadata.get("engine") == engine and named.isdecimal():
        step = locked(session, int(named))
    else:
        ours = sa.select(Step).where(Step.refund_id == refund.id, Step.stripe_account == account)
        step = session.scalar(ours.with_for_update())
    if step is None or step.stripe_account != account:
        return None
    return step
