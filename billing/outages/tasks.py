"""The worker. A task carries one id and says "look": the rows' own states and due times are the queue.

Losing every message costs a delay: each worker looks at the rows by itself every few seconds, whether the broker, the
beat or nobody at all has rung. Two workers that look at once are kept apart by the rows' locks and leases.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from celery import Celery, bootsteps
from celery.signals import worker_process_init, worker_shutting_down
from celery.worker import WorkController
from kombu.exceptions import KombuError
from sqlalchemy.orm import Session

from billing import circuits, gateway
from billing.errors import Unavailable
from billing.outages import (
    bookkeeping,
    due,
    fees,
    funding,
    grants,
    held,
    newcomers,
    oversight,
    pauses,
    preflight,
    recovery,
    restore,
    retirements,
    settling,
    stopping,
)  # fmt: skip
from billing.outages.turns import Turns
from tenants.db import BY_INDEX, OPERATOR, planned
from tenants.house import House

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds between two looks of a worker at the rows, and between two rings of the beat."""
AT_MOST = 20.0
"""Seconds that one task works before it rings for the rest: far below every broker's patience with a task."""
RING_LIMIT = 2.0
"""Seconds that a publisher waits for a broker that does not answer."""
OVERDUE = timedelta(seconds=15)
"""Work that has been due for so long was not heard of by anybody: whoever notices does it."""
STANDSTILL = timedelta(seconds=60)
"""Work is due, and for so long no call has been made: whatever the workers say of themselves, they do nothing."""
AT_ONCE = 4
"""Threads that `work_until_quiet` works with: it mostly waits for Stripe."""
SOME = 5
"""What one queue does before the next has its turn."""

Drain = Callable[[House, float], bool]


@dataclass(frozen=True)
class Watched:
    """Rows that are a queue: a task that drains them, and how to ask `(oldest due time or None, now)`."""

    task: str
    oldest_due: sa.Select[Any]
    drain: Drain

    def look(self, session: Session) -> tuple[datetime | None, datetime]:
        """Since when the oldest of it has been due, None where nothing is; and what time it is."""
        with planned(session, **BY_INDEX):
            oldest, now = session.execute(self.oldest_due).one()
        return oldest, now


def make_celery(house: House) -> Celery:
    """The Celery app of this house, with its tasks, its beat and the look that each worker takes by itself."""
    celery = Celery("outages", broker=house.settings.celery_broker_url)
    in_memory = house.settings.celery_broker_url.startswith("memory:")
    celery.conf.update(
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=1,
        task_soft_time_limit=45,
        task_time_limit=60,
        task_publish_retry=False,
        broker_connection_timeout=RING_LIMIT,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=5,
        broker_transport_options=_transport(house.settings.celery_broker_url, in_memory),
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        timezone="UTC",
        beat_schedule={"sweep": {"task": "outages.sweep", "schedule": LOOK_EVERY, "args": (0,)}},
    )
    for name, drain in (("hold", _hold), ("send", _send), ("release", _release), ("retire", _retire), ("sweep", sweep)):
        _task(celery, house, f"outages.{name}", drain)
    celery.conf["house"] = house
    celery.conf["watched"] = []
    watch(celery, _of_incidents())
    _task(celery, house, "outages.learn_fees", _learn_fees)
    watch(celery, Watched("outages.learn_fees", fees.oldest_due(), _learn_fees))
    _task(celery, house, "outages.look_for_funds", _look_for_funds)
    watch(celery, Watched("outages.look_for_funds", funding.oldest_due(), _look_for_funds))
    _task(celery, house, "outages.settle", _settle)
    watch(celery, Watched("outages.settle", settling.oldest_due(), _settle))
    watch(celery, Watched("outages.send", preflight.oldest_due(), _send))
    _task(celery, house, "outages.join", _join)
    watch(celery, Watched("outages.join", newcomers.oldest_due(), _join))
    _task(celery, house, "outages.check_invariants", _check_invariants)
    watch(celery, Watched("outages.check_invariants", oversight.oldest_due(), _check_invariants))
    _task(celery, house, "outages.compare", _compare)
    watch(celery, Watched("outages.compare", bookkeeping.oldest_due(), _compare))
    _task(celery, house, "outages.recover", _recover)
    watch(celery, Watched("outages.recover", recovery.oldest_due(), _recover))
    celery.steps["worker"].add(_looking_step(celery, house))
    worker_process_init.connect(lambda **_: house.database.dispose(close=False), weak=False)
    worker_process_init.connect(_as_a_child)
    worker_shutting_down.connect(_as_it_ends)
    return celery


def _as_a_child(**_: Any) -> None:
    stopping.heed_the_parent_alone()


def _as_it_ends(**_: Any) -> None:
    stopping.ask()


def watch(celery: Celery, queue: Watched) -> None:
    """Have every worker look at `queue` by itself."""
    celery.conf["watched"].append(queue)


def bell(celery: Celery) -> Callable[[str, int | str], None]:
    """What `Database.ring` is to be."""
    return lambda task, subject: ring(celery, task, subject)


def ring(celery: Celery, task: str, subject: int | str) -> None:
    """Publish one id. A broker that does not answer costs at most `RING_LIMIT`, and never the change that was made."""

    unheard: tuple[type[BaseException], ...] = (KombuError, OSError, *celery.connection_for_write().connection_errors)

    def publish() -> None:
        try:
            celery.send_task(task, args=[subject], retry=False, confirm_timeout=RING_LIMIT)
        except unheard as error:
            log.warning("Nobody heard %s(%s): %s. The next look finds it.", task, subject, error)

    # Brokers that accept a connection and then say nothing hang each library in its own way, so the limit is ours.
    ringing = threading.Thread(target=publish, name="ring", daemon=True)
    ringing.start()
    ringing.join(RING_LIMIT)
    if ringing.is_alive():
        log.warning("The broker does not answer to %s(%s). The next look finds it.", task, subject)


def work_in_this_process(celery: Celery, concurrency: int = 4) -> WorkController:
    """A worker on threads of this process, for `memory://`: its messages reach no other process. Ends with `stop()`."""
    celery.finalize()
    celery.set_default()
    celery.loader.init_worker()
    worker = WorkController(
        app=celery, pool="threads", concurrency=concurrency, without_gossip=True, without_mingle=True,
        without_heartbeat=True,
    )  # fmt: skip
    threading.Thread(target=worker.start, name="worker", daemon=True).start()
    return worker


def sweep(house: House, until: float) -> bool:
    """Look at everything that is due, pauses first, until `until` (time.monotonic()). True: something may be left."""
    return _everything(house, until).work(partial(restore.look, house))


def _everything(house: House, until: float) -> Turns:
    queues: tuple[Callable[[House, int], int], ...] = (
        recovery.recover_due, pauses.hold_due, held.stop_due, retirements.carry_out_due, funding.look_due,
        preflight.look_due, grants.send_due, pauses.release_due, held.release_due, settling.settle_due,
    )  # fmt: skip
    return _turns(house, until, *queues)


def not_ready(house: House) -> str | None:
    """What keeps this installation from sending, for `/readyz`: work that nobody does, or a Stripe left alone."""
    with house.database.work(OPERATOR) as session:
        oldest, now = _of_incidents().look(session)
        called_at = session.scalar(sa.select(sa.func.max(circuits.Circuit.called_at)))
        alone = circuits.troubles(session)
    if oldest is not None and now - max(oldest, called_at or oldest) > STANDSTILL:
        waited = int((now - oldest).total_seconds())
        return f"Work has been due for {waited} seconds and nobody does it: is a worker alive?"
    if alone:
        return f"Stripe is left alone for now: {' '.join(alone)}"
    return None if gateway.reachable(house) else "Stripe cannot be reached."


def work_until_quiet(house: House, incident_id: str, timeout: float) -> None:
    """Work in this process until nothing of the incident is left to do without a person, on any broker.

    Then every run is done, halted or waits for approval, and every pause is held, left or released. Raises
    `Unavailable` when that takes longer than `timeout` seconds: whichever worker is alive goes on.
    """
    until = time.monotonic() + timeout
    with ThreadPoolExecutor(AT_ONCE, "work") as pool:
        while True:
            turns = _everything(house, min(until, time.monotonic() + AT_MOST))
            for done in [pool.submit(turns.work, partial(restore.look, house)) for _ in range(AT_ONCE)]:
                done.result()
            if due.is_quiet(house, incident_id):
                return
            if time.monotonic() >= until:
                raise Unavailable(
                    f"Not everything of {incident_id} is done after {timeout:.0f} seconds; the workers go on with it."
                )
            time.sleep(0.2)  # what is left waits for its due time, or for another worker


def _hold(house: House, until: float) -> bool:
    return _drained(house, until, pauses.hold_due, held.stop_due)


def _send(house: House, until: float) -> bool:
    return _drained(house, until, preflight.look_due, grants.send_due)


def _release(house: House, until: float) -> bool:
    return _drained(house, until, pauses.release_due, held.release_due)


def _check_invariants(house: House, until: float) -> bool:
    oversight.check_due(house)
    return False


def _compare(house: House, until: float) -> bool:
    # It takes minutes where there is much to compare: neither a task nor whoever looks may wait for it.
    threading.Thread(target=bookkeeping.compare_due, args=(house,), name="compare", daemon=True).start()
    return False


def _recover(house: House, until: float) -> bool:
    recovery.recover_due(house)
    return False


def _retire(house: House, until: float) -> bool:
    return _drained(house, until, retirements.carry_out_due)


def _learn_fees(house: House, until: float) -> bool:
    return _drained(house, until, fees.learn_due)


def _settle(house: House, until: float) -> bool:
    return _drained(house, until, settling.settle_due)


def _join(house: House, until: float) -> bool:
    return _drained(house, until, newcomers.look_due)


def _look_for_funds(house: House, until: float) -> bool:
    return _drained(house, until, funding.look_due)


def _drained(house: House, until: float, *queues: Callable[[House, int], int]) -> bool:
    """Take turns at the queues until none has more, or until `until`. True: something may be left."""
    return _turns(house, until, *queues).work(partial(restore.look, house))


def _turns(house: House, until: float, *queues: Callable[[House, int], int]) -> Turns:
    """Turns of `SOME`. What a slow queue takes of the others' time gives way to what Celery allows a task."""
    return Turns([partial(queue, house) for queue in queues], SOME, until, until + AT_MOST)


def _task(celery: Celery, house: House, name: str, drain: Drain) -> None:
    def look(_subject: int | str) -> None:
        if drain(house, time.monotonic() + AT_MOST):
            ring(celery, name, _subject)

    celery.task(name=name, max_retries=0, shared=False)(look)


def _transport(broker_url: str, in_memory: bool) -> dict[str, Any]:
    if in_memory:
        return {"polling_interval": 0.02}
    if broker_url.startswith("amqp"):
        return {
            "confirm_publish": True,
            "connect_timeout": RING_LIMIT,
            "write_timeout": RING_LIMIT,
        }
    return {"socket_timeout": 30, "socket_connect_timeout": RING_LIMIT}


def _looking_step(celery: Celery, house: House) -> type[bootsteps.StartStopStep]:
    """A part of every worker: a thread that rings for what is due, and does it itself where nobody hears."""

    class Looking(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def __init__(self, parent: Any, **_: Any) -> None:
            self.ended = threading.Event()
            self.thread: threading.Thread | None = None

        def start(self, _parent: Any) -> None:
            self.thread = threading.Thread(target=self._look, name="looking", daemon=True)
            self.thread.start()

        def stop(self, parent: Any) -> None:
            self.ended.set()
            if self.thread is not None:
                self.thread.join(timeout=AT_MOST)

        terminate = stop

        def _look(self) -> None:
            while not self.ended.wait(LOOK_EVERY):
                try:
                    for queue in celery.conf["watched"] if restore.look(house) else ():
                        self._look_at(queue)
                except sa.exc.DBAPIError as error:
                    log.warning("The database does not answer: %s. Looking again.", error)

        def _look_at(self, queue: Watched) -> None:
            """What goes wrong in one queue keeps nobody from looking at the others, nor at this one again."""
            try:
                _look_once(celery, house, queue)
            except sa.exc.DBAPIError:
                raise
            except Exception:  # without a beat nothing but this thread looks: a defect is told, and must not end it
                log.exception("Looking at what is due for %s went wrong. Looking again.", queue.task)

    return Looking


def _look_once(celery: Celery, house: House, queue: Watched) -> None:
    with house.database.work(OPERATOR) as session:
        oldest, now = queue.look(session)
    if oldest is None or oldest > now:
        return
    if now - oldest > OVERDUE:
        queue.drain(house, time.monotonic() + LOOK_EVERY)
    else:
        ring(celery, queue.task, 0)


def _of_incidents() -> Watched:
    return Watched("outages.sweep", due.oldest(), sweep)
