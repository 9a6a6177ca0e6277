"""Only what Stripe signed, just now, and that is an event, gets in."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from stripe import WebhookSignature

from billing.answers import BadEvent, BadSignature
from billing.signature import MOST_BYTES, verify
from tests.billing import stripe_json as made

NOW = 1_566_828_000
OURS = "whsec_ours"


def body(**fields: Any) -> bytes:
    return json.dumps(made.event(**fields)).encode()


def signed(raw: bytes, at: int = NOW, secret: str = OURS) -> str:
    message = str(at).encode() + b"." + raw
    return f"t={at},v1={hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()}"


def test_what_stripes_own_library_signs_is_accepted() -> None:
    raw = body(account="acct_9")
    event = verify(raw, WebhookSignature.generate_signature_header(raw.decode(), OURS, NOW), [OURS], NOW)
    assert (event.id, event.type, event.account) == ("evt_1", "customer.subscription.updated", "acct_9")
    assert (event.object_kind, event.object_id, event.request_key) == ("subscription", "sub_1", "edev:a1:s7:n0")
    assert (event.livemode, event.api_version) == (False, "2026-10-28.endive")


def test_the_operators_own_events_have_no_account_and_stripes_own_deeds_no_key() -> None:
    for request in (None, {"id": None, "idempotency_key": None}, "req_old_style"):
        raw = body(request=request)
        event = verify(raw, signed(raw), [OURS], NOW)
        assert (event.account, event.request_key) == ("", None)


def test_two_secrets_are_valid_while_one_is_rotated() -> None:
    raw = body()
    for secret in ("whsec_old", "whsec_new"):
        assert verify(raw, signed(raw, secret=secret), ["whsec_old", "whsec_new"], NOW).id == "evt_1"
    both = signed(raw, secret="whsec_old") + ",v1=" + signed(raw, secret="whsec_new").partition("v1=")[2]
    assert verify(raw, both, ["whsec_new"], NOW).id == "evt_1"


GOOD = body()
RIGHT = signed(GOOD).partition("v1=")[2]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "v1=",
        f"v1={RIGHT}",
        f"t={NOW}",
        f"t={NOW},v1=",
        f"t={NOW},v0={RIGHT}",
        f"t={NOW},v1={RIGHT[:-1]}",
        f"t={NOW},v1={RIGHT.upper()}",
        f"t={NOW},t={NOW},v1={RIGHT}",
        f"t={NOW}0,v1={RIGHT}",
        f"t=-{NOW},v1={RIGHT}",
        f"t={NOW}.0,v1={RIGHT}",
        f"t=now,v1={RIGHT}",
        f"t={'9' * 5000},v1={RIGHT}",
        f"t=١٢٣,v1={RIGHT}",
        f"t={NOW},v1=é{RIGHT}",
        f"t={NOW}," + ",".join(["v1=" + "0" * 64] * 10_000),
        signed(GOOD, secret="whsec_theirs"),
        signed(GOOD + b" "),
        signed(GOOD, at=NOW - 301),
        signed(GOOD, at=NOW + 301),
        signed(GOOD, at=NOW + 10 * 365 * 86_400),
        signed(GOOD, at=0),
    ],
)
def test_any_other_signature_is_refused(header: str) -> None:
    with pytest.raises(BadSignature) as refusal:
        verify(GOOD, header, [OURS], NOW)
    assert refusal.value.status == 400


def test_five_minutes_either_way_are_allowed() -> None:
    for at in (NOW - 300, NOW + 300):
        assert verify(GOOD, signed(GOOD, at=at), [OURS], NOW).id == "evt_1"


def test_without_a_secret_nothing_gets_in() -> None:
    for secrets in ((), ("",)):
        with pytest.raises(BadSignature):
            verify(GOOD, signed(GOOD, secret=""), secrets, NOW)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"{",
        b'{"object": "event"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        body().replace(b'"livemode": false', b'"livemode": false, "livemode": true'),
        body(created=float("nan")),
        body(created=1.5),
        body(id=None),
        body(id=""),
        body(id="evt_" + "x" * 10_000),
        body(id="evt_1; DROP TABLE"),
        body(id=7),
        body(type=None),
        body(object="v2.core.event"),
        body(data=None),
        body(data={"object": []}),
        body(livemode="false"),
        body(account=7),
        body(request=["x"], data={}),
        json.dumps({"detail": made.event()}).encode(),
        json.dumps({"specversion": "1.0", "data": made.event()}).encode(),
        b" " * (MOST_BYTES + 1),
        b'{"object":"event","created":' + b"9" * 5_000 + b"}",
    ],
)
def test_what_is_signed_but_no_event_is_refused(raw: bytes) -> None:
    with pytest.raises(BadEvent) as refusal:
        verify(raw, signed(raw), [OURS], NOW)
    assert refusal.value.status == 400
