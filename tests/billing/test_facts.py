"""Stripe's JSON read into our words, each with the arithmetic by hand."""

from datetime import UTC, datetime
from typing import Any

import pytest

from billing import translate
from billing.answers import Unreadable
from billing.facts import TaxFact
from tests.billing import stripe_json as made

# 1,565,000,000 s = 18,113 days of 86,400 s (1,564,963,200) + 36,800 s; day 18,113 is 5 August 2019
PERIOD_START = datetime(2019, 8, 5, 10, 13, 20, tzinfo=UTC)


def test_a_plan_is_a_price_with_its_product() -> None:
    plan = translate.plan(made.price())
    assert (plan.id, plan.product_id, plan.name) == ("price_1", "prod_1", "Social Pro")
    assert (plan.interval, plan.interval_count, plan.unit_amount, plan.currency) == ("month", 1, 2900, "usd")
    assert (plan.metered, plan.active, plan.weights_text) == (False, True, None)


@pytest.mark.parametrize(
    ("of_price", "of_product", "weights"),
    [
        ({}, {}, None),
        ({}, {"platform_weights": "facebook=6000"}, "facebook=6000"),
        ({"platform_weights": "x=1"}, {"platform_weights": "facebook=6000"}, "x=1"),
        ({"platform_weights": ""}, {"platform_weights": "facebook=6000"}, ""),
    ],
)
def test_the_prices_weights_come_before_the_products(
    of_price: dict[str, str], of_product: dict[str, str], weights: str | None
) -> None:
    product = {"id": "prod_1", "object": "product", "name": "Pro", "metadata": of_product}
    assert translate.plan(made.price(metadata=of_price, product=product)).weights_text == weights


def test_usage_based_and_one_off_prices() -> None:
    assert translate.plan(
        made.price(recurring={"interval": "month", "interval_count": 1, "usage_type": "metered"})
    ).metered
    once = translate.plan(made.price(recurring=None, nickname="Set-up", unit_amount=None))
    assert (once.interval, once.interval_count, once.metered, once.name, once.unit_amount) == (
        None, None, False, "Set-up", None,
    )  # fmt: skip


def test_a_subscription_renews_at_its_earliest_period_end() -> None:
    items = made.subscription()["items"]["data"]
    later = {**items[0], "id": "si_2", "current_period_end": 1_590_000_000, "quantity": None}
    subscription = translate.subscription(made.subscription(items=made.listed(later, *items)))
    assert subscription.renews_at == datetime.fromtimestamp(1_567_000_000, UTC)
    assert [(item.plan_id, item.quantity) for item in subscription.items] == [("price_1", 1), ("price_1", 2)]
    assert subscription.items[0].period_start == PERIOD_START
    assert (subscription.pause_behavior, subscription.pause_incident) == (None, None)


def test_a_pause_carries_its_incident_and_its_end() -> None:
    subscription = translate.subscription(
        made.subscription(
            pause_collection={"behavior": "void", "resumes_at": 1_565_000_000}, metadata={"incident": "inc_1"}
        )
    )
    assert (subscription.pause_behavior, subscription.pause_incident) == ("void", "inc_1")
    assert subscription.pause_resumes_at == PERIOD_START


def test_a_line_knows_net_and_both_kinds_of_tax() -> None:
    line = translate.line(
        made.line(
            amount=10_000,
            discount_amounts=[{"amount": 1_000, "discount": "di_1"}, {"amount": 500, "discount": "di_2"}],
            taxes=[made.tax(850, "exclusive"), made.tax(400, "inclusive", tax_rate_details=None, taxable_amount=None)],
        )
    )
    # net 10,000 - 1,000 - 500 = 8,500, asked for 8,500 + 850 exclusive; the inclusive 400 is inside the 8,500
    assert (line.amount, line.discount, line.net, line.tax, line.inclusive_tax) == (10_000, 1_500, 8_500, 850, 400)
    assert line.taxes == (TaxFact("txr_1", 850, False, 1000), TaxFact(None, 400, True, None))
    assert (line.plan_id, line.subscription_id, line.period_start) == ("price_1", "sub_1", PERIOD_START)


def test_a_prorated_invoice_item_is_a_signed_line_of_its_subscription() -> None:
    item = {"invoice_item": "ii_1", "proration": True, "proration_details": None, "subscription": "sub_9"}
    parent = {"type": "invoice_item_details", "invoice_item_details": item, "subscription_item_details": None}
    line = translate.line(made.line(amount=-1_450, parent=parent, subscription=None, pricing=None, quantity=None))
    assert (line.net, line.proration, line.subscription_id, line.plan_id, line.quantity) == (
        -1_450, True, "sub_9", None, None,
    )  # fmt: skip


def test_a_bare_line_belongs_to_nothing() -> None:
    line = translate.line(made.line(parent=None, subscription=None, taxes=None, discount_amounts=None))
    assert (line.subscription_id, line.proration, line.taxes, line.discount) == (None, False, (), 0)


def test_an_invoice_with_several_payments() -> None:
    payments = made.listed(
        made.payment(id="inpay_2", amount_paid=800),
        made.payment(id="inpay_1", status="canceled", amount_paid=None, status_transitions={"paid_at": None}),
        made.payment(id="inpay_3", payment={"type": "charge", "charge": {"id": "ch_1", "object": "charge"}}),
        made.payment(id="inpay_4", payment={"type": "payment_record", "payment_record": "prec_1"}),
    )
    invoice = translate.invoice(made.invoice(payments=payments, amount_paid_off_stripe=None, ending_balance=None))
    assert [(payment.id, payment.captured) for payment in invoice.payments or ()] == [
        ("inpay_2", 800), ("inpay_1", 0), ("inpay_3", 5800), ("inpay_4", 5800),
    ]  # fmt: skip
    by_charge, elsewhere = (invoice.payments or ())[2:]
    assert (by_charge.payment_intent, by_charge.charge) == (None, "ch_1")
    assert (elsewhere.payment_intent, elsewhere.charge) == (None, None)
    assert (invoice.paid_off_stripe, invoice.ending_balance, invoice.subscription_id) == (0, 0, "sub_1")


def test_payments_that_were_not_listed_are_not_none_at_all() -> None:
    assert translate.invoice(made.invoice()).payments is None
    assert translate.invoice(made.invoice(payments=made.listed())).payments == ()


def test_a_one_off_draft() -> None:
    draft = made.invoice(parent=None, number=None, status="draft", status_transitions={}, auto_advance=None)
    invoice = translate.invoice(draft)
    assert (invoice.subscription_id, invoice.number, invoice.finalized_at, invoice.auto_advance) == (
        None, None, None, False,
    )  # fmt: skip


def test_a_credit_note_splits_its_money() -> None:
    note = translate.credit_note(
        made.credit_note(
            total=2_000,
            pre_payment_amount=500,
            post_payment_amount=1_500,
            out_of_band_amount=200,
            refunds=[
                {"type": "refund", "refund": "re_1", "amount_refunded": 600},
                {"type": "refund", "refund": {"id": "re_2", "object": "refund"}, "amount_refunded": 300},
            ],
        )
    )
    # 1,500 after payment - 200 out of band - 600 - 300 refunded = 400 to the balance
    assert (note.refunded, note.credited, note.out_of_band) == (900, 400, 200)
    assert note.refunds == (("re_1", 600), ("re_2", 300))


def test_a_note_on_an_open_invoice_gives_nothing_back() -> None:
    note = translate.credit_note(made.credit_note(pre_payment_amount=900, post_payment_amount=0, refunds=[]))
    assert (note.refunded, note.credited, note.out_of_band) == (0, 0, 0)


def test_a_deleted_customer_has_only_its_id() -> None:
    customer = translate.customer({"id": "cus_1", "object": "customer", "deleted": True})
    assert (customer.deleted, customer.balance, customer.agency, customer.created_at) == (True, 0, None, None)


def test_a_customer_names_its_agency() -> None:
    whole = {"id": "cus_1", "object": "customer", "created": 1, "balance": -250, "metadata": {"agency": "acme"}}
    customer = translate.customer(whole)
    assert (customer.agency, customer.balance, customer.deleted) == ("acme", -250, False)


@pytest.mark.parametrize("name", ["", " ", "\u3000"])
def test_a_customer_with_a_blank_name_has_none(name: str) -> None:
    assert translate.customer({"id": "cus_1", "object": "customer", "created": 1, "name": name}).name is None


def test_undocumented_fields_are_ignored() -> None:
    assert translate.refund(made.refund(order="x", new={"deep": [1]})) == translate.refund(made.refund())


BROKEN: list[tuple[Any, dict[str, Any]]] = [
    (translate.refund, made.refund(amount="900")),
    (translate.refund, made.refund(amount=9.0)),
    (translate.refund, made.refund(amount=True)),
    (translate.refund, made.refund(amount=None)),
    (translate.refund, made.refund(created=-(10**20))),
    (translate.refund, made.refund(charge=7)),
    (translate.refund, {"object": "refund"}),
    (translate.plan, made.price(product="prod_1")),
    (translate.plan, made.price(active=1)),
    (translate.invoice, made.invoice(customer=None)),
    (translate.invoice, made.invoice(lines=[1])),
    (translate.invoice, made.invoice(automatic_tax={})),
    (translate.line, made.line(period=None)),
    (translate.line, made.line(taxes=[{"amount": 1}])),
    (translate.subscription, made.subscription(pause_collection={"behavior": None})),
    (translate.subscription, made.subscription(items={"data": "x"})),
    (translate.payment, made.payment(amount_paid=None)),
    (translate.credit_note, made.credit_note(post_payment_amount=None)),
]


@pytest.mark.parametrize(("read", "obj"), BROKEN)
def test_what_is_not_as_documented_is_no_answer(read: Any, obj: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        read(obj)
