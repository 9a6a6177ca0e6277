"""What Stripe took of the payments that went back: asked for once each, whoever else cannot be asked. In cents."""

import pytest
import sqlalchemy as sa

from billing import circuits
from billing.models import Payment
from billing.outages import fees, grants
from tenants.db import BY_INDEX, OPERATOR, Database, planned
from tenants.house import House
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.outages.test_claims import plan_of


@pytest.fixture
def given_back(world: Approved, house: House, stripe: SmallStripe) -> Approved:
    """10.00 of 100.00, and 5.00 of 58.00; a third payment is whole."""
    world.refund_of(1_000, captured=10_000)
    world.refund_of(500, captured=5_800)
    while grants.send_due(house, 10):
        pass
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 2_000, (2_000,))
    return world


def known(world: Approved) -> list[tuple[int, int | None, str | None]]:
    with world.database.work(OPERATOR) as session:
        asked = sa.select(Payment.captured, Payment.fee, Payment.fee_currency).where(Payment.fee_asked)
        return sorted(tuple(row) for row in session.execute(asked))


def is_due(world: Approved) -> bool:
    with world.database.work(OPERATOR) as session:
        return session.execute(fees.oldest_due()).one()[0] is not None


def test_each_is_asked_for_once_and_of_those_alone_that_went_back(given_back: Approved, house: House) -> None:
    assert is_due(given_back)
    assert fees.learn_due(house, 1) == 1
    assert fees.learn_due(house, 10) == 1
    # 2.9 % of 100.00 and 0.30 are 3.20; 2.9 % of 58.00 are 1.682, rounded down 1.68, and 0.30 are 1.98.
    assert known(given_back) == [(5_800, 198, "usd"), (10_000, 320, "usd")]
    assert not is_due(given_back)
    assert fees.learn_due(house, 10) == 0


def test_one_that_stripe_does_not_have_any_more_is_not_asked_for_again(
    given_back: Approved, house: House, stripe: SmallStripe
) -> None:
    with given_back.database.work(OPERATOR) as session:
        lost = session.scalars(sa.select(Payment.payment_intent).where(Payment.captured == 10_000)).one()
    del stripe.captured[lost]
    assert fees.learn_due(house, 10) == 2
    assert known(given_back) == [(5_800, 198, "usd"), (10_000, None, None)]
    assert not is_due(given_back)


def test_an_account_that_is_left_alone_is_asked_later_and_keeps_no_other_waiting(
    given_back: Approved, house: House
) -> None:
    with given_back.database.work(OPERATOR) as session:
        circuits.open_up(session, "", "Stripe refuses the key.", 60)
    assert not is_due(given_back)
    assert fees.learn_due(house, 10) == 0
    with given_back.database.work(OPERATOR) as session:
        session.execute(sa.update(circuits.Circuit).where(circuits.Circuit.account == "").values(see_at=sa.func.now()))
    assert fees.learn_due(house, 10) == 2


MANY = """
INSERT INTO payments SELECT (x).* FROM (SELECT jsonb_populate_record(p, jsonb_build_object(
    'id', 'inpay_m' || n, 'fee', 1, 'fee_currency', 'usd', 'fee_asked', true)) x
    FROM payments p, generate_series(1, 3000) n WHERE p.captured = 2000) y
"""


@pytest.mark.parametrize("counted", [False, True])
def test_however_many_are_known_those_that_are_not_are_found_by_an_index(
    counted: bool, given_back: Approved, superuser: Database
) -> None:
    with superuser.work(OPERATOR) as session:
        session.execute(sa.text(MANY))
        if counted:
            session.execute(sa.text("ANALYZE payments"))
    with given_back.database.work(OPERATOR) as session:
        session.execute(sa.text("SET LOCAL plan_cache_mode = force_generic_plan"))
        with planned(session, **BY_INDEX):
            lines = plan_of(session, fees.oldest_due())
            scans = [line.strip(" ->") for line in lines if "on payments" in line]
            assert [scan.split(" on ")[0].replace("Only ", "") for scan in scans] == [
                "Index Scan using ix_payments_fee_due"
            ]
