"""Guards: who may open a page. They believe the sign-in's row and nothing that the browser says about itself."""

import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

from flask import current_app, g, request

from tenants import audit, people
from tenants.db import OPERATOR
from tenants.house import House
from tenants.people import Person

View = TypeVar("View", bound=Callable[..., Any])

PUBLIC: Final = frozenset(
    {
        "people.welcome",  # says how to sign in
        "people.link",  # asks whether to use a link up, which proves itself by its token
        "people.sign_in",  # uses it up
        "people.sign_out",  # ends the sign-in whose cookie it was sent with, and nobody else's
        "web.healthz",  # whatever watches the process has no sign-in; it learns nothing of what is inside
        "web.readyz",
        "web.metrics",  # counts, and no names
        "portal.static",  # style sheets and scripts
        "status.page",  # what is published is for everybody
        "status.document",
        "status.feed",
        "webhooks.stripe",  # signed by Stripe instead
        "webhooks.stripe_of_agency",
        "webhooks.monitor",  # proves itself by a secret
    }
)
"""Every endpoint that asks nobody who they are. A route that is neither here nor guarded fails a test."""


class NotSignedIn(Exception):
    """Nobody is asking, or no longer: sign in."""

    status = 401
    code = "not_signed_in"
    message = "You are not signed in, or not any more. Open a new sign-in link."


class NotYours(Exception):
    """Somebody else may open this page: ask them."""

    status = 403
    code = "not_yours"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def house() -> House:
    """The running program that this request was sent to."""
    found: House = current_app.extensions["house"]
    return found


def cookie_name(secure: bool) -> str:
    """With `__Host-` a browser takes it over HTTPS only, from this very host, for all of it."""
    return "__Host-sign_in" if secure else "sign_in"


def is_secure(found: House) -> bool:
    """Whether people reach us over HTTPS, whatever a proxy in front of us speaks to us."""
    return found.settings.public_url.startswith("https:")


def secret_of_browser() -> str:
    """The sign-in's secret that this browser keeps; empty when it has none."""
    return request.cookies.get(cookie_name(is_secure(house())), "")


def asking() -> Person | None:
    """Who sent this request; looked up once per request."""
    if "person" not in g:
        secret = secret_of_browser()
        g.person = None
        if secret:
            with house().database.work(OPERATOR) as session:
                g.person = people.asking(session, secret)
    found: Person | None = g.person
    return found


def person() -> Person:
    """Who sent this request, behind a guard."""
    found = asking()
    if found is None:
        raise NotSignedIn
    return found


def staff(*roles: str) -> Callable[[View], View]:
    """Let the operator's people in: all of them, or only those with one of these roles."""
    allowed = " or ".join(roles)
    sentence = f"Only {allowed} may do this." if roles else "This page is for the operator's staff."
    return _guard(
        f"staff:{'|'.join(roles) or '*'}", sentence, lambda who: who.is_staff and (not roles or who.role in roles)
    )


def agency_member(*roles: str) -> Callable[[View], View]:
    """Let an agency's people in: all of them, or only those with one of these roles."""
    return _guard(
        f"agency:{'|'.join(roles) or '*'}",
        "This page is for an agency's own people.",
        lambda who: who.is_agency_member and (not roles or who.role in roles),
    )


def customer(view: View) -> View:
    """Let customers in; the view shows them what is theirs and nothing else."""
    return _guard("customer", "This page is for customers.", lambda who: who.customer_id is not None)(view)


def noted(
    action: str, of: str = "incident_id", otherwise: str = "new", origin: str = "console"
) -> Callable[[View], View]:
    """Above a guard: whoever is denied this, by the guard or by the view, leaves an audit entry.

    Its subject is what the address, or the form, calls `of`.
    """

    def noting(view: View) -> View:
        @functools.wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            named = kwargs.get(of, request.form.get(of, otherwise))
            subject = "".join(sign for sign in str(named) if sign.isprintable())[:80]
            with audit.refusals(house().database, person().name, origin, action, subject):
                return view(*args, **kwargs)

        checked.noted = action  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return noting


def _guard(name: str, sentence: str, lets_in: Callable[[Person], bool]) -> Callable[[View], View]:
    def guarded(view: View) -> View:
        @functools.wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            who = person()
            if not lets_in(who):
                current_app.logger.warning("refused %s at %s, which is for %s", who.role, request.endpoint, name)
                raise NotYours(sentence)
            return view(*args, **kwargs)

        checked.guard = name  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return guarded
