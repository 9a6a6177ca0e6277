"""Runs that are due by themselves: when customers have chosen, and every so many days while an incident goes on."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from billing.models import Invoice, InvoiceLine, Payment, PlanWeight, Subscription
from billing.outages import terms
from billing.outages.decisions import Settlement
from billing.outages.in_force import COUNTED, EVERYBODY, OVER, Outage
from billing.outages.models import Grant, Incident, IncidentScope, Pause, Run
from billing.windows import unix
from tenants.db import after_commit
from tenants.models import Agency
from tenants.policy import Policy

HEARD_BY = timedelta(days=3)
"""So long after an invoice was made its event may still come: https://docs.stripe.com/webhooks#retries"""
COUNTED_BEYOND = timedelta(days=6)
"""No agency counts more of an outage before its start or after its end: a recovery, a gap, and the rest of a day."""


def begin(session: Session, outage: Outage, now: datetime) -> None:
    """Note when each agency that the outage covers is due, as its policy says now. What is noted already stays."""
    rows = []
    for agency, policy in policies(session, outage).items():
        closes_at = _closes_at(now, policy)
        due_at = after(now, policy, closes_at, goes_on=outage.ended_at is None)
        if due_at is not None:
            rows.append({"agency_id": agency, "incident_id": outage.id, "closes_at": closes_at, "due_at": due_at})
    if rows:
        noted = insert(Settlement).values(rows)
        session.execute(
            noted.on_conflict_do_update(
                index_elements=["incident_id", "agency_id"],
                set_={"due_at": sa.func.coalesce(Settlement.due_at, noted.excluded.due_at)},
            ),
            execution_options={"synchronize_session": False},
        )


def keep_up(
    session: Session, incident_id: str, now: datetime, of_agencies: Mapping[int, Policy], *, goes_on: bool
) -> None:
    """No agency waits longer for its next run of an incident than its policy says by now.

    An agency may have been made since the declaration: its customers choose from now on, as those of the others did
    from then on. Or, where the incident `goes_on`, it settles every so many days only since then.
    """
    noted = insert(Settlement)
    known = _known(session, incident_id)
    for agency, policy in of_agencies.items():
        closes_at = None if agency in known else _closes_at(now, policy)
        if (due_at := after(now, policy, closes_at, goes_on=goes_on)) is not None:
            row = {"agency_id": agency, "incident_id": incident_id, "closes_at": closes_at, "due_at": due_at}
            session.execute(
                noted.values(row).on_conflict_do_update(
                    index_elements=["incident_id", "agency_id"],
                    set_={"due_at": due_at},
                    where=sa.or_(Settlement.due_at.is_(None), Settlement.due_at > due_at),
                ),
                execution_options={"synchronize_session": False},
            )


def ask_first(session: Session, outage: Outage, now: datetime, due: Collection[Settlement]) -> None:
    """Where an agency is due for its first run ever of an incident, its customers choose from now on."""
    planned = frozenset(session.scalars(sa.select(Run.agency_id).where(Run.incident_id == outage.id)))
    wanted = policies(session, outage)
    for one in due:
        if one.closes_at is None and one.agency_id in wanted and one.agency_id not in planned:
            one.closes_at = _closes_at(now, wanted[one.agency_id])
    session.flush()


def _known(session: Session, incident_id: str) -> frozenset[int]:
    """The agencies for which something was noted or planned of an incident."""
    noted = sa.select(Settlement.agency_id).where(Settlement.incident_id == incident_id)
    planned = sa.select(Run.agency_id).where(Run.incident_id == incident_id)
    return frozenset(session.scalars(noted.union(planned)))


def policies(session: Session, outage: Outage) -> dict[int, Policy]:
    """What each agency that the outage covers wants now, under what the incident asked for."""
    covered = sa.select(Agency.id)
    if EVERYBODY not in outage.agencies:
        covered = covered.where(Agency.id.in_(outage.agencies))
    agreed = terms.now(session, session.scalars(covered).all())
    return {agency: one.granting(outage.policy).policy for agency, one in agreed.items()}


def promised(now: datetime, of_agencies: Collection[Policy]) -> datetime:
    """By when all money of an incident that is declared `now` is to be back, whichever of these agencies owes it.

    The soonest that any of them promises; but where customers choose first, nothing goes out before they have, and the
    agency's days are counted from then.
    """
    soonest = _business_days_after(now, min(one.promise_days for one in of_agencies))
    chosen = [(_closes_at(now, one), one.promise_days) for one in of_agencies]
    return max([soonest, *(_business_days_after(closes_at, days) for closes_at, days in chosen if closes_at)])


def promised_by(session: Session, incident: Incident, agency_id: int) -> datetime:
    """By when one agency's customers are to have their money: as its own policy said when it was first planned.

    As it says now where its customers choose before anything is, and that of the whole incident where the agency has
    nothing to do with it.
    """
    kept = session.scalar(
        sa.select(Run.terms)
        .where(Run.agency_id == agency_id, Run.incident_id == incident.id, Run.terms.is_not(None))
        .order_by(Run.no)
        .limit(1)
    )
    asked = session.scalar(
        sa.select(Settlement.closes_at).where(
            Settlement.agency_id == agency_id, Settlement.incident_id == incident.id
        )
    )  # fmt: skip
    if kept is None and asked is None:
        return incident.promise_at
    agreed = terms.now(session, [agency_id])[agency_id] if kept is None else terms.of_json(kept)
    return _business_days_after(asked or incident.declared_at, agreed.policy.promise_days)


def at_once(session: Session, agency_id: int, incident_id: str) -> None:
    """Have a worker plan this agency for this incident again: something was found that no run has looked at."""
    began = session.get_one(Incident, incident_id).started_at
    noted = insert(Settlement).values(agency_id=agency_id, incident_id=incident_id, due_at=began)
    session.execute(
        noted.on_conflict_do_update(index_elements=["incident_id", "agency_id"], set_={"due_at": began}),
        execution_options={"synchronize_session": False},
    )
    after_commit(session, "outages.settle", incident_id)


def of_the_others(session: Session, agency_id: int, retracted: Outage) -> None:
    """What this incident was to give is not sent any more: where another took the same time, it is owed by that one."""
    reach = retracted.reach
    during = Incident.started_at < reach.until if reach.until is not None else sa.true()
    others = (
        sa.select(Incident.id)
        .join(IncidentScope, IncidentScope.incident_id == Incident.id)
        .where(
            Incident.id != retracted.id,
            Incident.state.in_(COUNTED),
            during,
            sa.or_(Incident.ended_at.is_(None), Incident.ended_at > reach.since),
            IncidentScope.agency_id.in_((EVERYBODY, agency_id)),
        )
        .distinct()
    )
    for incident_id in session.scalars(others.order_by(Incident.id)).all():
        at_once(session, agency_id, incident_id)


def what_was_left_out(session: Session, agency_id: int, reason: str) -> None:
    """What a run of the agency left out for this `reason` may be given now: plan its incidents again that did."""
    left_out = sa.select(Run.incident_id).where(
        Run.agency_id == agency_id,
        _is_last(),
        Run.left_out.contains([{"reason": reason}]),
        Incident.id == Run.incident_id,
        Incident.state.in_(COUNTED),
    )
    for incident_id in session.scalars(left_out.order_by(Run.incident_id)).all():
        at_once(session, agency_id, incident_id)


def ended(session: Session, subscription_id: str) -> None:
    """A subscription has ended: what was too little to give so far has nothing left to join, and goes out."""
    for agency_id in session.scalars(sa.select(Subscription.agency_id).where(Subscription.id == subscription_id)).all():
        what_was_left_out(session, agency_id, "below_minimum")


def what_was_declined(session: Session, incident_id: str) -> list[int]:
    """Plan an incident again for every agency whose last run of it was declined; returns these agencies."""
    declined = sa.select(Run.agency_id).where(Run.incident_id == incident_id, _is_last(), Run.state == "declined")
    agencies = list(session.scalars(declined.order_by(Run.agency_id)))
    for agency_id in agencies:
        at_once(session, agency_id, incident_id)
    return agencies


def _is_last() -> sa.ColumnElement[bool]:
    """Of a Run: that its agency has no later one for its incident."""
    later = aliased(Run)
    follows = sa.exists().where(
        later.agency_id == Run.agency_id, later.incident_id == Run.incident_id, later.no > Run.no,
        later.state != "superseded",
    )  # fmt: skip
    return sa.and_(Run.state != "superseded", ~follows)


def late_payment(session: Session, invoice_id: str) -> None:
    """An invoice is paid: where its agency gives such payments back whole while an incident goes on, plan that again.

    Social Report's promise: whoever was charged since it began, late retries included, until it is resolved; whenever
    that is heard of.
    """
    granted_by = (
        sa.select(Run.policy)
        .where(Run.agency_id == Payment.agency_id, Run.incident_id == Incident.id, Run.state != "superseded")
        .order_by(Run.no.desc())
        .limit(1)
        .scalar_subquery()
    )
    asked_for = sa.func.coalesce(granted_by, Incident.policy)
    given = sa.exists().where(
        Grant.agency_id == Payment.agency_id, Grant.invoice_id == invoice_id, Grant.incident_id == Incident.id,
        Grant.state != "cancelled", Grant.refund + Grant.credit > 0, Run.agency_id == Grant.agency_id,
        Run.id == Grant.run_id, Run.as_of > Payment.paid_at,
    )  # fmt: skip
    on_platform = sa.exists().where(
        InvoiceLine.agency_id == Payment.agency_id, InvoiceLine.invoice_id == invoice_id,
        PlanWeight.plan_id == InvoiceLine.plan_id, PlanWeight.platform_id == Incident.platform_id,
    )  # fmt: skip
    owing = (
        sa.select(Payment.agency_id, Incident.id, asked_for)
        .join(IncidentScope, IncidentScope.agency_id.in_((EVERYBODY, Payment.agency_id)))
        .join(Incident, Incident.id == IncidentScope.incident_id)
        .where(
            Payment.invoice_id == invoice_id,
            Payment.paid_at >= Incident.started_at,
            sa.or_(
                Incident.state == "declared",
                sa.and_(Incident.state.in_(OVER), Payment.paid_at < Incident.ended_at),
            ),
            sa.func.coalesce(asked_for, "full") == "full",
            on_platform,
            ~given,
        )
        .distinct()
    )
    found = session.execute(owing).all()
    unplanned = [agency_id for agency_id, _incident, policy in found if policy is None]
    agreed = terms.now(session, unplanned) if unplanned else {}
    for agency_id, incident_id, policy in found:
        if policy is not None or agreed[agency_id].policy.grants == "full":
            at_once(session, agency_id, incident_id)


def came_late(session: Session, invoice_id: str) -> None:
    """An invoice is to be paid, or is: plan an incident again of which no run has looked at it as it is now.

    It was made after the last run of an incident that is over, for a change of plan while that went on, or so shortly
    before that nobody here had heard of it; or a run left one out that may have been this one, as a draft, or as given
    up before it was paid.
    """
    seen_at = sa.func.coalesce(Invoice.paid_at, Invoice.finalized_at)
    perhaps_touched = sa.and_(
        InvoiceLine.agency_id == Invoice.agency_id, InvoiceLine.invoice_id == Invoice.id,
        InvoiceLine.net + InvoiceLine.tax > 0, InvoiceLine.period_end > Incident.started_at - COUNTED_BEYOND,
        sa.or_(Incident.ended_at.is_(None), InvoiceLine.period_start < Incident.ended_at + COUNTED_BEYOND),
    )  # fmt: skip
    depends = sa.and_(
        PlanWeight.plan_id == InvoiceLine.plan_id, PlanWeight.platform_id == Incident.platform_id,
        PlanWeight.weight_bp > 0,
    )  # fmt: skip
    since = aliased(Run)
    given = sa.exists().where(
        Grant.agency_id == Invoice.agency_id, Grant.invoice_id == Invoice.id, Grant.incident_id == Incident.id,
        Grant.state != "cancelled", since.agency_id == Grant.agency_id, since.id == Grant.run_id,
        since.as_of > seen_at,
    )  # fmt: skip
    of_incident = sa.and_(
        Run.agency_id == Invoice.agency_id, Run.incident_id == Incident.id, Run.as_of >= Invoice.created_at
    )
    was_a_draft = sa.and_(Run.as_of < seen_at, Run.left_out.contains([{"reason": "draft"}]))
    was_given_up = sa.and_(Invoice.status == "paid", Run.left_out.contains([{"reason": "uncollectible"}]))
    left_out = sa.exists().where(of_incident, _is_last(), sa.or_(was_a_draft, was_given_up))
    looked = sa.and_(of_incident, Run.as_of >= Invoice.created_at + HEARD_BY, Run.state != "superseded")
    new = sa.and_(Incident.state.in_(OVER), ~sa.exists().where(looked))
    owing = (
        sa.select(
            Invoice.agency_id, Incident.id, Incident.started_at, Incident.ended_at, InvoiceLine.period_start,
            InvoiceLine.period_end,
        )
        .join(IncidentScope, IncidentScope.agency_id.in_((EVERYBODY, Invoice.agency_id)))
        .join(Incident, Incident.id == IncidentScope.incident_id)
        .join(InvoiceLine, perhaps_touched)
        .join(PlanWeight, depends)
        .where(Invoice.id == invoice_id, Incident.state.in_(COUNTED), ~given, sa.or_(new, left_out))
        .distinct()
    )  # fmt: skip
    found = session.execute(owing).all()
    agreed = terms.now(session, {row.agency_id for row in found}) if found else {}
    touched = set()
    for agency_id, incident_id, started_at, ended_at, begins, ends in found:
        start, end = agreed[agency_id].counting.around(unix(started_at), unix(ended_at or ends))
        if start < unix(ends) and unix(begins) < end:
            touched.add((incident_id, agency_id))
    for incident_id, agency_id in sorted(touched):
        at_once(session, agency_id, incident_id)


def is_overdue(pause: type[Pause]) -> sa.ColumnElement[bool]:
    """Of a Pause: that what was found for its incident and agency has still to be planned."""
    return sa.exists().where(
        Settlement.agency_id == pause.agency_id,
        Settlement.incident_id == pause.incident_id,
        Incident.id == Settlement.incident_id,
        Settlement.due_at <= Incident.started_at,
    )


def still_due(one: Settlement, incident: Incident, policy: Policy) -> bool:
    """Whether what was noted as due is due by the policy of now, too: every so many days only while that says so.

    What was found meanwhile (`at_once`), and what customers have chosen, is due whatever it says.
    """
    found = one.due_at is not None and one.due_at <= max(incident.started_at, incident.declared_at)
    return found or one.due_at == one.closes_at or policy.settle == "every"


def after(now: datetime, policy: Policy, closes_at: datetime | None, *, goes_on: bool) -> datetime | None:
    """When the next run is due after `now`."""
    days = [closes_at] if closes_at is not None and closes_at > now else []
    if goes_on and policy.settle == "every":
        days.append(now + timedelta(days=policy.settle_days))
    return min(days, default=None)


def _closes_at(now: datetime, policy: Policy) -> datetime | None:
    """Until when customers may choose about an incident that an agency hears of `now`; None: they are not asked."""
    asked = policy.choice_days and policy.grants != "none"
    return now + timedelta(days=policy.choice_days) if asked else None


def _business_days_after(moment: datetime, days: int) -> datetime:
    """Monday to Friday, in UTC: the promise is about people's working days, of which nobody's holidays are known."""
    while days > 0:
        moment += timedelta(days=1)
        days -= moment.weekday() < 5
    return moment
