"""What others did to our payments: the counters of Payment, and the links from refunds to the notes that made them."""

from collections.abc import Collection, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from tenants.db import planned

# Written out for both ways to name a payment, since an OR between them would read whole tables for each payment.
_LOCK: Final = """
    SELECT p.payment_intent IS NULL FROM payments p WHERE p.payment_intent = ANY(:intents) OR p.charge = ANY(:charges)
    ORDER BY p.agency_id, p.id FOR NO KEY UPDATE
"""
_LINK: Final = """
    UPDATE refunds r SET credit_note_id = n.id, step_id = coalesce(r.step_id, n.step_id)
    FROM payments p JOIN credit_notes n ON n.agency_id = p.agency_id AND n.invoice_id = p.invoice_id
    WHERE {which} AND r.agency_id = p.agency_id AND {same} AND n.refund_ids ? r.id
    AND (r.credit_note_id IS DISTINCT FROM n.id OR (r.step_id IS NULL AND n.step_id IS NOT NULL))
"""
_BY_INTENT: Final = "r.payment_intent = p.payment_intent"
_BY_CHARGE: Final = "p.payment_intent IS NULL AND r.charge = p.charge"
_SEEN: Final = """
    WITH touched AS (SELECT p.* FROM payments p WHERE {which}),
    same AS (
        SELECT p.agency_id, p.id AS payment, r.amount AS elsewhere, 0 AS disputed, false AS open
        FROM touched p JOIN refunds r ON r.agency_id = p.agency_id AND r.payment_intent = p.payment_intent
        WHERE r.step_id IS NULL AND r.status NOT IN ('failed', 'canceled')
        UNION ALL
        SELECT p.agency_id, p.id, r.amount, 0, false
        FROM touched p JOIN refunds r ON r.agency_id = p.agency_id AND r.charge = p.charge
        WHERE p.payment_intent IS NULL AND r.step_id IS NULL AND r.status NOT IN ('failed', 'canceled')
        UNION ALL
        SELECT p.agency_id, p.id, 0, CASE WHEN d.status IN {not_taken} THEN 0 ELSE d.amount END, d.status NOT IN {over}
        FROM touched p JOIN disputes d ON d.agency_id = p.agency_id AND d.payment_intent = p.payment_intent
        UNION ALL
        SELECT p.agency_id, p.id, 0, CASE WHEN d.status IN {not_taken} THEN 0 ELSE d.amount END, d.status NOT IN {over}
        FROM touched p JOIN disputes d ON d.agency_id = p.agency_id AND d.charge = p.charge
        WHERE p.payment_intent IS NULL
    ),
    seen AS (
        SELECT p.agency_id, p.id, coalesce(sum(same.elsewhere), 0)::bigint AS elsewhere,
               coalesce(sum(same.disputed), 0)::bigint AS disputed, coalesce(bool_or(same.open), false) AS open
        FROM touched p LEFT JOIN same ON same.agency_id = p.agency_id AND same.payment = p.id
        GROUP BY p.agency_id, p.id
    )
"""
_COUNT: Final = """
    UPDATE payments SET elsewhere = seen.elsewhere, disputed = seen.disputed, dispute_open = seen.open
    FROM seen
    WHERE payments.agency_id = seen.agency_id AND payments.id = seen.id
    AND (payments.elsewhere, payments.disputed, payments.dispute_open)
        IS DISTINCT FROM (seen.elsewhere, seen.disputed, seen.open)
"""
_MISCOUNTED: Final = """
    SELECT payments.id, payments.elsewhere, seen.elsewhere, payments.disputed, seen.disputed,
           payments.dispute_open, seen.open
    FROM payments JOIN seen ON payments.agency_id = seen.agency_id AND payments.id = seen.id
    WHERE (payments.elsewhere, payments.disputed, payments.dispute_open)
        IS DISTINCT FROM (seen.elsewhere, seen.disputed, seen.open)
    ORDER BY payments.id
"""
_WON: Final = "('won', 'warning_closed', 'prevented')"
_OVER: Final = "('won', 'lost', 'warning_closed', 'prevented')"
_SOME: Final = "(p.payment_intent = ANY(:intents) OR p.charge = ANY(:charges))"
_ALL: Final = "p.agency_id = ANY(:agencies)"


def recount(session: Session, intents: Collection[str], charges: Collection[str]) -> None:
    """Bring `elsewhere`, `disputed` and `dispute_open` of these payments up to the refunds and disputes in the mirror.

    A refund is ours when its metadata or the credit note that made it says so; those that failed give nothing. A lost
    dispute counts as given.
    """
    if intents or charges:
        which = (
            sa.bindparam("intents", list(intents), type_=ARRAY(sa.Text)),
            sa.bindparam("charges", list(charges), type_=ARRAY(sa.Text)),
        )
        by_charge = session.scalars(sa.text(_LOCK).bindparams(*which)).all()
        _run(session, _SOME, *which, ways=(_BY_INTENT, *([_BY_CHARGE] if any(by_charge) else [])))


def recount_all(session: Session, agencies: Collection[int]) -> None:
    """The same for every payment of these agencies."""
    with planned(session, enable_nestloop="off"):
        _run(session, _ALL, sa.bindparam("agencies", list(agencies), type_=ARRAY(sa.BigInteger)))


def miscounted(session: Session, agencies: Collection[int]) -> list[tuple[str, str, Any, Any]]:
    """(payment, counter, as it stands, as refunds and disputes in the mirror say) for each counter that is off."""
    which = sa.bindparam("agencies", list(agencies), type_=ARRAY(sa.BigInteger))
    found: list[tuple[str, str, Any, Any]] = []
    with planned(session, enable_nestloop="off"):
        off = session.execute(sa.text(_seen(_ALL) + _MISCOUNTED).bindparams(which)).all()
    for payment, *pairs in off:
        names = ("elsewhere", "disputed", "dispute_open")
        values = zip(names, pairs[::2], pairs[1::2], strict=True)
        found.extend((payment, name, here, there) for name, here, there in values if here != there)
    return found


def _seen(which: str) -> str:
    return _SEEN.format(which=which, not_taken=_WON, over=_OVER)


def _run(
    session: Session, which: str, *values: sa.BindParameter[Any], ways: Sequence[str] = (_BY_INTENT, _BY_CHARGE)
) -> None:
    for statement in (*(_LINK.format(which=which, same=way) for way in ways), _seen(which) + _COUNT):
        session.execute(sa.text(statement).bindparams(*values))
