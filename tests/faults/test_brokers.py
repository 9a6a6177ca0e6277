"""Real brokers, real workers: a bell that rings, a bell that is lost, a worker that is killed. Rows decide."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from celery import Celery
from kombu import Connection, Queue

from billing.outages import tasks
from billing.outages.models import Step
from tenants.db import OPERATOR, after_commit
from tests.billing.outages.rows import Approved, house_at
from tests.billing.outages.small_stripe import SmallStripe
from tests.faults.processes import beat, eventually, worker

NOTES = "/v1/credit_notes"


@pytest.fixture(params=["redis_url", "amqp_url"])
def broker(request: pytest.FixtureRequest, environment: dict[str, str]) -> Iterator[str]:
    """A broker on this machine; the test's queue is deleted in the end."""
    url: str = request.getfixturevalue(request.param)
    yield url
    with Connection(url) as connection, connection.channel() as channel:
        Queue(environment["QUEUE"]).bind(channel).delete()


@pytest.fixture
def bell(world: Approved, broker: str, environment: dict[str, str], stripe: SmallStripe) -> Celery:
    """What a web process would ring with."""
    house = house_at(stripe.url, world.database)
    celery = tasks.make_celery(replace(house, settings=replace(house.settings, celery_broker_url=broker)))
    celery.conf.task_default_queue = environment["QUEUE"]
    world.database.ring = tasks.bell(celery)
    return celery


def all_sent(world: Approved) -> bool:
    with world.database.work(OPERATOR) as session:
        return session.scalars(sa.select(sa.func.bool_and(Step.state == "succeeded"))).one() is True


def waiting_messages(broker: str, queue: str) -> int:
    with Connection(broker) as connection, connection.channel() as channel:
        return int(Queue(queue).bind(channel).queue_declare(passive=True).message_count)


def test_a_prefork_worker_hears_the_bell_and_sends_each_grant_once(
    world: Approved, broker: str, bell: Celery, environment: dict[str, str], stripe: SmallStripe, log: Path
) -> None:
    with worker(environment | {"CELERY_BROKER_URL": broker, "LOOK_EVERY": "600"}, celery=True, log=log):
        eventually(lambda: log.exists() and b"ready" in log.read_bytes(), "the worker is ready")
        for i in range(12):
            world.refund_of(100 + i)
        with world.database.work(OPERATOR) as session:
            for _ in range(10):  # delivered ten times: still one POST for each
                after_commit(session, "outages.send", "inc_1")
        eventually(lambda: all_sent(world), f"all sent\n{log.read_text()}")
    assert len(stripe.posts(NOTES)) == len(stripe.refunds) == 12


def test_a_purged_queue_and_no_beat_cost_a_delay_and_no_grant(
    world: Approved, broker: str, bell: Celery, environment: dict[str, str], stripe: SmallStripe, log: Path
) -> None:
    for i in range(12):
        world.refund_of(100 + i)
    with world.database.work(OPERATOR) as session:
        after_commit(session, "outages.send", "inc_1")
    with Connection(broker) as connection, connection.channel() as channel:
        queue = Queue(environment["QUEUE"]).bind(channel)
        queue.declare()
        assert queue.purge() == 1
    with worker(environment | {"CELERY_BROKER_URL": broker, "LOOK_EVERY": "1"}, celery=True, log=log):
        eventually(lambda: all_sent(world), f"found without a bell\n{log.read_text()}")
    assert len(stripe.posts(NOTES)) == len(stripe.refunds) == 12


def test_three_beats_and_three_workers_send_each_grant_once(
    world: Approved, broker: str, environment: dict[str, str], stripe: SmallStripe, log: Path, tmp_path: Path
) -> None:
    """Nobody rang for these, and no worker looks by itself: only the beats do, each as if it were the only one."""
    deaf = environment | {"CELERY_BROKER_URL": broker, "LOOK_EVERY": "600"}
    with ExitStack() as stack:
        for no in range(3):
            stack.enter_context(worker(deaf, celery=True, log=tmp_path / f"worker{no}.log", concurrency=1))
        for i in range(12):
            world.refund_of(100 + i)
        for no in range(3):
            rings = deaf | {"LOOK_EVERY": "1"}
            stack.enter_context(beat(rings, log=tmp_path / f"beat{no}.log", remembers=tmp_path / f"beat{no}"))
        eventually(lambda: all_sent(world), "all sent")
        for no in range(3):
            eventually(lambda: b"Sending due task" in (tmp_path / f"beat{no}.log").read_bytes(), f"beat {no} rang")  # noqa: B023
    assert len(stripe.posts(NOTES)) == len(stripe.refunds) == 12


def test_what_is_declared_while_the_broker_is_down_is_done_by_workers_that_look(
    world: Approved, environment: dict[str, str], stripe: SmallStripe, log: Path, free_port: int
) -> None:
    """A worker that cannot reach its broker at all: it does what it finds due, once nobody else has for a while."""
    step = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Step).values(due_at=sa.func.now() - tasks.OVERDUE * 2))
    down = {"CELERY_BROKER_URL": f"redis://127.0.0.1:{free_port}/0", "LOOK_EVERY": "0.5"}
    with worker(environment | down, celery=True, log=log):
        eventually(lambda: world.seen(Step, step).state == "succeeded", f"done without a broker\n{log.read_text()}")
