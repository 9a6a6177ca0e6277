"""Signing in: links that work once, sign-ins that end when they should, and nothing kept that opens a door."""

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask

from sandbox.postgres import Urls
from tenants import people
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import AuditEntry, Member, SignIn, SignInLink
from tests.terminal import Terminal
from tests.web import CSRF, SECRET, app_of, browser, house_of, link_for, send

COOKIE = "sign_in"


@pytest.fixture
def house(db: Database) -> House:
    return house_of(db)


@pytest.fixture
def app(house: House) -> Flask:
    return app_of(house)


@pytest.fixture
def finance(house: House) -> Member:
    with house.database.work(OPERATOR) as session:
        member = Member(email="finance@operator.example", role="finance")
        session.add(member)
    return member


def rows(house: House, model: type) -> list:
    with house.database.work(OPERATOR) as session:
        return list(session.scalars(sa.select(model)))


def age(house: House, column: str, by: timedelta) -> None:
    """Make every sign-in's `started_at` or `seen_at` that much older."""
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(SignIn).values({column: getattr(SignIn, column) - by}))


def test_a_link_signs_its_member_in_and_leads_to_their_own_pages(app: Flask, house: House, finance: Member) -> None:
    answer = send(app.test_client(), (link := link_for(house, finance)), link, {})
    assert (answer.status_code, answer.location) == (303, "/console")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/" in cookie


def test_opening_a_link_does_not_use_it_up_but_pressing_the_button_does(
    app: Flask, house: House, finance: Member
) -> None:
    link = link_for(house, finance)
    for _ in range(2):  # a mail program that looks ahead, then the person
        assert "finance@operator.example" in app.test_client().get(link).text
    browser(app, link)
    again = app.test_client().get(link)
    assert again.status_code == 410
    assert "does not work" in again.text


def test_two_browsers_that_press_at_once_sign_in_once(house: House, finance: Member) -> None:
    token = link_for(house, finance).removeprefix("/sign-in/")
    start, outcomes = threading.Barrier(2), []

    def press() -> None:
        start.wait()
        try:
            with house.database.work(OPERATOR) as session:
                people.sign_in(session, token, SECRET, "test")
            outcomes.append("in")
        except people.LinkDoesNotWork:
            outcomes.append("refused")

    presses = [threading.Thread(target=press) for _ in range(2)]
    for press_one in presses:
        press_one.start()
    for press_one in presses:
        press_one.join(20)
    assert sorted(outcomes) == ["in", "refused"]
    assert len(rows(house, SignIn)) == 1


@pytest.mark.parametrize("spoil", ["", "x", "nothing.nothing"], ids=["cut short", "one letter more", "made up"])
def test_a_link_that_was_not_made_here_opens_nothing(app: Flask, house: House, finance: Member, spoil: str) -> None:
    link = link_for(house, finance)
    bad = {"": link[:-3], "x": f"{link}x"}.get(spoil, f"/sign-in/{spoil}")
    assert app.test_client().get(bad).status_code == 410


def test_a_link_too_old_opens_nothing(app: Flask, house: House, finance: Member) -> None:
    link = link_for(house, finance)
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(SignInLink).values(expires_at=sa.func.now() - timedelta(seconds=1)))
    assert app.test_client().get(link).status_code == 410


def test_the_database_keeps_hashes_only(app: Flask, house: House, finance: Member) -> None:
    link = link_for(house, finance)
    client = browser(app, link)
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    kept = [row.token_hash for model in (SignInLink, SignIn) for row in rows(house, model)]
    assert len(kept) == 2
    for digest in kept:
        assert len(digest) == 64
        assert digest not in link
        assert digest not in cookie.value
        assert cookie.value not in digest


def test_signing_out_ends_the_sign_in_for_a_copied_cookie_too(app: Flask, house: House) -> None:
    with house.database.work(OPERATOR) as session:
        member = Member(email="admin@acme.example", role="agency-admin", agency_id=1)
        session.add(member)
    client, thief = browser(app, link_for(house, member)), app.test_client()
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    thief.set_cookie(COOKIE, cookie.value)
    assert "admin@acme.example" in thief.get("/").text
    answer = send(client, "/", "/sign-out", {})
    assert (answer.status_code, answer.location) == (303, "/")
    assert client.get_cookie(COOKIE) is None
    assert "admin@acme.example" not in thief.get("/").text


def test_signing_in_again_ends_the_browsers_earlier_sign_in(app: Flask, house: House, finance: Member) -> None:
    client = browser(app, link_for(house, finance))
    first = client.get_cookie(COOKIE)
    link = link_for(house, finance)
    send(client, link, link, {})
    second = client.get_cookie(COOKIE)
    assert first is not None
    assert second is not None
    assert first.value != second.value
    stale = app.test_client()
    stale.set_cookie(COOKIE, first.value)
    assert stale.get("/").status_code == 200


def test_a_form_that_somebody_else_left_open_is_not_sent_in_the_next_ones_name(
    app: Flask, house: House, finance: Member
) -> None:
    with house.database.work(OPERATOR) as session:
        session.add(other := Member(email="other@operator.example", role="finance"))
    client = browser(app, link_for(house, finance))
    left_open = CSRF.search(client.get(link_for(house, finance)).text)
    assert left_open
    form = {"csrf_token": left_open[1]}
    for member, status in ((finance, 303), (other, 400)):  # whoever signs in again goes on with their own
        link = link_for(house, member)
        send(client, link, link, {})
        assert client.post("/sign-out", data=form).status_code == status


@pytest.mark.parametrize(
    ("column", "by", "still_in"),
    [
        ("seen_at", people.IDLE - timedelta(minutes=1), True),
        ("seen_at", people.IDLE + timedelta(minutes=1), False),
        ("started_at", people.ABSOLUTE - timedelta(minutes=1), True),
        ("started_at", people.ABSOLUTE + timedelta(minutes=1), False),
    ],
)
def test_a_sign_in_ends_on_the_server_when_idle_or_old(
    app: Flask, house: House, finance: Member, column: str, by: timedelta, still_in: bool
) -> None:
    client = browser(app, link_for(house, finance))
    age(house, column, by)
    assert (client.get("/").status_code == 303) is still_in


def test_using_a_page_keeps_a_sign_in_from_being_idle(app: Flask, house: House, finance: Member) -> None:
    client = browser(app, link_for(house, finance))
    for _ in range(2):
        age(house, "seen_at", people.IDLE - timedelta(minutes=1))
        assert client.get("/").status_code == 303


def test_a_member_who_is_removed_is_out_at_once_and_in_again_by_a_new_link_alone(
    house: House, finance: Member, database_urls: Urls
) -> None:
    terminal = Terminal(house, database_urls)
    client, unused = browser(terminal.app, link_for(house, finance)), link_for(house, finance)
    terminal.json("members", "enrol", finance.email)
    assert terminal.json("members", "remove", finance.email) == {"email": finance.email, "removed": True}
    assert client.get("/").status_code == 200
    assert terminal.app.test_client().get(unused).status_code == 410
    terminal.refuses("works here", "members", "link", finance.email)

    assert terminal.json("members", "add", finance.email, "--role", "auditor")["id"] == finance.id
    assert client.get("/").status_code == 200
    assert terminal.app.test_client().get(unused).status_code == 410
    terminal.refuses("has no second factor", "members", "unenrol", finance.email)
    assert browser(terminal.app, link_for(house, finance)).get("/").status_code == 303
    assert [entry for entry in terminal.entries() if entry.startswith("member.")] == ["member.removed", "member.added"]


def test_over_https_the_cookies_are_bound_to_the_host(house: House, finance: Member) -> None:
    app = app_of(house_of(house.database, public_url="https://billing.example.com"))
    link = link_for(house, finance)
    client = app.test_client()
    shown = client.get(link, base_url="https://billing.example.com")
    token = CSRF.search(shown.text)
    assert token is not None
    answer = client.post(
        link,
        data={"csrf_token": token[1]},
        base_url="https://billing.example.com",
        headers={"Referer": f"https://billing.example.com{link}"},
    )
    cookies = [*shown.headers.getlist("Set-Cookie"), *answer.headers.getlist("Set-Cookie")]
    assert {cookie.split("=")[0] for cookie in cookies} == {"__Host-form", "__Host-sign_in"}
    for cookie in cookies:
        assert "Secure" in cookie
        assert "HttpOnly" in cookie
        assert "Domain" not in cookie
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=31536000")


def test_making_a_link_and_using_it_each_leave_one_audit_entry(app: Flask, house: House, finance: Member) -> None:
    browser(app, link_for(house, finance))
    assert [(entry.actor, entry.action, entry.subject) for entry in rows(house, AuditEntry)] == [
        ("test", "sign_in.link_made", "finance@operator.example"),
        ("finance@operator.example", "person.signed_in", "finance@operator.example"),
    ]
