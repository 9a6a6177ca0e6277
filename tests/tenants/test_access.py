"""Every route is guarded or public by name; guards let in whom they name; every answer carries the same headers."""

import pytest
from flask import Blueprint, Flask, request
from flask.testing import FlaskClient

from tenants import access
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Agency, Member
from tests.pages import BLUEPRINTS
from tests.web import app_of, browser, house_of, link_for, link_for_customer, send

rooms = Blueprint("rooms", __name__)
PEOPLE = ["nobody", "finance", "approver", "auditor", "agency-admin", "agency-finance", "customer"]
STAFF = {"finance", "approver", "auditor"}


@rooms.get("/rooms/staff")
@access.staff()
def staff_room() -> str:
    return access.person().name


@rooms.post("/rooms/finance")
@access.staff("finance")
def finance_room() -> str:
    return access.person().name


@rooms.get("/rooms/agency")
@access.agency_member("agency-admin")
def agency_room() -> str:
    return access.person().name


@rooms.get("/rooms/customer")
@access.customer
def customer_room() -> str:
    return access.person().customer_id or ""


@rooms.get("/rooms/broken")
@access.staff()
def broken_room() -> str:
    raise RuntimeError("a secret detail")


@rooms.route("/rooms/numbered/<int:number>/<name>", methods=["GET", "POST"])
@access.agency_member()
def numbered_room(number: int, name: str) -> str:
    return f"{number} {name} {request.values.get('word', '')}"


@pytest.fixture
def house(db: Database) -> House:
    return house_of(db)


@pytest.fixture
def browsers(house: House) -> dict[str, FlaskClient]:
    """One signed-in browser per kind of person, on an app that has nothing but the rooms above."""
    app = app_of(house, rooms)
    with house.database.work(OPERATOR) as session:
        agency = Agency(slug="acme", name="Acme")
        session.add(agency)
        session.flush()
        members = [
            Member(email=f"{role}@x.example", role=role, agency_id=None if role in STAFF else agency.id)
            for role in PEOPLE[1:-1]
        ]
        session.add_all(members)
    found = {member.role: browser(app, link_for(house, member)) for member in members}
    return found | {"customer": browser(app, link_for_customer(house, agency.id, "cus_1")), "nobody": browser(app)}


def test_every_route_is_guarded_or_public_by_name(house: House) -> None:
    app = app_of(house, *BLUEPRINTS)
    endpoints = {rule.endpoint for rule in app.url_map.iter_rules()}
    unguarded = {name for name in endpoints if not hasattr(app.view_functions[name], "guard")}
    assert unguarded - access.PUBLIC == set(), "neither guarded nor in access.PUBLIC"
    assert access.PUBLIC - endpoints == set(), "public by name, but there is no such route"
    assert {name for name in access.PUBLIC if hasattr(app.view_functions[name], "guard")} == set()
    assert len(endpoints - access.PUBLIC) > 40


@pytest.mark.parametrize(
    ("path", "let_in"),
    [
        ("/rooms/staff", STAFF),
        ("/rooms/agency", {"agency-admin"}),
        ("/rooms/customer", {"customer"}),
    ],
)
def test_guards_let_in_whom_they_name(browsers: dict[str, FlaskClient], path: str, let_in: set[str]) -> None:
    expected = {who: 200 if who in let_in else 401 if who == "nobody" else 403 for who in PEOPLE}
    assert {who: browsers[who].get(path).status_code for who in PEOPLE} == expected


def test_a_form_without_its_token_is_refused_before_anything_else(browsers: dict[str, FlaskClient]) -> None:
    answer = browsers["finance"].post("/rooms/finance")
    assert answer.status_code == 400
    assert "Go back and send it again" in answer.text


def test_a_form_that_another_site_sent_is_refused(house: House, browsers: dict[str, FlaskClient]) -> None:
    answer = browsers["finance"].post("/rooms/finance", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 400
    assert "another site" in answer.text


def test_a_cookie_that_was_made_up_is_nobody(browsers: dict[str, FlaskClient]) -> None:
    browsers["nobody"].set_cookie("sign_in", "0" * 43)
    assert browsers["nobody"].get("/rooms/staff").status_code == 401


def test_every_answer_has_the_headers_and_private_ones_are_not_stored(browsers: dict[str, FlaskClient]) -> None:
    for path in ("/", "/rooms/staff", "/nowhere", "/healthz"):
        headers = browsers["finance"].get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert len(headers["X-Request-Id"]) == 16


def test_a_bug_says_nothing_but_the_requests_name(
    browsers: dict[str, FlaskClient], caplog: pytest.LogCaptureFixture
) -> None:
    answer = browsers["finance"].get("/rooms/broken")
    assert answer.status_code == 500
    assert "a secret detail" not in answer.text
    name = answer.headers["X-Request-Id"]
    assert name in answer.text
    assert name in caplog.text
    assert "a secret detail" in caplog.text


def test_who_asks_for_json_is_refused_in_json(browsers: dict[str, FlaskClient]) -> None:
    answer = browsers["nobody"].get("/rooms/staff", headers={"Accept": "application/json"})
    assert answer.mimetype == "application/problem+json"
    assert answer.json is not None
    assert answer.json["code"] == "not_signed_in"


def test_a_wrong_method_says_which_are_right(browsers: dict[str, FlaskClient]) -> None:
    answer = browsers["finance"].delete("/rooms/staff")
    assert answer.status_code in (400, 405)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{'9' * 18}/ann?word=yes", 200),
        (f"{'9' * 19}/ann", 404),
        (f"{'9' * 5_000}/ann", 404),
        ("-1/ann", 404),
        ("%D9%A3/ann", 404),
        ("1/ann%00", 400),
        ("1/ann?word=a%00b", 400),
        ("1/ann?word=yes&word=%00", 400),
    ],
    ids=lambda part: part[:8] + part[-8:] if isinstance(part, str) else "",
)
def test_what_no_row_can_be_called_is_refused_before_anything_looks_for_it(
    browsers: dict[str, FlaskClient], path: str, status: int
) -> None:
    assert browsers["agency-admin"].get(f"/rooms/numbered/{path}").status_code == status


def test_a_form_with_a_character_that_is_none_is_refused(browsers: dict[str, FlaskClient]) -> None:
    room = "/rooms/numbered/1/ann"
    said = [send(browsers["agency-admin"], "/", room, {"word": word}).status_code for word in ("yes", "a\0b")]
    assert said == [200, 400]


def test_readiness_is_the_databases(house: House) -> None:
    client: FlaskClient = app_of(house).test_client()
    assert client.get("/healthz").json == {"status": "ok"}
    assert client.get("/readyz").json == {"status": "ready"}
    gone: Flask = app_of(house_of(Database("postgresql://outage_app@127.0.0.1:1/none")))
    answer = gone.test_client().get("/readyz")
    assert (answer.status_code, answer.json) == (
        503,
        {"status": "not ready", "reason": "The database does not answer."},
    )
