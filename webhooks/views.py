"""`POST /webhooks/stripe`: raw bytes in, the signature checked before anything is believed, 200 after the commit."""

import time

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import RequestEntityTooLarge

from billing import gateway
from billing.errors import Refused
from billing.signature import MOST_BYTES
from tenants.db import OPERATOR
from tenants.house import House
from webhooks import inbox

blueprint = Blueprint("webhooks", __name__)


@blueprint.post("/webhooks/stripe")
def stripe() -> Response:
    """An event of the operator's account, or of a connected one. Anything that Stripe did not sign is a 400."""
    house: House = current_app.extensions["house"]
    request.max_content_length = MOST_BYTES
    try:
        raw = request.get_data(cache=False)
    except RequestEntityTooLarge:
        return _said(413, f"An event has at most {MOST_BYTES:,} bytes.")
    if not house.settings.stripe_webhook_secrets:
        return _said(503, "No webhook secret is set: set STRIPE_WEBHOOK_SECRET.")
    try:
        event = gateway.verify(
            raw,
            request.headers.get("Stripe-Signature", ""),
            house.settings.stripe_webhook_secrets,
            int(time.time()),  # signatures are of the real time, whatever the business's clock says
        )
    except Refused as refusal:
        return _said(refusal.status, refusal.message)
    with house.database.work(OPERATOR) as session:
        new = inbox.receive(session, event, live=house.settings.live)
    return _said(200, "kept" if new else "known")


def _said(status: int, sentence: str) -> Response:
    return Response(f"{sentence}\n", status, mimetype="text/plain")
