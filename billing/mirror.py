"""Stripe in our tables: an object as it is now, fetched for it or as Stripe has just answered.

Every object is written as it was read, whatever was known of it before; reading it again changes nothing. What is in
the mirror is checked against Stripe before money moves, so its age costs a delay and never a cent.
"""

import math
import time
from collections.abc import Collection, Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import circuits
from billing.answers import Gone, ReadRefused, Unreachable
from billing.batches import Batch, Reading, merged
from billing.errors import Refused
from billing.facts import BalanceEntryFact, CreditNoteFact, InvoiceFact, RefundFact, SubscriptionFact
from billing.gateway import connect, engine
from billing.looking import LOOKS, completed
from billing.models import Invoice
from billing.reads import Once
from billing.recording import record
from billing.upserts import text_array
from billing.walks import database_now
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency

Object = tuple[str, str]
"""Stripe's word for the kind of an object, and its id."""


def refresh(house: House, account: str, kind: str, id: str) -> Any:
    """Fetch one object as it is now, with what it hangs on, and record it; returns its fact.

    `kind` is Stripe's word for it. Raises `Gone` where Stripe has no such object (a draft that was deleted is marked
    so here), `Unreachable` when it cannot be told, and `KeyError` for a kind that the mirror does not keep.
    """
    (found,) = refresh_all(house, account, [(kind, id)]).values()
    if isinstance(found, Refused):
        raise found
    return found


def refresh_all(
    house: House, account: str, objects: Iterable[Object], until: float = math.inf
) -> dict[Object, Any | Refused]:
    """As `refresh` for many objects, recorded together: each one's fact, or what `refresh` would have raised.

    What was not reached by `until` (time.monotonic()), or before Stripe was left alone, is left out, the first one
    never.
    """
    at = database_now(house)
    gateway = Once(connect(house, account))
    facts: dict[Object, Any] = {}
    batches: dict[Object, Batch] = {}
    refused: dict[Object, Any | Refused] = {}
    for kind, id in dict.fromkeys(objects):
        if (facts or refused) and time.monotonic() >= until:
            break
        try:
            facts[kind, id], batches[kind, id] = LOOKS[kind](house, gateway, id)
        except (Gone, Unreachable, ReadRefused) as refusal:
            refused[kind, id] = refusal
            if isinstance(refusal, Unreachable) and circuits.is_left_alone(house, account):
                break
    try:
        whole = completed(house, gateway, merged(batches.values()))
    except (Gone, Unreachable, ReadRefused) as refusal:
        if len(facts) > 1:  # one of them hangs on what cannot be read: find out which, and let the others go on
            return refused | {
                one: found for some in facts for one, found in refresh_all(house, account, [some]).items()
            }
        return refused | dict.fromkeys(facts, refusal)
    reading = Reading(account, engine(house), at)

    def write(session: Session) -> None:
        record(session, reading, whole)
        _forget(
            session, [id for (kind, id), refusal in refused.items() if kind == "invoice" and isinstance(refusal, Gone)]
        )

    house.database.retried(OPERATOR, write)
    return facts | refused


def record_subscription(session: Session, agency_id: int, fact: SubscriptionFact) -> None:
    """Write what Stripe just answered about an agency's subscription, in the caller's transaction."""
    _record(session, agency_id, Batch(subscriptions=[fact]))


def record_invoice(session: Session, agency_id: int, fact: InvoiceFact) -> None:
    """As `record_subscription`, with lines and payments."""
    _record(session, agency_id, Batch(invoices=[fact]))


def record_refund(session: Session, agency_id: int, fact: RefundFact) -> None:
    """As `record_subscription`, for a refund that we asked for."""
    _record(session, agency_id, Batch(refunds=[fact]), fact.metadata.get("engine"))


def record_credit_note(session: Session, agency_id: int, fact: CreditNoteFact) -> None:
    """As `record_subscription`, for a credit note that we asked for."""
    _record(session, agency_id, Batch(credit_notes=[fact]), fact.metadata.get("engine"))


def record_balance_entry(session: Session, agency_id: int, fact: BalanceEntryFact) -> None:
    """As `record_subscription`, for a balance entry that we asked for."""
    _record(session, agency_id, Batch(balance_entries=[fact]), fact.metadata.get("engine"))


def _record(session: Session, agency_id: int, batch: Batch, engine: str | None = None) -> None:
    account, now = session.execute(_ACCOUNT_AND_TIME, {"agency": agency_id}).one()
    record(session, Reading(account, engine, now), batch, owner=agency_id)


_ACCOUNT_AND_TIME: Final = sa.select(sa.func.coalesce(Agency.stripe_account, ""), sa.func.clock_timestamp()).where(
    Agency.id == sa.bindparam("agency")
)


def _forget(session: Session, invoices: Collection[str]) -> None:
    """Only drafts can be deleted in Stripe; their row stays, for what names it, and says so."""
    if invoices:
        gone = Invoice.id == sa.any_(text_array(invoices))
        session.execute(sa.update(Invoice).where(gone, Invoice.status == "draft").values(status="deleted"))
