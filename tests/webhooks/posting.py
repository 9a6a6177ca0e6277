"""Events as Stripe posts them, and what the inbox made of them."""

import hmac
import json
import time
from typing import Any

import sqlalchemy as sa
from flask.testing import FlaskClient

from tenants.db import OPERATOR
from tenants.house import House
from tests.billing import stripe_json as made
from webhooks.models import InboxEvent

SECRETS = ("whsec_new", "whsec_old")
PATH = "/webhooks/stripe"


def signature(raw: bytes, secret: str = "whsec_new", at: float | str | None = None) -> str:
    """The v1 signature of `raw` at a time."""
    moment = str(int(time.time()) if at is None else at)
    return hmac.new(secret.encode(), moment.encode() + b"." + raw, "sha256").hexdigest()


def signed(raw: bytes, secret: str = "whsec_new", at: float | None = None) -> str:
    """A header as Stripe writes it."""
    moment = int(time.time() if at is None else at)
    return f"t={moment},v1={signature(raw, secret, moment)}"


def post(client: FlaskClient, event: dict[str, Any], path: str = PATH, **how: Any) -> int:
    raw = json.dumps(event).encode()
    return client.post(path, data=raw, headers={"Stripe-Signature": signed(raw, **how)}).status_code


def about(object: str, id: str, event_id: str = "evt_1", type: str = "some.change", **fields: Any) -> dict[str, Any]:
    return made.event(id=event_id, type=type, data={"object": {"id": id, "object": object}}, **fields)


def kept(house: House) -> list[tuple[str, str]]:
    with house.database.work(OPERATOR) as session:
        found = session.execute(sa.select(InboxEvent.event_id, InboxEvent.state).order_by(InboxEvent.id))
        return [tuple(row) for row in found]


def why(house: House) -> tuple[str, str, str | None]:
    """(account, state, reason) of the only event."""
    with house.database.work(OPERATOR) as session:
        event = session.scalars(sa.select(InboxEvent)).one()
        return event.stripe_account, event.state, event.reason
