"""Which currencies there are."""

from babel.numbers import list_currencies


def is_currency(code: str) -> bool:
    """Whether three letters, such as `usd`, stand for money: ISO 4217 has some for tests and for none, too."""
    return code.isascii() and code.upper() in list_currencies() and code.upper() not in ("XXX", "XTS")
