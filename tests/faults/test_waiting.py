"""kill -9 of a worker whose attempt is committed while its call waits for a turn: nothing has left, nothing is lost."""

from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from billing.outages.models import Attempt, Step
from billing.rates import RateBucket
from tenants.db import OPERATOR, Database
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.faults.processes import eventually, kill, worker

NOTES = "/v1/credit_notes"


def attempts(db: Database) -> list[tuple[str, str | None]]:
    with db.work(OPERATOR) as session:
        return [tuple(row) for row in session.execute(sa.select(Attempt.key, Attempt.outcome))]


def test_a_worker_that_dies_while_its_call_waits_for_its_turn_leaves_one_note(
    world: Approved, db: Database, stripe: SmallStripe, environment: dict[str, str], log: Path
) -> None:
    """Reads have turns. The one that makes a note has none for a minute, and the worker waits for it."""
    step = world.refund_of(1_200)
    with db.work(OPERATOR) as session:
        in_a_minute = sa.func.clock_timestamp() + timedelta(minutes=1)
        session.add(RateBucket(account="", endpoint=f"POST {NOTES}", next_at=in_a_minute))
    environment |= {"STRIPE_RATE": "100/25"}
    with worker(environment, celery=False, log=log) as process:
        eventually(lambda: len(attempts(db)) == 1, f"an attempt is committed\n{log.read_text()}")
        kill(process)
    ((key, outcome),) = attempts(db)
    assert (stripe.posts(NOTES), outcome, world.seen(Step, step).state) == ([], None, "sent")

    with db.work(OPERATOR) as session:  # two minutes later
        ago = sa.func.clock_timestamp() - timedelta(seconds=1)
        session.execute(sa.update(RateBucket).values(next_at=ago))
        session.execute(sa.update(Step).values(lease_until=ago, due_at=ago))
    with worker(environment, celery=False, log=log):
        eventually(lambda: world.seen(Step, step).state == "succeeded", f"it is sent\n{log.read_text()}")
    assert [post.headers["Idempotency-Key"] for post in stripe.posts(NOTES)] == [key]
    # Nobody knew that nothing had left: it was looked for before it was sent under the same key.
    assert ("GET", NOTES) in [(request.method, request.path) for request in stripe.sent]
    assert len(stripe.refunds) == 1
