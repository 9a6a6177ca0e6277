"""Calls that go wrong, for tests."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.sandbox.conftest import Sandbox
from tests.sandbox.payments import paid


def until(sandbox: Sandbox, holds: Callable[[dict[str, Any]], bool], control: str = "faults") -> dict[str, Any]:
    """Ask a control again and again until what it says holds."""
    for _ in range(2_000):
        said: dict[str, Any] = sandbox.control("GET", control)
        if holds(said):
            return said
        threading.Event().wait(0.005)
    raise AssertionError(f"It never held: {said}")


@dataclass
class Refunding:
    """One payment of 3,100, and refunds of it, each call over a connection of its own."""

    sandbox: Sandbox
    intent: str = ""
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def __post_init__(self) -> None:
        self.intent = paid(self.sandbox.client, 3_100).id

    def rule(self, kind: str, **rule: Any) -> None:
        """A rule for these refunds."""
        rule.setdefault("match", {"method": "POST", "path": "/v1/refunds"})
        self.sandbox.control("POST", "faults", kind=kind, **rule)

    def send(self, key: str | None = None, amount: int = 100, timeout: float = 30, **headers: str) -> requests.Response:
        """POST a refund. Raises `requests.ConnectionError` when nothing is answered."""
        with requests.Session() as http:
            http.trust_env = False
            http.headers["Authorization"] = "Bearer sk_test_sandbox"
            http.headers.update({"Idempotency-Key": key} if key else {})
            http.headers.update(headers)
            form = {"payment_intent": self.intent, "amount": amount}
            return http.post(f"{self.sandbox.url}/v1/refunds", form, timeout=timeout, allow_redirects=False)

    def sending(self, key: str | None = None, amount: int = 100) -> Future[requests.Response]:
        """The same in another thread."""
        return self._pool.submit(self.send, key, amount)

    def refunds(self) -> list[int]:
        """The amounts that went back, oldest first."""
        [charge] = [
            row for row in self.sandbox.control("GET", "ledger")["charges"] if row["payment_intent"] == self.intent
        ]
        return [row["amount"] for row in charge["refunds"]]

    def lost(self, key: str | None = None, timeout: float = 30) -> str:
        """Send, get no answer; the name of what the client saw."""
        try:
            answer = self.send(key, timeout=timeout)
        except requests.RequestException as error:
            return type(error).__name__
        raise AssertionError(f"It was answered: {answer.status_code} {answer.text}")

    def close(self) -> None:
        self._pool.shutdown()
