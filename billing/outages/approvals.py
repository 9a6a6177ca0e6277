"""Who says yes, to exactly which plan; and who stops it, and lets it go on."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import BadRequest, Conflict, NotAllowed, NotFound, PlanChanged
from billing.outages import changes, fingerprints, planning, ramp, runs, settlements, switch, terms, versions
from billing.outages.in_force import COUNTED, OVER
from billing.outages.models import Control, Incident, Run
from billing.outages.queries import find
from tenants import audit
from tenants.db import after_commit
from tenants.models import Agency, Member

T = TypeVar("T")

APPROVERS: Final = ("approver",)
STEERERS: Final = ("finance", "approver")


def approve(
    session: Session,
    now: datetime,
    incident_id: str,
    by: Member,
    fingerprint: str,
    origin: str,
    *,
    agencies: Collection[str] = (),
) -> list[Run]:
    """Say yes to the waiting runs of an incident, named by their common fingerprint, and ring for their sending.

    `agencies` are slugs: then only theirs, whose fingerprint is another one; what the others are owed goes on waiting.

    Everything is planned again first. Raises `PlanChanged` when the fingerprint is not that of what waits, or when the
    mirror would make another plan by now: then that plan waits in its place (committed here, although nothing is
    approved) and its fingerprint is in the message. Raises `NotAllowed` for whoever declared, changed or resolved the
    incident.
    """
    incident = find(session, incident_id)
    if by.id == incident.declared_by:
        raise NotAllowed("You declared this incident, so a second person has to approve its refunds.")
    if by.role not in APPROVERS:
        raise NotAllowed(f"{by.email} is {by.role}: refunds are approved by an approver.")
    planning.lock(session, planning.standing(session, incident_id))
    everything = runs.waiting_for(session, incident_id)
    only = {agency.id for agency in planning.agencies_of(session, list(agencies))}
    waiting = [run for run in everything if not only or run.agency_id in only]
    if not waiting:
        raise Conflict("Nothing of this incident waits for an approval.")
    if by.id in versions.authors(session, incident_id):
        raise NotAllowed("You have changed this incident, so a second person has to approve its refunds.")
    if fingerprint != (now_waiting := _together(waiting)):
        raise PlanChanged(f"The refunds changed since you looked. Review them again: they are {now_waiting} now.")
    _plan_again(session, now, incident, everything, origin, only)
    runs.approve(session, waiting, "person", by, now)
    for run in waiting:
        facts = {"run": run.id, "fingerprint": run.fingerprint}
        audit.record(session, by.email, origin, "run.approved", incident_id, agency_id=run.agency_id, after=facts)
    audit.record(
        session, by.email, origin, "incident.approved", incident_id,
        after={"fingerprint": fingerprint, "runs": [run.id for run in waiting]},
    )  # fmt: skip
    after_commit(session, "outages.send", incident_id)
    return waiting


def decline(
    session: Session,
    incident_id: str,
    by: Member,
    reason: str,
    origin: str,
    *,
    agencies: Collection[str] = (),
) -> list[Run]:
    """Say no to what waits, of all agencies or of those named, and why. What they are for stays owed.

    The next run plans it again: that of a change, of the resolution, or what `plan_again` asks for. Raises `BadRequest`
    without a reason, `Conflict` when nothing waits.
    """
    incident = find(session, incident_id)
    if by.role not in APPROVERS:
        raise NotAllowed(f"{by.email} is {by.role}: refunds are approved or declined by an approver.")
    if not reason.strip():
        raise BadRequest("Say why they are declined: the reason is kept with the runs.")
    planning.lock(session, planning.standing(session, incident.id))
    only = {agency.id for agency in planning.agencies_of(session, list(agencies))}
    waiting = [run for run in runs.waiting_for(session, incident_id) if not only or run.agency_id in only]
    if not waiting:
        raise Conflict("Nothing of this incident waits for an approval.")
    runs.decline(session, waiting, by, reason.strip())
    for run in waiting:
        facts = {"run": run.id, "fingerprint": run.fingerprint, "reason": reason.strip()}
        audit.record(session, by.email, origin, "run.declined", incident_id, agency_id=run.agency_id, after=facts)
    after_commit(session, "outages.release", incident_id)
    return waiting


def plan_again(session: Session, incident_id: str, by: Member, origin: str) -> None:
    """Have what was declined planned again, as it stands now: the new runs wait for an approval like any other.

    Raises `Conflict` where the last run of no agency was declined.
    """
    incident = find(session, incident_id)
    if by.role not in STEERERS:
        raise NotAllowed(f"{by.email} is {by.role}: refunds are planned by the operator's finance or an approver.")
    if incident.state not in COUNTED:
        raise Conflict(f"This incident is {incident.state}: nothing is owed for it.")
    agencies = settlements.what_was_declined(session, incident_id)
    if not agencies:
        raise Conflict("Nothing of this incident was declined, or it was planned again since.")
    for agency_id in agencies:
        audit.record(session, by.email, origin, "incident.planned_again", incident_id, agency_id=agency_id)


def halt(session: Session, incident_id: str, by: Member | None, origin: str) -> None:
    """Nothing of this incident is sent from the commit on: no refund, no pause, no release.

    What is in flight ends known. Safe to repeat.
    """
    _may_steer(by)
    find(session, incident_id)
    halted = session.execute(
        sa.update(Run)
        .where(Run.incident_id == incident_id, Run.state == "running")
        .values(state="halted", halted_by=by.id if by else None)
        .returning(Run.id)
    ).all()
    _turn(session, switch.of_incident(incident_id), by, origin, sending=False)
    _record_steering(session, by, origin, "incident.halted", incident_id, [row.id for row in halted])


def resume(session: Session, incident_id: str, by: Member | None, origin: str) -> None:
    """Go on after a halt. Raises `Conflict` when the incident is not halted."""
    _may_steer(by)
    find(session, incident_id)
    control = session.get(Control, switch.of_incident(incident_id), with_for_update=True)
    halted = sa.select(Run).where(Run.incident_id == incident_id, Run.state == "halted").order_by(Run.agency_id, Run.no)
    continued = session.scalars(halted.with_for_update()).all()
    if (control is None or control.sending) and not continued:
        raise Conflict("This incident is not halted.")
    for run in continued:
        run.state, run.halted_by = "running", None
        if run.halt_reason is not None:
            ramp.trust(run)
    _turn(session, switch.of_incident(incident_id), by, origin, sending=True)
    _record_steering(session, by, origin, "incident.continued", incident_id, [run.id for run in continued])
    _ring(session, incident_id)


def halt_scope(session: Session, account: str | None, by: Member | None, origin: str) -> None:
    """Nothing is sent on one account ('' being the operator's), or with None at all, from the commit on."""
    _may_steer(by)
    scope, name = _scope(session, account)
    _turn(session, scope, by, origin, sending=False)
    audit.record(session, by.email if by else "operator", origin, "sending.halted", name)


def resume_scope(session: Session, account: str | None, by: Member | None, origin: str) -> None:
    """Go on after `halt_scope`. Raises `Conflict` when that is not halted."""
    _may_steer(by)
    scope, name = _scope(session, account)
    control = session.get(Control, scope, with_for_update=True)
    if control is None or control.sending:
        restored = session.get(Control, "")
        if account is None and restored is not None and not restored.sending:
            raise Conflict(f"{restored.reason} Sending goes on by itself once everything was found again.")
        raise Conflict(f"Sending is not halted for {name}.")
    _turn(session, scope, by, origin, sending=True)
    audit.record(session, by.email if by else "operator", origin, "sending.continued", name)
    _ring(session, 0)


def _ring(session: Session, subject: int | str) -> None:
    for task in ("outages.hold", "outages.send", "outages.release"):
        after_commit(session, task, subject)


def _scope(session: Session, account: str | None) -> tuple[str, str]:
    if account is None:
        return switch.EVERYTHING, "everything"
    known = session.scalars(sa.select(Agency.stripe_account).where(Agency.stripe_account.is_not(None))).all()
    if account and account not in known:
        raise NotFound(f"No agency has the Stripe account {account[:80]}.")
    return switch.of_account(account), account or "the operator's account"


def _plan_again(
    session: Session, now: datetime, incident: Incident, waiting: list[Run], origin: str, only: set[int]
) -> None:
    """Raises `PlanChanged` where the same question has another answer by now, which then waits to be reviewed.

    With `only` the answers for other agencies do not matter. Customers of one that was made since choose first.
    """
    asked: defaultdict[tuple[str, datetime], dict[int, Run]] = defaultdict(dict)
    for run in waiting:
        asked[run.purpose, run.as_of][run.agency_id] = run
    outage = planning.standing(session, incident.id)
    if incident.state in COUNTED:
        settlements.keep_up(session, incident.id, now, settlements.policies(session, outage), goes_on=False)
    changed = False
    for (purpose, as_of), before in asked.items():
        kept = {agency_id: terms.of_json(run.terms) for agency_id, run in before.items() if run.terms}
        plan = planning.plan(session, outage, as_of, drafts=incident.state in OVER, kept=kept)
        elsewhere = {run.agency_id for run in waiting} - set(before)
        concerned = set(before)
        if purpose != "settle":  # which was due for these agencies alone
            concerned |= {one.agency_id for one in plan.agencies} - elsewhere
        found = {one.agency_id: one.fingerprint for one in plan.agencies if one.grants and one.agency_id in concerned}
        if only:
            found, before = _of(found, only), _of(before, only)
        if found == {agency_id: run.fingerprint for agency_id, run in before.items()}:
            continue
        changed = True
        starter = session.get_one(Member, next(iter(asked[purpose, as_of].values())).started_by)
        runs.freeze(session, plan, incident, starter, purpose, only=concerned)
    if changed:
        now_wait = [run for run in runs.waiting_for(session, incident.id) if not only or run.agency_id in only]
        fresh = _together(now_wait)
        looked_at = [run.id for run in waiting if not only or run.agency_id in only]
        different = changes.told(changes.between(session, looked_at, [run.id for run in now_wait]))
        audit.record(session, "engine", origin, "incident.planned_again", incident.id, after={"fingerprint": fresh})
        session.commit()  # the new plan stays although the approval is refused, or nobody could ever review it
        raise PlanChanged(
            f"The refunds changed since you looked{f': {different}' if different else ''}."
            f" Review them again: they are {fresh} now."
        )


def _of(by_agency: dict[int, T], only: set[int]) -> dict[int, T]:
    return {agency_id: one for agency_id, one in by_agency.items() if agency_id in only}


def _together(waiting: list[Run]) -> str:
    return fingerprints.of_incident((run.agency_id, run.fingerprint) for run in waiting)


def _may_steer(by: Member | None) -> None:
    """Whoever runs a command on the machine itself may always stop the engine; a person needs the role."""
    if by is not None and by.role not in STEERERS:
        raise NotAllowed(f"{by.email} is {by.role}: refunds are halted and continued by the operator's finance.")


def _turn(session: Session, scope: str, by: Member | None, origin: str, *, sending: bool) -> None:
    reason = "continued by a person" if sending else "halted by a person"
    switch.turn(session, scope, reason, by.email if by else origin, sending=sending)


def _record_steering(
    session: Session, by: Member | None, origin: str, action: str, incident_id: str, changed: list[str]
) -> None:
    audit.record(session, by.email if by else "operator", origin, action, incident_id, after={"runs": changed})
