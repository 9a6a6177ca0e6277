"""The switch: whether anything may be sent to Stripe, at all, for one account, or for one incident.

Whoever is about to call Stripe has seen the switch on at most `FRESH` seconds before: in the transaction that commits
the attempt, and again where anything held it up since. So nothing begins later than that after a turn has committed.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from billing.outages.models import Control
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency

EVERYTHING: Final = "everything"
"""The scope that a person turns. '' is the engine's own, after an older database came back."""
FRESH: Final = 0.5
"""Seconds for which having seen the switch on is good."""

_Word = sa.ColumnElement[str] | InstrumentedAttribute[str] | InstrumentedAttribute[str | None] | str


def of_incident(incident_id: str) -> str:
    return f"incident:{incident_id}"


def of_account(account: str) -> str:
    """`account` is '' for the operator's own."""
    return f"account:{account}"


def is_off(incident_id: _Word, account: _Word | None = None) -> sa.ColumnElement[bool]:
    """In a query: whether nothing may be sent for this incident (on this account)."""
    scopes = ["", EVERYTHING, sa.literal("incident:").concat(incident_id)]
    if account is not None:
        scopes.append(sa.literal("account:").concat(account))
    return sa.exists().where(Control.scope.in_(scopes), ~Control.sending).correlate_except(Control)


def account_of(agency_id: InstrumentedAttribute[int]) -> sa.ColumnElement[str]:
    """In a query: the Stripe account of an agency, '' being the operator's."""
    of_agency = sa.select(sa.func.coalesce(Agency.stripe_account, "")).where(Agency.id == agency_id)
    return of_agency.correlate_except(Agency).scalar_subquery()


def turn(session: Session, scope: str, reason: str, by: str, *, sending: bool) -> None:
    """From the commit on, nothing is sent in this scope, or it is again. Safe to repeat."""
    facts = {"sending": sending, "reason": reason, "by": by}
    session.execute(
        insert(Control)
        .values(scope=scope, **facts)
        .on_conflict_do_update(index_elements=["scope"], set_={**facts, "at": sa.func.clock_timestamp()})
    )
    session.expire_all()


def may_send(house: House, incident_id: str, account: str) -> bool:
    """Whether a call for this incident may begin now. Good for `FRESH` seconds."""
    with house.database.work(OPERATOR) as session:
        return not session.scalar(sa.select(is_off(incident_id, account)))
