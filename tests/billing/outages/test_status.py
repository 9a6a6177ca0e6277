"""`/status` tells everybody the same, as a page, JSON and Atom, and nothing that is not theirs to know."""

import xml.etree.ElementTree as ET
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from billing.errors import Conflict
from billing.outages import incidents, report, status, updates
from billing.outages.models import Incident
from billing.outages.planning import Declaration
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.models import Agency
from tenants.policy import set_policy
from tests.billing.outages.august import DECLARED, RESOLVED, STARTED, August, at
from tests.factories import AgencyFactory, CustomerFactory, building, paid_invoice, subscribed
from tests.web import app_of, browser, house_of

ATOM = {"a": "http://www.w3.org/2005/Atom"}


@pytest.fixture
def august(db: Database) -> August:
    made = August(db)
    with building(db):
        customer = CustomerFactory(agency=made.agency, name="canary customer")
        paid_invoice(customer, made.pages, subscription=subscribed(customer, made.pages))
    return made


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(DECLARED)


@pytest.fixture
def anybody(august: August, clock: FixedClock) -> FlaskClient:
    app: Flask = app_of(house_of(august.db, clock=clock), status.blueprint)
    return browser(app)


def test_while_nothing_is_declared_everything_works(anybody: FlaskClient) -> None:
    assert "Everything works" in anybody.get("/status").text
    assert anybody.get("/status.json").json == {"status": "ok", "incidents": []}
    assert ET.fromstring(anybody.get("/status/feed.atom").text).findall("a:entry", ATOM) == []


def test_an_outage_is_told_alike_everywhere_until_it_is_over(anybody: FlaskClient, august: August) -> None:
    said = Declaration("facebook", STARTED, title="Facebook <cut> us off", message="We cannot publish & we are sorry.")
    with august.db.work(OPERATOR) as session:
        incident = incidents.declare(session, DECLARED, said, august.finance, "test")
    page = anybody.get("/status").text
    assert "Facebook &lt;cut&gt; us off" in page
    assert "We cannot publish &amp; we are sorry." in page
    assert "by <time" in page  # the promise
    told = anybody.get("/status.json").json
    assert told["status"] == "outage"
    assert told["incidents"][0]["started_at"] == "2019-08-22T20:00:00Z"
    assert told["incidents"][0]["ended_at"] is None
    entry = ET.fromstring(anybody.get("/status/feed.atom").text).find("a:entry", ATOM)
    assert entry is not None
    assert entry.findtext("a:content", namespaces=ATOM) == "We cannot publish & we are sorry."
    with august.db.work(OPERATOR) as session:
        incidents.resolve(session, RESOLVED, incident.id, august.finance, "test")
    assert "Everything works" in anybody.get("/status").text
    told = anybody.get("/status.json").json
    assert told["status"] == "ok"
    assert told["incidents"][0]["ended_at"] == "2019-08-30T08:00:00Z"
    assert len(told["incidents"][0]["updates"]) == 2


@pytest.mark.parametrize("ended", [False, True])
def test_whoever_was_told_of_an_outage_is_told_that_it_was_withdrawn(
    anybody: FlaskClient, august: August, ended: bool
) -> None:
    incident = august.declare()
    if ended:
        august.resolve(incident)
    august.retract(incident)
    page = anybody.get("/status").text
    assert "Everything works" in page
    assert ">Withdrawn<" in page
    assert "We have withdrawn this" in page
    assert 'class="promise"' not in page
    told = anybody.get("/status.json").json
    assert told["status"] == "ok"
    (one,) = told["incidents"]
    assert (one["state"], one["money_back_by"], one["money_back_in_time"]) == ("retracted", None, None)
    entries = ET.fromstring(anybody.get("/status/feed.atom").text).findall("a:entry", ATOM)
    assert len(entries) == 2 + ended
    assert "We have withdrawn this" in (entries[0].findtext("a:content", namespaces=ATOM) or "")


def test_what_goes_on_is_shown_before_all_that_is_over(
    anybody: FlaskClient, august: August, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "SHOWN", 1)
    goes_on = august.declare(Declaration("instagram", at(20)))
    august.retract(august.declare())
    assert [one["id"] for one in anybody.get("/status.json").json["incidents"]] == [goes_on]


@pytest.mark.parametrize(
    ("given_back", "now", "in_time", "said"),
    [
        (False, RESOLVED, None, "What is still to come back to you is there by <time"),
        (True, RESOLVED, True, "All money that can go back is back, as we had promised by <time"),
        (False, at(5, month=9), False, "Not all money was back by <time"),
    ],
    ids=["there is time", "kept", "not kept"],
)
def test_the_promise_is_shown_being_kept(
    anybody: FlaskClient, august: August, clock: FixedClock, given_back: bool, now: datetime, in_time: bool, said: str
) -> None:
    """Declared on Monday the 26th of August, 14:00: seven business days later is the 4th of September."""
    incident = august.declare()
    assert anybody.get("/status.json").json["incidents"][0]["money_back_in_time"] is None
    assert 'class="promise"' not in anybody.get("/status").text
    august.resolve(incident)
    if given_back:
        august.give_back(incident)
    clock.at = now
    (told,) = anybody.get("/status.json").json["incidents"]
    assert (told["money_back_by"], told["money_back_in_time"]) == ("2019-09-04T14:00:00Z", in_time)
    page = anybody.get("/status").text
    assert said in page
    assert page.count('class="promise"') == 1


def test_a_promise_is_looked_at_once_a_minute_whoever_asks(
    anybody: FlaskClient, august: August, monkeypatch: pytest.MonkeyPatch
) -> None:
    august.resolve(august.declare())
    looked = []

    def promise(session: Session, now: datetime, incident: Incident) -> dict[str, Any]:
        looked.append(incident.id)
        return report.promise(session, now, incident)

    monkeypatch.setattr(status, "report", SimpleNamespace(promise=promise))
    for path in ("/status", "/status.json", "/status/feed.atom", "/status"):
        anybody.get(path)
    assert len(looked) == 1
    monkeypatch.setattr(status, "FRESH", 0.0)
    anybody.get("/status")
    assert len(looked) == 2


ENDED = at(23, 20)
SINCE = "Facebook has not been available to us since 22 August 2019, 20:00 UTC."
PAUSED = "Billing is paused for everything that depends on it"
WAS_OUT = "Facebook was not available to us from 22 August 2019, 20:00 UTC until 23 August 2019, 20:00 UTC."
WORKS = "Facebook works for us again since"
GIVEN = "What was lost until then is given back now"


@pytest.mark.parametrize(
    ("ended_at", "grants", "first", "at_the_end"),
    [
        (
            None,
            "prorated",
            f"{SINCE} {PAUSED}, and the time that you paid for and lost goes back to you.",
            f"{WORKS} 30 August 2019, 08:00 UTC. {GIVEN}, and billing resumes once that is done.",
        ),
        (None, "none", f"{SINCE} {PAUSED}.", f"{WORKS} 30 August 2019, 08:00 UTC. Billing resumes."),
        (
            ENDED,
            "credit",
            f"{WAS_OUT} The time that you paid for and lost goes back to you.",
            f"{WORKS} 23 August 2019, 20:00 UTC. {GIVEN}.",
        ),
        (ENDED, "none", WAS_OUT, f"{WORKS} 23 August 2019, 20:00 UTC."),
    ],
)
def test_what_is_said_by_itself_is_so(
    anybody: FlaskClient, august: August, ended_at: datetime | None, grants: str, first: str, at_the_end: str
) -> None:
    incident = august.declare(Declaration("facebook", STARTED, ended_at=ended_at, policy=grants))
    assert bool(august.rows("SELECT FROM pauses")) is ("is paused" in first)
    page = anybody.get("/status").text
    assert first in page
    assert "way you paid" not in page
    august.resolve(incident)
    assert bodies(anybody) == [at_the_end, first]


def bodies(anybody: FlaskClient) -> list[str]:
    """Every update of the only incident that was not withdrawn, the latest first."""
    (told,) = [one for one in anybody.get("/status.json").json["incidents"] if one["state"] != "retracted"]
    return [update["body"] for update in told["updates"]]


@pytest.mark.parametrize("own", ["none", "credit"])
def test_to_everybody_nothing_is_promised_that_one_agency_does_not_keep(
    anybody: FlaskClient, august: August, own: str
) -> None:
    with building(august.db):
        other = AgencyFactory(slug="other")
    with august.db.work(OPERATOR) as session:
        set_policy(session, DECLARED, session.get_one(Agency, other.id), {"grants": own}, august.finance, "test")
    for agencies, given in (((), own != "none"), (("acme",), True), (("other",), own != "none")):
        incident = august.declare(Declaration("facebook", STARTED, agencies=agencies))
        said = [bodies(anybody)[0]]
        august.resolve(incident)
        said.append(bodies(anybody)[0])
        august.reopen(incident)
        said.append(bodies(anybody)[0])
        with august.db.work(OPERATOR) as session:
            incidents.retire(session, RESOLVED, incident, august.finance, "test", reason="Gone for good.")
        said.append(bodies(anybody)[0])
        assert ["back to you" in one or "given back" in one for one in said] == [given] * 4, (agencies, said)
        with august.db.work(OPERATOR) as session:
            incidents.retract(session, RESOLVED, incident, august.finance, "test", reason="The next one.")


def test_nobody_is_named_in_public(anybody: FlaskClient, august: August) -> None:
    with august.db.work(OPERATOR) as session:
        incidents.declare(session, DECLARED, Declaration("facebook", STARTED), august.finance, "test")
    for path in ("/status", "/status.json", "/status/feed.atom"):
        body = anybody.get(path).text
        for secret in ("canary", august.finance.email, august.agency.slug, "cus_", "3.75"):
            assert secret not in body, (path, secret)


def test_a_platform_that_does_not_come_back_pauses_nobody_any_more(anybody: FlaskClient, august: August) -> None:
    incident = august.declare()
    with august.db.work(OPERATOR) as session:
        incidents.retire(session, RESOLVED, incident, august.finance, "test", reason="Gone for good.")
    page = anybody.get("/status").text
    assert "Does not come back" in page
    assert "Billing is paused for everything that depends on Facebook. You do not" not in page
    assert "Facebook does not come back for us." in page
    told = anybody.get("/status.json").json
    assert (told["status"], told["incidents"][0]["state"]) == ("ok", "retired")


def test_news_of_a_platform_that_does_not_come_back_is_still_published(anybody: FlaskClient, august: August) -> None:
    incident = august.declare()
    with august.db.work(OPERATOR) as session:
        incidents.retire(session, RESOLVED, incident, august.finance, "test", reason="Gone for good.")
        updates.publish(session, RESOLVED, incident, august.finance, "Its exports are there until Christmas.", "test")
    assert "Its exports are there until Christmas." in anybody.get("/status").text
    newest = anybody.get("/status.json").json["incidents"][0]["updates"][0]
    assert (newest["state"], newest["body"]) == ("retired", "Its exports are there until Christmas.")
    gone = august.declare(Declaration("instagram", STARTED))
    august.retract(gone)
    with august.db.work(OPERATOR) as session, pytest.raises(Conflict, match="is retracted: nobody is to hear of it"):
        updates.publish(session, RESOLVED, gone, august.finance, "Never mind.", "test")
