"""Declare an outage, resolve it, find it. One transaction each: after its commit nothing can be lost."""

import secrets
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing.errors import AlreadyDeclared, BadRequest, Conflict, NotAllowed, PlanChanged, Refused
from billing.models import Platform
from billing.outages import planning, planning_sql, runs
from billing.outages.in_force import EVERYBODY, Outage, weights_of_plans
from billing.outages.models import Incident, IncidentScope, Update
from billing.outages.planning import Declaration, Plan
from billing.outages.queries import find
from billing.windows import in_words, iso
from tenants import audit
from tenants.db import after_commit
from tenants.models import Agency, Member

__all__ = ["Declaration", "declare", "find", "resolve"]

ONE_AGENCYS: Final = ("agency-admin", "agency-finance")


def declare(
    session: Session,
    clock_now: datetime,
    declaration: Declaration,
    by: Member,
    origin: str,
    *,
    as_of: datetime | None = None,
    expected_fingerprint: str | None = None,
) -> Incident:
    """Write the incident with its scope, first update, pauses, runs and audit entries. Pausing begins after the commit.

    `as_of` and `expected_fingerprint` are those of a preview: the plan is made as of then, and refused with
    `PlanChanged` when it is another. Raises `AlreadyDeclared` when the same outage stands already.
    """
    _may_declare(session, declaration, by)
    outage = planning.proposed(session, declaration)
    planned_as_of = _as_of(clock_now, as_of)
    planning.lock(session, outage)
    platform = planning.platform_called(session, outage.platform)
    incident = _write(session, clock_now, declaration, outage, platform, by)
    plan = planning.plan(session, planning.standing(session, incident.id), planned_as_of)
    if expected_fingerprint and expected_fingerprint != plan.fingerprint:
        raise PlanChanged(f"The refunds changed since you looked. Review them again: they are {plan.fingerprint} now.")
    if declaration.ended_at is None or declaration.ended_at > clock_now:
        _plan_pauses(session, incident, platform)
    runs.freeze(session, plan, incident, by, "declare")
    _record(session, by, origin, "incident.declared", incident, plan)
    after_commit(session, "outages.hold", incident.id)
    return incident


def resolve(
    session: Session, clock_now: datetime, incident_id: str, by: Member, origin: str, *, at: datetime | None = None
) -> Incident:
    """The outage ended at `at`, or now. Plans what is still owed, held drafts included; releases follow that run."""
    incident = find(session, incident_id)
    if by.role != "finance":
        raise NotAllowed(f"{by.email} is {by.role}: an incident is resolved by the operator's finance.")
    planning.lock(session, _standing(session, incident))
    session.refresh(incident, with_for_update=True)
    ended_at = at or min(incident.ended_at or clock_now, clock_now)
    _refuse_end(incident, ended_at, clock_now)
    before = {"state": incident.state, "ended_at": iso(incident.ended_at) if incident.ended_at else None}
    incident.state, incident.ended_at = "resolved", ended_at
    incident.resolved_by, incident.resolved_at = by.id, clock_now
    session.flush()
    _scope_ends(session, incident)
    plan = planning.plan(session, planning.standing(session, incident_id), clock_now, drafts=True)
    runs.freeze(session, plan, incident, by, "resolve")
    name = session.get_one(Platform, incident.platform_id).name
    over = f"{name} works for us again since {in_words(ended_at)}. What was lost until then is given back now, and"
    _publish(session, incident, f"{over} billing resumes once that is done.", by, clock_now)
    _record(session, by, origin, "incident.resolved", incident, plan, before)
    after_commit(session, "outages.release", incident.id)
    return incident


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


def _refuse_end(incident: Incident, ended_at: datetime, now: datetime) -> None:
    if incident.state != "declared":
        raise Conflict(f"This incident is {incident.state} already.")
    if ended_at > now:
        raise Refused(f"An outage cannot have ended in the future: it is {iso(now)} now.")
    if ended_at <= incident.started_at:
        raise Refused(f"It began at {iso(incident.started_at)}, so it cannot have ended at {iso(ended_at)}.")


def _standing(session: Session, incident: Incident) -> Outage:
    if incident.state not in ("declared", "resolved"):
        raise Conflict(f"This incident is {incident.state}.")
    return planning.standing(session, incident.id)


def _write(
    session: Session, now: datetime, declaration: Declaration, outage: Outage, platform: Platform, by: Member
) -> Incident:
    days = sa.select(sa.func.min(Agency.promise_days))
    if EVERYBODY not in outage.agencies:
        days = days.where(Agency.id.in_(outage.agencies))
    incident = Incident(
        id=f"inc_{secrets.token_hex(8)}",
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
        promise_at=_business_days_after(now, session.scalar(days) or 0),
    )
    session.add(incident)
    session.flush()
    _write_scope(session, incident, platform, outage)
    message = declaration.message or (
        f"{platform.name} has not been available to us since {in_words(incident.started_at)}. Billing is paused for"
        " everything that depends on it, and the time that you paid for and lost goes back to you."
    )
    _publish(session, incident, message, by, now)
    return incident


def _write_scope(session: Session, incident: Incident, platform: Platform, outage: Outage) -> None:
    try:
        with session.begin_nested():
            session.execute(
                sa.insert(IncidentScope),
                [
                    {
                        "incident_id": incident.id, "agency_id": agency_id, "platform_id": incident.platform_id,
                        "impact_bp": incident.impact_bp, "during": _during(incident),
                    }
                    for agency_id in sorted(outage.agencies)
                ],
            )  # fmt: skip
    except IntegrityError as error:
        _say_which_overlaps(session, incident, platform, outage, error)


def _say_which_overlaps(
    session: Session, incident: Incident, platform: Platform, outage: Outage, error: IntegrityError
) -> None:
    if "not_declared_twice" not in str(error.orig):
        raise error
    overlapping = session.scalar(
        sa.select(Incident)
        .join(IncidentScope, IncidentScope.incident_id == Incident.id)
        .where(
            IncidentScope.live,
            IncidentScope.agency_id.in_(outage.agencies),
            IncidentScope.platform_id == incident.platform_id,
            IncidentScope.impact_bp == incident.impact_bp,
            IncidentScope.during.overlaps(_during(incident)),
            Incident.id != incident.id,
        )
        .order_by(Incident.started_at)
        .limit(1)
    )
    which = f"incident {overlapping.id}, which began at {iso(overlapping.started_at)}" if overlapping else "another one"
    raise AlreadyDeclared(f"{platform.name} is declared for that time already: it overlaps {which}. Go on with that.")


def _scope_ends(session: Session, incident: Incident) -> None:
    try:
        with session.begin_nested():
            session.execute(
                sa.update(IncidentScope)
                .where(IncidentScope.incident_id == incident.id)
                .values(during=_during(incident))
                .execution_options(synchronize_session=False)
            )
    except IntegrityError as error:
        raise Conflict("With that end it would overlap another incident of the same platform.") from error


def _during(incident: Incident) -> Range[datetime]:
    return Range(incident.started_at, incident.ended_at, bounds="[)")


def _business_days_after(moment: datetime, days: int) -> datetime:
    """Monday to Friday, in UTC: the promise is about people's working days, of which nobody's holidays are known."""
    while days > 0:
        moment += timedelta(days=1)
        days -= moment.weekday() < 5
    return moment


def _publish(session: Session, incident: Incident, body: str, by: Member, at: datetime) -> None:
    session.add(Update(incident_id=incident.id, state=incident.state, body=body, published_by=by.id, published_at=at))


def _plan_pauses(session: Session, incident: Incident, platform: Platform) -> None:
    """A hold per affected subscription, and on the drafts and open invoices of it that would be collected."""
    plans = weights_of_plans(session).plans_on(platform.slug)
    session.execute(sa.text(_PAUSES), {"incident": incident.id, "plans": plans})
    session.execute(sa.text(_HELD_INVOICES), {"incident": incident.id})


def _record(
    session: Session,
    by: Member,
    origin: str,
    action: str,
    incident: Incident,
    plan: Plan,
    before: dict[str, str | None] | None = None,
) -> None:
    """One entry in the operator's chain, and one in the chain of each agency that it touches."""
    facts = {
        "platform": plan.outage.platform,
        "started_at": iso(incident.started_at),
        "ended_at": incident.ended_at and iso(incident.ended_at),
        "state": incident.state,
        "impact": incident.impact_bp,
        "policy": incident.policy,
    }
    everything = {**facts, "as_of": iso(plan.as_of), "fingerprint": plan.fingerprint, "totals": plan.totals}
    audit.record(
        session, by.email, origin, action, incident.id, before=before, after={**everything, "pauses": plan.pauses}
    )
    for one in plan.agencies:
        own = {**facts, "fingerprint": one.fingerprint, "totals": list(one.totals), "pauses": one.pauses}
        audit.record(session, by.email, origin, action, incident.id, agency_id=one.agency_id, before=before, after=own)


_PAUSES: Final = f"""
INSERT INTO pauses (agency_id, incident_id, subscription_id, behavior, state, renews_at)
SELECT s.agency_id, :incident, s.id, a.hold_behavior, 'planned', s.renews_at
FROM ({planning_sql.TO_PAUSE}) s JOIN agencies a ON a.id = s.agency_id ORDER BY s.renews_at, s.id
"""  # noqa: S608 - constants only
_HELD_INVOICES: Final = """
INSERT INTO held_invoices (agency_id, invoice_id, pause_id, kind, found_auto_advance, state)
SELECT i.agency_id, i.id, p.id, i.status, i.auto_advance, 'planned'
FROM pauses p JOIN invoices i ON i.agency_id = p.agency_id AND i.subscription_id = p.subscription_id
WHERE p.incident_id = :incident AND i.status IN ('draft', 'open') AND i.auto_advance
"""
