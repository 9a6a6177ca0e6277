"""How far an incident has come, and the server-sent events of a page that watches it move."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from billing.outages import queries
from tenants.db import OPERATOR
from tenants.house import House

LOOK_EVERY: Final = 0.5
"""Seconds between two looks of a page that watches an incident."""
WATCH_FOR: Final = 300
"""Seconds after which a watching page asks anew, so that no worker thread is held for good."""

Progress = dict[str, Any]


def progress(shown: dict[str, Any]) -> Progress:
    """How far an incident, as `queries.shown` describes it, has come: numbers of grants and pauses for two bars."""
    runs = [run for run in shown["runs"] if run["state"] not in queries.GAVE_WAY]
    planned = sum(run["planned"] for run in runs)
    waiting = sum(run["planned"] for run in runs if run["state"] == "waiting")
    finished = ("succeeded", "failed", "needs_person", "given_elsewhere", "cancelled")
    pauses = shown["pauses"]
    return {
        "planned": planned,
        "waiting": waiting,
        "finished": sum(run[name] for run in runs for name in finished),
        "pending": sum(run["pending"] for run in runs),
        "needs_person": sum(run["needs_person"] for run in runs),
        "pauses": pauses,
        "to_pause": sum(pauses.values()),
        "paused": sum(count for state, count in pauses.items() if state != "planned"),
        "busy": any(run["state"] == "running" for run in runs)
        or any(pauses.get(state) for state in ("planned", "releasing"))
        or any(one["state"] == "planned" for one in shown["retired"]),
    }


def events(house: House, incident_id: str, fragment: Callable[[dict[str, Any], Progress], str]) -> Iterator[str]:
    """Look until nothing moves any more, or for as long as a page may watch: each `fragment` that is another one."""
    last, until = "", time.monotonic() + WATCH_FOR
    while time.monotonic() < until:
        with house.database.work(OPERATOR) as session:
            shown = queries.shown(session, incident_id)
        now = progress(shown)
        text = fragment(shown, now)
        if text != last:
            last = text
            yield _event(text)
        if not now["busy"]:
            yield "event: done\ndata: quiet\n\n"
            return
        time.sleep(LOOK_EVERY)  # nothing tells a process of the web what the workers' processes have done


def _event(text: str) -> str:
    return "".join(f"data: {line}\n" for line in text.splitlines() if line.strip()) + "\n"
