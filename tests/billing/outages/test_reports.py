"""The pages of a report: who may open them, and what they hand out."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from billing import portal
from billing.errors import AlreadyDeclared
from billing.models import Customer
from billing.outages import console, incidents, papers, planning, queries, report, reports
from billing.outages.models import ReportedDamage
from billing.outages.planning import Declaration
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Agency
from tenants.policy import set_policy
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, RESOLVED, STARTED, August, approved_and_sent, at
from tests.factories import MemberFactory, building
from tests.pdf_text import text_of
from tests.web import app_of, browser, house_of, link_for, send

HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')
FILES = ("report.csv", "journal.csv", "report.pdf", "claim.pdf")


@pytest.fixture
def house(db: Database) -> House:
    return house_of(db)


@pytest.fixture
def app(house: House) -> Flask:
    return app_of(house, console.blueprint, reports.blueprint, portal.blueprint)


@pytest.fixture
def here(august: August) -> str:
    """Of an incident that is over but for the resolution: 3.75 for one customer."""
    incident = august.declare(now=DECLARED)
    august.approve(incident)
    with august.db.work(OPERATOR) as session:
        approved_and_sent(session, incident)
    return f"/console/incidents/{incident}"


@pytest.fixture
def finance(app: Flask, house: House, august: August) -> FlaskClient:
    return browser(app, link_for(house, august.finance))


def test_every_file_is_of_its_kind_and_named_for_the_incident(finance: FlaskClient, here: str) -> None:
    kinds = {"csv": "text/csv; charset=utf-8", "pdf": "application/pdf"}
    for file in FILES:
        answer = finance.get(f"{here}/{file}")
        assert answer.status_code == 200, file
        assert answer.content_type == kinds[file[-3:]]
        assert here.rsplit("/", 1)[1] in answer.headers["Content-Disposition"]
        assert answer.headers["Cache-Control"] == "no-store"


def test_the_page_says_what_is_owed_in_all_and_what_was_left_out(
    finance: FlaskClient, here: str, august: August
) -> None:
    with building(august.db) as session:
        invoice = august.sell().id
        session.execute(sa.text("UPDATE payments SET dispute_open = true WHERE invoice_id = :id"), {"id": invoice})
    august.resolve(here.rsplit("/", 1)[1])
    page = finance.get(f"{here}/report").text
    # 30/124 of 31.00 are 7.50 each; 3.75 of one are back, the other 3.75 wait, and the other 7.50 are disputed.
    assert re.search(r'data-label="Owed in all" class="number">\s*\$15.00', page)
    assert "Left out: $7.50 disputed (1 invoice)." in page
    assert "<small>1 invoice left out</small>" in page
    assert "(1 invoice left out)" in finance.get(here).text
    promise = {"by": "2019-09-04T14:00:00Z", "kept": True, "excepted": 1}
    assert papers._promise(promise).endswith("14:00 UTC, and was, but for 1 invoice left out.")


def test_what_was_retracted_lasted_until_then_and_is_claimed_from_nobody(here: str, august: August) -> None:
    incident = here.rsplit("/", 1)[1]
    august.retract(incident)
    christmas = house_of(august.db, clock=FixedClock(at(25, month=12)))
    reader = browser(
        app_of(christmas, console.blueprint, reports.blueprint, portal.blueprint), link_for(christmas, august.finance)
    )
    with august.db.work(OPERATOR) as session:
        told = reports.reporting.report(session, at(25, month=12), incident)
    # From 22 August, 20:00 to 30 August, 08:00 are 7 days and 12 hours: 180 h.
    assert (told["outage_seconds"], told["retracted_at"]) == (180 * 3_600, "2019-08-30T08:00:00Z")
    assert told["promise"]["kept"] is None
    said = "to 30 August 2019, 08:00 UTC: 180 h. It was withdrawn on 30 August 2019, 08:00 UTC."
    for words in ("\n".join(papers.in_lines(told)), text_of(reader.get(f"{here}/report.pdf").data)):
        assert said in words
        assert "The promise was withdrawn with it." in words
        assert "to be back" not in words
    page = " ".join(re.sub("<[^>]*>", " ", reader.get(f"{here}/report").text).split())
    assert "from 22 Aug 2019, 20:00 UTC to 30 Aug 2019, 08:00 UTC" in page
    assert "Outage 180 h" in page
    assert "Withdrawn 30 Aug 2019, 08:00 UTC" in page
    assert "All money back by" not in page
    assert "Claim letter" not in page
    assert len(reader.get(f"{here}/report.csv").text.splitlines()) == 1 + 1, "what was given stays given"
    answer = reader.get(f"{here}/claim.pdf")
    assert (answer.status_code, "it was no outage, so nothing can be claimed for it" in answer.text) == (409, True)
    page = " ".join(re.sub("<[^>]*>", " ", reader.get(here).text).split())
    assert "from 22 Aug 2019, 20:00 UTC to 30 Aug 2019, 08:00 UTC · declared by" in page
    assert "All money is to be back" not in page
    page = " ".join(re.sub("<[^>]*>", " ", reader.get("/console").text).split())
    assert page.count("22 Aug 2019, 20:00 UTC withdrawn") == 1
    assert "4 Sep 2019" not in page  # when the money was to be back
    assert "to its retraction" in "\n".join(queries.in_words(august.shown(incident)))


def waits_for_more(august: August, declaration: Declaration) -> str:
    """Declared while nobody is given less than 8.00 at once."""
    with august.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, august.agency.id)
        set_policy(session, DECLARED, agency, {"minimums": {"usd": 800}}, august.finance, "test")
    return august.declare(declaration)


def owed_and_left_out(august: August, incident: str) -> list[tuple[int, int]]:
    with august.db.work(OPERATOR) as session:
        return [(one["owed"], one["left_out"]) for one in report.report(session, RESOLVED, incident)["money"]]


def test_what_was_retracted_leaves_nothing_out(august: August) -> None:
    """90 of 744 hours of 31.00 are 3.75, which are nobody's any more."""
    incident = waits_for_more(august, FACEBOOK_IS_DOWN)
    assert owed_and_left_out(august, incident) == [(375, 375)]
    august.retract(incident)
    assert owed_and_left_out(august, incident) == []


def test_what_was_not_lost_after_all_is_left_out_no_more(august: August) -> None:
    """24 of 744 hours of 31.00 are 1.00, until they turn out to have been a day of July."""
    incident = waits_for_more(august, Declaration("facebook", STARTED, at(23, 20)))
    august.resolve(incident, at=at(23, 20))
    assert owed_and_left_out(august, incident) == [(100, 100)]
    august.change(incident, started_at=at(1, month=7), ended_at=at(2, month=7))
    assert owed_and_left_out(august, incident) == []


def test_what_was_given_up_lasts_for_good(here: str, finance: FlaskClient, august: August) -> None:
    incident = here.rsplit("/", 1)[1]
    with august.db.work(OPERATOR) as session:
        incidents.retire(session, RESOLVED, incident, august.finance, "test", reason="Gone for good.")
        told = reports.reporting.report(session, RESOLVED, incident)
        preview = planning.plan(session, planning.standing(session, incident), RESOLVED)
    assert "Facebook from 22 August 2019, 20:00 UTC for good: " in "\n".join(papers.in_lines(told))
    assert preview.in_words()[0].startswith("facebook from 2019-08-22T20:00:00Z for good, counted to")
    assert "  from 2019-08-22T20:00:00Z for good" in queries.in_words(august.shown(incident))
    for page in (here, f"{here}/report", "/console"):
        said = " ".join(re.sub("<[^>]*>", " ", finance.get(page).text).split())
        assert re.search("22 Aug 2019, 20:00 UTC for good", said), page
    with pytest.raises(AlreadyDeclared, match="Facebook was given up for good with incident"):
        august.declare(replace(FACEBOOK_IS_DOWN, started_at=RESOLVED), now=at(2, month=9))


def test_an_outage_of_less_than_a_minute_has_a_length_everywhere(finance: FlaskClient, august: August) -> None:
    incident = august.declare(Declaration("facebook", at(26, 13), ended_at=at(26, 13) + timedelta(seconds=45)))
    with august.db.work(OPERATOR) as session:
        told = reports.reporting.report(session, DECLARED, incident)
    said = "from 26 August 2019, 13:00 UTC to 26 August 2019, 13:00:45 UTC: 45 s."
    for words in (
        papers.in_lines(told)[1],
        *(text_of(made) for made in (papers.report_pdf(told, ""), papers.claim_pdf(told, "", "Ann"))),
    ):
        assert said in words
    page = " ".join(re.sub("<[^>]*>", " ", finance.get(f"/console/incidents/{incident}/report").text).split())
    assert "from 26 Aug 2019, 13:00 UTC to 26 Aug 2019, 13:00:45 UTC" in page
    assert "Outage 45 s" in page


def test_the_page_says_what_becomes_of_money_that_is_not_back_yet(
    finance: FlaskClient, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = reports.reporting.report

    def page(**parts: int) -> str:
        def report(*asked: Any) -> dict[str, Any]:
            told = counted(*asked)
            told["money"][0] |= parts
            return told

        monkeypatch.setattr(reports.reporting, "report", report)
        return " ".join(re.sub("<[^>]*>", " ", finance.get(f"{here}/report").text).split())

    assert "$3.75 $0.00 $0.00 $3.75" in page()
    told = page(on_its_way=100, for_a_person=20, rounded_away=3)
    assert "$3.75 $1.23 $1.00 on its way $0.20 for a person $0.03 rounded away by tax $0.00 $3.75" in told
    # What its bank took back from us the customer has: that is not on its way.
    assert "Another way" not in told
    told = page(waiting=100, given_elsewhere=25)
    assert "Not back yet Another way Left out Owed in all USD" in told
    assert "$3.75 $1.00 $1.00 waiting $0.25 $0.00 $3.75" in told


def test_a_csv_of_many_rows_loses_none(finance: FlaskClient, august: August, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are read, or sent, at once."""
    monkeypatch.setattr(report, "BATCH", 10)
    monkeypatch.setattr(reports, "IN_ONE_PIECE", 7)
    with building(august.db):
        for _ in range(24):
            august.sell()
    incident = august.declare(now=DECLARED)
    lines = finance.get(f"/console/incidents/{incident}/report.csv").text.splitlines()
    assert len(lines) == 1 + 25
    assert len(set(lines)) == len(lines)


def test_finance_enters_what_a_customer_reported(finance: FlaskClient, here: str, august: August) -> None:
    with august.db.work(OPERATOR) as session:
        customer = session.query(Customer).one().id
    fields = {"customer": customer, "amount": "45.00", "currency": "USD", "what": "<b>Boosted</b> posts"}
    assert send(finance, f"{here}/report", f"{here}/damages", fields).status_code == 303
    page = finance.get(f"{here}/report").text
    assert "$45.00" in page
    assert "&lt;b&gt;Boosted&lt;/b&gt; posts" in page
    form = dict(HIDDEN.findall(finance.get(f"{here}/report").text)) | fields
    assert [finance.post(f"{here}/damages", data=form).status_code for _ in range(2)] == [303, 303]
    assert finance.post(f"{here}/damages", data=form | {"form": "x" * 65}).status_code == 400
    refused = send(finance, f"{here}/report", f"{here}/damages", fields | {"amount": "1.000,00"})
    assert refused.status_code == 400
    assert "digits, with a point" in refused.text
    with august.db.work(OPERATOR) as session:
        assert session.query(ReportedDamage).count() == 2


def test_an_auditor_reads_and_enters_nothing(app: Flask, house: House, here: str, finance: FlaskClient) -> None:
    with building(house.database):
        auditor = MemberFactory(role="auditor")
    reader = browser(app, link_for(house, auditor))
    assert "Enter what a customer reported" not in reader.get(f"{here}/report").text
    assert send(reader, f"{here}", f"{here}/damages", {"customer": "cus_1"}).status_code == 403
    for file in FILES:
        assert reader.get(f"{here}/{file}").status_code == 200


def test_an_agency_and_a_stranger_see_nothing(app: Flask, house: House, here: str) -> None:
    with building(house.database):
        member = MemberFactory(role="agency-finance", agency_id=1)
    theirs, nobody = browser(app, link_for(house, member)), browser(app)
    for file in ("report", *FILES):
        assert theirs.get(f"{here}/{file}").status_code == 403
        assert nobody.get(f"{here}/{file}").status_code == 401


def test_a_report_on_nothing_is_not_found(finance: FlaskClient, here: str) -> None:
    for file in ("report", *FILES):
        assert finance.get(f"/console/incidents/inc_none/{file}").status_code == 404


def test_papers_are_made_of_whatever_people_typed(finance: FlaskClient, august: August) -> None:
    """Cyrillic is in our own fonts; of the others no font may be there, and a sign that nobody can draw surely is."""
    words = "Фейсбук 株式会社 شركة \U0001f642 \U000101d0"
    incident = august.declare(replace(FACEBOOK_IS_DOWN, title=words, message=f"{words}\n\nOn our way."))
    for name in ("report", "claim"):
        paper = finance.get(f"/console/incidents/{incident}/{name}.pdf")
        assert (paper.status_code, paper.content_type) == (200, "application/pdf")
        assert f"{incident}.csv".encode() in paper.data or f"{incident}.csv".encode("utf-16-be") in paper.data
