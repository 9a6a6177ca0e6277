"""`/console/messages/words`: who may change what an agency writes, what it looks like before, and what is refused."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from markupsafe import escape

from billing import portal
from billing.outages import console
from billing.outages.messages import console as pages
from billing.outages.messages import wording
from tenants.db import OPERATOR
from tests.billing.outages.messages.conftest import CORNER, Post
from tests.billing.outages.messages.mailroom import text_of
from tests.factories import AgencyFactory, MemberFactory, building
from tests.web import app_of, browser, link_for, link_for_customer, send

pytestmark = pytest.mark.breaks("I4 every grant has ended or waits")
"""The states of grants are set by hand: no step is sent here."""

WORDS = "/console/messages/words"
SHOWN = f"{WORDS}/shown"
OURS = {"agency": "acme", "kind": "declared", "subject": "About {platform}", "body": "Dear {customer}. {money_back}"}
ALERT = re.compile(r'<section class="panel bad" role="alert"><p>(.*?)</p></section>')
LETTER = re.compile(r'<p><strong>(.*?)</strong></p>\s*<div class="letter">(.*?)</div>', re.DOTALL)


@pytest.fixture
def app(post: Post) -> Flask:
    return app_of(post.house, portal.blueprint, console.blueprint, pages.blueprint)


@pytest.fixture
def finance(app: Flask, post: Post) -> FlaskClient:
    return browser(app, link_for(post.house, post.august.finance))


def in_force(post: Post, kind: str = "declared") -> tuple[str, int | None]:
    with post.db.work(OPERATOR) as session:
        found = wording.in_force(session, post.august.agency.id, kind)
    return found.subject, found.version


def refusal(answer: Any) -> str:
    assert answer.status_code == 200
    (sentence,) = ALERT.findall(answer.text)
    return str(sentence)


def test_what_was_said_of_an_incident_that_is_not_there_is_not_found(finance: FlaskClient, incident: str) -> None:
    found = [finance.get(f"/console/messages?incident={one}").status_code for one in (incident, "inc_none")]
    assert found == [200, 404]


def test_finance_writes_the_other_staff_look_and_nobody_else_comes_in(app: Flask, post: Post, incident: str) -> None:
    with building(post.db):
        staff = [MemberFactory(role="auditor"), post.august.approver]
        others = [MemberFactory(role=f"agency-{of}", agency_id=post.august.agency.id) for of in ("admin", "finance")]
    for member in staff:
        client = browser(app, link_for(post.house, member))
        page = client.get(f"{WORDS}?agency=acme&kind=declared")
        assert "the built-in words are in force" in page.text
        assert "Save these words" not in page.text
        assert f'formaction="{SHOWN}"' in page.text
        tried = send(client, WORDS, SHOWN, OURS | {"customer": "cus_corner"})
        assert LETTER.findall(tried.text)[0][0] == "About Facebook"
        refused = send(client, WORDS, WORDS, OURS)
        assert (refused.status_code, "Only finance may do this." in refused.text) == (403, True)
    links = [link_for(post.house, member) for member in others]
    links.append(link_for_customer(post.house, post.august.agency.id, "cus_corner"))
    for link in links:
        client = browser(app, link)
        assert client.get(WORDS).status_code == 403
        for action in (WORDS, SHOWN):
            assert send(client, WORDS, action, OURS).status_code == 403
    assert browser(app).get(WORDS).status_code in (302, 303, 401)
    assert in_force(post)[1] is None


def test_a_new_version_is_what_the_next_message_says_and_what_was_written_stays(
    finance: FlaskClient, post: Post, incident: str
) -> None:
    post.room.answers.extend(["451 later", "451 later"])
    post.deliver()
    saved = send(finance, WORDS, WORDS, OURS)
    assert (saved.status_code, saved.location) == (303, f"{WORDS}?agency=acme&kind=declared&saved=1")
    page = finance.get(saved.location).text
    assert "version 1 of its own words is in force" in page
    assert "Dear {customer}. {money_back}</textarea>" in page
    post.due_now()
    post.deliver()
    (first,) = post.room.to(CORNER)
    assert first["Subject"] == "Facebook outage: what it means for your billing"  # a retry of what was said before

    again = OURS | {"kind": "update", "subject": "{platform} again", "body": "Dear {customer}: {update}"}
    assert send(finance, WORDS, WORDS, again).location.endswith("saved=1")
    assert send(finance, WORDS, WORDS, again | {"body": "Hi {customer}: {update}"}).location.endswith("saved=2")
    post.publish(incident, "Still nothing.")
    post.publish(incident, "Now it works.")
    post.deliver()
    second = post.room.to(CORNER)[1]
    assert (second["Subject"], text_of(second).strip()[:18]) == ("Facebook again", "Hi Corner Bakery: ")

    back = send(finance, WORDS, WORDS, {"agency": "acme", "kind": "update", "built_in": "1"})
    assert back.location.endswith("saved=3")
    assert in_force(post, "update") == ("Update: {title}", None)
    entries = post.august.rows(
        "SELECT actor, origin, subject, after FROM audit_entries WHERE action = 'message.template_saved' ORDER BY seq"
    )
    assert [(one.actor, one.origin, one.subject, one.after["version"]) for one in entries] == [
        ("finance@operator.example", "console", kind, version)
        for kind, version in (("declared", 1), ("update", 1), ("update", 2), ("update", 3))
    ]


def test_words_are_tried_on_a_customers_own_data_and_nothing_is_saved(
    finance: FlaskClient, post: Post, refunded: str
) -> None:
    """31.00 x 90 h / 744 h = 3.75."""
    bold = "<b>{customer}</b>: {amount} of {invoice}"
    before = post.august.rows("SELECT count(*) FROM audit_entries")
    tried = send(finance, WORDS, SHOWN, OURS | {"kind": "refunded", "customer": "cus_corner", "body": bold})
    ((subject, letter),) = LETTER.findall(tried.text)
    assert subject == "About Facebook"
    assert letter.strip() == "&lt;b&gt;Corner Bakery&lt;/b&gt;: $3.75 of N-corner"
    assert (
        "&lt;b&gt;{customer}&lt;/b&gt;: {amount} of {invoice}</textarea>" in tried.text
    )  # what was typed is still there
    assert f"To {CORNER}" in tried.text
    in_use = finance.get(f"{WORDS}?agency=acme&kind=declared&customer=cus_quiet").text
    assert "Quiet Café" in LETTER.findall(in_use)[0][1]
    assert in_force(post, "refunded")[1] is None
    assert post.august.rows("SELECT count(*) FROM audit_entries") == before
    assert post.room.mails == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"body": "You get {amuont}."}, "There is no {amuont} in this message"),
        ({"body": "Until {promis}."}, "There is no {promis} in this message, did you mean promise?"),
        ({"subject": " "}, "A subject has 1 to 200 characters."),
        ({"subject": "x" * 201}, "A subject has 1 to 200 characters."),
        ({"body": " \n "}, "A message has 1 to 10,000 characters."),
        ({"body": "x" * 10_001}, "A message has 1 to 10,000 characters."),
        ({"body": "safe\u202eexe"}, "Leave out control characters: plain letters, signs and line breaks will do."),
    ],
)
def test_a_mistake_is_said_on_the_form_and_is_neither_saved_nor_shown(
    finance: FlaskClient, post: Post, incident: str, wrong: dict[str, str], sentence: str
) -> None:
    form = OURS | wrong | {"customer": "cus_corner"}
    for action in (WORDS, SHOWN):
        answer = send(finance, WORDS, action, form)
        assert refusal(answer).startswith(str(escape(sentence)))
        assert LETTER.findall(answer.text) == []
        assert str(escape(form["subject"])) in answer.text
    assert in_force(post)[1] is None


def test_what_is_not_there_cannot_be_written_or_shown(finance: FlaskClient, post: Post) -> None:
    nobody = send(finance, WORDS, SHOWN, OURS | {"customer": "cus_nobody"})
    assert refusal(nobody) == "There is no customer cus_nobody. If Stripe has them, run `flask stripe import`."
    untouched = send(finance, WORDS, SHOWN, OURS | {"customer": "cus_corner"})
    assert refusal(untouched).startswith("No incident has touched cus_corner yet")
    assert send(finance, WORDS, WORDS, OURS | {"agency": "nobody"}).status_code == 404
    for action in (WORDS, SHOWN):
        answer = send(finance, WORDS, action, OURS | {"kind": "declered"})
        assert (answer.status_code, "did you mean declared?" in answer.text) == (400, True)


def test_one_agencys_words_are_not_shown_on_anothers_customer(finance: FlaskClient, post: Post, incident: str) -> None:
    with building(post.db):
        AgencyFactory(slug="elm")
    shown = [
        finance.get(f"{WORDS}?agency=elm&kind=declared&customer=cus_corner"),
        send(finance, WORDS, SHOWN, OURS | {"agency": "elm", "customer": "cus_corner"}),
    ]
    for answer in shown:
        assert refusal(answer) == "cus_corner is a customer of acme: choose that agency first."
        assert "Corner Bakery" not in answer.text
