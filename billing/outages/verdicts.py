"""What one answer of Stripe's means for its step: a table, and a check that a success is the one we asked for."""

from datetime import timedelta
from typing import Final

from billing.answers import Answer, Outcome
from billing.facts import BalanceEntryFact, CreditNoteFact, InvoiceFact, RefundFact
from billing.outages.models import Step
from billing.outages.steps import Move
from billing.outages.waits import DAILY, LATER, POLL_PENDING, SOON, ask_again_after

Object = CreditNoteFact | RefundFact | BalanceEntryFact | InvoiceFact

DISPUTED = frozenset(["charge_disputed", "refund_disputed_payment"])
DISPUTE_GOES_ON: Final = "The customer's bank disputes this payment: it waits for the end."
DISPUTE_OVER = frozenset(["won", "lost", "warning_closed", "prevented"])
GIVEN_BACK = frozenset(["charge_already_refunded"])
IMPOSSIBLE = frozenset(["charge_not_refundable", "charge_expired_for_capture", "resource_missing"])
LOCKED_OUT_WAIT = timedelta(minutes=10)


def of_object(step: Step, found: Object, refund: RefundFact | None) -> Move:
    """Our object is in Stripe. `refund` is the one that a credit note made, None where it could not be read yet."""
    wrong = _not_what_was_asked(step, found)
    evidence = {"object": found.id}
    if wrong:
        return Move("unknown", f"Stripe answered with {wrong}.", due_in=ask_again_after(1), evidence=evidence)
    if isinstance(found, RefundFact):
        return of_refund(found.id, None, found)
    if isinstance(found, CreditNoteFact) and step.refund:
        if not found.refunds:
            return Move("unknown", "Stripe made the note without its refund.", due_in=LATER, evidence=evidence)
        refund_id = found.refunds[0][0]
        if refund is None:
            return Move("pending", "How the refund fares is not known yet.", found.id, refund_id, SOON, evidence)
        return of_refund(found.id, refund_id, refund)
    return Move("succeeded", stripe_id=found.id, evidence=evidence)


def of_refund(stripe_id: str, refund_id: str | None, refund: RefundFact) -> Move:
    """A refund as it is now. Only `succeeded` is a success; a status nobody knows yet is none either."""
    evidence = {"object": stripe_id, "refund": refund.id, "status": refund.status}
    if refund.status == "succeeded":
        return Move("succeeded", None, stripe_id, refund_id, None, evidence)
    if refund.status in ("failed", "canceled"):
        why = (refund.failure_reason or refund.status).replace("_", " ")
        return Move("failed", f"The refund came back: {why}.", stripe_id, refund_id, None, evidence)
    why = (refund.pending_reason or refund.status).replace("_", " ")
    return Move("pending", f"The refund is on its way: {why}.", stripe_id, refund_id, POLL_PENDING, evidence)


def of_refusal(step: Step, answer: Answer[Object], refundable: int | None, *, disputed: bool) -> Move:
    """Stripe refused, and a list showed that nothing of ours is there. `refundable` is what a fresh look found left of
    the payment after refunds and lost disputes, None where there is none or it could not be read; `disputed`, whether
    its bank disputes it now."""
    evidence = {"code": answer.code, "status": answer.http_status, "message": answer.message}
    blocked = Move("blocked", DISPUTE_GOES_ON, due_in=DAILY, evidence=evidence)
    if disputed:
        return blocked
    if answer.code in GIVEN_BACK or (step.refund and refundable == 0):
        given_back = "Somebody gave this payment back already."
        if step.refund < step.amount:  # the rest of it has not been given by anybody
            return Move("cancelled", f"plan_changed: {given_back}", evidence=evidence)
        return Move("given_elsewhere", given_back, evidence=evidence)
    if refundable is not None and refundable < step.refund:
        return Move("needs_person", f"Only {refundable} of {step.refund} can be refunded still.", evidence=evidence)
    if answer.code in DISPUTED:
        return blocked
    if answer.code in IMPOSSIBLE and step.refund == step.amount:
        return Move("failed", f"The payment cannot be refunded: {answer.message}", evidence=evidence)
    if step.kind == "balance":  # its customer is gone, or has a balance in another currency
        return Move("failed", f"It cannot go to the customer's balance: {answer.message}", evidence=evidence)
    return Move("needs_person", f"Stripe refused: {answer.message}", evidence=evidence)


def of_no_success(answer: Answer[Object], silences: int) -> Move:
    """Everything else. `silences` is how often this step's answer has stayed away by now, this time included."""
    evidence = {"outcome": str(answer.outcome), "status": answer.http_status, "replayed": answer.replayed}
    if answer.outcome is Outcome.UNKNOWN:
        return Move("unknown", answer.message, due_in=ask_again_after(silences), evidence=evidence)
    if answer.outcome is Outcome.KEY_MISUSED:
        # Whether another body went out under this key only a person can find out; asking again never ends.
        return Move("blocked", f"The request's key was used for another request: {answer.message}", evidence=evidence)
    wait = {
        Outcome.NOT_SENT: LATER,
        Outcome.STOPPED: LATER,
        Outcome.BUSY: SOON,
        Outcome.LIMITED: SOON,
        Outcome.LOCKED_OUT: LOCKED_OUT_WAIT,
    }[answer.outcome]
    return Move("sent", answer.message or str(answer.outcome), due_in=wait, evidence=evidence)


def _not_what_was_asked(step: Step, found: Object) -> str | None:
    if isinstance(found, InvoiceFact):
        return None if found.status == "void" else f"an invoice that is {found.status}"
    amount = {CreditNoteFact: lambda: found.total, BalanceEntryFact: lambda: -found.amount}.get(  # type: ignore[union-attr]
        type(found),
        lambda: found.amount,  # type: ignore[union-attr]
    )()
    if amount != step.amount or found.currency != step.currency:
        return f"{amount} {found.currency} where {step.amount} {step.currency} was asked for"
    return None
