"""What cannot be done is refused with one sentence on standard error, and changes nothing at all."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from click.testing import Result
from flask import Flask

from billing.cli import plan_commands, stripe_commands
from billing.models import Payment
from billing.outages.cli import incident_commands
from sandbox import postgres
from tenants.cli import agency_commands, database_commands, member_commands
from tenants.clock import FixedClock
from tenants.db import Database
from tenants.house import House
from tests.billing.outages.august import DECLARED, RESOLVED, August
from tests.factories import (
    AgencyFactory,
    CustomerFactory,
    MemberFactory,
    RefundFactory,
    building,
    paid_invoice,
    subscribed,
)
from tests.web import app_of, house_of

SINCE = ["--platform", "facebook", "--since", "2019-08-22T20:00Z"]
FINANCE, APPROVER = ["--by", "finance@operator.example"], ["--by", "approver@operator.example"]


class Terminal:
    """`flask …` in this process, against a database with one business that paid 31.00 for August."""

    def __init__(self, august: August, urls: postgres.Urls) -> None:
        self.august, self._admin = august, urls.owner.replace("outage_owner@", "postgres@")
        self.house = house_of(august.db, clock=FixedClock(DECLARED))
        self.app = _with_commands(self.house)

    def run(self, *words: str) -> Result:
        return self.app.test_cli_runner().invoke(args=list(words))

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def rows(self) -> str:
        """A fingerprint of every row of every table."""
        with psycopg.connect(self._admin) as connection:
            tables = connection.execute(
                "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
            ).fetchall()
            digest = hashlib.sha256()
            for (table,) in tables:
                found = connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1".encode()).fetchall()
                digest.update(repr((table, found)).encode())
        return digest.hexdigest()

    def refuses(self, sentence: str, *words: str, status: int = 1) -> None:
        """One line that says `sentence`, the exit status, and not a row changed; as JSON, too."""
        before = self.rows()
        done = self.run(*words)
        assert done.exit_code == status, done.output
        assert sentence in done.stderr
        assert "Traceback" not in done.output
        assert done.stdout == ""
        if status == 1:
            assert len(done.stderr.strip().splitlines()) == 1
            told = json.loads(self.run(*words, "--json").stderr)
            assert sentence in told["error"]["message"]
        assert self.rows() == before

    def declared(self) -> dict[str, Any]:
        plan = self.json("incidents", "preview", *SINCE)
        shown = self.json("incidents", "declare", *SINCE, *FINANCE, "--fingerprint", plan["fingerprint"])
        assert shown["fingerprint"] == plan["fingerprint"]
        return dict(shown)


def _with_commands(house: House) -> Flask:
    app = app_of(house)
    for commands in (
        database_commands, agency_commands, member_commands, stripe_commands, plan_commands, incident_commands,
    ):  # fmt: skip
        app.cli.add_command(commands)
    return app


@pytest.fixture
def terminal(db: Database, database_urls: postgres.Urls) -> Terminal:
    august = August(db)
    with building(db):
        MemberFactory(role="auditor", email="auditor@operator.example")
        MemberFactory(role="agency-finance", email="theirs@acme.example", agency_id=august.agency.id)
        MemberFactory(email="gone@operator.example", active=False)
        customer = CustomerFactory(agency=august.agency, id="cus_corner")
        paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages))
        AgencyFactory(slug="bright-lantern")
    return Terminal(august, database_urls)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--platform", "facebok", "--since", "2019-08-22T20:00Z"], "did you mean facebook?"),
        (["--platform", "myspace", "--since", "2019-08-22T20:00Z"], "No platform is called 'myspace'"),
        (["--platform", "facebook", "--since", "2019-08-27T00:00Z"], "cannot begin in the future"),
        ([*SINCE, "--until", "2019-08-22T19:00Z"], "The end must come after the start"),
        ([*SINCE, "--until", "2019-08-22T20:00Z"], "The end must come after the start"),
        ([*SINCE, "--until", "2019-08-27T00:00Z"], "It has not ended yet"),
        (["--platform", "facebook", "--since", "2019-08-22T20:00"], "does not say in which time zone it is"),
        (["--platform", "facebook", "--since", "Thursday"], "'Thursday' is not a time"),
        (["--platform", "facebook", "--since", "2019-02-30T00:00Z"], "is not a time"),
        ([*SINCE, "--impact", "0"], "The impact is 1 to 10,000 basis points"),
        ([*SINCE, "--impact", "10001"], "The impact is 1 to 10,000 basis points"),
        ([*SINCE, "--impact", "-1"], "The impact is 1 to 10,000 basis points"),
        ([*SINCE, "--policy", "generous"], "The policy is prorated, credit or none"),
        ([*SINCE, "--agency", "bright-latern"], "did you mean bright-lantern?"),
        ([*SINCE, "--agency", "nobody"], "There is no agency called 'nobody'"),
    ],
)
def test_an_outage_that_cannot_be(terminal: Terminal, options: list[str], sentence: str) -> None:
    terminal.refuses(sentence, "incidents", "preview", *options)
    terminal.refuses(sentence, "incidents", "declare", *options, *FINANCE)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--title", "x" * 10_000], "A title has at most 120 characters"),
        (["--title", "up\u202edown"], "cannot be printed"),
        (["--title", "nul\x07"], "cannot be printed"),
        (["--message", "x" * 3_000], "A message has at most 2,000 characters"),
        (["--fingerprint", "0" * 32], "changed since you looked"),
        (["--as-of", "2019-08-26T09:00Z"], "more than an hour old"),
    ],
)
def test_a_declaration_that_cannot_be_written(terminal: Terminal, more: list[str], sentence: str) -> None:
    terminal.refuses(sentence, "incidents", "declare", *SINCE, *FINANCE, *more)


@pytest.mark.parametrize(
    ("who", "sentence"),
    [
        ("nobody@operator.example", "Nobody called nobody@operator.example works here"),
        ("gone@operator.example", "Nobody called gone@operator.example works here"),
        ("auditor@operator.example", "auditor@operator.example is auditor"),
        ("theirs@acme.example", "theirs@acme.example is agency-finance"),
    ],
)
def test_people_who_may_not_declare(terminal: Terminal, who: str, sentence: str) -> None:
    terminal.refuses(sentence, "incidents", "declare", *SINCE, "--by", who)


def test_the_same_outage_again_names_the_incident_that_it_overlaps(terminal: Terminal) -> None:
    first = terminal.declared()
    terminal.refuses(first["id"], "incidents", "declare", *SINCE, *FINANCE)


def test_approvals_that_are_not_a_second_pair_of_eyes(terminal: Terminal) -> None:
    shown = terminal.declared()
    approve = ["incidents", "approve", shown["id"]]
    named = ["--fingerprint", shown["fingerprint"]]
    terminal.refuses("a second person has to approve", *approve, *FINANCE, *named)
    terminal.refuses("is auditor", *approve, "--by", "auditor@operator.example", *named)
    terminal.refuses("changed since you looked", *approve, *APPROVER, "--fingerprint", "0" * 32)
    terminal.refuses("There is no incident", "incidents", "approve", "inc_none", *APPROVER, *named)
    terminal.json(*approve, *APPROVER, *named)
    terminal.refuses("waits for", *approve, *APPROVER, *named)


def test_a_refund_by_hand_after_the_preview_is_seen(terminal: Terminal) -> None:
    plan = terminal.json("incidents", "preview", *SINCE)
    with building(terminal.august.db) as session:
        payment = session.query(Payment).one()
        payment.elsewhere = 1_550
        RefundFactory(payment=payment, amount=1_550)
    declare = ["incidents", "declare", *SINCE, *FINANCE, "--fingerprint", plan["fingerprint"]]
    terminal.refuses("changed since you looked", *declare)
    again = terminal.json("incidents", "preview", *SINCE)
    assert [total["amount"] for total in plan["totals"]] == [375]  # 31.00 x 90 h / 744 h
    assert [total["amount"] for total in again["totals"]] == [188]  # half of it still stands: 1.875, half up


def test_what_an_incident_is_not_in_a_state_for(terminal: Terminal) -> None:
    shown = terminal.declared()
    id = shown["id"]
    terminal.refuses("There is no incident", "incidents", "show", "inc_none")
    terminal.refuses("There is no incident", "incidents", "resolve", "inc_none", *FINANCE)
    terminal.refuses("There is no incident", "incidents", "halt", "inc_none")
    terminal.refuses("There is no incident", "incidents", "reconcile", "inc_none")
    terminal.refuses("There is no customer", "incidents", "explain", id, "--customer", "cus_none")
    terminal.refuses("cannot have ended at", "incidents", "resolve", id, *FINANCE, "--at", "2019-08-22T19:00Z")
    terminal.refuses("future", "incidents", "resolve", id, *FINANCE, "--at", "2019-08-28T00:00Z")
    terminal.house.clock.at = RESOLVED  # type: ignore[attr-defined]
    terminal.json("incidents", "resolve", id, *FINANCE)
    terminal.refuses("already", "incidents", "resolve", id, *FINANCE)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["price_pages", "facebook=6000", "instagram=5000"], "add up to 11,000 basis points"),
        (["price_pages", "facebook=10001"], "a weight is 1 to 10,000 basis points"),
        (["price_pages", "facebook=0"], "a weight is 1 to 10,000 basis points"),
        (["price_pages", "facebook"], "is no weight"),
        (["price_pages", "facebook=60%"], "is no weight"),
        (["price_pages", "facebook=1", "facebook=2"], "has two weights"),
        (["price_none", "facebook=1"], "There is no plan price_none"),
        (["price_pages", "facebok=1"], "did you mean facebook?"),
    ],
)
def test_weights_that_cannot_be(terminal: Terminal, words: list[str], sentence: str) -> None:
    terminal.refuses(sentence, "plans", "weigh", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["agencies", "create", "Acme", "--slug", "acme"], "There is an agency called acme already"),
        (["agencies", "create", "X", "--slug", "No Spaces"], "cannot be a slug"),
        (["agencies", "create", "   "], "1 to 200 printable characters"),
        (["agencies", "create", "X", "--currency", "dollars"], "is no currency"),
        (["agencies", "create", "X", "--time-zone", "Mars/Olympus"], "is no time zone"),
        (["agencies", "create", "X", "--stripe-account", "cus_1"], "is no Stripe account"),
        (["members", "add", "not-an-address", "--role", "finance"], "is no e-mail address"),
        (["members", "add", "a@b@c.example", "--role", "finance"], "is no e-mail address"),
        (["members", "add", "finance@operator.example", "--role", "finance"], "is a member already"),
        (["members", "add", "x@y.example", "--role", "agency-admin"], "needs --agency"),
        (["members", "add", "x@y.example", "--role", "finance", "--agency", "acme"], "leave --agency out"),
        (["members", "add", "x@y.example", "--role", "agency-admin", "--agency", "none"], "There is no agency called"),
        (["stripe", "import", "--agency", "none"], "There is no agency called none"),
        (["stripe", "import", "--since", "soon"], "is not a time"),
    ],
)
def test_agencies_people_and_imports_that_cannot_be(terminal: Terminal, words: list[str], sentence: str) -> None:
    terminal.refuses(sentence, *words)


@pytest.mark.parametrize(
    "words",
    [
        ["incidents", "declare", *SINCE],
        ["incidents", "preview", "--since", "2019-08-22T20:00Z"],
        ["incidents", "preview", *SINCE, "--impact", "much"],
        ["incidents", "approve", "inc_1", "--by", "x@y.example"],
        ["members", "add", "x@y.example", "--role", "king"],
        ["incidents", "frobnicate"],
    ],
)
def test_bad_usage_is_status_2(terminal: Terminal, words: list[str]) -> None:
    terminal.refuses("Usage:", *words, status=2)


def test_stripe_without_a_key_or_an_answer_is_a_sentence(terminal: Terminal, free_port: int) -> None:
    terminal.refuses("STRIPE_SECRET_KEY", "stripe", "import")
    nowhere = replace(
        terminal.house.settings, stripe_secret_key="sk_test_x", stripe_api_base=f"http://127.0.0.1:{free_port}"
    )
    terminal.app = _with_commands(replace(terminal.house, settings=nowhere))
    terminal.refuses("Stripe", "stripe", "check")


def test_a_database_without_its_tables_is_a_sentence(postgres_server: postgres.Server, terminal: Terminal) -> None:
    empty = Database(postgres.ensure_database(postgres_server, "test_0_empty").app)
    terminal.app = _with_commands(replace(terminal.house, database=empty))
    done = terminal.run("incidents", "list")
    empty.dispose()
    assert done.exit_code == 1
    assert "Run `flask db upgrade` first." in done.stderr


def test_a_role_that_can_pass_the_wall_is_refused(database_urls: postgres.Urls, terminal: Terminal) -> None:
    owner = Database(database_urls.owner)
    terminal.app = _with_commands(replace(terminal.house, database=owner))
    terminal.refuses("can bypass row-level security", "incidents", "list")
    owner.dispose()


def test_the_shapes_that_scripts_rely_on(terminal: Terminal) -> None:
    plan = terminal.json("incidents", "preview", *SINCE)
    assert {"fingerprint", "as_of", "incident", "totals", "pauses", "left_out", "grants"} <= set(plan)
    assert plan["as_of"] == "2019-08-26T14:00:00Z"
    assert {name: plan["totals"][0][name] for name in ("currency", "amount", "grants", "customers")} == {
        "currency": "usd", "amount": 375, "grants": 1, "customers": 1,
    }  # fmt: skip
    assert plan["pauses"] == 1
    (grant,) = plan["grants"]
    assert {"agency", "customer", "invoice", "currency", "amount", "channel", "lines"} <= set(grant)
    assert (grant["agency"], grant["customer"], grant["amount"], grant["channel"]) == (
        "acme",
        "cus_corner",
        375,
        "refund",
    )
    (line,) = grant["lines"]
    assert {"line", "net", "period", "lost_seconds_weighted", "owed", "granted_before"} <= set(line)
    assert line["owed"] == "375/1"
    assert line["period"] == ["2019-08-01T00:00:00Z", "2019-09-01T00:00:00Z"]
    assert line["lost_seconds_weighted"] == str(int(timedelta(hours=90).total_seconds()))
    shown = terminal.declared()
    assert {"id", "state", "platform", "started_at", "ended_at", "runs", "pauses"} <= set(shown)
    assert (shown["state"], shown["platform"], shown["ended_at"]) == ("declared", "facebook", None)
    (run,) = shown["runs"]
    assert {"id", "state", "planned", "succeeded", "pending", "failed", "needs_person", "totals"} <= set(run)
    assert run["planned"] == 1
    assert {"held", "released"} <= set(shown["pauses"])
    for words in (["incidents", "list"], ["incidents", "show", shown["id"]], ["plans", "list"]):
        terminal.json(*words)
    terminal.json("incidents", "explain", shown["id"], "--customer", "cus_corner")
