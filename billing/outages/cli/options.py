"""What several commands of `flask incidents` are told alike, and how they end."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

import click
from sqlalchemy.orm import Session

from billing import gateway
from billing.outages import funding, incidents, queries, tasks
from tenants import commands
from tenants.commands import Commands, house, member_called, needs_tables, speaks
from tenants.db import OPERATOR
from tenants.models import Member

incident_commands = Commands("incidents", help="Outages: preview, declare, approve, resolve, reconcile.")
WAIT = timedelta(hours=6)

Spoken = tuple[dict[str, Any], list[str]]


def described(command: Any) -> Any:
    """The options that describe an outage, the same for preview and declare."""
    for option in reversed(
        [
            click.option("--platform", required=True, help="facebook, instagram, x, linkedin, …"),
            click.option("--since", required=True, help="When it began, e.g. 2019-08-22T20:00Z."),
            click.option("--until", help="When it ended; left out: it is still going on."),
            click.option("--impact", type=int, default=10_000, show_default=True, help="Basis points."),
            click.option("--agency", "agencies", multiple=True, help="Only these agencies; may be repeated."),
            click.option("--policy", help="prorated, full, credit or none; left out: each agency's own."),
        ]
    ):
        command = option(command)
    return command


def thinks_again(command: Any) -> Any:
    """The options of a change of mind, and how it speaks. `retract` cannot do without a reason."""
    name = command.__name__
    for option in reversed(
        [
            click.option(
                "--reason", required=name == "retract", help="Why; kept with the incident, and not shown to customers."
            ),
            click.option("--message", default="", help="What the status page says; left out: a sentence of ours."),
            click.option("--by", metavar="EMAIL", help="Who says so; left out: whoever declared it."),
            click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person."),
            speaks,
            needs_tables,
        ]
    ):
        command = option(command)
    return command


def steers(verb: str) -> Callable[[Any], Any]:
    """What `halt` and `continue` are told: one incident, one account, or everything; and by whom."""

    def with_options(command: Any) -> Any:
        for option in reversed(
            [
                click.argument("incident_id", metavar="[ID]", required=False),
                click.option("--everything", is_flag=True, help="All sending, of every incident."),
                click.option("--account", metavar="acct_…", help="One Stripe account; '' is the operator's own."),
                click.option("--by", metavar="EMAIL", default="", help=f"Who says {verb}."),
                speaks,
                needs_tables,
            ]
        ):
            command = option(command)
        return command

    return with_options


def denials(verb: str, by: str | None, subject: str, of: str = "incident") -> AbstractContextManager[None]:
    """Around a unit of work: whoever is denied this leaves an audit entry about `subject`, which is `of` that kind."""
    return commands.denials(f"{of}.{verb}", by or "whoever declared it", subject)


def whoever(session: Session, incident_id: str, by: str | None) -> Member:
    """The person named, or else whoever declared the incident."""
    if by is not None:
        return member_called(session, by)
    return session.get_one(Member, incidents.find(session, incident_id).declared_by)


def ready(wait: bool) -> datetime:
    """What time it is. Who wants to wait needs a Stripe key: that is said before anything is written."""
    if wait:
        gateway.connect(house(), "")
    return house().clock.now()


def seen_through(incident_id: str, wait: bool) -> Spoken:
    """The incident as it is now; with `wait`, once nothing of it is left to be done without a person."""
    if wait:
        tasks.work_until_quiet(house(), incident_id, timeout=WAIT.total_seconds())
    with house().database.work(OPERATOR) as session:
        document: dict[str, Any] = queries.shown(session, incident_id)
        needs = funding.needs_of_waiting(session, incident_id)
    funds = funding.outlook(house(), needs)
    return document | {"funds": [one.to_json() for one in funds]}, queries.in_words(document) + [
        f"  {one.in_words()}" for one in funds
    ]
