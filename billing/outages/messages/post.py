"""One mail server: connects when it is needed, sends one message at a time, and says what became of each."""

import re
import smtplib
import ssl
from dataclasses import dataclass
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from types import TracebackType
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from billing.outages.messages import letters
from billing.outages.messages.letters import Letter
from tenants.settings import Settings

PATIENCE: Final = 20.0
"""Seconds for each answer of the server. RFC 5321, 4.5.3.2.6 asks for ten minutes after the final dot, so that no slow
answer makes a second copy; a task has less, and the Message-ID says that the copy is one."""
SAFE_WITHOUT_TLS: Final = ("127.0.0.1", "::1", "localhost")
LONGEST_ADDRESS: Final = 320
_ADDRESS: Final = re.compile(
    r"[^@\s,;<>\"():\\\[\]\x00-\x1f\x7f]{1,64}@[^@\s,;<>\"():\\\[\]\x00-\x1f\x7f.]+(\.[^@\s,;<>\"():\\\[\]\x00-\x1f\x7f.]+)+"
)


@dataclass(frozen=True)
class Outcome:
    """`sent`; `refused` for good; `later`: not taken now; `unknown`: it may have been taken."""

    state: str
    reason: str | None = None


def is_address(text: str) -> bool:
    """Whether a mail can be written to it. Some that people have are none by RFC 5322, such as `a..b@example.com`."""
    if not _ADDRESS.fullmatch(text) or len(text) > LONGEST_ADDRESS:
        return False
    try:
        Address(addr_spec=text)
    except (MessageError, ValueError):
        return False
    return True


def composed(
    letter: Letter, *, to: Address, sender: Address, reply_to: str | None, message_id: str, at: datetime,
    own_address: str,
) -> EmailMessage:  # fmt: skip
    """The mail: text first, and the same as HTML. A header can hold no line break: `EmailMessage` refuses one."""
    mail = EmailMessage()
    mail["Message-ID"] = message_id
    mail["Date"] = format_datetime(at)
    mail["From"] = sender
    mail["To"] = to
    if reply_to:
        mail["Reply-To"] = reply_to
    mail["Subject"] = letter.subject
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    mail.set_content(letter.text, cte="quoted-printable")
    mail.add_alternative(letters.html(letter, own_address), subtype="html", cte="quoted-printable")
    return mail


def sender_of(settings: Settings, name: str) -> Address:
    """The agency's name at the address that SMTP_URL names as `?from=`, else at no-reply@ the site's own host."""
    url = urlsplit(settings.smtp_url or "")
    named = parse_qs(url.query).get("from", [""])[0]
    return Address(name, addr_spec=named or f"no-reply@{domain(settings)}")


def domain(settings: Settings) -> str:
    """The site's own host, which its Message-IDs end with; an address is written as RFC 5321 wants it."""
    host = urlsplit(settings.public_url).hostname or "localhost"
    if ":" in host:
        return f"[IPv6:{host}]"
    return f"[{host}]" if host.replace(".", "").isdigit() else host


class Postbox:
    """`with Postbox(smtp_url) as box: box.send(mail)`. Connects at the first message, and again after a failure."""

    def __init__(self, smtp_url: str) -> None:
        self._url = urlsplit(smtp_url)
        self._server: smtplib.SMTP | None = None

    def __enter__(self) -> "Postbox":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._hang_up()

    def send(self, mail: EmailMessage) -> Outcome:
        """Hand one mail over. Never raises for what a server or a network may do."""
        try:
            server = self._connected()
        except smtplib.SMTPAuthenticationError as error:
            return Outcome("later", f"The mail server does not let us in: {_said(error.smtp_error)}")
        except (smtplib.SMTPException, OSError, ssl.SSLError) as error:
            return Outcome("later", f"The mail server does not answer: {_said(error)}")
        try:
            server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            code, words = next(iter(error.recipients.values()))
            return self._no(code, words)
        except smtplib.SMTPResponseException as error:
            return self._no(error.smtp_code, error.smtp_error)
        except (smtplib.SMTPNotSupportedError, UnicodeError) as error:
            return Outcome("refused", f"The mail server cannot send to this address: {_said(error)}")
        except (smtplib.SMTPException, OSError) as error:
            self._hang_up()
            return Outcome("unknown", f"The mail server fell silent: {_said(error)}")
        return Outcome("sent")

    def _connected(self) -> smtplib.SMTP:
        if self._server is not None:
            return self._server
        host, url = self._url.hostname or "", self._url
        if url.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                host, url.port or 465, timeout=PATIENCE, context=ssl.create_default_context()
            )
        else:
            server = smtplib.SMTP(host, url.port or 25, timeout=PATIENCE)
        try:
            server.ehlo_or_helo_if_needed()
            if url.scheme == "smtp" and server.has_extn("starttls"):
                server.starttls(context=ssl.create_default_context())
                server.ehlo()
            elif url.scheme == "smtp" and url.username and host not in SAFE_WITHOUT_TLS:
                raise smtplib.SMTPException("it offers no TLS, and a password is not sent in the clear")
            if url.username:
                server.login(unquote(url.username), unquote(url.password or ""))
        except BaseException:
            server.close()
            raise
        self._server = server
        return server

    def _no(self, code: int, words: bytes | str) -> Outcome:
        """RFC 5321, 4.2.1: 4yz may be tried again, 5yz may not. A connection that said no is not used again."""
        self._hang_up()
        reason = f"The mail server answered {code}: {_said(words)}"
        return Outcome("refused" if 500 <= code < 600 else "later", reason)

    def _hang_up(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            try:
                server.quit()
            except (smtplib.SMTPException, OSError):
                server.close()


def _said(words: object) -> str:
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
    return " ".join(text.split())[:300] or type(words).__name__
