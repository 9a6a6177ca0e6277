"""The invariants, held against the rows every minute; and what stands still because of what the engine found.

Whichever worker comes first looks, on whatever machine. A breach that was not there a minute ago stops by itself what
it concerns: the grants of one invoice, of one incident, or everything. A person who has looked lets it go on; a breach
that is known by then stops nothing again.
"""

import logging
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.errors import Conflict
from billing.models import Payment
from billing.outages import freezing, invariants, switch
from billing.outages.findings import Frozen, Reconciliation
from billing.outages.invariants import Breach
from billing.outages.models import Control
from billing.windows import iso
from tenants import audit
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency

log = logging.getLogger(__name__)

EVERY: Final = timedelta(minutes=1)
SCOPE: Final = "invariants"
US: Final = "invariants"
_TURN: Final = 7_302
"""The advisory lock of whoever looks: the others need not."""


class Broken(Conflict):
    """What must always hold does not: look at each sentence."""

    code = "broken"

    def __init__(self, breaches: list[Breach]) -> None:
        super().__init__("\n".join(breach.sentence() for breach in breaches))


def oldest_due() -> sa.Select[Any]:
    """`(when the next look is due, now)`."""
    last = sa.select(sa.func.max(Reconciliation.ended_at)).where(Reconciliation.scope == SCOPE).scalar_subquery()
    return sa.select(sa.func.coalesce(last + EVERY, sa.func.clock_timestamp()), sa.func.clock_timestamp())


def check_due(house: House) -> int:
    """Look, if nobody did within a minute; returns 1 for a look. Safe to run anywhere, any number of times at once."""
    with house.database.work(OPERATOR) as session:
        if not session.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(_TURN))):
            return 0
        due, now = session.execute(oldest_due()).one()
        if due > now:
            return 0
        check(session)
    return 1


def check(session: Session) -> list[Breach]:
    """Every breach there is now; what is new is written down, and stops what it concerns from the commit on."""
    found = invariants.breaches(session)
    last = session.scalar(
        sa.select(Reconciliation).where(Reconciliation.scope == SCOPE).order_by(Reconciliation.id.desc()).limit(1)
    )
    told = [breach.to_json() for breach in found]
    if last is None or last.differences != told:
        known = last.differences if last is not None else []
        rules = len(invariants.INVARIANTS)
        session.add(Reconciliation(scope=SCOPE, ended_at=sa.func.clock_timestamp(), objects=rules, differences=told))
        _stop(session, [breach for breach in found if breach.to_json() not in known])
    else:
        last.ended_at = sa.func.clock_timestamp()
    return found


def _stop(session: Session, breaches: list[Breach]) -> None:
    for breach in breaches:
        log.error("An invariant is broken: %s", breach.sentence())
        kind, _, name = breach.stops.partition(":")
        if kind == "payment":
            invoices = session.execute(sa.select(Payment.agency_id, Payment.invoice_id).where(Payment.id == name))
            freezing.freeze(session, ((row.agency_id, row.invoice_id, breach.sentence()) for row in invoices))
        elif kind == "invoice":
            freezing.freeze(session, [(breach.agency_id, name, breach.sentence())])
        elif kind != "nothing":
            _switch_off(session, breach.stops or switch.EVERYTHING, breach.sentence())


def _switch_off(session: Session, scope: str, reason: str) -> None:
    facts = {"sending": False, "reason": reason, "by": US}
    stopped = session.execute(
        insert(Control)
        .values(scope=scope, **facts)
        .on_conflict_do_update(
            index_elements=["scope"], set_={**facts, "at": sa.func.clock_timestamp()}, where=Control.sending.is_(True)
        )
        .returning(Control.scope)
    ).first()
    if stopped is not None:
        subject = scope.removeprefix("incident:")
        audit.record(session, "engine", "worker", "sending.stopped", subject, after={"reason": reason})


def shown(session: Session, limit: int = 50) -> dict[str, list[dict[str, Any]]]:
    """What stands still and why, which rules are broken, and how the books last compared, scope by scope."""
    stops = session.scalars(sa.select(Control).where(~Control.sending).order_by(Control.scope)).all()
    frozen = session.execute(
        sa.select(Frozen, Agency.slug)
        .join(Agency, Agency.id == Frozen.agency_id)
        .where(Frozen.lifted_at.is_(None))
        .order_by(Frozen.invoice_id, Frozen.id)
        .limit(limit)
    )
    newest = sa.select(sa.func.max(Reconciliation.id)).group_by(Reconciliation.scope)
    last = session.scalars(
        sa.select(Reconciliation).where(Reconciliation.id.in_(newest)).order_by(Reconciliation.id.desc()).limit(limit)
    )
    return {
        "stops": [
            {"scope": one.scope, "reason": one.reason, "by": one.by, "since": iso(one.at)} for one in stops
        ],
        "frozen": [
            {"invoice": one.invoice_id, "agency": slug, "reason": one.reason, "since": iso(one.frozen_at)}
            for one, slug in frozen
        ],
        "books": [
            {
                "scope": one.scope, "at": iso(one.ended_at or one.begun_at), "ended": one.ended_at is not None,
                "trouble": one.trouble, "objects": one.objects, "differences": one.differences,
                "explained": one.explained,
            }
            for one in last
        ],
    }  # fmt: skip
