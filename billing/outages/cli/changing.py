"""What is said of an incident later: that it was otherwise, that it goes on, that it never ends."""

from typing import Any

import click

from billing.outages import incidents, schemas, updates
from billing.outages.cli.options import Spoken, denials, incident_commands, ready, seen_through, thinks_again, whoever
from billing.windows import iso
from tenants.commands import house, member_called, needs_tables, speaks
from tenants.db import OPERATOR


@incident_commands.command("change")
@click.argument("incident_id", metavar="ID")
@click.option("--since", help="It began then.")
@click.option("--until", help="It ended then: later or earlier than was said.")
@click.option("--impact", type=int, help="Basis points.")
@click.option("--agency", "agencies", multiple=True, help="It covers these agencies and no others; may be repeated.")
@click.option("--all-agencies", is_flag=True, help="It covers every agency.")
@thinks_again
def change(incident_id: str, by: str | None, wait: bool, all_agencies: bool, **options: Any) -> Spoken:
    """It began or ended at another time, took another share, or covered other agencies. Pays the difference."""
    now = ready(wait)
    if all_agencies and options["agencies"]:
        raise click.UsageError("Either some agencies or all of them: leave --agency or --all-agencies out.")
    agencies = () if all_agencies else options.pop("agencies") or None
    thought = schemas.second_thought(**options | {"agencies": agencies})
    with denials("change", by, incident_id), house().database.work(OPERATOR) as session:
        person = whoever(session, incident_id, by)
        incidents.change(
            session, now, incident_id, thought.change, person, "cli", reason=thought.reason, message=thought.message
        )
    return seen_through(incident_id, wait)


@incident_commands.command("reopen")
@click.argument("incident_id", metavar="ID")
@thinks_again
def reopen(incident_id: str, by: str | None, wait: bool, **words: Any) -> Spoken:
    """It had not ended: hold billing again, and go on counting."""
    now = ready(wait)
    thought = schemas.second_thought(**words)
    with denials("reopen", by, incident_id), house().database.work(OPERATOR) as session:
        person = whoever(session, incident_id, by)
        incidents.reopen(session, now, incident_id, person, "cli", reason=thought.reason, message=thought.message)
    return seen_through(incident_id, wait)


@incident_commands.command("retract")
@click.argument("incident_id", metavar="ID")
@thinks_again
def retract(incident_id: str, by: str | None, wait: bool, **words: Any) -> Spoken:
    """It was no outage: send nothing more, release what is paused. What was given stays given."""
    now = ready(wait)
    thought = schemas.second_thought(**words)
    with denials("retract", by, incident_id), house().database.work(OPERATOR) as session:
        person = whoever(session, incident_id, by)
        incidents.retract(session, now, incident_id, person, "cli", reason=thought.reason, message=thought.message)
    return seen_through(incident_id, wait)


@incident_commands.command("update")
@click.argument("incident_id", metavar="ID")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--message", required=True, help="As customers read it.")
@speaks
@needs_tables
def update(incident_id: str, by: str, message: str) -> Spoken:
    """Publish news of an incident: on the status page, in both feeds, by mail and to webhooks."""
    now = house().clock.now()
    with denials("update", by, incident_id), house().database.work(OPERATOR) as session:
        published = updates.publish(session, now, incident_id, member_called(session, by), message, "cli")
        document = {"incident": incident_id, "update": published.id, "at": iso(now), "body": published.body}
    return document, [f"Published. Customers whom {incident_id} touches get it by mail, too."]


@incident_commands.command("retire")
@click.argument("incident_id", metavar="ID")
@click.option("--reason", required=True, help="Why it does not come back.")
@click.option("--move", "moves", multiple=True, metavar="PLAN=PLAN", help="What takes the place of a plan; repeat it.")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--message", default="", help="What customers read on the status page.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def retire(incident_id: str, reason: str, moves: tuple[str, ...], by: str, message: str, wait: bool) -> Spoken:
    """The platform does not come back: end what lives on it alone, move the rest, give back what was paid beyond."""
    now = ready(wait)
    wanted = dict(move.split("=", 1) for move in moves if move.count("=") == 1)
    if len(wanted) != len(moves):
        raise click.UsageError("Write each move as PLAN=PLAN, once for each plan, e.g. --move price_duo=price_solo.")
    with denials("retire", by, incident_id), house().database.work(OPERATOR) as session:
        incidents.retire(
            session, now, incident_id, member_called(session, by), "cli", reason=reason, moves=wanted, message=message
        )
    return seen_through(incident_id, wait)
