"""`POST /webhooks/…`: raw bytes in, who sent them checked before anything is believed, 200 after the commit."""

import socket
import threading
import time
from dataclasses import replace
from typing import Final

import sqlalchemy as sa
from flask import Blueprint, Response, current_app, request
from sqlalchemy.orm import Session
from werkzeug.exceptions import RequestEntityTooLarge

from billing import gateway
from billing.answers import BadEvent
from billing.errors import NotFound, Refused, Unavailable
from billing.facts import EventFact
from billing.signature import MOST_BYTES, document
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency
from webhooks import inbox, monitors
from webhooks.deadlines import Deadlines

blueprint = Blueprint("webhooks", __name__)

WHOLE_WITHIN: Final = 10.0
"""Seconds in which the whole body has to be here."""
PAGERDUTY: Final = "X-PagerDuty-Signature"
_READING: Final = Deadlines()


@blueprint.post("/webhooks/stripe")
def stripe() -> Response:
    """An event of the operator's account, or of a connected one. Anything that Stripe did not sign is a 400."""
    return _taken(None)


@blueprint.post("/webhooks/stripe/<agency>")
def stripe_of_agency(agency: str) -> Response:
    """An event of this agency's own account, and of no other."""
    return _taken(agency)


@blueprint.post("/webhooks/monitors/<token>")
def monitor(token: str) -> Response:
    """What a monitor sees. It opens or closes a suspected incident, and moves no money."""
    house: House = current_app.extensions["house"]
    now = house.clock.now()
    try:
        raw = _whole_body()
        with house.database.work(OPERATOR) as session:
            known = monitors.called(session, token)
            authorization, signed = (request.headers.get(name, "") for name in ("Authorization", PAGERDUTY))
            monitors.proven(known, raw, authorization, signed)
            count = monitors.receive(session, now, known, document(raw))
    except RequestEntityTooLarge:
        return _said(413, f"A monitor sends at most {MOST_BYTES:,} bytes.")
    except TimeoutError:
        return _said(408, f"It has to be here within {WHOLE_WITHIN:.0f} seconds.")
    except Refused as refusal:
        return _said(refusal.status, refusal.message)
    return _said(200, f"{count:,} taken")


def _taken(slug: str | None) -> Response:
    house: House = current_app.extensions["house"]
    try:
        event = _signed(house, _whole_body(), slug)
        with house.database.work(OPERATOR) as session:
            if slug is not None:
                event = replace(event, account=_account_of(house, session, slug, event))
            new = inbox.receive(session, event, live=house.settings.live)
    except RequestEntityTooLarge:
        return _said(413, f"An event has at most {MOST_BYTES:,} bytes.")
    except TimeoutError:
        return _said(408, f"An event has to be here within {WHOLE_WITHIN:.0f} seconds.")
    except Refused as refusal:
        return _said(refusal.status, refusal.message)
    return _said(200, "kept" if new else "known")


def _whole_body() -> bytes:
    """The raw bytes. Raises `TimeoutError` for a sender who takes too long, `RequestEntityTooLarge` for one who sends
    too much, and `BadEvent` for one who hangs up."""
    request.max_content_length = MOST_BYTES + 1  # chunks are cut off there, without a word
    connection: socket.socket | None = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    late = threading.Event()

    def give_up() -> None:
        late.set()
        if connection is not None:
            connection.shutdown(socket.SHUT_RD)  # whoever waits for the rest reads the end instead

    try:
        with _READING.within(WHOLE_WITHIN, give_up):
            raw = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise
    except Exception as error:  # each server has errors of its own for a body that ends early or in broken chunks
        if late.is_set():
            raise TimeoutError from error
        raise BadEvent("The event ended before it was whole.") from error
    if len(raw) > MOST_BYTES:
        raise RequestEntityTooLarge
    return raw


def _signed(house: House, raw: bytes, slug: str | None) -> EventFact:
    secrets = house.settings.stripe_webhook_secrets
    if slug is not None:
        secrets = house.settings.agency_webhook_secrets.get(slug, secrets)
    if not secrets:
        raise Unavailable("No webhook secret is set: set STRIPE_WEBHOOK_SECRET.")
    header = request.headers.get("Stripe-Signature", "")
    # Signatures are of the real time, whatever the business's clock says.
    return gateway.verify(raw, header, secrets, int(time.time()))


def _account_of(house: House, session: Session, slug: str, event: EventFact) -> str:
    """The agency's Stripe account, if the event is of it. An endpoint that the agency made itself, and whose secret we
    have, names none: its events are all of that account."""
    named = sa.select(Agency.stripe_account).where(Agency.slug == slug)
    account = session.scalar(named) if slug.isprintable() else None
    if account is None:
        raise NotFound("No agency of this name has a Stripe account of its own.")
    if event.account != account and not (event.account == "" and slug in house.settings.agency_webhook_secrets):
        raise BadEvent("The event is of another account than this agency's.")
    return account


def _said(status: int, sentence: str) -> Response:
    return Response(f"{sentence}\n", status, mimetype="text/plain")
