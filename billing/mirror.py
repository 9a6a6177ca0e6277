"""Stripe into our tables: the first import of a whole account, catching up with events, and one object as it is now.

Every object is written as it was read, whatever was known of it before; reading it again changes nothing. What is in
the mirror is checked against Stripe before money moves, so its age costs a delay and never a cent.
"""

import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import reads
from billing.answers import Gone, ReadRefused, Unreachable
from billing.batches import Batch, Reading, Remarks, merged
from billing.counters import recount_all
from billing.errors import Conflict, Refused
from billing.facts import (
    BalanceEntryFact,
    CreditNoteFact,
    EventFact,
    InvoiceFact,
    RefundFact,
    SubscriptionFact,
)
from billing.gateway import Gateway, connect, engine
from billing.looking import LOOKS, completed
from billing.models import CreditNote, Customer, Invoice, SyncCursor, SyncWindow
from billing.owners import Homes
from billing.reads import Kind, Once
from billing.recording import record
from billing.upserts import text_array
from billing.walks import AHEAD, BEGINNING, SIDE_BY_SIDE, Walk, database_now
from billing.windows import iso
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency

OVERLAP: Final = timedelta(minutes=2)
"""Events are asked for again from so long before the last look: they may show up late."""
FOLLOW_EVERY: Final = timedelta(minutes=5)
"""Between two looks at Stripe's list of events, for those that no webhook brought."""
MOST_EVENTS: Final = 1_000
"""Events that are asked for, and then taken, together."""
SHORTEST: Final = timedelta(seconds=1)
"""Stripe counts the time of its objects in whole seconds."""
EVENTS_KEPT: Final = timedelta(days=29)
BEGUN: Final = "import"
"""The kind of the SyncWindow row that says when an unfinished import began, and from when on it takes invoices."""

TOGETHER: Final = 25
"""Objects that are looked at, and then recorded, together."""

Object = tuple[str, str]
"""Stripe's word for the kind of an object, and its id."""
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


def oldest_due() -> sa.Select[Any]:
    """`(since when an account's events have to be asked for, now)`."""
    due = sa.func.min(SyncCursor.looked_at) + FOLLOW_EVERY
    return sa.select(sa.select(due).where(_is_followed()).scalar_subquery(), sa.func.clock_timestamp())


def _is_followed() -> sa.ColumnElement[bool]:
    return SyncCursor.fresh_at.is_not(None)


def due(house: House) -> str | None:
    """An account whose events have to be asked for, which this worker has to itself until the next look. None: none."""
    now = sa.func.clock_timestamp()
    oldest = (
        sa.select(SyncCursor.stripe_account)
        .where(_is_followed(), SyncCursor.looked_at <= now - FOLLOW_EVERY)
        .order_by(SyncCursor.looked_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    mine = sa.update(SyncCursor).where(SyncCursor.stripe_account == oldest.scalar_subquery()).values(looked_at=now)
    with house.database.work(OPERATOR) as session:
        return session.scalar(mine.returning(SyncCursor.stripe_account))


def follow(
    house: House,
    account: str,
    take: Callable[[Session, EventFact], object] | None = None,
    until: Callable[[], bool] = lambda: False,
) -> int:
    """Catch up with what happened since the last look; returns how many events there were.

    With `take`, each event is handed to it, oldest first: an inbox that knows an event already must not mind. Without
    it, every object that they name is refreshed here. What there is much of is taken in stretches of time, the cursor
    moves with each, and once `until` says so the rest is left to the next, who is due at once. An account that was
    never imported is left alone. Raises `Conflict` when Stripe no longer has the events since the last look.
    """
    started = house.clock.now()
    fresh_at = _followed_to(house, account)
    if fresh_at is None:
        return 0
    count = 0
    for events, reached in _stretches(connect(house, account), fresh_at, started):
        if take is None:
            _refresh_named(house, account, events)
        else:
            _hand_over(house, events, take)
        count += len(events)
        with house.database.work(OPERATOR) as session:
            cursor = session.get_one(SyncCursor, account)
            cursor.fresh_at = max(reached, cursor.fresh_at or reached)
            cursor.last_event = events[0].id if events else cursor.last_event
            if reached < started and until():
                cursor.looked_at = sa.func.clock_timestamp() - FOLLOW_EVERY
                return count
    return count


def _stretches(connection: Gateway, reached: datetime, now: datetime) -> Iterator[tuple[Sequence[EventFact], datetime]]:
    """Every event since `reached`, newest first within a stretch, and the time up to which that is all of them.

    Stripe lists the newest first, so that a list that is cut off says nothing of what is older: one that has more than
    `MOST_EVENTS` is asked for again over half its time, as long as it comes to more than `reached`.
    """
    start = reached - OVERLAP
    end: datetime | None = None  # the last stretch is open: Stripe's clock may be ahead of ours
    while True:
        over = end or now
        divisible = over > reached + SHORTEST
        events: list[EventFact] = []
        for event in connection.events(created_from=start, created_before=end):
            events.append(event)
            if divisible and len(events) > MOST_EVENTS and events[MOST_EVENTS].created_at >= reached:
                break
        else:
            yield events, over
            if end is None:
                return
            wider = end + 2 * (end - start)
            start, reached, end = end, end, wider if wider < now else None
            continue
        end = max(reached + SHORTEST, reached + (over - reached) / 2).replace(microsecond=0)


def look_ahead(house: House, account: str) -> datetime | None:
    """Refresh what happened since the last look, and leave the cursor there: whoever takes events has them to come.

    Returns since when; None: the account was never imported, and is left alone. Raises `Conflict` as `follow` does.
    """
    fresh_at = _followed_to(house, account)
    if fresh_at is None:
        return None
    for events, _ in _stretches(connect(house, account), fresh_at, house.clock.now()):
        _refresh_named(house, account, events)
    return fresh_at - OVERLAP


def _followed_to(house: House, account: str) -> datetime | None:
    with house.database.work(OPERATOR) as session:
        fresh_at = session.scalar(sa.select(SyncCursor.fresh_at).where(SyncCursor.stripe_account == account))
    if fresh_at is not None and house.clock.now() - fresh_at > EVENTS_KEPT:
        raise Conflict(
            f"This account was last followed at {iso(fresh_at)}, and Stripe keeps events for 30 days only: "
            "run `flask stripe import` again."
        )
    return fresh_at


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

    What was not reached by `until` (time.monotonic()) is left out, the first one never.
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


def _begin(house: House, account: str, since: datetime | None) -> datetime:
    """When the import began: now, or when it was cut off earlier with the same `since`."""
    wanted = since or BEGINNING
    with house.database.work(OPERATOR) as session:
        Homes(session, account)
        ours = SyncWindow.stripe_account == account
        row = session.scalar(sa.select(SyncWindow).where(ours, SyncWindow.kind == BEGUN))
        if row is not None and row.ends_at == wanted:
            return row.starts_at
        session.execute(sa.delete(SyncWindow).where(ours))
        session.merge(SyncCursor(stripe_account=account, live=house.settings.live))
        started = house.clock.now()
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


def _refresh_named(house: House, account: str, events: Sequence[EventFact]) -> None:
    """Each object once, however many events name it; what is gone meanwhile is gone."""
    named = dict.fromkeys((event.object_kind, event.object_id or "") for event in reversed(events))
    known = [(kind, id) for kind, id in named if kind in LOOKS and id]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        some = [known[first : first + TOGETHER] for first in range(0, len(known), TOGETHER)]
        for found in pool.map(lambda objects: refresh_all(house, account, objects), some):
            for one in found.values():
                if isinstance(one, Refused) and not isinstance(one, Gone):
                    raise one


def _hand_over(house: House, events: Sequence[EventFact], take: Callable[[Session, EventFact], object]) -> None:
    in_order = list(reversed(events))
    for first in range(0, len(in_order), 500):
        with house.database.work(OPERATOR) as session:
            for event in in_order[first : first + 500]:
                take(session, event)


def _forget(session: Session, invoices: Collection[str]) -> None:
    """Only drafts can be deleted in Stripe; their row stays, for what names it, and says so."""
    if invoices:
        gone = Invoice.id == sa.any_(text_array(invoices))
        session.execute(sa.update(Invoice).where(gone, Invoice.status == "draft").values(status="deleted"))
