"""Two operators and two workers who declare, approve, change, resolve, retract, pause and send at once, very often.

A match begins with the same rows and goes on over some rounds. In each of them everybody does one thing, all at one
moment: that is one interleaving, from wherever those before it have led. However it goes, it ends legal: no invariant
is broken, nothing runs that no second person or limit allowed, and when all is over nothing is left paused, and each
step that was sent has its one note in Stripe, whatever became of its answer.
"""

import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import sqlalchemy as sa

from billing.errors import NotAllowed, Refused
from billing.models import Invoice, InvoiceLine, Payment, Subscription
from billing.outages import approvals, automatic, grants, incidents, pauses, preflight, queries
from billing.outages.invariants import breaches
from billing.outages.models import Incident, Pause, Run, Step
from sandbox import postgres
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Agency, Member
from tests.billing import stripe_json
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, RESOLVED, August, at
from tests.billing.outages.rows import house_at
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.wire import listening
from tests.campaign.world import Broken
from tests.databases import HOME, Cleaner, cloned
from tests.factories import MemberFactory, building

LATER: Final = 0.01
"""Seconds within which the deeds of a round begin."""
ROUNDS: Final = 10
"""Of a match."""
PROCESSES: Final = 2
OVER: Final = ("released", "left", "cancelled")
Deed = Callable[["Table"], None]


class Table:
    """What the operators sit at: an agency with three subscriptions, and a Stripe that can pause them."""

    def __init__(self, database: Database, stripe: SmallStripe) -> None:
        self.database, self.stripe = database, stripe
        self.house: House = house_at(stripe.url, database)
        self.august = August(database)
        with building(database):
            for _ in range(3):
                self.august.sell()
            self.second: Member = MemberFactory(email="second@operator.example")
        with database.work(OPERATOR) as session:
            agency = session.get_one(Agency, self.august.agency.id)
            # Of three refunds of 3.75 some runs are within the limit, those after a change are not.
            automatic.set_limit(session, at(20), agency, "usd", 1_200, 1_500, self.august.approver, "campaign")
            self.subscriptions = list(session.scalars(sa.select(Subscription.id)))

    def begin(self) -> None:
        """Nothing is left of the match before: ids begin anew, and with them the keys of the calls."""
        self.stripe.forget()
        self.stripe.notes.clear()
        self.stripe.refunds.clear()
        self._sold()
        self.stripe.subscriptions = {id: stripe_json.subscription(id=id) for id in self.subscriptions}

    def _sold(self) -> None:
        """Stripe has the paid invoices of the mirror."""
        with self.database.work(OPERATOR) as session:
            of_line = sa.and_(InvoiceLine.agency_id == Invoice.agency_id, InvoiceLine.invoice_id == Invoice.id)
            of_payment = sa.and_(Payment.agency_id == Invoice.agency_id, Payment.invoice_id == Invoice.id)
            asked = sa.select(Invoice, InvoiceLine, Payment).join(InvoiceLine, of_line).join(Payment, of_payment)
            sold = session.execute(asked).all()
        for invoice, line, payment in sold:
            self.stripe.captured[payment.payment_intent] = payment.captured
            self.stripe.invoices[invoice.id] = stripe_json.invoice(
                id=invoice.id, customer=invoice.customer_id, total=invoice.total, subtotal=invoice.total,
                amount_due=invoice.total, amount_paid=invoice.total,
                lines=stripe_json.listed(stripe_json.line(id=line.id, amount=line.amount, invoice=invoice.id)),
            ) | {"payment_intent_of_test": payment.payment_intent}  # fmt: skip

    def send(self, limit: int) -> int:
        preflight.look_due(self.house, limit)
        return grants.send_due(self.house, limit)

    def incident(self) -> str:
        with self.database.work(OPERATOR) as session:
            newest = session.scalar(sa.select(Incident.id).order_by(Incident.declared_at.desc(), Incident.id).limit(1))
        if newest is None:
            raise Refused("nothing is declared yet")
        return newest

    def approve(self, by: Member) -> None:
        incident = self.incident()
        with self.database.work(OPERATOR) as session:
            fingerprint = queries.shown(session, incident)["fingerprint"]
        with self.database.work(OPERATOR) as session:
            approvals.approve(session, DECLARED, incident, by, fingerprint or "0" * 32, "campaign")

    def own_approval(self) -> None:
        """Finance tries to approve what finance declared."""
        with suppress(NotAllowed):
            self.approve(self.august.finance)
            raise Broken("finance approved its own refunds")

    def stop(self, resume: bool) -> None:
        incident = self.incident()
        with self.database.work(OPERATOR) as session:
            (approvals.resume if resume else approvals.halt)(session, incident, self.second, "campaign")


def _by(name: str, **more: Any) -> Deed:
    def deed(table: Table) -> None:
        getattr(table.august, name)(table.incident(), **more)

    return deed


DEEDS: Final[dict[str, Deed]] = {
    "declare": lambda table: table.august.declare(FACEBOOK_IS_DOWN) and None,
    "approve": lambda table: table.approve(table.august.approver),
    "approve one's own": Table.own_approval,
    "resolve": _by("resolve"),
    "change": _by("change", impact_bp=5_000),
    "extend": _by("change", started_at=at(20)),
    "retract": _by("retract"),
    "reopen": _by("reopen"),
    "halt": lambda table: table.stop(resume=False),
    "continue": lambda table: table.stop(resume=True),
    "hold": lambda table: pauses.hold_due(table.house, 3) and None,
    "release": lambda table: pauses.release_due(table.house, 3) and None,
    "send": lambda table: table.send(2) and None,
    "rest": lambda table: None,
}
OF_WORKERS: Final = ("hold", "release", "rest", "rest")
LOST: Final = 0.2
"""The share of rounds in which the answer to a note is lost. The note is there: what never arrived and was retracted is
looked for all day long, and a match shall end."""
OF_OPERATORS: Final = (*(deed for deed in DEEDS if deed not in (*OF_WORKERS, "send")), *("approve", "continue") * 3)
"""Without approvals and continuations, and many of them, there is little to send."""


def run(times: int, seed: int) -> dict[str, Any]:
    """Matches side by side, each process at a table of its own. What a match draws hangs on its own number alone."""
    began = time.monotonic()
    told: Counter[str] = Counter()
    afresh = multiprocessing.get_context("spawn")
    broken = afresh.Event()
    with ProcessPoolExecutor(PROCESSES, afresh, _share, (broken,)) as pool:
        for played in [pool.submit(_matches, times, seed, which) for which in range(PROCESSES)]:
            told += played.result()
    refused, sent = told.pop("refused", 0), told.pop("sent", 0)
    return {
        "interleavings": times, "deeds": sum(told.values()) + refused, "refused": refused, "notes sent": sent,
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip


_ended_early: list[Any] = []
"""The event by which one process tells the others that it found something broken."""


def _share(broken: Any) -> None:
    _ended_early.append(broken)


def _matches(times: int, seed: int, which: int) -> Counter[str]:
    """Those of one process: every so manyth."""
    told: Counter[str] = Counter()
    name = f"test_{os.getpid()}_operators_{seed}_{which}"
    with postgres.start(HOME, fsync=False) as server, listening() as wire, cloned(server, name) as urls:
        database = Database(urls.app)
        try:
            table = Table(database, SmallStripe(wire))
            rows = Cleaner(server.url(urlsplit(urls.app).path[1:], "postgres"))
            for first in range(which * ROUNDS, times, PROCESSES * ROUNDS):
                if _ended_early[0].is_set():
                    break
                rows.clean()
                table.begin()
                told += _match(table, random.Random(f"{seed} {first}"), first, min(ROUNDS, times - first))
        except Broken:
            _ended_early[0].set()
            raise
        finally:
            database.dispose()
    return told


def _match(table: Table, chance: random.Random, first: int, rounds: int) -> Counter[str]:
    DEEDS["declare"](table)
    preflight.look_due(table.house, 1)
    told: Counter[str] = Counter()
    played: list[list[str]] = []
    for no in range(first, first + rounds):
        played.append([chance.choice(OF_OPERATORS), chance.choice(OF_OPERATORS), chance.choice(OF_WORKERS), "send"])
        if chance.random() < LOST:
            table.stripe.spoil("POST", "/v1/credit_notes", chance.choice(("lost_after", "failed_after")))
        name = f"interleaving {no}, {played}"
        told += _round([(deed, chance.uniform(0, LATER)) for deed in played[-1]], table, name)
        _legal(table, name)
    told["sent"] += _ended(table, f"interleavings {first} to {first + rounds - 1}, {played}")
    return told


def _round(deeds: list[tuple[str, float]], table: Table, name: str) -> Counter[str]:
    told: Counter[str] = Counter()
    errors: list[BaseException] = []
    start = threading.Barrier(len(deeds))

    def play(deed: str, wait: float) -> None:
        start.wait()
        time.sleep(wait)
        try:
            DEEDS[deed](table)
            told[deed] += 1
        except Refused:
            told["refused"] += 1
        except BaseException as error:  # noqa: BLE001 - told below, by the thread that ends the run
            errors.append(error)

    threads = [threading.Thread(target=play, args=deed) for deed in deeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise Broken(f"{name}: {errors[0]!r}") from errors[0]
    return told


def _legal(table: Table, name: str) -> None:
    with table.database.work(OPERATOR) as session:
        broken = [one.sentence() for one in breaches(session)]
    if broken:
        raise Broken(f"{name}: {broken}")


def _ended(table: Table, name: str) -> int:
    """Everything is resolved, what waits declined, what runs sent: then nothing is held any more.

    Returns how many notes were sent.
    """
    with table.database.work(OPERATOR) as session:
        found = session.execute(sa.select(Incident.id, Incident.state)).all()
    for incident, state in found:
        with suppress(Refused), table.database.work(OPERATOR) as session:
            approvals.resume(session, incident, table.second, "campaign")
        if state == "declared":
            with table.database.work(OPERATOR) as session:
                incidents.resolve(session, RESOLVED, incident, table.second, "campaign")
        with suppress(Refused), table.database.work(OPERATOR) as session:
            approvals.decline(session, incident, table.august.approver, "It is over.", "campaign")
    for _ in range(9):
        with table.database.work(OPERATOR) as session:
            for kind in (Pause, Step):
                session.execute(sa.update(kind).values(due_at=sa.func.now(), lease_until=None))
            session.execute(sa.update(Run).values(look_at=sa.func.now()))
        table.send(9)
        pauses.release_due(table.house, 9)
        with table.database.work(OPERATOR) as session:
            held = Counter(session.scalars(sa.select(Pause.state)))
            at_work = session.scalars(sa.select(Step.id).where(Step.state.in_(("approved", "sent", "unknown")))).all()
        if not set(held) - set(OVER) and not at_work:
            break
    with table.database.work(OPERATOR) as session:
        runs = Counter(session.scalars(sa.select(Run.state)))
    paused = [id for id, one in table.stripe.subscriptions.items() if one["pause_collection"]]
    if paused or set(held) - set(OVER):
        raise Broken(f"{name}: {paused} are left paused in Stripe; pauses {dict(held)}, runs {dict(runs)}")
    _legal(table, f"{name}, ended")
    return _given_once(table, name)


def _given_once(table: Table, name: str) -> int:
    """Each step that succeeded has one note over its amount, and nothing else has any. Returns how many."""
    with table.database.work(OPERATOR) as session:
        steps = session.execute(sa.select(Step.id, Step.state, Step.amount)).all()
    ours = sorted((str(id), amount) for id, state, amount in steps if state == "succeeded")
    theirs = sorted((str(note["metadata"]["step"]), int(note["total"])) for note in table.stripe.notes)
    states = Counter(state for _, state, _ in steps)
    if ours != theirs or set(states) - {"planned", "succeeded", "cancelled"}:
        raise Broken(f"{name}: steps {dict(states)}; we have {ours}, Stripe has {theirs}")
    return len(theirs)
