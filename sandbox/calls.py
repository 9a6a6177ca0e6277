"""A few lines of HTTP that speak to one account of a sandbox: its story needs nothing that a client would add."""

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit


class StripeRefused(Exception):
    """The sandbox answered a call of the story with an error: the story or the sandbox is wrong."""


class Api:
    """Stripe's API and the sandbox's controls at one address, over one connection. Not for two threads at once."""

    def __init__(self, base: str, key: str) -> None:
        self.base = base
        self.key = key
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/x-www-form-urlencoded"}
        self._connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=300)

    def post(self, path: str, **params: Any) -> dict[str, Any]:
        """POST with Stripe's nested form encoding. Raises `StripeRefused` for anything but a 2xx."""
        return self._call("POST", path, urlencode(list(flat(params))))

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """GET, and the object or list that it answers. Raises `StripeRefused`."""
        query = urlencode(list(flat(params)))
        return self._call("GET", f"{path}?{query}" if query else path, None)

    def every(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """All objects of a list, page by page, newest first."""
        while True:
            page = self.get(path, limit=100, **params)
            yield from page["data"]
            if not page["has_more"]:
                return
            params["starting_after"] = page["data"][-1]["id"]

    def control(self, path: str, document: dict[str, Any] | None = None) -> dict[str, Any]:
        """One of the sandbox's own controls: told something, or without `document` asked."""
        if document is None:
            return self._call("GET", f"/_sandbox/{path}", None)
        return self._call("POST", f"/_sandbox/{path}", json.dumps(document))

    def close(self) -> None:
        """Hang up. The next call opens the line again."""
        self._connection.close()

    def _call(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        self._connection.request(method, path, body=body, headers=self._headers)
        answer = self._connection.getresponse()
        read = json.loads(answer.read() or b"{}")
        if answer.status >= 300:
            raise StripeRefused(f"{method} {path}: {answer.status} {read.get('error', read)}")
        found: dict[str, Any] = read
        return found


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested parameters as the pairs of Stripe's form encoding."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name}[{key}]" if name else key)
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from flat(inner, f"{name}[{position}]")
    else:
        yield name, str(value).lower() if isinstance(value, bool) else str(value)
