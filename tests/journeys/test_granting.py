"""Money goes back through a real wire to the sandbox, which refuses whatever Stripe would refuse. Amounts in cents."""

import pytest
import sqlalchemy as sa

from billing import check, following, importing
from billing.models import CreditNote, Payment, Refund
from billing.outages import reconcile, tasks
from billing.outages.models import Grant, Step
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, Shop


@pytest.fixture
def house(shop: Shop, db: Database) -> House:
    return shop.house(db)


def granted(shop: Shop, house: House, db: Database, invoices: list[str], **parts: int) -> None:
    """Declared, approved and sent: the same parts for each invoice."""
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.approved_run(session)
        for invoice in invoices:
            shops.grant(session, invoice, **parts)
    tasks.work_until_quiet(house, "inc_1", timeout=120)


def in_books(db: Database) -> list[tuple[str, str, int]]:
    with db.work(OPERATOR) as session:
        found = session.execute(sa.select(Grant.channel, Grant.state, Grant.amount).order_by(Grant.id))
        return [tuple(row) for row in found]


def agree(house: House, db: Database) -> None:
    """Nothing differs, in either direction, once the events of our own deeds were followed."""
    following.follow(house, "")
    report = reconcile.reconcile(house, "inc_1")
    assert report.differences == []
    assert report.checked["credit_notes"] == sum(1 for channel, *_ in in_books(db) if channel != "manual")
    assert check.check(house, "") == []


def test_each_payment_gives_back_its_part_and_the_mirror_knows_at_once(shop: Shop, house: House, db: Database) -> None:
    granted(shop, house, db, shop.sell(5), refund=400)
    assert in_books(db) == [("refund", "succeeded", 400)] * 5
    charges = shop.ledger()["charges"]
    assert [(one["captured"], one["refunded"]) for one in charges] == [(3_100, 400)] * 5
    with db.work(OPERATOR) as session:
        of_refunds, of_notes = (session.scalars(sa.select(one.step_id)).all() for one in (Refund, CreditNote))
        assert sorted(of_refunds) == sorted(of_notes)
        assert set(session.execute(sa.select(Payment.refunded, Payment.reserved, Payment.elsewhere))) == {(400, 0, 0)}
    agree(house, db)


def test_tax_and_discounts_add_up_to_the_cent(shop: Shop, house: House, db: Database) -> None:
    # 31.00 less 25 % = 23.25, and 7.25 % tax on top: 1.69 (168.56 half up). 24.94 paid; 3.33 goes back.
    rate = shop.post("/v1/tax_rates", display_name="Sales", percentage="7.25", inclusive=False)["id"]
    coupon = shop.post("/v1/coupons", percent_off=25, duration="forever")["id"]
    invoices = shop.sell(3, discounts=[{"coupon": coupon}], default_tax_rates=[rate])
    paid = shop.get(f"/v1/invoices/{invoices[0]}")["amount_paid"]
    assert paid == 2_494
    granted(shop, house, db, invoices, refund=333)
    assert in_books(db) == [("refund", "succeeded", 333)] * 3
    assert [note["total"] for note in shop.get("/v1/credit_notes")["data"]] == [333] * 3
    agree(house, db)


@pytest.mark.parametrize("amount", [1, 2, 7, 99, 100, 1_247, 2_493, 2_494])
def test_whatever_the_amount_the_note_is_exactly_that(shop: Shop, house: House, db: Database, amount: int) -> None:
    rate = shop.post("/v1/tax_rates", display_name="Sales", percentage="7.25", inclusive=False)["id"]
    coupon = shop.post("/v1/coupons", percent_off=25, duration="forever")["id"]
    granted(shop, house, db, shop.sell(1, discounts=[{"coupon": coupon}], default_tax_rates=[rate]), refund=amount)
    assert in_books(db) == [("refund", "succeeded", amount)]


def test_inclusive_tax_is_inside_what_goes_back(shop: Shop, house: House, db: Database) -> None:
    rate = shop.post("/v1/tax_rates", display_name="VAT", percentage="20", inclusive=True)["id"]
    granted(shop, house, db, shop.sell(1, default_tax_rates=[rate]), refund=601)
    (note,) = shop.get("/v1/credit_notes")["data"]
    assert note["total"] == 601
    agree(house, db)


def test_a_card_that_refuses_refunds_becomes_credit(shop: Shop, house: House, db: Database) -> None:
    granted(shop, house, db, shop.sell(1, card="pm_card_refundRefused"), refund=400)
    assert in_books(db) == [("refund", "failed", 400), ("credit", "succeeded", 400)]
    assert shop.get(f"/v1/customers/{shop.customers[0]}")["balance"] == -400
    assert reconcile.reconcile(house, "inc_1").differences == []


def test_balance_credit_stays_credit(shop: Shop, house: House, db: Database) -> None:
    granted(shop, house, db, shop.sell(1), credit=250)
    assert shop.get(f"/v1/customers/{shop.customers[0]}")["balance"] == -250
    agree(house, db)


def test_what_reconcile_finds_when_somebody_meddles(shop: Shop, house: House, db: Database) -> None:
    granted(shop, house, db, shop.sell(2), refund=400)
    with db.work(OPERATOR) as session:
        first, second = session.scalars(sa.select(Step).order_by(Step.id)).all()
    shop.post(f"/v1/credit_notes/{first.stripe_id}", metadata={"step": str(second.id)})
    words = "\n".join(reconcile.reconcile(house, "inc_1").in_words())
    assert f"Step {first.id} (credit_note): we have {first.stripe_id}, succeeded, Stripe has nothing." in words
    assert f"Step {second.id} (credit_note): we have {second.stripe_id}, Stripe has {first.stripe_id}, too." in words
    assert "4.00 USD of the 8.00 USD that went back are explained." in words
