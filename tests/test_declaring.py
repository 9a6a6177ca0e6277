"""Which outages may be declared, and what an incident is in a state for after that: a table of rules.

Each refusal is one sentence that says what to do, and leaves every row of every table as it was.
"""

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyotp
import pytest
import segno
from werkzeug.datastructures import MultiDict
from werkzeug.test import TestResponse

from billing import portal
from billing.outages import console, suspicions
from sandbox import postgres
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tests.billing.outages.august import DECLARED, RESOLVED, STARTED, August
from tests.factories import CustomerFactory, building, paid_invoice, subscribed
from tests.terminal import APPROVER, FINANCE, SINCE, Terminal
from tests.web import app_of, browser, house_of, link_for, send

Words = Sequence[str]
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
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


def test_a_suspected_incident_of_a_disabled_platform_is_only_dismissed(terminal: Terminal, august: August) -> None:
    with august.db.work(OPERATOR) as session:
        suspected = suspicions.notice(session, august.facebook.id, None, "Nobody answers", STARTED, None, "test").id
    terminal.json(*NO_FACEBOOK)
    terminal.refuses(DISABLED, "incidents", "confirm", suspected, *FINANCE, code="conflict")
    dismissed = terminal.json("incidents", "dismiss", suspected, "--reason", "We left it.", *FINANCE)
    assert dismissed["state"] == "dismissed"


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


@dataclass
class Console:
    """Finance at the console, and what their authenticator shows, if they have one."""

    terminal: Terminal
    august: August

    def __post_init__(self) -> None:
        self.app = app_of(self.terminal.house, portal.blueprint, console.blueprint)
        self.browser = browser(self.app, link_for(self.terminal.house, self.august.finance))
        self.secret = ""

    def enrol(self) -> None:
        self.secret = self.terminal.json("members", "enrol", "finance@operator.example")["secret"]

    def shows(self, later: int = 0) -> str:
        """The code of so many steps from now."""
        return pyotp.TOTP(self.secret).at(datetime.now(UTC), counter_offset=later)

    def wrong(self) -> str:
        near = {self.shows(later) for later in range(-3, 4)}
        return next(f"{digits:06}" for digits in range(10) if f"{digits:06}" not in near)

    def previewed(self, *agencies: str) -> str:
        named = "".join(f"&agencies={slug}" for slug in agencies)
        return self.browser.get(f"/console/incidents/new?platform=facebook&since=2019-08-22T20:00{named}").text

    def declares(self, code: str = "", *agencies: str, **changed: str) -> TestResponse:
        """Send the form of a preview, with that code."""
        form = MultiDict(HIDDEN.findall(self.previewed(*agencies).split('action="/console/incidents"')[1]))
        form["code"] = code
        for name, value in changed.items():
            form[name] = value
        return self.browser.post("/console/incidents", data=form)


@pytest.fixture
def finance(terminal: Terminal, august: August) -> Console:
    return Console(terminal, august)


NONE = "has no second factor: have one enrolled with `flask members enrol finance@operator.example`."
WRONG = "That code is wrong or too old: give the six digits that your authenticator shows now."
USED = "That code was used already: wait until the next one is shown, and give that."
DIGITS = "Give the six digits that your authenticator shows now."
LOCKED = "5 wrong codes in a row: your second factor is locked. Try again in 15 minutes."


def used(finance: Console) -> str:
    """A code that an outage of another platform was declared with."""
    code = finance.shows()
    page = finance.browser.get("/console/incidents/new?platform=x&since=2019-08-22T20:00").text
    form = {**dict(HIDDEN.findall(page.split('action="/console/incidents"')[1])), "code": code}
    assert finance.browser.post("/console/incidents", data=form).status_code == 303
    return code


def after_five(finance: Console) -> str:
    for _ in range(5):
        finance.declares(finance.wrong())
    return finance.shows()


@pytest.mark.parametrize("agencies", [(), ("acme", "operator")], ids=["none named", "each named"])
@pytest.mark.parametrize(
    ("enrolled", "code", "sentence"),
    [
        (False, lambda _: "123456", NONE),
        (True, lambda _: "", DIGITS),
        (True, lambda _: "12345", DIGITS),
        (True, Console.wrong, WRONG),
        (True, lambda finance: finance.shows(-3), WRONG),
        (True, lambda finance: finance.shows(3), WRONG),
        (True, used, USED),
        (True, after_five, LOCKED),
    ],
    ids=["no factor", "no code", "five digits", "wrong", "too old", "too early", "used", "locked"],
)
def test_nobody_declares_for_every_agency_without_a_code(
    finance: Console, agencies: Words, enrolled: bool, code: Callable[[Console], str], sentence: str
) -> None:
    if enrolled:
        finance.enrol()
    given = code(finance)
    before, count = finance.terminal.rows("second_factors", "audit_entries"), finance.terminal.rows()
    answer = finance.declares(given, *agencies)
    assert (answer.status_code, html.escape(sentence, quote=False) in answer.text) == (422, True), answer.text
    assert finance.terminal.rows("second_factors", "audit_entries") == before
    if code is not Console.wrong and sentence != WRONG:
        assert finance.terminal.rows() == count  # only a guess is counted and written down


def test_finance_declares_for_every_agency_with_a_code(finance: Console) -> None:
    assert "have one enrolled with <code>flask members enrol finance@operator.example</code>" in finance.previewed()
    finance.enrol()
    assert 'name="code" required' in finance.previewed()
    code = finance.shows()
    assert finance.declares(code, fingerprint="0" * 32).status_code == 409  # nothing was done, so it is not used up
    here = finance.declares(code)
    assert here.status_code == 303
    kept = "SELECT actor, origin, action, subject, after FROM audit_entries WHERE action LIKE 'factor.%' ORDER BY seq"
    assert [tuple(row) for row in finance.august.rows(kept)] == [
        ("cli", "cli", "factor.enrolled", "finance@operator.example", {"enrolled": True}),
        (
            "finance@operator.example", "console", "factor.used", "finance@operator.example",
            {"for": here.location.rpartition("/")[2]},
        ),
    ]  # fmt: skip
    for page in ("/console", here.location, "/console/incidents/new"):
        assert finance.secret not in finance.browser.get(page).text


def test_enrolling_shows_a_person_what_to_scan_and_what_to_type(terminal: Terminal) -> None:
    said, *picture, address, secret = terminal.run("members", "enrol", "finance@operator.example").stdout.splitlines()
    assert said.startswith("finance@operator.example has a second factor.")
    assert address.endswith(f"?secret={secret}&issuer=Outage%20Billing")
    wanted = io.StringIO()
    segno.make_qr(address).terminal(wanted, border=2, compact=True)
    assert picture == wanted.getvalue().splitlines()
    assert len(picture) > 15
    assert terminal.run("members", "unenrol", "finance@operator.example").stdout.strip() == (
        "finance@operator.example has no second factor any more."
    )


def test_for_named_agencies_and_on_the_command_line_no_code_is_asked_for(finance: Console) -> None:
    assert 'name="code"' not in finance.previewed("acme")
    assert finance.declares("", "acme").status_code == 303
    on_x = ("--platform", "x", "--since", "2019-08-22T20:00Z")
    assert finance.terminal.json("incidents", "declare", *on_x, *FINANCE)["agencies"] is None


@pytest.mark.parametrize(
    ("scope", "reaches"),
    [({"scope": "all"}, 1), ({"scope": "some", "agencies": ["acme", "operator"]}, 2)],
    ids=["all", "each named"],
)
def test_an_incident_grows_to_every_agency_with_a_code_alone(
    finance: Console, scope: dict[str, str | list[str]], reaches: int
) -> None:
    here = finance.declares("", "acme").location

    def change(code: str) -> TestResponse:
        return send(finance.browser, here, f"{here}/change", {"reason": "All of them.", **scope, "code": code})

    before = finance.terminal.rows()
    assert NONE in change("123456").text
    assert finance.terminal.rows() == before
    finance.enrol()
    before = finance.terminal.rows("second_factors", "audit_entries")
    assert DIGITS in change("").text
    assert WRONG in change(finance.wrong()).text
    assert finance.terminal.rows("second_factors", "audit_entries") == before
    assert change(finance.shows()).status_code == 303
    assert len(finance.august.rows("SELECT 1 FROM incident_scope")) == reaches
    (used,) = finance.august.rows("SELECT after FROM audit_entries WHERE action = 'factor.used'")
    assert used.after == {"for": here.rpartition("/")[2]}


def test_an_incident_of_no_agency_is_none(finance: Console) -> None:
    here = finance.declares("", "acme").location
    before = finance.terminal.rows()
    answer = send(finance.browser, here, f"{here}/change", {"reason": "x", "scope": "some"})
    assert (answer.status_code, "Choose the agencies that it covers, or all of them." in answer.text) == (400, True)
    assert finance.terminal.rows() == before


def test_what_leaves_the_agencies_as_they_are_takes_no_code(finance: Console) -> None:
    finance.enrol()
    here = finance.declares(finance.shows()).location
    finance.terminal.house.clock.at = RESOLVED  # type: ignore[misc]
    for verb, form in (
        ("change", {"reason": "x", "impact": "5000", "scope": ""}),
        ("resolve", {}),
        ("reopen", {"reason": "x"}),
        ("change", {"reason": "x", "scope": "some", "agencies": "acme"}),
        ("retract", {"reason": "x"}),
    ):
        assert send(finance.browser, here, f"{here}/{verb}", form).status_code == 303, verb


def test_the_console_neither_offers_nor_takes_a_disabled_platform(finance: Console) -> None:
    finance.enrol()
    form = dict(HIDDEN.findall(finance.previewed().split('action="/console/incidents"')[1]))
    finance.terminal.json(*NO_FACEBOOK)
    before = finance.terminal.rows("audit_entries")
    page = finance.browser.get("/console/incidents/new").text
    assert "<option>instagram</option>" in page
    assert "<option>facebook</option>" not in page
    page = finance.previewed()
    assert DISABLED in page
    assert "Declare this outage" not in page
    answer = finance.browser.post("/console/incidents", data={**form, "code": finance.shows()})
    assert (answer.status_code, DISABLED in answer.text) == (409, True)
    assert finance.terminal.rows("audit_entries") == before
    assert finance.terminal.entries()[-1] == "incident.declare_refused"
