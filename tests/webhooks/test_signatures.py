"""What is believed: only what Stripe signed, now, for us. Anything else is a 400 and leaves no row."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.webhooks.posting import PATH, about, kept, post, signature, signed, why
from webhooks import inbox
from webhooks.models import InboxEvent

RAW = json.dumps(about("subscription", "sub_1")).encode()
OTHER = json.dumps(about("subscription", "sub_2")).encode()


def sent(client: FlaskClient, raw: bytes, header: str | None) -> int:
    headers = {} if header is None else {"Stripe-Signature": header}
    return client.post(PATH, data=raw, headers=headers).status_code


def header(*parts: str, at: object = "now") -> str:
    moment = int(time.time()) if at == "now" else at
    return ",".join([f"t={moment}", *parts])


RIGHT: dict[str, Any] = {
    "as Stripe writes it": lambda v1: [f"v1={v1}"],
    "beside a wrong one, while a secret is rotated": lambda v1: [f"v1={'0' * 64}", f"v1={v1}"],
    "beside another scheme": lambda v1: ["v0=abc", f"v1={v1}", "v2=abc"],
    "with spaces after the commas": lambda v1: [f" v1={v1}"],
}
WRONG: dict[str, Any] = {
    "v0 only": lambda v1: [f"v0={v1}"],
    "empty": lambda v1: ["v1="],
    "cut short": lambda v1: [f"v1={v1[:-1]}"],
    "upper case": lambda v1: [f"v1={v1.upper()}"],
    "10,000 of them": lambda v1: [f"v1={v1}"] * 10_000,
    "no text": lambda v1: [f"v1={v1}é"],
    "of another body": lambda v1: [f"v1={signature(OTHER)}"],
    "with another secret": lambda v1: [f"v1={signature(RAW, 'whsec_other')}"],
    "with the secret's name alone": lambda v1: [f"v1={signature(RAW, 'whsec_')}"],
    "with no secret": lambda v1: [f"v1={signature(RAW, '')}"],
    "of another time": lambda v1: [f"v1={signature(RAW, at=int(time.time()) - 60)}"],
}


@pytest.mark.parametrize("parts", RIGHT.values(), ids=RIGHT)
def test_the_right_signature_passes(client: FlaskClient, house: House, parts: Any) -> None:
    assert sent(client, RAW, header(*parts(signature(RAW)))) == 200
    assert kept(house) == [("evt_1", "received")]


@pytest.mark.parametrize("parts", WRONG.values(), ids=WRONG)
def test_no_other_signature_passes(client: FlaskClient, house: House, parts: Any) -> None:
    assert sent(client, RAW, header(*parts(signature(RAW)))) == 400
    assert kept(house) == []


@pytest.mark.parametrize("text", [None, "", "v1", ",,,", "t=,v1=", "=", "\x01"])
def test_no_signature_is_none(client: FlaskClient, house: House, text: str | None) -> None:
    assert sent(client, RAW, text) == 400
    assert kept(house) == []


@pytest.mark.parametrize("raw", [RAW + b" ", RAW[:-1], RAW.replace(b"sub_1", b"sub_2"), b"\xef\xbb\xbf" + RAW])
def test_a_body_that_was_changed_is_refused(client: FlaskClient, house: House, raw: bytes) -> None:
    assert sent(client, raw, signed(RAW)) == 400
    assert kept(house) == []


def test_either_secret_is_good_while_one_is_rotated(client: FlaskClient, house: House) -> None:
    assert post(client, about("subscription", "sub_1", "evt_1"), secret="whsec_old") == 200
    assert post(client, about("subscription", "sub_1", "evt_2"), secret="whsec_new") == 200
    assert post(client, about("subscription", "sub_1", "evt_3"), secret="whsec_other") == 400
    assert kept(house) == [("evt_1", "received"), ("evt_2", "received")]


@pytest.mark.parametrize("ahead", [-301, 301, -315_360_000, 315_360_000])
def test_old_signatures_and_those_of_the_future_are_refused(client: FlaskClient, house: House, ahead: int) -> None:
    assert post(client, about("subscription", "sub_1"), at=time.time() + ahead) == 400
    assert kept(house) == []


@pytest.mark.parametrize("at", ["", "soon", "9" * 5_000, "9" * 12, "-1", "+1", "1e9", "٣", "{now}.0", " {now}"])
def test_a_time_that_is_none_is_refused(client: FlaskClient, house: House, at: str) -> None:
    at = at.format(now=int(time.time()))
    assert sent(client, RAW, header(f"v1={signature(RAW, at=at)}", at=at)) == 400
    assert kept(house) == []


def test_a_time_that_is_missing_or_stands_twice_is_refused(client: FlaskClient, house: House) -> None:
    v1 = signature(RAW)
    assert sent(client, RAW, f"v1={v1}") == 400
    assert sent(client, RAW, header(f"t={int(time.time())}", f"v1={v1}")) == 400
    assert kept(house) == []


EVENT = about("subscription", "sub_1")
NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "an array": b"[]",
    "null": b"null",
    "a string": b'"evt_1"',
    "a number": b"1",
    "half a document": RAW[: len(RAW) // 2],
    "two documents": RAW + RAW,
    "no UTF-8": b"\xff\xfe" + RAW,
    "half a character": RAW.replace(b"sub_1", b"sub_\xc3"),
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 40_000,
    "an id twice": RAW[:-1] + b',"id":"evt_2"}',
    "NaN": RAW.replace(b'"evt_1"', b"NaN"),
    "Infinity": RAW.replace(b'"evt_1"', b"Infinity"),
    "a number too long": RAW.replace(b'"evt_1"', b"9" * 5_000),
    "no event": json.dumps(EVENT | {"object": "charge"}).encode(),
    "a thin event of v2": json.dumps(
        {"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.error_report_triggered",
         "created": "2026-01-01T00:00:00.000Z", "livemode": False, "related_object": {"id": "mtr_1", "type": "x"}}
    ).encode(),
    **{
        f"{name} {value!r:.20}": json.dumps(EVENT | {name: value}).encode()
        for name, values in {
            "id": (None, "", 1, [], "cus_1", "evt_" + "x" * 10_000, "evt_\0", "evt_1\n", "evt_/../x"),
            "type": (None, 1, []),
            "account": (1, {}, []),
            "livemode": (None, "false", 0),
            "created": (None, "1", 1.5, True, -(10**18), 10**30),
            "data": (None, [], {}, {"object": None}, {"object": []}, {"object": {"object": 1}},
                     {"object": {"object": "refund", "id": 5}}),
            "api_version": (1,),
        }.items()
        for value in values
    },
}  # fmt: skip


@pytest.mark.parametrize("raw", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_signed_or_not(client: FlaskClient, house: House, raw: bytes) -> None:
    for header in (signed(raw), signed(raw, "whsec_other"), None):
        answer = client.post(PATH, data=raw, headers={"Stripe-Signature": header} if header else {})
        assert answer.status_code == 400
        assert "Traceback" not in answer.text
    assert kept(house) == []


def test_without_a_secret_nothing_is_believed(client: FlaskClient, house: House) -> None:
    bare = replace(house, settings=replace(house.settings, stripe_webhook_secrets=()))
    client.application.extensions["house"] = bare
    assert post(client, about("subscription", "sub_1")) == 503
    assert sent(client, RAW, header(f"v1={signature(RAW, '')}")) == 503


@pytest.mark.parametrize(
    ("fields", "state", "reason"),
    [
        ({"livemode": True}, "ignored", "It is of live mode, and our key is not."),
        ({"account": "acct_strange"}, "orphan", "No agency has this Stripe account."),
        ({"data": {"object": {"id": "tok_1", "object": "token"}}}, "ignored", "We keep nothing of this kind."),
        ({"data": {"object": {"object": "balance"}}}, "ignored", "We keep nothing of this kind."),
        ({"type": "a.type.of.next.year"}, "received", None),
        ({"type": "x" * 10_000}, "received", None),
        ({"api_version": "2030-01-01.zephyr"}, "received", None),
        ({"api_version": None}, "received", None),
        ({"more": {"of": "next year"}}, "received", None),
    ],
)
def test_what_is_strange_is_kept_and_what_is_not_for_us_never_handled(
    client: FlaskClient, house: House, fields: dict[str, Any], state: str, reason: str | None
) -> None:
    assert post(client, about("subscription", "sub_1") | fields) == 200
    assert why(house)[1:] == (state, reason)
    assert inbox.handle_due(house) == (state == "received")


def test_a_saved_request_that_is_sent_again_changes_nothing(client: FlaskClient, house: House) -> None:
    saved = signed(RAW)
    assert [sent(client, RAW, saved) for _ in range(3)] == [200, 200, 200]
    with house.database.work(OPERATOR) as session:
        session.execute(
            sa.update(InboxEvent).values(state="handled", received_at=sa.text("now() - interval '40 days'"))
        )
    assert sent(client, RAW, signed(RAW)) == 200
    assert kept(house) == [("evt_1", "handled")]


ACME = "/webhooks/stripe/acme"


@pytest.fixture
def acme(db: Database, stripe: SmallStripe, client: FlaskClient, house: House) -> Approved:
    """An agency with its own account and its own endpoint, and one without."""
    own = replace(house.settings, agency_webhook_secrets={"acme": ("whsec_acme", "whsec_acme_new")})
    client.application.extensions["house"] = replace(house, settings=own)
    return Approved(db, stripe).begin(account="acct_acme")


@pytest.mark.parametrize(
    ("path", "secret", "account", "status"),
    [
        (ACME, "whsec_acme", "", 200),  # its own endpoint names no account
        (ACME, "whsec_acme_new", "", 200),
        (ACME, "whsec_acme", "acct_acme", 200),
        (ACME, "whsec_acme", "acct_other", 400),
        (ACME, "whsec_new", "acct_acme", 400),  # the operator's secret is not the agency's
        (PATH, "whsec_new", "acct_acme", 200),
        (PATH, "whsec_acme", "acct_acme", 400),
        ("/webhooks/stripe/operator", "whsec_new", "", 404),  # it has no account of its own
        ("/webhooks/stripe/nobody", "whsec_new", "acct_acme", 404),
        ("/webhooks/stripe/nobody", "whsec_acme", "acct_acme", 400),
        ("/webhooks/stripe/a%00b", "whsec_new", "", 404),
    ],
)
def test_an_agencys_path_takes_its_own_events_alone(
    client: FlaskClient, house: House, acme: Approved, path: str, secret: str, account: str, status: int
) -> None:
    assert post(client, about("subscription", "sub_1", account=account or None), path, secret=secret) == status
    if status == 200:
        assert why(house)[0] == "acct_acme"
    else:
        assert kept(house) == []


def test_without_a_secret_of_its_own_an_agencys_path_takes_what_connect_sends(
    client: FlaskClient, house: House, db: Database, stripe: SmallStripe
) -> None:
    Approved(db, stripe).begin(account="acct_acme")
    assert post(client, about("subscription", "sub_1", account="acct_acme"), ACME) == 200
    assert post(client, about("subscription", "sub_1", "evt_2"), ACME) == 400  # the operator's own event
    assert [id for id, _ in kept(house)] == ["evt_1"]
