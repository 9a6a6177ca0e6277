"""Who says yes, to exactly which plan; and who stops it, and lets it go on."""

from collections import defaultdict
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.errors import Conflict, NotAllowed, PlanChanged
from billing.outages import fingerprints, planning, runs
from billing.outages.models import Control, Incident, Run
from billing.outages.queries import find
from tenants import audit
from tenants.db import after_commit
from tenants.models import Member

APPROVERS: Final = ("approver",)
STEERERS: Final = ("finance", "approver")


def approve(session: Session, now: datetime, incident_id: str, by: Member, fingerprint: str, origin: str) -> list[Run]:
    """Say yes to the waiting runs of an incident, named by their common fingerprint, and ring for their sending.

    Everything is planned again first. Raises `PlanChanged` when the fingerprint is not that of what waits, or when the
    mirror would make another plan by now: then that plan waits in its place (committed here, although nothing is
    approved) and its fingerprint is in the message. Raises `NotAllowed` for whoever declared or resolved the incident.
    """
    incident = find(session, incident_id)
    if by.id == incident.declared_by:
        raise NotAllowed("You declared this incident, so a second person has to approve its refunds.")
    if by.role not in APPROVERS:
        raise NotAllowed(f"{by.email} is {by.role}: refunds are approved by an approver.")
    planning.lock(session, planning.standing(session, incident_id))
    waiting = runs.waiting_for(session, incident_id)
    if not waiting:
        raise Conflict("Nothing of this incident waits for an approval.")
    if by.id in {run.started_by for run in waiting}:
        raise NotAllowed("You started these refunds, so a second person has to approve them.")
    if fingerprint != (now_waiting := _together(waiting)):
        raise PlanChanged(f"The refunds changed since you looked. Review them again: they are {now_waiting} now.")
    _plan_again(session, incident, waiting, origin)
    _mark_approved(session, waiting, by, now)
    for run in waiting:
        facts = {"run": run.id, "fingerprint": run.fingerprint}
        audit.record(session, by.email, origin, "run.approved", incident_id, agency_id=run.agency_id, after=facts)
    audit.record(
        session, by.email, origin, "incident.approved", incident_id,
        after={"fingerprint": fingerprint, "runs": [run.id for run in waiting]},
    )  # fmt: skip
    after_commit(session, "outages.send", incident_id)
    return waiting


def halt(session: Session, incident_id: str, by: Member | None, origin: str) -> None:
    """Nothing of this incident is sent from the commit on; what is in flight ends known. Safe to repeat."""
    _may_steer(by)
    find(session, incident_id)
    halted = session.execute(
        sa.update(Run)
        .where(Run.incident_id == incident_id, Run.state == "running")
        .values(state="halted", halted_by=by.id if by else None)
        .returning(Run.id)
    ).all()
    _switch(session, incident_id, by, origin, sending=False)
    _record_steering(session, by, origin, "incident.halted", incident_id, [row.id for row in halted])


def resume(session: Session, incident_id: str, by: Member | None, origin: str) -> None:
    """Go on after a halt. Raises `Conflict` when the incident is not halted."""
    _may_steer(by)
    find(session, incident_id)
    control = session.get(Control, _scope(incident_id), with_for_update=True)
    if control is None or control.sending:
        raise Conflict("This incident is not halted.")
    continued = session.execute(
        sa.update(Run)
        .where(Run.incident_id == incident_id, Run.state == "halted")
        .values(state="running", halted_by=None)
        .returning(Run.id)
    ).all()
    _switch(session, incident_id, by, origin, sending=True)
    _record_steering(session, by, origin, "incident.continued", incident_id, [row.id for row in continued])
    after_commit(session, "outages.send", incident_id)


def _plan_again(session: Session, incident: Incident, waiting: list[Run], origin: str) -> None:
    """Raises `PlanChanged` where the same question has another answer by now, which then waits to be reviewed."""
    asked: defaultdict[tuple[str, datetime], dict[int, Run]] = defaultdict(dict)
    for run in waiting:
        asked[run.purpose, run.as_of][run.agency_id] = run
    outage = planning.standing(session, incident.id)
    changed = False
    for (purpose, as_of), before in asked.items():
        plan = planning.plan(session, outage, as_of, drafts=purpose == "resolve")
        found = {one.agency_id: one.fingerprint for one in plan.agencies if one.grants}
        if found == {agency_id: run.fingerprint for agency_id, run in before.items()}:
            continue
        changed = True
        starter = session.get_one(Member, next(iter(before.values())).started_by)
        runs.freeze(session, plan, incident, starter, purpose)
    if changed:
        fresh = _together(runs.waiting_for(session, incident.id))
        audit.record(session, "engine", origin, "incident.planned_again", incident.id, after={"fingerprint": fresh})
        session.commit()  # the new plan stays although the approval is refused, or nobody could ever review it
        raise PlanChanged(f"The refunds changed since you looked. Review them again: they are {fresh} now.")


def _mark_approved(session: Session, waiting: list[Run], by: Member, now: datetime) -> None:
    ids = [run.id for run in waiting]
    runs.claim_the_past(session, ids)
    for run in waiting:
        run.state, run.approval, run.approved_by, run.approved_at = "running", "person", by.id, now
        run.approved_fingerprint = run.fingerprint
    session.flush()
    runs.make_steps(session, ids)


def _together(waiting: list[Run]) -> str:
    return fingerprints.of_incident((run.agency_id, run.fingerprint) for run in waiting)


def _may_steer(by: Member | None) -> None:
    """Whoever runs a command on the machine itself may always stop the engine; a person needs the role."""
    if by is not None and by.role not in STEERERS:
        raise NotAllowed(f"{by.email} is {by.role}: refunds are halted and continued by the operator's finance.")


def _scope(incident_id: str) -> str:
    return f"incident:{incident_id}"


def _switch(session: Session, incident_id: str, by: Member | None, origin: str, *, sending: bool) -> None:
    facts = {
        "sending": sending,
        "reason": "continued by a person" if sending else "halted by a person",
        "by": by.email if by else origin,
    }
    session.execute(
        insert(Control)
        .values(scope=_scope(incident_id), **facts)
        .on_conflict_do_update(index_elements=["scope"], set_={**facts, "at": sa.func.now()})
    )
    session.expire_all()


def _record_steering(
    session: Session, by: Member | None, origin: str, action: str, incident_id: str, changed: list[str]
) -> None:
    audit.record(session, by.email if by else "operator", origin, action, incident_id, after={"runs": changed})
