"""A small Stripe, a house at its address, and one approved run: for tests of pauses, held invoices and grants. And
August 2019 with one business, for tests of what people decide."""

from collections.abc import Iterator

import pytest

from sandbox.postgres import Urls
from tenants.db import Database
from tenants.house import House
from tests.billing.outages.august import August
from tests.billing.outages.rows import Approved, house_at
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.wire import listening
from tests.factories import building
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


@pytest.fixture
def august(db: Database) -> August:
    """One business that paid 31.00 for August."""
    made = August(db)
    with building(db):
        made.sell()
    return made


@pytest.fixture
def superuser(database_urls: Urls) -> Iterator[Database]:
    """Whom no rule of the database binds, as whoever keeps it up."""
    database = Database(database_urls.owner.replace("outage_owner@", "postgres@"), pool_size=1)
    yield database
    database.dispose()
