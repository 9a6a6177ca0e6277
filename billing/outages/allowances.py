"""ApprovalLimit, LimitDay: how much of an agency's money goes back without a person, set beforehand by somebody else.

Amounts are integers of the currency's smallest Stripe unit, times are UTC business time, days those of UTC.
"""

from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import AgencyOwned, Base


class ApprovalLimit(AgencyOwned, Base):
    """What approves itself from `set_at` until the next version: so much for one incident, so much for all, per day.

    Add-only. Zero: a person approves everything.
    """

    __tablename__ = "approval_limits"
    __table_args__ = (
        sa.CheckConstraint("0 <= per_run AND per_run <= per_day", name="a_run_fits_into_its_day"),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="limit_names_a_currency"),
    )
    currency: Mapped[str] = mapped_column(primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True)
    per_run: Mapped[int]
    per_day: Mapped[int]
    set_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    set_at: Mapped[datetime]


class LimitDay(AgencyOwned, Base):
    """How much approved itself on one day. `used` rises in the transaction that approves; it never falls."""

    __tablename__ = "limit_days"
    __table_args__ = (sa.CheckConstraint("used BETWEEN 0 AND allowed", name="automatic_within_the_day"),)
    currency: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(sa.Date(), primary_key=True)
    allowed: Mapped[int]
    used: Mapped[int]
