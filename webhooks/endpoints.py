"""Where agencies want to be told: endpoints added, given new secrets, disabled and enabled, all of it audited."""

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import Conflict, NotAllowed, NotFound
from billing.windows import iso
from tenants import audit
from tenants.db import after_commit
from tenants.models import Agency, Member
from webhooks import addresses, notices
from webhooks.addresses import Network
from webhooks.models import Delivery, Notice, WebhookEndpoint, WebhookSecret

OVERLAP: Final = timedelta(hours=24)
"""How long a secret that was replaced goes on signing beside the new one."""
MOST: Final = 10
"""Endpoints of one agency."""
DELIVERY_STATES: Final = ("queued", "sending", "delivered", "failed", "withdrawn")


def add(
    session: Session, agency: Agency, url: str, by: Member, origin: str, own_networks: Sequence[Network]
) -> tuple[WebhookEndpoint, str]:
    """A new endpoint and its secret, which is shown this once. Raises `BadRequest`, `Unavailable`, `Conflict`.

    It is told what happens from now on.
    """
    may_change(agency, by)
    addresses.target(url, own_networks)
    session.execute(sa.select(Agency.id).where(Agency.id == agency.id).with_for_update(key_share=True))
    there = session.scalars(sa.select(WebhookEndpoint).where(WebhookEndpoint.agency_id == agency.id)).all()
    if any(one.url == url for one in there):
        raise Conflict(f"{agency.slug} has an endpoint at this address already.")
    if len(there) >= MOST:
        raise Conflict(f"{agency.slug} has {MOST} endpoints already: one that is no longer needed can be disabled.")
    if not any(one.state == "enabled" for one in there):
        notices.forget_the_past(session, agency.id)
    endpoint = WebhookEndpoint(agency_id=agency.id, url=url, added_by=by.id)
    session.add(endpoint)
    session.flush()
    secret = _new_secret(session, endpoint, 1)
    audit.record(
        session, by.email, origin, "webhook.added", str(endpoint.id), agency_id=agency.id, after={"url": url}
    )  # fmt: skip
    return endpoint, secret


def rotate(session: Session, endpoint_id: int, by: Member, origin: str) -> tuple[WebhookEndpoint, str]:
    """A new secret, shown this once. Those before it go on signing for `OVERLAP`."""
    endpoint = _taken(session, endpoint_id, by)
    last = session.scalar(
        sa.select(sa.func.max(WebhookSecret.no)).where(WebhookSecret.endpoint_id == endpoint.id)
    ) or 0  # fmt: skip
    session.execute(
        sa.update(WebhookSecret)
        .where(WebhookSecret.endpoint_id == endpoint.id, WebhookSecret.until.is_(None))
        .values(until=sa.func.clock_timestamp() + OVERLAP)
    )
    secret = _new_secret(session, endpoint, last + 1)
    audit.record(
        session, by.email, origin, "webhook.secret_rotated", str(endpoint.id), agency_id=endpoint.agency_id,
        after={"secret": last + 1},
    )  # fmt: skip
    return endpoint, secret


def disable(session: Session, endpoint_id: int, by: Member, origin: str, reason: str = "") -> WebhookEndpoint:
    """Tell it nothing more; what waits for it is withdrawn. Raises `Conflict` where it is disabled already."""
    endpoint = _taken(session, endpoint_id, by)
    if endpoint.state == "disabled":
        raise Conflict("This endpoint is disabled already.")
    _disable(session, endpoint, reason.strip() or f"{by.email} disabled it.", by.email, origin)
    return endpoint


def disable_gone(session: Session, endpoint: WebhookEndpoint) -> None:
    """It answered 410 Gone."""
    if endpoint.state == "enabled":
        _disable(session, endpoint, "It answered 410: it wants to be told nothing more.", "engine", "worker")


def enable(
    session: Session, endpoint_id: int, by: Member, origin: str, own_networks: Sequence[Network]
) -> WebhookEndpoint:
    """Tell it what happens from now on. Raises `Conflict` where it is enabled already."""
    endpoint = _taken(session, endpoint_id, by)
    if endpoint.state == "enabled":
        raise Conflict("This endpoint is enabled already.")
    addresses.target(endpoint.url, own_networks)
    others = sa.exists().where(WebhookEndpoint.agency_id == endpoint.agency_id, WebhookEndpoint.state == "enabled")
    if not session.scalar(sa.select(others)):
        notices.forget_the_past(session, endpoint.agency_id)
    before = {"state": endpoint.state, "reason": endpoint.reason}
    endpoint.state, endpoint.reason, endpoint.failing_since = "enabled", None, None
    audit.record(
        session, by.email, origin, "webhook.enabled", str(endpoint.id), agency_id=endpoint.agency_id, before=before
    )
    after_commit(session, "deliveries.derive", endpoint.id)
    return endpoint


def listed(session: Session, slug: str | None = None) -> list[dict[str, Any]]:
    """Every endpoint, of one agency or of all, and how many deliveries of it are in each state."""
    counted = sa.select(Delivery.endpoint_id, Delivery.state, sa.func.count()).group_by(
        Delivery.endpoint_id, Delivery.state
    )
    counts: dict[int, dict[str, int]] = {}
    for endpoint_id, state, count in session.execute(counted):
        counts.setdefault(endpoint_id, {})[state] = count
    wanted = (
        sa.select(WebhookEndpoint, Agency.slug)
        .join(Agency, Agency.id == WebhookEndpoint.agency_id)
        .order_by(Agency.slug, WebhookEndpoint.id)
    )
    if slug is not None:
        wanted = wanted.where(Agency.slug == slug)
    return [
        {
            "id": endpoint.id,
            "agency": of,
            "url": endpoint.url,
            "state": endpoint.state,
            "reason": endpoint.reason,
            "failing_since": iso(endpoint.failing_since) if endpoint.failing_since else None,
            "deliveries": dict.fromkeys(DELIVERY_STATES, 0) | counts.get(endpoint.id, {}),
        }
        for endpoint, of in session.execute(wanted)
    ]


def sent(
    session: Session, *, state: str | None = None, endpoint_id: int | None = None, before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:  # fmt: skip
    """The next `limit` deliveries, newest first, beginning below the one with id `before`. Raises `NotFound`."""
    wanted = (
        sa.select(Delivery, Notice, WebhookEndpoint.url, Agency.slug)
        .join(Notice, sa.and_(Notice.agency_id == Delivery.agency_id, Notice.id == Delivery.notice_id))
        .join(WebhookEndpoint, WebhookEndpoint.id == Delivery.endpoint_id)
        .join(Agency, Agency.id == Delivery.agency_id)
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    if state is not None:
        wanted = wanted.where(Delivery.state == state)
    if endpoint_id is not None:
        if session.scalar(sa.select(WebhookEndpoint.id).where(WebhookEndpoint.id == endpoint_id)) is None:
            raise NotFound("There is no such endpoint.")
        wanted = wanted.where(Delivery.endpoint_id == endpoint_id)
    if before is not None:
        wanted = wanted.where(Delivery.id < before)
    return [
        {
            "id": delivery.id,
            "agency": slug,
            "endpoint": delivery.endpoint_id,
            "url": url,
            "type": notice.type,
            "about": notice.about,
            "incident": notice.incident_id,
            "webhook_id": notice.uid,
            "state": delivery.state,
            "status": delivery.status,
            "attempts": delivery.attempt_no,
            "made_at": iso(notice.made_at),
            "due_at": iso(delivery.due_at) if delivery.state in ("queued", "sending") else None,
            "delivered_at": iso(delivery.delivered_at) if delivery.delivered_at else None,
            "reason": delivery.reason,
        }
        for delivery, notice, url, slug in session.execute(wanted)
    ]


def may_change(agency: Agency, by: Member) -> None:
    """Raises `NotAllowed` for whoever has no say in whom an agency tells."""
    if by.role == "finance" or (by.role == "agency-admin" and by.agency_id == agency.id):
        return
    raise NotAllowed(
        f"{by.email} is {by.role}: {agency.slug}'s webhooks are up to its admin or the operator's finance."
    )


def _taken(session: Session, endpoint_id: int, by: Member) -> WebhookEndpoint:
    endpoint = session.scalar(sa.select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id).with_for_update())
    if endpoint is None:
        raise NotFound("There is no such endpoint.")
    may_change(session.get_one(Agency, endpoint.agency_id), by)
    return endpoint


def _new_secret(session: Session, endpoint: WebhookEndpoint, no: int) -> str:
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    session.add(WebhookSecret(agency_id=endpoint.agency_id, endpoint_id=endpoint.id, no=no, secret=secret))
    session.flush()
    return secret


def _disable(session: Session, endpoint: WebhookEndpoint, reason: str, actor: str, origin: str) -> None:
    endpoint.state, endpoint.reason = "disabled", reason
    session.execute(
        sa.update(Delivery)
        .where(Delivery.endpoint_id == endpoint.id, Delivery.state == "queued")
        .values(state="withdrawn", reason="Its endpoint was disabled.")
    )
    audit.record(
        session, actor, origin, "webhook.disabled", str(endpoint.id), agency_id=endpoint.agency_id,
        after={"reason": reason},
    )  # fmt: skip
