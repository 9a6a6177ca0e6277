"""Amounts as a reader of some language writes them."""

import pytest

from billing.locales import Reader


@pytest.mark.parametrize(
    ("amount", "currency", "tag", "shown"),
    [
        (101_234, "usd", "en-US", "$1,012.34"),
        (101_234, "usd", "de-DE", "1.012,34\xa0$"),
        (1_230, "kwd", "en-US", "KWD\xa01.230"),  # letters stand apart from digits, as in CLDR
        (-1_230, "kwd", "en-US", "-KWD\xa01.230"),
        (120_000, "isk", "de-AT", "ISK\xa01.200"),
        (1_234, "jpy", "ja-JP", "￥1,234"),
        (375, "usd", "en-GB", "US$3.75"),
    ],
)
def test_money_is_written_in_the_readers_way(amount: int, currency: str, tag: str, shown: str) -> None:
    assert Reader(tag).money(amount, currency) == shown
