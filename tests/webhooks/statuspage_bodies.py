"""What Statuspage sends its webhook subscribers, each body with its source.

DOCUMENTED: the two examples at https://support.atlassian.com/statuspage/docs/enable-webhook-notifications/
RECORDED: the fields, in their order and of their types, that Zulip recorded of a real page in December 2017
(zulip/zulip, zerver/webhooks/statuspage/fixtures), which are more than are documented; the values are our own.
"""

from typing import Any

DOCUMENTED_COMPONENT: dict[str, Any] = {
    "meta": {
        "unsubscribe": "http://statustest.flyingkleinbrothers.com:5000/?unsubscribe=j0vqr9kl3513",
        "documentation": "http://doers.statuspage.io/customer-notifications/webhooks/",
    },
    "page": {
        "id": "j2mfxwj97wnj",
        "status_indicator": "major",
        "status_description": "Partial System Outage",
    },
    "component_update": {
        "created_at": "2013-05-29T21:32:28Z",
        "new_status": "operational",
        "old_status": "major_outage",
        "id": "k7730b5v92bv",
        "component_id": "rb5wq1dczvbm",
    },
    "component": {
        "created_at": "2013-05-29T21:32:28Z",
        "id": "rb5wq1dczvbm",
        "name": "Some Component",
        "status": "operational",
    },
}


def _documented_update(id: str, status: str, created_at: str, updated_at: str, body: str) -> dict[str, Any]:
    return {
        "body": body,
        "created_at": created_at,
        "display_at": created_at,
        "status": status,
        "twitter_updated_at": None,
        "updated_at": updated_at,
        "wants_twitter_update": False,
        "id": id,
        "incident_id": "lbkhbwn21v5q",
    }


DOCUMENTED_INCIDENT: dict[str, Any] = {
    "meta": DOCUMENTED_COMPONENT["meta"],
    "page": {
        "id": "j2mfxwj97wnj",
        "status_indicator": "critical",
        "status_description": "Major System Outage",
    },
    "incident": {
        "backfilled": False,
        "created_at": "2013-05-29T15:08:51-06:00",
        "impact": "critical",
        "impact_override": None,
        "monitoring_at": "2013-05-29T16:07:53-06:00",
        "postmortem_body": None,
        "postmortem_body_last_updated_at": None,
        "postmortem_ignored": False,
        "postmortem_notified_subscribers": False,
        "postmortem_notified_twitter": False,
        "postmortem_published_at": None,
        "resolved_at": None,
        "scheduled_auto_transition": False,
        "scheduled_for": None,
        "scheduled_remind_prior": False,
        "scheduled_reminded_at": None,
        "scheduled_until": None,
        "shortlink": "http://j.mp/18zyDQx",
        "status": "monitoring",
        "updated_at": "2013-05-29T16:30:35-06:00",
        "id": "lbkhbwn21v5q",
        "organization_id": "j2mfxwj97wnj",
        "incident_updates": [
            _documented_update(
                "drfcwbnpxnr6", "monitoring", "2013-05-29T16:07:53-06:00", "2013-05-29T16:09:09-06:00",
                "A fix has been implemented and we are monitoring the results.",
            ),
            _documented_update(
                "2rryghr4qgrh", "identified", "2013-05-29T15:18:51-06:00", "2013-05-29T15:28:51-06:00",
                "We are waiting for the cloud to come back online and will update when we have further information",
            ),
            _documented_update(
                "qbbsfhy5s9kk", "investigating", "2013-05-29T15:08:51-06:00", "2013-05-29T15:28:51-06:00",
                "The cloud, located in Norther Virginia, has once again gone the way of the dodo.",
            ),
        ],
        "name": "Virginia Is Down",
    },
}  # fmt: skip

_RECORDED_META = {
    "unsubscribe": "http://page.statuspage.io/?unsubscribe=zzzzzzzzzzzz",
    "documentation": "http://doers.statuspage.io/customer-notifications/webhooks/",
    "generated_at": "2019-08-22T20:05:01.498Z",
}
_RECORDED_PAGE = {"id": "aaaaaaaaaaaa", "status_indicator": "major", "status_description": "Partial System Outage"}


def recorded_component(new_status: str, at: str) -> dict[str, Any]:
    return {
        "meta": _RECORDED_META,
        "page": _RECORDED_PAGE,
        "component": {
            "status": new_status,
            "name": "Graph API",
            "created_at": "2017-12-26T07:57:28.743Z",
            "updated_at": at,
            "position": 3,
            "description": None,
            "showcase": True,
            "id": "bbbbbbbbbbbb",
            "page_id": "aaaaaaaaaaaa",
            "group_id": None,
        },
        "component_update": {
            "old_status": "operational",
            "new_status": new_status,
            "created_at": at,
            "component_type": "Component",
            "id": "cccccccccccc",
            "component_id": "bbbbbbbbbbbb",
        },
    }


def recorded_incident(status: str, at: str, *, shown_since: str, resolved_at: str | None = None) -> dict[str, Any]:
    """Created at 20:05; `shown_since` is when its first update says that it began."""
    return {
        "meta": _RECORDED_META,
        "page": _RECORDED_PAGE,
        "incident": {
            "name": "Graph API refuses every token",
            "status": status,
            "created_at": "2019-08-22T20:05:00.507Z",
            "updated_at": at,
            "monitoring_at": None,
            "resolved_at": resolved_at,
            "impact": "major",
            "shortlink": "http://stspg.io/000000000",
            "postmortem_ignored": False,
            "postmortem_body": None,
            "postmortem_body_last_updated_at": None,
            "postmortem_published_at": None,
            "postmortem_notified_subscribers": False,
            "postmortem_notified_twitter": False,
            "backfilled": False,
            "scheduled_for": None,
            "scheduled_until": None,
            "scheduled_remind_prior": False,
            "scheduled_reminded_at": None,
            "impact_override": None,
            "scheduled_auto_in_progress": False,
            "scheduled_auto_completed": False,
            "id": "dddddddddddd",
            "page_id": "aaaaaaaaaaaa",
            "incident_updates": [
                {
                    "status": status,
                    "body": "We are looking into it.",
                    "created_at": "2019-08-22T20:05:00.548Z",
                    "wants_twitter_update": False,
                    "twitter_updated_at": None,
                    "updated_at": at,
                    "display_at": shown_since,
                    "affected_components": [
                        {
                            "code": "bbbbbbbbbbbb",
                            "name": "Graph API",
                            "old_status": "operational",
                            "new_status": "major_outage",
                        }
                    ],
                    "custom_tweet": None,
                    "deliver_notifications": True,
                    "id": "eeeeeeeeeeee",
                    "incident_id": "dddddddddddd",
                }
            ],
            "components": [recorded_component("major_outage", at)["component"]],
        },
    }
