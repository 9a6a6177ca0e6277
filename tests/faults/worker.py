"""A worker's app for tests that need a process of its own: `celery -A tests.faults.worker worker`, or this file alone,
which works until nothing is due. Everything it needs is in the environment."""

import os
import sys
import time
from datetime import UTC, datetime

from billing.outages import tasks
from tenants.clock import FixedClock
from tenants.db import Database
from tenants.house import House
from tenants.settings import read
from webhooks import tasks as webhook_tasks

settings = read({"STRIPE_SECRET_KEY": "sk_test_1"} | os.environ)
house = House(settings, Database(settings.database_url), FixedClock(datetime(2019, 8, 26, 14, tzinfo=UTC)))
if "LOOK_EVERY" in os.environ:
    tasks.LOOK_EVERY = float(os.environ["LOOK_EVERY"])
celery = tasks.make_celery(house)
webhook_tasks.join(celery, house)
celery.conf.task_default_queue = os.environ.get("QUEUE", "outages")

if __name__ == "__main__":
    while True:
        tasks.sweep(house, time.monotonic() + 20)
        if sys.argv[1:] == ["once"]:
            break
        time.sleep(0.05)
