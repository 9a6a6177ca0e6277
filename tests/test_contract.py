"""The command line and the shapes that users and scripts rely on, exactly as they were promised."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from billing.models import Payment
from sandbox import postgres
from tenants.clock import FixedClock
from tenants.db import Database
from tenants.settings import Rate
from tests.billing.outages.august import DECLARED, RESOLVED, August
from tests.factories import CustomerFactory, DisputeFactory, building, paid_invoice, subscribed
from tests.journeys.shop import Shop, opened
from tests.pages import BLUEPRINTS
from tests.terminal import APPROVER, FINANCE, NEED_TABLES, SINCE, Terminal
from tests.web import house_of

ROOT = Path(__file__).resolve().parent.parent
OUTAGE = {"--platform", "--since", "--until", "--impact", "--agency", "--policy"}

PROMISED: dict[str, tuple[list[str], set[str]]] = {
    "db upgrade": ([], set()),
    "sandbox run": ([], {"--port", "--seed"}),
    "agencies create": (["NAME"], {"--slug", "--currency", "--time-zone", "--stripe-account"}),
    "members add": (["EMAIL"], {"--role", "--agency"}),
    "stripe import": ([], {"--agency", "--since"}),
    "stripe check": ([], set()),
    "plans list": ([], set()),
    "plans weigh": (["PRICE_OR_PRODUCT", "WEIGHTS"], set()),
    "incidents preview": ([], OUTAGE),
    "incidents declare": ([], {*OUTAGE, "--title", "--message", "--by", "--wait"}),
    "incidents approve": (["INCIDENT_ID"], {"--by", "--fingerprint"}),
    "incidents halt": (["INCIDENT_ID"], {"--everything", "--account", "--by"}),
    "incidents continue": (["INCIDENT_ID"], {"--everything", "--account", "--by", "--wait"}),
    "incidents resolve": (["INCIDENT_ID"], {"--at", "--wait"}),
    "incidents change": (
        ["INCIDENT_ID"],
        {"--since", "--until", "--impact", "--agency", "--all-agencies", "--reason", "--by", "--wait"},
    ),
    "incidents reopen": (["INCIDENT_ID"], {"--reason", "--by", "--wait"}),
    "incidents retract": (["INCIDENT_ID"], {"--reason", "--by", "--wait"}),
    "incidents list": ([], set()),
    "incidents show": (["INCIDENT_ID"], set()),
    "incidents explain": (["INCIDENT_ID"], {"--customer"}),
    "incidents reconcile": (["INCIDENT_ID"], set()),
    "incidents report": (["INCIDENT_ID"], {"--format"}),
    "worker": ([], set()),
}
"""Arguments in their order, and options."""
NEEDED = {
    "members add": {"--role"},
    "incidents preview": {"--platform", "--since"},
    "incidents declare": {"--platform", "--since", "--by"},
    "incidents approve": {"--by", "--fingerprint"},
    "incidents retract": {"--reason"},
    "incidents explain": {"--customer"},
}
"""Options without which a command is bad usage. Every other one may be left out."""
DEFAULTS = {
    ("sandbox run", "--port"): 12_111,
    ("agencies create", "--currency"): "usd",
    ("agencies create", "--time-zone"): "UTC",
    ("incidents preview", "--impact"): 10_000,
    ("incidents declare", "--impact"): 10_000,
}
MORE = {
    "agencies limit", "incidents decline", "incidents replan",
    "incidents damage", "incidents paid", "incidents waiting", "incidents simulate", "incidents update",
    "incidents retire", "incidents retry",
    "agencies load", "agencies policy", "members link", "members enrol", "members unenrol", "members remove",
    "customers link", "plans disable", "plans enable",
    "audit verify", "incidents lift", "events list", "events retry",
    "messages list", "messages preview", "messages template", "messages sender", "messages retry",
    "webhooks add", "webhooks list", "webhooks rotate", "webhooks disable", "webhooks enable", "webhooks sent",
    "webhooks retry",
    "monitors add", "monitors list", "monitors disable", "incidents confirm", "incidents dismiss",
}  # fmt: skip
"""Beyond the promise: the house may have them."""

WHAT_IS_THERE = """
import click, json
with click.Context(click.Command("tests"), info_name="tests"):
    import wsgi
found = {}
def walk(command, path):
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            walk(inner, [*path, name])
        return
    found[" ".join(path)] = [
        {"kind": one.param_type_name, "names": one.opts, "required": one.required, "many": getattr(one, "multiple", 0),
         "default": one.default if isinstance(one.default, int | str) else None,
         "choices": list(getattr(one.type, "choices", ()))}
        for one in command.params
    ]
walk(wsgi.app.cli, [])
print(json.dumps({"commands": found, "pages": list(wsgi.app.blueprints)}))
"""


def ended(*command: str) -> "subprocess.CompletedProcess[str]":
    """A process that finds no database."""
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    environ |= {"DATABASE_URL": "postgresql://outage_app@127.0.0.1:1/nowhere", "ENV_FILE": os.devnull}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def there() -> dict[str, Any]:
    """What wsgi.py puts together."""
    done = ended(sys.executable, "-c", WHAT_IS_THERE)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def commands(there: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every command, with its parameters."""
    found: dict[str, list[dict[str, Any]]] = there["commands"]
    return found


def test_the_tests_of_guards_look_at_every_page(there: dict[str, Any]) -> None:
    of_the_house = {"web", "people"}  # in every app
    assert set(there["pages"]) == of_the_house | {one.name for one in BLUEPRINTS}


def test_what_was_promised_is_there_and_nothing_unknown(commands: dict[str, Any]) -> None:
    assert set(commands) == {*PROMISED, *MORE}


def test_every_command_of_the_database_is_in_the_tables_of_bad_input(commands: dict[str, Any]) -> None:
    without_tables = {"db upgrade", "sandbox run", "worker"}
    assert {" ".join(words[:2]) for words in NEED_TABLES} == set(commands) - without_tables


@pytest.mark.parametrize("command", sorted(PROMISED))
def test_a_command_takes_what_was_promised(commands: dict[str, Any], command: str) -> None:
    arguments, options = PROMISED[command]
    found = {name: one for one in commands[command] for name in one["names"]}
    assert [one["names"][0].upper() for one in commands[command] if one["kind"] == "argument"] == arguments
    assert {*options, "--json"} <= set(found)
    needed = {name for name, one in found.items() if one["kind"] == "option" and one["required"]}
    assert needed == NEEDED.get(command, set())
    for (of, option), default in DEFAULTS.items():
        if of == command:
            assert found[option]["default"] == default


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["frobnicate", "now"], "No such command 'frobnicate'."), (["worker", "--colour"], "No such option '--colour'.")],
)
def test_bad_usage_of_a_word_that_stands_alone_is_said_as_json(words: list[str], sentence: str) -> None:
    flask = str(Path(sys.executable).with_name("flask"))
    done = ended(flask, *words, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr) == {"error": {"code": "bad_usage", "message": sentence}}
    plain = ended(flask, *words)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert sentence in plain.stderr


def test_roles_platforms_and_agencies_are_as_promised(commands: dict[str, Any]) -> None:
    (role,) = [one for one in commands["members add"] if one["names"] == ["--role"]]
    assert role["choices"] == ["finance", "approver", "auditor", "agency-admin", "agency-finance"]
    for command in ("incidents preview", "incidents declare"):
        (agency,) = [one for one in commands[command] if one["names"] == ["--agency"]]
        assert agency["many"]


# Shapes


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CURRENCY = re.compile(r"[a-z]{3}")
FRACTION = re.compile(r"\d+/[1-9]\d*")
DIGITS = re.compile(r"\d+")


def fits(found: Any, shape: Any, where: str = "document") -> None:
    """Every name of `shape` is there with exactly that type; names beyond it are free."""
    if isinstance(shape, dict):
        assert isinstance(found, dict), where
        for name, inner in shape.items():
            assert name in found, f"{where} has no {name}"
            fits(found[name], inner, f"{where}.{name}")
    elif isinstance(shape, list):
        assert isinstance(found, list), where
        assert found, f"{where} is empty, so nothing is known of it"
        for number, one in enumerate(found):
            fits(one, shape[0], f"{where}[{number}]")
    elif isinstance(shape, re.Pattern):
        assert isinstance(found, str), where
        assert shape.fullmatch(found), f"{where} is {found!r}"
    elif shape is None:
        assert found is None, where
    else:
        assert type(found) is shape, f"{where} is {found!r}"


def nothing_is_vague(found: Any, where: str = "document") -> None:
    """No number with a point, and no time but in UTC with Z, anywhere."""
    assert not isinstance(found, float), where
    if isinstance(found, str) and re.match(r"\d{4}-\d\d-\d\dT", found):
        assert TIME.fullmatch(found), f"{where} is {found!r}"
    parts = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for name, part in parts:
        nothing_is_vague(part, f"{where}.{name}")


AMOUNT = {"currency": CURRENCY, "amount": int}
PREVIEW = {
    "fingerprint": str,
    "as_of": TIME,
    "incident": dict,
    "totals": [{**AMOUNT, "grants": int, "customers": int}],
    "pauses": int,
    "left_out": [{"reason": str, "count": int, "amount": [AMOUNT]}],
    "grants": [
        {
            "agency": str, "customer": re.compile("cus_.+"), "invoice": re.compile("in_.+"), **AMOUNT, "channel": str,
            "lines": [
                {
                    "line": re.compile("il_.+"), "net": int, "period": [TIME], "lost_seconds_weighted": DIGITS,
                    "owed": FRACTION, "granted_before": int,
                }
            ],
        }
    ],
}  # fmt: skip
RUN = {
    "id": str, "state": str, "planned": int, "succeeded": int, "pending": int, "failed": int, "needs_person": int,
    "totals": [AMOUNT],
}  # fmt: skip
INCIDENT = {
    "id": str, "state": str, "platform": str, "started_at": TIME, "ended_at": None, "runs": [RUN],
    "pauses": {"held": int, "released": int},
}  # fmt: skip


@pytest.fixture
def terminal(db: Database, database_urls: postgres.Urls) -> Terminal:
    """Two businesses that paid 31.00 for August; one of them disputes it."""
    august = August(db)
    with building(db):
        for name in ("corner", "quarrel"):
            customer = CustomerFactory(agency=august.agency, id=f"cus_{name}")
            paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages), id=f"in_{name}")
    with building(db) as session:
        disputed = session.query(Payment).filter_by(invoice_id="in_quarrel").one()
        disputed.dispute_open, disputed.disputed = True, 3_100
        DisputeFactory(payment=disputed)
    return Terminal(house_of(db, clock=FixedClock(DECLARED)), database_urls)


def test_a_preview_has_the_promised_shape(terminal: Terminal) -> None:
    plan = terminal.json("incidents", "preview", *SINCE)
    fits(plan, PREVIEW)
    nothing_is_vague(plan)
    assert plan["as_of"] == "2019-08-26T14:00:00Z"
    assert plan["totals"][0].items() >= {"currency": "usd", "amount": 375, "grants": 1, "customers": 1}.items()
    assert plan["pauses"] == 2
    assert plan["left_out"] == [{"reason": "disputed", "count": 1, "amount": [{"currency": "usd", "amount": 375}]}]
    (grant,) = plan["grants"]
    assert [grant[name] for name in ("agency", "customer", "invoice", "amount", "channel")] == [
        "acme", "cus_corner", "in_corner", 375, "refund",
    ]  # fmt: skip
    (line,) = grant["lines"]
    assert (line["net"], line["owed"], line["granted_before"]) == (3_100, "375/1", 0)  # 31.00 x 90 h / 744 h
    assert line["period"] == ["2019-08-01T00:00:00Z", "2019-09-01T00:00:00Z"]
    assert line["lost_seconds_weighted"] == str(int(timedelta(hours=90).total_seconds()))


def test_a_preview_says_how_long_sending_takes(terminal: Terminal) -> None:
    assert terminal.json("incidents", "preview", *SINCE)["takes"] is None  # no rate is kept
    terminal.enter(replace(terminal.house, settings=replace(terminal.house.settings, stripe_rate=Rate(2, 1))))
    # Two pauses of 2 calls and one grant of 3, at 2 calls a second: 3.5 s, so 4.
    assert terminal.json("incidents", "preview", *SINCE)["takes"] == {"seconds": 4, "account": 2, "endpoint": 1}
    assert "  Sending takes about 4 s: Stripe is called 2 times" in terminal.run("incidents", "preview", *SINCE).output


def test_an_incident_has_the_promised_shape(terminal: Terminal) -> None:
    plan = terminal.json("incidents", "preview", *SINCE)
    shown = terminal.json("incidents", "declare", *SINCE, *FINANCE)
    fits(shown, INCIDENT)
    nothing_is_vague(shown)
    assert shown["fingerprint"] == plan["fingerprint"]
    assert [shown[name] for name in ("state", "platform", "started_at")] == [
        "declared", "facebook", "2019-08-22T20:00:00Z",
    ]  # fmt: skip
    (run,) = shown["runs"]
    assert [run[name] for name in ("state", "planned", "succeeded", "pending")] == ["waiting", 1, 0, 0]
    assert run["totals"][0].items() >= {"currency": "usd", "amount": 375}.items()
    terminal.house.clock.at = RESOLVED  # type: ignore[misc]
    resolved = terminal.json("incidents", "resolve", shown["id"])
    fits(resolved, {**INCIDENT, "ended_at": TIME})
    assert (resolved["state"], resolved["ended_at"]) == ("resolved", "2019-08-30T08:00:00Z")
    assert terminal.json("incidents", "show", shown["id"]) == resolved
    (listed,) = terminal.json("incidents", "list")["incidents"]
    assert listed.items() <= resolved.items()


@pytest.fixture
def shop() -> Iterator[Shop]:
    with opened() as shop:
        shop.sell(1)
        yield shop


def test_every_command_speaks_one_json_document(shop: Shop, db: Database, database_urls: postgres.Urls) -> None:
    terminal = Terminal(shop.house(db), database_urls)
    owner = replace(terminal.house.settings, database_url=database_urls.app, database_owner_url=database_urls.owner)
    terminal.enter(replace(terminal.house, settings=owner))
    say = terminal.json
    assert say("db", "upgrade") == {"revision": say("db", "upgrade")["revision"]}
    assert say("agencies", "create", "Elm Street", "--currency", "EUR").items() >= {
        "slug": "elm-street", "name": "Elm Street", "currency": "eur", "time_zone": "UTC", "stripe_account": None,
    }.items()  # fmt: skip
    assert len(say("agencies", "load", "-", stdin="name,slug\nOak,oak\nAsh,ash\n")["agencies"]) == 2
    added = say("members", "add", "Finance@operator.example", "--role", "finance")
    assert added.items() >= {"email": "finance@operator.example", "role": "finance", "agency": None}.items()
    say("members", "add", APPROVER[1], "--role", "approver")
    say("members", "add", "boss@elm.example", "--role", "agency-admin", "--agency", "elm-street")
    assert say("members", "link", FINANCE[1])["signs_in"] == FINANCE[1]
    factor = say("members", "enrol", FINANCE[1])
    assert factor["address"].startswith("otpauth://totp/Outage%20Billing:finance%40operator.example?secret=")
    assert say("members", "unenrol", FINANCE[1]) == {"email": FINANCE[1], "enrolled": False}
    imported = say("stripe", "import")
    assert imported["objects"]["customers"] == imported["objects"]["invoices"] == 1
    assert say("stripe", "check") == {"differences": [], "warnings": []}
    assert say("customers", "link", shop.customers[0])["signs_in"] == shop.customers[0]
    assert say("plans", "weigh", shop.price, "facebook=6000", "instagram=4000")["plans"][0]["weights"] == {
        "facebook": 6_000, "instagram": 4_000,
    }  # fmt: skip
    assert [plan["id"] for plan in say("plans", "list")["plans"]] == [shop.price]
    assert say("plans", "disable", "youtube") == {"platform": "youtube", "enabled": False}
    disabled = [one["slug"] for one in say("plans", "list")["platforms"] if not one["enabled"]]
    assert disabled == ["youtube"]
    assert say("plans", "enable", "youtube") == {"platform": "youtube", "enabled": True}
    shop.now(DECLARED)
    policy = say("agencies", "policy", "operator", "--gap", "60", "--minimum", "usd=100", *FINANCE)["policy"]
    assert (policy["grants"], policy["gap"], policy["minimums"]) == ("prorated", 60, {"usd": 100})
    assert say("agencies", "policy", "elm-street")["policy"] == policy  # it follows the operator's
    plan = say("incidents", "preview", *SINCE, "--compare")
    assert [total["amount"] for total in plan["totals"]] == [225]  # 31.00 x 60 % x 90 h / 744 h
    assert {name: [total["amount"] for total in one["totals"]] for name, one in plan["policies"].items()} == {
        "prorated": [225], "full": [225], "credit": [225], "none": [],  # it was paid before the outage began
    }  # fmt: skip
    id = say("incidents", "declare", *SINCE, *FINANCE)["id"]
    assert say("incidents", "halt", id)["halted"] is True
    assert say("incidents", "continue", id)["halted"] is False
    for scope, named in ((["--everything"], "everything"), (["--account", ""], "the operator's account")):
        assert say("incidents", "halt", *scope) == {"halted": named}
        assert say("incidents", "continue", *scope) == {"continued": named}
    approved = say("incidents", "approve", id, *APPROVER, "--fingerprint", plan["fingerprint"], "--wait")
    assert [run["succeeded"] for run in approved["runs"]] == [1]
    assert approved["pauses"]["held"] == 1
    explained = say("incidents", "explain", id, "--customer", shop.customers[0])
    assert [grant["amount"] for grant in explained["grants"]] == [225]
    assert say("incidents", "simulate", "--policy", "prorated")["totals"][0]["amount"] == 225
    reconciled = say("incidents", "reconcile", id)
    assert (reconciled["differences"], reconciled["checked"]["credit_notes"]) == ([], 1)
    assert say("incidents", "resolve", id, "--wait")["state"] == "resolved"
    assert say("incidents", "change", id, "--since", "2019-08-22T08:00Z")["started_at"] == "2019-08-22T08:00:00Z"
    reopened = say("incidents", "reopen", id)
    assert (reopened["state"], reopened["ended_at"]) == ("declared", None)
    assert say("incidents", "retract", id, "--reason", "It was no outage.", "--wait")["state"] == "retracted"
    for words in (["list"], ["show", id]):
        nothing_is_vague(say("incidents", *words))
    (charge,) = shop.ledger()["charges"]
    assert (charge["captured"], charge["refunded"]) == (3_100, 225)
