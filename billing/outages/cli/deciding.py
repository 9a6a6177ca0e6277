"""From a preview to the resolution: what a run passes through."""

from contextlib import AbstractContextManager
from typing import Any

import click

from billing.outages import approvals, funding, incidents, pace, planning, schemas, supposing, suspicions
from billing.outages.cli.options import (
    Spoken,
    denials,
    described,
    incident_commands,
    ready,
    seen_through,
    steers,
    whoever,
)
from billing.windows import parse_time
from tenants.commands import house, member_called, needs_tables, speaks, wants_json
from tenants.db import OPERATOR


@incident_commands.command("preview")
@described
@click.option("--compare", is_flag=True, help="And what each policy would give back, side by side.")
@speaks
@needs_tables
def preview(compare: bool, **options: Any) -> Spoken:
    """What a declaration would pause and give back. Changes nothing."""
    now = house().clock.now()
    with house().database.work(OPERATOR) as session:
        declaration = schemas.declaration(session, now, **options)
        plan = planning.preview(session, now, declaration)
        if wants_json():
            plan = planning.with_grants(session, plan)
        policies = supposing.compare(session, now, declaration) if compare else None
        needs = funding.needs(session, plan.refunds)
        takes = pace.expected(session, house().settings.stripe_rate, plan.work)
    funds = funding.outlook(house(), needs)
    document = plan.to_json() | {
        "funds": [one.to_json() for one in funds], "takes": takes.to_json() if takes else None
    }  # fmt: skip
    told = [*plan.in_words(), *(f"  {one.in_words()}" for one in (*funds, takes) if one)]
    if policies is None:
        return document, told
    told += ["What each policy would give back:", *supposing.compared_in_words(policies)]
    return document | {"policies": policies}, told


@incident_commands.command("simulate")
@click.option("--policy", required=True, help="prorated, full, credit or none.")
@click.option("--months", type=int, default=12, show_default=True, help="How far to look back.")
@speaks
@needs_tables
def simulate(policy: str, months: int) -> Spoken:
    """What the incidents of the last months would have cost under a policy. Changes nothing."""
    with house().database.work(OPERATOR) as session:
        told = supposing.simulate(session, house().clock.now(), policy, months)
    return told, supposing.simulated_in_words(told)


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
    now = ready(wait)
    with denials("declare", by, "new"), house().database.work(OPERATOR) as session:
        person = member_called(session, by)
        declaration = schemas.declaration(session, now, **options)
        planned_as_of = None if as_of is None else parse_time(as_of)
        incident_id = incidents.declare(
            session, now, declaration, person, "cli", as_of=planned_as_of, expected_fingerprint=fingerprint
        ).id
    return seen_through(incident_id, wait)


@incident_commands.command("confirm")
@click.argument("incident_id", metavar="ID")
@click.option("--since", help="Left out: what its monitors report.")
@click.option("--until", help="Left out: what its monitors report.")
@click.option("--impact", type=int, help="In basis points.")
@click.option("--agency", "agencies", multiple=True, help="Only this agency; may be repeated.")
@click.option("--policy", help="prorated, full, credit or none; left out: each agency's own.")
@click.option("--title", help="As customers read it.")
@click.option("--message", help="The first update on the status page.")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--fingerprint", help="Of a preview: refuse when the plan is not that one.")
@click.option("--as-of", help="Of a preview: plan as of that time.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def confirm(
    incident_id: str, by: str, wait: bool, agencies: tuple[str, ...], fingerprint: str | None, as_of: str | None,
    **options: Any,
) -> Spoken:  # fmt: skip
    """Declare an incident that monitors suspect, as they report it but for what is said here."""
    now = ready(wait)
    with denials("confirm", by, incident_id), house().database.work(OPERATOR) as session:
        person = member_called(session, by)
        suspicion = suspicions.undecided(session, incident_id, person)
        said = {name: value for name, value in options.items() if value is not None}
        said |= {"agencies": list(agencies)} if agencies else {}
        declaration = schemas.declaration(session, now, **{**suspicions.described(session, suspicion), **said})
        incidents.declare(
            session, now, declaration, person, "cli", as_of=None if as_of is None else parse_time(as_of),
            expected_fingerprint=fingerprint, id=suspicion.id,
        )  # fmt: skip
        suspicions.confirm(session, now, suspicion, person, "cli")
    return seen_through(incident_id, wait)


@incident_commands.command("dismiss")
@click.argument("incident_id", metavar="ID")
@click.option("--reason", required=True)
@click.option("--by", required=True, metavar="EMAIL")
@speaks
@needs_tables
def dismiss(incident_id: str, reason: str, by: str) -> Spoken:
    """A suspected incident is none: its alerts change nothing from now on."""
    now = house().clock.now()
    with denials("dismiss", by, incident_id), house().database.work(OPERATOR) as session:
        suspicions.dismiss(session, now, incident_id, member_called(session, by), "cli", reason=reason)
    return {"id": incident_id, "state": "dismissed"}, [f"{incident_id} is dismissed."]


@incident_commands.command("approve")
@click.argument("incident_id", metavar="ID")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--fingerprint", required=True, help="Of the plan that you looked at.")
@click.option("--agency", "agencies", multiple=True, help="Only this agency's part of it; may be repeated.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def approve(incident_id: str, by: str, fingerprint: str, agencies: tuple[str, ...], wait: bool) -> Spoken:
    """Say yes to exactly the plan that FINGERPRINT names."""
    now = ready(wait)
    with denials("approve", by, incident_id), house().database.work(OPERATOR) as session:
        person = member_called(session, by)
        approvals.approve(session, now, incident_id, person, fingerprint, "cli", agencies=agencies)
    return seen_through(incident_id, wait)


@incident_commands.command("decline")
@click.argument("incident_id", metavar="ID")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--reason", required=True, help="Why; kept with the runs.")
@click.option("--agency", "agencies", multiple=True, help="Only this agency's part of it; may be repeated.")
@speaks
@needs_tables
def decline(incident_id: str, by: str, reason: str, agencies: tuple[str, ...]) -> Spoken:
    """Say no to what waits. What it is for stays owed, until a change, the resolution or `replan` plans it again."""
    why = schemas.second_thought(reason=reason).reason
    with denials("decline", by, incident_id), house().database.work(OPERATOR) as session:
        approvals.decline(session, incident_id, member_called(session, by), why, "cli", agencies=agencies)
    return seen_through(incident_id, wait=False)


@incident_commands.command("replan")
@click.argument("incident_id", metavar="ID")
@click.option("--by", required=True, metavar="EMAIL")
@click.option("--wait", is_flag=True, help="Until the new plan is there, and nothing is left to do without a person.")
@speaks
@needs_tables
def replan(incident_id: str, by: str, wait: bool) -> Spoken:
    """Plan again what was declined, as it stands now. It waits for an approval like any other."""
    ready(wait)
    with denials("replan", by, incident_id), house().database.work(OPERATOR) as session:
        approvals.plan_again(session, incident_id, member_called(session, by), "cli")
    return seen_through(incident_id, wait)


def _named(account: str | None) -> str:
    return "everything" if account is None else account or "the operator's account"


def _steering(
    verb: str, incident_id: str | None, everything: bool, account: str | None, by: str
) -> AbstractContextManager[None]:
    """Around the unit of work that halts or continues the one thing that is named. Raises `UsageError` for others."""
    if (incident_id is not None) + everything + (account is not None) != 1:
        raise click.UsageError("Name one incident, or say --everything, or one --account.")
    if incident_id is not None:
        return denials(verb, by or "operator", incident_id)
    return denials(verb, by or "operator", _named(account), of="sending")


@incident_commands.command("halt")
@steers("halt")
def halt(incident_id: str | None, by: str, everything: bool, account: str | None) -> Spoken:
    """Send nothing more of an incident, on an account, or at all, until it is continued. Calls in flight end known."""
    noted = _steering("halt", incident_id, everything, account, by)
    with noted, house().database.work(OPERATOR) as session:
        person = member_called(session, by) if by else None
        if incident_id is not None:
            approvals.halt(session, incident_id, person, "cli")
        else:
            approvals.halt_scope(session, account, person, "cli")
    if incident_id is not None:
        return seen_through(incident_id, wait=False)
    return {"halted": _named(account)}, ["Halted: nothing more is sent until it is continued."]


@incident_commands.command("continue")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@steers("continue")
def go_on(incident_id: str | None, by: str, everything: bool, account: str | None, wait: bool) -> Spoken:
    """Go on after a halt, with what the halt was of."""
    noted = _steering("continue", incident_id, everything, account, by)
    ready(wait)
    with noted, house().database.work(OPERATOR) as session:
        person = member_called(session, by) if by else None
        if incident_id is not None:
            approvals.resume(session, incident_id, person, "cli")
        else:
            approvals.resume_scope(session, account, person, "cli")
    if incident_id is not None:
        return seen_through(incident_id, wait)
    return {"continued": _named(account)}, ["Sending goes on."]


@incident_commands.command("resolve")
@click.argument("incident_id", metavar="ID")
@click.option("--at", help="When it ended; left out: now.")
@click.option("--by", metavar="EMAIL", help="Who says so; left out: whoever declared it.")
@click.option("--wait", is_flag=True, help="Work until nothing is left to do without a person.")
@speaks
@needs_tables
def resolve(incident_id: str, at: str | None, by: str | None, wait: bool) -> Spoken:
    """The outage is over: settle what is still owed, then release what was held."""
    now = ready(wait)
    ended = None if at is None else parse_time(at)
    with denials("resolve", by, incident_id), house().database.work(OPERATOR) as session:
        incidents.resolve(session, now, incident_id, whoever(session, incident_id, by), "cli", at=ended)
    return seen_through(incident_id, wait)
