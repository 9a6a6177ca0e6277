"""The Flask app: what every page has in common. Headers, forms' tokens, refusals as sentences, and signs of life."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from flask import Blueprint, Flask, abort, current_app, g, jsonify, render_template, request
from flask_wtf import CSRFProtect
from flask_wtf.csrf import CSRFError
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Metric, generate_latest
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import IntegerConverter
from werkzeug.wrappers import Response

from tenants import access, upgrade, views
from tenants.house import House

BIGGEST_REQUEST: Final = 2 * 1024 * 1024  # bytes; Stripe's events are well below
FORM_LASTS: Final = 12 * 3600  # seconds; as long as a sign-in may stand
READY: Final = "ready"
"""Where the program says, in `app.extensions`, what else keeps it from being ready: functions of the house."""
METRICS: Final = "metrics"
"""Where the program says, in `app.extensions`, what it measures: functions of the house, to Prometheus's metrics."""
SIGNED_BY_THEIR_SENDER: Final = "webhooks"
"""The blueprint whose POSTs no browser sends: they prove where they come from, and look at no cookie."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SENTENCES: Final = {
    400: "The request could not be read.",
    404: "There is nothing here, or nothing for you to see.",
    405: "This address does not take that kind of request.",
    413: "That was too much at once.",
}

checks = Blueprint("web", __name__)


class RowNumber(IntegerConverter):
    """`<int:…>` in an address: as many digits as a row's number has at most, and no others."""

    regex = "[0-9]{1,18}"


def make_app(house: House, blueprints: Sequence[Blueprint]) -> Flask:
    """The app with these blueprints, the sign-in pages and the checks of `/healthz`, `/readyz` and `/metrics`."""
    app = Flask("tenants", static_folder=None)
    secure = access.is_secure(house)
    app.extensions["house"] = house
    app.config.update(
        SECRET_KEY=house.settings.secret_key,
        SESSION_COOKIE_NAME="__Host-form" if secure else "form",
        SESSION_COOKIE_SECURE=secure,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=BIGGEST_REQUEST,
        WTF_CSRF_TIME_LIMIT=FORM_LASTS,
    )
    app.url_map.converters["int"] = RowNumber
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.before_request(_named)
    app.before_request(_refuse_other_sites)
    app.before_request(_refuse_what_is_no_text)
    csrf = CSRFProtect(app)
    app.after_request(_with_headers)
    app.context_processor(lambda: {"person": g.get("person"), "request_id": g.get("request_id", "")})
    app.register_error_handler(Exception, _refused)
    for blueprint in (checks, views.blueprint, *blueprints):
        app.register_blueprint(blueprint)
        if blueprint.name == SIGNED_BY_THEIR_SENDER:
            csrf.exempt(blueprint)
    return app


@checks.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@checks.get("/readyz")
def readyz() -> tuple[dict[str, str], int]:
    """The database answers and has the tables that this program needs, and whatever else `READY` asks."""
    house = access.house()
    try:
        missing = upgrade.behind(house.database)
        for not_ready in current_app.extensions.get(READY, ()):
            missing = missing or not_ready(house)
    except OperationalError:
        missing = "The database does not answer."
    return ({"status": "not ready", "reason": missing}, 503) if missing else ({"status": "ready"}, 200)


@checks.get("/metrics")
def metrics() -> Response:
    """What `METRICS` measures, for Prometheus. 503 while the database does not answer."""
    try:
        told = generate_latest(Measured(access.house()))
    except OperationalError:
        return Response("The database does not answer.\n", 503, mimetype="text/plain")
    return Response(told, content_type=CONTENT_TYPE_PLAIN_0_0_4)


@dataclass(frozen=True)
class Measured:
    """What `METRICS` measures, as Prometheus's library asks for it: anew each time, and nothing of this process."""

    house: House

    def collect(self) -> Iterator[Metric]:
        for measure in current_app.extensions.get(METRICS, ()):
            yield from measure(self.house)


def _named() -> None:
    g.request_id = uuid.uuid4().hex[:16]


def _refuse_other_sites() -> None:
    if request.method not in ("GET", "HEAD", "OPTIONS") and request.headers.get("Sec-Fetch-Site") == "cross-site":
        abort(400, "This form was sent from another site.")


def _refuse_what_is_no_text() -> None:
    """The database takes no NUL. What is signed by its sender is read by whoever checks that."""
    words = [*(request.view_args or {}).values(), *chain.from_iterable(request.args.listvalues())]
    if request.blueprint != SIGNED_BY_THEIR_SENDER:
        words += chain.from_iterable(request.form.listvalues())
    if any("\0" in str(word) for word in words):
        abort(400, "There is a character in it that is none: take it out.")


def _with_headers(answer: Response) -> Response:
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    if access.is_secure(access.house()):
        answer.headers.setdefault("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
    if "Cache-Control" not in answer.headers:
        answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Request-Id"] = g.get("request_id", "")
    return answer


def _refused(error: Exception) -> Any:
    """A refusal with its own sentence; for anything else a page that says nothing, and the cause in the log."""
    if isinstance(error, CSRFError):
        return _said(400, "form_expired", "This form is too old or was not sent from here. Go back and send it again.")
    if isinstance(error, HTTPException):
        if error.code is None or error.code < 400:  # a redirect that the router raised
            return error
        own_words = error.description if error.description != type(error).description else None
        sentence = (error.code == 400 and own_words) or SENTENCES.get(error.code) or error.name
        answer = _said(error.code, error.name.lower().replace(" ", "_"), sentence)
        answer.headers.extend(
            (name, value) for name, value in error.get_headers() if name in ("Allow", "Retry-After", "Location")
        )
        return answer
    status, code = getattr(error, "status", None), getattr(error, "code", None)
    message = getattr(error, "message", None)
    if isinstance(status, int) and isinstance(code, str) and isinstance(message, str):
        return _said(status, code, message)
    current_app.logger.error("request %s failed", g.get("request_id"), exc_info=error)
    return _said(500, "internal_error", "Something went wrong on our side. It was written down, and nothing is lost.")


def _said(status: int, code: str, sentence: str) -> Response:
    if request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json":
        answer: Response = jsonify(status=status, code=code, detail=sentence, request_id=g.get("request_id"))
        answer.headers["Content-Type"] = "application/problem+json"
    else:
        # Somebody else's thing and one that never was get the same bytes: the request's name is in its header only.
        page = render_template("tenants/refused.html", status=status, sentence=sentence, show_id=status != 404)
        answer = Response(page, mimetype="text/html")
    answer.status_code = status
    return answer
