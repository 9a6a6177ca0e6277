"""Whether Stripe sent this: the check of a webhook's raw bytes against its signature, before anything is believed.

Stricter than stripe-python's, which lets signatures from the future, doubled keys, NaN and events without an id pass,
and raises half a dozen different errors. https://docs.stripe.com/webhooks#verify-manually
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import Any, Final

from billing import translate
from billing.answers import BadEvent, BadSignature, Unreadable
from billing.facts import EventFact

TOLERANCE: Final = 300
"""Seconds that a signature may be old, or ahead: Stripe signs every retry anew."""
MOST_BYTES: Final = 262_144
MOST_HEADER: Final = 4_096


def verify(raw: bytes, header: str, secrets: Iterable[str], now: int) -> EventFact:
    """The event in `raw`, signed by one of `secrets` within `TOLERANCE` of `now` (unix seconds of the real time).

    Several secrets are valid while one is being rotated. Raises `BadSignature` or `BadEvent`, and nothing else.
    """
    if len(raw) > MOST_BYTES:
        raise BadEvent(f"An event has at most {MOST_BYTES:,} bytes.")
    at, signatures = _read(header)
    if abs(now - at) > TOLERANCE:
        raise BadSignature("The signature is not of the last five minutes.")
    message = b"%d.%b" % (at, raw)
    wanted = [hmac.new(secret.encode(), message, hashlib.sha256).hexdigest() for secret in secrets if secret]
    if not any(hmac.compare_digest(ours, theirs) for ours in wanted for theirs in signatures):
        raise BadSignature("No signature of this webhook is ours.")
    return _event(raw)


def _read(header: str) -> tuple[int, list[str]]:
    """The one time and the v1 signatures in the header; other schemes are ignored."""
    if len(header) > MOST_HEADER or not header.isascii():
        raise BadSignature("The Stripe-Signature header is broken.")
    parts = [part.strip().partition("=")[::2] for part in header.split(",")]
    times = [value for name, value in parts if name == "t"]
    signatures = [value for name, value in parts if name == "v1"]
    if len(times) != 1 or not re.fullmatch(r"[0-9]{1,12}", times[0]) or not signatures:
        raise BadSignature("The Stripe-Signature header must have one time and at least one v1 signature.")
    return int(times[0]), signatures


def document(raw: bytes) -> Any:
    """One well-formed JSON document in UTF-8: no key twice, no NaN. Raises `BadEvent`."""
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadEvent("The webhook is not one well-formed JSON document.") from error


def _event(raw: bytes) -> EventFact:
    said = document(raw)
    if not isinstance(said, dict) or said.get("object") != "event":
        raise BadEvent("The webhook is no snapshot event of Stripe's API v1.")
    try:
        event = translate.event(said)
    except Unreadable as error:
        raise BadEvent(f"The webhook is no event: {error}") from error
    if not re.fullmatch(r"evt_[A-Za-z0-9_]{1,250}", event.id):
        raise BadEvent("The event has no usable id.")
    return event


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
