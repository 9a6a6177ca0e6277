"""A small Stripe, a house at its address, and one approved run: for tests of pauses, held invoices and grants."""

from collections.abc import Iterator

import pytest

from tenants.db import Database
from tenants.house import House
from tests.billing.outages.rows import Approved, house_at
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
def house(db: Database, stripe: SmallStripe) -> House:
    return house_at(stripe.url, db)
