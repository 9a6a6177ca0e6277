"""What an object of Stripe's, as it is now, means for what we have under way. Order and repetition cannot matter."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from billing.facts import DISPUTE_OVER, CreditNoteFact, DisputeFact, InvoiceFact, RefundFact, SubscriptionFact
from billing.outages import grants, held, pauses


def apply(session: Session, account: str, seen: Any, seen_at: datetime, engine: str) -> None:
    """Bring steps, pauses and held invoices up to `seen`, which was fetched after `seen_at` (the database's clock)."""
    if isinstance(seen, RefundFact):
        grants.settle(session, seen, account, engine)
    elif isinstance(seen, CreditNoteFact):
        grants.settle_note(session, seen, account, engine)
    elif isinstance(seen, SubscriptionFact):
        pauses.confirm(session, seen, seen_at)
    elif isinstance(seen, InvoiceFact):
        held.notice(session, seen)
        held.confirm(session, seen)
    elif isinstance(seen, DisputeFact) and seen.status in DISPUTE_OVER:
        grants.unblock(session, seen.payment_intent, seen.charge)
