"""What a fault makes of a call: the refusal that it gets, or what becomes of its answer on the wire."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from sandbox.stripe.faults import Arrival, Fault
from sandbox.stripe.idempotency import in_use, other_parameters
from sandbox.stripe.limits import too_many
from sandbox.stripe.wire import Answer, StripeError, encode, missing

LOCKED: Final = (
    "This object cannot be accessed right now because another API request or Stripe process is currently accessing it. "
    "If you see this error intermittently, retry the request."
)
_AMOUNTS: Final = ("amount", "total", "amount_refunded", "amount_due", "amount_paid")


def lock_timeout() -> StripeError:
    """Nothing was processed and no limiter refused: no reason, but leave to retry (docs.stripe.com/rate-limits)."""
    return StripeError(LOCKED, status=429, code="lock_timeout", headers={"Stripe-Should-Retry": "true"})


def internal_error() -> StripeError:
    return StripeError("An unknown error occurred.", status=500, type="api_error")


def refused(fault: Fault, call: Arrival) -> StripeError | None:
    """What Stripe says before it looks at the request, if this kind of fault is such a refusal."""
    match fault.kind:
        case "429":
            return too_many(fault.options["reason"])
        case "lock_timeout":
            return lock_timeout()
        case "401":
            return StripeError("Expired API Key provided.", status=401, code="api_key_expired")
        case "403":
            return StripeError(
                f"The provided key does not have the required permissions for this endpoint on account "
                f"'{call.account}'.", status=403, code="more_permissions_required",
            )  # fmt: skip
        case "409":
            return in_use(call.key or "")
        case "idempotency_error":
            return other_parameters(call.key or "")
    return None


def instead(fault: Fault, endpoint: str, variables: dict[str, str]) -> StripeError | None:
    """What the endpoint answers instead of doing something, if this kind of fault is such an answer."""
    match fault.kind:
        case "500_before" | "500_after":
            return internal_error()
        case "404":
            kind = endpoint.split("/")[2].removesuffix("s")
            return missing(kind, next(reversed(variables.values()), ""))
        case "error":
            return StripeError(**fault.options)
    return None


def replaced(fault: Fault) -> Answer | None:
    """The answer of something that stands before Stripe, if this kind of fault is one."""
    match fault.kind:
        case "503":
            body = b"<html><body><h1>503 Service Unavailable</h1></body></html>"
            return Answer(503, body, {"Content-Type": "text/html"})
        case "html":
            return Answer(200, b"<!DOCTYPE html><html><body>Sign in</body></html>", {"Content-Type": "text/html"})
        case "redirect":
            return Answer(302, b"", {"Content-Type": "text/plain", "Location": fault.options["location"]})
    return None


def twisted(fault: Fault, answer: Answer) -> Answer:
    """The answer with what this kind of fault changes in it. Only on the wire: what is kept under the key is right."""
    if fault.kind == "other_version":
        answer = Answer(answer.status, answer.body, {**answer.headers, "Stripe-Version": fault.options["version"]})
    twist = _TWISTS.get(fault.kind)
    if twist is None or answer.status != 200:
        return answer
    document = copy.deepcopy(json.loads(answer.body))
    if fault.kind == "answer":
        _rewrite(document, fault.options)
    else:
        for obj in _objects(document):
            twist(obj, fault.options)
    return Answer(answer.status, encode(document), answer.headers)


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    """The object that was answered, or those of the list."""
    if document.get("object") == "list":
        yield from document["data"]
    else:
        yield document


def _amounts(change: Callable[[int], Any]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def twist(obj: dict[str, Any], options: dict[str, Any]) -> None:
        obj.update({name: change(obj[name]) for name in _AMOUNTS if isinstance(obj.get(name), int)})

    return twist


def _currency(obj: dict[str, Any], options: dict[str, Any]) -> None:
    if "currency" in obj:
        obj["currency"] = "gbp" if obj["currency"] != "gbp" else "eur"


def _status(obj: dict[str, Any], options: dict[str, Any]) -> None:
    if "status" in obj:
        obj["status"] = "reconsidered"


def _field(obj: dict[str, Any], options: dict[str, Any]) -> None:
    obj["novelty"] = {"object": "novelty", "value": 1}


def _padding(obj: dict[str, Any], options: dict[str, Any]) -> None:
    obj["padding"] = "x" * options["bytes"]


_TWISTS: Final[dict[str, Callable[[dict[str, Any], dict[str, Any]], None]]] = {
    "wrong_amount": _amounts(lambda amount: amount + 1),
    "string_amount": _amounts(str),
    "wrong_currency": _currency,
    "unknown_status": _status,
    "unknown_field": _field,
    "other_version": _field,
    "huge": _padding,
    "answer": lambda obj, options: None,
}


def _rewrite(document: Any, options: dict[str, Any]) -> None:
    for path, value in options["set"].items():
        holder, last = _holder(document, path)
        if holder is not None:
            holder[last] = value
    for path in options["drop"]:
        holder, last = _holder(document, path)
        if isinstance(holder, dict):
            holder.pop(last, None)


def _holder(document: Any, path: str) -> tuple[Any, Any]:
    """What holds the last part of a dotted path, and that part; None where the path leads nowhere."""
    *parts, last = path.split(".")
    for part in parts:
        document = _within(document, part)
    if isinstance(document, list) and last.isdecimal() and int(last) < len(document):
        return document, int(last)
    return (document, last) if isinstance(document, dict) else (None, last)


def _within(document: Any, part: str) -> Any:
    if isinstance(document, dict):
        return document.get(part)
    if isinstance(document, list) and part.isdecimal() and int(part) < len(document):
        return document[int(part)]
    return None
