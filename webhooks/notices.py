"""From final facts to notices: published updates and the ends of grants, for each agency that wants to be told.

An update or a grant carries what has been announced of it: where that lags, there is something to do. A notice, its
deliveries and that mark are written in one transaction, so that neither a crash nor a second look makes a second one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.models import Platform
from billing.outages import settlements
from billing.outages.models import GRANT_TO_ANNOUNCE, Grant, Incident, IncidentScope, Update
from billing.windows import iso
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from webhooks.models import Delivery, Notice, WebhookEndpoint

MOST: Final = 500
"""Rows of one kind that one transaction takes account of."""
EVERYBODY: Final = 0


def derive_due(house: House) -> bool:
    """Write the notices that are missing. True: something may be left. Safe to run anywhere, any number of times."""
    return house.database.retried(OPERATOR, _derive)


def oldest_due() -> sa.Select[Any]:
    """Since when something has not been announced, and the time now."""
    since = sa.func.least(
        sa.select(sa.func.min(sa.func.coalesce(Grant.settled_at, Grant.created_at)))
        .where(sa.text(GRANT_TO_ANNOUNCE), Grant.agency_id.in_(_listening()))
        .scalar_subquery(),
        sa.select(sa.func.clock_timestamp() - sa.text("interval '1 second'"))
        .where(sa.exists().where(~Update.announced))
        .scalar_subquery(),
    )
    return sa.select(since, sa.func.clock_timestamp())


def forget_the_past(session: Session, agency_id: int) -> None:
    """What has ended before anybody of the agency listened is not announced to whoever begins to."""
    session.execute(
        sa.update(Grant)
        .where(Grant.agency_id == agency_id, sa.text(GRANT_TO_ANNOUNCE))
        .values(announced=Grant.state)
        .execution_options(synchronize_session=False)
    )


def _listening() -> sa.Select[Any]:
    return sa.select(WebhookEndpoint.agency_id).where(WebhookEndpoint.state == "enabled")


def _derive(session: Session) -> bool:
    updates = session.scalars(
        sa.select(Update).where(~Update.announced).order_by(Update.id).limit(MOST).with_for_update(skip_locked=True)
    ).all()
    grants = session.scalars(
        sa.select(Grant)
        .where(sa.text(GRANT_TO_ANNOUNCE), Grant.agency_id.in_(_listening()))
        .order_by(Grant.id)
        .limit(MOST)
        .with_for_update(skip_locked=True)
    ).all()
    written = [*_of_updates(session, updates), *(_of_grant(grant) for grant in grants)]
    for update in updates:
        update.announced = True
    for grant in grants:
        grant.announced = grant.state
    session.flush()
    if written:
        _write(session, written)
        after_commit(session, "deliveries.send", len(written))
    return MOST in (len(updates), len(grants))


def _write(session: Session, notices: Sequence[Mapping[str, Any]]) -> None:
    """The notices, and for each one delivery to every endpoint that its agency has enabled."""
    made = session.execute(
        insert(Notice).on_conflict_do_nothing(constraint="no_notice_twice").returning(Notice.agency_id, Notice.id),
        notices,
    ).all()
    endpoints: dict[int, list[int]] = {}
    for agency_id, endpoint_id in session.execute(
        sa.select(WebhookEndpoint.agency_id, WebhookEndpoint.id).where(WebhookEndpoint.state == "enabled")
    ):
        endpoints.setdefault(agency_id, []).append(endpoint_id)
    deliveries = [
        {"agency_id": agency_id, "notice_id": notice_id, "endpoint_id": endpoint_id}
        for agency_id, notice_id in made
        for endpoint_id in endpoints.get(agency_id, ())
    ]
    if deliveries:
        session.execute(sa.insert(Delivery), deliveries)


def _of_updates(session: Session, updates: Sequence[Update]) -> list[dict[str, Any]]:
    if not updates:
        return []
    concerned = session.execute(
        sa.select(Update, Incident, Platform.slug, WebhookEndpoint.agency_id)
        .join(Incident, Incident.id == Update.incident_id)
        .join(Platform, Platform.id == Incident.platform_id)
        .join(IncidentScope, IncidentScope.incident_id == Incident.id)
        .join(WebhookEndpoint, sa.or_(
            IncidentScope.agency_id == EVERYBODY, IncidentScope.agency_id == WebhookEndpoint.agency_id
        ))
        .where(Update.id.in_([update.id for update in updates]), WebhookEndpoint.state == "enabled")
        .distinct()
        .order_by(Update.id, WebhookEndpoint.agency_id)
    )  # fmt: skip
    return [
        {
            "agency_id": agency_id,
            "type": "incident.updated",
            "about": str(update.id),
            "incident_id": incident.id,
            "body": _body(
                "incident.updated",
                iso(update.published_at),
                {
                    "incident": {
                        "id": incident.id,
                        "state": update.state,
                        "platform": platform,
                        "title": incident.title,
                        "started_at": iso(incident.started_at),
                        "ended_at": iso(incident.ended_at) if incident.ended_at else None,
                        "impact": incident.impact_bp,
                        "money_back_by": iso(settlements.promised_by(session, incident, agency_id)),
                    },
                    "update": {"id": update.id, "body": update.body},
                },
            ),
        }
        for update, incident, platform, agency_id in concerned
    ]


def _of_grant(grant: Grant) -> dict[str, Any]:
    about = f"grant.{grant.state}"
    return {
        "agency_id": grant.agency_id,
        "type": about,
        "about": str(grant.id),
        "incident_id": grant.incident_id,
        "body": _body(
            about,
            iso(grant.settled_at or grant.created_at),
            {
                "grant": grant.id,
                "state": grant.state,
                "reason": grant.reason,
                "incident": grant.incident_id,
                "customer": grant.customer_id,
                "invoice": grant.invoice_id,
                "currency": grant.currency,
                "amount": grant.amount,
                "parts": {name: getattr(grant, name) for name in ("refund", "credit", "reduce", "out_of_band")},
                "instead_of": grant.fallback_of,
            },
        ),
    }


def _body(kind: str, at: str, data: dict[str, Any]) -> str:
    """As Standard Webhooks shapes it."""
    return json.dumps({"type": kind, "timestamp": at, "data": data}, ensure_ascii=False, separators=(",", ":"))
