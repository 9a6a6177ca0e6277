"""Send notices to agencies' endpoints, signed as Standard Webhooks says, until each is taken or ten attempts failed.

Each call stands between two transactions: the first takes the delivery for a while, the second writes what came of it.
Where that was lost, the same notice goes out again under the same `webhook-id`, by which its receiver knows the copy.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook

from billing.errors import Conflict, NotFound, Refused
from tenants import audit
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from tenants.models import Agency, Member
from webhooks import addresses, endpoints
from webhooks.addresses import Network
from webhooks.calling import Answer, call
from webhooks.models import Delivery, Notice, WebhookEndpoint, WebhookSecret

WAITING: Final = ("queued", "sending")
LEASE: Final = timedelta(seconds=120)
AT_ONCE: Final = 8
AGAIN: Final = (
    timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=5),
    timedelta(hours=10), timedelta(hours=14), timedelta(hours=20), timedelta(hours=24),
)  # fmt: skip
"""Waits between attempts, as Standard Webhooks recommends: ten of them within some 75 hours."""
LONGEST_WAIT: Final = timedelta(hours=24)
"""However long a receiver asks us to stay away."""
GONE: Final = 410
TOO_MANY: Final = (429, 503)
"""Statuses that may say when to come back."""


@dataclass(frozen=True)
class Sealed:
    """A delivery that this worker has to itself until the lease ends."""

    agency_id: int
    id: int
    attempt_no: int
    url: str
    uid: str
    body: str
    secrets: tuple[str, ...]
    at: datetime


def send_due(house: House) -> int:
    """Send some of what is due, and return how much that was; 0: nothing is. Safe to run anywhere, at once.

    An endpoint that does not answer holds up no other one: it is tried with one delivery at a time.
    """
    sealed = house.database.retried(OPERATOR, _claim)
    networks = house.settings.webhook_networks
    with ThreadPoolExecutor(AT_ONCE, "deliver") as pool:
        answers = pool.map(lambda one: _sent(one, networks), sealed)
        for one, answer in zip(sealed, answers, strict=True):
            house.database.retried(OPERATOR, lambda session: _answered(session, one, answer))  # noqa: B023
    return len(sealed)


def oldest_due() -> sa.Select[Any]:
    """When the oldest waiting delivery is or was due, and the time now."""
    waiting = sa.select(sa.func.min(sa.func.greatest(Delivery.due_at, Delivery.lease_until))).where(
        Delivery.state.in_(WAITING)
    )
    return sa.select(waiting.scalar_subquery(), sa.func.clock_timestamp())


def try_again(session: Session, delivery_id: int, by: Member, origin: str) -> Delivery:
    """Queue a delivery again that failed or was withdrawn. Raises `NotFound`, `NotAllowed`, `Conflict`."""
    delivery = session.scalar(sa.select(Delivery).where(Delivery.id == delivery_id).with_for_update())
    if delivery is None:
        raise NotFound("There is no such delivery.")
    endpoints.may_change(session.get_one(Agency, delivery.agency_id), by)
    if delivery.state not in ("failed", "withdrawn"):
        raise Conflict(f"This delivery is {delivery.state}: only one that failed or was withdrawn can be tried again.")
    endpoint = session.scalars(sa.select(WebhookEndpoint).where(WebhookEndpoint.id == delivery.endpoint_id)).one()
    if endpoint.state != "enabled":
        raise Conflict("Its endpoint is disabled: enable it first.")
    before = {"state": delivery.state, "reason": delivery.reason}
    delivery.state, delivery.attempt_no, delivery.due_at = "queued", 0, sa.func.clock_timestamp()
    audit.record(
        session, by.email, origin, "webhook.tried_again", str(delivery.id), agency_id=delivery.agency_id, before=before
    )
    after_commit(session, "deliveries.send", delivery.id)
    return delivery


def signatures(secrets: Sequence[str], uid: str, at: datetime, body: str) -> str:
    """One for each secret, the newest first: while one is replaced by another, whoever knows either can check."""
    return " ".join(Webhook(secret).sign(uid, at, body) for secret in secrets)


def _claim(session: Session) -> list[Sealed]:
    """Take what is due, of several endpoints in turn. Their rows are locked, so that nobody else takes from them."""
    now = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    due = sa.and_(Delivery.state.in_(WAITING), Delivery.due_at <= now)
    free = sa.or_(Delivery.lease_until.is_(None), Delivery.lease_until < now)
    first = (
        sa.select(sa.func.min(Delivery.due_at))
        .where(Delivery.endpoint_id == WebhookEndpoint.id, due, free)
        .scalar_subquery()
    )
    busy = sa.exists().where(Delivery.endpoint_id == WebhookEndpoint.id, Delivery.lease_until >= now)
    found = session.scalars(
        sa.select(WebhookEndpoint)
        .where(
            WebhookEndpoint.state == "enabled", first.is_not(None),
            sa.or_(WebhookEndpoint.failing_since.is_(None), ~busy),
        )
        .order_by(first, WebhookEndpoint.id)
        .limit(AT_ONCE)
        .with_for_update(skip_locked=True, of=WebhookEndpoint)
    ).all()  # fmt: skip
    sealed: list[Sealed] = []
    for endpoint in found:
        share = 1 if endpoint.failing_since else max(1, AT_ONCE // len(found))
        taken = session.execute(
            sa.select(Delivery, Notice.uid, Notice.body)
            .join(Notice, sa.and_(Notice.agency_id == Delivery.agency_id, Notice.id == Delivery.notice_id))
            .where(Delivery.endpoint_id == endpoint.id, due, free)
            .order_by(Delivery.due_at, Delivery.id)
            .limit(share)
            .with_for_update(skip_locked=True, of=Delivery)
        ).all()
        secrets = _secrets(session, endpoint, now)
        for delivery, uid, body in taken:
            delivery.state, delivery.lease_until = "sending", now + LEASE
            delivery.attempt_no += 1
            sealed.append(
                Sealed(delivery.agency_id, delivery.id, delivery.attempt_no, endpoint.url, uid, body, secrets, now)
            )
    return sealed


def _secrets(session: Session, endpoint: WebhookEndpoint, now: datetime) -> tuple[str, ...]:
    return tuple(
        session.scalars(
            sa.select(WebhookSecret.secret)
            .where(
                WebhookSecret.agency_id == endpoint.agency_id, WebhookSecret.endpoint_id == endpoint.id,
                sa.or_(WebhookSecret.until.is_(None), WebhookSecret.until > now),
            )
            .order_by(WebhookSecret.no.desc())
        )
    )  # fmt: skip


def _sent(one: Sealed, networks: Sequence[Network]) -> Answer:
    try:
        target = addresses.target(one.url, networks)
    except Refused as refusal:
        return Answer(None, refusal.message)
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "Outage-Billing",
        "webhook-id": one.uid,
        "webhook-timestamp": str(int(one.at.timestamp())),
        "webhook-signature": signatures(one.secrets, one.uid, one.at, one.body),
    }
    return call(target, headers, one.body.encode())


def _answered(session: Session, one: Sealed, answer: Answer) -> None:
    """What was taken is a fact, whatever the lease says; anything else counts only for whoever holds it."""
    delivery, endpoint = session.execute(
        sa.select(Delivery, WebhookEndpoint)
        .join(WebhookEndpoint, WebhookEndpoint.id == Delivery.endpoint_id)
        .where(Delivery.agency_id == one.agency_id, Delivery.id == one.id)
        .with_for_update()
    ).one()
    now = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    if answer.status is not None and 200 <= answer.status < 300:
        delivery.state, delivery.delivered_at = "delivered", delivery.delivered_at or now
        delivery.status, delivery.reason, delivery.lease_until = answer.status, None, None
        endpoint.failing_since = None
        return
    if delivery.attempt_no != one.attempt_no or delivery.state != "sending":
        return
    delivery.status, delivery.reason, delivery.lease_until = answer.status, _why(answer), None
    endpoint.failing_since = endpoint.failing_since or now
    if answer.status == GONE:
        delivery.state = "failed"
        endpoints.disable_gone(session, endpoint)
    elif delivery.attempt_no > len(AGAIN):
        delivery.state = "failed"
    else:
        delivery.state, delivery.due_at = "queued", now + _wait(delivery.attempt_no, answer)


def _wait(attempt_no: int, answer: Answer) -> timedelta:
    planned = AGAIN[attempt_no - 1]
    if answer.status not in TOO_MANY or answer.retry_after is None:
        return planned
    return max(planned, min(timedelta(seconds=answer.retry_after), LONGEST_WAIT))


def _why(answer: Answer) -> str:
    if answer.status is None:
        return answer.reason or "It could not be reached."
    if 300 <= answer.status < 400:
        return f"It answered {answer.status}: a redirect is not followed; give the endpoint the address that it is at."
    return f"It answered {answer.status}."
