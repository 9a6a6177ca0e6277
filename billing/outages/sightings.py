"""Is there an object of this step in Stripe? Asked by lists, which show what was just written; search lags."""

from dataclasses import dataclass

from billing import gateway
from billing.facts import BalanceEntryFact, CreditNoteFact, InvoiceFact, RefundFact
from billing.gateway import Urgency
from billing.models import Payment
from billing.outages.models import Grant, Step
from tenants.house import House

Object = CreditNoteFact | RefundFact | BalanceEntryFact | InvoiceFact


@dataclass(frozen=True)
class Sighting:
    """`found` is our object. `strange` says that a refund of this payment is there that nobody can account for yet."""

    found: Object | None
    strange: bool = False


def look(house: House, step: Step, grant: Grant, payment: Payment | None, known_refunds: frozenset[str]) -> Sighting:
    """All pages of the list where the step's object would stand, matched by the step's id in its metadata.

    A refund that a note makes need not carry our metadata: it counts as ours through the note alone.
    """
    connection = gateway.connect(house, step.stripe_account, Urgency.GRANT)
    if step.kind == "void":
        invoice = connection.invoice(grant.invoice_id)
        return Sighting(invoice if invoice.status == "void" else None)
    if step.kind == "balance":
        entries = connection.balance_entries(grant.customer_id)
        return Sighting(next((one for one in entries if is_of(house, one, step.id)), None))
    refunds = _refunds(connection, payment)
    if step.kind == "refund":
        found: Object | None = next((one for one in refunds if is_of(house, one, step.id)), None)
    else:
        notes = connection.credit_notes(invoice=grant.invoice_id)
        found = next((one for one in notes if is_of(house, one, step.id)), None)
    strangers = [one for one in refunds if one.id not in known_refunds and "step" not in one.metadata]
    return Sighting(found, strange=found is None and bool(strangers))


def is_of(house: House, thing: CreditNoteFact | RefundFact | BalanceEntryFact, step_id: int) -> bool:
    """Whether this engine made the object for that step: another copy of the program counts its steps from 1 too."""
    return thing.metadata.get("engine") == gateway.engine(house) and thing.metadata.get("step") == str(step_id)


def _refunds(connection: gateway.Gateway, payment: Payment | None) -> list[RefundFact]:
    if payment is None:
        return []
    if payment.payment_intent:
        return list(connection.refunds(payment_intent=payment.payment_intent))
    return list(connection.refunds(charge=payment.charge))
