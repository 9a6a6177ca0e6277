"""What every edge needs to run: the settings, the database and the clock, made once by wsgi.py or by a test."""

from dataclasses import dataclass

from tenants.clock import Clock, SandboxClock, SystemClock
from tenants.db import Database
from tenants.settings import Settings


@dataclass(frozen=True, slots=True)
class House:
    """The running program. Flask keeps it in `app.extensions["house"]`, Celery in `app.conf["house"]`."""

    settings: Settings
    database: Database
    clock: Clock


def clock_for(settings: Settings) -> Clock:
    """The source of business time that `CLOCK` names."""
    if settings.clock == "sandbox" and settings.stripe_api_base:
        return SandboxClock(settings.stripe_api_base)
    return SystemClock()
