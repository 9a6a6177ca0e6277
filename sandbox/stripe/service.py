"""One call from its headers to its answer: API key, limits, parameters, idempotency store, endpoint, in this order."""

import asyncio
import base64
import contextlib
import re
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sandbox.stripe import controls, present, routes, spoiled
from sandbox.stripe.detours import Detour, UnderWay, touched, waiting
from sandbox.stripe.faults import Arrival, Fault, Faults
from sandbox.stripe.idempotency import fingerprint
from sandbox.stripe.limits import Limits
from sandbox.stripe.params import checked
from sandbox.stripe.senders import Parcel
from sandbox.stripe.universe import Universe
from sandbox.stripe.wire import API_VERSION, Answer, NotModelled, Refused, StripeError, decode, encode
from sandbox.stripe.world import World

REMEMBERED: Final = 50_000
"""How many calls `GET /_sandbox/requests` still knows."""
EARLY_PATIENCE: Final = 5.0
"""Real seconds for which an answer waits for deliveries that are to come before it."""
DIVERTING: Final = ("slow", "late_effect", "reset_after", "timeout_after", "drip")
Outcome = TypeVar("Outcome", Answer, Answer | Detour)
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
class Admitted:
    """A call that Stripe would execute, or replay."""

    world: World
    route: routes.Route
    params: dict[str, Any]
    variables: dict[str, str]
    expand: list[str]
    key: str | None
    kept: Answer | None
    """The answer that its key has already."""


class Service:
    """Answers calls one at a time. Every answer of a POST is in the state file before it is returned."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.calls: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self.faults = Faults()
        self.limits = Limits()
        self.under_way = UnderWay()

    def answer(self, call: Call) -> Answer | Detour:
        """Stripe's answer to a call, or the way to it. Never raises: a bug of the sandbox is a 500 and a traceback on
        stderr."""
        noted = {
            "id": f"req_{self.universe.token(14)}", "at": self.universe.now, "arrived": time.time(),
            "method": call.method, "path": call.path, "account": None,
            "idempotency_key": call.headers.get("idempotency-key") or None,
            "params": call.query if call.method == "GET" else call.body,
            "status": None, "replayed": False, "fault": None,
        }  # fmt: skip
        self.calls.append(noted)
        return self._noting(call, noted, lambda: self._begun(call, noted))

    def by_hand(self, world: World, method: str, path: str, query: str, body: str) -> Answer:
        """What somebody does in Stripe's dashboard: no API key, limit or fault, and not among the calls."""
        call = Call(method, path, query, {}, body)
        noted: dict[str, Any] = {"id": f"req_{self.universe.token(14)}", "idempotency_key": None}
        return self._alone(call, noted, lambda: self._worked(noted, self._admitted(call, noted, world), call, None))

    def _alone(self, call: Call, noted: dict[str, Any], work: Callable[[], Answer]) -> Answer:
        """No delivery is to come before this answer."""
        answer = self._noting(call, noted, work)
        self._hastened()
        return answer

    def _noting(self, call: Call, noted: dict[str, Any], work: Callable[[], Outcome]) -> Answer | Outcome:
        """The answer of `work`, or of what it raises."""
        given: Answer | Outcome
        try:
            given = work()
        except StripeError as error:
            given = _said(error)
        except NotModelled as refusal:
            given = _failed(501, str(refusal))
        except Exception:  # noqa: BLE001 - a bug in one route must not end the server; the caller and stderr get it
            traceback.print_exc(file=sys.stderr)
            given = _failed(500, f"The sandbox has a bug in {call.method} {call.path}: see its stderr.")
        if not isinstance(given, Answer):
            return given
        return self._signed(noted, given)

    def _signed(self, noted: dict[str, Any], given: Answer) -> Answer:
        """With the headers of every answer; noted among the calls."""
        headers = {"Request-Id": noted["id"], "Stripe-Version": API_VERSION}
        if noted["idempotency_key"]:
            headers["Idempotency-Key"] = noted["idempotency_key"]
        given.headers = {**headers, **given.headers}
        noted["status"] = given.status
        return given

    def _begun(self, call: Call, noted: dict[str, Any]) -> Answer | Detour:
        """API key, faults on arrival, limits, parameters, idempotency store, locks, faults of the endpoint."""
        world = self._authenticated(call)
        noted["account"] = world.account
        endpoint = _endpoint(call)
        arrival = fault = None
        if self.faults.rules:
            arrival = Arrival(
                call.method, call.path, endpoint, world.account, noted["idempotency_key"], noted["params"]
            )
            fault = self._struck(arrival, noted, executing=False)
        if fault is not None and fault.kind in ("reset_before", "timeout_before"):
            return self._diverted(noted, fault, None)
        if self.limits:
            self.limits.admit(world.account, *self._counted_as(call, endpoint))
        if fault is not None and not fault.options.get("effect", True):
            return spoiled.replaced(fault) or _failed(500, "A fault without an answer.")
        admitted = self._admitted(call, noted, world)
        locks: frozenset[str] = frozenset()
        if admitted.kept is None:
            if arrival is not None and fault is None:
                fault = self._struck(arrival, noted, executing=True)
            if call.method == "POST" and (self.under_way or fault is not None):
                locks = touched(world, admitted.params, admitted.variables)
                if self.under_way.locked(world.account, locks):
                    raise spoiled.lock_timeout()
            if admitted.key is not None:
                self.universe.keys.begin(world.account, admitted.key)

        def work() -> Answer:
            return self._worked(noted, admitted, call, fault)

        if fault is None or fault.kind not in DIVERTING:
            answer = work()
            early = self._hastened()
            return answer if not early else self._held_until(early, noted, answer)
        return self._diverted(noted, fault, lambda: self._alone(call, noted, work), world.account, locks)

    def _counted_as(self, call: Call, endpoint: str) -> list[str]:
        """The endpoints whose limits a call counts against."""
        own = f"{call.method} {endpoint}"
        refunds = own == "POST /v1/credit_notes" and "refund_amount" in call.body
        return [own, "POST /v1/refunds"] if refunds and self.universe.assume.note_counts_as_refund else [own]

    def _hastened(self) -> list[Parcel]:
        return [] if self.universe.deliveries is None else self.universe.deliveries.hastened()

    def _held_until(self, early: list[Parcel], noted: dict[str, Any], answer: Answer) -> Detour:
        """Answered once its events have been delivered: whoever hears of them does not know the answer yet."""

        async def delivered(detour: Detour) -> None:
            assert self.universe.deliveries is not None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.universe.deliveries.ended(early), EARLY_PATIENCE)

        return self.under_way.begin(Detour(_told(noted, "early"), lambda: self._signed(noted, answer), after=delivered))

    def _struck(self, arrival: Arrival, noted: dict[str, Any], executing: bool) -> Fault | None:
        fault = self.faults.strike(arrival, executing)
        if fault is not None:
            noted["fault"] = fault.kind
            if (refusal := spoiled.refused(fault, arrival)) is not None:
                raise refusal
        return fault

    def _diverted(
        self, noted: dict[str, Any], fault: Fault, work: Callable[[], Answer] | None, account: str = "",
        locks: frozenset[str] = frozenset(),
    ) -> Detour:  # fmt: skip
        detour = Detour(_told(noted, fault.rule), work, locks=locks, account=account)
        match fault.kind:
            case "slow":
                detour.before = waiting(fault.ms)
            case "late_effect":
                detour.before, detour.leaves, detour.ends = waiting(fault.ms), True, "reset"
            case "reset_before" | "reset_after":
                detour.ends = "reset"
            case "timeout_before" | "timeout_after":
                detour.after, detour.ends = waiting(fault.ms), "close"
            case "drip":
                detour.ends, detour.pace = "drip", (fault.ms or 0) / 1000
        return self.under_way.begin(detour)

    def _admitted(self, call: Call, noted: dict[str, Any], world: World) -> Admitted:
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
        key = noted["idempotency_key"] if call.method == "POST" else None
        kept = None
        if key is not None:
            known = self.universe.keys.recall(world.account, key, call.method, call.path, call.body, self.universe.now)
            if known is not None:
                noted["replayed"] = True
                replay = {"Idempotent-Replayed": "true", "Original-Request": known["request"]}
                if known["status"] >= 500 and not self.universe.assume.replayed_500_says_so:
                    replay = {}
                kept = Answer(known["status"], known["body"].encode(), replay)
        return Admitted(world, route, params, variables, expand, key, kept)

    def _worked(self, noted: dict[str, Any], admitted: Admitted, call: Call, fault: Fault | None) -> Answer:
        """The answer that the call gets on the wire; its effects are in the state file."""
        answer = admitted.kept
        if answer is None:
            self.universe.request = (noted["id"], admitted.key)
            account = admitted.world.account
            mark = None
            if admitted.key is not None:
                mark = {
                    "request": noted["id"],
                    "at": self.universe.now,
                    "endpoint": f"{call.method} {call.path}",
                    "fingerprint": fingerprint(call.method, call.path, call.body),
                }
            try:
                answer = self._executed(admitted, mark, fault)
            finally:
                if admitted.key is not None:
                    self.universe.keys.end(account, admitted.key)
            if admitted.key is not None:
                answer.headers["Original-Request"] = noted["id"]
        # What a call makes due at once happens at once: the clock only moves on to what is later.
        self.universe.advance(self.universe.now, patience=float("inf"))
        return answer if fault is None else spoiled.replaced(fault) or spoiled.twisted(fault, answer)

    def _executed(self, admitted: Admitted, mark: dict[str, Any] | None, fault: Fault | None) -> Answer:
        """Run the handler as one unit of work that also keeps the answer under its key."""
        world = admitted.world
        instead = None if fault is None else spoiled.instead(fault, admitted.route.path, admitted.variables)

        def keep(answer: Answer) -> Answer:
            if mark is not None:
                key = admitted.key or ""
                entry = {**mark, "status": answer.status, "body": answer.body.decode()}
                self.universe.keys.keep(world.account, key, entry)
                self.universe.did(
                    lambda: self.universe.keys.forget(world.account, key), ("key", world.account, key, entry)
                )
            return answer

        def work() -> Answer:
            if instead is not None and fault is not None and fault.kind != "500_after":
                return keep(_said(instead))
            try:
                done = admitted.route.handler(world, admitted.params, **admitted.variables)
                shown = present.answer(world, done, admitted.expand)
            except StripeError as error:
                if not error.commits:
                    raise
                return keep(_said(instead or error))
            return keep(Answer(200, encode(shown)) if instead is None else _said(instead))

        try:
            return self.universe.perform(work)
        except StripeError as error:
            refusal = _said(instead or error)
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

    def control(self, call: Call) -> "Answer | controls.Going":
        """The sandbox's own controls under `/_sandbox`. What they do was asked for by no request."""
        self.universe.request = (None, None)
        try:
            done = controls.answer(self, call.method, call.path, call.query, call.body)
        except Refused as refusal:
            return Answer(refusal.status, encode({"error": {"message": str(refusal)}}))
        except StripeError as error:
            return Answer(error.status, encode(error.body()))
        return Answer(200, encode(done)) if isinstance(done, dict) else done


def _told(noted: dict[str, Any], rule: str) -> dict[str, Any]:
    return {"rule": rule, **{name: noted[name] for name in ("id", "method", "path", "idempotency_key")}}


def _masked(secret: str) -> str:
    return f"{secret[:8]}{'*' * max(0, len(secret) - 12)}{secret[-4:]}" if len(secret) > 12 else secret


def _endpoint(call: Call) -> str:
    """The path as Stripe's reference writes it."""
    found = routes.match(call.method, call.path)
    return call.path if found is None else found[0].path


def _said(error: StripeError) -> Answer:
    return Answer(error.status, encode(error.body()), error.headers)


def _failed(status: int, message: str) -> Answer:
    body = encode({"error": {"message": message, "type": "api_error"}})
    return Answer(status, body, {"Stripe-Should-Retry": "false"})
