"""A plan as rows: frozen into one run per agency, superseded by a newer one, turned into steps once it is approved."""

import secrets
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing.errors import PlanChanged
from billing.money import UNITS
from billing.outages.models import Basis, Grant, Incident, Run
from billing.outages.planned import fill_parts
from billing.outages.planning import Plan
from tenants.models import Member


def freeze(session: Session, plan: Plan, incident: Incident, by: Member, purpose: str) -> list[Run]:
    """Copy the plan in this transaction's tables into one waiting run per agency; one that owes nothing is done.

    `by` started these runs, and so cannot approve them; nor can whoever declared the incident. What still waited for an
    approval gives way.
    """
    agencies = [one.agency_id for one in plan.agencies]
    last = _supersede(session, incident.id, agencies)
    made = [
        Run(
            agency_id=one.agency_id,
            id=f"run_{secrets.token_hex(8)}",
            incident_id=incident.id,
            no=last.get(one.agency_id, 0) + 1,
            purpose=purpose,
            state="waiting" if one.grants else "done",
            policy=one.policy,
            as_of=plan.as_of,
            fingerprint=one.fingerprint,
            started_by=by.id,
            declared_by=incident.declared_by,
            declared_at=incident.declared_at,
            finished_at=None if one.grants else sa.func.now(),
            left_out=[dict(entry) for entry in one.left_out],
        )
        for one in plan.agencies
    ]
    session.add_all(made)
    session.flush()
    fill_parts(session, plan.losses)
    told = {"runs": [run.id for run in made], "incident": incident.id}
    for statement in (_TOTALS, _GRANTS, _LINES, _LOSSES):
        session.execute(sa.text(statement), told)
    return made


def waiting_for(session: Session, incident_id: str) -> list[Run]:
    """The runs of an incident that wait for a person, locked, in the order of their agencies."""
    found = sa.select(Run).where(Run.incident_id == incident_id, Run.state == "waiting").order_by(Run.agency_id)
    return list(session.scalars(found.with_for_update().execution_options(populate_existing=True)))


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
    session.execute(sa.text(_APPROVE), {"runs": list(runs)})
    told = {"runs": list(runs), "odd_currencies": list(UNITS), "odd_units": list(UNITS.values())}
    for statement in (_REFUNDS, _NOTES):
        session.execute(sa.text(statement), told)


def _supersede(session: Session, incident_id: str, agencies: Sequence[int]) -> dict[int, int]:
    """Runs that nobody has approved give way. Returns the number of each agency's last run."""
    waiting = [run.id for run in waiting_for(session, incident_id)]
    session.execute(
        sa.update(Run).where(Run.id.in_(waiting)).values(state="superseded", finished_at=sa.func.now()),
    )
    session.execute(
        sa.update(Grant)
        .where(Grant.run_id.in_(waiting))
        .values(state="cancelled", reason="A newer plan took its place.", settled_at=sa.func.now())
        .execution_options(synchronize_session=False)
    )
    numbers = (
        sa.select(Run.agency_id, sa.func.max(Run.no))
        .where(Run.incident_id == incident_id, Run.agency_id.in_(agencies))
        .group_by(Run.agency_id)
    )
    return dict(session.execute(numbers).all())


_TOTALS: Final = """
INSERT INTO run_totals (agency_id, run_id, currency, approved)
SELECT r.agency_id, r.id, i.currency, sum(i.amount)
FROM plan_invoices i JOIN runs r ON r.agency_id = i.agency_id AND r.id = ANY(:runs)
WHERE i.amount > 0 GROUP BY r.agency_id, r.id, i.currency
"""
_GRANTS: Final = """
INSERT INTO grants (agency_id, run_id, incident_id, invoice_id, customer_id, subscription_id, channel, currency,
                    amount, refund, credit, reduce, out_of_band, owed, base, granted_before, basis_seq, state)
SELECT i.agency_id, r.id, :incident, i.invoice_id, i.customer_id, i.subscription_id,
       CASE greatest(i.refund, i.credit, i.reduce, i.out_of_band)
           WHEN i.refund THEN 'refund' WHEN i.credit THEN 'credit' WHEN i.reduce THEN 'reduce' ELSE 'manual' END,
       i.currency, i.amount, i.refund, i.credit, i.reduce, i.out_of_band,
       div(i.exact_num, c.owed) || '/' || div(i.exact_den, c.owed),
       div(i.base_num, c.base) || '/' || div(i.base_den, c.base), i.before, i.basis_seq, 'planned'
FROM plan_invoices i JOIN runs r ON r.agency_id = i.agency_id AND r.id = ANY(:runs)
CROSS JOIN LATERAL (SELECT gcd(i.exact_num, i.exact_den) AS owed, gcd(i.base_num, i.base_den) AS base) c
WHERE i.amount > 0 ORDER BY i.agency_id, i.invoice_id
"""
_LINES: Final = """
INSERT INTO grant_lines (agency_id, grant_id, line_id, plan_id, net, tax, period_start, period_end, lost, owed, amount)
SELECT l.agency_id, g.id, l.id, l.plan_id, l.net, l.tax, l.period_start, l.period_end, coalesce(p.lost, 0),
       CASE WHEN p.charged IS NULL OR p.charged = 0 THEN '0/1'
            ELSE div(p.charged * p.lost, c.common) || '/' || div(p.length * 100000000, c.common) END,
       part.amount
FROM plan_parts part
JOIN grants g ON g.agency_id = part.agency_id AND g.invoice_id = part.invoice_id AND g.run_id = ANY(:runs)
JOIN invoice_lines l ON l.agency_id = part.agency_id AND l.id = part.line_id
LEFT JOIN plan_lines p ON p.agency_id = part.agency_id AND p.line_id = part.line_id AND NOT p.metered
CROSS JOIN LATERAL (SELECT gcd(p.charged * p.lost, p.length * 100000000) AS common) c
WHERE part.amount <> 0 OR p.lost > 0
"""
_LOSSES: Final = """
INSERT INTO run_losses (agency_id, run_id, plan_id, starts_at, ends_at, share)
SELECT r.agency_id, r.id, s.plan_id, to_timestamp(s.starts), to_timestamp(s.ends), s.share
FROM runs r JOIN plan_agencies a ON a.agency_id = r.agency_id JOIN plan_steps s ON s.grp = a.grp
WHERE r.id = ANY(:runs) AND r.state = 'waiting' AND s.plan_id IN (
    SELECT l.plan_id FROM plan_lines l WHERE l.agency_id = r.agency_id
)
"""
_APPROVE: Final = "UPDATE grants SET state = 'approved' WHERE run_id = ANY(:runs) AND state = 'planned'"
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
