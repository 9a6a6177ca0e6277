"""What the sandbox's billing sends, held against stripe-python's own annotations, in every state that a story makes."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sandbox.billing_world import DAY, Shop, at
from tests.sandbox.conftest import Sandbox
from tests.sandbox.shapes import problems
from tests.sandbox.test_invoices import by_hand, paid_by

KINDS = {
    "subscription", "subscription_item", "invoice", "line_item", "invoice_payment", "invoiceitem", "credit_note",
    "credit_note_line_item", "coupon", "promotion_code", "discount", "tax_rate", "price", "plan",
}  # fmt: skip


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return Shop(sandbox)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside an answer."""
    if isinstance(value, dict):
        if "object" in value and isinstance(value["object"], str) and value["object"] != "list":
            yield value
        for inner in value.values():
            yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


def story(shop: Shop) -> None:
    """A little of everything."""
    api, customer = shop.api, shop.customer()
    coupon = api.coupons.create({"percent_off": 12.5, "duration": "repeating", "duration_in_months": 3}).id
    off = api.coupons.create({"amount_off": 500, "currency": "usd", "duration": "once", "max_redemptions": 9}).id
    code = api.promotion_codes.create({"promotion": {"type": "coupon", "coupon": off}, "code": "AUGUST"}).id
    inside = api.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": True, "country": "GB"}).id
    on_top = api.tax_rates.create({"display_name": "Sales", "percentage": 8.875, "inclusive": False}).id
    made = shop.subscribe(
        customer, shop.price(3100), discounts=[{"coupon": coupon}, {"promotion_code": code}],
        default_tax_rates=[inside, on_top],
    )  # fmt: skip
    shop.subscribe(customer, shop.price(700, "week"), trial_period_days=7, metadata={"a": "b"})
    shop.clock(at(8, 16, 12))
    item = made["items"].data[0].id
    api.subscriptions.update(made.id, {"items": [{"id": item, "price": shop.price(6200)}]})
    api.invoice_items.create({"customer": customer, "amount": -250, "currency": "usd"})
    shop.new_card(customer, "pm_card_chargeCustomerFail")
    shop.clock(at(9, 1, 1))
    api.subscriptions.update(made.id, {"pause_collection": {"behavior": "mark_uncollectible"}})
    shop.clock(at(9, 1, 1) + 3 * DAY)
    shop.clock(at(10, 1, 2))
    shop.new_card(customer, "pm_card_visa")
    sent = api.invoices.finalize_invoice(
        by_hand(shop, customer, 9300, collection_method="send_invoice", days_until_due=30).id
    )
    api.invoices.attach_payment(sent.id, {"payment_intent": paid_by(shop, customer, 8800)})
    line = {"type": "invoice_line_item", "invoice_line_item": sent.lines.data[0].id, "amount": 900}
    api.credit_notes.create({"invoice": sent.id, "lines": [line], "refund_amount": 300, "credit_amount": 100})
    voided = api.invoices.finalize_invoice(by_hand(shop, customer, 1000).id).id
    api.credit_notes.void_credit_note(api.credit_notes.create({"invoice": voided, "amount": 100}).id)
    api.invoices.void_invoice(voided)
    api.invoices.delete(by_hand(shop, customer, 1000).id)
    api.subscriptions.update(made.id, {"pause_collection": ""})
    api.subscriptions.cancel(made.id, {"cancellation_details": {"comment": "Bye", "feedback": "unused"}})


READS = (
    "/v1/subscriptions?status=all&limit=100&expand[]=data.latest_invoice&expand[]=data.discounts",
    "/v1/invoices?limit=100&expand[]=data.payments&expand[]=data.discounts.source.coupon",
    "/v1/invoices?limit=100&expand[]=data.customer&expand[]=data.parent.subscription_details.subscription",
    "/v1/invoice_payments?limit=100&expand[]=data.payment.payment_intent",
    "/v1/invoiceitems?limit=100",
    "/v1/credit_notes?limit=100&expand[]=data.refunds.refund&expand[]=data.invoice",
    "/v1/coupons?limit=100",
    "/v1/promotion_codes?limit=100",
    "/v1/tax_rates?limit=100",
    "/v1/events?limit=100",
)


def test_everything_that_billing_sends_is_as_stripes_client_expects_it(shop: Shop) -> None:
    story(shop)
    seen: set[str] = set()
    wrong: set[str] = set()
    statuses: set[str] = set()
    for path in READS:
        answer = shop.sandbox.raw("GET", path)
        assert answer.status_code == 200, answer.text
        for found in objects(answer.json()):
            seen.add(found["object"])
            if found["object"] == "invoice":
                statuses.add(found["status"])
            if found["object"] in KINDS:
                wrong |= set(problems(found))
    assert wrong == set()
    assert seen >= KINDS
    assert statuses == {"draft", "open", "paid", "void", "uncollectible"}


def test_deleted_objects(shop: Shop) -> None:
    customer = shop.customer()
    coupon = shop.api.coupons.create({"percent_off": 20, "duration": "once"}).id
    item = shop.api.invoice_items.create({"customer": customer, "amount": 100, "currency": "usd"}).id
    draft = by_hand(shop, customer, 100).id
    for path in (f"/v1/coupons/{coupon}", f"/v1/invoiceitems/{item}", f"/v1/invoices/{draft}"):
        answer = shop.sandbox.raw("DELETE", path).json()
        assert answer == {"id": path.rsplit("/", 1)[1], "object": answer["object"], "deleted": True}
        assert problems(answer) == []


def test_both_forms_of_a_preview_have_the_shape_of_a_note(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 1000).id)
    query = f"invoice={invoice.id}&lines[0][type]=invoice_line_item&lines[0][amount]=100"
    query += f"&lines[0][invoice_line_item]={invoice.lines.data[0].id}"
    assert problems(shop.sandbox.raw("GET", f"/v1/credit_notes/preview?{query}").json()) == []
    [line] = shop.sandbox.raw("GET", f"/v1/credit_notes/preview/lines?{query}").json()["data"]
    assert problems(line) == []
