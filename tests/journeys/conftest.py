"""What every journey begins with, and what must always hold after it."""

from collections.abc import Iterator

import pytest

from tests.invariants import invariants_hold
from tests.journeys import shop as shops
from tests.journeys.shop import Shop

__all__ = ["invariants_hold"]


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A sandbox in which a plan of 31.00 USD a month is sold, on 1 August 2019."""
    with shops.opened() as opened:
        yield opened
