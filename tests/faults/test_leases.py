"""One step, two workers: while one has it the other does not, and whoever has lost it sends nothing."""

from datetime import timedelta

import sqlalchemy as sa

from billing.outages import bodies, claims
from billing.outages.models import Attempt, Step
from tenants.db import OPERATOR, Database
from tests.billing.outages.rows import Approved, house_at
from tests.billing.outages.small_stripe import SmallStripe


def test_a_step_that_one_worker_has_is_not_another_workers(world: Approved, db: Database) -> None:
    step = world.refund_of(1_200)
    with db.work(OPERATOR) as session:
        mine = claims.claim(session)
    with db.work(OPERATOR) as session:
        assert claims.claim(session) is None
    assert mine is not None
    assert mine.step.id == step


def test_whoever_has_lost_a_step_does_not_begin_to_send_it(world: Approved, db: Database, stripe: SmallStripe) -> None:
    step = world.refund_of(1_200)
    house = house_at(stripe.url, db)
    with db.work(OPERATOR) as session:
        mine = claims.claim(session)
    with db.work(OPERATOR) as session:
        session.execute(sa.update(Step).values(lease_until=sa.func.clock_timestamp() - timedelta(seconds=1)))
    with db.work(OPERATOR) as session:
        theirs = claims.claim(session)
    assert mine is not None
    assert mine.dossier is not None
    assert theirs is not None
    written = bodies.written(house, mine.dossier)
    with db.work(OPERATOR) as session:
        assert claims.begin(session, house, mine, written) is None
    with db.work(OPERATOR) as session:
        assert claims.begin(session, house, theirs, written) is not None
        assert session.scalars(sa.select(Attempt.no).where(Attempt.step_id == step)).all() == [1]
