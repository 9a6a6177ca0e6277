"""Which outages may be declared, and what an incident is in a state for after that: a table of rules.

Each refusal is one sentence that says what to do, and leaves every row of every table as it was.
"""

from collections.abc import Sequence

import pytest

from billing import portal
from billing.outages import console
from sandbox import postgres
from tenants.clock import FixedClock
from tenants.db import Database
from tests.billing.outages.august import DECLARED, RESOLVED, August
from tests.factories import CustomerFactory, building, paid_invoice, subscribed
from tests.terminal import APPROVER, FINANCE, SINCE, Terminal
from tests.web import app_of, browser, house_of, link_for

Words = Sequence[str]
TYPO = ("--platform", "facebok", "--since", "2019-08-22T20:00Z")
NO_FACEBOOK = ("plans", "disable", "facebook")
DISABLED = "The platform facebook is disabled: name another, or enable it again with `flask plans enable facebook`."
OTHERS = "No platform is called 'facebok'. Known are: instagram, linkedin, pinterest, tiktok, x, youtube."
RESOLVE = ("incidents", "resolve", "INC", *FINANCE)
REOPEN = ("incidents", "reopen", "INC", *FINANCE)
CHANGE = ("incidents", "change", "INC", "--reason", "x", *FINANCE)


@pytest.fixture
def august(db: Database) -> August:
    """One business that paid 31.00 for August on a plan that lives on Facebook."""
    made = August(db)
    with building(db):
        customer = CustomerFactory(agency=made.agency, id="cus_corner")
        paid_invoice(customer, made.pages, subscription=subscribed(customer, made.pages))
    return made


@pytest.fixture
def terminal(august: August, database_urls: postgres.Urls) -> Terminal:
    return Terminal(house_of(august.db, clock=FixedClock(DECLARED)), database_urls)


@pytest.mark.parametrize(
    ("before", "words", "sentence", "code"),
    [
        ([], TYPO, "No platform is called 'facebok', did you mean facebook?", "not_found"),
        ([], (*SINCE, "--agency", "nobody"), "There is no agency called 'nobody'", "not_found"),
        ([], (*SINCE, "--agency", ""), "There is no agency called ''", "not_found"),
        ([NO_FACEBOOK], SINCE, DISABLED, "conflict"),
        ([NO_FACEBOOK], (*SINCE, "--agency", "acme"), DISABLED, "conflict"),
        ([NO_FACEBOOK], TYPO, OTHERS, "not_found"),
    ],
    ids=["unknown", "no such agency", "an agency without a name", "disabled", "disabled, one agency", "no longer near"],
)
def test_what_is_neither_previewed_nor_declared(
    terminal: Terminal, before: Sequence[Words], words: Words, sentence: str, code: str
) -> None:
    for done in before:
        terminal.json(*done)
    terminal.refuses(sentence, "incidents", "preview", *words, code=code)
    terminal.refuses(sentence, "incidents", "declare", *words, *FINANCE, code=code)


@pytest.mark.parametrize(
    ("before", "words", "sentence", "code"),
    [
        ([RESOLVE], RESOLVE, "This incident is resolved already.", "conflict"),
        ([], REOPEN, "This incident is declared: only a resolved one can be reopened.", "conflict"),
        ([RESOLVE, REOPEN], REOPEN, "This incident is declared: only a resolved one can be reopened.", "conflict"),
        (
            [RESOLVE, REOPEN],
            (*CHANGE, "--until", "2019-08-25T20:00Z"),
            "It is still going on: resolve it, and say that it ended at 2019-08-25T20:00:00Z.",
            "conflict",
        ),
        (
            [RESOLVE, REOPEN],
            ("incidents", "declare", *SINCE, *FINANCE),
            "Facebook is declared for that time already",
            "already_declared",
        ),
        ([RESOLVE, REOPEN, RESOLVE], RESOLVE, "This incident is resolved already.", "conflict"),
    ],
    ids=["resolved twice", "not resolved", "reopened twice", "reopened, cut", "reopened, declared", "resolved again"],
)
def test_what_an_incident_is_not_in_a_state_for(
    terminal: Terminal, before: Sequence[Words], words: Words, sentence: str, code: str
) -> None:
    id = terminal.json("incidents", "declare", *SINCE, *FINANCE)["id"]
    terminal.house.clock.at = RESOLVED  # type: ignore[misc]
    for done in before:
        terminal.json(*(word.replace("INC", id) for word in done))
    terminal.refuses(sentence, *(word.replace("INC", id) for word in words), code=code)


def test_a_reopened_incident_goes_on_like_any_other(terminal: Terminal) -> None:
    id = terminal.json("incidents", "declare", *SINCE, *FINANCE)["id"]
    terminal.house.clock.at = RESOLVED  # type: ignore[misc]
    resolved = terminal.json("incidents", "resolve", id, *FINANCE)
    assert (resolved["state"], resolved["ended_at"]) == ("resolved", "2019-08-30T08:00:00Z")
    reopened = terminal.json("incidents", "reopen", id, *FINANCE)
    assert (reopened["state"], reopened["ended_at"]) == ("declared", None)
    changed = terminal.json("incidents", "change", id, "--since", "2019-08-22T08:00Z", "--reason", "x", *FINANCE)
    assert changed["started_at"] == "2019-08-22T08:00:00Z"
    approved = terminal.json("incidents", "approve", id, *APPROVER, "--fingerprint", changed["fingerprint"])
    assert [total["amount"] for total in approved["totals"]] == [800]  # 31.00 x 192 h / 744 h
    assert terminal.json("incidents", "resolve", id, *FINANCE)["state"] == "resolved"
    assert terminal.json("incidents", "retract", id, "--reason", "Ours.", *FINANCE)["state"] == "retracted"


def test_an_incident_that_stands_goes_on_when_its_platform_is_disabled(terminal: Terminal) -> None:
    declared = terminal.json("incidents", "declare", *SINCE, *FINANCE)
    id = declared["id"]
    terminal.json(*NO_FACEBOOK)
    approve = ["incidents", "approve", id, *APPROVER, "--fingerprint"]
    assert [run["state"] for run in terminal.json(*approve, declared["fingerprint"])["runs"]] == ["running"]
    terminal.house.clock.at = RESOLVED  # type: ignore[misc]
    resolved = terminal.json("incidents", "resolve", id, *FINANCE)
    assert [total["amount"] for total in resolved["totals"]] == [750]  # 31.00 x 180 h / 744 h, of both runs
    assert terminal.json("incidents", "reopen", id, *FINANCE)["state"] == "declared"
    changed = terminal.json("incidents", "change", id, "--impact", "5000", "--reason", "x", *FINANCE)
    assert changed["impact"] == 5_000
    assert terminal.json("incidents", "retract", id, "--reason", "Ours.", *FINANCE)["state"] == "retracted"
    terminal.json("plans", "enable", "facebook")
    assert terminal.json("incidents", "declare", *SINCE, *FINANCE)["state"] == "declared"


@pytest.mark.parametrize(
    ("words", "sentence", "code"),
    [
        (("disable", "facebok"), "'facebok'. `flask plans list` shows those there are.", "not_found"),
        (("enable", "facebok"), "'facebok'. `flask plans list` shows those there are.", "not_found"),
        (("enable", "facebook"), "The platform facebook is enabled already.", "conflict"),
        (("disable", "x' OR 1=1 --"), "No platform is called", "not_found"),
        (("disable", "\udcff"), "is no text", "bad_request"),
    ],
)
def test_platforms_that_are_not_switched(terminal: Terminal, words: Words, sentence: str, code: str) -> None:
    terminal.refuses(sentence, "plans", *words, code=code)


def test_a_disabled_platform_says_so_wherever_it_is_named(terminal: Terminal, august: August) -> None:
    terminal.json(*NO_FACEBOOK)
    terminal.refuses("The platform facebook is disabled already.", *NO_FACEBOOK, code="conflict")
    monitor = ["monitors", "add", "statuspage", "--platform", "facebook", *FINANCE]
    terminal.refuses(DISABLED, *monitor, code="conflict")
    weigh = terminal.run("plans", "weigh", "price_pages", "facebok=1")
    assert weigh.stderr.startswith("No platform is called facebok. Known are: instagram, linkedin")
    assert terminal.run("plans", "list").stdout.endswith(
        "Disabled, so that no outage of them can be declared: facebook.\n"
    )
    terminal.json("plans", "enable", "facebook")
    assert "Disabled" not in terminal.run("plans", "list").stdout
    kept = "SELECT actor, action, subject, before, after FROM audit_entries WHERE action LIKE 'platform.%' ORDER BY seq"
    assert [tuple(row) for row in august.rows(kept)] == [
        ("cli", "platform.disabled", "facebook", {"enabled": True}, {"enabled": False}),
        ("cli", "platform.enabled", "facebook", {"enabled": False}, {"enabled": True}),
    ]


def test_the_console_neither_offers_nor_takes_a_disabled_platform(terminal: Terminal, august: August) -> None:
    terminal.json(*NO_FACEBOOK)
    app = app_of(terminal.house, portal.blueprint, console.blueprint)
    finance = browser(app, link_for(terminal.house, august.finance))
    before = terminal.rows()
    page = finance.get("/console/incidents/new").text
    assert "<option>instagram</option>" in page
    assert "<option>facebook</option>" not in page
    page = finance.get("/console/incidents/new?platform=facebook&since=2019-08-22T20:00").text
    assert DISABLED in page
    assert "Declare this outage" not in page
    assert terminal.rows() == before
