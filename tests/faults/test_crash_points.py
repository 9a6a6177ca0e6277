"""Killed at every point of a short outage, in turn, and taken up by another process: as if nobody had ever died.

`crash_points.txt` keeps the points, under the act that comes to them first. A test goes through the points of one act,
those included that only whoever takes up a dead one's work comes to; it fails when they are not those of the file, and
`CRASH_POINTS=write pytest -n 0 tests/faults/test_crash_points.py` writes down what they are.
"""

import ast
import inspect
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from billing import following
from billing.outages import (
    approvals,
    bodies,
    claims,
    grants,
    held,
    incidents,
    pauses,
    preflight,
    reconcile,
    retirements,
    sightings,
)
from billing.outages.decisions import Retirement
from billing.outages.invariants import breaches
from billing.outages.models import Grant, HeldInvoice, Incident, Pause, Run, Step
from sandbox import postgres, truth
from sandbox.calls import Api
from sandbox.cases import World
from sandbox.stripe.server import Handle, start_in_thread
from tenants.db import OPERATOR
from tenants.house import House
from tests.databases import Cleaner
from tests.faults import story
from tests.faults.forks import Forks, forking
from webhooks import inbox
from webhooks.models import InboxEvent

FILE: Final = Path(__file__).with_name("crash_points.txt")
MOST: Final = 3
"""So many processes die in one playing, each somewhere else, or one more: five over one grant are a person's."""
ACTS: Final = list(story.ACTS)


def kept() -> dict[str, set[str]]:
    """Act -> the points that nothing before it comes to."""
    found: dict[str, set[str]] = {act: set() for act in ACTS}
    act = ""
    for line in FILE.read_text().splitlines() if FILE.exists() else []:
        if line.startswith("  "):
            found[act].add(line.strip())
        elif line:
            act = line
    return found


def keep(act: str, points: set[str]) -> None:
    found = kept() | {act: points}
    FILE.write_text("\n".join(f"{act}\n" + "".join(f"  {point}\n" for point in sorted(found[act])) for act in ACTS))


@dataclass
class Stage:
    """A database and a sandbox that are put back to where an act begins, as often as it is played."""

    house: House
    world: World
    sandbox: Handle
    forks: Forks
    folder: Path
    admin_url: str

    def __post_init__(self) -> None:
        self.port = urlsplit(self.sandbox.url).port or 0
        self.api = Api(self.sandbox.url, story.KEY)

    def play(self, act: str, **how: Any) -> tuple[int, list[str]]:
        """In a process of its own, or `here` where those are forked from: how it ended, the points that it came to."""
        seen = self.folder / "seen"
        seen.write_text("")
        told = {"database_url": self.house.settings.database_url, "stripe_url": self.sandbox.url, "seen": str(seen)}
        return self.forks.act(name=act, **told, **how), seen.read_text().splitlines()

    def before(self, act: str) -> None:
        """Play everything that comes before `act`, and remember how that left the world."""
        for earlier in story.before(act):
            self.change(earlier)
            assert self.play(earlier, here=True)[0] == 0, self.log()
        self.change(act)
        self.house.database.dispose()
        self.rows = Cleaner(self.admin_url)
        shutil.copy(self.folder / "stripe", self.folder / "stripe.before")

    def change(self, act: str) -> None:
        if change := story.BETWEEN.get(act):
            change(replace(self.world, api=self.api))

    def again(self) -> None:
        """Put both back."""
        self.close()
        self.rows.clean()
        shutil.copy(self.folder / "stripe.before", self.folder / "stripe")
        self.sandbox = start_in_thread(state_file=self.folder / "stripe", port=self.port)
        self.api = Api(self.sandbox.url, story.KEY)

    def close(self) -> None:
        self.api.close()
        self.house.database.dispose()
        self.sandbox.stop()

    def outcome(self) -> dict[str, Any]:
        """Where everything is, in our rows and in Stripe; nothing that must hold is broken."""
        ledger = truth.ledger(self.api)
        assert (ledger.unbalanced, ledger.twice, ledger.beyond) == ([], [], [])
        with self.house.database.work(OPERATOR) as session:
            assert [one.sentence() for one in breaches(session)] == []
            incident = session.scalars(sa.select(Incident.id)).one_or_none()
            states = {
                table.__name__: Counter(session.scalars(sa.select(table.state)))
                for table in (Incident, Run, Grant, Step, Pause, HeldInvoice, Retirement, InboxEvent)
            }
        differences = reconcile.reconcile(self.house, incident).differences if incident else []
        assert differences == []
        drafts = Counter(invoice["status"] for invoice in self.api.every("/v1/invoices"))
        return {"given": ledger.given, "pauses": _whose(ledger.pauses), "invoices": drafts} | states

    def log(self) -> str:
        return (self.folder / "log").read_text()[-5_000:]


def _whose(pauses: Any) -> dict[str, str | None]:
    return {id: pause and pause["behavior"] for id, pause in pauses.items()}


@pytest.fixture
def stage(postgres_server: postgres.Server, clean_database: postgres.Urls, tmp_path: Path) -> Iterator[Stage]:
    sandbox = start_in_thread(state_file=tmp_path / "stripe")
    house = story.house_at(clean_database.app, sandbox.url)
    with closing(Api(sandbox.url, story.KEY)) as api:
        world = story.begin(house, api)
    admin = postgres_server.url(urlsplit(clean_database.app).path[1:], "postgres")
    with forking("tests.faults.story", tmp_path / "log") as forks:
        made = Stage(house, world, sandbox, forks, tmp_path, admin)
        yield made
        made.close()


@pytest.mark.parametrize("act", ACTS)
def test_whoever_dies_anywhere_is_as_if_nobody_had(stage: Stage, act: str) -> None:
    earlier = set().union(*(kept()[one] for one in ACTS[: ACTS.index(act)]))
    stage.before(act)
    ended, seen = stage.play(act, here=True)
    assert ended == 0, stage.log()
    undisturbed, usual, died_at = stage.outcome(), set(seen), set(earlier)
    led_to: dict[str, tuple[str, ...]] = {}
    while (usual | led_to.keys()) - died_at:
        # Where only those come who take up the work of who died just there, somebody has to die there again.
        first = next((deaths for point, deaths in led_to.items() if point not in died_at), ())
        came_to, deaths = _played_with_deaths(stage, act, first, died_at)
        assert stage.outcome() == undisturbed, f"after {deaths}"
        left = (usual | led_to.keys()) - died_at
        assert len(deaths) > len(first), f"nobody dies at {left}, after {deaths} where {first} led to them"
        for point in sorted(came_to - usual):
            led_to.setdefault(point, deaths)
    known = (usual | led_to.keys()) - earlier
    if os.environ.get("CRASH_POINTS") == "write":
        keep(act, known)
    assert known == kept()[act], "the points are no longer those of crash_points.txt: see the top of this file"


def _played_with_deaths(
    stage: Stage, act: str, first: tuple[str, ...], died_at: set[str]
) -> tuple[set[str], tuple[str, ...]]:
    """Play the act from its beginning: with the deaths `first`, with others wherever nobody has died yet, which are
    added to `died_at`, and to its end. Returns the points on the way, and the deaths."""
    stage.again()
    came_to: set[str] = set()
    deaths: tuple[str, ...] = ()
    ended = -9
    while ended == -9:
        how: dict[str, Any] = {"spares": sorted(died_at)} if len(deaths) < max(MOST, len(first) + 1) else {}
        if len(deaths) < len(first):
            how = {"dies_at": first[len(deaths)]}
        ended, seen = stage.play(act, **how)
        came_to |= set(seen)
        if ended == -9:
            deaths += (seen[-1],)
            died_at.add(seen[-1])
    assert ended == 0, f"{deaths}\n{stage.log()}"
    return came_to, deaths


ACTED_IN: Final = (
    approvals, bodies, claims, following, grants, held, inbox, incidents, pauses, preflight, retirements, sightings,
)  # fmt: skip
READ_AGAIN: Final = {"pauses._may_leave", "held._may_leave", "grants._may_still_leave", "following.due"}
"""They only read, and whoever takes up the work reads again."""


NOT_IN_THE_STORY: Final = {"charge", "restart"}
"""A payment of today has an intent, so that its charge is read of old ones alone. Whom the policy `full` charges for a
fresh period has tests of its own, in which whoever does it dies (`tests/journeys/test_full.py`)."""


def test_no_unit_of_work_and_no_call_to_stripe_of_these_acts_is_without_a_point() -> None:
    """What the story does not come to is in no list of its points: so every function that could have one is asked."""
    named: set[str] = set()
    for point in set().union(*kept().values()):
        module = ""
        for word in point.rpartition(":")[0].split(" > "):
            inside, _, function = word.split(" (")[0].rpartition(".")
            module = inside or module
            named.add(f"{module}.{function}")
    able = {
        f"{module.__name__.rpartition('.')[2]}.{one.name}"
        for module in ACTED_IN
        for one in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(one, ast.FunctionDef) and any(_works(call) for call in ast.walk(one))
    }
    assert len(able) > 20
    assert able - named == READ_AGAIN


def test_no_kind_of_call_to_stripe_of_these_acts_is_without_a_point() -> None:
    called = {
        call.func.attr
        for module in ACTED_IN
        for call in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _is_stripe(call.func.value)
    }
    named = {word for point in set().union(*kept().values()) for word in re.findall(r"(?:reads|writes)\.(\w+)", point)}
    assert len(called) > 20
    assert called - named - {"events"} == NOT_IN_THE_STORY  # each page of events is read as `reads.every`


def _is_stripe(value: ast.expr) -> bool:
    return ast.unparse(value).startswith(("connection", "gateway.connect("))


def _works(node: ast.AST) -> bool:
    """Whether it opens a unit of work, or connects to Stripe."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("work", "retried", "connect")
    )


@pytest.mark.parametrize("act", ["grant", "settle the rest"])
def test_undisturbed_each_customer_has_what_was_worked_out_by_hand(stage: Stage, act: str) -> None:
    before = truth.ledger(stage.api)
    stage.before(act)
    assert stage.play(act)[0] == 0, stage.log()
    given = truth.between(before, truth.ledger(stage.api))
    for case in story.ALL:
        expected = Counter(case.first) + (Counter(case.second) if act == "settle the rest" else Counter())
        assert given.get(stage.world.customers[case.name], {}) == expected, case.name
