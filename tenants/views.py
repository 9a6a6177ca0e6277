"""The door: `/`, one-time sign-in links, and signing out."""

import flask
from flask import Blueprint, redirect, render_template
from werkzeug.wrappers import Response

from tenants import access, people
from tenants.db import OPERATOR
from tenants.people import Person

blueprint = Blueprint("people", __name__, template_folder="templates")


def home_of(person: Person) -> str:
    """Where somebody starts."""
    if person.is_staff:
        return "/console"
    return "/portal" if person.customer_id is not None else "/"


@blueprint.get("/")
def welcome() -> Response | str:
    """Whoever is signed in goes to their own pages; others read how to sign in."""
    person = access.asking()
    if person is not None and home_of(person) != "/":
        return redirect(home_of(person), 303)
    return render_template("tenants/welcome.html", person=person)


@blueprint.get("/sign-in/<token>")
def link(token: str) -> str:
    """Ask before the link is used up: mail programs open links on their own, people press buttons."""
    house = access.house()
    with house.database.work(OPERATOR) as session:
        bearer = people.bearer(session, token, house.settings.secret_key)
    return render_template("tenants/sign_in.html", bearer=bearer, token=token)


@blueprint.post("/sign-in/<token>")
def sign_in(token: str) -> Response:
    """Use the link up. The browser gets a new secret, and a sign-in that it had before is over.

    Forms that somebody else left open in it are not sent in this person's name.
    """
    house = access.house()
    before = access.secret_of_browser()
    with house.database.work(OPERATOR) as session:
        secret, person = people.sign_in(session, token, house.settings.secret_key, "web")
        if before:
            people.sign_out(session, before)
    if flask.session.get("whose") != person.name:
        flask.session.clear()
        flask.session["whose"] = person.name
    secure = access.is_secure(house)
    answer = redirect(home_of(person), 303)
    answer.set_cookie(
        access.cookie_name(secure),
        secret,
        max_age=int(people.ABSOLUTE.total_seconds()),
        path="/",
        secure=secure,
        httponly=True,
        samesite="Lax",
    )
    return answer


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """End this browser's sign-in at once, on the server."""
    house = access.house()
    secret = access.secret_of_browser()
    if secret:
        with house.database.work(OPERATOR) as session:
            people.sign_out(session, secret)
    secure = access.is_secure(house)
    answer = redirect("/", 303)
    answer.delete_cookie(access.cookie_name(secure), path="/", secure=secure, httponly=True, samesite="Lax")
    return answer
