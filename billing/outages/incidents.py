"""Declare an outage, resolve it, think again about it. One transaction each: after its commit nothing can be lost."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import catalog
from billing.errors import BadRequest, Conflict, NotAllowed, PlanChanged, Refused
from billing.models import Platform
from billing.outages import automatic, fates, goodwill, holds, news, planning, runs, scopes, settlements, versions
from billing.outages.in_force import COUNTED, EVERYBODY, OVER, Outage, Reach
from billing.outages.models import Grant, Incident, Run
from billing.outages.planning import Declaration
from billing.outages.queries import find
from billing.windows import iso
from tenants.db import after_commit
from tenants.models import Agency, Member

__all__ = ["Change", "Declaration", "change", "declare", "find", "reopen", "resolve", "retire", "retract"]

ONE_AGENCYS: Final = ("agency-admin", "agency-finance")
LONGEST: Final = timedelta(days=366)
"""What lasts longer is declared only by whoever has seen what it gives: it may be a slip of the year."""
CHANGEABLE: Final = ("declared", "resolved")


@dataclass(frozen=True)
class Change:
    """What is to be different from now on; None: that stays. `agencies` are slugs, an empty tuple: all of them."""

    started_at: datetime | None = None
    ended_at: datetime | None = None
    impact_bp: int | None = None
    agencies: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Was:
    """An incident before somebody thought again: how it stood, and what an audit entry says of that."""

    outage: Outage
    facts: dict[str, Any]


def declare(
    session: Session,
    clock_now: datetime,
    declaration: Declaration,
    by: Member,
    origin: str,
    *,
    as_of: datetime | None = None,
    expected_fingerprint: str | None = None,
    id: str | None = None,
) -> Incident:
    """Write the incident with its scope, first update, pauses, runs and audit entries. Pausing begins after the commit.

    `as_of` and `expected_fingerprint` are those of a preview: the plan is made as of then, and refused with
    `PlanChanged` when it is another. `id` is that of the suspected incident that is confirmed by this. Raises
    `AlreadyDeclared` when the same outage stands already.
    """
    _may_declare(session, declaration, by)
    if (declaration.ended_at or clock_now) - declaration.started_at > LONGEST and expected_fingerprint is None:
        raise Refused(
            f"That outage lasts longer than a year, since {iso(declaration.started_at)}: if that is meant, preview it,"
            " and declare it with the fingerprint of that."
        )
    outage = planning.proposed(session, declaration)
    planned_as_of = _as_of(clock_now, as_of)
    planning.lock(session, outage)
    platform = catalog.platform_called(session, outage.platform)
    incident = _write(session, clock_now, declaration, outage, platform, by, id or f"inc_{secrets.token_hex(8)}")
    settlements.begin(session, planning.standing(session, incident.id), clock_now)
    plan = planning.plan(session, planning.standing(session, incident.id), planned_as_of)
    if expected_fingerprint not in (None, plan.fingerprint):
        raise PlanChanged(f"The refunds changed since you looked. Review them again: they are {plan.fingerprint} now.")
    holds.follow(session, incident.id, holds=_goes_on(incident, clock_now))
    made = runs.freeze(session, plan, incident, by, "declare")
    automatic.approve_within_limits(session, clock_now, made, origin)
    after = versions.facts(session, incident, outage.agencies)
    versions.record(session, by, origin, "incident.declared", plan, after)
    after_commit(session, "outages.hold", incident.id)
    return incident


def resolve(
    session: Session, clock_now: datetime, incident_id: str, by: Member, origin: str, *, at: datetime | None = None
) -> Incident:
    """The outage ended at `at`, or now. Plans what is still owed, held drafts included; releases follow that run."""
    incident, was = _taken(session, incident_id, by, "resolved")
    if incident.state != "declared":
        raise Conflict(f"This incident is {incident.state} already.")
    ended_at = at or min(incident.ended_at or clock_now, clock_now)
    _refuse_window(incident.started_at, ended_at, clock_now)
    incident.state, incident.ended_at = "resolved", ended_at
    incident.resolved_by, incident.resolved_at = by.id, clock_now
    name = session.get_one(Platform, incident.platform_id).name
    paused = was.outage.ended_at is None or was.outage.ended_at > incident.declared_at
    told = news.resolved(name, ended_at, paused=paused, gives_back=_gives_back(session, was.outage))
    _follow(session, clock_now, incident, was, by, origin, "resolve", f"It ended at {iso(ended_at)}.", told)
    return incident


def change(
    session: Session,
    clock_now: datetime,
    incident_id: str,
    wanted: Change,
    by: Member,
    origin: str,
    *,
    reason: str = "",
    message: str = "",
) -> Incident:
    """Another start, end, impact or scope from the beginning on. The next run pays the difference and nothing else.

    What was given for time that was not lost after all stays with the customers, as goodwill. Where less was lost than
    an approved run had counted, what that run has not begun to send is called off and planned anew.
    """
    incident, was = _taken(session, incident_id, by, "changed", also=_numbers(session, wanted.agencies))
    if incident.state not in CHANGEABLE:
        raise Conflict(f"This incident is {incident.state}: there is nothing left to change. Declare a new one.")
    agencies = was.outage.agencies if wanted.agencies is None else _numbers(session, wanted.agencies)
    if by.agency_id is not None and agencies != was.outage.agencies:
        raise NotAllowed("Which agencies an incident covers is changed by the operator's finance.")
    if wanted.ended_at is not None and incident.ended_at is None:
        raise Conflict(f"It is still going on: resolve it, and say that it ended at {iso(wanted.ended_at)}.")
    incident.started_at = wanted.started_at or incident.started_at
    incident.ended_at = wanted.ended_at or incident.ended_at
    incident.impact_bp = wanted.impact_bp or incident.impact_bp
    _refuse_window(incident.started_at, incident.ended_at, clock_now)
    now_said = (incident.started_at, incident.ended_at, incident.impact_bp, agencies)
    if now_said == (was.outage.started_at, was.outage.ended_at, was.outage.impact_bp, was.outage.agencies):
        raise Refused("That is what it says already: name another start, end, impact or scope.")
    name = session.get_one(Platform, incident.platform_id).name
    ours = news.changed(name, incident.started_at, incident.ended_at) if now_said[:3] != _timing(was.outage) else ""
    why = reason.strip() or "What is known about it changed."
    _follow(session, clock_now, incident, was, by, origin, "change", why, message or ours, agencies=agencies)
    return incident


def reopen(
    session: Session,
    clock_now: datetime,
    incident_id: str,
    by: Member,
    origin: str,
    *,
    reason: str = "",
    message: str = "",
) -> Incident:
    """It had not ended: billing is held again, and what was lost since is planned. Raises `Conflict` if it is open."""
    incident, was = _taken(session, incident_id, by, "reopened")
    if incident.state != "resolved":
        raise Conflict(f"This incident is {incident.state}: only a resolved one can be reopened.")
    incident.state, incident.ended_at = "declared", None
    incident.resolved_by = incident.resolved_at = None
    name = session.get_one(Platform, incident.platform_id).name
    told = message or news.reopened(name, gives_back=_gives_back(session, was.outage))
    why = reason.strip() or "It goes on after all."
    _follow(session, clock_now, incident, was, by, origin, "reopen", why, told)
    return incident


def retract(
    session: Session,
    clock_now: datetime,
    incident_id: str,
    by: Member,
    origin: str,
    *,
    reason: str,
    message: str = "",
) -> Incident:
    """It was no outage. Nothing that has not begun is sent, pauses are lifted, and what was given stays given."""
    if not reason.strip():
        raise BadRequest("Say why it is retracted: the reason is kept with the incident.")
    incident, was = _taken(session, incident_id, by, "retracted")
    if incident.state == "retracted":
        raise Conflict("This incident is retracted already.")
    was_told = incident.state != "suspected"
    gave_up = fates.call_off(session, incident.id, "The incident was retracted before this was done.")
    incident.state = "retracted"
    told = (message or news.retracted(gave_up=gave_up)) if was_told else ""
    _follow(session, clock_now, incident, was, by, origin, "retract", reason.strip(), told)
    return incident


def retire(
    session: Session,
    clock_now: datetime,
    incident_id: str,
    by: Member,
    origin: str,
    *,
    reason: str,
    moves: Mapping[str, str] | None = None,
    message: str = "",
) -> Incident:
    """The platform does not come back: the rest of what was paid for it goes back, and nobody is billed for it again.

    Subscriptions that live on it alone are cancelled, others move to the plans that `moves` {plan: plan} names, from
    their next period on. Raises `BadRequest` where a plan that has more in it is given no successor, and `Conflict`
    where the incident does not take all that the platform carries.
    """
    if not reason.strip():
        raise BadRequest("Say why it does not come back: the reason is kept with the incident.")
    if by.role != "finance":
        raise NotAllowed(f"{by.email} is {by.role}: a platform is given up by the operator's finance.")
    incident, was = _taken(session, incident_id, by, "retired")
    if incident.state != "declared" or incident.ended_at is not None:
        raise Conflict(f"This incident is {incident.state}: only one that still goes on can end for good.")
    if incident.impact_bp < fates.WHOLE:
        raise Conflict(
            "This incident takes only a part of what the platform carries, and no more than that part of what is paid"
            " ahead would go back. Declare one with an impact of 10000, from when nothing was left, and retire that."
        )
    platform = session.get_one(Platform, incident.platform_id)
    fates.check_moves(session, moves or {}, platform.slug)
    fates.write(session, incident.id, platform.slug, was.outage.agencies, moves or {})
    incident.state = "retired"
    told = message or news.retired(platform.name, gives_back=_gives_back(session, was.outage))
    _follow(session, clock_now, incident, was, by, origin, "retire", reason.strip(), told)
    after_commit(session, "outages.retire", incident.id)
    return incident


def _taken(
    session: Session, incident_id: str, by: Member, what: str, also: frozenset[int] = frozenset()
) -> tuple[Incident, _Was]:
    """The incident, locked with all agencies that it touches or is to touch, for somebody who may change it."""
    incident = find(session, incident_id)
    if by.role != "finance" and not (by.role == "agency-finance" and incident.agency_id == by.agency_id):
        raise NotAllowed(f"{by.email} is {by.role}: an incident is {what} by the operator's finance.")
    outage = planning.standing(session, incident_id)
    reach = Reach(outage.reach.since, outage.reach.until, outage.reach.agencies | also)
    planning.lock(session, replace(outage, earlier=reach))
    # Whoever only refers to it need not wait: a worker that notes something for it may have what this waits for.
    session.refresh(incident, with_for_update={"key_share": True})
    outage = planning.standing(session, incident_id)
    return incident, _Was(outage, versions.facts(session, incident, outage.agencies))


def _follow(
    session: Session,
    now: datetime,
    incident: Incident,
    was: _Was,
    by: Member,
    origin: str,
    purpose: str,
    reason: str,
    told: str,
    *,
    agencies: frozenset[int] | None = None,
) -> None:
    """Everything that follows from what the incident's row says now: scope, version, money, pauses, words."""
    agencies = was.outage.agencies if agencies is None else agencies
    session.flush()
    unsent = _not_begun(session, incident.id) if incident.state == "retracted" else []
    scopes.write(session, incident, agencies)
    what = f"{purpose}{'d' if purpose.endswith('e') else 'ed'}"
    versions.keep(session, incident, agencies, what, reason, by, now)
    outage = planning.standing(session, incident.id)
    if too_much := [run.id for run in _approved(session, incident.id) if _counted_too_much(run, was.outage, outage)]:
        runs.call_off(session, too_much, f"The incident was {what} before this was sent.")
    if incident.state == "declared":
        settlements.begin(session, outage, now)
    elif incident.state in COUNTED:
        policies = settlements.policies(session, outage)
        settlements.keep_up(session, incident.id, now, policies, goes_on=False)
    plan = planning.plan(session, outage, now, drafts=incident.state in OVER)
    goodwill.record(session, plan)
    made = runs.freeze(session, plan, incident, by, purpose)
    automatic.approve_within_limits(session, now, made, origin)
    for agency_id in unsent:
        settlements.of_the_others(session, agency_id, outage)
    holds.follow(session, incident.id, holds=_goes_on(incident, now))
    if told:
        versions.publish(session, incident, told, by, now)
    after = versions.facts(session, incident, agencies) | {"reason": reason}
    versions.record(session, by, origin, f"incident.{what}", plan, after, was.facts)
    for task in ("outages.hold", "outages.send", "outages.release"):
        after_commit(session, task, incident.id)


def _not_begun(session: Session, incident_id: str) -> Sequence[int]:
    """The agencies for which money of an incident is planned that has not begun to go out."""
    begins = Grant.state.in_(("planned", "approved", "blocked"))
    wanted = sa.select(Grant.agency_id).where(Grant.incident_id == incident_id, begins).distinct()
    return session.scalars(wanted.order_by(Grant.agency_id)).all()


def _approved(session: Session, incident_id: str) -> Sequence[Run]:
    wanted = sa.select(Run).where(Run.incident_id == incident_id, Run.state.in_(("running", "halted", "done")))
    return session.scalars(wanted.order_by(Run.agency_id, Run.no)).all()


def _counted_too_much(run: Run, was: Outage, now: Outage) -> bool:
    """Whether a run gives something back for seconds, or for a share of them, that were not lost as we see it now."""
    counted_to = run.as_of if was.ended_at is None else min(was.ended_at, run.as_of)
    return (
        not now.covers(run.agency_id)
        or now.impact_bp < was.impact_bp
        or now.started_at > was.started_at
        or (now.ended_at is not None and now.ended_at < counted_to)
    )


def _goes_on(incident: Incident, now: datetime) -> bool:
    return incident.state == "declared" and (incident.ended_at is None or incident.ended_at > now)


def _timing(outage: Outage) -> tuple[datetime, datetime | None, int]:
    return outage.started_at, outage.ended_at, outage.impact_bp


def _gives_back(session: Session, outage: Outage) -> bool:
    """Whether every agency that it covers gives something back for it."""
    return all(one.grants != "none" for one in settlements.policies(session, outage).values())


def _numbers(session: Session, slugs: tuple[str, ...] | None) -> frozenset[int]:
    if slugs is None:
        return frozenset()
    return frozenset(agency.id for agency in planning.agencies_of(session, slugs)) or frozenset({EVERYBODY})


def _may_declare(session: Session, declaration: Declaration, by: Member) -> None:
    if by.role == "finance":
        return
    if by.role in ONE_AGENCYS and by.agency_id is not None:
        own = session.get_one(Agency, by.agency_id).slug
        if by.role == "agency-finance" and declaration.agencies == (own,):
            return
        raise NotAllowed(f"{by.email} is {by.role} of {own}: its finance may declare an outage for {own} alone.")
    raise NotAllowed(f"{by.email} is {by.role}: an outage is declared by the operator's finance.")


def _as_of(now: datetime, as_of: datetime | None) -> datetime:
    if as_of is None:
        return now
    if as_of > now:
        raise BadRequest(f"A plan cannot be made as of {iso(as_of)}: it is {iso(now)} now.")
    if as_of < now - planning.MOST_STALE:
        raise PlanChanged("That preview is more than an hour old. Preview again, and review what it shows.")
    return as_of


def _refuse_window(started_at: datetime, ended_at: datetime | None, now: datetime) -> None:
    if started_at > now:
        raise Refused(f"An outage cannot begin in the future: it is {iso(now)} now.")
    if ended_at is not None and ended_at > now:
        raise Refused(f"An outage cannot have ended in the future: it is {iso(now)} now.")
    if ended_at is not None and ended_at <= started_at:
        raise Refused(f"It began at {iso(started_at)}, so it cannot have ended at {iso(ended_at)}.")


def _write(
    session: Session, now: datetime, declaration: Declaration, outage: Outage, platform: Platform, by: Member, id: str
) -> Incident:
    incident = Incident(
        id=id,
        agency_id=by.agency_id,
        platform_id=platform.id,
        title=declaration.title or f"{platform.name} outage",
        state="declared",
        started_at=declaration.started_at,
        ended_at=declaration.ended_at,
        impact_bp=declaration.impact_bp,
        policy=declaration.policy,
        declared_by=by.id,
        declared_at=now,
        promise_at=settlements.promised(now, settlements.policies(session, outage).values()),
    )
    session.add(incident)
    session.flush()
    scopes.write(session, incident, outage.agencies)
    versions.keep(session, incident, outage.agencies, "declared", "", by, now)
    told = declaration.message or news.declared(
        platform.name, incident.started_at, incident.ended_at, goes_on=_goes_on(incident, now),
        gives_back=_gives_back(session, outage),
    )  # fmt: skip
    versions.publish(session, incident, told, by, now)
    return incident
