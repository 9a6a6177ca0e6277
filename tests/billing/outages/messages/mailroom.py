"""A real SMTP server on this machine that keeps what it takes, and now and then says no or nothing at all."""

import socket
from asyncio import AbstractServer
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

SILENCE = "silence"
"""Take the mail, and hang up without a word: the sender cannot know."""
TAKEN = "250 OK"


class Mailroom:
    """`answers` are given to the next mails in their order, then every mail is taken."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.raw: list[bytes] = []
        self.answers: deque[str] = deque()
        self.refused_addresses: set[str] = set()

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused_addresses:
            return "550 no such user here"
        envelope.rcpt_tos.append(address)
        return TAKEN

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        answer = self.answers.popleft() if self.answers else TAKEN
        if answer in (TAKEN, SILENCE):
            self.raw.append(bytes(envelope.content or b""))
            self.envelopes.append(envelope)
            found = message_from_bytes(self.raw[-1], policy=policy.default)
            assert isinstance(found, EmailMessage)
            self.mails.append(found)
        if answer == SILENCE:
            assert server.transport is not None
            server.transport.abort()
        return answer

    def to(self, address: str) -> list[EmailMessage]:
        return [mail for mail in self.mails if mail["To"].addresses[0].addr_spec == address]


class _Listening(Controller):
    """On any port that is free."""

    def __init__(self, handler: Mailroom) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(handler, "127.0.0.1", self._socket.getsockname()[1])

    def _create_server(self) -> Coroutine[Any, Any, AbstractServer]:
        return self.loop.create_server(self._factory_invoker, sock=self._socket)


@contextmanager
def open_mailroom() -> Iterator[tuple[Mailroom, str]]:
    """The mailroom, and its SMTP_URL."""
    room = Mailroom()
    listening = _Listening(room)
    listening.start()
    try:
        yield room, f"smtp://127.0.0.1:{listening.port}?from=billing@operator.example"
    finally:
        listening.stop()


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")
