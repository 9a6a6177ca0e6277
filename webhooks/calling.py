"""One POST to one machine that was looked at before: no redirect, no proxy, no patience, and no reply is kept."""

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from webhooks.addresses import Target
from webhooks.deadlines import Deadlines

PATIENCE: Final = 20.0
"""Seconds for one call in all, however slowly it is answered. Standard Webhooks asks for 15 to 30."""
_CALLING: Final = Deadlines()


@dataclass(frozen=True)
class Answer:
    """The status that came, else why none did. `retry_after` is in seconds, as the receiver asks for it."""

    status: int | None
    reason: str | None = None
    retry_after: int | None = None


def call(target: Target, headers: Mapping[str, str], body: bytes, patience: float = PATIENCE) -> Answer:
    """Never raises for what a receiver or a network may do."""
    connection = _Pinned(target, patience)
    too_long = threading.Event()

    def end() -> None:
        too_long.set()
        connection.cut()

    try:
        with _CALLING.within(patience, end):
            connection.request("POST", target.path, body=body, headers={**headers, "Connection": "close"})
            answer = connection.getresponse()
        return Answer(answer.status, retry_after=_seconds(answer.headers.get("Retry-After")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        if too_long.is_set():
            return Answer(None, f"It did not answer within {patience:g} seconds.")
        return Answer(None, f"It could not be reached: {_said(error)}.")
    finally:
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """Connects to the machines of its target, and to nothing else; TLS is held against the name."""

    def __init__(self, target: Target, patience: float) -> None:
        super().__init__(target.host, target.port, timeout=patience)
        self._target = target
        # What Host says: http.client leaves the port out where it is the scheme's own.
        self.default_port = 443 if target.https else 80

    def connect(self) -> None:
        failure: OSError = OSError("it has no address")
        for machine in self._target.machines:
            try:
                plain = socket.create_connection((machine, self._target.port), self.timeout)
            except OSError as error:
                failure = error
                continue
            self.sock = plain
            if self._target.https:
                self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self._target.host)
            return
        raise failure

    def cut(self) -> None:
        """End whatever it waits for, from another thread."""
        try:
            if self.sock is not None:
                self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended already


def _seconds(asked: str | None) -> int | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    if asked is None:
        return None
    if asked.strip().isdecimal():
        return int(asked.strip()[:12])
    try:
        at = parsedate_to_datetime(asked)
    except (TypeError, ValueError):
        return None
    return max(0, int((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()))


def _said(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:200]
