"""Forms that count once, however often a browser sends them: each is shown with a token of its own."""

import secrets
from collections.abc import Mapping
from typing import Final

from billing.errors import BadRequest

LONGEST: Final = 64


def fresh() -> str:
    """The token of a form that is about to be shown, in its field `form`."""
    return secrets.token_urlsafe(16)


def sent(fields: Mapping[str, str]) -> str | None:
    """The token of the form that was sent; None where it has none. Raises `BadRequest` for what cannot be one."""
    token = fields.get("form", "")
    if len(token) > LONGEST or not (token.isascii() and token.isprintable()):
        raise BadRequest("This form is not one of ours: open the page again.")
    return token or None
