"""What monitors suspect is confirmed or dismissed by finance, in the console and on the command line."""

import re
from datetime import datetime

import pytest
from flask.testing import FlaskClient

from billing import portal
from billing.models import Platform
from billing.outages import console, suspicions
from sandbox.postgres import Urls
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tests.billing.outages.august import DECLARED, STARTED, August, at
from tests.factories import building
from tests.terminal import FINANCE, Terminal
from tests.web import app_of, browser, fresh_code, house_of, link_for, send

LIST = "/console"


@pytest.fixture
def august(db: Database) -> August:
    august = August(db)
    with building(db):
        august.sell(id="in_corner")
    return august


def suspected(august: August, ended_at: datetime | None = None, title: str = "Graph API answers nobody") -> str:
    with august.db.work(OPERATOR) as session:
        facebook = session.query(Platform).filter_by(slug="facebook").one()
        return suspicions.notice(session, facebook.id, None, title, STARTED, ended_at, "test").id


def finance(august: August) -> FlaskClient:
    house = house_of(august.db, clock=FixedClock(DECLARED))
    return browser(app_of(house, console.blueprint, portal.blueprint), link_for(house, august.finance))


def test_finance_looks_at_it_and_confirms_what_the_preview_shows(august: August) -> None:
    id = suspected(august, title="<script>alert(1)</script>")
    client = finance(august)
    page = client.get(LIST).text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    link = re.search(r'href="(/console/incidents/new\?[^"]*)"', page)
    assert link is not None
    preview = link[1].replace("&amp;", "&")
    shown = client.get(preview).text
    assert "declaring it confirms it" in shown
    fields = dict(re.findall(r'<input type="hidden" name="([a-z_]+)" value="([^"]*)">', shown))
    assert fields["suspected"] == id
    assert "takes a second factor" in shown
    assert "have one enrolled" in send(client, preview, "/console/incidents", fields).text
    fields["code"] = fresh_code(client, "finance@operator.example")
    answer = send(client, preview, "/console/incidents", fields)
    assert answer.headers["Location"].endswith(f"/console/incidents/{id}")
    incident = august.shown(id)
    assert (incident["state"], incident["declared_by"]) == ("declared", "finance@operator.example")
    assert august.grants(id)["in_corner"].amount == 375  # 31.00 x 90 h / 744 h
    again = send(client, LIST, "/console/incidents", fields)
    assert (again.status_code, "confirmed already" in again.text) == (409, True)
    assert "Suspected by monitors" not in client.get(LIST).text


def test_finance_dismisses_it_with_a_reason(august: August) -> None:
    id = suspected(august)
    client = finance(august)
    assert send(client, LIST, f"/console/suspected/{id}/dismiss", {"reason": " "}).status_code == 400
    assert send(client, LIST, f"/console/suspected/{id}/dismiss", {"reason": "Our own proxy."}).status_code == 303
    assert "Suspected by monitors" not in client.get(LIST).text
    assert send(client, LIST, f"/console/suspected/{id}/dismiss", {"reason": "Again."}).status_code == 409


def test_on_the_command_line(august: August, database_urls: Urls) -> None:
    over = suspected(august, ended_at=at(23, 2))
    other = suspected(august, title="Another")
    terminal = Terminal(house_of(august.db, clock=FixedClock(DECLARED)), database_urls)
    listed = terminal.json("incidents", "list")["incidents"]
    assert {(one["id"], one["state"]) for one in listed} == {(over, "suspected"), (other, "suspected")}
    terminal.refuses(
        "confirmed or dismissed by finance", "incidents", "confirm", over, "--by", "approver@operator.example"
    )
    terminal.refuses("There is no suspected incident", "incidents", "confirm", "inc_none", *FINANCE)
    terminal.refuses("Say why", "incidents", "dismiss", over, "--reason", " ", *FINANCE)
    later = ("--since", "2019-08-27T00:00Z")
    terminal.refuses("An outage cannot begin in the future", "incidents", "confirm", over, *later, *FINANCE)
    made = terminal.json("incidents", "confirm", over, "--impact", "5000", *FINANCE)
    assert (made["id"], made["state"], made["started_at"], made["ended_at"], made["impact"]) == (
        over, "declared", "2019-08-22T20:00:00Z", "2019-08-23T02:00:00Z", 5_000,
    )  # fmt: skip
    terminal.refuses("This incident is confirmed already", "incidents", "dismiss", over, "--reason", "x", *FINANCE)
    terminal.json("incidents", "dismiss", other, "--reason", "Ours.", *FINANCE)
    assert [one["id"] for one in terminal.json("incidents", "list")["incidents"]] == [over]


def test_monitors_are_added_and_disabled_on_the_command_line(august: August, database_urls: Urls) -> None:
    terminal = Terminal(house_of(august.db, clock=FixedClock(DECLARED)), database_urls)
    made = terminal.json("monitors", "add", "alertmanager", "--platform", "facebook", *FINANCE)
    assert made["url"].startswith("http://127.0.0.1/webhooks/monitors/")
    assert len(made["bearer"]) == 43
    terminal.json("monitors", "add", "pagerduty", "--platform", "instagram", "--agency", "acme", "--secret-file", "-",
                  *FINANCE, stdin="a secret of PagerDuty's\n")  # fmt: skip
    found = terminal.json("monitors", "list")["monitors"]
    assert [(one["kind"], one["platform"], one["agency"]) for one in found] == [
        ("alertmanager", "facebook", None), ("pagerduty", "instagram", "acme"),
    ]  # fmt: skip
    terminal.refuses("Give the secret", "monitors", "add", "pagerduty", "--platform", "facebook", *FINANCE)
    terminal.refuses("No platform is called", "monitors", "add", "statuspage", "--platform", "facebok", *FINANCE)
    terminal.json("monitors", "disable", str(found[0]["id"]), *FINANCE)
    terminal.refuses("disabled already", "monitors", "disable", str(found[0]["id"]), *FINANCE)
