"""Sending against a Stripe that counts: 5,000 grants at 25 calls a second of one endpoint; and grants with pauses
beside them at 100 calls a second of the whole account.

Worker processes share the rate through the database. Printed beside what the limits allow; 429s and the workers' CPU
for each grant are counted. All of it takes about seven minutes; SIZE=500 two.

CPU for each grant of 5,000, on two cores with PostgreSQL 18 and the sandbox beside:

    workers       18 ms   (2 processes of 4 threads; they are of 8 now, which the account's limit needs)
    PostgreSQL    10 ms   (a claim walks an index: it no longer grows with the number of grants that are due)
    sandbox        2 ms   (3 calls)

So 25 grants a second take less than one core in all. On an otherwise idle machine 5,000 took 201.8 s, where the limit
allows no less than 200; none of the 15,009 calls was answered with 429. Pauses and grants side by side came to 100
of the 100 calls that the account allows in a second: 20.1 pauses of two calls and 20.0 grants of three, none of 6,835
calls answered with 429, and 1.2 cores busy in all.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from bench._ground import KEY, ROOT, house, sandbox
from billing import importing
from billing.outages import approvals, fingerprints, grants, incidents, pauses, runs, tasks
from billing.outages.models import Grant, Pause, Run
from billing.outages.planning import Declaration
from sandbox.calls import Api
from tenants.clock import SandboxClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tenants.settings import read

GRANTS: Final = int(os.environ.get("SIZE") or 5_000)
BESIDE: Final = max(600, GRANTS * 3 // 10)
"""Businesses that are both paused and given something back in the second run."""
PROCESSES: Final = 2
THREADS: Final = 8
DAY: Final = timedelta(days=1)
AUGUST: Final = datetime(2019, 8, 1, tzinfo=UTC)
BEGAN: Final = AUGUST + 10 * DAY
ENDED: Final = AUGUST + 13 * DAY
DECLARED: Final = AUGUST + 14 * DAY


def main() -> None:
    one_endpoint()
    whole_account()


def one_endpoint() -> None:
    """The notes of an outage that is over: nothing is paused."""
    limits = {"global": 1_000, "endpoint": 25}
    with sandbox() as api, house(api) as ours:
        sell(api, GRANTS)
        declared(ours, ended=True)
        api.control("limits", limits)
        busy = Busy()
        with workers(ours, "1000/25") as cpu:
            took = until(lambda: left(ours, Grant, "approved", "sent", "unknown") == 0)
            cores = busy.cores()
        shown = api.control("limits")
    floor = GRANTS / 25
    print(f"\n{GRANTS:,} grants at 25 calls a second of one endpoint (goal: at most 1.1 x the floor)")
    print(f"  the least it can take      {floor:7.1f} s   {1:6.2f} x")
    print(f"  taken                      {took:7.1f} s   {took / floor:6.2f} x")
    print(f"  calls answered with 429    {refused(shown):7,} of {shown['allowed'] + refused(shown):,}")
    print(f"  CPU of the workers         {cpu['grant'] / GRANTS * 1_000:7.1f} ms a grant")
    print(f"  cores busy                 {cores:7.2f}     of {os.cpu_count()}, with PostgreSQL and the sandbox")


def whole_account() -> None:
    """Pauses first, and grants beside them, while the outage goes on."""
    with sandbox() as api, house(api) as ours:
        sell(api, BESIDE)
        declared(ours, ended=False)
        api.control("limits", {"global": 100, "endpoint": 25})
        with workers(ours, "100/25") as cpu:
            until(lambda: is_open(ours))
            before, busy, done = api.control("limits")["allowed"], Busy(), progress(ours)
            took = until(lambda: min(left(ours, Pause, "planned"), left(ours, Grant, "approved")) < BESIDE // 20)
            shown, cores = api.control("limits"), busy.cores()
            held, given = (now - then for now, then in zip(progress(ours), done, strict=True))
            ended = progress(ours)
    rate = (shown["allowed"] - before) / took
    print(f"\nPauses and grants side by side for {took:.0f} s at 100 calls a second (goal: at least 98 %)")
    print(f"  calls a second             {rate:7.1f}     {rate / 100:6.1%}")
    print(f"  pauses, grants a second    {held / took:7.1f} and {given / took:.1f}")
    print(f"  calls answered with 429    {refused(shown):7,} of {shown['allowed'] + refused(shown):,}")
    of_pause, of_grant = cpu["pause"] / ended[0] * 1_000, cpu["grant"] / ended[1] * 1_000
    print(f"  CPU of the workers         {of_pause:7.1f} ms a pause, {of_grant:.1f} ms a grant")
    print(f"  cores busy                 {cores:7.2f}     of {os.cpu_count()}, with PostgreSQL and the sandbox")
    if rate < 98 and cores > 0.9 * (os.cpu_count() or 1):
        print("  This machine has no more to give: its cores, not the limits, set the pace.")


def sell(api: Api, count: int, of_small: int = 0) -> None:
    """So many businesses that pay 31.00 USD a month, the first of them those of the agency `small`."""
    api.control("clock", {"now": int(AUGUST.timestamp())})
    product = api.post("/v1/products", name="Pages", metadata={"platform_weights": "facebook=10000"})["id"]
    price = api.post("/v1/prices", product=product, currency="usd", unit_amount=3_100, recurring={"interval": "month"})
    for number in range(count):
        whose = {"metadata": {"agency": "small"}} if number < of_small else {}
        customer = api.post("/v1/customers", name=f"Business {number + 1}", **whose)["id"]
        card = api.post("/v1/payment_methods/pm_card_visa/attach", customer=customer)["id"]
        api.post("/v1/subscriptions", customer=customer, items=[{"price": price["id"]}], default_payment_method=card)
    api.control("clock", {"now": int(DECLARED.timestamp())})


def declared(ours: House, *, ended: bool) -> None:
    """Everything up to the second person's yes."""
    importing.import_account(ours, "")
    with ours.database.work(OPERATOR) as session:
        people = [Member(email=f"{role}@example.com", role=role) for role in ("finance", "approver")]
        session.add_all(people)
        session.flush()
        outage = Declaration("facebook", BEGAN, ENDED if ended else None)
        incident = incidents.declare(session, DECLARED, outage, people[0], "cli")
        waiting = runs.waiting_for(session, incident.id)
        together = fingerprints.of_incident((run.agency_id, run.fingerprint) for run in waiting)
        approvals.approve(session, DECLARED, incident.id, people[1], together, "cli")


@contextlib.contextmanager
def workers(ours: House, rate: str) -> Iterator[Counter[str]]:
    """Processes that work until the block ends; afterwards their seconds of CPU, of pauses and of grants, are known."""
    environment = os.environ | {
        "DATABASE_URL": ours.settings.database_url, "STRIPE_API_BASE": ours.settings.stripe_api_base or "",
        "STRIPE_SECRET_KEY": KEY, "STRIPE_RATE": rate, "CLOCK": "sandbox",
    }  # fmt: skip
    command = [sys.executable, "-m", "bench.sending", "work"]
    started = [
        subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    cpu: Counter[str] = Counter()
    try:
        yield cpu
    finally:
        for process in started:
            told, _ = process.communicate()
            cpu.update(json.loads(told))


def work() -> None:
    """What one of those processes does, until its input ends."""
    settings = read(os.environ)
    database = Database(settings.database_url, pool_size=THREADS)
    ours = House(settings, database, SandboxClock(settings.stripe_api_base or ""))
    over = threading.Event()
    cpu: Counter[str] = Counter()
    pauses.hold_due = _timed(cpu, "pause", pauses.hold_due)  # type: ignore[assignment]
    grants.send_due = _timed(cpu, "grant", grants.send_due)  # type: ignore[assignment]

    def drain(_: int) -> None:
        while not over.is_set():
            tasks.sweep(ours, time.monotonic() + tasks.AT_MOST)
            over.wait(0.2)

    with ThreadPoolExecutor(THREADS) as pool:
        working = [pool.submit(drain, number) for number in range(THREADS)]
        sys.stdin.read()
        over.set()
        for one in working:
            one.result()
    print(json.dumps(cpu))
    database.dispose()


_adding = threading.Lock()


def _timed(cpu: Counter[str], kind: str, work: Callable[[House, int], int]) -> Callable[[House, int], int]:
    """`work`, whose seconds of CPU are added up."""

    def timed(ours: House, limit: int) -> int:
        began = time.thread_time()
        try:
            return work(ours, limit)
        finally:
            with _adding:
                cpu[kind] += time.thread_time() - began  # type: ignore[assignment]

    return timed


class Busy:
    """How many cores of the machine are busy, by whatever runs on it, from now on."""

    def __init__(self) -> None:
        self._at, self._spent = time.monotonic(), self._seconds()

    def cores(self) -> float:
        return (self._seconds() - self._spent) / (time.monotonic() - self._at)

    @staticmethod
    def _seconds() -> float:
        user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def until(reached: Callable[[], bool]) -> float:
    """Seconds until then."""
    began = time.monotonic()
    while not reached():
        time.sleep(0.2)  # the workers are other processes: only the rows say how far they are
    return time.monotonic() - began


def is_open(ours: House) -> bool:
    """Whether the run may send all of its grants."""
    with ours.database.work(OPERATOR) as session:
        return session.scalars(sa.select(Run.opened_to)).one() is None


def progress(ours: House) -> tuple[int, int]:
    """Pauses that are held, grants that were given."""
    return left(ours, Pause, "held"), left(ours, Grant, "succeeded")


def left(ours: House, table: Any, *states: str) -> int:
    with ours.database.work(OPERATOR) as session:
        return session.scalars(sa.select(sa.func.count()).select_from(table).where(table.state.in_(states))).one()


def refused(shown: dict[str, Any]) -> int:
    return sum(shown["refused"].values())


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
