"""Credit notes: what is due falls first, what was paid goes back, to the cent. Amounts in cents, worked out by hand."""

from typing import Any

import pytest
import stripe

from tests.sandbox.billing_world import HOUR, Shop, at
from tests.sandbox.conftest import Sandbox
from tests.sandbox.test_invoices import by_hand, paid_by


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return Shop(sandbox)


def paid(shop: Shop, amount: int = 3100, card: str = "pm_card_visa", **more: Any) -> stripe.Invoice:
    """The paid first invoice of a new subscription."""
    customer = shop.customer(card)
    shop.subscribe(customer, shop.price(amount, currency=more.pop("currency", "usd")), **more)
    return shop.newest(customer)


def of_line(invoice: stripe.Invoice, amount: int, index: int = 0, **more: Any) -> dict[str, Any]:
    line = invoice.lines.data[index].id
    return {"type": "invoice_line_item", "invoice_line_item": line, "amount": amount, **more}


def note(shop: Shop, invoice: stripe.Invoice, *lines: dict[str, Any], **more: Any) -> stripe.CreditNote:
    """Previews and creates: both must say the same."""
    params: Any = {"invoice": invoice.id, "email_type": "none", **({"lines": list(lines)} if lines else {}), **more}
    foreseen = shop.api.credit_notes.preview(params)
    made = shop.api.credit_notes.create(params)
    for name in (
        "total",
        "subtotal",
        "discount_amount",
        "total_excluding_tax",
        "pre_payment_amount",
        "post_payment_amount",
    ):
        assert foreseen[name] == made[name]
    assert [line.amount for line in foreseen.lines.data] == [line.amount for line in made.lines.data]
    return made


def refused(shop: Shop, invoice: stripe.Invoice, *lines: dict[str, Any], **more: Any) -> stripe.InvalidRequestError:
    """The refusal of a note; the invoice, its notes and its refunds stay what they were."""
    before = shop.api.invoices.retrieve(invoice.id).to_dict()
    params: Any = {"invoice": invoice.id, **({"lines": list(lines)} if lines else {}), **more}
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shop.api.credit_notes.create(params)
    assert shop.api.invoices.retrieve(invoice.id).to_dict() == before
    return refusal.value


def intent_of(shop: Shop, invoice: stripe.Invoice) -> str:
    [payment] = shop.api.invoice_payments.list({"invoice": invoice.id}).data
    return str(payment.payment.payment_intent)


def test_a_paid_invoice_goes_back_to_the_card(shop: Shop) -> None:
    invoice = paid(shop)
    made = note(shop, invoice, of_line(invoice, 375), refund_amount=375, reason="product_unsatisfactory", memo="Sorry",
                metadata={"step": "7"})  # fmt: skip
    assert (made.total, made.pre_payment_amount, made.post_payment_amount, made.type) == (375, 0, 375, "post_payment")
    assert (made.reason, made.memo, made.metadata["step"]) == ("product_unsatisfactory", "Sorry", "7")
    assert made.number == f"{invoice.number}-CN-01"
    [entry] = made.refunds
    refund = shop.api.refunds.retrieve(entry.refund)
    assert (entry.amount_refunded, refund.amount, refund.payment_intent) == (375, 375, intent_of(shop, invoice))
    after = shop.api.invoices.retrieve(invoice.id)
    assert (after.status, after.amount_paid, after.post_payment_credit_notes_amount) == ("paid", 3100, 375)
    assert shop.events("credit_note.created", "refund.created", "charge.refunded") == [
        "refund.created", "charge.refunded", "credit_note.created",
    ]  # fmt: skip


def test_an_open_invoice_has_less_due_and_at_nothing_counts_as_paid(shop: Shop) -> None:
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, shop.customer(), 3100).id)
    first = note(shop, invoice, of_line(invoice, 375))
    assert (first.type, first.pre_payment_amount, first.post_payment_amount, first.refunds) == (
        "pre_payment",
        375,
        0,
        [],
    )
    after = shop.api.invoices.retrieve(invoice.id)
    # 31.00 - 3.75.
    assert (after.status, after.amount_due, after.amount_remaining) == ("open", 2725, 2725)
    assert after.pre_payment_credit_notes_amount == 375
    note(shop, invoice, of_line(invoice, 2725))
    after = shop.api.invoices.retrieve(invoice.id)
    assert (after.status, after.amount_due, after.amount_paid, after.amount_remaining) == ("paid", 0, 0, 0)
    assert shop.events("invoice.paid") == ["invoice.paid"]


def test_a_note_of_a_partly_paid_invoice_is_mixed(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 9300).id)
    shop.api.invoices.attach_payment(invoice.id, {"payment_intent": paid_by(shop, customer, 8800)})
    # 7.00: 5.00 was still due, 2.00 goes back.
    refused(shop, invoice, of_line(invoice, 700), refund_amount=700)
    made = note(shop, invoice, of_line(invoice, 700), refund_amount=200)
    assert (made.type, made.pre_payment_amount, made.post_payment_amount) == ("mixed", 500, 200)
    assert shop.api.invoices.retrieve(invoice.id).status == "paid"


def test_credit_goes_to_the_balance(shop: Shop) -> None:
    invoice = paid(shop)
    made = note(shop, invoice, of_line(invoice, 375), credit_amount=375)
    assert shop.api.customers.retrieve(invoice.customer).balance == -375
    [entry] = shop.api.customers.balance_transactions.list(invoice.customer).data
    assert (entry.type, entry.amount, entry.credit_note) == ("credit_note", -375, made.id)
    assert made.customer_balance_transaction == entry.id


def test_what_the_balance_paid_goes_back_to_the_balance(shop: Shop) -> None:
    customer = shop.customer()
    shop.api.customers.balance_transactions.create(customer, {"amount": -1240, "currency": "usd"})
    shop.subscribe(customer, shop.price(3100))
    invoice = shop.newest(customer)
    # 40 % was paid by the balance: of 3.75 1.50, and 2.25 by the card.
    made = note(shop, invoice, of_line(invoice, 375), refund_amount=225, credit_amount=150)
    assert (made.post_payment_amount, made.refunds[0].amount_refunded) == (375, 225)
    assert shop.api.customers.retrieve(customer).balance == -150
    # The card paid 18.60 and has 16.35 left: no more than that can be refunded.
    refused(shop, invoice, of_line(invoice, 1636), refund_amount=1636)
    note(shop, invoice, of_line(invoice, 1635), refund_amount=1635)


def test_out_of_band(shop: Shop) -> None:
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, shop.customer(), 3100).id)
    shop.api.invoices.pay(invoice.id, {"paid_out_of_band": True})
    refused(shop, invoice, of_line(invoice, 375), refund_amount=375)
    made = note(shop, invoice, of_line(invoice, 375), out_of_band_amount=375)
    assert (made.out_of_band_amount, made.post_payment_amount, made.refunds) == (375, 375, [])


@pytest.mark.parametrize(
    "ways",
    [
        {},
        {"refund_amount": 374},
        {"refund_amount": 376},
        {"refund_amount": 200, "credit_amount": 200},
        {"credit_amount": 1},
    ],
)
def test_the_ways_back_must_add_up(shop: Shop, ways: dict[str, int]) -> None:
    invoice = paid(shop)
    assert "must equal" in str(refused(shop, invoice, of_line(invoice, 375), **ways))
    assert shop.api.refunds.list().data == []


def test_discount_and_tax_come_along_in_proportion(shop: Shop) -> None:
    coupon = shop.api.coupons.create({"percent_off": 20, "duration": "forever"}).id
    vat = shop.api.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": False}).id
    invoice = paid(shop, discounts=[{"coupon": coupon}], default_tax_rates=[vat])
    assert invoice.total == 2976  # 31.00 - 6.20 + 4.96
    # A quarter: 7.75 - 1.55 + 1.24 = 7.44.
    made = note(shop, invoice, of_line(invoice, 775), refund_amount=744)
    assert (made.subtotal, made.discount_amount, made.total_excluding_tax, made.total) == (775, 155, 620, 744)
    [line] = made.lines.data
    assert (line.amount, line.discount_amount, line.taxes[0].amount) == (775, 155, 124)
    assert line.taxes[0].tax_rate_details.tax_rate == vat
    assert [tax.amount for tax in made.total_taxes] == [124]
    assert line.tax_rates[0].id == vat


def test_tax_inside_the_price_is_part_of_the_amount(shop: Shop) -> None:
    vat = shop.api.tax_rates.create({"display_name": "MwSt", "percentage": 20, "inclusive": True}).id
    invoice = paid(shop, currency="eur", default_tax_rates=[vat])
    # 31.00 holds 5.17; 3.75 of it 3.75 x 5.17 / 31.00 = 0.6254: 0.63, without it 3.12.
    made = note(shop, invoice, of_line(invoice, 375), refund_amount=375)
    assert (made.total, made.total_taxes[0].amount, made.total_excluding_tax) == (375, 63, 312)


def test_given_tax_amounts_stand(shop: Shop) -> None:
    vat = shop.api.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": False}).id
    invoice = paid(shop, default_tax_rates=[vat])
    tax = {"amount": 75, "taxable_amount": 378, "tax_rate": vat}
    # 3.78 + 0.75: 4.53, which no proportional tax (0.756 -> 0.76) would make.
    made = note(shop, invoice, of_line(invoice, 378, tax_amounts=[tax]), refund_amount=453)
    assert (made.total, made.lines.data[0].taxes[0].amount) == (453, 75)


def test_negative_lines_lower_the_note(shop: Shop) -> None:
    customer = shop.customer()
    draft = by_hand(shop, customer, 6200)
    shop.api.invoice_items.create({"customer": customer, "invoice": draft.id, "amount": -1550, "currency": "usd"})
    invoice = shop.api.invoices.pay(draft.id)
    # 7.50 - 3.75.
    made = note(shop, invoice, of_line(invoice, 750), of_line(invoice, -375, 1), refund_amount=375)
    assert [line.amount for line in made.lines.data] == [750, -375]
    refused(shop, invoice, of_line(invoice, 100, 1), credit_amount=100)  # a negative line takes negative amounts


def test_a_note_by_quantity_a_note_of_its_own_words_and_one_of_a_plain_amount(shop: Shop) -> None:
    customer = shop.customer()
    items = [{"price": shop.price(1000), "quantity": 5}]
    shop.api.subscriptions.create({"customer": customer, "items": items})
    invoice = shop.newest(customer)
    line = invoice.lines.data[0].id
    by_quantity = {"type": "invoice_line_item", "invoice_line_item": line, "quantity": 2}
    assert note(shop, invoice, by_quantity, refund_amount=2000).total == 2000
    refused(shop, invoice, of_line(invoice, 100), refund_amount=100)  # once by quantity, always by quantity
    own = {"type": "custom_line_item", "description": "Goodwill", "quantity": 2, "unit_amount": 150}
    assert note(shop, invoice, own, credit_amount=300).lines.data[0].description == "Goodwill"
    assert note(shop, invoice, amount=700, refund_amount=700).total == 700


def test_a_line_gives_back_no_more_than_it_cost(shop: Shop) -> None:
    invoice = paid(shop)
    note(shop, invoice, of_line(invoice, 3000), refund_amount=3000)
    refused(shop, invoice, of_line(invoice, 101), refund_amount=101)
    note(shop, invoice, of_line(invoice, 100), refund_amount=100)
    refused(shop, invoice, of_line(invoice, 1), credit_amount=1)


def test_notes_and_direct_refunds_share_one_ceiling(shop: Shop) -> None:
    invoice = paid(shop)
    shop.api.refunds.create({"payment_intent": intent_of(shop, invoice), "amount": 3000})
    # 31.00 - 30.00: 1.00 is left, even for the balance.
    assert "more than can still be credited" in str(refused(shop, invoice, of_line(invoice, 101), credit_amount=101))
    note(shop, invoice, of_line(invoice, 100), credit_amount=100)


def test_a_refund_made_before_is_linked_and_does_not_count_twice(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 9300).id)
    for amount in (8800, 500):
        shop.api.invoices.attach_payment(invoice.id, {"payment_intent": paid_by(shop, customer, amount)})
    newest, oldest = (p.payment.payment_intent for p in shop.newest(customer).payments.data)
    made_before = [
        shop.api.refunds.create({"payment_intent": newest, "amount": 500}).id,
        shop.api.refunds.create({"payment_intent": oldest, "amount": 8800}).id,
    ]
    links = [{"refund": made_before[0]}, {"refund": made_before[1], "amount_refunded": 8800}]
    made = note(shop, invoice, of_line(invoice, 9300), refunds=links)
    assert [(one.refund, one.amount_refunded) for one in made.refunds] == [
        (made_before[0], 500),
        (made_before[1], 8800),
    ]
    assert len(shop.api.refunds.list().data) == 2


def test_a_refund_is_linked_once_and_only_to_its_invoice(shop: Shop) -> None:
    one, other = paid(shop), paid(shop)
    refund = shop.api.refunds.create({"payment_intent": intent_of(shop, one), "amount": 375}).id
    refused(shop, other, of_line(other, 375), refunds=[{"refund": refund}])
    note(shop, one, of_line(one, 375), refunds=[{"refund": refund}])
    refused(shop, one, of_line(one, 375), refunds=[{"refund": refund}])


def test_a_disputed_payment_takes_no_note_back(shop: Shop) -> None:
    invoice = paid(shop)
    shop.sandbox.control("POST", "disputes", payment_intent=intent_of(shop, invoice))
    refused(shop, invoice, of_line(invoice, 375), refund_amount=375)
    assert shop.api.credit_notes.list({"invoice": invoice.id}).data == []


def test_a_card_that_refuses_refunds_leaves_the_note_with_a_failed_refund(shop: Shop) -> None:
    invoice = paid(shop, card="pm_card_refundRefused")
    made = note(shop, invoice, of_line(invoice, 375), refund_amount=375)
    assert shop.api.refunds.retrieve(made.refunds[0].refund).status == "failed"


def test_void_only_while_the_invoice_is_open(shop: Shop) -> None:
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, shop.customer(), 3100).id)
    made = note(shop, invoice, of_line(invoice, 3000))
    voided = shop.api.credit_notes.void_credit_note(made.id)
    assert (voided.status, voided.voided_at) == ("void", at(8, 1))
    after = shop.api.invoices.retrieve(invoice.id)
    assert (after.amount_due, after.amount_remaining, after.pre_payment_credit_notes_amount) == (3100, 3100, 0)
    note(shop, invoice, of_line(invoice, 3100))  # the line is whole again
    final = paid(shop)
    given = note(shop, final, of_line(final, 100), credit_amount=100)
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.credit_notes.void_credit_note(given.id)


def test_lists_lines_and_updates(shop: Shop) -> None:
    invoice = paid(shop)
    first = note(shop, invoice, of_line(invoice, 100), refund_amount=100)
    second = note(shop, invoice, of_line(invoice, 200), refund_amount=200)
    assert [row.id for row in shop.api.credit_notes.list({"invoice": invoice.id}).data] == [second.id, first.id]
    assert [row.id for row in shop.api.credit_notes.list({"customer": invoice.customer}).data] == [second.id, first.id]
    assert [line.amount for line in shop.api.credit_notes.line_items.list(first.id).data] == [100]
    preview = {"invoice": invoice.id, "lines": [of_line(invoice, 50)], "refund_amount": 50}
    assert [line.amount for line in shop.api.credit_notes.preview_lines.list(preview).data] == [50]
    assert shop.api.credit_notes.update(first.id, {"memo": "Again"}).memo == "Again"
    assert shop.events("credit_note.updated") == ["credit_note.updated"]


def test_a_preview_changes_nothing(shop: Shop) -> None:
    invoice = paid(shop)
    shop.api.credit_notes.preview({"invoice": invoice.id, "lines": [of_line(invoice, 375)], "refund_amount": 375})
    assert shop.api.credit_notes.list({"invoice": invoice.id}).data == []
    assert shop.api.refunds.list().data == []


def test_drafts_and_voided_invoices_take_no_notes(shop: Shop) -> None:
    draft = by_hand(shop, shop.customer(), 3100)
    refused(shop, draft, of_line(draft, 100))
    shop.api.invoices.void_invoice(shop.api.invoices.finalize_invoice(draft.id).id)
    refused(shop, draft, of_line(draft, 100))


def test_what_is_asked_wrongly_is_refused(shop: Shop) -> None:
    invoice, other = paid(shop), paid(shop)
    refused(shop, invoice, of_line(other, 100), refund_amount=100)
    refused(shop, invoice, of_line(invoice, 100), of_line(invoice, 100), refund_amount=200)
    refused(shop, invoice, of_line(invoice, 100), amount=100, refund_amount=100)
    refused(shop, invoice, refund_amount=100)
    refused(shop, invoice, {**of_line(invoice, 100), "quantity": 1}, refund_amount=100)
    refused(shop, invoice, amount=0, refund_amount=0)
    with pytest.raises(stripe.APIError) as refusal:
        shop.api.credit_notes.create({"invoice": invoice.id, "shipping_cost": {"shipping_rate": "shr_1"}})
    assert refusal.value.http_status == 501


def test_a_sent_invoice_reduced_before_it_is_due_is_collected_for_the_rest(shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer, shop.price(3100))
    shop.new_card(customer, "pm_card_chargeCustomerFail")
    shop.clock(at(9, 1, 1))
    invoice = shop.newest(customer)
    note(shop, invoice, of_line(invoice, 375))
    shop.new_card(customer, "pm_card_visa")
    shop.clock(at(9, 1, 1) + 72 * HOUR)
    # 31.00 - 3.75 by the same payment intent that had failed.
    after = shop.newest(customer)
    assert (after.status, after.amount_paid) == ("paid", 2725)
    assert [(p.status, p.amount_paid) for p in after.payments.data] == [("paid", 2725)]
