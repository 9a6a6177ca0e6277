"""The story as it is performed: through Stripe's API and the product's commands alone; each act keeps what was seen."""

import contextlib
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import psycopg

from sandbox import postgres, story, truth
from sandbox.calls import Api
from sandbox.cases import DECLARED, OUTAGE, RESOLVED, Parts, World
from sandbox.processes import Processes, ProcessFailed
from sandbox.product import Product
from sandbox.truth import Ledger

FINANCE: Final = "finance@operator.example"
APPROVER: Final = "approver@operator.example"
AGENCY_ADMIN: Final = "admin@harbour-social.example"
TITLE: Final = "Facebook has revoked our access"
MESSAGE: Final = (
    "Since Thursday evening we cannot publish to Facebook. Billing is paused for everybody who depends on it, and the "
    "time that was lost is being refunded."
)
COLLECTED_AFTER: Final = 2 * 3600
"""Seconds of the story's time within which Stripe charges what was released."""
NOTHING_MOVES_FOR: Final = 120.0
"""Seconds without any progress after which the product is taken not to catch up with Stripe's events."""


@dataclass
class Act:
    """One run, seen from both sides."""

    shown: dict[str, Any]
    """The incident, as the product says it is afterwards."""
    before: Ledger
    after: Ledger
    owed: "Counter[str]"
    """Customer -> what the outage took until this run, worked out from Stripe's invoices."""

    @property
    def given(self) -> dict[str, Parts]:
        """Customer -> what this run gave, by channel."""
        return truth.between(self.before, self.after)


@dataclass
class Seen:
    """What the acts leave behind, for the account and its proofs."""

    world: World
    subscriptions: dict[str, Any] = field(default_factory=dict)
    """By id, as they were while billing was held."""
    agencies: int = len(story.AGENCIES)
    imported: dict[str, Any] = field(default_factory=dict)
    preview: dict[str, Any] = field(default_factory=dict)
    preview_again: dict[str, Any] = field(default_factory=dict)
    """What a second declaration would give, right after the first run: nothing."""
    own_approval: str = ""
    """With which sentence the declarer's own approval was refused."""
    first: Act | None = None
    second: Act | None = None
    explained: dict[str, Any] = field(default_factory=dict)
    drafts: dict[str, Any] = field(default_factory=dict)
    """Renewals that were held, by id, as they ended."""
    checked: dict[str, Any] = field(default_factory=dict)
    reconciled: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    end: Ledger | None = None


class Performance:
    """One performance of the story, with processes, a database and a sandbox of its own in `home`."""

    def __init__(self, processes: Processes, home: Path, port: int, size: int, say: Callable[[str], None]) -> None:
        self._processes = processes
        self._home = home
        self._port = port
        self._size = size
        self._say = say
        self.phases: list[tuple[str, float]] = []
        """What was done, and the seconds that it took."""

    def perform(self) -> Seen:
        """All of it, from an empty folder to the end of the story; what was started goes on running."""
        with self._phase("Starting PostgreSQL and the Stripe sandbox"):
            self._start()
        with self._phase(f"Making the world of August 2019: {self._size:,} businesses"):
            seen = self._tell()
        with self._phase("Adopting the Stripe account"):
            self._adopt(seen)
        with self._phase("Monday 26 August: declaring the outage, holding billing, giving back"):
            self._declare(seen)
        with self._phase("The clock moves to Friday 30 August: renewals are held as drafts"):
            self._let_time_pass(seen)
        with self._phase("Friday 30 August: resolving, settling, releasing"):
            self._resolve(seen)
        with self._phase("Holding our books against Stripe's"):
            self._audit(seen)
        return seen

    @property
    def stripe(self) -> Api:
        """The sandbox, by the key that the product uses."""
        return self._api

    def _start(self) -> None:
        server = postgres.start(self._home / "postgres", fsync=False)
        self._processes.at_the_end(server.stop)
        with contextlib.closing(psycopg.connect(server.admin_url, autocommit=True)) as admin:
            admin.execute("DROP DATABASE IF EXISTS demo WITH (FORCE)")
        urls = postgres.ensure_database(server, "demo")
        state, anchors = self._home / "stripe", self._home / "anchors"
        for of_another_day in (state, anchors):
            shutil.rmtree(of_another_day, ignore_errors=True)
        state.mkdir()
        command = [sys.executable, "-m", "sandbox.stripe", "--port", "0", "--state", str(state / "journal")]
        said = self._processes.start("sandbox", command, None, lambda said: "sandbox ready on " in said)
        self._api = Api(said.partition("sandbox ready on ")[2].split()[0], "sk_test_sandbox")
        self._processes.at_the_end(self._api.close)
        self.product = Product(
            database=urls.app, owner=urls.owner, stripe=self._api.base, key=self._api.key, port=self._port,
            secret=secrets.token_hex(32), anchors=str(anchors),
        )  # fmt: skip

    def _tell(self) -> Seen:
        with ThreadPoolExecutor(1) as pool:
            installed = pool.submit(self._install)
            world = story.tell(self._api, self._size)
            installed.result()
        return Seen(world)

    def _install(self) -> None:
        self.product.flask("db", "upgrade")
        self.product.load_agencies((name, story.slug(name), currency, zone) for name, currency, zone in story.AGENCIES)
        self.product.flask("members", "add", FINANCE, "--role", "finance")
        self.product.flask("members", "add", APPROVER, "--role", "approver")
        agency = story.slug(story.AGENCIES[0][0])
        self.product.flask("members", "add", AGENCY_ADMIN, "--role", "agency-admin", "--agency", agency)

    def _adopt(self, seen: Seen) -> None:
        self.product.serve(self._processes)
        seen.imported = self.product.flask("stripe", "import")
        self._api.control(
            "webhooks",
            {"url": f"{self.product.url}/webhooks/stripe", "secret": self.product.settings["STRIPE_WEBHOOK_SECRET"]},
        )

    def _declare(self, seen: Seen) -> None:
        owed = truth.owed(seen.world, self._api.every("/v1/invoices"), DECLARED)
        before = truth.ledger(self._api)
        outage = ("--platform", "facebook", "--since", _spoken(OUTAGE))
        seen.preview = self.product.flask("incidents", "preview", *outage)
        declared = self.product.flask(
            "incidents", "declare", *outage, "--title", TITLE, "--message", MESSAGE, "--by", FINANCE,
            "--fingerprint", seen.preview["fingerprint"], "--as-of", seen.preview["as_of"], "--wait",
        )  # fmt: skip
        self.incident: str = declared["id"]
        plan = ("--fingerprint", declared["fingerprint"])
        seen.own_approval = self.product.refusal("incidents", "approve", self.incident, "--by", FINANCE, *plan)
        shown = self.product.flask("incidents", "approve", self.incident, "--by", APPROVER, *plan, "--wait")
        seen.first = Act(shown, before, truth.ledger(self._api), owed)
        seen.subscriptions = {one["id"]: one for one in self._api.every("/v1/subscriptions")}
        seen.preview_again = self.product.flask("incidents", "preview", *outage)

    def _let_time_pass(self, seen: Seen) -> None:
        self._api.control("clock", {"now": int(RESOLVED.timestamp())})
        held = {id for id, one in seen.subscriptions.items() if one["metadata"].get("incident") == self.incident}
        drafts = self._api.every("/v1/invoices", status="draft")
        seen.drafts = {
            one["id"]: one for one in drafts if one["parent"]["subscription_details"]["subscription"] in held
        }
        self._caught_up()

    def _resolve(self, seen: Seen) -> None:
        owed = truth.owed(seen.world, self._api.every("/v1/invoices"), RESOLVED)
        before = truth.ledger(self._api)
        resolved = self.product.flask("incidents", "resolve", self.incident, "--by", FINANCE, "--wait")
        shown = self.product.flask(
            "incidents", "approve", self.incident, "--by", APPROVER, "--fingerprint", resolved["fingerprint"], "--wait"
        )
        assert seen.first is not None
        seen.second = Act(shown, before, truth.ledger(self._api), owed - seen.first.owed)

    def _audit(self, seen: Seen) -> None:
        self._api.control("clock", {"advance": COLLECTED_AFTER})
        ended = {one["id"]: one for one in self._api.every("/v1/invoices") if one["id"] in seen.drafts}
        seen.drafts = {id: ended.get(id, {**one, "status": "gone"}) for id, one in seen.drafts.items()}
        seen.checked = self._caught_up()
        seen.end = truth.ledger(self._api)
        seen.reconciled = self.product.flask("incidents", "reconcile", self.incident)
        customer = seen.world.customers["two payments"]
        seen.explained = self.product.flask("incidents", "explain", self.incident, "--customer", customer)
        seen.links = {
            "Finance": self._link("members", FINANCE),
            "Approver": self._link("members", APPROVER),
            "Agency": self._link("members", AGENCY_ADMIN),
            "Customer": self._link("customers", seen.world.customers["plain"]),
        }

    def _link(self, kind: str, whom: str) -> str:
        link: str = self.product.flask(kind, "link", whom, "--minutes", "720")["link"]
        return link

    def _caught_up(self) -> dict[str, Any]:
        """What `stripe check` says once the product has handled every event that Stripe sent.

        Raises `ProcessFailed` with what still differs when nothing has moved for `NOTHING_MOVES_FOR`.
        """
        moved, last = time.monotonic(), ""
        while waiting := self._api.control("webhooks")["waiting"]:
            self._processes.check()
            if str(waiting) != last:
                moved, last = time.monotonic(), str(waiting)
            elif time.monotonic() > moved + NOTHING_MOVES_FOR:
                break
            time.sleep(0.1)  # the sandbox says how many are left to whoever asks, and tells nobody
        while True:
            self._processes.check()
            try:
                return self.product.flask("stripe", "check")
            except ProcessFailed as behind:
                if str(behind) != last:
                    moved, last = time.monotonic(), str(behind)
                elif time.monotonic() > moved + NOTHING_MOVES_FOR:
                    raise

    @contextlib.contextmanager
    def _phase(self, words: str) -> Iterator[None]:
        self._say(words)
        began = time.monotonic()
        yield
        self.phases.append((words, time.monotonic() - began))


def _spoken(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%MZ")
