"""A world for a run of the campaign: a sandbox of its own with so many paid invoices, a database, one approved outage.

Every customer paid 7.00 a week for twenty weeks, and half of each week was lost: 3.50 of each invoice goes back.
"""

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import requests
import sqlalchemy as sa

from billing import importing
from billing.outages import approvals, incidents, queries, reconcile
from billing.outages.invariants import breaches
from billing.outages.models import Attempt, Grant, Run, Step
from billing.outages.planning import Declaration
from sandbox import postgres, truth
from sandbox.calls import Api
from sandbox.seeds import KEY, NEW_YEAR
from tenants.clock import SandboxClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tenants.settings import read
from tenants.upgrade import upgrade
from tests.databases import cloned

ROOT: Final = Path(__file__).resolve().parents[2]
BEGAN: Final = datetime.fromtimestamp(NEW_YEAR, UTC)
HALF: Final = 5_000
MADE: Final = ("pending", "succeeded")
UNFINISHED: Final = ("planned", "approved", "sent", "unknown", "pending")
NOTHING_MOVES_FOR: Final = 60
"""Seconds without any step's moving after which a run counts as stuck: far longer than the longest lease or wait."""
HURRY: Final = 40
"""Leases last 3 seconds in place of 120."""


class Broken(AssertionError):
    """Something that must hold does not."""


@dataclass
class World:
    folder: Path
    urls: postgres.Urls
    stripe: str
    database: Database
    seed: int
    incident: str = ""
    began: float = field(default_factory=time.monotonic)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def api(self) -> Api:
        return Api(self.stripe, KEY)

    @property
    def house(self) -> House:
        environment = {"STRIPE_API_BASE": self.stripe, "STRIPE_SECRET_KEY": KEY, "CLOCK": "sandbox"}
        settings = read(environment | {"DATABASE_URL": self.urls.app})
        return House(settings, self.database, SandboxClock(self.stripe))

    def environment(self, broker: str, **more: str) -> dict[str, str]:
        """Of a worker."""
        return {
            "DATABASE_URL": self.urls.app, "STRIPE_API_BASE": self.stripe, "STRIPE_SECRET_KEY": KEY,
            "CLOCK": "sandbox", "CELERY_BROKER_URL": broker, "QUEUE": f"campaign-{uuid.uuid4().hex}",
            "LOOK_EVERY": "0.2", "HURRY": str(HURRY), "MOST_DEATHS": "1000", "PYTHONWARNINGS": "default",
        } | more  # fmt: skip

    def declare(self, since: timedelta | None = None) -> None:
        """Imported, declared by finance, approved by an approver: everything that follows is the workers'.

        The outage was in all of the time until now, or `since` so long ago.
        """
        importing.import_account(self.house, "")
        now = self.house.clock.now()
        with self.database.work(OPERATOR) as session:
            people = [Member(email=f"{role}@example.com", role=role) for role in ("finance", "approver")]
            session.add_all(people)
            session.flush()
            declaration = Declaration("facebook", now - since if since else BEGAN, now, HALF)
            self.incident = incidents.declare(session, now, declaration, people[0], "campaign").id
        with self.database.work(OPERATOR) as session:
            approver = session.scalars(sa.select(Member).where(Member.role == "approver")).one()
            fingerprint = queries.shown(session, self.incident)["fingerprint"]
            approvals.approve(session, now, self.incident, approver, fingerprint, "campaign")

    def steps(self) -> Counter[str]:
        """How many steps are in each state."""
        with self.database.work(OPERATOR) as session:
            rows = session.execute(sa.select(Step.state, sa.func.count()).group_by(Step.state))
            return Counter({row[0]: row[1] for row in rows})

    def left(self) -> int:
        states = self.steps()
        return sum(states[state] for state in UNFINISHED)

    def ended(self) -> int:
        return self.steps()["succeeded"]

    def fail(self, *rules: dict[str, Any]) -> None:
        self.api.control("faults", {"rules": list(rules)})

    def behave(self) -> None:
        """The sandbox fails no more."""
        self.delete("faults")

    def delete(self, control: str) -> None:
        requests.delete(f"{self.stripe}/_sandbox/{control}", timeout=120).raise_for_status()

    def log(self) -> Path:
        return self.folder / "workers.log"

    def over(self) -> bool:
        with self.database.work(OPERATOR) as session:
            return set(session.scalars(sa.select(Run.state))) == {"done"}

    def verdict(self, *, undisturbed: bool = True) -> dict[str, Any]:
        """Our books against Stripe's, step by step. Raises `Broken` with what differs.

        Not `undisturbed`: others gave back, too, and disputed, so that some grants wait or were called off.
        """
        ledger = truth.ledger(self.api)
        with self.database.work(OPERATOR) as session:
            steps = {str(step.id): step for step in session.scalars(sa.select(Step))}
            grants = Counter(session.scalars(sa.select(Grant.state)))
            runs = Counter(session.scalars(sa.select(Run.state)))
            attempts = session.scalars(sa.select(sa.func.count()).select_from(Attempt)).one()
            deaths = session.scalars(sa.select(sa.func.count()).where(Attempt.outcome.is_(None))).one()
            broken = [one.sentence() for one in breaches(session)]
        notes = [
            (str(note["metadata"].get("step")), int(note["total"]))
            for note in self.api.control("ledger")["credit_notes"]
        ]
        found = Counter(step for step, _ in notes)
        double = sum(times - 1 for times in found.values() if times > 1) + len(ledger.beyond)
        missing = sum(step not in found for step in steps if undisturbed or steps[step].state in MADE)
        mismatched = sum(step not in steps or steps[step].amount != amount for step, amount in notes)
        differences = reconcile.reconcile(self.house, self.incident).differences
        figures = {
            "grants": sum(grants.values()), "attempts": attempts, "died with an attempt under way": deaths,
            "double": double, "missing": missing, "mismatched": mismatched, "differences": len(differences),
            "seconds": round(time.monotonic() - self.began),
        }  # fmt: skip
        wrong = [*broken, *ledger.unbalanced, *ledger.twice, *differences[:10]]
        all_ended = set(grants) == {"succeeded"} and set(runs) == {"done"}
        if double or missing or mismatched or wrong or (undisturbed and not all_ended):
            raise Broken(f"{figures}; grants {dict(grants)}, runs {dict(runs)}: {wrong}")
        return figures


@contextmanager
def opened(
    invoices: int, seed: int, server: postgres.Server, *, declared: bool = True, outlives: bool = False
) -> Iterator[World]:
    """A world with about so many invoices, its outage approved unless not `declared`; gone when the block ends.

    `outlives`: the database server may be ended and started again meanwhile.
    """
    with (
        tempfile.TemporaryDirectory(prefix="campaign-") as name,
        stripe_of(invoices, Path(name)) as url,
        (_made if outlives else cloned)(server, f"test_{os.getpid()}_campaign_{uuid.uuid4().hex[:8]}") as urls,
    ):
        database = Database(urls.app)
        world = World(Path(name), urls, url, database, seed)
        try:
            if declared:
                world.declare()
            yield world
        finally:
            database.dispose()


@contextmanager
def _made(server: postgres.Server, name: str) -> Iterator[postgres.Urls]:
    """A migrated database of a server that may be ended meanwhile, and goes with its folder."""
    urls = postgres.ensure_database(server, name)
    upgrade(urls.owner)
    yield urls


@contextmanager
def stripe_of(invoices: int, folder: Path) -> Iterator[str]:
    """A sandbox in a process of its own, as fast as this machine can make it."""
    command = [sys.executable, "-m", "sandbox.stripe", "--port", "0", "--seed", str(invoices)]
    with (folder / "stripe.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def until(holds: Callable[[], bool], what: str, seconds: float, world: World) -> float:
    """Wait for it; how long that took. Raises `Broken` when it does not come about in time."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() > began + seconds:
            raise Broken(f"after {seconds:.0f} s still not: {what}; {dict(world.steps())}\n{_tail(world.log())}")
        time.sleep(0.1)
    return time.monotonic() - began


def until_over(world: World) -> float:
    """Wait until every run is done, for as long as anything moves; how long that took."""
    began = moved = time.monotonic()
    before: Counter[str] = Counter()
    while not world.over():
        steps = world.steps()
        if steps != before:
            before, moved = steps, time.monotonic()
        if time.monotonic() > moved + NOTHING_MOVES_FOR:
            raise Broken(f"nothing has moved for {NOTHING_MOVES_FOR} s; {dict(steps)}\n{_tail(world.log())}")
        time.sleep(0.2)
    return time.monotonic() - began


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3_000:] if log.exists() else ""
