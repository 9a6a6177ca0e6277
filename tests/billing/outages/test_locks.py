"""Whoever changes an incident, or what an agency wants, keeps no worker waiting that only refers to the same rows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.models import Customer
from billing.money import Money
from billing.outages import automatic, damages, incidents, settlements, settling, updates
from billing.outages.messages import wording
from tenants import policy
from tenants.db import OPERATOR
from tenants.models import Agency
from tests.billing.outages.august import RESOLVED, August
from tests.webhooks.hooks import THIS_MACHINE
from webhooks import endpoints

SOON: Final = 5.0
"""Seconds; a lock is waited for twice as long."""


def resolves(session: Session, august: August, incident: str, now: datetime) -> None:
    incidents.resolve(session, now, incident, august.finance, "test")


def publishes(session: Session, august: August, incident: str, now: datetime) -> None:
    updates.publish(session, now, incident, august.finance, "Still going on.", "test")


def enters_a_loss(session: Session, august: August, incident: str, now: datetime) -> None:
    customer, loss = session.scalars(sa.select(Customer.id)).one(), Money(4_500, "usd")
    damages.report(session, now, incident, customer, loss, "Boosts", august.finance, "test", form="one")


def settles(session: Session, august: August, incident: str, now: datetime) -> None:
    settling.settle(session, now, incident)


def sets_a_limit(session: Session, august: August, incident: str, now: datetime) -> None:
    automatic.set_limit(session, now, agency(session, august), "usd", 1, 1, august.approver, "test")


def sets_a_policy(session: Session, august: August, incident: str, now: datetime) -> None:
    policy.set_policy(session, now, agency(session, august), {"gap": 60}, august.finance, "test")


def saves_words(session: Session, august: August, incident: str, now: datetime) -> None:
    wording.save(session, agency(session, august), "declared", "", "", august.finance, "test")


def adds_an_endpoint(session: Session, august: August, incident: str, now: datetime) -> None:
    url = "https://127.0.0.1/hooks"
    endpoints.add(session, agency(session, august), url, august.finance, "test", THIS_MACHINE)


def agency(session: Session, august: August) -> Agency:
    return session.get_one(Agency, august.agency.id)


@pytest.mark.parametrize(
    "act",
    [resolves, publishes, enters_a_loss, settles, sets_a_limit, sets_a_policy, saves_words, adds_an_endpoint],
)
def test_what_is_found_meanwhile_is_noted_at_once(
    august: August, act: Callable[[Session, August, str, datetime], None]
) -> None:
    """A worker that has the rows which these wait for, and waits for theirs, would end as a deadlock."""
    incident = august.declare()

    def note() -> None:
        with august.db.work(OPERATOR) as session:
            settlements.at_once(session, august.agency.id, incident)

    with ThreadPoolExecutor(1) as pool, august.db.work(OPERATOR) as session:
        act(session, august, incident, RESOLVED)
        pool.submit(note).result(SOON)
    assert august.rows("SELECT incident_id FROM settlements") == [(incident,)]
