"""`flask events`: Stripe's events that wait or failed, from a terminal."""

from typing import Any

import click

from tenants.commands import NUMBER, Commands, denials, house, member_called, needs_tables, speaks
from tenants.db import OPERATOR
from webhooks.events import waiting

event_commands = Commands("events", help="Stripe's events: what waits, what failed, and trying it again.")
MOST = 10_000

Spoken = tuple[dict[str, Any], list[str]]


@event_commands.command("list")
@click.option("--state", type=click.Choice(waiting.STATES), help="Left out: what waits, and what is for a person.")
@click.option("--limit", type=click.IntRange(1, MOST), default=100, show_default=True)
@speaks
@needs_tables
def list_events(state: str | None, limit: int) -> Spoken:
    """The latest events, newest first, and how many there are in each state."""
    with house().database.work(OPERATOR) as session:
        found = waiting.listed(session, state=state, limit=limit)
        counts = waiting.counts(session)
    lines = [
        f"{one['id']:>8}  {one['state']:<8}  {one['type']}  {one['object']}"
        + (f"  ({one['reason']})" if one["reason"] else "")
        for one in found
    ]
    counted = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return {"events": found, "counts": counts}, [*lines, f"In all: {counted or 'no event yet'}."]


@event_commands.command("retry")
@click.argument("event_id", metavar="[ID]", type=NUMBER, required=False)
@click.option("--all", "every", is_flag=True, help="Every event that is for a person.")
@click.option("--by", required=True, metavar="EMAIL")
@speaks
@needs_tables
def retry(event_id: int | None, every: bool, by: str) -> Spoken:
    """Handle an event again that failed, or whose owner is known by now."""
    if every == (event_id is not None):
        raise click.UsageError("Name one event, or say --all.")
    ids = () if event_id is None else (event_id,)
    with denials("event.retry", by, str(event_id or "all")), house().database.work(OPERATOR) as session:
        again = waiting.try_again(session, member_called(session, by), "cli", *ids)
    return {"again": again}, [f"{again:,} {'event is' if again == 1 else 'events are'} tried again."]
