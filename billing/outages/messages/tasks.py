"""`messages.compose`, `messages.send` and the sweep over both, as tasks of the house's worker."""

import time

from celery import Celery

from billing.outages import stopping
from billing.outages.messages import composing, sending
from billing.outages.tasks import AT_MOST, LOOK_EVERY, Watched, ring, watch
from tenants.house import House


def join(celery: Celery, house: House) -> None:
    """Teach the worker to write to customers."""

    def look(_subject: int | str) -> None:
        if sweep(house, time.monotonic() + AT_MOST):
            ring(celery, "messages.sweep", 0)

    def compose(_subject: int | str) -> None:
        _composed(house, time.monotonic() + AT_MOST)

    for name, does in (("compose", compose), ("send", look), ("sweep", look)):
        celery.task(name=f"messages.{name}", max_retries=0, shared=False)(does)
    celery.conf.beat_schedule["messages"] = {"task": "messages.sweep", "schedule": LOOK_EVERY, "args": (0,)}
    watch(celery, Watched("messages.sweep", composing.oldest_due(), sweep))
    watch(celery, Watched("messages.send", sending.oldest_due(house), sweep))


def sweep(house: House, until: float) -> bool:
    """Write what is missing and send what is due until `until` (time.monotonic()). True: something may be left."""
    left = _composed(house, until)
    while not stopping.time_is_up(until):
        if sending.send_due(house) < sending.AT_ONCE:
            return left
    return True


def _composed(house: House, until: float) -> bool:
    while not stopping.time_is_up(until):
        if not composing.compose_due(house):
            return False
    return True
