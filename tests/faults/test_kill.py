"""kill -9 of a real worker at random moments, ten times in a row over one run: each grant is in Stripe exactly once."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from kombu import Connection, Queue

from billing import importing
from billing.models import Payment
from billing.outages import reconcile
from billing.outages.models import Grant, Run, RunTotal, Step, StepEvent
from sandbox import postgres
from tenants.db import OPERATOR, Database
from tests.faults.between import Between, standing_between
from tests.faults.processes import eventually, kill, worker
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, KEY, Shop

GRANTS = 64
KILLS = 10
UNFINISHED = ("approved", "sent", "unknown", "pending")


@pytest.fixture
def shop(db: Database) -> Iterator[Shop]:
    """An approved run of 64 grants of 1.00, 1.01, … over invoices that were paid in the sandbox."""
    with shops.opened() as opened:
        invoices = opened.sell(GRANTS)
        opened.now(DECLARED)
        importing.import_account(opened.house(db), "")
        with db.work(OPERATOR) as session:
            shops.declared(session)
            shops.approved_run(session)
            for i, invoice in enumerate(invoices):
                shops.grant(session, invoice, refund=100 + i)
        yield opened


@pytest.fixture
def between(shop: Shop) -> Iterator[Between]:
    with standing_between(shop.url) as somebody:
        yield somebody


@pytest.fixture
def environment(environment: dict[str, str], clean_database: postgres.Urls, between: Between) -> dict[str, str]:
    return environment | {"STRIPE_API_BASE": between.url, "STRIPE_SECRET_KEY": KEY}


def left(db: Database) -> int:
    with db.work(OPERATOR) as session:
        return session.scalars(sa.select(sa.func.count()).where(Step.state.in_(UNFINISHED))).one()


def two_minutes_later(db: Database) -> None:
    """The leases of the dead have run out. Nobody is alive who could still hold one."""
    with db.work(OPERATOR) as session:
        long_ago = sa.func.now() - timedelta(seconds=30)
        session.execute(sa.update(Step).where(Step.state.in_(UNFINISHED)).values(lease_until=long_ago, due_at=long_ago))


def each_grant_is_in_stripe_once(db: Database, shop: Shop) -> None:
    ledger = shop.ledger()
    with db.work(OPERATOR) as session:
        ours = {str(step.id): (step.stripe_id, step.amount) for step in session.scalars(sa.select(Step))}
        notes = [(note["metadata"]["step"], note["id"], note["total"]) for note in shop_notes(shop)]
        assert max(Counter(step for step, *_ in notes).values()) == 1, "a grant was sent twice"
        assert {step: (id, total) for step, id, total in notes} == ours
        assert Counter(session.scalars(sa.select(Grant.state))) == {"succeeded": GRANTS}
        # 1.00 + 1.01 + … + 1.63 = 64 × 1.00 + (0 + 63) × 64 / 2 × 0.01 = 64.00 + 20.16
        assert sum(charge["refunded"] for charge in ledger["charges"]) == 6_400 + 2_016
        assert {len(charge["refunds"]) for charge in ledger["charges"]} == {1}
        assert session.scalars(sa.select(RunTotal.sent)).one() == 8_416
        assert session.scalars(sa.select(sa.func.sum(Payment.refunded))).one() == 8_416
        assert set(session.execute(sa.select(Payment.reserved, Payment.elsewhere))) == {(0, 0)}
        assert session.scalars(sa.select(Run.state)).one() == "done"
    assert reconcile.reconcile(shop.house(db), "inc_1").differences == []


def shop_notes(shop: Shop) -> list[dict[str, object]]:
    notes: list[dict[str, object]] = []
    page = shop.get("/v1/credit_notes", limit=100)
    notes += page["data"]
    assert not page["has_more"]
    return notes


@pytest.mark.parametrize("celery", [False, True], ids=["a process that drains", "celery with a prefork pool"])
def test_ten_kills_in_a_row_and_every_grant_is_in_stripe_exactly_once(
    db: Database, shop: Shop, between: Between, environment: dict[str, str], log: Path, celery: bool,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if celery:
        broker = request.getfixturevalue("redis_url")
        environment |= {"CELERY_BROKER_URL": broker, "LOOK_EVERY": "0.1"}
        request.addfinalizer(lambda: forget(broker, environment["QUEUE"]))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    between.delay = lambda: chance.choice([0, 0.005, 0.03])  # so that some die with the answer on its way
    kills = 0
    while kills < KILLS and left(db):
        with worker(environment, celery=celery, log=log) as process:
            for _ in range(chance.randint(1, 6)):
                between.posted.clear()
                assert between.posted.wait(30), f"the worker sends nothing\n{log.read_text()}"
            time.sleep(chance.uniform(0, 0.02))
            kill(process)
        kills += 1
        time.sleep(0.1)  # what was on the wire when it died has arrived by now
        two_minutes_later(db)
    assert kills == KILLS, "the run ended before it was killed ten times"
    assert left(db), "nothing was left to be picked up"
    between.delay = lambda: 0
    with worker(environment, celery=celery, log=log):
        eventually(lambda: left(db) == 0, f"all sent\n{log.read_text()}")
        eventually(lambda: _over(db), f"the run is done\n{log.read_text()}")
    each_grant_is_in_stripe_once(db, shop)


def test_answers_lost_on_their_way_leave_unknown_steps_and_no_second_note(
    db: Database, shop: Shop, between: Between, environment: dict[str, str], log: Path
) -> None:
    """Stripe did what every second request asked for, and its answer never arrived."""
    notes = iter(range(10_000))
    between.lose = lambda method, path: (method, path) == ("POST", "/v1/credit_notes") and next(notes) % 2 == 0
    with worker(environment, celery=False, log=log):
        sent = ("POST", "/v1/credit_notes")
        eventually(lambda: between.passed.count(sent) == GRANTS, f"all are sent\n{log.read_text()}")
        eventually(lambda: len(_became(db, "unknown")) == GRANTS // 2, f"half were unknown\n{log.read_text()}")
        between.lose = lambda method, path: False
        two_minutes_later(db)
        eventually(lambda: left(db) == 0, f"all known\n{log.read_text()}")
        eventually(lambda: _over(db), f"the run is done\n{log.read_text()}")
        assert between.passed.count(sent) == GRANTS
    each_grant_is_in_stripe_once(db, shop)


def _became(db: Database, state: str) -> set[int]:
    """The steps that were ever in it: a slow machine has looked for the first ones again before it sends the last."""
    with db.work(OPERATOR) as session:
        return set(session.scalars(sa.select(StepEvent.step_id).where(StepEvent.to_state == state)))


def _over(db: Database) -> bool:
    with db.work(OPERATOR) as session:
        return session.scalars(sa.select(Run.state)).one() == "done"


def forget(broker: str, queue: str) -> None:
    with Connection(broker) as connection, connection.channel() as channel:
        Queue(queue).bind(channel).delete()
