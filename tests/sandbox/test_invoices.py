"""Invoices on the clock and by hand: drafts, pauses, payments, balance, discounts, taxes. Worked out by hand."""

import pytest
import stripe

from tests.sandbox.billing_world import DAY, Shop, at
from tests.sandbox.conftest import Sandbox


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return Shop(sandbox)


def by_hand(shop: Shop, customer: str, amount: int, currency: str = "usd", **more: object) -> stripe.Invoice:
    """A draft with one line."""
    draft = shop.api.invoices.create({"customer": customer, "currency": currency, **more})
    shop.api.invoice_items.create({"customer": customer, "invoice": draft.id, "amount": amount, "currency": currency})
    return shop.api.invoices.retrieve(draft.id)


def paid_by(shop: Shop, customer: str, amount: int) -> str:
    """A payment intent of its own that has succeeded."""
    return shop.api.payment_intents.create(
        {
            "amount": amount, "currency": "usd", "customer": customer, "confirm": True,
            "payment_method": "pm_card_visa",
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
        }
    ).id  # fmt: skip


def test_a_renewal_is_a_draft_for_an_hour_then_charged(shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer, shop.price(3100))
    shop.clock(at(9, 1))
    draft = shop.newest(customer)
    assert (draft.status, draft.auto_advance, draft.automatically_finalizes_at) == ("draft", True, at(9, 1, 1))
    assert (draft.number, draft.ending_balance, draft.period_start, draft.period_end) == (
        None,
        None,
        at(8, 1),
        at(9, 1),
    )
    shop.clock(at(9, 1, 0, 59))
    assert shop.newest(customer).status == "draft"
    shop.clock(at(9, 1, 1))
    paid = shop.newest(customer)
    assert (paid.status, paid.amount_paid, paid.automatically_finalizes_at) == ("paid", 3100, None)
    assert (paid.status_transitions.finalized_at, paid.status_transitions.paid_at) == (at(9, 1, 1), at(9, 1, 1))
    assert paid.number.endswith("-0002")


def test_the_events_of_a_renewal(shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer, shop.price(3100))
    shop.clock(at(9, 1, 1))
    written = shop.api.events.list({"created": {"gte": at(9, 1)}, "limit": 100}).data
    assert [event.type for event in reversed(written)] == [
        "customer.subscription.updated", "invoice.created", "invoice.finalized", "payment_intent.created",
        "charge.succeeded", "payment_intent.succeeded", "invoice_payment.paid", "invoice.paid",
        "invoice.payment_succeeded",
    ]  # fmt: skip
    renewed = shop.api.events.list({"type": "customer.subscription.updated"}).data[0]
    assert renewed.data.previous_attributes["items"]["data"][0]["current_period_end"] == at(9, 1)
    assert renewed.request.id is None


def test_send_invoice_waits_for_the_customer(shop: Shop) -> None:
    customer = shop.customer(card=None)
    made = shop.subscribe(customer, shop.price(3100), collection_method="send_invoice", days_until_due=7)
    assert (made.status, shop.newest(customer).status) == ("active", "draft")
    shop.clock(at(8, 1, 1))
    sent = shop.newest(customer)
    assert (sent.status, sent.due_date, sent.attempt_count) == ("open", at(8, 1, 1) + 7 * DAY, 0)
    assert shop.events("invoice.sent") == ["invoice.sent"]
    shop.clock(at(8, 1, 1) + 7 * DAY)
    assert shop.subscription(made.id).status == "past_due"
    shop.api.invoices.pay(sent.id, {"paid_out_of_band": True})
    paid = shop.newest(customer)
    assert (paid.status, paid.amount_paid, paid.amount_paid_off_stripe, paid.payments.data) == ("paid", 3100, 3100, [])
    assert shop.subscription(made.id).status == "active"


@pytest.mark.parametrize(
    ("behavior", "balance", "status", "left"),
    [
        ("keep_as_draft", -1000, "draft", -1000),
        ("void", -1000, "void", -1000),  # the balance is not touched
        ("mark_uncollectible", -1000, "uncollectible", 0),  # spent first: 21.00 is given up
        ("mark_uncollectible", -3100, "paid", 0),  # the balance covers it
    ],
)
def test_paused_renewals(shop: Shop, behavior: str, balance: int, status: str, left: int) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.api.customers.balance_transactions.create(customer, {"amount": balance, "currency": "usd"})
    paused = shop.api.subscriptions.update(
        made.id, {"pause_collection": {"behavior": behavior}, "metadata": {"i": "7"}}
    )
    assert (paused.status, paused.pause_collection.behavior, paused.metadata["i"]) == ("active", behavior, "7")
    shop.clock(at(9, 5))
    held = shop.newest(customer)
    assert (held.status, held.auto_advance) == (status, False)
    assert shop.api.customers.retrieve(customer).balance == left
    if status == "uncollectible":
        assert (held.amount_remaining, held.status_details.uncollectible.reason) == (2100, "subscription_paused")


def test_a_pause_is_lifted_by_the_empty_string_and_leaves_drafts_behind(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": "keep_as_draft"}})
    shop.clock(at(9, 2))
    assert shop.api.subscriptions.update(made.id, {"pause_collection": ""}).pause_collection is None
    [event] = shop.api.events.list({"type": "customer.subscription.updated", "limit": 1}).data
    assert event.data.previous_attributes.to_dict() == {
        "pause_collection": {"behavior": "keep_as_draft", "resumes_at": None}
    }
    shop.clock(at(9, 20))
    stranded = shop.newest(customer)
    assert (stranded.status, stranded.auto_advance, stranded.automatically_finalizes_at) == ("draft", False, None)
    shop.clock(at(10, 1, 2))
    assert [one.status for one in shop.invoices(customer)] == ["paid", "draft", "paid"]


def test_resumes_at_lifts_the_pause_by_itself(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": "void", "resumes_at": at(8, 20)}})
    shop.clock(at(8, 19, 23))
    assert shop.subscription(made.id).pause_collection is not None
    shop.clock(at(8, 20))
    assert shop.subscription(made.id).pause_collection is None


def test_an_invoice_opened_before_the_pause_is_still_retried(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.new_card(customer, "pm_card_chargeCustomerFail")
    shop.clock(at(9, 1, 1))
    shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": "void"}})
    shop.new_card(customer, "pm_card_visa")
    shop.clock(at(9, 1, 1) + 3 * DAY)
    assert shop.newest(customer).status == "paid"


def test_auto_advance_off_stops_the_retries_and_on_takes_them_up(shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer, shop.price(3100))
    shop.new_card(customer, "pm_card_chargeCustomerFail")
    shop.clock(at(9, 1, 1))
    invoice = shop.api.invoices.update(shop.newest(customer).id, {"auto_advance": False})
    assert invoice.next_payment_attempt is None
    shop.clock(at(9, 10))
    assert shop.newest(customer).attempt_count == 1
    shop.new_card(customer, "pm_card_visa")
    assert shop.api.invoices.update(invoice.id, {"auto_advance": True}).next_payment_attempt == at(9, 10, 1)
    shop.clock(at(9, 10, 1))
    assert shop.newest(customer).status == "paid"


def test_a_held_draft_is_finalized_reduced_and_collected(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": "keep_as_draft"}})
    shop.clock(at(9, 2))
    draft = shop.newest(customer)
    shop.api.subscriptions.update(made.id, {"pause_collection": ""})
    opened = shop.api.invoices.finalize_invoice(draft.id, {"auto_advance": False})
    assert (opened.status, opened.amount_remaining, opened.next_payment_attempt) == ("open", 3100, None)
    line = opened.lines.data[0].id
    given = {"type": "invoice_line_item", "invoice_line_item": line, "amount": 1000}
    shop.api.credit_notes.create({"invoice": draft.id, "lines": [given], "email_type": "none"})
    reduced = shop.api.invoices.update(draft.id, {"auto_advance": True})
    assert (reduced.amount_due, reduced.amount_remaining) == (2100, 2100)
    shop.clock(at(9, 2, 1))
    # 31.00 - 10.00.
    paid = shop.newest(customer)
    assert (paid.status, paid.total, paid.amount_paid) == ("paid", 3100, 2100)


def test_balance_is_spent_at_finalization_only(shop: Shop) -> None:
    customer = shop.customer()
    shop.api.customers.balance_transactions.create(customer, {"amount": -1240, "currency": "usd"})
    shop.subscribe(customer, shop.price(3100))
    invoice = shop.newest(customer)
    # 31.00 - 12.40.
    assert (invoice.amount_due, invoice.amount_paid, invoice.starting_balance, invoice.ending_balance) == (
        1860,
        1860,
        -1240,
        0,
    )
    [spent, _] = shop.api.customers.balance_transactions.list(customer).data
    assert (spent.type, spent.amount, spent.invoice) == ("applied_to_invoice", 1240, invoice.id)
    open_one = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 2000).id)
    shop.api.customers.balance_transactions.create(customer, {"amount": -500, "currency": "usd"})
    assert shop.api.invoices.retrieve(open_one.id).amount_remaining == 2000


def test_a_debt_on_the_balance_is_collected_with_the_next_invoice(shop: Shop) -> None:
    customer = shop.customer()
    shop.api.customers.balance_transactions.create(customer, {"amount": 400, "currency": "usd"})
    shop.subscribe(customer, shop.price(3100))
    # 31.00 + 4.00.
    assert (shop.newest(customer).total, shop.newest(customer).amount_paid) == (3100, 3500)


def test_what_is_too_small_to_charge_is_paid_and_goes_to_the_balance(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 30).id)
    # Stripe charges no less than 0.50 USD.
    assert (invoice.status, invoice.amount_due, invoice.amount_paid, invoice.ending_balance) == ("paid", 0, 0, 30)
    [entry] = shop.api.customers.balance_transactions.list(customer).data
    assert (entry.type, entry.amount) == ("invoice_too_small", 30)


def test_voiding_gives_the_balance_back(shop: Shop) -> None:
    customer = shop.customer()
    shop.api.customers.balance_transactions.create(customer, {"amount": -1240, "currency": "usd"})
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 3100).id)
    assert shop.api.invoices.void_invoice(invoice.id).status == "void"
    assert shop.api.customers.retrieve(customer).balance == -1240
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.invoices.void_invoice(invoice.id)


def test_several_payments_on_one_invoice(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 9300).id)
    first = shop.api.invoices.attach_payment(invoice.id, {"payment_intent": paid_by(shop, customer, 8800)})
    assert (first.status, first.amount_paid, first.amount_remaining) == ("open", 8800, 500)
    second = shop.api.invoices.attach_payment(invoice.id, {"payment_intent": paid_by(shop, customer, 500)})
    assert (second.status, second.amount_paid, second.amount_remaining) == ("paid", 9300, 0)
    payments = shop.newest(customer).payments.data
    assert [(p.status, p.amount_paid, p.is_default) for p in payments] == [("paid", 500, False), ("paid", 8800, True)]
    of_intent = {"type": "payment_intent", "payment_intent": payments[1].payment.payment_intent}
    [found] = shop.api.invoice_payments.list({"payment": of_intent}).data
    assert (found.id, found.invoice) == (payments[1].id, invoice.id)
    assert len(shop.api.invoice_payments.list({"invoice": invoice.id, "status": "paid"}).data) == 2
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.invoices.attach_payment(invoice.id, {"payment_intent": paid_by(shop, customer, 500)})


def test_the_rest_of_a_partly_paid_invoice_is_charged(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 9300).id)
    shop.api.invoices.attach_payment(invoice.id, {"payment_intent": paid_by(shop, customer, 8800)})
    # 93.00 - 88.00.
    assert shop.api.invoices.pay(invoice.id).amount_paid == 9300
    assert [p.amount_paid for p in shop.newest(customer).payments.data] == [500, 8800]


def test_what_is_paid_too_much_goes_to_the_balance(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 2000).id)
    paid = shop.api.invoices.attach_payment(invoice.id, {"payment_intent": paid_by(shop, customer, 2500)})
    assert (paid.status, paid.amount_paid, paid.amount_overpaid) == ("paid", 2000, 500)
    assert shop.api.customers.retrieve(customer).balance == -500


def test_paying_with_a_declined_card_is_402_and_counts(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 2000).id)
    with pytest.raises(stripe.CardError) as refusal:
        shop.api.invoices.pay(invoice.id)
    assert refusal.value.code == "card_declined"
    tried = shop.newest(customer)
    assert (tried.status, tried.attempt_count, tried.attempted) == ("open", 1, True)
    assert shop.events("invoice.payment_failed") == ["invoice.payment_failed"]


def test_given_up_and_paid_after_all(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 2000).id)
    lost = shop.api.invoices.mark_uncollectible(invoice.id)
    assert (lost.status, lost.status_details.uncollectible.reason) == ("uncollectible", "user_forgiven")
    assert shop.api.invoices.pay(invoice.id).status == "paid"
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shop.api.invoices.pay(invoice.id)
    assert refusal.value.user_message == "Invoice is already paid"


def test_discounts_and_taxes_of_an_invoice(shop: Shop) -> None:
    customer = shop.customer()
    coupon = shop.api.coupons.create({"percent_off": 20, "duration": "forever"}).id
    vat = shop.api.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": False}).id
    shop.subscribe(customer, shop.price(3100), discounts=[{"coupon": coupon}], default_tax_rates=[vat])
    for month in (8, 9):
        shop.clock(at(month, 1, 1))
        invoice = shop.newest(customer)
        # 31.00 - 6.20 = 24.80; 20 % of it is 4.96: 29.76.
        assert (invoice.subtotal, invoice.total_excluding_tax, invoice.total) == (3100, 2480, 2976)
        [line] = invoice.lines.data
        assert (line.amount, line.discount_amounts[0].amount, line.taxes[0].amount) == (3100, 620, 496)
        assert (line.taxes[0].taxable_amount, line.taxes[0].tax_behavior) == (2480, "exclusive")
        assert line.taxes[0].tax_rate_details.tax_rate == vat
        assert [tax.amount for tax in invoice.total_taxes] == [496]
        assert [off.amount for off in invoice.total_discount_amounts] == [620]


def test_tax_inside_the_price(shop: Shop) -> None:
    customer = shop.customer()
    vat = shop.api.tax_rates.create({"display_name": "MwSt", "percentage": 19, "inclusive": True}).id
    shop.subscribe(customer, shop.price(3100, currency="eur"), default_tax_rates=[vat])
    invoice = shop.newest(customer)
    # 31.00 / 1.19 = 26.0504: 26.05, and 4.95 of tax.
    assert (invoice.total, invoice.total_excluding_tax, invoice.subtotal_excluding_tax) == (3100, 2605, 2605)
    assert (invoice.total_taxes[0].amount, invoice.total_taxes[0].taxable_amount) == (495, 2605)


def test_yen_have_no_hundredths(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3101, currency="jpy"))
    assert shop.newest(customer).amount_paid == 3101
    shop.clock(at(8, 16, 12))
    shop.api.subscriptions.update(
        made.id, {"items": [{"id": made["items"].data[0].id, "quantity": 2}], "proration_behavior": "always_invoice"}
    )
    # 3,101 / 2 = 1,550.5 -> 1,551 back; 6,202 / 2 = 3,101.
    assert [line.amount for line in shop.newest(customer).lines.data] == [-1551, 3101]


def test_pending_items_join_the_next_renewal(shop: Shop) -> None:
    customer = shop.customer()
    shop.subscribe(customer, shop.price(3100))
    shop.api.invoice_items.create({"customer": customer, "amount": -600, "currency": "usd", "description": "Sorry"})
    shop.clock(at(9, 1, 1))
    # 31.00 - 6.00.
    assert (shop.newest(customer).total, [line.amount for line in shop.newest(customer).lines.data]) == (
        2500,
        [-600, 3100],
    )


def test_drafts_by_hand_change_and_go_those_of_a_subscription_stay(shop: Shop) -> None:
    customer = shop.customer()
    draft = by_hand(shop, customer, 2000)
    assert (draft.status, draft.auto_advance, draft.total) == ("draft", False, 2000)
    shop.api.invoices.delete(draft.id)
    assert shop.invoices(customer) == []
    made = shop.subscribe(customer, shop.price(3100))
    shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": "keep_as_draft"}})
    shop.clock(at(9, 2))
    with pytest.raises(stripe.InvalidRequestError, match="no subscription"):
        shop.api.invoices.delete(shop.newest(customer).id)


def test_a_finalized_invoice_cannot_be_edited(shop: Shop) -> None:
    customer = shop.customer()
    invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 2000).id)
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shop.api.invoices.update(invoice.id, {"description": "no"})
    assert refusal.value.param == "description"
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.invoices.finalize_invoice(invoice.id)
    assert shop.api.invoices.update(invoice.id, {"metadata": {"a": "b"}}).metadata["a"] == "b"


def test_lists_filter_and_lines_page(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, *[shop.price(100 + n) for n in range(12)])
    by_hand(shop, customer, 2000)
    listed = shop.api.invoices.list({"subscription": made.id, "status": "paid"}).data
    assert len(listed) == 1
    assert (len(listed[0].lines.data), listed[0].lines.has_more) == (10, True)
    rest = shop.api.invoices.line_items.list(listed[0].id, {"starting_after": listed[0].lines.data[-1].id})
    assert [line.amount for line in rest.data] == [110, 111]
    assert len(shop.api.invoices.list({"status": "draft"}).data) == 1


def test_confirming_the_intent_of_a_failed_attempt_pays_the_invoice(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    made = shop.subscribe(customer, shop.price(3100))
    intent = shop.newest(customer).payments.data[0].payment.payment_intent
    shop.api.payment_intents.confirm(intent, {"payment_method": shop.new_card(customer, "pm_card_visa")})
    invoice = shop.newest(customer)
    assert (invoice.status, invoice.amount_paid, shop.subscription(made.id).status) == ("paid", 3100, "active")
    assert [(p.status, p.amount_paid) for p in invoice.payments.data] == [("paid", 3100)]


def test_the_intent_of_a_voided_invoice_takes_no_money(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    shop.subscribe(customer, shop.price(3100))
    invoice = shop.newest(customer)
    shop.api.invoices.void_invoice(invoice.id)
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.payment_intents.confirm(
            invoice.payments.data[0].payment.payment_intent, {"payment_method": shop.new_card(customer, "pm_card_visa")}
        )


def test_a_deleted_coupon_goes_on_for_those_who_have_it(shop: Shop) -> None:
    customer = shop.customer()
    coupon = shop.api.coupons.create({"percent_off": 20, "duration": "forever"}).id
    shop.subscribe(customer, shop.price(3100), discounts=[{"coupon": coupon}])
    shop.api.coupons.delete(coupon)
    shop.clock(at(9, 1, 1))
    assert shop.newest(customer).total == 2480  # 31.00 - 20 %
    assert shop.api.coupons.list().data == []
    with pytest.raises(stripe.InvalidRequestError, match="No such coupon"):
        shop.subscribe(customer, shop.price(3100), discounts=[{"coupon": coupon}])
