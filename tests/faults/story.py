"""A short outage in acts, each of which a process can die in and another take up: whoever was at work does it again.

Nine customers of `sandbox.cases`, and one who pays by the day, so that a held renewal is lost whole. The first one's
refunds stay under way for a while, and one's bank begins a dispute that nobody knows of when Stripe is asked for the
refund.
"""

import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import following, importing
from billing.errors import PlanChanged, Refused
from billing.models import Plan
from billing.outages import approvals, due, incidents, queries, tasks
from billing.outages.decisions import Retirement
from billing.outages.models import Attempt, HeldInvoice, Incident, Pause, Run, Step
from billing.outages.planning import Declaration
from billing.outages.waits import TWICE_APART
from sandbox import story
from sandbox.calls import Api
from sandbox.cases import CASES, OUTAGE, RESOLVED, Case, World
from tenants.clock import SandboxClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tenants.settings import read
from tests.faults import points
from webhooks import inbox
from webhooks import tasks as webhook_tasks
from webhooks.models import InboxEvent

KEY: Final = "sk_test_story"
CAST: Final = (
    "plain", "weekly", "two payments", "part balance", "past due", "out of band", "refund refused", "own pause",
    "tax on top",
)  # fmt: skip


def _daily(world: World, customer: str) -> None:
    world.prices["pages", "usd", "day"] = world.api.post(
        "/v1/prices", product=world.api.get(f"/v1/prices/{world.prices['pages', 'usd', 'month']}")["product"],
        currency="usd", unit_amount=240, recurring={"interval": "day"},
    )["id"]  # fmt: skip
    world.subscribe(customer, "pages", "usd", "day")


DAILY: Final = Case(
    # 2.40 for 26 August, of which the 14 h until 14:00 are 1.40 and the rest 1.00. 27, 28 and 29 August are drafts and
    # lost whole: voided, without a note. Of 30 August 8 h are 0.80.
    "daily", "Held renewals that are lost whole are voided",
    ((datetime(2019, 8, 26, tzinfo=UTC), _daily),),
    {"refund": 140}, {"refund": 100, "reduce": 80},
)  # fmt: skip
DISPUTED: Final = "own pause"
OTHERWISE: Final[dict[str, dict[str, Any]]] = {
    "plain": {"card": "pm_card_pendingRefund"},
    DISPUTED: {"first": {}, "second": {"refund": 750}},  # its 3.75 wait until the bank has decided for us
}
ALL: Final = (*(replace(case, **OTHERWISE.get(case.name, {})) for case in CASES if case.name in CAST), DAILY)


def begin(house: House, api: Api) -> World:
    """Everything that was there before anybody declared."""
    world = story.tell(api, len(ALL), cases=ALL)
    importing.import_account(house, "")
    with house.database.work(OPERATOR) as session:
        session.add_all([Member(email=f"{role}@example.com", role=role) for role in ("finance", "approver")])
    return world


def house_at(database_url: str, stripe_url: str) -> House:
    settings = read({"DATABASE_URL": database_url, "STRIPE_API_BASE": stripe_url, "STRIPE_SECRET_KEY": KEY})
    return House(settings, Database(database_url), SandboxClock(stripe_url))


def declare(house: House) -> None:
    with house.database.work(OPERATOR) as session:
        if session.scalar(sa.select(Incident.id)) is None:
            declaration = Declaration("facebook", OUTAGE)
            incidents.declare(session, house.clock.now(), declaration, _member(session, "finance"), "test")


def approve(house: House) -> None:
    while fingerprint := _waits(house):
        with suppress(PlanChanged), house.database.work(OPERATOR) as session:
            by = _member(session, "approver")
            approvals.approve(session, house.clock.now(), _incident(session), by, fingerprint, "test")


def resolve(house: House) -> None:
    with house.database.work(OPERATOR) as session:
        incident = session.get_one(Incident, _incident(session))
        if incident.state == "declared":
            incidents.resolve(session, house.clock.now(), incident.id, _member(session, "finance"), "test", at=RESOLVED)


def work(house: House) -> None:
    """What the workers do: pause, send, release, until nothing of it is left to do."""
    with house.database.work(OPERATOR) as session:
        incident = _incident(session)
    for _ in range(20):
        _time_passes(house)
        tasks.sweep(house, time.monotonic() + 600)
        if due.is_quiet(house, incident):
            return
    raise AssertionError("the workers do not come to an end")


def work_and_ask(house: House) -> None:
    """And the day after they ask how the refunds fare that are under way, and whether the disputes are over."""
    work(house)
    work(house)


def halt_and_continue(house: House) -> None:
    halt(house)
    proceed(house)


def halt(house: House) -> None:
    with suppress(Refused), house.database.work(OPERATOR) as session:
        approvals.halt(session, _incident(session), _member(session, "finance"), "test")


def proceed(house: House) -> None:
    with suppress(Refused), house.database.work(OPERATOR) as session:
        approvals.resume(session, _incident(session), _member(session, "finance"), "test")


def give_up(house: House) -> None:
    with house.database.work(OPERATOR) as session:
        incident = session.get_one(Incident, _incident(session))
        if incident.state == "declared":
            plans = session.scalars(sa.select(Plan)).all()
            other = {(one.currency, one.interval): one.id for one in plans if one.name == "Printed Reports"}
            mixed = ("Facebook and Instagram", "All Networks")
            moves = {one.id: other[one.currency, one.interval] for one in plans if one.name in mixed}
            incidents.retire(
                session, house.clock.now(), incident.id, _member(session, "finance"), "test",
                reason="It is gone for good.", moves=moves,
            )  # fmt: skip


def settle(house: House) -> None:
    """Stripe's events, as a list that is gone through and an inbox that is emptied."""
    following.follow(house, "", inbox.taking("", live=False))
    for _ in range(20):
        _time_passes(house)
        webhook_tasks.sweep(house, time.monotonic() + 600)
        with house.database.work(OPERATOR) as session:
            if session.scalar(sa.select(InboxEvent.id).where(InboxEvent.state == "received").limit(1)) is None:
                return
    raise AssertionError("the inbox does not become empty")


def dispute(world: World) -> None:
    paid = world.invoice(world.customers[DISPUTED])["payments"]["data"][0]["payment"]["payment_intent"]
    world.api.control("disputes", {"payment_intent": paid})


def later(world: World) -> None:
    """The bank decides, and a refund arrives."""
    (disputed,) = world.api.get("/v1/disputes")["data"]
    world.api.control(f"disputes/{disputed['id']}/close", {"outcome": "won"})
    world.api.control("clock", {"now": int((RESOLVED + timedelta(hours=1)).timestamp())})


ACTS: Final[dict[str, Callable[[House], None]]] = {
    "declare": declare, "pause": work, "approve": approve, "grant": work_and_ask, "settle": settle, "resolve": resolve,
    "approve the rest": approve, "release": work, "settle the rest": settle,
    "halt and continue": halt_and_continue, "give up": give_up, "retire": work,
}  # fmt: skip
INSTEAD: Final[dict[str, tuple[str, ...]]] = {
    "halt and continue": ("declare", "approve"), "give up": ("declare",), "retire": ("declare", "pause", "give up"),
}  # fmt: skip
"""What was played before an act that belongs to another ending; before any other, all that stand before it."""
BETWEEN: Final[dict[str, Callable[[World], None]]] = {"grant": dispute, "settle": later}
"""What happens in the world before an act."""


def before(act: str) -> list[str]:
    acts = list(ACTS)
    return list(INSTEAD.get(act, acts[: acts.index(act)]))


def act(
    name: str, database_url: str, stripe_url: str, seen: str, dies_at: str | None = None,
    spares: Collection[str] | None = None,
) -> None:  # fmt: skip
    """Play one act. The points that this process comes to are written to the file `seen`, a line each; at `dies_at`, or
    at the first point that `spares` has not, it ends as by a power cut."""
    told = os.open(seen, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def reached(point: str) -> None:
        os.write(told, f"{point}\n".encode())
        if point == dies_at or (spares is not None and point not in spares):
            os.kill(os.getpid(), signal.SIGKILL)

    _watcher.append(reached)
    if len(_watcher) == 1:
        points.watch(lambda point: _watcher[-1](point))
    if not _house:
        _house.append(house_at(database_url, stripe_url))
    try:
        ACTS[name](_house[0])
    finally:
        _house[0].database.dispose()
        os.close(told)


_watcher: list[Callable[[str], None]] = []
_house: list[House] = []
"""Made once, so that forks inherit the statements that it has compiled; never with a connection."""


def _time_passes(house: House) -> None:
    """The leases of the dead run out, what waits is due, and every attempt was made a while ago.

    Due since one and the same time, so that the order of the work does not depend on how fast a process got how far.
    """
    ago = sa.func.clock_timestamp() - timedelta(seconds=1)
    with house.database.work(OPERATOR) as session:
        for table in (Step, Pause, HeldInvoice, Retirement):
            session.execute(sa.update(table).where(table.lease_until.is_not(None)).values(lease_until=ago))
            session.execute(sa.update(table).values(due_at=OUTAGE))
        session.execute(sa.update(Attempt).values(sent_at=sa.func.least(Attempt.sent_at, ago - TWICE_APART)))
        session.execute(sa.update(Run).where(Run.look_at > OUTAGE).values(look_at=OUTAGE))
        session.execute(sa.update(InboxEvent).where(InboxEvent.state == "received").values(due_at=OUTAGE))


def _incident(session: Session) -> str:
    return session.scalars(sa.select(Incident.id)).one()


def _member(session: Session, role: str) -> Member:
    return session.scalars(sa.select(Member).where(Member.role == role)).one()


def _waits(house: House) -> Any:
    with house.database.work(OPERATOR) as session:
        waiting = session.scalar(sa.select(sa.func.count()).where(Run.state == "waiting"))
        return queries.shown(session, _incident(session))["fingerprint"] if waiting else None
