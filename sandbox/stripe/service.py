"""One call from its headers to its answer: API key, parameters, idempotency store, endpoint, in this order."""

import base64
import re
import sys
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.stripe import controls, present, routes
from sandbox.stripe.idempotency import fingerprint
from sandbox.stripe.params import checked
from sandbox.stripe.universe import Universe
from sandbox.stripe.wire import API_VERSION, NotModelled, StripeError, decode, encode
from sandbox.stripe.world import World

REMEMBERED: Final = 50_000
"""How many calls `GET /_sandbox/requests` still knows."""
_KEY: Final = re.compile(r"(?:sk|rk)_(test|live)_(\w+)")


@dataclass
class Call:
    """A complete request; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: str


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Service:
    """Answers calls one at a time. Every answer of a POST is in the state file before it is returned."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.calls: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)

    def answer(self, call: Call) -> Answer:
        """Stripe's answer to a call. Never raises: a bug of the sandbox is a 500 and a traceback on stderr."""
        request = f"req_{self.universe.token(14)}"
        headers = {"Request-Id": request, "Stripe-Version": API_VERSION}
        key = call.headers.get("idempotency-key")
        if key:
            headers["Idempotency-Key"] = key
        noted = {
            "id": request, "at": self.universe.now, "method": call.method, "path": call.path, "account": None,
            "idempotency_key": key, "params": call.query if call.method == "GET" else call.body,
        }  # fmt: skip
        try:
            given = self._answer(call, request, noted)
            # What a call makes due at once happens at once: the clock only moves on to what is later.
            self.universe.advance(self.universe.now, patience=float("inf"))
        except StripeError as error:
            given = Answer(error.status, encode(error.body()), error.headers)
        except NotModelled as refusal:
            given = _failed(501, str(refusal))
        except Exception:  # noqa: BLE001 - a bug in one route must not end the server; the caller and stderr get it
            traceback.print_exc(file=sys.stderr)
            given = _failed(500, f"The sandbox has a bug in {call.method} {call.path}: see its stderr.")
        given.headers = {**headers, **given.headers}
        noted["status"] = given.status
        noted["replayed"] = "Idempotent-Replayed" in given.headers
        self.calls.append(noted)
        return given

    def _answer(self, call: Call, request: str, noted: dict[str, Any]) -> Answer:
        world = self._authenticated(call)
        noted["account"] = world.account
        version = call.headers.get("stripe-version", API_VERSION)
        if version != API_VERSION:
            raise StripeError(f"Invalid Stripe API version: {version}")
        found = routes.match(call.method, call.path)
        if found is None:
            raise NotModelled(f"The sandbox does not model {call.method} {call.path}.")
        route, variables = found
        given = decode(call.query if call.method in ("GET", "DELETE") else call.body)
        params = checked(route.takes, given, route.models, f"{route.method} {route.path}")
        expand = params.pop("expand", None) or []
        if call.method != "POST":
            self.universe.request = (request, None)
            return self._executed(world, route, params, variables, expand)
        key = call.headers.get("idempotency-key") or None
        self.universe.request = (request, key)
        if key is None:
            return self._executed(world, route, params, variables, expand)
        kept = self.universe.keys.recall(world.account, key, call.method, call.path, call.body, self.universe.now)
        if kept is not None:
            replay = {"Idempotent-Replayed": "true", "Original-Request": kept["request"]}
            return Answer(kept["status"], kept["body"].encode(), replay)
        self.universe.keys.begin(world.account, key)
        try:
            mark = {
                "request": request,
                "at": self.universe.now,
                "endpoint": f"{call.method} {call.path}",
                "fingerprint": fingerprint(call.method, call.path, call.body),
            }
            return self._executed(world, route, params, variables, expand, (key, mark))
        finally:
            self.universe.keys.end(world.account, key)

    def _executed(
        self,
        world: World,
        route: routes.Route,
        params: dict[str, Any],
        variables: dict[str, str],
        expand: list[str],
        kept: tuple[str, dict[str, Any]] | None = None,
    ) -> Answer:
        """Run the handler as one unit of work that also keeps the answer under its key."""

        def keep(answer: Answer) -> Answer:
            if kept is not None:
                key, mark = kept
                entry = {**mark, "status": answer.status, "body": answer.body.decode()}
                self.universe.keys.keep(world.account, key, entry)
                self.universe.did(
                    lambda: self.universe.keys.forget(world.account, key), ("key", world.account, key, entry)
                )
            return answer

        def work() -> Answer:
            try:
                shown = present.answer(world, route.handler(world, params, **variables), expand)
            except StripeError as error:
                if not error.commits:
                    raise
                return keep(Answer(error.status, encode(error.body()), error.headers))
            return keep(Answer(200, encode(shown)))

        try:
            return self.universe.perform(work)
        except StripeError as error:
            refusal = Answer(error.status, encode(error.body()), error.headers)
            return self.universe.perform(lambda: keep(refusal))

    def _authenticated(self, call: Call) -> World:
        given = call.headers.get("authorization", "")
        scheme, _, secret = given.partition(" ")
        if scheme.lower() == "basic":
            secret = base64.b64decode(secret).decode("utf-8", "replace").partition(":")[0]
        secret = secret.strip()
        if not secret:
            raise StripeError(
                "You did not provide an API key. You need to provide your API key in the Authorization header, using "
                "Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
                status=401,
            )
        opened = _KEY.fullmatch(secret)
        if opened is None or (opened[1] == "live") != self.universe.livemode:
            raise StripeError(f"Invalid API Key provided: {_masked(secret)}", status=401)
        own = self.universe.world(self.universe.account_of(opened[2]))
        wanted = call.headers.get("stripe-account")
        if not wanted or wanted == own.account:
            return own
        connected = self.universe.worlds.get(wanted)
        if connected is None or connected.platform != own.account:
            raise StripeError(
                f"The provided key '{_masked(secret)}' does not have access to account '{wanted}' (or that account "
                "does not exist). Application access may have been revoked.",
                status=403,
                code="account_invalid",
            )
        return connected

    def control(self, call: Call) -> "Answer | controls.Advance":
        """The sandbox's own controls under `/_sandbox`."""
        try:
            done = controls.answer(self, call.method, call.path, call.query, call.body)
        except controls.Refused as refusal:
            return Answer(refusal.status, encode({"error": {"message": str(refusal)}}))
        except StripeError as error:
            return Answer(error.status, encode(error.body()))
        return done if isinstance(done, controls.Advance) else Answer(200, encode(done))


def _masked(secret: str) -> str:
    return f"{secret[:8]}{'*' * max(0, len(secret) - 12)}{secret[-4:]}" if len(secret) > 12 else secret


def _failed(status: int, message: str) -> Answer:
    body = encode({"error": {"message": message, "type": "api_error"}})
    return Answer(status, body, {"Stripe-Should-Retry": "false"})
