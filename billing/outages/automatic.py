"""Approval without a person, within limits that somebody else set beforehand; and the setting of those limits."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing.errors import BadRequest, Conflict, NotAllowed
from billing.outages import runs, versions
from billing.outages.allowances import ApprovalLimit, LimitDay
from billing.outages.models import Run, RunTotal
from billing.windows import iso
from tenants import audit, currencies
from tenants.db import after_commit
from tenants.models import Agency, Member

SETTERS: Final = ("finance", "approver")
MOST: Final = 10**12


def set_limit(
    session: Session, now: datetime, agency: Agency, currency: str, per_run: int, per_day: int, by: Member, origin: str
) -> ApprovalLimit:
    """From now on so much approves itself: per incident and day, and per day for all incidents together.

    It counts for incidents that are declared later, by somebody else. 0: a person approves everything. Raises
    `NotAllowed`, and `BadRequest` for what is no limit.
    """
    if by.role not in SETTERS and not (by.role == "agency-admin" and by.agency_id == agency.id):
        raise NotAllowed(
            f"{by.email} is {by.role}: limits are set by an agency's admin or the operator's finance and approvers."
        )
    if not (currency.islower() and currencies.is_currency(currency)):
        raise BadRequest(f"{currency[:20]!r} is no currency: write it as three small letters, e.g. usd.")
    if not 0 <= per_run <= per_day <= MOST:
        raise BadRequest("A limit is 0 or more of the currency's smallest unit, per run no more than per day.")
    # Two people who set it at once must not both be its next version.
    session.execute(sa.select(Agency.id).where(Agency.id == agency.id).with_for_update(key_share=True))
    before = limit_of(session, agency.id, currency)
    if before is not None and before.set_at > now:
        raise Conflict(f"It was set at {iso(before.set_at)}, which lies ahead: try again then.")
    made = ApprovalLimit(
        agency_id=agency.id, currency=currency, no=(before.no if before else 0) + 1, per_run=per_run, per_day=per_day,
        set_by=by.id, set_at=now,
    )  # fmt: skip
    session.add(made)
    session.flush()
    audit.record(
        session, by.email, origin, "agency.limit", agency.slug, agency_id=agency.id,
        before=to_json(before) if before else None, after=to_json(made),
    )  # fmt: skip
    return made


def limit_of(session: Session, agency_id: int, currency: str) -> ApprovalLimit | None:
    """The limit as it was set last."""
    found = sa.select(ApprovalLimit).where(ApprovalLimit.agency_id == agency_id, ApprovalLimit.currency == currency)
    return session.scalar(found.order_by(ApprovalLimit.no.desc()).limit(1))


def limits_of(session: Session, agency_id: int) -> list[ApprovalLimit]:
    """The limit in force of each currency that ever had one."""
    newest = sa.select(ApprovalLimit).where(ApprovalLimit.agency_id == agency_id)
    newest = newest.ext(distinct_on(ApprovalLimit.currency)).order_by(ApprovalLimit.currency, ApprovalLimit.no.desc())
    return list(session.scalars(newest))


def to_json(limit: ApprovalLimit) -> dict[str, Any]:
    return {
        "currency": limit.currency, "per_run": limit.per_run, "per_day": limit.per_day, "set_at": iso(limit.set_at),
    }  # fmt: skip


def approve_within_limits(session: Session, now: datetime, made: Sequence[Run], origin: str) -> list[Run]:
    """Approve those of these waiting runs that their agencies' limits allow, each currency of them; and ring.

    The caller holds the planning lock of their agencies. What one incident had approved by itself on this day counts,
    so that nothing is gained by splitting it; and so does what all others had. A limit that is not older than the
    declaration, or was set by somebody who declared or changed the incident, is unusable: then a person must approve.
    So must a person where the last run was declined: what is planned after a no waits for a yes.
    """
    approved = []
    for run in made:
        if run.state != "waiting" or (limits := _usable(session, run, now)) is None:
            continue
        try:
            with session.begin_nested():
                for limit, amount in limits:
                    use_up(session, limit, now.date(), amount)
                _approve(session, run, max((limit for limit, _ in limits), key=lambda one: one.set_at), now)
        except IntegrityError as error:
            if "automatic_within_the_day" not in str(error.orig):
                raise
            session.refresh(run)
            continue
        facts = {"run": run.id, "fingerprint": run.fingerprint, "limits": [to_json(limit) for limit, _ in limits]}
        audit.record(session, "engine", origin, "run.approved", run.incident_id, agency_id=run.agency_id, after=facts)
        approved.append(run)
    for incident_id in sorted({run.incident_id for run in approved}):
        after_commit(session, "outages.send", incident_id)
    return approved


def _usable(session: Session, run: Run, now: datetime) -> list[tuple[ApprovalLimit, int]] | None:
    """The limit for each currency of the run with the run's amount in it; None where one is missing or too small, or
    where a person has to approve."""
    if _last_before(session, run) == "declined":
        return None
    involved = versions.authors(session, run.incident_id) | {run.declared_by, run.started_by}
    totals = session.execute(
        sa.select(RunTotal.currency, RunTotal.approved).where(
            RunTotal.agency_id == run.agency_id, RunTotal.run_id == run.id, RunTotal.approved > 0
        )
    ).all()
    found = []
    for currency, amount in totals:
        limit = limit_of(session, run.agency_id, currency)
        if limit is None or limit.set_by in involved or limit.set_at >= run.declared_at:
            return None
        if _approved_itself(session, run, currency, now.date()) + amount > limit.per_run:
            return None
        found.append((limit, int(amount)))
    return found or None


def _last_before(session: Session, run: Run) -> str | None:
    """The state of what its agency had last for its incident, but for what a newer plan took the place of."""
    earlier = sa.select(Run.state).where(
        Run.agency_id == run.agency_id, Run.incident_id == run.incident_id, Run.no < run.no, Run.state != "superseded"
    )
    return session.scalar(earlier.order_by(Run.no.desc()).limit(1))


def _approved_itself(session: Session, run: Run, currency: str, day: date) -> int:
    """What approved itself for the run's incident and agency on that day."""
    together = (
        sa.select(sa.func.coalesce(sa.func.sum(RunTotal.approved), 0))
        .join(Run, sa.and_(Run.agency_id == RunTotal.agency_id, Run.id == RunTotal.run_id))
        .where(
            Run.agency_id == run.agency_id,
            Run.incident_id == run.incident_id,
            Run.approval == "automatic",
            RunTotal.currency == currency,
            sa.cast(sa.func.timezone("UTC", Run.approved_at), sa.Date) == day,
        )
    )
    return int(session.execute(together).scalar_one())


def use_up(session: Session, limit: ApprovalLimit, day: date, amount: int) -> None:
    """Take an amount off the day's budget, whose row is locked until the transaction ends.

    Raises `IntegrityError` of `automatic_within_the_day` where too little is left of it.
    """
    of_day = {"agency_id": limit.agency_id, "currency": limit.currency, "day": day}
    session.execute(insert(LimitDay).values(**of_day, allowed=limit.per_day, used=0).on_conflict_do_nothing())
    this = sa.and_(LimitDay.agency_id == limit.agency_id, LimitDay.currency == limit.currency, LimitDay.day == day)
    for values in (
        {"allowed": sa.func.greatest(LimitDay.used, limit.per_day)},
        {"used": LimitDay.used + amount},
    ):
        session.execute(sa.update(LimitDay).where(this).values(**values).execution_options(synchronize_session=False))


def _approve(session: Session, run: Run, limit: ApprovalLimit, now: datetime) -> None:
    run.limit_set_by, run.limit_set_at = limit.set_by, limit.set_at
    runs.approve(session, [run], "automatic", None, now)
