"""What Stripe took for the payments that went back: it keeps that fee, so it is part of what an outage cost.

The fee is on the charge's balance transaction, in the currency of the account's balance, which need not be the
payment's: https://docs.stripe.com/refunds#refund-fees
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from billing import gateway
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable
from billing.models import Payment
from billing.outages.models import PaymentFee, Step
from tenants.db import OPERATOR
from tenants.house import House


def learn_due(house: House, limit: int) -> int:
    """Ask for the fees of up to `limit` payments that were refunded. Returns how many; safe to run at once."""
    with house.database.work(OPERATOR) as session:
        wanted = [tuple(row) for row in session.execute(_unknown().limit(limit))]
    for agency_id, payment_id, intent, charge, account in wanted:
        try:
            fee = gateway.connect(house, account).fee_of(intent, charge)
        except (Unreachable, LockedOut):
            return 0  # asked again at the next look
        except (Gone, ReadRefused):
            fee = None
        with house.database.work(OPERATOR) as session:
            values = {"currency": fee.currency if fee else None, "amount": fee.amount if fee else None}
            row = insert(PaymentFee).values(agency_id=agency_id, payment_id=payment_id, **values)
            session.execute(row.on_conflict_do_nothing())
    return len(wanted)


def oldest_due() -> sa.Select[Any]:
    """Now, where a fee is unknown, and None otherwise; and the time now."""
    now = sa.func.clock_timestamp()
    return sa.select(sa.case((sa.exists(_unknown()), now)), now)


def _unknown() -> sa.Select[Any]:
    refunded = sa.exists().where(
        Step.agency_id == Payment.agency_id, Step.payment_id == Payment.id, Step.state == "succeeded", Step.refund > 0
    )
    known = sa.exists().where(PaymentFee.agency_id == Payment.agency_id, PaymentFee.payment_id == Payment.id)
    account = (
        sa.select(Step.stripe_account)
        .where(Step.agency_id == Payment.agency_id, Step.payment_id == Payment.id)
        .limit(1)
        .scalar_subquery()
    )
    return sa.select(Payment.agency_id, Payment.id, Payment.payment_intent, Payment.charge, account).where(
        Payment.refunded > 0, refunded, ~known
    )
