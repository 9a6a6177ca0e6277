"""Subscriptions: created, changed in the middle of a period, cancelled. Amounts in cents, worked out by hand."""

import pytest
import stripe

from tests.sandbox.billing_world import DAY, HOUR, Shop, at, lines
from tests.sandbox.conftest import Sandbox


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return Shop(sandbox)


def test_a_new_subscription_is_charged_at_once(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100), metadata={"a": "1"})
    invoice = shop.newest(customer)
    assert made.status == "active"
    assert made.latest_invoice == invoice.id
    assert (made["items"].data[0].current_period_start, made["items"].data[0].current_period_end) == (
        at(8, 1),
        at(9, 1),
    )
    assert (invoice.status, invoice.total, invoice.amount_paid, invoice.amount_remaining) == ("paid", 3100, 3100, 0)
    assert invoice.billing_reason == "subscription_create"
    assert lines(invoice) == [(3100, at(8, 1), at(9, 1))]
    assert invoice.parent.subscription_details.subscription == made.id
    assert invoice.parent.subscription_details.metadata["a"] == "1"
    [payment] = invoice.payments.data
    assert (payment.status, payment.amount_paid, payment.is_default) == ("paid", 3100, True)
    intent = shop.api.payment_intents.retrieve(payment.payment.payment_intent)
    assert (intent.status, intent.amount) == ("succeeded", 3100)


def test_quantities_and_several_items_of_several_intervals(shop: Shop) -> None:
    customer = shop.customer()
    items = [{"price": shop.price(700, "week"), "quantity": 2}, {"price": shop.price(36_500, "year")}]
    made = shop.api.subscriptions.create({"customer": customer, "items": items})
    # 2 x 7.00 for a week, 365.00 for a year.
    assert lines(shop.newest(customer)) == [(1400, at(8, 1), at(8, 8)), (36_500, at(8, 1), at(8, 1, year=2020))]
    shop.clock(at(8, 8, 2))
    # The week renews by itself.
    assert lines(shop.newest(customer)) == [(1400, at(8, 8), at(8, 15))]
    ends = [item.current_period_end for item in shop.subscription(made.id)["items"].data]
    assert ends == [at(8, 15), at(8, 1, year=2020)]


def test_without_a_card_nothing_is_made(shop: Shop) -> None:
    customer = shop.customer(card=None)
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        shop.subscribe(customer, shop.price(3100))
    assert shop.invoices(customer) == []
    assert shop.api.subscriptions.list({"customer": customer, "status": "all"}).data == []


def test_a_first_payment_that_fails_leaves_it_incomplete_for_23_hours(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    made = shop.subscribe(customer, shop.price(3100))
    assert (made.status, shop.newest(customer).status) == ("incomplete", "open")
    shop.clock(at(8, 1, 22, 59))
    assert shop.subscription(made.id).status == "incomplete"
    shop.clock(at(8, 1, 23))
    assert (shop.subscription(made.id).status, shop.newest(customer).status) == ("incomplete_expired", "void")


def test_an_incomplete_one_is_active_once_its_invoice_is_paid(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    made = shop.subscribe(customer, shop.price(3100))
    shop.new_card(customer, "pm_card_visa")
    shop.api.invoices.pay(made.latest_invoice)
    assert shop.subscription(made.id).status == "active"
    # One payment intent was tried twice: one payment, now paid.
    assert [(p.status, p.amount_paid) for p in shop.newest(customer).payments.data] == [("paid", 3100)]


def test_error_if_incomplete_takes_everything_back(shop: Shop) -> None:
    customer = shop.customer("pm_card_chargeCustomerFail")
    with pytest.raises(stripe.CardError):
        shop.subscribe(customer, shop.price(3100), payment_behavior="error_if_incomplete")
    assert shop.api.subscriptions.list({"customer": customer, "status": "all"}).data == []


def test_an_upgrade_credits_the_old_plan_and_bills_the_new_one_at_once(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    first = shop.newest(customer)
    shop.clock(at(8, 16, 12))
    item = made["items"].data[0].id
    shop.api.subscriptions.update(
        made.id, {"items": [{"id": item, "price": shop.price(6200)}], "proration_behavior": "always_invoice"}
    )
    # 16 August 12:00 is the middle of the month: 372 of 744 hours are left. -31.00 / 2 = -15.50, +62.00 / 2 = 31.00.
    invoice = shop.newest(customer)
    assert lines(invoice) == [(-1550, at(8, 16, 12), at(9, 1)), (3100, at(8, 16, 12), at(9, 1))]
    assert (invoice.status, invoice.total, invoice.amount_paid) == ("paid", 1550, 1550)
    assert invoice.billing_reason == "subscription_update"
    details = [line.parent.subscription_item_details for line in invoice.lines.data]
    assert [one.proration for one in details] == [True, True]
    assert details[0].proration_details.credited_items.invoice_line_items == [first.lines.data[0].id]
    # The next whole month costs 62.00.
    shop.clock(at(9, 1, 2))
    assert lines(shop.newest(customer)) == [(6200, at(9, 1), at(10, 1))]


def test_a_downgrade_puts_the_difference_on_the_balance(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(6200))
    shop.clock(at(8, 16, 12))
    item = made["items"].data[0].id
    shop.api.subscriptions.update(
        made.id, {"items": [{"id": item, "price": shop.price(3100)}], "proration_behavior": "always_invoice"}
    )
    # -62.00 / 2 + 31.00 / 2 = -15.50: nothing is due, 15.50 of credit.
    invoice = shop.newest(customer)
    assert (invoice.status, invoice.total, invoice.amount_due) == ("paid", -1550, 0)
    assert (invoice.starting_balance, invoice.ending_balance) == (0, -1550)
    assert shop.api.customers.retrieve(customer).balance == -1550
    shop.clock(at(9, 1, 1))
    # 31.00 - 15.50 of credit.
    renewal = shop.newest(customer)
    assert (renewal.total, renewal.amount_due, renewal.amount_paid) == (3100, 1550, 1550)
    assert (renewal.starting_balance, renewal.ending_balance) == (-1550, 0)


def test_create_prorations_waits_for_the_next_invoice(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.clock(at(8, 16, 12))
    shop.api.subscriptions.update(made.id, {"items": [{"id": made["items"].data[0].id, "quantity": 3}]})
    assert len(shop.invoices(customer)) == 1
    pending = shop.api.invoice_items.list({"customer": customer, "pending": True}).data
    # -31.00 / 2; 3 x 31.00 / 2 = 46.50.
    assert sorted(item.amount for item in pending) == [-1550, 4650]
    shop.clock(at(9, 1, 2))
    # -15.50 + 46.50 + 93.00 = 124.00.
    invoice = shop.newest(customer)
    assert [line.amount for line in invoice.lines.data] == [-1550, 4650, 9300]
    assert invoice.total == 12_400


def test_a_second_change_credits_what_the_first_one_debited(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    item = made["items"].data[0].id
    shop.clock(at(8, 16, 12))
    shop.api.subscriptions.update(
        made.id, {"items": [{"id": item, "price": shop.price(6200)}], "proration_behavior": "always_invoice"}
    )
    shop.clock(at(8, 24, 6))
    # Of the 372 hours 186 are left: half. -31.00 / 2; 124.00 x 186/744 = 31.00.
    shop.api.subscriptions.update(
        made.id, {"items": [{"id": item, "price": shop.price(12_400)}], "proration_behavior": "always_invoice"}
    )
    assert lines(shop.newest(customer)) == [(-1550, at(8, 24, 6), at(9, 1)), (3100, at(8, 24, 6), at(9, 1))]


def test_a_credit_is_as_discounted_as_its_debit(shop: Shop) -> None:
    customer = shop.customer()
    coupon = shop.api.coupons.create({"percent_off": 20, "duration": "once"}).id
    made = shop.subscribe(customer, shop.price(3100), discounts=[{"coupon": coupon}])
    # 31.00 - 20 % = 24.80.
    assert shop.newest(customer).total == 2480
    assert made.discounts == []
    shop.clock(at(8, 16, 12))
    shop.api.subscriptions.update(
        made.id,
        {
            "items": [{"id": made["items"].data[0].id, "price": shop.price(6200)}],
            "proration_behavior": "always_invoice",
        },
    )
    # -24.80 / 2 = -12.40; the coupon is used up: +62.00 / 2 = 31.00.
    assert [line.amount for line in shop.newest(customer).lines.data] == [-1240, 3100]


def test_proration_behavior_none_bills_nothing_before_the_renewal(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.clock(at(8, 16, 12))
    shop.api.subscriptions.update(
        made.id, {"items": [{"id": made["items"].data[0].id, "price": shop.price(6200)}], "proration_behavior": "none"}
    )
    shop.clock(at(9, 1, 2))
    assert [line.amount for line in shop.newest(customer).lines.data] == [6200]


def test_an_anchor_in_the_future_bills_the_part_before_it(shop: Shop) -> None:
    customer = shop.customer()
    shop.clock(at(8, 16, 12))
    made = shop.subscribe(customer, shop.price(3100), billing_cycle_anchor=at(9, 1))
    # 372 of the 744 hours from 1 August to 1 September.
    assert lines(shop.newest(customer)) == [(1550, at(8, 16, 12), at(9, 1))]
    shop.clock(at(9, 1, 2))
    assert lines(shop.newest(customer)) == [(3100, at(9, 1), at(10, 1))]
    assert shop.subscription(made.id).billing_cycle_anchor == at(9, 1)


def test_the_31st_returns_after_a_short_month(shop: Shop) -> None:
    shop.clock(at(8, 31))
    customer = shop.customer()
    shop.subscribe(customer, shop.price(3100))
    shop.clock(at(11, 1))
    periods = [(line.period.start, line.period.end) for i in shop.invoices(customer) for line in i.lines.data]
    assert periods == [(at(10, 31), at(11, 30)), (at(9, 30), at(10, 31)), (at(8, 31), at(9, 30))]


def test_a_trial_costs_nothing_and_its_end_starts_the_cycle(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100), trial_period_days=14)
    invoice = shop.newest(customer)
    assert (made.status, made.trial_end) == ("trialing", at(8, 15))
    assert (invoice.status, invoice.total, lines(invoice)) == ("paid", 0, [(0, at(8, 1), at(8, 15))])
    shop.clock(at(8, 12))
    assert shop.events("customer.subscription.trial_will_end") == ["customer.subscription.trial_will_end"]
    shop.clock(at(8, 15, 1))
    invoice = shop.newest(customer)
    assert shop.subscription(made.id).status == "active"
    assert (invoice.status, lines(invoice)) == ("paid", [(3100, at(8, 15), at(9, 15))])


def test_a_trial_ended_now_is_billed_now(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100), trial_end=at(8, 20))
    shop.clock(at(8, 5))
    shop.api.subscriptions.update(made.id, {"trial_end": "now"})
    assert shop.subscription(made.id).status == "active"
    assert lines(shop.newest(customer)) == [(3100, at(8, 5), at(9, 5))]


def test_a_new_anchor_starts_a_fresh_period(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.clock(at(8, 16, 12))
    shop.api.subscriptions.update(made.id, {"billing_cycle_anchor": {"type": "now"}})
    # -31.00 / 2 and a whole month from now.
    assert lines(shop.newest(customer)) == [(-1550, at(8, 16, 12), at(9, 1)), (3100, at(8, 16, 12), at(9, 16, 12))]


def test_cancelled_at_once_it_bills_no_more(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.clock(at(8, 16, 12))
    ended = shop.api.subscriptions.cancel(made.id, {"prorate": True, "invoice_now": True})
    assert (ended.status, ended.ended_at) == ("canceled", at(8, 16, 12))
    # 15.50 of the month is not used: credit.
    assert shop.newest(customer).total == -1550
    shop.clock(at(10, 2))
    assert len(shop.invoices(customer)) == 2
    assert shop.api.subscriptions.list({"customer": customer}).data == []
    with pytest.raises(stripe.InvalidRequestError):
        shop.api.subscriptions.cancel(made.id)


def test_cancelled_at_the_end_of_the_period_it_runs_until_then(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    changed = shop.api.subscriptions.update(made.id, {"cancel_at_period_end": True})
    assert (changed.status, changed.cancel_at) == ("active", at(9, 1))
    shop.clock(at(8, 31, 23))
    assert shop.subscription(made.id).status == "active"
    shop.clock(at(9, 1))
    assert shop.subscription(made.id).status == "canceled"
    assert len(shop.invoices(customer)) == 1


def test_items_come_and_go_one_by_one(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.clock(at(8, 16, 12))
    added = shop.api.subscription_items.create({"subscription": made.id, "price": shop.price(6200)})
    assert len(shop.api.subscription_items.list({"subscription": made.id}).data) == 2
    shop.api.subscription_items.delete(added.id)
    # Added and gone within the second: +31.00 and -31.00 wait, the renewal costs 31.00 as ever.
    pending = shop.api.invoice_items.list({"customer": customer, "pending": True}).data
    assert sorted(item.amount for item in pending) == [-3100, 3100]
    with pytest.raises(stripe.InvalidRequestError, match="at least one"):
        shop.api.subscription_items.delete(made["items"].data[0].id)


def test_lists_filter_by_status_customer_price_and_period(shop: Shop) -> None:
    one, two = shop.customer(), shop.customer()
    price = shop.price(3100)
    first = shop.subscribe(one, price)
    second = shop.subscribe(two, shop.price(700, "week"))
    listed = shop.api.subscriptions.list
    assert [row.id for row in listed().data] == [second.id, first.id]
    assert [row.id for row in listed({"price": price}).data] == [first.id]
    assert [row.id for row in listed({"customer": two}).data] == [second.id]
    assert [row.id for row in listed({"current_period_end": {"lt": at(8, 20)}}).data] == [second.id]
    shop.api.subscriptions.cancel(first.id)
    assert [row.id for row in listed({"status": "canceled"}).data] == [first.id]
    assert [row.id for row in listed({"status": "all"}).data] == [second.id, first.id]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"items": []}, "items"),
        ({"items": [{"price": "price_none"}]}, "No such price"),
        ({"collection_method": "send_invoice"}, "days_until_due"),
        ({"trial_end": at(7, 1)}, "future"),
        ({"billing_cycle_anchor": at(7, 1)}, "past"),
        ({"discounts": [{"coupon": "none"}]}, "No such coupon"),
        ({"default_tax_rates": ["txr_none"]}, "No such tax rate"),
    ],
)
def test_bad_parameters_are_refused_and_change_nothing(shop: Shop, params: dict[str, object], message: str) -> None:
    customer = shop.customer()
    with pytest.raises(stripe.InvalidRequestError, match=message):
        shop.api.subscriptions.create({"customer": customer, "items": [{"price": shop.price(3100)}], **params})
    assert shop.invoices(customer) == []


def test_what_is_not_modelled_is_501_and_never_a_made_up_success(shop: Shop) -> None:
    customer, price = shop.customer(), shop.price(3100)
    for more in ({"payment_behavior": "default_incomplete"}, {"backdate_start_date": at(7, 1)}):
        with pytest.raises(stripe.APIError) as refusal:
            shop.subscribe(customer, price, **more)
        assert refusal.value.http_status == 501


def test_retries_every_three_five_and_seven_days(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.new_card(customer, "pm_card_chargeCustomerFail")
    shop.clock(at(9, 1, 1))
    invoice = shop.newest(customer)
    assert (invoice.status, invoice.attempt_count, shop.subscription(made.id).status) == ("open", 1, "past_due")
    assert invoice.next_payment_attempt == at(9, 1, 1) + 3 * DAY
    for days, count in ((3, 2), (8, 3), (15, 4)):
        shop.clock(at(9, 1, 1) + days * DAY)
        assert shop.newest(customer).attempt_count == count
    assert shop.newest(customer).next_payment_attempt is None
    shop.new_card(customer, "pm_card_visa")
    shop.clock(at(9, 30))
    assert shop.newest(customer).status == "open"
    shop.api.invoices.pay(invoice.id)
    assert shop.subscription(made.id).status == "active"


def test_a_retry_takes_the_new_card(shop: Shop) -> None:
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.new_card(customer, "pm_card_chargeCustomerFail")
    shop.clock(at(9, 1, 1))
    shop.new_card(customer, "pm_card_visa")
    shop.clock(at(9, 1, 1) + 3 * DAY - HOUR)
    assert shop.newest(customer).status == "open"
    shop.clock(at(9, 1, 1) + 3 * DAY)
    assert (shop.newest(customer).status, shop.subscription(made.id).status) == ("paid", "active")


@pytest.mark.parametrize(
    ("behavior", "status"), [("pause", "paused"), ("cancel", "canceled"), ("create_invoice", "past_due")]
)
def test_a_trial_that_ends_without_a_card(shop: Shop, behavior: str, status: str) -> None:
    settings = {"end_behavior": {"missing_payment_method": behavior}}
    made = shop.subscribe(shop.customer(None), shop.price(3100), trial_period_days=7, trial_settings=settings)
    shop.clock(at(8, 8, 2))
    assert shop.subscription(made.id).status == status
    shop.clock(at(9, 20))
    assert shop.subscription(made.id).status == status
