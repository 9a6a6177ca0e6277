"""Whether an account's balance in Stripe carries what is to go back, and who waits while it does not.

Without money a card's refund waits at Stripe, and any other refund fails at once (https://docs.stripe.com/refunds). So
the balance is read beforehand, for people to see; and once Stripe says that money is lacking, what has not been sent
waits here, until the balance carries it. Nobody has to start it again. Credits and reductions need no money.

Amounts are integers of the currency's smallest Stripe unit; an account is '' where it is the key's own.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing import gateway
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable
from billing.facts import RefundFact
from billing.models import Refund
from billing.money import Money, plain
from billing.outages import switch
from billing.outages.findings import Shortage
from billing.outages.models import Grant, Run, Step
from tenants import audit
from tenants.db import OPERATOR, after_commit, prepared
from tenants.house import House
from tenants.models import Agency

PATIENCE: Final = 3
"""Refunds of one account that Stripe may leave waiting for money before we send it no more of them."""
LOOK_EVERY: Final = timedelta(seconds=60)
TRY_EVERY: Final = timedelta(hours=1)
"""Where no balance says whether it suffices: each time one refund or a few more may fail, and become credits."""
LACKS: Final = "insufficient_funds"
AT_ONCE: Final = 8
_UNREAD: Final = (Unreachable, LockedOut, ReadRefused, Gone)


@dataclass(frozen=True)
class Need:
    """What refunds take of one account's balance: `refunds` those in question, `queued` those approved before them."""

    account: str
    currency: str
    refunds: int
    queued: int = 0


@dataclass(frozen=True)
class Outlook:
    """A need beside the balance. `available` and `lacking` are None where Stripe cannot say, or keeps the account in
    another currency."""

    account: str
    currency: str
    refunds: int
    queued: int
    available: int | None

    @property
    def lacking(self) -> int | None:
        return None if self.available is None else max(0, self.refunds + self.queued - self.available)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"lacking": self.lacking}

    def in_words(self) -> str:
        whose = f" of {self.account}" if self.account else ""
        wanted = plain(Money(self.refunds + self.queued, self.currency))
        if self.available is None:
            return f"Stripe's balance{whose} in {self.currency.upper()} cannot be seen; refunds take {wanted} of it."
        has = f"Stripe's balance{whose} is {plain(Money(self.available, self.currency))}, refunds take {wanted}"
        if not self.lacking:
            return f"{has}: it carries them."
        return (
            f"{has}: {plain(Money(self.lacking, self.currency))} are lacking. Top it up; what it does not carry waits,"
            " and goes on by itself."
        )


def needs(session: Session, refunds: Iterable[tuple[int, str, int]]) -> list[Need]:
    """What these refunds, `(agency, currency, amount)`, take of which account, and what is in line there already."""
    accounts = dict(session.execute(sa.select(Agency.id, sa.func.coalesce(Agency.stripe_account, ""))).all())
    wanted: defaultdict[tuple[str, str], int] = defaultdict(int)
    for agency_id, currency, amount in refunds:
        wanted[accounts.get(agency_id, ""), currency] += amount
    queued = _queued(session)
    return [Need(*where, amount, queued.get(where, 0)) for where, amount in sorted(wanted.items()) if amount]


def needs_of_waiting(session: Session, incident_id: str) -> list[Need]:
    """What the runs of an incident that wait for an approval would take."""
    waiting = (
        sa.select(Grant.agency_id, Grant.currency, sa.func.sum(Grant.refund))
        .join(Run, sa.and_(Run.agency_id == Grant.agency_id, Run.id == Grant.run_id))
        .where(Run.incident_id == incident_id, Run.state == "waiting", Grant.state == "planned")
        .group_by(Grant.agency_id, Grant.currency)
    )
    return needs(session, ((agency, currency, int(amount)) for agency, currency, amount in session.execute(waiting)))


def outlook(house: House, wanted: Sequence[Need]) -> list[Outlook]:
    """Each need beside what Stripe has at hand now. Never raises for Stripe: what it does not say is None."""

    def balance(account: str) -> dict[str, int]:
        try:
            return gateway.connect(house, account).available_balance()
        except _UNREAD:
            return {}

    accounts = sorted({need.account for need in wanted})
    if not accounts:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(accounts)), "balance") as pool:
        found = dict(zip(accounts, pool.map(balance, accounts), strict=True))
    return [Outlook(**asdict(need), available=found[need.account].get(need.currency)) for need in wanted]


def waits() -> sa.ColumnElement[bool]:
    """Of a Step: that it would take money which its account lacks."""
    return sa.and_(
        Step.refund > 0,
        sa.exists().where(
            Shortage.account == Step.stripe_account, Shortage.currency == Step.currency, Shortage.holds
        ),
    )  # fmt: skip


def lacked(refund: RefundFact) -> bool:
    """Whether Stripe had no money for it."""
    return LACKS in (refund.pending_reason if refund.status == "pending" else None, refund.failure_reason)


def ran_short(session: Session, step: Step, refund: RefundFact) -> None:
    """Stripe had no money for this step's refund: a few of them, or one that failed for it, and the rest waits."""
    failed = refund.status != "pending"
    now = sa.func.clock_timestamp()
    row = insert(Shortage).values(
        account=step.stripe_account, currency=step.currency, refused=1, failed=failed, holds=failed, since=now,
        due_at=now,
    )  # fmt: skip
    again = row.on_conflict_do_update(
        index_elements=["account", "currency"],
        set_={
            "refused": Shortage.refused + 1,
            "failed": sa.or_(Shortage.failed, sa.literal(failed)),
            "holds": sa.or_(Shortage.holds, sa.literal(failed), Shortage.refused + 1 >= PATIENCE),
        },
    )
    held_before = session.scalar(
        sa.select(Shortage.holds).where(Shortage.account == step.stripe_account, Shortage.currency == step.currency)
    )
    holds = session.scalar(again.returning(Shortage.holds).execution_options(synchronize_session=False))
    if holds and not held_before:
        facts = {"account": step.stripe_account, "currency": step.currency}
        audit.record(session, "engine", "worker", "funds.lacking", step.stripe_account or "own account", after=facts)


def look_due(house: House, limit: int) -> int:
    """Look whether the money came, for up to `limit` balances that lack some. Safe to run anywhere, at any time."""
    now = sa.func.clock_timestamp()
    with house.database.work(OPERATOR) as session:
        rows = session.scalars(_due(), {"most": limit}).all()
        for row in rows:
            row.due_at = now + LOOK_EVERY
        looked_at = [(row.account, row.currency) for row in rows]
    for account, currency in looked_at:
        try:
            balance = gateway.connect(house, account).available_balance()
        except _UNREAD:
            continue
        with house.database.work(OPERATOR) as session:
            _judge(session, account, currency, balance)
    return len(looked_at)


@prepared
def _due() -> sa.Select[Shortage]:
    due = sa.select(Shortage).where(Shortage.due_at <= sa.func.clock_timestamp())
    return due.limit(sa.bindparam("most")).with_for_update(skip_locked=True)


def oldest_due() -> sa.Select[Any]:
    """When the next balance is to be looked at, and what time it is."""
    return sa.select(sa.func.min(Shortage.due_at), sa.func.clock_timestamp())


def lacking(session: Session, incident_id: str) -> list[dict[str, Any]]:
    """The balances that hold up refunds of this incident, as they were when they were last looked at."""
    of_incident = sa.exists().where(
        Grant.incident_id == incident_id, Step.agency_id == Grant.agency_id, Step.grant_id == Grant.id, Step.refund > 0,
        Step.state.in_(("approved", "pending")), Step.stripe_account == Shortage.account,
        Step.currency == Shortage.currency,
    )  # fmt: skip
    found = session.scalars(sa.select(Shortage).where(of_incident).order_by(Shortage.account, Shortage.currency))
    return [
        Outlook(row.account, row.currency, 0, _waiting(session).get((row.account, row.currency), 0), row.available)
        .to_json() | {"holds": row.holds}
        for row in found
    ]  # fmt: skip


def lacking_in_words(entries: Sequence[dict[str, Any]]) -> list[str]:
    told = []
    for one in entries:
        whose = f" of {one['account']}" if one["account"] else ""
        waits_for_it = plain(Money(one["queued"], one["currency"]))
        told.append(
            f"Stripe has too little money{whose} in {one['currency'].upper()}: {waits_for_it} wait for it. Top up the"
            " balance; the refunds go on by themselves."
        )
    return told


def _judge(session: Session, account: str, currency: str, balance: Mapping[str, int]) -> None:
    """Go on when the balance carries all that waits, or when Stripe itself has sent all that it had left waiting.

    An account that is kept in other currencies does not say what it carries: it is tried, if it has any money.
    """
    row = session.get(Shortage, (account, currency), with_for_update=True)
    if row is None:
        return
    available = balance.get(currency)
    pending = sa.and_(Step.stripe_account == account, Step.currency == currency, Step.state == "pending")
    carries = available is not None and available >= _waiting(session).get((account, currency), 0)
    has_other = available is None and any(amount > 0 for amount in balance.values())
    tries = row.failed and has_other and _is_long_ago(session, row)
    lost = row.failed and not tries
    if not carries and (lost or session.scalar(sa.select(sa.exists().where(pending, _waits_at_stripe())))):
        row.available = available
        return
    session.execute(
        sa.update(Step)
        .where(pending, Step.refund > 0)
        .values(due_at=sa.func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )
    if row.holds:
        facts = {"account": account, "currency": currency, "available": available}
        what = "funds.tried" if tries else "funds.suffice"
        audit.record(session, "engine", "worker", what, account or "own account", after=facts)
        after_commit(session, "outages.send", account)
    session.delete(row)


def _is_long_ago(session: Session, row: Shortage) -> bool:
    now: datetime = session.scalars(sa.select(sa.func.clock_timestamp())).one()
    return now >= row.since + TRY_EVERY


def _waits_at_stripe() -> sa.ColumnElement[bool]:
    """Of a pending Step: that Stripe has its refund, and lacks the money for it."""
    return sa.exists().where(
        Refund.agency_id == Step.agency_id, Refund.id.in_((Step.refund_id, Step.stripe_id)), Refund.status == "pending",
        Refund.pending_reason == LACKS,
    )  # fmt: skip


def _waiting(session: Session) -> dict[tuple[str, str], int]:
    """As `_queued`, without what somebody halted: that waits for a person, and would not go out with the money."""
    halted = sa.exists().where(
        Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id, Run.agency_id == Grant.agency_id,
        Run.id == Grant.run_id,
        sa.or_(Run.state == "halted", switch.is_off(Grant.incident_id, Step.stripe_account)),
    )  # fmt: skip
    return _queued(session, sa.or_(Step.state == "pending", ~halted))


def _queued(session: Session, *which: sa.ColumnElement[bool]) -> dict[tuple[str, str], int]:
    """Per account and currency: what approved runs have yet to send, and what waits at Stripe for money."""
    waits = sa.or_(Step.state == "approved", sa.and_(Step.state == "pending", _waits_at_stripe()))
    rows = session.execute(
        sa.select(Step.stripe_account, Step.currency, sa.func.sum(Step.refund))
        .where(Step.refund > 0, waits, *which)
        .group_by(Step.stripe_account, Step.currency)
    )
    return {(account, currency): int(amount) for account, currency, amount in rows}
