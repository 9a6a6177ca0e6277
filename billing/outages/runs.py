"""A plan as rows: frozen into one run per agency, superseded by a newer one, turned into steps once it is approved."""

import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing.errors import PlanChanged
from billing.money import UNITS
from billing.outages import ungiven
from billing.outages.decisions import Goodwill
from billing.outages.elsewhere import by_others
from billing.outages.models import Basis, Grant, Incident, Run
from billing.outages.planned import fill_parts
from billing.outages.planning import Plan
from billing.outages.steps import AT_WORK
from tenants.db import for_rows
from tenants.models import Member


def freeze(
    session: Session, plan: Plan, incident: Incident, by: Member, purpose: str, *, only: Collection[int] | None = None
) -> list[Run]:
    """Copy the plan in this transaction's tables into one waiting run per agency; one that owes nothing is done.

    `by` started these runs, and so cannot approve them; nor can whoever declared the incident. What still waited for an
    approval gives way. With `only` these agencies are concerned, and no others. An incident that was retracted owes
    nothing: what others owe for the same invoices is theirs to give.
    """
    owes = incident.state != "retracted"
    found = [one for one in plan.agencies if only is None or one.agency_id in only]
    last = _supersede(session, incident.id, [one.agency_id for one in found], only)
    made = [
        Run(
            agency_id=one.agency_id,
            id=f"run_{secrets.token_hex(8)}",
            incident_id=incident.id,
            no=last.get(one.agency_id, 0) + 1,
            purpose=purpose,
            state="waiting" if owes and one.grants else "done",
            policy=one.policy,
            terms=one.terms.to_json(),
            as_of=plan.as_of,
            fingerprint=one.fingerprint,
            started_by=by.id,
            declared_by=incident.declared_by,
            declared_at=incident.declared_at,
            finished_at=None if owes and one.grants else sa.func.now(),
            left_out=[dict(entry) for entry in one.left_out] if owes else [],
        )
        for one in found
    ]
    session.add_all(made)
    session.flush()
    if owes:
        fill_parts(session, plan.losses)
        told = {"runs": [run.id for run in made], "incident": incident.id}
        for statement in (_TOTALS, _GRANTS, _LINES, _LOSSES, _NAMES):
            session.execute(sa.text(statement), told)
    concerned = {"incident": incident.id, "only": None if only is None else list(only)}
    for statement in _WAIVERS:
        session.execute(sa.text(statement), concerned)
    return made


def waiting_for(session: Session, incident_id: str) -> list[Run]:
    """The runs of an incident that wait for a person, locked, in the order of their agencies."""
    found = sa.select(Run).where(Run.incident_id == incident_id, Run.state == "waiting").order_by(Run.agency_id)
    return list(session.scalars(found.with_for_update().execution_options(populate_existing=True)))


def approve(session: Session, runs: Sequence[Run], approval: str, by: Member | None, now: datetime) -> None:
    """Mark waiting runs as approved, by a `person` or `automatic`, and make their steps. Raises `PlanChanged`."""
    ids = [run.id for run in runs]
    claim_the_past(session, ids)
    for run in runs:
        run.state, run.approval, run.approved_at = "running", approval, now
        run.approved_by, run.approved_fingerprint = by.id if by else None, run.fingerprint
        run.opened_to = 0
    session.flush()
    make_steps(session, ids)


def decline(session: Session, runs: Sequence[Run], by: Member, reason: str) -> None:
    """End waiting runs without giving anything; what they were for stays owed, for the next run to plan."""
    for run in runs:
        run.state, run.declined_by, run.decline_reason = "declined", by.id, reason
        run.finished_at = sa.func.now()
    session.flush()
    _cancel(session, [run.id for run in runs], f"Declined: {reason}")


def claim_the_past(session: Session, runs: Sequence[str]) -> None:
    """Only one run may be approved on what an invoice had had before. Raises `PlanChanged` for the second one."""
    planned = sa.select(Grant.agency_id, Grant.invoice_id, Grant.basis_seq, Grant.run_id, Grant.granted_before)
    try:
        with session.begin_nested():
            session.execute(
                insert(Basis).from_select(
                    ["agency_id", "invoice_id", "seq", "run_id", "granted_before"],
                    planned.where(Grant.run_id.in_(runs), Grant.state == "planned"),
                )
            )
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) != "23505":
            raise
        raise PlanChanged(
            "Another run was approved over the same invoices meanwhile. Review this one again."
        ) from error


def make_steps(session: Session, runs: Sequence[str]) -> None:
    """Approve the grants, and write the calls that each needs, in order.

    One credit note; where an invoice has several payments, a refund of each, newest first, and then the note.
    """
    approved: Any = session.execute(
        sa.update(Grant)
        .where(Grant.run_id.in_(runs), Grant.state == "planned")
        .values(state="approved", elsewhere=by_others())
        .execution_options(synchronize_session=False)
    )
    told = {"runs": list(runs), "odd_currencies": list(UNITS), "odd_units": list(UNITS.values())}
    with for_rows(session, approved.rowcount):
        for statement in (_REFUNDS, _NOTES):
            session.execute(sa.text(statement), told)


def call_off(session: Session, runs: Sequence[str], reason: str) -> None:
    """Take back what these runs have not begun to send; what is in flight ends known. Nothing of it was given.

    A worker that has looked at a step and not yet committed its attempt finds it cancelled, and sends nothing.
    """
    told = {"runs": list(runs), "reason": reason, "at_work": list(AT_WORK)}
    # A statement of its own: what is judged is read after whoever held these rows has let them go.
    session.execute(sa.text(_LOCK_STEPS), told)
    for statement in (_CALL_OFF, _END_HALTED):
        session.execute(sa.text(statement), told)
    session.expire_all()
    for grant in session.scalars(_called_off().where(Grant.run_id.in_(runs)).order_by(Grant.agency_id, Grant.id)).all():
        ungiven.take_out(session, grant, grant.amount)


def _called_off() -> sa.Select[Grant]:
    """What this transaction has called off, where another incident may count it as goodwill: what its own counts is
    worked out anew with the next plan."""
    goodwill = sa.exists().where(
        Goodwill.agency_id == Grant.agency_id, Goodwill.invoice_id == Grant.invoice_id, Goodwill.amount > 0,
        Goodwill.incident_id != Grant.incident_id,
    )  # fmt: skip
    return sa.select(Grant).where(Grant.state == "cancelled", Grant.settled_at == sa.func.now(), goodwill)


def _supersede(
    session: Session, incident_id: str, agencies: Sequence[int], only: Collection[int] | None
) -> dict[int, int]:
    """Runs that nobody has approved give way. Returns the number of each agency's last run."""
    waiting = [run.id for run in waiting_for(session, incident_id) if only is None or run.agency_id in only]
    session.execute(
        sa.update(Run).where(Run.id.in_(waiting)).values(state="superseded", finished_at=sa.func.now()),
    )
    _cancel(session, waiting, "A newer plan took its place.")
    numbers = (
        sa.select(Run.agency_id, sa.func.max(Run.no))
        .where(Run.incident_id == incident_id, Run.agency_id.in_(agencies))
        .group_by(Run.agency_id)
    )
    return dict(session.execute(numbers).all())


def _cancel(session: Session, runs: Sequence[str], reason: str) -> None:
    session.execute(
        sa.update(Grant)
        .where(Grant.run_id.in_(runs), Grant.state == "planned")
        .values(state="cancelled", reason=reason, settled_at=sa.func.now())
        .execution_options(synchronize_session=False)
    )


_TOTALS: Final = """
INSERT INTO run_totals (agency_id, run_id, currency, approved)
SELECT r.agency_id, r.id, i.currency, sum(i.amount)
FROM plan_invoices i JOIN runs r ON r.agency_id = i.agency_id AND r.id = ANY(:runs)
WHERE i.amount > 0 GROUP BY r.agency_id, r.id, i.currency
"""
_GRANTS: Final = """
INSERT INTO grants (agency_id, run_id, incident_id, invoice_id, customer_id, subscription_id, channel, currency,
                    amount, refund, credit, reduce, out_of_band, owed, base, whole, granted_before, basis_seq, state,
                    netted, waived, clipped)
SELECT i.agency_id, r.id, :incident, i.invoice_id, i.customer_id, i.subscription_id,
       CASE greatest(i.refund, i.credit, i.reduce, i.out_of_band)
           WHEN i.refund THEN 'refund' WHEN i.credit THEN 'credit' WHEN i.reduce THEN 'reduce' ELSE 'manual' END,
       i.currency, i.amount, i.refund, i.credit, i.reduce, i.out_of_band,
       div(c.num, c.owed) || '/' || div(c.den, c.owed),
       div(i.base_num, c.base) || '/' || div(i.base_den, c.base),
       i.whole_num / c.whole || '/' || i.whole_den / c.whole, i.before, i.basis_seq, 'planned',
       CASE WHEN n.num > 0 THEN div(n.num, gcd(n.num, n.den)) || '/' || div(n.den, gcd(n.num, n.den)) ELSE '0/1' END,
       i.waived, i.want - i.amount
FROM plan_invoices i JOIN runs r ON r.agency_id = i.agency_id AND r.id = ANY(:runs)
CROSS JOIN LATERAL (
    SELECT e.num, e.den, gcd(e.num, e.den) AS owed, gcd(i.base_num, i.base_den) AS base,
           gcd(i.whole_num, i.whole_den) AS whole
    FROM (SELECT coalesce(i.wide_num, i.num) AS num, coalesce(i.wide_den, i.den) AS den) e
) c
CROSS JOIN LATERAL (SELECT i.own_num * c.den - c.num * i.own_den AS num, i.own_den * c.den AS den) n
WHERE i.amount > 0 ORDER BY i.agency_id, i.invoice_id
"""
# As `loss.owed`: the part of its invoice that goes back whole, and of the rest the share that was lost.
_LINES: Final = """
INSERT INTO grant_lines (agency_id, grant_id, line_id, plan_id, net, tax, period_start, period_end, lost, owed, amount)
SELECT l.agency_id, g.id, l.id, l.plan_id, l.net, l.tax, l.period_start, l.period_end, part.lost,
       CASE WHEN owed.num = 0 THEN '0/1'
            ELSE div(owed.num, gcd(owed.num, owed.den)) || '/' || div(owed.den, gcd(owed.num, owed.den)) END,
       part.amount
FROM plan_parts part
JOIN grants g ON g.agency_id = part.agency_id AND g.invoice_id = part.invoice_id AND g.run_id = ANY(:runs)
JOIN invoice_lines l ON l.agency_id = part.agency_id AND l.id = part.line_id
JOIN plan_invoices i ON i.agency_id = part.agency_id AND i.invoice_id = part.invoice_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN l.metered THEN 0 ELSE (l.net + l.tax)::numeric * (
               i.whole_num * part.length::numeric * 100000000
               + (i.whole_den - i.whole_num) * part.lost::numeric
           ) END AS num,
           i.whole_den * part.length::numeric * 100000000 AS den
) owed
WHERE part.amount <> 0 OR part.lost > 0 OR owed.num <> 0
"""
_LOSSES: Final = """
INSERT INTO run_losses (agency_id, run_id, plan_id, starts_at, ends_at, share)
SELECT r.agency_id, r.id, s.plan_id, to_timestamp(s.starts), to_timestamp(s.ends), s.share
FROM runs r JOIN plan_agencies a ON a.agency_id = r.agency_id JOIN plan_steps s ON s.grp = a.grp
WHERE r.id = ANY(:runs) AND r.state = 'waiting' AND s.plan_id IN (
    SELECT l.plan_id FROM grants g JOIN grant_lines l ON l.agency_id = g.agency_id AND l.grant_id = g.id
    WHERE g.run_id = r.id
)
"""
# What customers knew these plans by, and what they depended on: whoever explains the run later, or says which incident
# it was because of, says so, whatever they are called and weighed by then.
_NAMES: Final = """
UPDATE runs r SET terms = r.terms || jsonb_build_object('plans', named.plans, 'weights', named.weights)
FROM (
    SELECT sold.run_id, jsonb_object_agg(p.id, p.name) AS plans,
           jsonb_object_agg(p.id, (
               SELECT coalesce(jsonb_object_agg(f.slug, w.weight_bp), '{}') FROM plan_weights w
               JOIN platforms f ON f.id = w.platform_id WHERE w.plan_id = p.id
           )) AS weights
    FROM (SELECT DISTINCT g.run_id, l.plan_id FROM grants g
          JOIN grant_lines l ON l.agency_id = g.agency_id AND l.grant_id = g.id WHERE g.run_id = ANY(:runs)) sold
    JOIN plans p ON p.id = sold.plan_id GROUP BY sold.run_id
) named
WHERE r.id = named.run_id
"""
# Each incident that was waived has its part of what its customer does not get: owed with it, less owed without it.
_WAIVERS: Final = (
    """
    DELETE FROM waivers w
    WHERE (CAST(:only AS bigint[]) IS NULL OR agency_id = ANY(:only)) AND (incident_id = :incident OR EXISTS (
        SELECT FROM plan_invoices i WHERE i.agency_id = w.agency_id AND i.invoice_id = w.invoice_id
    ))
    """,
    """
    INSERT INTO waivers (agency_id, incident_id, invoice_id, currency, amount)
    SELECT agency_id, incident_id, invoice_id, currency, amount
    FROM (
        SELECT i.agency_id, i.waives[m.many] AS incident_id, i.invoice_id, i.currency,
               lag(greatest(coalesce(o.rounded, 0), i.before), 1, greatest(i.rounded, i.before)) OVER one_by_one
                   - greatest(coalesce(o.rounded, 0), i.before) AS amount
        FROM plan_invoices i
        CROSS JOIN LATERAL generate_series(1, cardinality(i.waives)) AS m(many)
        LEFT JOIN plan_without o ON o.agency_id = i.agency_id AND o.invoice_id = i.invoice_id AND o.many = m.many
        WHERE i.waived > 0 AND (CAST(:only AS bigint[]) IS NULL OR i.agency_id = ANY(:only))
        WINDOW one_by_one AS (PARTITION BY i.agency_id, i.invoice_id ORDER BY m.many)
    ) w
    WHERE amount > 0
    """,
)
_LOCK_STEPS: Final = """
SELECT s.id FROM steps s JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
WHERE g.run_id = ANY(:runs) AND s.state IN ('approved', 'blocked') ORDER BY s.id FOR UPDATE OF s
"""
# A grant is begun with its first step: the note about refunds that went out is still to be written. One that stands in
# for what came back was begun with that.
_CALL_OFF: Final = """
WITH not_begun AS (
    SELECT g.agency_id, g.id, g.run_id, g.currency, g.amount FROM grants g
    WHERE g.run_id = ANY(:runs) AND g.state IN ('approved', 'blocked') AND g.fallback_of IS NULL AND NOT EXISTS (
        SELECT FROM steps s WHERE s.agency_id = g.agency_id AND s.grant_id = g.id
        AND (s.first_sent_at IS NOT NULL OR s.state NOT IN ('approved', 'blocked'))
    )
),
cancelled AS (
    UPDATE grants g SET state = 'cancelled', reason = :reason, settled_at = now()
    FROM not_begun n WHERE g.agency_id = n.agency_id AND g.id = n.id
),
ended AS (
    UPDATE steps s SET state = 'cancelled', reason = :reason, lease_until = NULL
    FROM not_begun n, steps o
    WHERE s.agency_id = n.agency_id AND s.grant_id = n.id AND o.agency_id = s.agency_id AND o.id = s.id
    RETURNING s.agency_id, s.id, o.state
),
witnessed AS (
    INSERT INTO step_events (agency_id, step_id, seq, from_state, to_state, actor, evidence)
    SELECT e.agency_id, e.id, 1 + (
               SELECT coalesce(max(w.seq), 0) FROM step_events w WHERE w.agency_id = e.agency_id AND w.step_id = e.id
           ), e.state, 'cancelled', 'engine', jsonb_build_object('reason', CAST(:reason AS text))
    FROM ended e
)
UPDATE run_totals t SET approved = t.approved - n.amount
FROM (SELECT agency_id, run_id, currency, sum(amount) AS amount FROM not_begun GROUP BY 1, 2, 3) n
WHERE t.agency_id = n.agency_id AND t.run_id = n.run_id AND t.currency = n.currency
"""
_END_HALTED: Final = """
UPDATE runs r SET state = 'done', finished_at = now()
WHERE r.id = ANY(:runs) AND r.state = 'halted' AND NOT EXISTS (
    SELECT FROM grants g WHERE g.agency_id = r.agency_id AND g.run_id = r.id AND g.state = ANY(:at_work)
)
"""
# What is left on each payment, newest first, as the plan counted it; `available` is what others left.
_PAYMENTS: Final = """
WITH left_on AS (
    SELECT g.id AS grant_id, g.refund AS wanted, p.id AS payment_id, p.captured - p.elsewhere - p.disputed AS available,
           row_number() OVER newest_first AS no, count(*) OVER (PARTITION BY g.id) AS payments,
           greatest(0, p.captured - p.reserved - p.refunded - p.elsewhere - p.disputed - coalesce(u.refund, 0))
               / coalesce(o.unit, 1) * coalesce(o.unit, 1) AS room
    FROM grants g JOIN payments p ON p.agency_id = g.agency_id AND p.invoice_id = g.invoice_id
    LEFT JOIN unnest(CAST(:odd_currencies AS text[]), CAST(:odd_units AS bigint[])) AS o(currency, unit)
    ON o.currency = p.currency
    LEFT JOIN LATERAL (
        SELECT sum(s.refund) AS refund FROM steps s
        WHERE s.agency_id = p.agency_id AND s.payment_id = p.id AND s.first_sent_at IS NULL
        AND s.state IN ('approved', 'blocked', 'needs_person')
    ) u ON true
    WHERE g.run_id = ANY(:runs) AND g.state = 'approved' AND g.refund > 0 AND p.captured > 0
    AND (p.payment_intent IS NOT NULL OR p.charge IS NOT NULL)
    WINDOW newest_first AS (PARTITION BY g.id ORDER BY p.paid_at DESC NULLS LAST, p.id DESC)
),
taken AS (
    SELECT *, least(room, greatest(0, wanted - (sum(room) OVER newest_first - room))) AS amount FROM left_on
    WINDOW newest_first AS (PARTITION BY grant_id ORDER BY no)
)
"""
_NOTES: Final = (
    _PAYMENTS
    + """
INSERT INTO steps (agency_id, grant_id, no, kind, payment_id, currency, amount, refund, state, stripe_account,
                   available)
SELECT g.agency_id, g.id, CASE WHEN t.payments > 1 THEN t.payments + 1 ELSE 1 END, 'credit_note',
       CASE WHEN t.payments = 1 THEN t.payment_id END, g.currency, g.amount,
       CASE WHEN t.payments = 1 THEN g.refund ELSE 0 END, 'approved', coalesce(a.stripe_account, ''),
       CASE WHEN t.payments = 1 THEN t.available END
FROM grants g JOIN agencies a ON a.id = g.agency_id
LEFT JOIN taken t ON t.grant_id = g.id AND t.no = 1
WHERE g.run_id = ANY(:runs) AND g.state = 'approved' ORDER BY g.id
"""
)
_REFUNDS: Final = (
    _PAYMENTS
    + """
INSERT INTO steps (agency_id, grant_id, no, kind, payment_id, currency, amount, refund, state, stripe_account,
                   available)
SELECT g.agency_id, g.id, t.no, 'refund', t.payment_id, g.currency, t.amount, t.amount, 'approved',
       coalesce(a.stripe_account, ''), t.available
FROM taken t JOIN grants g ON g.id = t.grant_id JOIN agencies a ON a.id = g.agency_id
WHERE t.payments > 1 AND t.amount > 0 ORDER BY g.id, t.no
"""
)
