"""Automatic tax: what the customer's place makes of a price, and what a note takes back. Amounts in cents, by hand."""

import json
from typing import Any

import pytest
import stripe

from tests.sandbox.billing_world import HOUR, Shop, at
from tests.sandbox.conftest import Sandbox
from tests.sandbox.shapes import problems
from tests.sandbox.test_billing_shapes import objects
from tests.sandbox.test_credit_notes import note, of_line, refused

GERMANY = {"country": "DE"}
AUSTRIA = {"country": "AT"}
NEW_YORK = {"country": "US", "state": "NY", "postal_code": "10001"}
CALIFORNIA = {"country": "US", "state": "CA", "postal_code": "94103-1234"}
AUTOMATIC: Any = {"automatic_tax": {"enabled": True}}


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return Shop(sandbox)


def priced(shop: Shop, amount: int, behavior: str = "exclusive") -> str:
    return shop.api.prices.create(
        {"product": shop.product, "currency": "usd", "unit_amount": amount, "recurring": {"interval": "month"},
         "tax_behavior": behavior}  # type: ignore[typeddict-item]
    ).id  # fmt: skip


def living_in(shop: Shop, address: Any, **more: Any) -> str:
    customer = shop.customer()
    shop.api.customers.update(customer, {"address": address, **more} if address else more)
    return customer


def sold(shop: Shop, address: Any, amount: int = 3100, behavior: str = "exclusive", **more: Any) -> stripe.Invoice:
    """The paid first invoice of a new subscription with automatic tax."""
    customer = living_in(shop, address)
    shop.subscribe(customer, priced(shop, amount, behavior), **AUTOMATIC, **more)
    return shop.newest(customer)


def taxes(invoice: Any) -> list[tuple[int, str, str, int]]:
    return [(one.amount, one.tax_behavior, one.taxability_reason, one.taxable_amount) for one in invoice.total_taxes]


def refused_for(code: str, call: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        call()
    assert refusal.value.code == code


def test_tax_comes_on_top_of_a_price_or_is_in_it(shop: Shop) -> None:
    # 19 % of 31.00 are 5.89. Of 31.00 with 20 % in them 25.83 are the seller's (25.8333), 5.17 the state's.
    on_top, inside = sold(shop, GERMANY), sold(shop, AUSTRIA, behavior="inclusive")
    assert (on_top.total, on_top.total_excluding_tax, on_top.amount_paid) == (3689, 3100, 3689)
    assert taxes(on_top) == [(589, "exclusive", "standard_rated", 3100)]
    assert (inside.total, inside.total_excluding_tax, inside.amount_paid) == (3100, 2583, 3100)
    assert taxes(inside) == [(517, "inclusive", "standard_rated", 2583)]
    assert (on_top.automatic_tax.enabled, on_top.automatic_tax.status) == (True, "complete")
    rate = shop.api.tax_rates.retrieve(on_top.total_taxes[0].tax_rate_details.tax_rate)  # type: ignore[index,union-attr]
    assert (rate.country, rate.percentage, rate.tax_type, rate.active) == ("DE", 19, "vat", False)


def test_the_place_decides_and_can_be_given_a_rate(shop: Shop) -> None:
    # 7.25 % of 31.00 are 2.2475; nobody is registered in Norway; 8.875 %, once New York is given that: 2.75125.
    assert sold(shop, CALIFORNIA).total == 3325
    assert taxes(sold(shop, {"country": "NO"})) == [(0, "exclusive", "not_collecting", 3100)]
    shop.sandbox.control("POST", "tax", place="US-NY", percentage="8.875")
    assert sold(shop, NEW_YORK).total == 3375
    exempt = living_in(shop, GERMANY, tax_exempt="reverse")
    shop.subscribe(exempt, priced(shop, 3100), **AUTOMATIC)
    assert taxes(shop.newest(exempt)) == [(0, "exclusive", "reverse_charge", 3100)]


@pytest.mark.parametrize("address", [None, {"city": "Berlin"}, {"country": "US", "state": "NY"}, {"country": "CA"}])
def test_too_little_of_a_place_is_refused(shop: Shop, address: Any) -> None:
    customer = living_in(shop, address)
    refused_for(
        "customer_tax_location_invalid", lambda: shop.subscribe(customer, priced(shop, 3100), **AUTOMATIC)
    )  # fmt: skip
    assert shop.invoices(customer) == []


@pytest.mark.parametrize("more", [{"default_tax_rates": ["rate"]}, {}])
def test_what_does_not_go_with_automatic_tax_is_refused(shop: Shop, more: dict[str, Any]) -> None:
    rate = shop.api.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": False}).id
    price = priced(shop, 3100) if more else shop.price(3100)  # one that does not say whether tax is in it
    with pytest.raises(stripe.InvalidRequestError):
        shop.subscribe(living_in(shop, GERMANY), price, **AUTOMATIC, **{name: [rate] for name in more})


def test_the_rate_is_that_of_the_day_on_which_an_invoice_is_finalized(shop: Shop) -> None:
    invoice = sold(shop, GERMANY)
    shop.clock(at(9, 1))
    draft = shop.newest(str(invoice.customer))
    assert (draft.status, draft.total) == ("draft", 3689)
    shop.sandbox.control("POST", "tax", place="DE", percentage=16)
    shop.clock(at(9, 1) + 2 * HOUR)
    assert (shop.newest(str(invoice.customer)).status, shop.newest(str(invoice.customer)).total) == ("paid", 3596)


def test_stripe_goes_on_without_tax_when_it_no_longer_knows_where(shop: Shop) -> None:
    invoice = sold(shop, GERMANY)
    customer = str(invoice.customer)
    shop.api.customers.update(customer, {"address": ""})
    shop.clock(at(9, 1))
    assert shop.newest(customer).automatic_tax.status == "requires_location_inputs"
    refused_for(
        "customer_tax_location_invalid", lambda: shop.api.invoices.finalize_invoice(shop.newest(customer).id)
    )  # fmt: skip
    assert shop.newest(customer).last_finalization_error.code == "customer_tax_location_invalid"  # type: ignore[union-attr]
    assert shop.events("invoice.finalization_failed") == ["invoice.finalization_failed"]
    shop.clock(at(9, 1) + 2 * HOUR)
    done = shop.newest(customer)
    assert (done.status, done.total, done.automatic_tax.enabled) == ("paid", 3100, False)
    assert done.automatic_tax.disabled_reason == "finalization_requires_location_inputs"
    assert shop.api.subscriptions.list({"customer": customer}).data[0].automatic_tax.enabled is False


def test_a_note_names_amounts_without_tax_and_takes_the_tax_along(shop: Shop) -> None:
    on_top, inside = sold(shop, GERMANY), sold(shop, AUSTRIA, behavior="inclusive")
    # 3.75 and 19 % of it, 0.7125 -> 0.71.
    made = note(shop, on_top, of_line(on_top, 375), refund_amount=446)
    assert (made.total, made.total_excluding_tax, taxes(made)) == (446, 375, [(71, "exclusive", "standard_rated", 375)])
    # 3.12 without tax are 3.744 with it, as 31.00 is to 25.83: 3.74, of which 0.62 is tax.
    made = note(shop, inside, of_line(inside, 312), refund_amount=374)
    assert (made.total, made.total_excluding_tax, made.lines.data[0].amount) == (374, 312, 374)
    # All that is left: 25.83 - 3.12.
    made = note(shop, inside, of_line(inside, 2271), refund_amount=2726)
    assert shop.api.invoices.retrieve(inside.id).post_payment_credit_notes_amount == 3100


def test_or_as_they_were_billed_if_that_is_what_stripe_means(sandbox: Sandbox) -> None:
    sandbox.control("POST", "reset", now=at(7, 1), assume={"automatic_tax_amounts": "as_billed"})
    shop = Shop(sandbox)
    inside = sold(shop, AUSTRIA, behavior="inclusive")
    made = note(shop, inside, of_line(inside, 374), refund_amount=374)
    assert (made.total, made.total_excluding_tax) == (374, 312)


def test_stripe_works_the_tax_of_a_note_out_itself(shop: Shop) -> None:
    invoice = sold(shop, GERMANY)
    rate = invoice.total_taxes[0].tax_rate_details.tax_rate  # type: ignore[index,union-attr]
    stated = {"amount": 71, "tax_rate": rate, "taxable_amount": 375}
    refused(shop, invoice, of_line(invoice, 375, tax_amounts=[stated]), refund_amount=446)
    own = {"type": "custom_line_item", "description": "Sorry", "quantity": 1, "unit_amount": 375}
    refused(shop, invoice, own, refund_amount=375)
    with pytest.raises(stripe.APIError, match="name lines"):
        shop.api.credit_notes.create({"invoice": invoice.id, "amount": 375, "refund_amount": 375})


def test_all_of_it_is_as_stripes_client_expects_it(shop: Shop) -> None:
    invoice = sold(shop, GERMANY)
    note(shop, invoice, of_line(invoice, 375), refund_amount=446)
    wrong: set[str] = set()
    for path in ("subscriptions", "invoices", "credit_notes", "tax_rates", "events"):
        answer = shop.sandbox.raw("GET", f"/v1/{path}?limit=100").json()
        wrong |= {problem for found in objects(answer) for problem in problems(found)}
    assert wrong == set()


@pytest.mark.parametrize("wrong", [{"place": "Germany"}, {"place": "DE", "percentage": 101}, {"percentage": 1}, {}])
def test_a_rate_that_cannot_be(sandbox: Sandbox, wrong: dict[str, Any]) -> None:
    assert sandbox.raw("POST", "/_sandbox/tax", data=json.dumps(wrong)).status_code == 400
