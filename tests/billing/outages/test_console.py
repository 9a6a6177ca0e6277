"""`/console`: what finance sees and does, and what is refused with a sentence."""

import re
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import MultiDict

from billing import portal
from billing.models import Plan
from billing.outages import console
from billing.outages.models import Incident, Pause
from billing.outages.planning import Declaration
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.settings import Rate
from tests.billing.outages.august import DECLARED, RESOLVED, STARTED, August, at
from tests.factories import CustomerFactory, MemberFactory, building, paid_invoice, subscribed
from tests.web import app_of, browser, fresh_code, house_of, link_for, send

PREVIEW = "/console/incidents/new?platform=facebook&since=2019-08-22T20:00"
HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')


@pytest.fixture
def august(db: Database) -> August:
    """One business that paid 31.00 for August on a plan that lives on Facebook."""
    made = August(db)
    with building(db):
        customer = CustomerFactory(agency=made.agency, id="cus_corner", name="Corner <b>Bakery</b>")
        paid_invoice(customer, made.pages, subscription=subscribed(customer, made.pages))
    return made


@pytest.fixture
def house(august: August) -> House:
    return house_of(august.db, clock=FixedClock(DECLARED))


@pytest.fixture
def app(house: House) -> Flask:
    return app_of(house, portal.blueprint, console.blueprint)


@pytest.fixture
def finance(app: Flask, house: House, august: August) -> FlaskClient:
    return browser(app, link_for(house, august.finance))


@pytest.fixture
def approver(app: Flask, house: House, august: August) -> FlaskClient:
    return browser(app, link_for(house, august.approver))


def declared(finance: FlaskClient, **changed: str) -> Any:
    """Preview, and send the form that the preview shows, with the code that it asks for."""
    page = finance.get(PREVIEW)
    form = MultiDict(HIDDEN.findall(page.text.split('action="/console/incidents"')[1]))
    form["code"] = fresh_code(finance, "finance@operator.example")
    for name, value in changed.items():
        form[name] = value
    return finance.post("/console/incidents", data=form)


def test_a_preview_shows_the_money_and_changes_nothing(finance: FlaskClient, august: August) -> None:
    page = finance.get(PREVIEW).text
    assert "$3.75" in page  # 31.00 x 90 h / 744 h
    assert "1 customer, 1 grant" in page
    assert "USD renewals held" in page
    assert re.search(r"<dd>\$31\.00<small>1 renewal until <time[^>]*>25 Sep 2019", page)
    assert re.search(r"<dt>Customers</dt><dd>1<small>1 subscription, 1 invoice<", page)
    assert "The mirror of Stripe has never been filled" in page
    with august.db.work(OPERATOR) as session:
        assert session.query(Incident).count() == 0


def test_a_preview_says_how_long_sending_takes(finance: FlaskClient, house: House, august: August) -> None:
    assert "Sending takes about" not in finance.get(PREVIEW).text  # no rate is kept, so nothing is known
    paced = replace(house, settings=replace(house.settings, stripe_rate=Rate(2, 1)))
    page = browser(app_of(paced, portal.blueprint, console.blueprint), link_for(house, august.finance)).get(PREVIEW)
    assert "Sending takes about 3 s" in page.text  # one pause is 2 calls, one grant 3: 5 at 2 a second


def test_the_promise_is_shown_being_kept(finance: FlaskClient, house: House, august: August) -> None:
    incident = august.declare()
    here, promised = (
        f"/console/incidents/{incident}",
        r"back by <time[^>]*>4 Sep 2019</time>:\s*<span class=\"state \w+\">",
    )
    assert re.search(rf"{promised}Under way</span>\s*\(1 grant open\)", finance.get(here).text)
    house.clock.at = at(4, 15, month=9)  # type: ignore[attr-defined]
    assert re.search(rf"{promised}Not kept</span>\s*\(1 grant open\)", finance.get(here).text)
    house.clock.at = RESOLVED  # type: ignore[attr-defined]
    august.resolve(incident)
    august.give_back(incident)
    assert re.search(rf"{promised}Kept</span>\s*</p>", finance.get(here).text)


def test_the_policies_are_compared_for_whoever_asks(finance: FlaskClient) -> None:
    assert "What each policy would give back" not in finance.get(PREVIEW).text
    table = finance.get(f"{PREVIEW}&compare=1").text.split("What each policy would give back")[1].split("</table>")[0]
    rows = re.findall(r'data-label="Policy">(\w+)</th>\s*<td data-label="Back" class="number">([^<]*)</td>', table)
    assert rows == [("prorated", "$3.75"), ("full", "$3.75"), ("credit", "$3.75"), ("none", "Nothing")]


def test_the_story_through_the_pages(finance: FlaskClient, approver: FlaskClient, house: House) -> None:
    answer = declared(finance)
    assert answer.status_code == 303
    here = answer.location
    page = finance.get(here).text
    assert "Waits for a second person" in page
    fingerprint = re.findall(r'name="fingerprint" value="([0-9a-f]+)"', page)[0]
    assert "a second person has to approve" in send(finance, here, f"{here}/approve", {"fingerprint": fingerprint}).text
    assert send(approver, here, f"{here}/approve", {"fingerprint": fingerprint}).status_code == 303
    page = approver.get(here).text
    assert "Waits for a second person" not in page
    assert "Corner &lt;b&gt;Bakery&lt;/b&gt;" in page  # what a customer calls itself is text, never markup
    grant = re.findall(r'href="(/console/incidents/\w+/grants/\d+)"', page)[0]
    assert "$31.00 × 324,000 ÷ 2,678,400 = $3.75" in approver.get(grant).text
    assert send(finance, here, f"{here}/halt", {}).status_code == 303
    assert "Halted" in finance.get(here).text
    assert send(finance, here, f"{here}/continue", {}).status_code == 303
    house.clock.at = RESOLVED  # type: ignore[attr-defined]
    assert send(finance, here, f"{here}/resolve", {"at": "2019-08-30T08:00"}).status_code == 303
    page = finance.get(here).text
    assert "Resolved" in page
    assert "$7.50" in page  # both runs together: 31.00 x 180 h / 744 h


def test_a_preview_names_the_plans_whose_weights_were_refused(finance: FlaskClient, august: August) -> None:
    assert "were refused" not in finance.get(PREVIEW).text
    with building(august.db) as session:
        session.execute(sa.update(Plan).where(Plan.id == august.pages.id).values(weights_refused="It is mistyped."))
    said = " ".join(re.sub("<[^>]+>", "", finance.get(PREVIEW).text).split())
    assert f"The weights of {august.pages.name} (price_pages) in Stripe were refused" in said
    assert "or set them with flask plans weigh." in said


def test_what_changed_since_the_preview_is_refused(finance: FlaskClient, august: August) -> None:
    answer = declared(finance, fingerprint="0" * 32)
    assert answer.status_code == 409
    assert "changed since you looked" in answer.text
    with august.db.work(OPERATOR) as session:
        assert session.query(Incident).count() == 0


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("platform=facebok&since=2019-08-22T20:00", "did you mean facebook"),
        ("platform=facebook&since=2030-01-01T00:00", "cannot begin in the future"),
        ("platform=facebook&since=2019-08-22T20:00&until=2019-08-22T19:00", "end must come after the start"),
        ("platform=facebook&since=yesterday", "is not a time"),
        ("platform=facebook&since=2019-08-22T20:00&impact=10001", "1 to 10,000 basis points"),
        ("platform=facebook&since=2019-08-22T20:00&agencies=nobody", "no agency called"),
        ("platform=facebook&since=2019-08-22T20:00&policy=generous", "prorated, full, credit or none"),
    ],
)
def test_what_cannot_be_is_one_sentence_on_the_form(finance: FlaskClient, query: str, sentence: str) -> None:
    page = finance.get(f"/console/incidents/new?{query}")
    assert page.status_code == 200
    assert sentence in page.text
    assert "Declare this outage" not in page.text


@pytest.mark.parametrize("role", ["auditor", "approver"])
def test_whoever_may_not_declare_sees_what_declaring_would_do(app: Flask, house: House, role: str) -> None:
    with building(house.database):
        member = MemberFactory(role=role)
    reader = browser(app, link_for(house, member))
    assert 'href="/console/incidents/new">Preview an outage<' in reader.get("/console").text
    page = reader.get(f"{PREVIEW}&compare=1")
    assert (page.status_code, "$3.75" in page.text, "What each policy" in page.text) == (200, True, True)
    assert "<h1>Preview an outage</h1>" in page.text
    assert 'action="/console/incidents"' not in page.text
    assert send(reader, PREVIEW, "/console/incidents", {"platform": "facebook"}).status_code == 403


def test_an_auditor_reads_and_changes_nothing(app: Flask, house: House, finance: FlaskClient) -> None:
    here = declared(finance).location
    with building(house.database):
        auditor = MemberFactory(role="auditor")
    reader = browser(app, link_for(house, auditor))
    page = reader.get(here)
    assert page.status_code == 200
    assert "<button>Resolve" not in page.text
    token = re.findall(r'name="csrf_token" value="([^"]+)"', page.text)[0]
    for action in ("approve", "halt", "continue", "resolve"):
        assert reader.post(f"{here}/{action}", data={"csrf_token": token}).status_code == 403, action


def test_an_incident_that_is_not_there_is_not_found(finance: FlaskClient) -> None:
    for path in ("inc_none", "inc_none/events", "inc_none/grants/1", "%07"):
        assert finance.get(f"/console/incidents/{path}").status_code == 404, path


def test_progress_comes_as_events_and_ends_when_it_is_quiet(finance: FlaskClient, august: August) -> None:
    here = declared(finance).location
    with august.db.work(OPERATOR) as session:
        session.query(Pause).update({"state": "held"})
    with finance.get(f"{here}/events") as answer:
        assert answer.content_type.startswith("text/event-stream")
        text = answer.text
    assert text.startswith("data: ")
    assert "Subscriptions looked at: 1 of 1" in text
    assert text.endswith("event: done\ndata: quiet\n\n")


def test_finance_thinks_again_through_the_pages(finance: FlaskClient, house: House, august: August) -> None:
    here = declared(finance).location
    house.clock.at = RESOLVED  # type: ignore[misc]
    assert send(finance, here, f"{here}/resolve", {"at": "2019-08-30T08:00"}).status_code == 303
    why = {"reason": "Their <b>status</b> page says so.", "since": "2019-08-22T08:00", "scope": ""}
    assert send(finance, here, f"{here}/change", why).status_code == 303
    page = finance.get(here).text
    assert "from 22 August 2019 at 08:00" in page or "22 August 2019" in page
    assert "Their &lt;b&gt;status&lt;/b&gt; page says so." in page
    assert "after a change" in page
    assert "$8.00" in page  # 192 h of 744 h of 31.00
    assert send(finance, here, f"{here}/reopen", {"reason": "Not yet."}).status_code == 303
    assert "It goes on" not in finance.get(here).text
    assert send(finance, here, f"{here}/retract", {"reason": "Our own fault."}).status_code == 303
    page = finance.get(here).text
    decisions = page.partition("<h2>Decisions</h2>")[2].partition("<h2 id")[0]
    assert re.findall(r"<p>(\w+): from <time.*?</time> (until|with|to)", decisions) == [
        ("Retracted", "until"), ("Reopened", "with"), ("Changed", "to"), ("Resolved", "to"), ("Declared", "with"),
    ]  # fmt: skip
    assert "It was different" not in page  # nothing is left to think about
    with august.db.work(OPERATOR) as session:
        assert session.query(Incident).one().state == "retracted"


@pytest.mark.parametrize(
    ("verb", "form", "sentence"),
    [
        ("change", {"since": "2019-08-22T08:00"}, "Say why"),
        ("retract", {"reason": " "}, "Say why"),
        ("reopen", {"reason": "x"}, "only a resolved one can be reopened"),
        ("change", {"reason": "x"}, "That is what it says already"),
        ("change", {"reason": "x", "impact": "0"}, "The impact is 1 to 10,000 basis points"),
        ("change", {"reason": "x", "since": "yesterday"}, "is not a time"),
        ("change", {"reason": "x", "since": "0002-08-22T08:00"}, "Look at the year"),  # of 2020, before the 0 is typed
        ("change", {"reason": "x" * 501, "impact": "1"}, "at most 500 characters"),
        ("change", {"reason": "x", "scope": "some"}, "Choose the agencies"),
        ("change", {"reason": "x", "scope": "some", "agencies": "nobody"}, "no agency called"),
    ],
)
def test_what_cannot_be_thought_is_one_sentence(
    finance: FlaskClient, verb: str, form: dict[str, str], sentence: str
) -> None:
    here = declared(finance).location
    answer = send(finance, here, f"{here}/{verb}", form)
    assert answer.status_code >= 400
    assert sentence in answer.text


def test_what_a_retraction_ended_was_not_replaced(finance: FlaskClient, august: August) -> None:
    here = f"/console/incidents/{august.declare()}"
    assert send(finance, here, f"{here}/retract", {"reason": "Our own fault."}).status_code == 303
    page = finance.get(here).text
    assert "No longer applies" in page
    assert "newer plan" not in page


def test_news_whose_form_is_sent_twice_is_published_once(finance: FlaskClient, august: August) -> None:
    here = f"/console/incidents/{august.declare()}"
    form = dict(HIDDEN.findall(finance.get(here).text.split(f'action="{here}/updates"')[1]))
    form["body"] = "Facebook says: tomorrow.\r\nWe wait."

    def publish(**changed: str) -> int:
        return finance.post(f"{here}/updates", data=form | changed).status_code

    def said() -> list[str]:
        return [update["body"] for update in august.shown(here.rsplit("/", 1)[1])["updates"]]

    assert [publish(), publish()] == [303, 303]
    assert (len(said()), said()[0]) == (1 + 1, "Facebook says: tomorrow.\nWe wait.")  # the first is the declaration's
    assert august.rows("SELECT count(*) FROM audit_entries WHERE action = 'incident.updated'")[0][0] == 1
    answer = finance.post(f"{here}/updates", data=form | {"body": "It is over."})
    assert (answer.status_code, "open the incident again" in answer.text) == (409, True)
    other = f"/console/incidents/{august.declare(Declaration('instagram', STARTED))}"
    assert finance.post(f"{other}/updates", data=form).status_code == 409
    assert publish(form="x" * 65) == publish(form="a\x00b") == 400
    assert len(said()) == 1 + 1
    fresh = HIDDEN.findall(finance.get(here).text.split(f'action="{here}/updates"')[1])
    assert publish(form=dict(fresh)["form"]) == 303  # meant: the same words, from a form that was opened again
    assert len(said()) == 1 + 2


@pytest.mark.parametrize("verb", ["change", "reopen", "retract"])
def test_an_approver_does_not_think_again(finance: FlaskClient, approver: FlaskClient, verb: str) -> None:
    here = declared(finance).location
    assert "It was no outage" not in approver.get(here).text
    assert send(approver, here, f"{here}/{verb}", {"reason": "x"}).status_code == 403


def test_the_approval_says_whether_the_balance_carries_it(finance: FlaskClient, house: House) -> None:
    # No key, so Stripe cannot be asked; 31.00 x 90/744 = 3.75.
    assert "in USD cannot be seen; refunds take 3.75 USD of it" in finance.get(PREVIEW).text
    incident = declared(finance).headers["Location"]
    assert f'hx-get="{incident}/funds"' in finance.get(incident).text
    assert "refunds take 3.75 USD of it" in finance.get(f"{incident}/funds").text
