"""What becomes of the subscriptions of a platform that was given up, while Stripe does not answer."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from billing.models import Plan, PlanWeight, Platform
from billing.outages import retirements
from billing.outages.decisions import Retirement
from tenants.db import OPERATOR
from tenants.house import House
from tests.billing.outages.rows import STARTED, Approved
from tests.billing.outages.small_stripe import SmallStripe


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_stripe_does_not_answer_about_for_a_day_is_moved_within_minutes_of_its_coming_back(
    world: Approved, house: House, stripe: SmallStripe, method: str
) -> None:
    """It was asked often, while nobody was let in: until it is moved, its pause cannot end either."""
    with world.database.work(OPERATOR) as session:
        subscription = f"sub_{world.customer(session)}"
        session.add(
            Plan(id="price_1", product_id="prod_1", name="Pro", currency="usd", metered=False, active=True,
                 created_at=STARTED)
        )  # fmt: skip
        session.flush()
        platform = session.scalars(sa.select(Platform.id).where(Platform.slug == "facebook")).one()
        session.add(PlanWeight(plan_id="price_1", platform_id=platform, weight_bp=5_000))
        session.add(
            Retirement(
                agency_id=world.agency_id, incident_id=world.incident_id, subscription_id=subscription, kind="move",
                moves={"price_1": "price_2"}, state="planned", attempt_no=20,
            )
        )  # fmt: skip
    stripe.spoil(
        method, f"/v1/subscriptions/{subscription}", *["lost_before" if method == "POST" else "down"] * 3
    )  # a read is tried thrice
    assert retirements.carry_out_due(house, 1) == 1
    with world.database.work(OPERATOR) as session:
        (row,) = session.scalars(sa.select(Retirement))
        wait = session.scalars(sa.select(Retirement.due_at - sa.func.now())).one()
    assert (row.state, row.attempt_no) == ("planned", 21)
    assert stripe.sent[-1].method == method
    assert timedelta(0) < wait <= timedelta(minutes=2)
