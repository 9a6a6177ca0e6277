"""`flask incidents`: declare an outage and see it through, from a terminal or a script."""

from datetime import datetime, timedelta
from typing import Any

import click

from billing import gateway
from billing.outages import approvals, explain, incidents, planning, queries, reconcile, schemas, tasks
from billing.windows import parse_time
from tenants.cli import Commands, house, member_called, needs_tables, speaks
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
            click.option("--policy", help="prorated, credit or none; left out: each agency's own."),
        ]
    ):
        command = option(command)
    return command


def _ready(wait: bool) -> datetime:
    """What time it is. Who wants to wait needs a Stripe key: that is said before anything is written."""
    if wait:
        gateway.connect(house(), "")
    return house().clock.now()


def _shown(incident_id: str) -> dict[str, Any]:
    with house().database.work(OPERATOR) as session:
        shown: dict[str, Any] = queries.shown(session, incident_id)
    return shown


def _seen_through(incident_id: str, wait: bool) -> Spoken:
    """The incident as it is now; with `wait`, once nothing of it is left to be done without a person."""
    if wait:
        tasks.work_until_quiet(house(), incident_id, timeout=WAIT.total_seconds())
    document = _shown(incident_id)
    return document, queries.in_words(document)


@incident_commands.command("preview")
@described
@speaks
@needs_tables
def preview(**options: Any) -> Spoken:
    """What a declaration would pause and give back. Changes nothing."""
    now = house().clock.now()
    with house().database.work(OPERATOR) as session:
        plan = planning.preview(session, now, schemas.declaration(session, now, **options))
    return plan.to_json(), plan.in_words()


@incident_commands.command("declare")
@described
@click.option("--title", default="", help="As customers read it.")
@click.option("--message", default="", help="The first update on the status page.")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--fingerprint", help="Of a preview: refuse when the plan is not that one.")
@click.option("--as-of", help="Of a preview: plan as of that time.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def declare(by: str, wait: bool, fingerprint: str | None, as_of: str | None, **options: Any) -> Spoken:
    """Declare an outage: pause billing at once, and plan what goes back."""
    now = _ready(wait)
    with house().database.work(OPERATOR) as session:
        person = member_called(session, by)
        declaration = schemas.declaration(session, now, **options)
        planned_as_of = parse_time(as_of) if as_of else None
        incident_id = incidents.declare(
            session, now, declaration, person, "cli", as_of=planned_as_of, expected_fingerprint=fingerprint
        ).id
    return _seen_through(incident_id, wait)


@incident_commands.command("approve")
@click.argument("incident_id", metavar="ID")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--fingerprint", required=True, help="Of the plan that you looked at.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def approve(incident_id: str, by: str, fingerprint: str, wait: bool) -> Spoken:
    """Say yes to exactly the plan that FINGERPRINT names."""
    now = _ready(wait)
    with house().database.work(OPERATOR) as session:
        approvals.approve(session, now, incident_id, member_called(session, by), fingerprint, "cli")
    return _seen_through(incident_id, wait)


@incident_commands.command("halt")
@click.argument("incident_id", metavar="ID")
@click.option("--by", metavar="EMAIL", default="", help="Who halts it.")
@speaks
@needs_tables
def halt(incident_id: str, by: str) -> Spoken:
    """Send nothing more until it is continued. Calls in flight end known."""
    with house().database.work(OPERATOR) as session:
        approvals.halt(session, incident_id, member_called(session, by) if by else None, "cli")
    return _seen_through(incident_id, wait=False)


@incident_commands.command("continue")
@click.argument("incident_id", metavar="ID")
@click.option("--by", metavar="EMAIL", default="", help="Who continues it.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def go_on(incident_id: str, by: str, wait: bool) -> Spoken:
    """Go on after a halt."""
    _ready(wait)
    with house().database.work(OPERATOR) as session:
        approvals.resume(session, incident_id, member_called(session, by) if by else None, "cli")
    return _seen_through(incident_id, wait)


@incident_commands.command("resolve")
@click.argument("incident_id", metavar="ID")
@click.option("--at", help="When it ended; left out: now.")
@click.option("--by", metavar="EMAIL", help="Who says so; left out: whoever declared it.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def resolve(incident_id: str, at: str | None, by: str | None, wait: bool) -> Spoken:
    """The outage is over: settle what is still owed, then release what was held."""
    now = _ready(wait)
    ended: datetime | None = parse_time(at) if at else None
    with house().database.work(OPERATOR) as session:
        if by is None:
            by = session.get_one(Member, incidents.find(session, incident_id).declared_by).email
        incidents.resolve(session, now, incident_id, member_called(session, by), "cli", at=ended)
    return _seen_through(incident_id, wait)


@incident_commands.command("list")
@speaks
@needs_tables
def list_incidents() -> Spoken:
    """Every incident, newest first."""
    with house().database.work(OPERATOR) as session:
        found = queries.listed(session)
    lines = [
        f"{one['id']}  {one['state']:<9}  {one['platform']:<10}  {one['started_at']}  {one['title']}" for one in found
    ]
    return {"incidents": found}, lines or ["No incident has been declared."]


@incident_commands.command("show")
@click.argument("incident_id", metavar="ID")
@speaks
@needs_tables
def show(incident_id: str) -> Spoken:
    """One incident: its runs, pauses and totals."""
    return _seen_through(incident_id, wait=False)


@incident_commands.command("explain")
@click.argument("incident_id", metavar="ID")
@click.option("--customer", "customer_id", required=True, metavar="cus_…")
@speaks
@needs_tables
def explain_customer(incident_id: str, customer_id: str) -> Spoken:
    """One customer's arithmetic, from the facts that were kept when it was granted."""
    with house().database.work(OPERATOR) as session:
        document = explain.explain(session, incident_id, customer_id)
    return document, document["text"]


@incident_commands.command("reconcile")
@click.argument("incident_id", metavar="ID")
@speaks
@needs_tables
def reconcile_incident(incident_id: str) -> Spoken:
    """Our books against Stripe's, object by object. Exits 1 when anything differs."""
    report = reconcile.reconcile(house(), incident_id)
    if report.differences:
        raise reconcile.DoesNotAgree(report)
    return report.to_json(), report.in_words()
