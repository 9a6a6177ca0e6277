"""What three kinds of monitors say, in their own payloads, as one kind of alert. Pure.

Shapes as published:
Alertmanager  https://prometheus.io/docs/alerting/latest/configuration/#webhook_config (version 4)
PagerDuty     https://developer.pagerduty.com/docs/webhooks/v3-overview/
Statuspage    https://support.atlassian.com/statuspage/docs/enable-webhook-notifications/
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from billing.errors import BadRequest

KINDS: Final = ("alertmanager", "pagerduty", "statuspage")
LONGEST_TITLE: Final = 120
MOST_ALERTS: Final = 1_000
LONGEST_NAME: Final = 300
_PAGED: Final = {
    "incident.triggered", "incident.acknowledged", "incident.unacknowledged", "incident.reopened",
    "incident.escalated", "incident.delegated", "incident.reassigned", "incident.priority_updated",
    "incident.resolved",
}  # fmt: skip
_GOING_ON: Final = {"investigating", "identified", "monitoring"}
_OVER: Final = {"resolved", "postmortem"}
_DOWN: Final = {"degraded_performance", "partial_outage", "major_outage"}


@dataclass(frozen=True)
class Alert:
    """One alert as it was at `said_at`. `name` is the monitor's own for it, the same each time it speaks of it.

    `started_at` None: it ended, and this does not say when it began.
    """

    name: str
    title: str
    started_at: datetime | None
    ended_at: datetime | None
    said_at: datetime


def read(kind: str, document: Any) -> list[Alert]:
    """The alerts in a payload; none where it is about something else. Raises `BadRequest` for another shape."""
    if not isinstance(document, dict):
        raise BadRequest("A monitor sends a JSON object.")
    if kind == "alertmanager":
        return _alertmanager(document)
    return _pagerduty(document) if kind == "pagerduty" else _statuspage(document)


def _alertmanager(document: Mapping[str, Any]) -> list[Alert]:
    if document.get("version") != "4":
        raise BadRequest("This is no Alertmanager webhook of version 4.")
    alerts = document.get("alerts")
    if not isinstance(alerts, list) or len(alerts) > MOST_ALERTS:
        raise BadRequest(f"alerts must be a list of at most {MOST_ALERTS:,}.")
    found = []
    for one in alerts:
        if not isinstance(one, dict) or one.get("status") not in ("firing", "resolved"):
            raise BadRequest("Each alert must be an object that is firing or resolved.")
        labels, annotations = _object(one, "labels"), _object(one, "annotations")
        started_at = _moment(one, "startsAt")
        # A firing alert's endsAt is when it would be given up, or the year 1: not an end.
        ended_at = _moment(one, "endsAt") if one["status"] == "resolved" else None
        fingerprint = one.get("fingerprint") or hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()
        title = annotations.get("summary") or labels.get("alertname")
        # It does not say when it speaks. What began at one moment ends once, so its end is the last word about it.
        found.append(Alert(_name(f"{fingerprint}"), _title(title), started_at, ended_at, ended_at or started_at))
    return found


def _pagerduty(document: Mapping[str, Any]) -> list[Alert]:
    event = document.get("event")
    if not isinstance(event, dict) or not isinstance(event.get("event_type"), str):
        raise BadRequest("This is no PagerDuty webhook of version 3: it has no event with an event_type.")
    if event["event_type"] not in _PAGED:
        return []
    incident = _object(event, "data")
    said_at = _moment(event, "occurred_at")
    ended_at = said_at if event["event_type"] == "incident.resolved" else None
    name = _name(_text(incident, "id"))
    return [Alert(name, _title(incident.get("title")), _moment(incident, "created_at"), ended_at, said_at)]


def _statuspage(document: Mapping[str, Any]) -> list[Alert]:
    if "incident" in document:
        incident = _object(document, "incident")
        status = _text(incident, "status")
        if status not in _GOING_ON | _OVER:  # maintenance: scheduled, in_progress, verifying, completed
            return []
        said_at = _moment(incident, "updated_at")
        ended_at = None
        if status in _OVER:
            ended_at = _moment(incident, "resolved_at") if incident.get("resolved_at") else said_at
        name = _name(f"incident/{_text(incident, 'id')}")
        return [Alert(name, _title(incident.get("name")), _shown_since(incident), ended_at, said_at)]
    if "component_update" in document:
        update, component = _object(document, "component_update"), _object(document, "component")
        status = _text(update, "new_status")
        if status not in _DOWN and status != "operational":
            return []
        said_at = _moment(update, "created_at")
        name = _name(f"component/{_text(component, 'id')}")
        title = _title(component.get("name"))
        down = status in _DOWN
        return [Alert(name, title, said_at if down else None, None if down else said_at, said_at)]
    raise BadRequest("This is no Statuspage webhook: it has neither an incident nor a component_update.")


def _shown_since(incident: Mapping[str, Any]) -> datetime:
    """When a Statuspage incident began, as its page shows it: its people may date its updates back."""
    updates = incident.get("incident_updates") or []
    if not isinstance(updates, list) or len(updates) > MOST_ALERTS or not all(isinstance(one, dict) for one in updates):
        raise BadRequest("incident_updates must be a list of objects.")
    shown = [_moment(one, "display_at") for one in updates if one.get("display_at")]
    return min([_moment(incident, "created_at"), *shown])


def _object(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = of.get(name)
    if not isinstance(found, dict):
        raise BadRequest(f"{name} must be an object.")
    return found


def _text(of: Mapping[str, Any], name: str) -> str:
    found = of.get(name)
    if not isinstance(found, str) or not found:
        raise BadRequest(f"{name} must be a text.")
    return found


def _moment(of: Mapping[str, Any], name: str) -> datetime:
    """An RFC 3339 time; Go writes nanoseconds, of which Python keeps six digits."""
    text = _text(of, name)
    try:
        found = datetime.fromisoformat(_six_digits(text)) if len(text) <= 40 else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or not 1970 <= found.year < 9999:
        raise BadRequest(f"{name} must be a time with its zone, such as 2019-08-22T20:00:00Z.")
    return found.astimezone(UTC)


def _six_digits(text: str) -> str:
    whole, point, rest = text.partition(".")
    if not point:
        return text
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{whole}.{rest[: min(digits, 6)]}{rest[digits:]}"


def _name(text: str) -> str:
    if len(text) > LONGEST_NAME or not text.isprintable():
        raise BadRequest("An alert's own id must be a short text.")
    return text


def _title(text: Any) -> str:
    """One printable line, whatever was sent: it is shown, and nothing else."""
    words = unicodedata.normalize("NFC", text) if isinstance(text, str) else ""
    shown = "".join(letter if letter.isprintable() else " " for letter in words)
    return " ".join(shown.split())[:LONGEST_TITLE]
