"""The Celery app of the campaign's workers: the engine's own, on a clock that runs `HURRY` times as fast.

Leases and waits are divided by it, so that what a dead worker held is free again in seconds; what a call may take is
not. Everything else is in the environment.
"""

import gc
import os
import sys
import time
from datetime import timedelta
from typing import Final

from celery.signals import worker_before_create_process, worker_ready

from billing.outages import claims, grants, tasks, waits
from tenants.db import Database
from tenants.house import House, clock_for
from tenants.settings import read
from webhooks import tasks as webhook_tasks

LONGEST: Final = timedelta(seconds=3)
"""For which an answer that stayed away is waited at most: a run shall end."""
WAITS: Final = ("LEASE", "SOON", "LATER", "TWICE_APART")


def hurry(times: int) -> None:
    """Let every module of the engine that is loaded wait so much shorter."""
    shorter = {name: getattr(waits, name) / times for name in WAITS}
    for module in [one for name, one in sys.modules.items() if name.startswith("billing.outages")]:
        for name, value in shorter.items():
            if isinstance(getattr(module, name, None), timedelta):
                setattr(module, name, value)
    waits._ASK_AGAIN = tuple(min(wait / times, LONGEST) for wait in waits._ASK_AGAIN)  # type: ignore[assignment]


@worker_before_create_process.connect
def _kept(**_: object) -> None:
    gc.freeze()  # Celery collects before each fork, and here it forks several a second


@worker_ready.connect
def _ready(**_: object) -> None:
    print("ready", os.getpid(), flush=True)


settings = read(os.environ)
house = House(settings, Database(settings.database_url), clock_for(settings))
tasks.LOOK_EVERY = float(os.environ["LOOK_EVERY"])
grants.MOST_DEATHS = claims.MOST_TRIES = int(os.environ["MOST_DEATHS"])
celery = tasks.make_celery(house)
webhook_tasks.join(celery, house)
celery.conf.task_default_queue = os.environ["QUEUE"]
hurry(int(os.environ["HURRY"]))
if "WARM" in os.environ:
    # What this process has compiled its forks need not compile again: a child that lives for a second has no time.
    tasks.sweep(house, time.monotonic() + 1)
    house.database.dispose()
