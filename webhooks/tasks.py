"""`webhooks.handle` and the sweep over events that were not heard of, as tasks of the house's worker."""

import time

from celery import Celery

from billing import mirror
from billing.outages.tasks import AT_MOST, LOOK_EVERY, SOME, Watched, ring, watch
from tenants.house import House
from webhooks import inbox

FOLLOW_EVERY = 300.0
"""Seconds between two looks at Stripe's list of events, for those that no webhook brought."""


def join(celery: Celery, house: House) -> None:
    """Teach the worker to handle events."""

    def handle(event_id: int) -> None:
        inbox.handle(house, event_id)

    def look(_subject: int) -> None:
        if sweep(house, time.monotonic() + AT_MOST):
            ring(celery, "webhooks.sweep", 0)

    def follow(account: str) -> None:
        mirror.follow(house, account, inbox.taking(account, live=house.settings.live))

    def follow_all(_subject: int) -> None:
        for account in inbox.accounts(house):
            ring(celery, "mirror.follow", account)

    celery.task(name="webhooks.handle", max_retries=0, shared=False)(handle)
    celery.task(name="mirror.follow", max_retries=0, shared=False)(follow)
    celery.task(name="mirror.follow_all", max_retries=0, shared=False)(follow_all)
    celery.task(name="webhooks.sweep", max_retries=0, shared=False)(look)
    celery.conf.beat_schedule["webhooks"] = {"task": "webhooks.sweep", "schedule": LOOK_EVERY, "args": (0,)}
    celery.conf.beat_schedule["follow"] = {"task": "mirror.follow_all", "schedule": FOLLOW_EVERY, "args": (0,)}
    watch(celery, Watched("webhooks.sweep", inbox.oldest_due(), sweep))


def sweep(house: House, until: float) -> bool:
    """Handle what is due until `until` (time.monotonic()). True: something may be left."""
    while time.monotonic() < until:
        if inbox.handle_due(house, SOME) < SOME:
            return False
    return True
