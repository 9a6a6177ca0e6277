"""Tasks of the house's worker: events of Stripe's, those that no webhook brought, and webhooks to agencies."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from celery import Celery

from billing import following
from billing.errors import Refused
from billing.outages import restore, stopping
from billing.outages.tasks import AT_MOST, LOOK_EVERY, Watched, ring, watch
from tenants.house import House
from webhooks import deliveries, inbox, notices

log = logging.getLogger(__name__)

GATHER: Final = 0.5
"""Seconds after a batch that was not full in which more is let come: most objects have several events, one after the
other, and one look at the object answers all of them."""


def join(celery: Celery, house: House) -> None:
    """Teach the worker to handle events."""
    gathering = threading.Lock()

    def gather() -> None:
        with gathering:
            time.sleep(GATHER)

    def look(_subject: int) -> None:
        def call() -> None:
            ring(celery, "webhooks.sweep", 0)

        # Whoever gathers handles what this one was rung for, too: the other tasks need the worker's other threads.
        if not gathering.locked() and sweep(house, time.monotonic() + AT_MOST, call, gather):
            call()

    def follow(_subject: int) -> None:
        if catch_up(house, time.monotonic() + AT_MOST):
            ring(celery, "webhooks.follow", 0)

    celery.task(name="webhooks.follow", max_retries=0, shared=False)(follow)
    celery.task(name="webhooks.sweep", max_retries=0, shared=False)(look)
    celery.conf.beat_schedule["webhooks"] = {"task": "webhooks.sweep", "schedule": LOOK_EVERY, "args": (0,)}
    celery.conf.beat_schedule["follow"] = {"task": "webhooks.follow", "schedule": following.FOLLOW_EVERY, "args": (0,)}
    watch(celery, Watched("webhooks.sweep", inbox.oldest_due(), sweep))
    watch(celery, Watched("webhooks.follow", following.oldest_due(), catch_up))

    def tell(_subject: int | str) -> None:
        if announce(house, time.monotonic() + AT_MOST):
            ring(celery, "deliveries.send", 0)

    for name in ("derive", "send"):
        celery.task(name=f"deliveries.{name}", max_retries=0, shared=False)(tell)
    celery.conf.beat_schedule["deliveries"] = {"task": "deliveries.derive", "schedule": LOOK_EVERY, "args": (0,)}
    watch(celery, Watched("deliveries.derive", notices.oldest_due(), announce))
    watch(celery, Watched("deliveries.send", deliveries.oldest_due(), announce))


def sweep(
    house: House, until: float, call: Callable[[], object] = lambda: None, gather: Callable[[], object] = lambda: None
) -> bool:
    """Handle what is due until `until` (time.monotonic()). True: something may be left.

    Where one batch does not hold all of it, `call` for somebody else to help; where it is not full, `gather` more.
    """
    while handled := inbox.handle_due(house):
        if stopping.time_is_up(until):
            return True
        (call if handled == inbox.TOGETHER else gather)()
    return False


def catch_up(house: House, until: float) -> bool:
    """Take in the events that no webhook brought, of each account that is due. True: something may be left.

    An account that Stripe does not answer for keeps no other from its turn.
    """
    over = partial(stopping.time_is_up, until)
    if not restore.may_follow(house):
        return False
    while not over() and (account := following.due(house)) is not None:
        try:
            following.follow(house, account, inbox.taking(account, live=house.settings.live), over)
        except Refused as refusal:
            log.warning("Events of the Stripe account %s: %s", account or "of the operator", refusal)
    return over()


def announce(house: House, until: float) -> bool:
    """Write the notices that are missing and send what is due until `until`. True: something may be left."""
    while notices.derive_due(house):
        if stopping.time_is_up(until):
            return True
    while deliveries.send_due(house):
        if stopping.time_is_up(until):
            return True
    return False
