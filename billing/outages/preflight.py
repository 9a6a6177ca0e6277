"""Before the first grant of a run: does the key open the account that was mirrored, in its mode, with what it takes?

Each call is a read. That the key may also write is shown by the run's first grant, which goes out alone.
"""

from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import circuits, gateway
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable
from billing.outages import ramp, switch
from billing.outages.models import Grant, Run
from billing.outages.waits import LATER
from tenants.db import OPERATOR, after_commit, prepared
from tenants.house import House

LEASE: Final = timedelta(seconds=60)


def look_due(house: House, limit: int) -> int:
    """Look at up to `limit` runs that wait for it. Safe to run anywhere, any number of times at once."""
    with house.database.work(OPERATOR) as session:
        runs = session.scalars(_due(), {"most": limit}).all()
        for run in runs:
            run.look_at = sa.func.clock_timestamp() + LEASE
        wanted = [(run.agency_id, run.id, *_subject(session, run)) for run in runs]
    of_accounts: dict[str, str | None] = {}
    for agency_id, run_id, account, invoice_id in wanted:
        try:
            if account not in of_accounts:
                of_accounts[account] = _wrong_account(house, account)
            wrong = of_accounts[account] or _wrong_invoice(house, account, invoice_id)
        except LockedOut as refusal:
            wrong = str(refusal)
        except (Unreachable, ReadRefused):
            with house.database.work(OPERATOR) as session:
                _of(session, agency_id, run_id).look_at = sa.func.clock_timestamp() + LATER
            continue
        with house.database.work(OPERATOR) as session:
            _ended(session, _of(session, agency_id, run_id), wrong)
    return len(wanted)


@prepared
def _due() -> sa.Select[Run]:
    first = sa.select(Run).where(is_due()).order_by(Run.look_at, Run.id).limit(sa.bindparam("most"))
    return first.with_for_update(skip_locked=True)


def is_due() -> sa.ColumnElement[bool]:
    """Of a Run: that it is to be looked at now."""
    return sa.and_(waits(), Run.look_at <= sa.func.clock_timestamp(), ~_is_left_alone())


def waits() -> sa.ColumnElement[bool]:
    """Of a Run: that nothing of it may be sent before it was looked at."""
    halted = switch.is_off(Run.incident_id, switch.account_of(Run.agency_id))
    return sa.and_(Run.state == "running", Run.opened_to == 0, ~halted)


def oldest_due() -> sa.Select[Any]:
    """When the next run is to be looked at, and what time it is."""
    looked_at = sa.func.min(Run.look_at).filter(waits(), ~_is_left_alone())
    return sa.select(looked_at, sa.func.clock_timestamp())


def _is_left_alone() -> sa.ColumnElement[bool]:
    return circuits.is_open(switch.account_of(Run.agency_id))


def _subject(session: Session, run: Run) -> tuple[str, str | None]:
    """The run's account, and an invoice that it gives something back of."""
    account = session.scalar(sa.select(switch.account_of(Run.agency_id)).where(Run.id == run.id)) or ""
    of_run = sa.select(Grant.invoice_id).where(Grant.agency_id == run.agency_id, Grant.run_id == run.id)
    return account, session.scalar(of_run.order_by(Grant.id).limit(1))


def _of(session: Session, agency_id: int, run_id: str) -> Run:
    return session.scalars(sa.select(Run).where(Run.agency_id == agency_id, Run.id == run_id).with_for_update()).one()


def _wrong_account(house: House, account: str) -> str | None:
    connection = gateway.connect(house, account)
    found = connection.account_fact().id
    if account and found != account:
        return f"The key opens {found}, and this agency's account is {account}."
    if connection.is_live() != house.settings.live:
        return "Stripe says that the key is not of the mode that its name says."
    connection.may_read_refunds()
    return None


def _wrong_invoice(house: House, account: str, invoice_id: str | None) -> str | None:
    if invoice_id is None:
        return None
    try:
        gateway.connect(house, account).invoice(invoice_id)
    except Gone:
        return f"The account that the key opens has no invoice {invoice_id}: is it another account?"
    return None


def _ended(session: Session, run: Run, wrong: str | None) -> None:
    if run.state != "running" or run.opened_to != 0:
        return
    if wrong is not None:
        ramp.halt(session, run, f"Before anything was sent: {wrong}")
        return
    run.opened_to = 1
    after_commit(session, "outages.send", run.incident_id)
