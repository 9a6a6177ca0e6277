"""What a declaration gives back, each amount worked out by hand: 90 h of August's 744 h are 15/124."""

import pytest

from tenants.db import Database
from tests.billing.outages.august import August
from tests.factories import building


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


def test_a_month_on_facebook_gets_ninety_hours_back(august: August) -> None:
    with building(august.db):
        invoice = august.sell()
    plan = august.preview()
    # 31.00 x 90 h / 744 h = 3.75
    assert plan.totals == [
        {
            "currency": "usd", "amount": 375, "grants": 1, "customers": 1, "refund": 375, "credit": 0, "reduce": 0,
            "out_of_band": 0,
        }
    ]  # fmt: skip
    (grant,) = plan.to_json()["grants"]
    assert (grant["invoice"], grant["amount"], grant["channel"]) == (invoice.id, 375, "refund")
    print(plan.in_words(), plan.to_json())
    incident = august.declare()
    print(august.shown(incident))
    print(august.approve(incident))
    print(august.resolve(incident))
    print(august.shown(incident))
