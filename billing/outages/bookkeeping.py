"""Our books held against Stripe's by the clock: every hour for incidents that are under way, every day for everything
of the last 90 days. What was found is kept, and a difference freezes the invoices that it touches, never the rest."""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import check, gateway
from billing.answers import LockedOut
from billing.errors import Refused
from billing.models import CreditNote, Invoice, InvoiceLine, Payment, Refund, SyncCursor
from billing.outages import freezing, reconcile, strays
from billing.outages.findings import Reconciliation
from billing.outages.models import Grant, Incident, Pause
from billing.outages.reconcile import Difference, Report
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import OPERATOR_AGENCY, Agency

log = logging.getLogger(__name__)

DAILY: Final = "daily"
HOURLY: Final = "hourly"
PERIODS: Final = {HOURLY: timedelta(hours=1), DAILY: timedelta(days=1)}
AFTER_TROUBLE: Final = timedelta(minutes=10)
LOOKED_BACK: Final = timedelta(days=90)
IN_MOTION: Final = timedelta(minutes=10)
"""What Stripe changed since then may not have reached us yet: it is judged the next time."""
AGAIN_AFTER: Final = 2.0
"""Seconds until a difference is looked at again: what is just being written down is none."""
AT_MOST: Final = timedelta(hours=1)
"""Whoever has compared for so long has died."""
_TURN: Final = 7_303
"""The advisory lock of whoever sees whether something is due."""
TOUCHING: Final = frozenset({"invoice", "invoice line", "payment", "refund", "credit note", "dispute"})


def of_incident(house: House, incident_id: str) -> Report:
    """Compare one incident, and keep what was found. Raises `NotFound`, `Unavailable`."""
    first = reconcile.reconcile(house, incident_id)
    return _kept(house, _confirmed(first, lambda: reconcile.reconcile(house, incident_id)))


def of_everything(house: House) -> Report:
    """Compare all incidents, and the whole mirror where something was made in 90 days; keep what was found.

    What changed in Stripe within ten minutes is left for the next time, unless it says that it is ours.
    """
    return _kept(house, _confirmed(_everything(house), lambda: _everything(house)))


def oldest_due() -> sa.Select[Any]:
    """`(when the next comparison is due, now)`."""
    dues = [_due(scope).scalar_subquery() for scope in PERIODS]
    return sa.select(sa.func.least(*dues), sa.func.clock_timestamp())


def compare_due(house: House) -> int:
    """What is due by the clock; returns how many comparisons were made. Safe to run anywhere, any number at once."""
    made = 0
    for scope in PERIODS:
        begun = _begin(house, scope)
        if begun is None:
            continue
        try:
            objects = _carry_out(house, scope)
        except Refused as refusal:
            log.warning("The books cannot be compared yet: %s", refusal)
            _end(house, begun, trouble=str(refusal))
        else:
            _end(house, begun, objects=objects)
            made += 1
    return made


def _carry_out(house: House, scope: str) -> int:
    if scope == DAILY:
        return sum(of_everything(house).checked.values())
    with house.database.work(OPERATOR) as session:
        incidents = list(session.scalars(_under_way()))
    return sum(objects for one in incidents for objects in of_incident(house, one).checked.values())


def _due(scope: str) -> sa.Select[Any]:
    """A period after the last one that came to its end, or after the first agency was made."""
    rows = sa.select(Reconciliation).where(Reconciliation.scope == scope).subquery()
    alive = sa.or_(rows.c.ended_at.is_not(None), rows.c.begun_at > sa.func.clock_timestamp() - AT_MOST)
    last = sa.select(sa.func.max(rows.c.begun_at)).where(rows.c.trouble.is_(None), alive).scalar_subquery()
    tried = sa.select(sa.func.max(rows.c.begun_at)).scalar_subquery()
    first = sa.select(sa.func.min(Agency.created_at)).scalar_subquery()
    due = sa.func.coalesce(last, first) + PERIODS[scope]
    return sa.select(sa.func.greatest(due, tried + AFTER_TROUBLE))


def _begin(house: House, scope: str) -> int | None:
    """The row of a comparison that is this worker's, None where none is due."""
    with house.database.work(OPERATOR) as session:
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN)))
        due, now = session.execute(sa.select(_due(scope).scalar_subquery(), sa.func.clock_timestamp())).one()
        if due is None or due > now:
            return None
        begun = Reconciliation(scope=scope)
        session.add(begun)
        session.flush()
        return begun.id


def _end(house: House, id: int, **facts: Any) -> None:
    with house.database.work(OPERATOR) as session:
        ended = facts if "trouble" in facts else facts | {"ended_at": sa.func.clock_timestamp()}
        session.execute(sa.update(Reconciliation).where(Reconciliation.id == id).values(**ended))


def _under_way() -> sa.Select[str]:
    """Incidents that hold something, or of which a grant was settled within a day."""
    lately = sa.or_(Grant.settled_at.is_(None), Grant.settled_at > sa.func.now() - timedelta(days=1))
    granted = sa.exists().where(Grant.incident_id == Incident.id, lately)
    held = sa.exists().where(Pause.incident_id == Incident.id, Pause.state.in_(("planned", "held", "releasing")))
    return sa.select(Incident.id).where(sa.or_(granted, held)).order_by(Incident.id)


def _everything(house: House) -> Report:
    since = house.clock.now() - LOOKED_BACK
    report = reconcile.of_all(house, since, DAILY)
    checked, found = Counter(report.checked), list(report.differences)
    odd = {one.id for one in found}
    with house.database.work(OPERATOR) as session:
        accounts = list(session.scalars(sa.select(SyncCursor.stripe_account).order_by(SyncCursor.stripe_account)))
        checked["payments"] = session.scalar(sa.select(sa.func.count()).select_from(Payment)) or 0
    for account in accounts:
        try:
            found += [one for one in _of_mirror(house, account, since) if one.id not in odd]
        except LockedOut as refusal:
            if not account:
                raise
            found.append(Difference(f"Mirror of {account}", "something there", f"no access: {refusal}"))
    return replace(report, checked=checked, differences=found)


def _of_mirror(house: House, account: str, since: datetime) -> list[Difference]:
    """What the mirror of one account has otherwise than Stripe, less what is in motion."""
    connection = gateway.connect(house, account)
    moving = {event.object_id for event in connection.events(created_from=house.clock.now() - IN_MOTION)}
    found = []
    for one in check.check(house, account, since):
        told = Difference(f"{one.kind} {one.id}", f"{one.what} {one.here}", one.there, one.id)
        if one.kind in TOUCHING:
            told = replace(told, invoices=_touched(house, connection, one))
        if not moving & {one.id, *told.invoices}:
            found.append(told)
    return found


def _touched(house: House, connection: gateway.Gateway, one: check.Difference) -> frozenset[str]:
    """The invoices that an object of the mirror, or one that is missing there, is of."""
    with house.database.work(OPERATOR) as session:
        known = _known(session, one)
    if known or one.here != check.MISSING or one.kind not in ("refund", "credit note", "dispute"):
        return known
    if one.kind == "credit note":
        return frozenset([connection.credit_note(one.id).invoice_id])
    fact = connection.refund(one.id) if one.kind == "refund" else connection.dispute(one.id)
    with house.database.work(OPERATOR) as session:
        return frozenset(invoice_id for _, invoice_id in strays.invoices_of(session, fact))


def _known(session: Session, one: check.Difference) -> frozenset[str]:
    if one.kind == "invoice":
        return frozenset([one.id])
    if one.kind == "refund":
        same = sa.or_(Payment.payment_intent == Refund.payment_intent, Payment.charge == Refund.charge)
        return frozenset(session.scalars(sa.select(Payment.invoice_id).join(Refund, same).where(Refund.id == one.id)))
    table: Any = {"invoice line": InvoiceLine, "payment": Payment, "credit note": CreditNote}.get(one.kind)
    if table is None:
        return frozenset()
    return frozenset(session.scalars(sa.select(table.invoice_id).where(table.id == one.id)))


def _confirmed(first: Report, look: Any) -> Report:
    """What differs at two looks, and in the same way: what is under way differs at one."""
    if not first.differences:
        return first
    time.sleep(AGAIN_AFTER)  # an answer of Stripe takes a moment to its row, and nobody tells when it is there
    second: Report = look()
    before = set(first.differences)
    return replace(second, differences=[one for one in second.differences if one in before])


def _kept(house: House, report: Report) -> Report:
    told = [one.to_json() for one in report.differences]

    def write(session: Session) -> None:
        session.add(
            Reconciliation(
                scope=report.scope, ended_at=sa.func.clock_timestamp(), objects=sum(report.checked.values()),
                differences=told, explained=report.explained(),
            )
        )  # fmt: skip
        freezing.freeze(session, _to_freeze(session, report.differences))

    house.database.retried(OPERATOR, write)
    return report


def _to_freeze(session: Session, differences: Iterable[Difference]) -> list[tuple[int, str, str]]:
    touched = [(invoice, one.sentence()) for one in differences for invoice in one.invoices]
    owners = dict(
        session.execute(
            sa.select(Invoice.id, Invoice.agency_id).where(Invoice.id.in_({invoice for invoice, _ in touched}))
        ).all()
    )
    return [(owners.get(invoice, OPERATOR_AGENCY), invoice, reason) for invoice, reason in touched]
