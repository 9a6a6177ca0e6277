"""Statuspage's bodies as it documents them and as they were recorded: which alerts they are."""

from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from billing.errors import BadRequest
from tests.billing.outages.august import at
from tests.webhooks.statuspage_bodies import (
    DOCUMENTED_COMPONENT,
    DOCUMENTED_INCIDENT,
    recorded_component,
    recorded_incident,
)
from webhooks import alerts
from webhooks.alerts import Alert


def read(document: dict[str, Any]) -> Alert:
    (alert,) = alerts.read("statuspage", document)
    return alert


def test_the_documented_incident_began_when_it_says_and_goes_on() -> None:
    # 15:08:51 -06:00 is 21:08:51 UTC; it was last said at 16:30:35 -06:00.
    assert read(DOCUMENTED_INCIDENT) == Alert(
        "incident/lbkhbwn21v5q", "Virginia Is Down", datetime(2013, 5, 29, 21, 8, 51, tzinfo=UTC), None,
        datetime(2013, 5, 29, 22, 30, 35, tzinfo=UTC),
    )  # fmt: skip


def test_the_documented_component_is_up_again_since_unknown_when() -> None:
    up = datetime(2013, 5, 29, 21, 32, 28, tzinfo=UTC)
    assert read(DOCUMENTED_COMPONENT) == Alert("component/rb5wq1dczvbm", "Some Component", None, up, up)


def test_what_was_recorded_reads_alike() -> None:
    since = "2019-08-22T20:05:00.548Z"
    began = datetime(2019, 8, 22, 20, 5, 0, 507_000, tzinfo=UTC)
    alert = read(recorded_incident("identified", "2019-08-22T20:30:00.603Z", shown_since=since))
    assert (alert.name, alert.started_at, alert.ended_at) == ("incident/dddddddddddd", began, None)
    over = recorded_incident(
        "resolved", "2019-08-23T02:30:20.837Z", shown_since=since, resolved_at="2019-08-23T02:30:00Z"
    )  # fmt: skip
    assert (read(over).started_at, read(over).ended_at) == (began, at(23, 2, 30))
    down = read(recorded_component("major_outage", "2019-08-22T20:00:00.379Z"))
    assert (down.name, down.title, down.ended_at) == ("component/bbbbbbbbbbbb", "Graph API", None)
    assert alerts.read("statuspage", recorded_component("under_maintenance", "2019-08-22T20:00:00Z")) == []


def test_whoever_dates_the_first_update_back_reports_an_earlier_start() -> None:
    alert = read(recorded_incident("identified", "2019-08-22T20:30:00Z", shown_since="2019-08-22T19:40:00Z"))
    assert alert.started_at == at(22, 19, 40)
    later = read(recorded_incident("identified", "2019-08-22T20:30:00Z", shown_since="2019-08-22T20:20:00Z"))
    assert later.started_at == datetime(2019, 8, 22, 20, 5, 0, 507_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("incident", "id"), None), (("incident", "status"), 7), (("incident", "created_at"), None),
        (("incident", "created_at"), "2013-05-29T15:08:51"), (("incident", "updated_at"), "yesterday"),
        (("incident", "incident_updates"), "none"), (("incident", "incident_updates"), [7]),
        (("incident", "incident_updates"), [{"display_at": "then"}]), (("incident",), []),
    ],
)  # fmt: skip
def test_a_documented_incident_with_one_field_broken_is_refused(where: tuple[str, ...], value: Any) -> None:
    broken = deepcopy(DOCUMENTED_INCIDENT)
    inside: Any = broken
    for name in where[:-1]:
        inside = inside[name]
    inside[where[-1]] = value
    with pytest.raises(BadRequest):
        alerts.read("statuspage", broken)
