"""Who works, and who says so: brokers ring, rows decide."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from celery import Celery

from billing import circuits
from billing.errors import Unavailable
from billing.outages import due, grants, preflight, tasks
from billing.outages.decisions import Retirement
from billing.outages.models import Control, Incident, Pause, Run, Step
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.faults.processes import eventually
from webhooks import tasks as webhook_tasks


@pytest.fixture
def celery(house: House) -> Celery:
    made = tasks.make_celery(house)
    webhook_tasks.join(made, house)
    return made


@pytest.fixture
def working(celery: Celery, house: House) -> Iterator[Celery]:
    """A worker on threads of this process, as the web process has one."""
    before = set(threading.enumerate())
    house.database.ring = tasks.bell(celery)
    worker = tasks.work_in_this_process(celery, concurrency=2)
    yield celery
    worker.stop()
    eventually(lambda: {t for t in threading.enumerate() if t.name in ("worker", "looking")} <= before, "it ended")


def ended(world: Approved, *steps: int) -> bool:
    return all(world.seen(Step, id).state == "succeeded" for id in steps)


def test_messages_are_json_with_one_id_and_early_acks(celery: Celery) -> None:
    assert list(celery.conf.accept_content) == ["json"]
    assert celery.conf.task_ignore_result
    assert not celery.conf.task_acks_late
    assert celery.conf.worker_prefetch_multiplier == 1
    assert 0 < celery.conf.task_soft_time_limit < celery.conf.task_time_limit <= 60
    ours = {"outages.hold", "outages.send", "outages.release", "outages.sweep", "webhooks.sweep", "webhooks.follow"}
    assert ours <= set(celery.tasks)
    assert all(celery.tasks[name].max_retries == 0 for name in ours)


def test_what_was_committed_is_rung_for_and_done(world: Approved, working: Celery) -> None:
    step = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        after_commit(session, "outages.send", "inc_1")
    eventually(lambda: ended(world, step), "sent", 4)  # sooner than the worker looks by itself


def test_a_lost_message_costs_a_delay(
    world: Approved, house: House, stripe: SmallStripe, celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LOOK_EVERY", 0.2)
    worker = tasks.work_in_this_process(celery, concurrency=2)
    try:
        step = world.refund_of(1_200)  # nobody rings
        eventually(lambda: ended(world, step), "found by the worker itself")
    finally:
        worker.stop()


def test_a_queue_that_goes_wrong_keeps_nobody_from_looking_at_the_others(
    world: Approved, stripe: SmallStripe, celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(_house: House, _until: float) -> bool:
        raise ZeroDivisionError

    long_due = sa.select(sa.func.now() - sa.text("interval '1 h'"), sa.func.now())
    celery.conf["watched"] = [tasks.Watched("outages.sweep", long_due, raises), *celery.conf["watched"]]
    monkeypatch.setattr(tasks, "LOOK_EVERY", 0.2)
    worker = tasks.work_in_this_process(celery, concurrency=2)
    try:
        for _ in range(2):
            step = world.refund_of(1_200)  # nobody rings
            eventually(lambda id=step: ended(world, id), "found by the worker itself", 10)  # type: ignore[misc]
    finally:
        worker.stop()


def test_where_nobody_hears_the_bell_the_worker_works_itself(
    world: Approved, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = tasks.make_celery(house)
    monkeypatch.setattr(tasks, "ring", lambda *_: None)
    step = world.refund_of(1_200)
    queue = next(one for one in deaf.conf["watched"] if one.task == "outages.sweep")
    tasks._look_once(deaf, house, queue)
    assert not ended(world, step)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Step).values(due_at=sa.func.now() - tasks.OVERDUE * 2))
    tasks._look_once(deaf, house, queue)
    assert ended(world, step)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
@pytest.mark.parametrize("listens", [False, True])
def test_a_broker_that_does_not_answer_costs_two_seconds_and_nothing_else(
    world: Approved, house: House, scheme: str, listens: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}//"
        if not listens:
            silent.close()
        celery = tasks.make_celery(replace(house, settings=replace(house.settings, celery_broker_url=url)))
        house.database.ring = tasks.bell(celery)
        began = time.monotonic()
        with world.database.work(OPERATOR) as session:
            session.execute(sa.update(Run).values(policy="credit"))
            after_commit(session, "outages.send", "inc_1")
        assert time.monotonic() - began < tasks.RING_LIMIT + 0.5
    assert world.seen(Run, "run_1").policy == "credit"
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "ring"], "the bell ringer went home")


def test_waiting_works_by_itself_until_all_is_quiet(world: Approved, house: House, stripe: SmallStripe) -> None:
    steps = [world.refund_of(100 + i) for i in range(5)]
    with world.database.work(OPERATOR) as session:
        pause = world.pause(session, world.customer(session))
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    assert ended(world, *steps)
    assert world.seen(Pause, pause.id).state == "held"
    assert world.seen(Run, "run_1").state == "done"


def test_asking_whether_all_is_quiet_changes_nothing(world: Approved, house: House) -> None:
    """A pause that is to be lifted: it is a worker that begins to."""
    with world.database.work(OPERATOR) as session:
        pause = world.pause(session, world.customer(session), state="held")
        session.execute(sa.update(Run).values(state="done"))
    assert due.is_quiet(house, "inc_1")
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(state="resolved", resolved_at=sa.func.now(), ended_at=sa.func.now()))
    assert not due.is_quiet(house, "inc_1")
    assert world.seen(Pause, pause.id).state == "held"
    with world.database.work(OPERATOR) as session:  # one that a person is to see to is looked at once a day
        later = sa.func.now() + timedelta(days=1)
        session.execute(sa.update(Pause).values(state="needs_person", reason="x", due_at=later))
    assert due.is_quiet(house, "inc_1")


def test_waiting_ends_when_a_person_has_to_go_on(world: Approved, house: House) -> None:
    world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Run).values(state="halted"))
        session.add(Control(scope="incident:inc_1", sending=False, reason="halted", by="x"))
    tasks.work_until_quiet(house, "inc_1", timeout=5)


@pytest.mark.parametrize("scope", ["", "account:"], ids=["everything", "the operator's account"])
def test_waiting_ends_where_nothing_may_be_sent(world: Approved, house: House, scope: str) -> None:
    """A run goes on while its account is halted, and no worker can do anything about it."""
    world.refund_of(1_200)
    halt(world, scope)
    tasks.work_until_quiet(house, "inc_1", timeout=2)
    assert world.seen(Run, "run_1").state == "running"


def test_what_is_in_flight_as_all_is_halted_has_an_answer_to_come(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step = world.refund_of(1_200)
    stripe.spoil("POST", "/v1/credit_notes", "lost_after")
    assert grants.send_due(house, 1) == 1
    assert world.seen(Step, step).state == "unknown"
    halt(world, "")
    assert not due.is_quiet(house, "inc_1")


def halt(world: Approved, scope: str) -> None:
    with world.database.work(OPERATOR) as session:
        session.add(Control(scope=scope, sending=False, reason="halted", by="x"))


def test_waiting_gives_up_in_time_and_says_that_the_workers_go_on(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    world.refund_of(1_200)
    stripe.spoil("POST", "/v1/credit_notes", *["lost_before"] * 9)
    with pytest.raises(Unavailable, match="the workers go on"):
        tasks.work_until_quiet(house, "inc_1", timeout=1)


def test_work_that_nobody_does_for_a_minute_is_not_ready_and_a_busy_worker_is(world: Approved, house: House) -> None:
    world.refund_of(1_200)
    assert tasks.not_ready(house) is None
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Step).values(due_at=sa.func.now() - tasks.STANDSTILL * 1.5))
    assert (tasks.not_ready(house) or "").startswith("Work has been due for 9")
    with world.database.work(OPERATOR) as session:
        circuits.count(session, "", calls=1, failures=0)  # there is much to do, and somebody does it
    assert tasks.not_ready(house) is None
    with world.database.work(OPERATOR) as session:
        circuits.open_up(session, "", "Stripe refuses the key.", 60)
    told = "Stripe is left alone for now: the operator's account: Stripe refuses the key."
    assert tasks.not_ready(house) == told


def test_what_waits_for_an_account_that_is_left_alone_is_due_once_it_is_called_again(
    world: Approved, house: House
) -> None:
    world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        world.pause(session, world.customer(session))
        n = world.customer(session)
        world.invoice(session, n, 5_800, (), status="open")
        world.held(session, n, world.pause(session, n, state="held"))
        circuits.open_up(session, "", "Stripe refuses the key.", 60)
        session.add(
            Retirement(
                agency_id=world.agency_id, incident_id=world.incident_id, subscription_id=f"sub_{n}", kind="cancel",
                moves={}, state="planned",
            )
        )  # fmt: skip
    assert world.due_in() is None
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Run).values(opened_to=0))
        assert session.execute(preflight.oldest_due()).one()[0] is None
        session.rollback()
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(circuits.Circuit).values(see_at=sa.func.now()))
    assert (world.due_in() or timedelta(1)) < timedelta(0)
