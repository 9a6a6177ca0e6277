"""The only file that imports stripe: our words in, our words out.

Everything goes through stripe-python's `StripeClient.raw_request`, so that an answer is plain JSON and never an object
that carries the API key. A read raises what is named for what happens next; a write never raises for anything that
Stripe or the network does: it returns an `Answer`. No call is made while a transaction is open.
"""

import copy
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

import requests
import stripe
from urllib3.exceptions import MaxRetryError, NewConnectionError

from billing import circuits
from billing.answers import Answer, Gone, LockedOut, Outcome, ReadRefused, Unreachable, Unreadable
from billing.bounded import BoundedAdapter
from billing.rates import Turns, Urgency
from billing.reads import Json, sendable_body
from billing.signature import verify
from billing.writes import Writes
from tenants.db import transaction_open
from tenants.house import House

__all__ = [
    "API_VERSION", "Answer", "Gateway", "Gone", "LockedOut", "Outcome", "ReadRefused", "Unreachable", "Unreadable",
    "Urgency", "connect", "engine", "reachable", "verify",
]  # fmt: skip

API_VERSION: Final = "2026-10-28.endive"
"""Frozen into each step, and the same on the webhook endpoint; raised together with the pin of stripe-python."""
TIMEOUT: Final = (5, 25)
"""Seconds to connect, and to wait for the next byte."""
REACHED_FOR: Final = 10.0
"""Seconds for which having reached Stripe, or not, is good."""
REACHED_WITHIN: Final = 2.0
READ_RETRIES: Final = 2
SLOWER: Final = (1, 2, 4, 8)
"""Seconds that a read waits after each 429."""
HALTED: Final = "Sending was halted."
LOCKED: Final = "lock_timeout"
"""The code of a 429 that no limiter sent: somebody else was writing to the same object."""
REVOKED: Final = "account_invalid"
"""The code of a 403 to a key that may do nothing in this account, or no more: https://docs.stripe.com/error-codes"""
OUR_NAME: Final = {
    "User-Agent": f"Stripe/v1 PythonBindings/{stripe.VERSION}",
    "X-Stripe-Client-User-Agent": json.dumps({"bindings_version": stripe.VERSION, "lang": "python"}),
}
"""Instead of stripe-python's own, which reports environment variables."""

# Else the first request leaves an id file in the user's configuration folder.
stripe.enable_telemetry = False

F = TypeVar("F")


def engine(house: House) -> str:
    """The name of this installation in idempotency keys and metadata, so that two never mix."""
    return house.settings.installation


_connected = threading.local()


def connect(
    house: House, account: str, urgency: Urgency = Urgency.READ, may_send: Callable[[], bool] | None = None
) -> "Gateway":
    """The gateway to one Stripe account, '' being the key's own: one client per thread and process.

    Its calls wait for their turn in the account's rate, as `urgency` says. Where `may_send` says no at the last moment,
    a write is STOPPED.
    """
    if not house.settings.stripe_secret_key:
        raise LockedOut("There is no Stripe key: set STRIPE_SECRET_KEY.")
    wanted = (os.getpid(), house.settings.stripe_secret_key, house.settings.stripe_api_base, account)
    known: dict[Any, Gateway] = _connected.__dict__.setdefault("gateways", {})
    if wanted not in known:
        known[wanted] = Gateway(house.settings.stripe_secret_key, house.settings.stripe_api_base, account)
    mine = copy.copy(known[wanted])
    mine._turns = Turns(house, account, urgency) if house.settings.stripe_rate else None
    mine._may_send = may_send
    mine._urgency = urgency
    mine._watch = circuits.watch(house, account)
    return mine


_reached: dict[tuple[str, int], tuple[float, bool]] = {}


def reachable(house: House) -> bool:
    """Whether a connection to Stripe can be made, as it was at most `REACHED_FOR` ago. True without a key."""
    if not house.settings.stripe_secret_key:
        return True
    base = urlsplit(house.settings.stripe_api_base or stripe.DEFAULT_API_BASE)
    address = (base.hostname or "", base.port or (80 if base.scheme == "http" else 443))
    asked_at, found = _reached.get(address, (0.0, False))
    if not asked_at or time.monotonic() > asked_at + REACHED_FOR:
        try:
            socket.create_connection(address, REACHED_WITHIN).close()
            found = True
        except OSError:
            found = False
        _reached[address] = (time.monotonic(), found)
    return found


class Gateway(Writes):
    """One Stripe account, for one thread: a session is not shared between threads, nor over a fork."""

    def __init__(self, api_key: str, api_base: str | None = None, account: str = "") -> None:
        session = requests.Session()
        session.trust_env = False  # else .netrc replaces our key and HTTP_PROXY reroutes us
        session.max_redirects = 0  # else a 302 turns our POST into a GET whose 200 looks like success
        session.mount("http://", BoundedAdapter())
        session.mount("https://", BoundedAdapter())
        weakref.finalize(self, session.close)  # a thread that ends takes its connections with it
        self.account = account
        self._turns: Turns | None = None
        self._may_send: Callable[[], bool] | None = None
        self._urgency = Urgency.READ
        self._watch: circuits.Watch | None = None
        self._client = stripe.StripeClient(
            api_key,
            stripe_version=API_VERSION,
            stripe_account=account or None,
            max_network_retries=0,
            base_addresses={"api": api_base.rstrip("/")} if api_base else {},
            http_client=stripe.RequestsClient(timeout=TIMEOUT, session=session),
        )

    def _turn(self, verb: str, path: str) -> bool:
        """Wait until a call may go out. True: it goes to see whether Stripe answers again."""
        _no_transaction()
        sees = self._watch is not None and self._watch.enter()
        if self._turns is not None:
            self._turns.wait(verb, path)
        return sees

    def _told(self, sees: bool, status: int | None, locked_out: str | None = None) -> None:
        """What became of a call. `status` None: nothing came back. Whoever goes out to see is not let in by a 403."""
        if self._watch is not None:
            failed = status is None or status >= 500
            self._watch.told(sees=sees, failed=failed, shut_out=status == 403, locked_out=locked_out)

    def _refused(self, verb: str, path: str, reason: str | None) -> None:
        if self._turns is not None:
            self._turns.refused(verb, path, reason)

    def _get(self, path: str, params: Json, what: str) -> Json:
        # What is urgent is put off in its row instead: this worker has other accounts to see to meanwhile.
        patience = SLOWER if self._urgency is Urgency.READ else ()
        for wait in (*patience, None):
            sees = self._turn("get", path)
            try:
                answer = self._client.raw_request(
                    "get", path, **params, max_network_retries=READ_RETRIES, headers=OUR_NAME
                )
            except stripe.RateLimitError as error:
                self._told(sees, error.http_status)
                if _words(error)[0] != LOCKED:
                    self._refused("get", path, (error.headers or {}).get("Stripe-Rate-Limited-Reason"))
                if wait is None:
                    raise Unreachable("Stripe asks us to slow down. Try again in a minute.") from error
                time.sleep(wait)  # Stripe says that it is too much, and not until when
            except stripe.StripeError as error:
                self._told(sees, error.http_status, _words(error)[2] if _shuts_out(error) else None)
                raise _refusal(error, what) from error
            except AttributeError as error:  # stripe-python met an `error` that is no object
                raise Unreadable(f"Stripe's answer about the {what} cannot be read.") from error
            else:
                self._told(sees, answer.code)
                if not isinstance(answer.data, dict):
                    raise Unreadable(f"Stripe's {what} is no object.")
                return answer.data
        raise AssertionError("unreachable")

    def _post(
        self,
        path: str,
        body: Json,
        key: str,
        read: Callable[[Json], F],
        wanted: str,
        as_asked: Callable[[F], bool],
        version: str | None = None,
        verb: Literal["post", "delete"] = "post",
    ) -> Answer[F]:
        """Send `body` in its own order under `key`, once: who sends it again, and when, is written in a row."""
        if not key or len(key) > 255:
            raise ValueError("a write needs an idempotency key of 1 to 255 characters")
        sendable_body(body)
        try:
            sees = self._turn(verb, path)
        except Unreachable as none:
            return Answer(Outcome.NOT_SENT, message=none.message)
        if self._may_send is not None and not self._may_send():
            return Answer(Outcome.STOPPED, message=HALTED)
        try:
            answer = self._client.raw_request(
                verb, path, **body, idempotency_key=key, stripe_version=version or API_VERSION, headers=OUR_NAME
            )
        except stripe.StripeError as error:
            answered = _not_done(error)
            locked_out = answered.message if answered.outcome is Outcome.LOCKED_OUT else None
            self._told(sees, answered.http_status, locked_out)
            if answered.outcome is Outcome.LIMITED:
                self._refused(verb, path, answered.limited_by)
            return answered
        except AttributeError:  # stripe-python met an `error` that is no object
            return Answer(Outcome.UNKNOWN, message="Stripe's answer cannot be read.")
        self._told(sees, answer.code)
        seen = _Seen(answer.code, answer.headers)
        try:
            if not isinstance(answer.data, dict) or answer.data.get("object") != wanted:
                raise Unreadable(f"Stripe answered something else than a {wanted}.")
            fact = read(answer.data)
        except (Unreachable, ReadRefused, Gone) as error:
            return seen.answer(Outcome.UNKNOWN, message=error.message)
        if not as_asked(fact):
            return seen.answer(Outcome.UNKNOWN, message=f"Stripe's {wanted} is not the one that was asked for.")
        return seen.answer(Outcome.DONE, fact=fact)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an HTTP answer says about itself."""

    status: int | None
    headers: Any

    def answer(self, outcome: Outcome, **more: Any) -> Answer[Any]:
        headers = self.headers or {}
        return Answer(
            outcome,
            http_status=self.status,
            replayed=str(headers.get("Idempotent-Replayed", "")).lower() == "true",
            request_id=headers.get("Request-Id"),
            limited_by=headers.get("Stripe-Rate-Limited-Reason"),
            **more,
        )


def _not_done(error: stripe.StripeError) -> Answer[Any]:
    code, param, message = _words(error)
    seen = _Seen(error.http_status, error.headers)
    return seen.answer(_outcome(error, code), code=code, param=param, message=message)


def _outcome(error: stripe.StripeError, code: str | None) -> Outcome:
    if isinstance(error, stripe.APIConnectionError):
        return Outcome.NOT_SENT if _never_connected(error) else Outcome.UNKNOWN
    if isinstance(error, stripe.IdempotencyError):
        return Outcome.KEY_MISUSED
    if isinstance(error, stripe.RateLimitError):
        return Outcome.BUSY if code == LOCKED else Outcome.LIMITED
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return Outcome.LOCKED_OUT
    if error.http_status == 409 and error.error is not None:
        return Outcome.BUSY
    if isinstance(error, stripe.InvalidRequestError | stripe.CardError):
        return Outcome.REFUSED
    return Outcome.UNKNOWN


def _shuts_out(error: stripe.StripeError) -> bool:
    """Whether a read is refused because of the account, not of what was asked for: a key may lack one scope."""
    return isinstance(error, stripe.AuthenticationError) or (error.http_status == 403 and _words(error)[0] == REVOKED)


def _never_connected(error: stripe.StripeError) -> bool:
    """Whether not even a connection was made. `should_retry` says the same of a timeout after everything was sent."""
    cause = error.__cause__ or error.__context__
    reason = cause.args[0] if cause is not None and cause.args else None
    return isinstance(reason, MaxRetryError) and isinstance(reason.reason, NewConnectionError)


def _words(error: stripe.StripeError) -> tuple[str | None, str | None, str]:
    """Stripe's code, param and message; most exceptions leave `code` None and carry it in `error` alone."""
    if isinstance(error, stripe.APIConnectionError):
        return None, None, _broken(error)
    detail = (error.json_body or {}).get("error") if isinstance(error.json_body, dict) else None
    detail = detail if isinstance(detail, dict) else {}
    message = detail.get("message") or error.user_message or type(error).__name__
    return error.code or detail.get("code"), detail.get("param"), str(message)[:1000]


def _broken(error: stripe.APIConnectionError) -> str:
    """What happened to the connection, in place of stripe-python's paragraph about it."""
    if _never_connected(error):
        return "no connection could be made."
    if isinstance(error.__cause__, requests.Timeout):
        return "nothing came back in time."
    if isinstance(error.__cause__, requests.TooManyRedirects):
        return "it sent us somewhere else."
    return "the connection broke."


def _refusal(error: stripe.StripeError, what: str) -> Exception:
    code, param, message = _words(error)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return LockedOut(f"Stripe refuses the key: {message}")
    if isinstance(error, stripe.InvalidRequestError):
        if error.http_status == 404:
            return Gone(f"Stripe has no such {what}: {message}")
        return ReadRefused(f"Stripe refuses to read the {what}: {message}", code, param)
    return Unreachable(f"Stripe does not answer: {message}")


def _no_transaction() -> None:
    if transaction_open():
        raise RuntimeError("Stripe was called inside a unit of work: end it first")
