"""kill -9 of a real worker at random moments, ten times in a row over one run: each grant is in Stripe exactly once."""

import random
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from kombu import Connection, Queue

from billing.models import Payment
from billing.outages.models import Grant, Run, RunTotal, Step
from tenants.db import OPERATOR
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.faults.processes import eventually, kill, worker

NOTES = "/v1/credit_notes"
GRANTS = 64
KILLS = 10
UNFINISHED = ("approved", "sent", "unknown", "pending")


def left(world: Approved) -> int:
    with world.database.work(OPERATOR) as session:
        return session.scalars(sa.select(sa.func.count()).where(Step.state.in_(UNFINISHED))).one()


def two_minutes_later(world: Approved) -> None:
    """The leases of the dead have run out. Nobody is alive who could still hold one."""
    with world.database.work(OPERATOR) as session:
        session.execute(
            sa.update(Step).values(
                lease_until=sa.func.now() - timedelta(seconds=1), due_at=sa.func.now() - timedelta(seconds=30)
            ).where(Step.state.in_(UNFINISHED))
        )  # fmt: skip


def each_grant_is_in_stripe_once(world: Approved, stripe: SmallStripe) -> None:
    with world.database.work(OPERATOR) as session:
        steps = session.scalars(sa.select(Step)).all()
        grants = session.scalars(sa.select(Grant)).all()
        by_state = Counter(grant.state for grant in grants)
        ours = {str(step.id): (step.stripe_id, step.amount) for step in steps if step.kind == "credit_note"}
        theirs = Counter(note["metadata"]["step"] for note in stripe.notes)
        assert set(theirs.values()) == {1}, "a grant was sent twice"
        assert {note["metadata"]["step"]: (note["id"], note["total"]) for note in stripe.notes} == ours
        assert by_state == {"succeeded": len(grants)}
        # Each payment gave back what its grant says, and no counter is left open.
        refunded = Counter(one["payment_intent"] for one in stripe.refunds)
        assert set(refunded.values()) == {1}
        for payment in session.scalars(sa.select(Payment)):
            back = sum(one["amount"] for one in stripe.refunds if one["payment_intent"] == payment.payment_intent)
            assert (payment.reserved, payment.refunded, payment.elsewhere) == (0, back, 0)
        assert session.scalars(sa.select(RunTotal.sent)).one() == sum(grant.amount for grant in grants)
        assert session.scalars(sa.select(Run.state)).one() == "done"


@pytest.mark.parametrize("celery", [False, True], ids=["a process that drains", "celery with a prefork pool"])
def test_ten_kills_in_a_row_and_every_grant_is_in_stripe_exactly_once(
    world: Approved, stripe: SmallStripe, environment: dict[str, str], log: Path, celery: bool,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if celery:
        broker = request.getfixturevalue("redis_url")
        environment |= {"CELERY_BROKER_URL": broker, "LOOK_EVERY": "0.1"}
        request.addfinalizer(lambda: forget(broker, environment["QUEUE"]))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for i in range(GRANTS):
        world.refund_of(100 + i)
    posted = threading.Event()
    stripe.before_answering = lambda seen: _dawdle(seen, chance, posted)
    kills = 0
    while kills < KILLS and left(world):
        with worker(environment, celery=celery, log=log) as process:
            for _ in range(chance.randint(1, 6)):
                posted.clear()
                assert posted.wait(30), f"the worker sends nothing\n{log.read_text()}"
            time.sleep(chance.uniform(0, 0.02))
            kill(process)
        kills += 1
        time.sleep(0.1)  # what was on the wire when it died is answered by now
        two_minutes_later(world)
    assert kills == KILLS, "the run ended before it was killed ten times"
    assert left(world), "nothing was left to be picked up"
    stripe.before_answering = lambda seen: None
    with worker(environment, celery=celery, log=log):
        eventually(lambda: left(world) == 0, f"all sent\n{log.read_text()}", 60)
    each_grant_is_in_stripe_once(world, stripe)


def _dawdle(seen: object, chance: random.Random, posted: threading.Event) -> None:
    """Hold the answer back a little, so that some die with it on the way."""
    if getattr(seen, "method", "") == "POST":
        posted.set()
        time.sleep(chance.choice([0, 0.005, 0.03]))


def forget(broker: str, queue: str) -> None:
    with Connection(broker) as connection, connection.channel() as channel:
        Queue(queue).bind(channel).delete()
