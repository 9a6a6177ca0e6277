"""What an object of Stripe's, as it is now, means for what we have under way. Order and repetition cannot matter."""

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.facts import DISPUTE_OVER, CreditNoteFact, DisputeFact, InvoiceFact, RefundFact, SubscriptionFact
from billing.models import CreditNote, Customer, Dispute, Invoice, Payment, Plan, Refund, Subscription
from billing.outages import grants, held, pauses, settlements, strays

KEPT_AS: Final[dict[str, Any]] = {
    "price": Plan,
    "customer": Customer,
    "subscription": Subscription,
    "invoice": Invoice,
    "invoice_payment": Payment,
    "refund": Refund,
    "credit_note": CreditNote,
    "dispute": Dispute,
}


def apply(session: Session, account: str, seen: Any, seen_at: datetime, engine: str) -> str | None:
    """Bring steps, pauses and held invoices up to `seen`, which was fetched after `seen_at` (the database's clock).

    Returns why nothing was done, where `seen` says that it is ours and is not what we asked for: its invoices are
    frozen then.
    """
    if isinstance(seen, RefundFact | CreditNoteFact):
        why = strays.frozen(session, account, seen, engine)
        if why is not None:
            return why
    if isinstance(seen, RefundFact):
        grants.settle(session, seen, account, engine)
    elif isinstance(seen, CreditNoteFact):
        grants.settle_note(session, seen, account, engine)
    elif isinstance(seen, SubscriptionFact):
        pauses.confirm(session, seen, seen_at)
        if seen.status in pauses.ENDED:
            settlements.ended(session, seen.id)
    elif isinstance(seen, InvoiceFact):
        held.notice(session, seen)
        held.confirm(session, seen)
        if seen.status == "paid":
            settlements.late_payment(session, seen.id)
        if seen.status in ("open", "paid"):
            settlements.came_late(session, seen.id)
    elif isinstance(seen, DisputeFact) and seen.status in DISPUTE_OVER:
        grants.unblock(session, seen.payment_intent, seen.charge)
    return None


def was_known(session: Session, kind: str, id: str) -> bool:
    """Whether the mirror has the object, or a plan of the product."""
    if kind == "product":
        return bool(session.scalar(sa.select(sa.exists().where(Plan.product_id == id))))
    return bool(session.scalar(sa.select(sa.exists().where(KEPT_AS[kind].id == id))))
