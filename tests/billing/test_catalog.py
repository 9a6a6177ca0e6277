"""What is said of a plan."""

from typing import Any

import pytest

from billing.catalog import price_in_words

MONTHLY = {
    "currency": "usd", "unit_amount": 3_100, "interval": "month", "interval_count": 1, "metered": False, "active": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "31.00 USD for 1 month"),
        ({"currency": "jpy", "interval_count": 3}, "3,100 JPY for 3 months"),
        ({"unit_amount": None, "metered": True}, "USD by its own table for 1 month, by use"),
        ({"interval": None, "interval_count": None}, "31.00 USD"),
        ({"unit_amount": 0, "active": False}, "0.00 USD for 1 month, archived"),
    ],
)
def test_a_price_in_words(changes: dict[str, Any], words: str) -> None:
    assert price_in_words(MONTHLY | changes) == words
