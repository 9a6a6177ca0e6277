"""A whole Stripe account into the mirror, then whatever happened meanwhile. Cut off, it goes on where it was."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import reads
from billing.answers import Gone, ReadRefused
from billing.batches import Batch, Reading, Remarks
from billing.counters import recount_all
from billing.errors import Conflict
from billing.facts import InvoiceFact
from billing.following import EVENTS_KEPT, events_until, look_ahead
from billing.gateway import connect, engine
from billing.looking import completed
from billing.models import CreditNote, Customer, Invoice, SyncCursor, SyncWindow
from billing.owners import Homes
from billing.reads import Kind
from billing.recording import record
from billing.walks import AHEAD, BEGINNING, SIDE_BY_SIDE, Walk, database_now
from tenants.db import OPERATOR
from tenants.house import House

BEGUN: Final = "import"
"""The kind of the SyncWindow row that says when an unfinished import began, and from when on it takes invoices."""
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class ImportReport:
    """How many objects of each kind are in Stripe, and what could not be taken as it stands there, in sentences."""

    objects: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"objects": self.objects, "warnings": self.warnings}


def import_account(
    house: House, account: str, since: datetime | None = None, progress: Progress | None = None
) -> ImportReport:
    """Read a whole Stripe account ('' is the operator's) into the mirror, then whatever happened meanwhile.

    Repeatable without effect. Cut off, it goes on where it was. Invoices made before `since` are left out, and what
    hangs on them. `progress(kind, read, expected)` is called now and then, from several threads.
    """
    begun = _begin(house, account, since)
    report, remarks = ImportReport(), Remarks()
    told = progress or (lambda kind, done, total: None)
    until = house.clock.now() + AHEAD

    def walk(name: str, kind: Kind[Any], batch: Callable[[Sequence[Any]], Batch], start: datetime = BEGINNING) -> None:
        take = _taking(house, account, batch, remarks)
        report.objects[name] = Walk(house, account, kind, take).over(
            start, until, lambda done, total: told(name, done, total)
        )

    walk("plans", reads.PLAN, lambda facts: Batch(plans=facts))
    walk("customers", reads.CUSTOMER, lambda facts: Batch(customers=facts))
    walk("subscriptions", reads.SUBSCRIPTION, lambda facts: Batch(subscriptions=facts))
    bare: list[str] = []
    expanded = _invoices_expanded(house, account)

    def invoices(facts: Sequence[InvoiceFact]) -> Batch:
        bare.extend(fact.id for fact in facts if fact.payments is None)
        return Batch(invoices=facts)

    walk("invoices", expanded, invoices, since or BEGINNING)
    if bare:  # Stripe did not expand the payments of invoices in a list
        walk("payments", reads.PAYMENT, lambda facts: Batch(payments=facts), since or BEGINNING)
    walk("refunds", reads.REFUND, lambda facts: Batch(refunds=facts))
    walk("credit_notes", reads.CREDIT_NOTE, lambda facts: Batch(credit_notes=facts), since or BEGINNING)
    walk("disputes", reads.DISPUTE, lambda facts: Batch(disputes=facts))
    report.objects["balance_entries"] = _import_balances(house, account, told)
    _finish(house, account, since, begun)
    look_ahead(house, account)
    report.warnings = remarks.lines()
    return report


def refuse_other_mode(house: House) -> None:
    """Raise `Conflict` when what is mirrored came with a test key and ours is live, or the other way round."""
    if not house.settings.stripe_secret_key:
        return
    with house.database.work(OPERATOR) as session:
        other = session.scalar(sa.select(SyncCursor.live).where(SyncCursor.live != house.settings.live).limit(1))
    if other is not None:
        there, here = ("live", "test") if other else ("test", "live")
        raise Conflict(
            f"What is mirrored in this database came with a {there} key, and STRIPE_SECRET_KEY is a {here} key:"
            " use a key of the same mode, or a database of its own."
        )


def _begin(house: House, account: str, since: datetime | None) -> datetime:
    """When the import began: now, or when it was cut off earlier with the same `since`."""
    wanted, started = since or BEGINNING, events_until(house)
    with house.database.work(OPERATOR) as session:
        Homes(session, account)
        ours = SyncWindow.stripe_account == account
        row = session.scalar(sa.select(SyncWindow).where(ours, SyncWindow.kind == BEGUN))
        if row is not None and row.ends_at == wanted:
            return row.starts_at
        session.execute(sa.delete(SyncWindow).where(ours))
        session.merge(SyncCursor(stripe_account=account, live=house.settings.live))
        session.add(SyncWindow(stripe_account=account, kind=BEGUN, starts_at=started, ends_at=wanted, objects=0))
    return started


def _finish(house: House, account: str, since: datetime | None, begun: datetime) -> None:
    """From here on the mirror is as fresh as the beginning of the import, and follows the events since.

    One that was followed already goes on where it was: whoever takes events has not seen the ones since.
    """

    def finished(session: Session) -> None:
        homes = Homes(session, account)
        recount_all(session, [homes.default, *homes.by_slug.values()])
        cursor = session.get(SyncCursor, account) or SyncCursor(stripe_account=account)
        if cursor.fresh_at is None or begun - cursor.fresh_at > EVENTS_KEPT:
            cursor.fresh_at = begun
        cursor.imported_at = house.clock.now()
        cursor.invoices_since = since
        session.add(cursor)
        session.execute(sa.delete(SyncWindow).where(SyncWindow.stripe_account == account))

    house.database.retried(OPERATOR, finished)


def _taking(
    house: House, account: str, batch: Callable[[Sequence[Any]], Batch], remarks: Remarks
) -> Callable[[datetime, Sequence[Any]], None]:
    lock = threading.Lock()

    def take(at: datetime, facts: Sequence[Any]) -> None:
        whole = completed(house, connect(house, account), batch(facts), invoices=False)
        reading = Reading(account, engine(house), at)
        found = house.database.retried(OPERATOR, lambda session: record(session, reading, whole, counting=False))
        with lock:
            remarks.add(found)

    return take


def _invoices_expanded(house: House, account: str) -> Kind[InvoiceFact]:
    """Invoices with their payments in the list, where Stripe does that; else without."""
    try:
        connect(house, account).page(reads.INVOICE, BEGINNING, BEGINNING + timedelta(seconds=1))
    except ReadRefused as refusal:
        if not (refusal.param or "").startswith("expand"):
            raise
        return replace(reads.INVOICE, expand=())
    return reads.INVOICE


def _import_balances(house: House, account: str, told: Progress) -> int:
    """The balance entries of every customer who ever had a balance, as far as the mirror can tell."""
    with house.database.work(OPERATOR) as session:
        homes = Homes(session, account)
        agencies = [homes.default, *homes.by_slug.values()]
        ever = (
            sa.select(Customer.id).where(Customer.balance != 0, Customer.agency_id.in_(agencies), ~Customer.deleted),
            sa.select(Invoice.customer_id).where(
                sa.or_(Invoice.starting_balance != 0, Invoice.ending_balance != 0), Invoice.agency_id.in_(agencies)
            ),
            sa.select(CreditNote.customer_id).where(CreditNote.credited != 0, CreditNote.agency_id.in_(agencies)),
        )
        customers = sorted(session.scalars(sa.union(*ever)))

    def read(customer: str) -> int:
        at = database_now(house)
        try:
            entries = connect(house, account).balance_entries(customer)
        except Gone:  # deleted since
            return 0
        reading, batch = Reading(account, engine(house), at), Batch(balance_entries=entries)
        house.database.retried(OPERATOR, lambda session: record(session, reading, batch, counting=False))
        return len(entries)

    count = 0
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for done, found in enumerate(pool.map(read, customers), start=1):
            count += found
            told("balance_entries", done, len(customers))
    return count
