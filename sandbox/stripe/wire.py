"""Stripe's wire: nested form parameters in, JSON and Stripe's error shape out."""

import json
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

API_VERSION: Final = "2026-10-28.endive"


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class StripeError(Exception):
    """An answer in Stripe's error shape. The unit of work is rolled back, unless the error `commits`: a declined card
    leaves its payment intent and its failed charge behind."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        commits: bool = False,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.commits = commits
        self.headers = headers or {}
        self.type = type
        self.code = code
        self.param = param
        facts = {"code": code, "message": message, "param": param, "type": type, **more}
        self.error: dict[str, Any] = {key: value for key, value in facts.items() if value is not None}

    def body(self) -> dict[str, Any]:
        return {"error": self.error}


class Refused(Exception):
    """A control of the sandbox's own was used wrongly; nothing was changed."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class NotModelled(Exception):
    """Stripe can do this, the sandbox cannot: answered with 501 and the sentence, never with an invented success."""


def missing(label: str, id: str, param: str = "id", named: str | None = None) -> StripeError:
    """What Stripe says about an id that is not there: 404 when the path names it (param `id`, or whatever this
    endpoint calls it: `named`), 400 when a parameter does."""
    status = 404 if param == "id" else 400
    return StripeError(f"No such {label}: '{id}'", status=status, code="resource_missing", param=named or param)


def decode(text: str) -> dict[str, Any]:
    """`a[b][0]=c&d[]=e` as nested dicts. Lists stay dicts with the keys "0", "1", …: only the parameter's type knows
    which of them is a list (`params.py` turns them)."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head, bracket, rest = name.partition("[")
        if not head or (bracket and not rest.endswith("]")):
            raise StripeError(f"Invalid parameter name: {name}", param=name)
        keys = [head, *rest[:-1].split("][")] if bracket else [head]
        _put(found, keys, value, name)
    return found


def _put(found: dict[str, Any], keys: list[str], value: str, name: str) -> None:
    inner = found
    for position, key in enumerate(keys[:-1]):
        inner = inner.setdefault(_place(inner, key, keys[position + 1 :]), {})
        if not isinstance(inner, dict):
            raise StripeError(f"Invalid parameter name: {name}", param=name)
    last = _place(inner, keys[-1], [])
    if isinstance(inner.get(last), dict):
        raise StripeError(f"Invalid parameter name: {name}", param=name)
    inner[last] = value


def _place(inner: dict[str, Any], key: str, following: list[str]) -> str:
    """`[]` is the next element, or the last one while the key that follows is still free in it (as Rack reads it)."""
    if key:
        return key
    last = str(len(inner) - 1)
    if following and following[0] and isinstance(inner.get(last), dict) and following[0] not in inner[last]:
        return last
    return str(len(inner))


def encode(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
