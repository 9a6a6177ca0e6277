"""What cannot be done is refused with one sentence on standard error, and changes nothing at all."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import psycopg
import pytest
import sqlalchemy as sa

from billing.models import Payment, SyncCursor
from billing.outages import suspicions, terms
from billing.outages.messages.models import Message
from sandbox import postgres
from tenants.clock import FixedClock, SandboxClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import OPERATOR_AGENCY, Agency, Member
from tests.billing.outages.august import DECLARED, RESOLVED, August
from tests.billing.wire import Reply, failure, listening
from tests.databases import cloned
from tests.factories import (
    AgencyFactory,
    CustomerFactory,
    MemberFactory,
    PlatformFactory,
    RefundFactory,
    building,
    paid_invoice,
    subscribed,
)
from tests.terminal import APPROVER, FINANCE, GROUPS, NEED_TABLES, NOTED, SINCE, Terminal
from tests.web import house_of
from webhooks.models import Delivery, Monitor, Notice, WebhookEndpoint

ROOT = Path(__file__).resolve().parent.parent
FLASK = str(Path(sys.executable).with_name("flask"))


def furnished(urls: postgres.Urls, db: Database) -> Terminal:
    """One business that paid 31.00 for August, and people of every kind."""
    august = August(db)
    with building(db):
        MemberFactory(role="auditor", email="auditor@operator.example")
        MemberFactory(email="second@operator.example")
        MemberFactory(role="agency-admin", email="boss@acme.example", agency_id=august.agency.id)
        MemberFactory(role="agency-finance", email="theirs@acme.example", agency_id=august.agency.id)
        MemberFactory(email="gone@operator.example", active=False)
        customer = CustomerFactory(agency=august.agency, id="cus_corner")
        paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages))
        AgencyFactory(slug="bright-lantern", stripe_account="acct_lantern")
    return Terminal(house_of(db, clock=FixedClock(DECLARED)), urls)


@pytest.fixture(scope="module")
def own_urls(postgres_server: postgres.Server, worker_id: str) -> Iterator[postgres.Urls]:
    with cloned(postgres_server, f"test_{os.getpid()}_{worker_id}_refusals") as urls:
        yield urls


@pytest.fixture(scope="module")
def shared(own_urls: postgres.Urls) -> Iterator[Terminal]:
    """For tests that only see refusals: those leave it as it was."""
    db = Database(own_urls.app)
    yield furnished(own_urls, db)
    db.dispose()


@pytest.fixture
def terminal(db: Database, database_urls: postgres.Urls) -> Terminal:
    return furnished(database_urls, db)


def declared(terminal: Terminal) -> tuple[str, str]:
    """An incident with refunds that wait for an approval: its id and their fingerprint."""
    shown = terminal.json("incidents", "declare", *SINCE, *FINANCE)
    return shown["id"], shown["fingerprint"]


@pytest.mark.parametrize(
    ("options", "sentence", "code"),
    [
        (["--platform", "facebok", "--since", "2019-08-22T20:00Z"], "did you mean facebook?", "not_found"),
        (["--platform", "myspace", "--since", "2019-08-22T20:00Z"], "No platform is called 'myspace'", "not_found"),
        (["--platform", "x' OR 1=1 --", "--since", "2019-08-22T20:00Z"], "No platform is called", "not_found"),
        (["--platform", "", "--since", "2019-08-22T20:00Z"], "Name one platform", "bad_request"),
        (["--platform", "f" * 10_000, "--since", "2019-08-22T20:00Z"], "Name one platform", "bad_request"),
        (["--platform", "facebook", "--since", "2019-08-27T00:00Z"], "cannot begin in the future", "refused"),
        ([*SINCE, "--until", "2019-08-22T19:00Z"], "The end must come after the start", "refused"),
        ([*SINCE, "--until", "2019-08-22T20:00Z"], "The end must come after the start", "refused"),
        ([*SINCE, "--until", "2019-08-22T21:00+02:00"], "The end must come after the start", "refused"),
        ([*SINCE, "--until", "2019-08-27T00:00Z"], "It has not ended yet", "refused"),
        ([*SINCE, "--until", "2019-08-23T00:00"], "does not say in which time zone it is", "bad_request"),
        (["--platform", "facebook", "--since", "2019-08-22T20:00"], "does not say in which time zone", "bad_request"),
        (["--platform", "facebook", "--since", "Thursday"], "'Thursday' is not a time", "bad_request"),
        (["--platform", "facebook", "--since", ""], "is not a time", "bad_request"),
        (["--platform", "facebook", "--since", "1566504000"], "is not a time", "bad_request"),
        (["--platform", "facebook", "--since", "2019-02-30T00:00Z"], "is not a time", "bad_request"),
        (["--platform", "facebook", "--since", "0001-01-01T00:00+14:00"], "is not a time", "bad_request"),
        (["--platform", "facebook", "--since", "0019-08-22T20:00Z"], "Look at the year", "bad_request"),
        (["--platform", "facebook", "--since", "2019-08-22T20:00+25:00"], "is not a time", "bad_request"),
        (["--platform", "facebook", "--since", "9999-08-22T20:00Z"], "cannot begin in the future", "refused"),
        (["--platform", "facebook", "--since", "99999-08-22T20:00Z"], "is not a time", "bad_request"),
        (["--platform", "facebook", "--since", "2019-03-31T02:30 Europe/Berlin"], "is not a time", "bad_request"),
        ([*SINCE, "--impact", "0"], "The impact is 1 to 10,000 basis points", "bad_request"),
        ([*SINCE, "--impact", "10001"], "The impact is 1 to 10,000 basis points", "bad_request"),
        ([*SINCE, "--impact", "-1"], "The impact is 1 to 10,000 basis points", "bad_request"),
        ([*SINCE, "--impact", "9" * 30], "The impact is 1 to 10,000 basis points", "bad_request"),
        ([*SINCE, "--policy", "generous"], "The policy is prorated, full, credit or none", "bad_request"),
        ([*SINCE, "--agency", "bright-latern"], "did you mean bright-lantern?", "not_found"),
        ([*SINCE, "--agency", "acme", "--agency", "nobody"], "There is no agency called 'nobody'", "not_found"),
    ],
)
def test_an_outage_that_cannot_be(shared: Terminal, options: list[str], sentence: str, code: str) -> None:
    shared.refuses(sentence, "incidents", "preview", *options, code=code)
    shared.refuses(sentence, "incidents", "declare", *options, *FINANCE, code=code)


@pytest.mark.parametrize(
    ("words", "sentence", "code"),
    [
        (["nobody", "--grants", "full", *FINANCE], "There is no agency called nobody", "not_found"),
        (["acme", "--grants", "generous", *FINANCE], "prorated, full, credit or none", "bad_request"),
        (["acme", "--grants", "full", *APPROVER], "is set by its admin or by the operator's finance", "not_allowed"),
        (["acme", "--grants", "full", "--by", "theirs@acme.example"], "is set by its admin", "not_allowed"),
        (["bright-lantern", "--gap", "1", "--by", "boss@acme.example"], "is set by its admin", "not_allowed"),
        (["acme", "--inherit", "generosity", *FINANCE], "There is no setting called 'generosity'", "bad_request"),
        (["acme", "--promise-days", "7", "--gap", "-5", *FINANCE], "A gap is 0 to 172,800 seconds", "bad_request"),
        (["acme", "--choice-days", "-1", *FINANCE], "Let customers choose for 0 to 90 days", "bad_request"),
        (["acme", "--choice-days", "91", *FINANCE], "Let customers choose for 0 to 90 days", "bad_request"),
        (["acme", "--settle", "weekly", *FINANCE], "Settle at both, at resolution, or every N days", "bad_request"),
        (["acme", "--settle-days", "0", *FINANCE], "Settle every 1 to 366 days", "bad_request"),
        (["acme", "--promise-days", "91", *FINANCE], "Promise it within 0 to 90 business days", "bad_request"),
        (["acme", "--granularity", "minute", *FINANCE], "Time is counted by second, hour or day", "bad_request"),
        (["acme", "--pause-from", "0", *FINANCE], "from a lost share of 1 to 10,000", "bad_request"),
        (["acme", "--hold", "forget", *FINANCE], "held as keep_as_draft or void", "bad_request"),
        (["acme", "--below-minimum", "drop", *FINANCE], "carried or credited", "bad_request"),
        (["acme", "--minimum", "dollars=1", *FINANCE], "A minimum names its currency", "bad_request"),
        (["acme", "--minimum", "usb=1", *FINANCE], "'usb' is no currency: a minimum names", "bad_request"),
        (["acme", "--minimum", "usd=1", "--minimum", "xxx=1", *FINANCE], "'xxx' is no currency", "bad_request"),
    ],
)
def test_a_policy_that_cannot_be(shared: Terminal, words: list[str], sentence: str, code: str) -> None:
    shared.refuses(sentence, "agencies", "policy", *words, code=code)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--policy", "generous"], "prorated, full, credit or none"),
        (["--policy", "full", "--months", "0"], "Look back 1 to 120 months"),
    ],
)
def test_a_year_that_cannot_be_supposed(shared: Terminal, words: list[str], sentence: str) -> None:
    shared.refuses(sentence, "incidents", "simulate", *words, code="bad_request")


@pytest.mark.parametrize(
    ("more", "sentence", "code"),
    [
        (["--title", "x" * 10_000], "A title has at most 120 characters", "bad_request"),
        (["--title", "up\u202edown"], "cannot be printed", "bad_request"),
        (["--title", "bell\x07"], "cannot be printed", "bad_request"),
        (["--title", "zero\u200bwidth"], "cannot be printed", "bad_request"),
        (["--title", "two\ufeff"], "cannot be printed", "bad_request"),
        (["--message", "x" * 3_000], "A message has at most 2,000 characters", "bad_request"),
        (["--message", "\x1b[2J"], "cannot be printed", "bad_request"),
        (["--fingerprint", "0" * 32], "changed since you looked", "plan_changed"),
        (["--as-of", "2019-08-26T09:00Z"], "more than an hour old", "plan_changed"),
        (["--as-of", "2019-08-26T14:00:01Z"], "cannot be made as of", "bad_request"),
        (["--as-of", "now"], "'now' is not a time", "bad_request"),
    ],
)
def test_a_declaration_that_cannot_be_written(shared: Terminal, more: list[str], sentence: str, code: str) -> None:
    shared.refuses(sentence, "incidents", "declare", *SINCE, *FINANCE, *more, code=code)


@pytest.mark.parametrize(
    ("who", "sentence"),
    [
        ("nobody@operator.example", "Nobody called nobody@operator.example works here"),
        ("gone@operator.example", "Nobody called gone@operator.example works here"),
        ("", "Nobody called"),
        ("auditor@operator.example", "auditor@operator.example is auditor"),
        ("approver@operator.example", "approver@operator.example is approver"),
        ("boss@acme.example", "boss@acme.example is agency-admin"),
        ("theirs@acme.example", "theirs@acme.example is agency-finance"),
    ],
)
def test_people_who_may_not(terminal: Terminal, who: str, sentence: str) -> None:
    terminal.refuses(sentence, "incidents", "declare", *SINCE, "--by", who)
    id, fingerprint = declared(terminal)
    terminal.refuses(sentence, "incidents", "resolve", id, "--by", who or "nobody@x.example".replace("nobody", ""))
    if who != "approver@operator.example":
        terminal.refuses(sentence, "incidents", "approve", id, "--by", who, "--fingerprint", fingerprint)
        if who:
            terminal.refuses(sentence, "incidents", "halt", id, "--by", who)
            terminal.refuses(sentence, "incidents", "continue", id, "--by", who)


def test_whoever_may_only_read_is_noted_whatever_they_try(terminal: Terminal) -> None:
    id, fingerprint = declared(terminal)
    with building(terminal.house.database) as session:
        suspicion = suspicions.notice(session, PlatformFactory(slug="x").id, None, "Slow", DECLARED, None, "test").id
        acme = session.scalars(sa.select(Agency.id).where(Agency.slug == "acme")).one()
        finance = session.scalars(sa.select(Member.id).where(Member.email == FINANCE[1])).one()
        told = {"agency_id": acme, "incident_id": id}
        message = Message(**told, customer_id="cus_corner", kind="declared", state="failed")
        notice = Notice(**told, type="incident.updated", about="1", body="{}")
        endpoint = WebhookEndpoint(agency_id=acme, url="https://acme.example/hooks", added_by=finance)
        monitor = Monitor(platform_id=PlatformFactory(slug="x").id, kind="statuspage", token_hash="x", added_by=finance)
        session.add_all([message, notice, endpoint, monitor])
        session.flush()
        delivery = Delivery(agency_id=acme, notice_id=notice.id, endpoint_id=endpoint.id, state="failed")
        session.add(delivery)
    here = str(endpoint.id)
    tried: Sequence[Sequence[str]] = (
        ("incidents", "declare", *SINCE),
        ("incidents", "confirm", suspicion),
        ("incidents", "dismiss", suspicion, "--reason", "x"),
        ("incidents", "approve", id, "--fingerprint", fingerprint),
        ("incidents", "decline", id, "--reason", "x"),
        ("incidents", "replan", id),
        ("incidents", "halt", id),
        ("incidents", "halt", "--everything"),
        ("incidents", "halt", "--account", ""),
        ("incidents", "continue", id),
        ("incidents", "continue", "--everything"),
        ("incidents", "resolve", id),
        ("incidents", "change", id, "--impact", "1"),
        ("incidents", "reopen", id),
        ("incidents", "retract", id, "--reason", "x"),
        ("incidents", "retire", id, "--reason", "x"),
        ("incidents", "update", id, "--message", "x"),
        ("incidents", "lift", "in_7", "--reason", "x"),
        ("incidents", "paid", "7", "--note", "x"),
        ("incidents", "retry", "7", "--reason", "x"),
        ("incidents", "damage", id, "--customer", "cus_corner", "--amount", "1", "--currency", "usd", "--what", "x"),
        ("agencies", "limit", "acme", "--currency", "usd", "--per-run", "1", "--per-day", "1"),
        ("agencies", "policy", "acme", "--gap", "1"),
        ("messages", "sender", "acme", "--locale", "de-DE"),
        ("messages", "template", "acme", "declared"),
        ("messages", "retry", str(message.id)),
        ("events", "retry", "7"),
        ("webhooks", "add", "acme", "https://acme.example/others"),
        ("webhooks", "rotate", here),
        ("webhooks", "disable", here),
        ("webhooks", "enable", here),
        ("webhooks", "retry", str(delivery.id)),
        ("monitors", "add", "statuspage", "--platform", "facebook"),
        ("monitors", "disable", str(monitor.id)),
    )
    assert {tuple(words[:2]) for words in tried} == set(NOTED)
    who = "auditor@operator.example"
    for words in tried:
        terminal.refuses(f"{who} is auditor", *words, "--by", who, code="not_allowed")


def test_every_command_that_is_told_who_gives_it_is_noted_where_it_is_denied() -> None:
    told = {
        (group.name, name) for group in GROUPS for name, command in group.commands.items()
        if any("--by" in one.opts for one in command.params)
    }  # fmt: skip
    assert told == set(NOTED)


def test_the_operators_own_customers_read_its_name_and_times_of_its_own(terminal: Terminal) -> None:
    words = ("messages", "sender", "operator", "--name", " Social  Report", "--time-zone", "America/Chicago", *FINANCE)
    assert terminal.json(*words, "--currency", "EUR") == {
        "agency": "operator", "name": "Social Report", "locale": "en-US", "time_zone": "America/Chicago",
        "currency": "eur", "reply_to": None,
    }  # fmt: skip
    assert "writes amounts like €1,234.56" in terminal.run("messages", "sender", "operator", *FINANCE).output
    with terminal.house.database.work(OPERATOR) as session:
        operator = session.get_one(Agency, OPERATOR_AGENCY)
        assert (operator.name, terms.now(session, [operator.id])[operator.id].counting.time_zone) == (
            "Social Report", "America/Chicago",
        )  # fmt: skip
    terminal.refuses("acme is changed by its admin", "messages", "sender", "acme", "--name", "Acme", *APPROVER)


def test_an_agencys_finance_declares_for_its_own_agency_alone(shared: Terminal) -> None:
    for agencies in (["--agency", "bright-lantern"], ["--agency", "acme", "--agency", "bright-lantern"]):
        words = ["incidents", "declare", *SINCE, *agencies, "--by", "theirs@acme.example"]
        shared.refuses("may declare an outage for acme alone", *words, code="not_allowed")


def test_the_same_outage_again_names_the_incident_that_it_overlaps(terminal: Terminal) -> None:
    id, _ = declared(terminal)
    again = ["incidents", "declare", "--platform", "facebook", *FINANCE]
    for since in (["2019-08-22T20:00Z"], ["2019-08-20T20:00Z"], ["2019-08-24T00:00Z", "--until", "2019-08-25T00:00Z"]):
        terminal.refuses(f"it overlaps incident {id}", *again, "--since", *since, code="already_declared")


def test_an_outage_of_more_than_a_year_is_declared_from_its_preview(terminal: Terminal) -> None:
    """A slip of the year would give back a year: whoever means it has seen what it gives."""
    years = ["--platform", "facebook", "--since", "2016-08-22T20:00Z"]
    terminal.refuses("lasts longer than a year", "incidents", "declare", *years, *FINANCE)
    seen = terminal.json("incidents", "preview", *years)["fingerprint"]
    assert terminal.json("incidents", "declare", *years, *FINANCE, "--fingerprint", seen)["state"] == "declared"


def test_nothing_is_approved_declined_or_claimed_after_a_retraction(terminal: Terminal, tmp_path: Path) -> None:
    id, fingerprint = declared(terminal)
    terminal.json("incidents", "retract", id, "--reason", "It was ours.")
    approve = ["incidents", "approve", id, *APPROVER, "--fingerprint", fingerprint]
    terminal.refuses("Nothing of this incident waits", *approve, code="conflict")
    decline = ["incidents", "decline", id, *APPROVER, "--reason", "late"]
    terminal.refuses("Nothing of this incident waits", *decline, code="conflict")
    terminal.refuses("This incident is retracted", "incidents", "replan", id, *FINANCE, code="conflict")
    claim = ["incidents", "report", id, "--format", "claim", "--output", str(tmp_path / "claim.pdf")]
    terminal.refuses("nothing can be claimed for it", *claim, code="conflict")


def test_what_owes_nothing_needs_no_approval_and_takes_none(terminal: Terminal) -> None:
    shown = terminal.json("incidents", "declare", "--platform", "linkedin", "--since", "2019-08-22T20:00Z", *FINANCE)
    assert (shown["fingerprint"], shown["totals"]) == (None, [])
    approve = ["incidents", "approve", shown["id"], *APPROVER, "--fingerprint", "0" * 32]
    terminal.refuses("Nothing of this incident waits", *approve, code="conflict")


def test_approvals_that_are_not_a_second_pair_of_eyes(terminal: Terminal) -> None:
    id, fingerprint = declared(terminal)
    approve = ["incidents", "approve", id]
    named = ["--fingerprint", fingerprint]
    terminal.refuses("a second person has to approve", *approve, *FINANCE, *named, code="not_allowed")
    terminal.refuses("is finance", *approve, "--by", "second@operator.example", *named, code="not_allowed")
    terminal.refuses("changed since you looked", *approve, *APPROVER, "--fingerprint", "0" * 32, code="plan_changed")
    terminal.refuses("There is no incident", "incidents", "approve", "inc_none", *APPROVER, *named, code="not_found")
    terminal.json(*approve, *APPROVER, *named)
    terminal.refuses("waits for", *approve, *APPROVER, *named, code="conflict")


def test_whoever_declared_or_resolved_stays_who_they_were_in_another_role(terminal: Terminal) -> None:
    id, _ = declared(terminal)
    terminal.house.clock.at = RESOLVED  # type: ignore[misc]
    shown = terminal.json("incidents", "resolve", id, "--by", "second@operator.example")
    with building(terminal.house.database) as session:
        session.execute(sa.update(Member).where(Member.role == "finance").values(role="approver"))
    approve = ["incidents", "approve", id, "--fingerprint", shown["fingerprint"], "--by"]
    terminal.refuses("You declared this incident", *approve, "finance@operator.example", code="not_allowed")
    terminal.refuses("You have changed this incident", *approve, "second@operator.example", code="not_allowed")
    terminal.json(*approve, "approver@operator.example")


def by_hand(terminal: Terminal) -> None:
    """Somebody refunds half of the payment in Stripe."""
    with building(terminal.house.database) as session:
        payment = session.query(Payment).one()
        payment.elsewhere = 1_550
        RefundFactory(payment=payment, amount=1_550)


def test_a_refund_by_hand_after_the_preview_is_seen(terminal: Terminal) -> None:
    plan = terminal.json("incidents", "preview", *SINCE)
    by_hand(terminal)
    declare = ["incidents", "declare", *SINCE, *FINANCE, "--fingerprint", plan["fingerprint"]]
    terminal.refuses("changed since you looked", *declare, code="plan_changed")
    again = terminal.json("incidents", "preview", *SINCE)
    assert [total["amount"] for total in plan["totals"]] == [375]  # 31.00 x 90 h / 744 h
    assert [total["amount"] for total in again["totals"]] == [188]  # half of it still stands: 1.875, half up


def test_a_refund_by_hand_after_the_declaration_is_seen_by_the_approval(terminal: Terminal) -> None:
    id, fingerprint = declared(terminal)
    by_hand(terminal)
    approve = ["incidents", "approve", id, *APPROVER, "--fingerprint"]
    done = terminal.run(*approve, fingerprint, "--json")
    error = json.loads(done.stderr)["error"]
    shown = terminal.json("incidents", "show", id)
    assert (done.exit_code, error["code"]) == (1, "plan_changed")
    assert shown["fingerprint"] != fingerprint
    assert shown["fingerprint"] in error["message"]
    assert [run["state"] for run in shown["runs"]] == ["superseded", "waiting"]
    assert [total["amount"] for total in shown["totals"]] == [188]
    terminal.refuses("changed since you looked", *approve, fingerprint, code="plan_changed")
    terminal.json(*approve, shown["fingerprint"])


def test_what_is_listed_of_something_that_is_not_there(shared: Terminal) -> None:
    shared.refuses("There is no incident 'inc_none'", "messages", "list", "--incident", "inc_none", code="not_found")
    shared.refuses("There is no incident ''", "messages", "list", "--incident", "", code="not_found")
    shared.refuses("There is no such endpoint", "webhooks", "sent", "--endpoint", "7", code="not_found")


NO_INCIDENT = [
    ["approve", "inc_none", *APPROVER, "--fingerprint", "f"],
    ["halt", "inc_none"],
    ["continue", "inc_none"],
    ["resolve", "inc_none", *FINANCE],
    ["decline", "inc_none", *APPROVER, "--reason", "x"],
    ["replan", "inc_none", *FINANCE],
    ["change", "inc_none", "--impact", "5000"],
    ["reopen", "inc_none"],
    ["retract", "inc_none", "--reason", "x"],
    ["show", "inc_none"],
    ["explain", "inc_none", "--customer", "cus_corner"],
    ["reconcile", "inc_none"],
]


@pytest.mark.parametrize("words", NO_INCIDENT, ids=lambda words: words[0])
def test_an_incident_that_is_not_there(shared: Terminal, words: list[str]) -> None:
    shared.refuses("There is no incident", "incidents", *words, code="not_found")


def test_what_an_incident_is_not_in_a_state_for(terminal: Terminal) -> None:
    id, fingerprint = declared(terminal)
    resolve = ["incidents", "resolve", id, *FINANCE]
    terminal.refuses("There is no customer", "incidents", "explain", id, "--customer", "cus_none", code="not_found")
    terminal.refuses("is not halted", "incidents", "continue", id, code="conflict")
    terminal.refuses("cannot have ended at", *resolve, "--at", "2019-08-22T19:00Z")
    terminal.refuses("cannot have ended at", *resolve, "--at", "2019-08-22T20:00Z")
    terminal.refuses("future", *resolve, "--at", "2019-08-28T00:00Z")
    terminal.refuses("does not say in which time zone", *resolve, "--at", "2019-08-25T00:00", code="bad_request")
    terminal.refuses("is not a time", *resolve, "--at", "yesterday", code="bad_request")
    terminal.house.clock.at = RESOLVED  # type: ignore[misc]
    terminal.json(*resolve)
    terminal.refuses("resolved already", *resolve, code="conflict")
    change = ["incidents", "change", id, "--reason", "x"]
    terminal.refuses("what it says already", *change)
    terminal.refuses("what it says already", *change, "--impact", "10000")
    terminal.refuses("The impact is 1 to 10,000 basis points", *change, "--impact", "10001", code="bad_request")
    terminal.refuses("It began at 2019-08-22T20:00:00Z", *change, "--until", "2019-08-22T20:00Z")
    terminal.refuses("future", *change, "--until", "2019-08-31T20:00Z")
    terminal.refuses("is not a time", *change, "--since", "yesterday", code="bad_request")
    terminal.refuses("does not say in which time zone", *change, "--since", "2019-08-22T08:00", code="bad_request")
    terminal.refuses("no agency called 'nobody'", *change, "--agency", "nobody", code="not_found")
    terminal.refuses("is auditor", *change, "--impact", "1", "--by", "auditor@operator.example", code="not_allowed")
    terminal.refuses("is agency-finance", *change, "--impact", "1", "--by", "theirs@acme.example", code="not_allowed")
    terminal.refuses("at most 500 characters", *change, "--impact", "1", "--reason", "x" * 501, code="bad_request")
    retract = ["incidents", "retract", id, "--reason"]
    terminal.refuses("Say why", *retract, " ", code="bad_request")
    terminal.json("incidents", "reopen", id)
    terminal.refuses("only a resolved one can be reopened", "incidents", "reopen", id, code="conflict")
    terminal.refuses("resolve it, and say that it ended", *change, "--until", "2019-08-25T20:00Z", code="conflict")
    terminal.json(*resolve)
    terminal.refuses("changed since you looked", "incidents", "approve", id, *APPROVER, "--fingerprint", fingerprint)
    terminal.json(*retract, "It was no outage.")
    terminal.refuses("retracted already", *retract, "Once more.", code="conflict")
    terminal.refuses("retracted", "incidents", "reopen", id, code="conflict")
    terminal.refuses("Declare a new one", *change, "--impact", "1", code="conflict")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["price_pages", "facebook=6000", "instagram=5000"], "add up to 11,000 basis points"),
        (["price_pages", "facebook=10001"], "a weight is 1 to 10,000 basis points"),
        (["price_pages", "facebook=0"], "a weight is 1 to 10,000 basis points"),
        (["price_pages", "facebook=-1"], "is no weight"),
        (["price_pages", "facebook=0.5"], "is no weight"),
        (["price_pages", "facebook"], "is no weight"),
        (["price_pages", "facebook=60%"], "is no weight"),
        (["price_pages", "facebook=1", "facebook=2"], "has two weights"),
        (["price_none", "facebook=1"], "There is no plan price_none"),
        (["price_pages", "facebok=1"], "did you mean facebook?"),
        (["price_pages", "myspace=1"], "No platform is called myspace"),
    ],
)
def test_weights_that_cannot_be(shared: Terminal, words: list[str], sentence: str) -> None:
    shared.refuses(sentence, "plans", "weigh", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["agencies", "create", "Acme"], "There is an agency called acme already"),
        (["agencies", "create", "Acme", "--slug", "acme"], "There is an agency called acme already"),
        (["agencies", "create", "X", "--slug", "No Spaces"], "cannot be a slug"),
        (["agencies", "create", "X", "--slug", "../etc"], "cannot be a slug"),
        (["agencies", "create", "X", "--slug", "x" * 64], "cannot be a slug"),
        (["agencies", "create", "東京"], "'東京' makes no slug: give one, of lower-case letters, digits and hyphens."),
        (["agencies", "create", "   "], "1 to 200 printable characters"),
        (["agencies", "create", "x" * 201], "1 to 200 printable characters"),
        (["agencies", "create", "up\u202edown"], "1 to 200 printable characters"),
        (["agencies", "create", "X", "--currency", "dollars"], "is no currency"),
        (["agencies", "create", "X", "--currency", "usb"], "'usb' is no currency"),
        (["agencies", "create", "X", "--currency", "u\u017fd"], "is no currency"),
        (["agencies", "create", "X", "--time-zone", "Mars/Olympus"], "is no time zone"),
        (["agencies", "create", "X", "--stripe-account", "cus_1"], "is no Stripe account"),
        (["agencies", "create", "X", "--stripe-account", "acct_lantern"], "has the Stripe account acct_lantern"),
        (["members", "add", "not-an-address", "--role", "finance"], "is no e-mail address"),
        (["members", "add", "a@b@c.example", "--role", "finance"], "is no e-mail address"),
        (["members", "add", "a b@c.example", "--role", "finance"], "is no e-mail address"),
        (["members", "add", "a\u202eb@c.example", "--role", "finance"], "is no e-mail address"),
        (["members", "add", "finance@operator.example", "--role", "finance"], "is a member already"),
        (["members", "add", "Finance@Operator.example", "--role", "auditor"], "is a member already"),
        (["members", "add", "x@y.example", "--role", "agency-admin", "--agency", "none"], "There is no agency called"),
        (["members", "link", "nobody@y.example"], "Nobody called nobody@y.example works here"),
        (["members", "link", "gone@operator.example"], "Nobody called gone@operator.example works here"),
        (["members", "remove", "gone@operator.example"], "Nobody called gone@operator.example works here"),
        (["members", "enrol", "nobody@y.example"], "Nobody called nobody@y.example works here"),
        (["members", "enrol", "gone@operator.example"], "Nobody called gone@operator.example works here"),
        (["members", "unenrol", "nobody@y.example"], "Nobody called nobody@y.example works here"),
        (["members", "unenrol", "finance@operator.example"], "finance@operator.example has no second factor"),
        (["customers", "link", "cus_none"], "There is no customer cus_none"),
        (["stripe", "import", "--agency", "none"], "There is no agency called none"),
        (["stripe", "import", "--since", "soon"], "is not a time"),
        (["stripe", "check", "--agency", "none"], "There is no agency called none"),
    ],
)
def test_agencies_people_and_imports_that_cannot_be(shared: Terminal, words: list[str], sentence: str) -> None:
    shared.refuses(sentence, *words)


@pytest.mark.parametrize(
    ("amount", "currency", "sentence"),
    [
        ("1,000.00", "usd", "Write the amount like 45.00"), ("45,00", "usd", "Write the amount like 45.00"),
        ("1.000,00", "usd", "Write the amount like 45.00"), ("45.001", "usd", "USD has 2 decimals"),
        ("45.5", "jpy", "JPY has 0 decimals"), ("(5)", "usd", "Write the amount like"),
        ("$5", "usd", "Write the amount like"), ("5 usd", "usd", "Write the amount like"),
        ("1e3", "usd", "Write the amount like"), ("\u0664\u0665", "usd", "Write the amount like"),
        ("1" * 13, "usd", "Write the amount like"), ("45.00", "dollars", "is no currency"),
        ("45.00", "xxx", "is no currency"), ("45.00", "u$d", "is no currency"),
        ("45.00", "u\u017fd", "is no currency"),  # its capital letters are USD
    ],
)  # fmt: skip
def test_amounts_that_could_mean_two_things(shared: Terminal, amount: str, currency: str, sentence: str) -> None:
    words = ["incidents", "damage", "inc_none", "--customer", "cus_corner", "--what", "Posts", *FINANCE]
    shared.refuses(sentence, *words, "--amount", amount, "--currency", currency, code="bad_request")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("", "The first line names the columns"),
        ("name,colour\nElm,red\n", "The first line names the columns"),
        ("slug\nelm\n", "The first line names the columns"),
        ("name,slug\nElm\n", "Line 2: it has not as many columns"),
        ("name\nElm\nOak,oak\n", "Line 3: it has not as many columns"),
        ("name\nElm\nElm\n", "Line 3: There is an agency called elm already"),
        ("name\n\u00c9lm\nElm\n", "Line 3: There is an agency called elm already"),
        ("name,currency\nElm,usd\nOak,dollars\n", "Line 3: 'dollars' is no currency"),
    ],
)
def test_a_file_of_agencies_is_loaded_whole_or_not_at_all(shared: Terminal, file: str, sentence: str) -> None:
    shared.refuses(sentence, "agencies", "load", "-", stdin=file)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["agencies", "create", "Elm", "--stripe-account", ""], "'' is no Stripe account"),
        (["members", "add", "x@y.example", "--role", "agency-admin", "--agency", ""], "There is no agency called ''"),
        (["monitors", "add", "statuspage", "--platform", "facebook", "--agency", "", *FINANCE], "no agency called ''"),
        (["messages", "sender", "acme", *FINANCE, "--name", " "], "An agency's name has 1 to 200"),
        (["messages", "sender", "acme", *FINANCE, "--time-zone", "Berlin"], "'Berlin' is no time zone"),
        (["messages", "sender", "acme", *FINANCE, "--currency", ""], "'' is no currency"),
        (["messages", "sender", "acme", *FINANCE, "--currency", "XTS"], "'XTS' is no currency"),
        (["webhooks", "add", "acme", "", *FINANCE], "This is no web address: write one like"),
        (["incidents", "declare", *SINCE, *FINANCE, "--fingerprint", ""], "changed since you looked"),
        (["incidents", "declare", *SINCE, *FINANCE, "--as-of", ""], "'' is not a time"),
        (["incidents", "resolve", "inc_1", *FINANCE, "--at", ""], "'' is not a time"),
        (["stripe", "import", "--since", ""], "'' is not a time"),
        (["stripe", "import", "--since", "2019-1-1"], "'2019-1-1' is not a time"),
    ],
    ids=lambda part: " ".join(part[:2]) if isinstance(part, list) else "",
)
def test_what_was_left_empty_was_not_left_out(shared: Terminal, words: list[str], sentence: str) -> None:
    """As when a script says `--fingerprint "$SEEN"` and has seen nothing."""
    shared.refuses(sentence, *words)


NUMBERED = [words for words in NEED_TABLES if words[2:3] == ("1",)]
NUMBERED += [("webhooks", "sent", "--endpoint", "1")]


@pytest.mark.parametrize("words", NUMBERED, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("number", ["9" * 19, "9" * 400, "0"])
def test_a_number_that_no_row_can_have(shared: Terminal, words: tuple[str, ...], number: str) -> None:
    at = words.index("1")
    named = [*words[:at], number, *words[at + 1 :]]
    shared.refuses("is not in the range 1<=x<=9223372036854775807", *named, status=2, code="bad_usage")


@pytest.mark.parametrize(
    "words",
    [
        ["agencies", "create", "Elm", "--slug", "\udcff"],
        ["members", "add", "a\udcff@y.example", "--role", "finance"],
        ["members", "link", "\udcff"],
        ["plans", "weigh", "\udcff", "facebook=1"],
        ["customers", "link", "cus_\udcff"],
        ["stripe", "check", "--agency", "\udcff"],
        ["incidents", "preview", "--platform", "\udcff", "--since", "2019-08-22T20:00Z"],
        ["incidents", "preview", *SINCE, "--agency", "acme\x00"],
        ["incidents", "declare", *SINCE, "--by", "\udcff"],
        ["incidents", "show", "\udcff"],
        ["incidents", "show", "inc_\x00"],
        ["incidents", "reconcile", "inc_\x00"],
        ["incidents", "explain", "inc_1", "--customer", "\udcff"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_bytes_that_are_no_text(shared: Terminal, words: list[str]) -> None:
    shared.refuses("", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["incidents", "declare", *SINCE], "--by"),
        (["incidents", "preview", "--since", "2019-08-22T20:00Z"], "--platform"),
        (["incidents", "preview", *SINCE, "--impact", "much"], "'much' is not a valid integer"),
        (["incidents", "preview", *SINCE, "--impact", "0.5"], "'0.5' is not a valid integer"),
        (["incidents", "approve", "inc_1", "--by", "x@y.example"], "--fingerprint"),
        (["incidents", "approve", *APPROVER, "--fingerprint", "f"], "ID"),
        (["incidents", "explain", "inc_1"], "--customer"),
        (["incidents", "show"], "ID"),
        (["incidents", "show", "inc_1", "inc_2"], "unexpected extra argument"),
        (["incidents", "list", "--colour"], "No such option"),
        (["incidents", "frobnicate"], "No such command"),
        *(
            (["agencies", "policy", "acme", "--minimum", amount, *FINANCE], "is no minimum: write it like usd=100")
            for amount in (
                "usd",
                "usd=",
                "usd=10.00",
                "usd=10,00",
                "usd=1 000",
                "usd=-1",
                "usd=1e3",
                "usd=\u0661\u0660",
            )
        ),
        (["agencies", "policy", "acme", "--minimum", "usd=1", "--minimum", "USD=2", *FINANCE], "usd has two minimums"),
        *(
            (["incidents", verb, *words], "Name one incident, or say --everything, or one --account")
            for verb in ("halt", "continue")
            for words in ([], ["inc_1", "--everything"], ["--everything", "--account", ""], ["inc_1", "--account", ""])
        ),
        (["incidents", "change", "inc_1", "--agency", "acme", "--all-agencies"], "Either some agencies or all of them"),
        (["incidents", "retire", "inc_1", "--reason", "x", "--move", "price_1", *FINANCE], "PLAN=PLAN"),
        (["incidents", "report", "inc_1", "--format", "pdf"], "say with --output where it is to go"),
        (["agencies", "policy", "acme", "--grants", "full"], "Say with --by who sets the policy"),
        (["agencies", "limit", "acme", "--currency", "usd", *FINANCE], "--currency, --per-run, --per-day and --by"),
        (["events", "retry", *FINANCE], "Name one event, or say --all"),
        (["members", "add", "x@y.example", "--role", "agency-admin"], "needs --agency SLUG"),
        (["members", "add", "x@y.example", "--role", "finance", "--agency", "acme"], "leave --agency out"),
        (["members", "add", "x@y.example"], "--role"),
        (["members", "add", "x@y.example", "--role", "king"], "'king' is not one of"),
        (["members", "link", "finance@operator.example", "--minutes", "0"], "0 is not in the range"),
        (["plans", "weigh", "price_pages"], "PLATFORM"),
        (["agencies", "create"], "NAME"),
        (["agencies", "load", "/nowhere/agencies.csv"], "No such file"),
    ],
)
def test_bad_usage_is_status_2(shared: Terminal, words: list[str], sentence: str) -> None:
    shared.refuses(sentence, *words, status=2, code="bad_usage")


def without_one() -> Iterator[tuple[list[str], str]]:
    """Every command of `NEED_TABLES` without one of its words that it cannot do without, and that word's name."""
    for words in NEED_TABLES:
        command = next(group for group in GROUPS if group.name == words[0]).commands[words[1]]
        needed = [one for one in command.params if one.required]
        if arguments := [one for one in needed if isinstance(one, click.Argument)]:
            last = 1 + len(arguments)
            named = getattr(arguments[-1].type, "choices", [str(arguments[-1].name).upper()])
            yield [*words[:last], *words[last + 1 :]], arguments[-1].metavar or "|".join(named)
        for option in set(needed) - set(arguments):
            (name,) = [one for one in option.opts if one in words]
            at = words.index(name)
            yield [*words[:at], *words[at + 2 :]], name


@pytest.mark.parametrize(
    ("words", "name"), [pytest.param(*one, id=f"{' '.join(one[0][:2])} {one[1]}") for one in sorted(without_one())]
)
def test_what_a_command_cannot_do_without_is_named(shared: Terminal, words: list[str], name: str) -> None:
    shared.refuses(name, *words, status=2, code="bad_usage")


@pytest.mark.parametrize("words", NEED_TABLES, ids=lambda words: " ".join(words[:2]))
def test_a_database_that_is_behind_or_ahead_is_left_alone(
    own_urls: postgres.Urls, shared: Terminal, words: tuple[str, ...]
) -> None:
    with psycopg.connect(own_urls.owner, autocommit=True) as owner:
        (current,) = owner.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
        try:
            owner.execute("UPDATE alembic_version SET version_num = '0001'")
            shared.refuses("Run `flask db upgrade` first.", *words)
            owner.execute("UPDATE alembic_version SET version_num = '9999'")
            shared.refuses("newer than this program", *words)
        finally:
            owner.execute("UPDATE alembic_version SET version_num = %s", [current])


def test_a_database_from_the_future_is_not_upgraded(own_urls: postgres.Urls, shared: Terminal) -> None:
    shared.enter(
        replace(
            shared.house,
            settings=replace(shared.house.settings, database_url=own_urls.app, database_owner_url=own_urls.owner),
        )
    )
    current = shared.json("db", "upgrade")["revision"]
    with psycopg.connect(own_urls.owner, autocommit=True) as owner:
        try:
            owner.execute("UPDATE alembic_version SET version_num = '9999'")
            shared.refuses("newer than this program", "db", "upgrade")
        finally:
            owner.execute("UPDATE alembic_version SET version_num = %s", [current])


@pytest.mark.parametrize("words", NEED_TABLES, ids=lambda words: " ".join(words[:2]))
def test_a_role_that_can_pass_the_wall_is_refused(
    own_urls: postgres.Urls, shared: Terminal, words: tuple[str, ...]
) -> None:
    before, owner = shared.house, Database(own_urls.owner)
    shared.enter(replace(before, database=owner))
    try:
        shared.refuses("can bypass row-level security", *words)
    finally:
        shared.enter(before)
        owner.dispose()


@pytest.mark.parametrize("words", [*NEED_TABLES, ("db", "upgrade")], ids=lambda words: " ".join(words[:2]))
def test_a_database_that_does_not_answer(shared: Terminal, free_port: int, words: tuple[str, ...]) -> None:
    before = shared.house
    url = f"postgresql://outage_app:hunter2@127.0.0.1:{free_port}/outage"
    nowhere = Database(url)
    settings = replace(before.settings, database_url=url, database_owner_url=url)
    shared.enter(replace(before, database=nowhere, settings=settings))
    try:
        shared.refuses("The database does not answer", *words, code="database_unreachable")
        assert "hunter2" not in shared.run(*words).output
    finally:
        shared.enter(before)
        nowhere.dispose()


def test_stripe_without_a_key_or_an_answer_is_a_sentence(shared: Terminal, free_port: int) -> None:
    before = shared.house
    try:
        for words in (["stripe", "import"], ["stripe", "check"]):
            shared.enter(before)
            shared.refuses("set STRIPE_SECRET_KEY", *words, code="stripe_locked_out")
            with listening() as wire:
                shared.enter(at_stripe(before, wire.url))
                wire.answer = lambda _: failure(401)
                shared.refuses("Stripe refuses the key", *words, code="stripe_locked_out")
                wire.answer = lambda _: Reply(200, "<html>Not Stripe</html>")
                shared.refuses("Stripe does not answer", *words, code="stripe_unreachable")
        shared.enter(at_stripe(before, f"http://127.0.0.1:{free_port}"))
        shared.refuses("Stripe does not answer", "stripe", "import", code="stripe_unreachable")
    finally:
        shared.enter(before)


@pytest.mark.parametrize("words", NEED_TABLES, ids=lambda words: " ".join(words[:2]))
def test_a_key_of_the_other_mode(shared: Terminal, words: tuple[str, ...]) -> None:
    before = shared.house
    live = replace(before.settings, stripe_secret_key="sk_" + "live_1")
    with building(before.database) as session:
        cursor = SyncCursor(stripe_account="", live=False)
        session.add(cursor)
    shared.enter(replace(before, settings=live))
    try:
        shared.refuses(
            "came with a test key, and STRIPE_SECRET_KEY is a live key", *words, code="conflict", asked=False
        )
    finally:
        shared.enter(before)
        with building(before.database) as session:
            session.delete(cursor)


def test_no_key_is_noticed_before_anything_is_written(terminal: Terminal) -> None:
    terminal.refuses("set STRIPE_SECRET_KEY", "incidents", "declare", *SINCE, *FINANCE, "--wait")
    id, fingerprint = declared(terminal)
    approve = ["incidents", "approve", id, *APPROVER, "--fingerprint", fingerprint]
    terminal.refuses("set STRIPE_SECRET_KEY", *approve, "--wait")
    terminal.refuses("set STRIPE_SECRET_KEY", "incidents", "resolve", id, *FINANCE, "--wait")
    terminal.json("incidents", "halt", id)
    terminal.refuses("set STRIPE_SECRET_KEY", "incidents", "continue", id, "--wait")


def test_books_that_cannot_be_compared_are_a_sentence(terminal: Terminal) -> None:
    id, fingerprint = declared(terminal)
    terminal.json("incidents", "approve", id, *APPROVER, "--fingerprint", fingerprint)
    terminal.refuses("set STRIPE_SECRET_KEY", "incidents", "reconcile", id, code="stripe_locked_out")
    with listening() as wire:
        terminal.enter(at_stripe(terminal.house, wire.url))
        wire.answer = lambda _: failure(401)
        terminal.refuses("Stripe refuses the key", "incidents", "reconcile", id, code="stripe_locked_out")


def at_stripe(house: House, url: str) -> House:
    return replace(house, settings=replace(house.settings, stripe_secret_key="sk_test_x", stripe_api_base=url))


@pytest.mark.parametrize(
    "words",
    [words for words in NEED_TABLES if words[1] in ("preview", "declare", "approve", "resolve")],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_sandbox_that_no_longer_tells_the_time(shared: Terminal, free_port: int, words: tuple[str, ...]) -> None:
    before = shared.house
    shared.enter(replace(before, clock=SandboxClock(f"http://127.0.0.1:{free_port}")))
    try:
        shared.refuses("start it with `flask sandbox run`", *words, code="unavailable")
    finally:
        shared.enter(before)


def started(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """`flask …` as a process of its own, whose database is nowhere unless `environ` says otherwise."""
    surroundings = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    surroundings["ENV_FILE"] = os.devnull
    environ = {"DATABASE_URL": "postgresql://outage_app@127.0.0.1:1/nowhere", **surroundings, **environ}
    return subprocess.run([FLASK, *words], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("words", "environ", "sentence"),
    [
        (["incidents", "list"], {"DATABASE_URL": "mysql://u:hunter2@db/x"}, "only PostgreSQL is supported"),
        (["incidents", "list"], {}, "The database does not answer"),
        (["worker"], {"STRIPE_SECRET_KEY": "sk_" + "live_hunter2"}, "needs a PUBLIC_URL that begins with"),
        (["sandbox", "run", "--seed", "nonsense"], {}, "'nonsense' is no seed"),
    ],
)
def test_a_process_that_cannot_start(words: list[str], environ: dict[str, str], sentence: str) -> None:
    done = started(*words, "--json", **environ)
    assert done.returncode == (2 if words[0] == "sandbox" else 1)
    assert done.stdout == ""
    assert sentence in json.loads(done.stderr)["error"]["message"]
    assert "hunter2" not in done.stderr


def test_a_port_that_is_taken() -> None:
    with listening() as wire:
        port = wire.url.rpartition(":")[2]
        done = started("sandbox", "run", "--port", port)
    assert done.returncode == 1
    assert done.stderr.strip() == f"Port {port} of 127.0.0.1 is taken: choose another with --port."


@pytest.mark.parametrize("words", [["worker"], ["run", "--port", "0"]], ids=" ".join)
def test_nothing_serves_with_a_role_that_can_pass_the_wall(database_urls: postgres.Urls, words: list[str]) -> None:
    done = started(*words, DATABASE_URL=database_urls.owner)
    assert done.returncode == 1
    assert "can bypass row-level security" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_serves_on_a_database_that_is_behind(own_urls: postgres.Urls) -> None:
    with psycopg.connect(own_urls.owner, autocommit=True) as owner:
        (current,) = owner.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
        try:
            owner.execute("UPDATE alembic_version SET version_num = '0001'")
            done = started("run", "--port", "0", DATABASE_URL=own_urls.app)
        finally:
            owner.execute("UPDATE alembic_version SET version_num = %s", [current])
    assert done.returncode == 1
    assert done.stderr.strip().endswith("Run `flask db upgrade` first.")
