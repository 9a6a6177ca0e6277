"""What Stripe took for the payments that went back: it keeps that fee, so it is part of what an outage cost.

The fee is on the charge's balance transaction, in the currency of the account's balance, which need not be the
payment's: https://docs.stripe.com/refunds#refund-fees
"""

from typing import Any, Final

import sqlalchemy as sa

from billing import circuits, gateway
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable
from billing.models import Payment
from billing.outages import switch
from tenants.db import BY_INDEX, OPERATOR, planned
from tenants.house import House

_NOTHING: Final[sa.ColumnElement[int]] = sa.literal_column("0")
"""Of a parameter PostgreSQL could not know that it means the rows of the index."""


def learn_due(house: House, limit: int) -> int:
    """Ask for the fees of up to `limit` payments that were refunded. Returns how many; safe to run at once.

    An account that does not let us in keeps no other waiting.
    """
    with house.database.work(OPERATOR) as session, planned(session, **BY_INDEX):
        wanted = session.execute(_unknown().limit(limit)).all()
    asked = 0
    shut: set[str] = set()
    for agency_id, payment_id, intent, charge, account in wanted:
        if account in shut:
            continue
        try:
            fee = gateway.connect(house, account).fee_of(intent, charge)
        except LockedOut:
            shut.add(account)
            continue
        except Unreachable:
            return 0  # asked again at the next look
        except (Gone, ReadRefused):
            fee = None
        with house.database.work(OPERATOR) as session:
            session.execute(
                sa.update(Payment)
                .where(Payment.agency_id == agency_id, Payment.id == payment_id)
                .values(fee=fee.amount if fee else None, fee_currency=fee.currency if fee else None, fee_asked=True)
            )
        asked += 1
    return asked


def oldest_due() -> sa.Select[Any]:
    """Now, where a fee is unknown, and None otherwise; and the time now."""
    now = sa.func.clock_timestamp()
    return sa.select(sa.case((sa.exists(_unknown()), now)), now)


def _unknown() -> sa.Select[int, str, str | None, str | None, str]:
    account = switch.account_of(Payment.agency_id)
    return (
        sa.select(Payment.agency_id, Payment.id, Payment.payment_intent, Payment.charge, account)
        .where(Payment.refunded > _NOTHING, ~Payment.fee_asked, ~circuits.is_open(account))
        .order_by(Payment.agency_id, Payment.id)
    )
