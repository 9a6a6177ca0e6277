"""A small Stripe that other processes reach, one approved run, and the environment of a worker process."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import postgres
from tenants.db import Database
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.wire import listening
from tests.invariants import invariants_hold

__all__ = ["invariants_hold"]


@pytest.fixture
def stripe() -> Iterator[SmallStripe]:
    with listening() as wire:
        yield SmallStripe(wire)


@pytest.fixture
def world(db: Database, stripe: SmallStripe) -> Approved:
    return Approved(db, stripe).begin()


@pytest.fixture
def environment(clean_database: postgres.Urls, stripe: SmallStripe) -> dict[str, str]:
    """Of a worker on this test's database and Stripe. Its queue is nobody else's."""
    return {
        "DATABASE_URL": clean_database.app,
        "STRIPE_API_BASE": stripe.url,
        "QUEUE": f"test-{uuid.uuid4().hex}",
        "PYTHONWARNINGS": "default",
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"
