"""Invoices of which Stripe works out the tax itself, from the charge to the last cent, previewed before each paper.

The outage of August as in `test_channels`: 15/124 of the month by the declaration, 30/124 by the end. Stripe rounds the
tax of a note, so that no amount of a line comes to some totals: then the next one below goes back, and a cent is owed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from billing.outages import by_hand, explain, report
from tenants.db import OPERATOR, Database
from tenants.models import Member
from tests.journeys import shop as shops
from tests.journeys.shop import AUGUST, Shop
from tests.journeys.test_channels import Outage

ANSWERS = [
    {},
    {"previews_must_add_up": False},
    {"automatic_tax_amounts": "as_billed"},
    {"automatic_tax_amounts": "as_billed", "previews_must_add_up": False},
]
"""What nobody could look up about Stripe: it must come out alike."""


@pytest.fixture(params=ANSWERS, ids=lambda assume: " ".join(assume) or "as documented")
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    with shops.opened() as opened:
        control(opened, "reset", now=int(AUGUST.timestamp()), assume=request.param)
        yield opened.open()


@pytest.fixture
def outage(shop: Shop, db: Database) -> Outage:
    return Outage(shop, db)


def control(shop: Shop, path: str, **asked: Any) -> None:
    answer = requests.post(f"{shop.url}/_sandbox/{path}", json=asked, timeout=120)
    assert answer.ok, answer.text


def sold(shop: Shop, country: str, amount: int, behavior: str, *, currency: str = "eur", **more: Any) -> str:
    """The first invoice of a customer in that country, whose tax is automatic."""
    terms = {"recurring": {"interval": "month"}, "currency": currency, "unit_amount": amount, "tax_behavior": behavior}
    product = shop.post("/v1/products", name="Pages", metadata={"platform_weights": "facebook=10000"})["id"]
    price = shop.post("/v1/prices", product=product, **terms)["id"]
    customer = shop.post("/v1/customers", email="someone@example.com", address={"country": country})["id"]
    method = shop.post("/v1/payment_methods/pm_card_visa/attach", customer=customer)["id"]
    shop.post(f"/v1/customers/{customer}", invoice_settings={"default_payment_method": method})
    items, tax = [{"price": price}], {"enabled": True}
    made = shop.post("/v1/subscriptions", customer=customer, items=items, automatic_tax=tax, **more)
    shop.customers.append(customer)
    shop.subscriptions.append(made["id"])
    invoice: str = made["latest_invoice"]
    return invoice


def notes(shop: Shop, invoice: str) -> list[tuple[int, int]]:
    """What each note gave back and how much tax is in it, the oldest first."""
    found = shop.get("/v1/credit_notes", invoice=invoice)["data"]
    return [(one["total"], sum(tax["amount"] for tax in one["total_taxes"])) for one in reversed(found)]


def reported(outage: Outage) -> dict[str, int]:
    """The euros of the report."""
    with outage.db.work(OPERATOR) as session:
        (money,) = report.report(session, outage.desk.house.clock.now(), outage.id)["money"]
    return {name: value for name, value in money.items() if name != "currency"}


def previews(shop: Shop) -> int:
    calls = requests.get(f"{shop.url}/_sandbox/requests", timeout=120).json()["requests"]
    return sum(call["path"] == "/v1/credit_notes/preview" for call in calls)


def test_net_and_tax_go_back_exactly(shop: Shop, outage: Outage) -> None:
    """31.00 and 19 % are 36.89: 4.46 (446.25), then 8.93 (892.5) less that, 4.47.

    3.75 and 19 % of it, 0.71 (0.7125), are 4.46; 3.76 and 0.71 (0.7144) are 4.47.
    """
    invoice = sold(shop, "DE", 3_100, "exclusive")
    assert outage.declare() == [("refund", "succeeded", 446)]
    assert outage.resolve()[1:] == [("refund", "succeeded", 447)]
    assert notes(shop, invoice) == [(446, 71), (447, 71)]
    assert previews(shop) >= 2
    assert outage.refunded() == [893]
    outage.desk.agrees(outage.id)


def test_tax_inside_the_price_goes_back_with_it(shop: Shop, outage: Outage) -> None:
    """31.00, of which 20/120 are tax, 5.17: 3.75 goes back, and 7.50 in all.

    Without their tax 3.12 are 3.74 (3.7444) and 3.13 are 3.76 (3.7565), where 31.00 are 25.83: nothing is 3.75. So 3.74
    goes back, and then 3.76. Where Stripe means amounts as they were billed, both are 3.75.
    """
    invoice = sold(shop, "AT", 3_100, "inclusive")
    outage.declare()
    outage.resolve()
    given = [amount for _channel, _state, amount in outage.given()]
    assert given in ([374, 376], [375, 375])
    assert [total for total, _tax in notes(shop, invoice)] == given
    # A sixth of 7.50 is 1.25: a cent of rounding each way.
    assert 124 <= sum(tax for _total, tax in notes(shop, invoice)) <= 126
    assert outage.refunded() == [750]
    outage.desk.agrees(outage.id)


def test_a_total_that_no_amount_comes_to_is_rounded_down_and_the_cent_stays_owed(shop: Shop, outage: Outage) -> None:
    """31.12 and 19 % are 37.03: 4.48 (447.94), and 8.96 (895.89) in all.

    3.76 and 0.71 (0.7144) are 4.47, 3.77 and 0.72 (0.7163) are 4.49: nothing is 4.48. So 4.47, and then 4.49, which is
    whole again.
    """
    invoice = sold(shop, "DE", 3_112, "exclusive")
    assert outage.declare() == [("refund", "succeeded", 447)]
    with outage.db.work(OPERATOR) as session:
        said = explain.explain(session, outage.id, shop.customers[0])["text"]
    assert "Owed in all: €4.479435…, rounded €4.48." in said
    assert "Given back now: €4.47." in said
    assert "Still owed: €0.01, which cannot go back this way now." in said
    assert (reported(outage)["given"], reported(outage)["rounded_away"]) == (447, 1)
    assert outage.resolve()[1:] == [("refund", "succeeded", 449)]
    assert (reported(outage)["given"], reported(outage)["rounded_away"]) == (896, 0)
    assert notes(shop, invoice) == [(447, 71), (449, 72)]
    assert outage.refunded() == [896]
    outage.desk.agrees(outage.id)


@pytest.mark.parametrize(
    ("currency", "price", "given"),
    [
        # 10.070 and 19 % are 11.983: 1.450 (1.4496). 1.218 and 0.231 (0.2314) are 1.449, 1.219 and 0.232 (0.2316) are
        # 1.451: nothing is 1.450. So 1.440, which are 1.210 and 0.230. In all 2.899 (2.8991): 1.459 more, as before.
        ("kwd", 10_070, [1_440, 1_440]),
        # 1,126 kronur and 19 % are 1,339.94: 162 (162.0895). 136.13 and 25.86 (25.8647) are 161.99, 136.14 and 25.87
        # (25.8666) are 162.01. So 161, which are 135.29 and 25.71 (25.7051). In all 324 (324.1790): 163 more, which
        # are 136.97 and 26.02 (26.0243), or 136.98 and 26.03 (26.0262): nothing. 162 neither, so 161 again.
        ("isk", 112_600, [16_100, 16_100]),
    ],
)
def test_a_total_that_no_amount_comes_to_is_rounded_down_to_what_can_be_sent(
    shop: Shop, outage: Outage, currency: str, price: int, given: list[int]
) -> None:
    invoice = sold(shop, "DE", price, "exclusive", currency=currency)
    outage.declare()
    outage.resolve()
    assert outage.given() == [("refund", "succeeded", amount) for amount in given]
    assert [total for total, _tax in notes(shop, invoice)] == given
    assert outage.refunded() == [sum(given)]
    outage.desk.agrees(outage.id)


def test_a_discount_and_automatic_tax(shop: Shop, outage: Outage) -> None:
    """31.00 less 25 % are 23.25, and 19 % more 27.67 (4.4175 of tax): 3.35 (334.72), and 6.69 (669.44) in all.

    3.75 are 2.81 after the discount and 0.53 more with tax, 3.34; 3.76 are 2.82 and 0.54, 3.36: so 3.34, and then what
    is left of 6.69, 3.35, in the same way: 3.34. A cent stays owed.
    """
    coupon = shop.post("/v1/coupons", percent_off=25, duration="forever")["id"]
    invoice = sold(shop, "DE", 3_100, "exclusive", discounts=[{"coupon": coupon}])
    assert outage.declare() == [("refund", "succeeded", 334)]
    assert outage.resolve()[1:] == [("refund", "succeeded", 334)]
    assert [total for total, _tax in notes(shop, invoice)] == [334, 334]
    assert (reported(outage)["given"], reported(outage)["rounded_away"]) == (668, 1)
    outage.desk.agrees(outage.id)


def test_an_open_invoice_asks_for_less_with_its_tax(shop: Shop, outage: Outage) -> None:
    """37.03 as above: 4.47, then 4.49, are taken off."""
    invoice = sold(shop, "DE", 3_112, "exclusive", collection_method="send_invoice", days_until_due=60)
    shop.post(f"/v1/invoices/{invoice}/finalize")
    assert outage.declare() == [("reduce", "succeeded", 447)]
    assert outage.resolve()[1:] == [("reduce", "succeeded", 449)]
    assert shop.get(f"/v1/invoices/{invoice}")["amount_remaining"] == 3_703 - 896
    outage.desk.agrees_but_for_reductions(outage.id)


def test_refunds_that_went_out_stay_whole_though_their_paper_speaks_of_a_cent_less(shop: Shop, outage: Outage) -> None:
    """37.03 as above, paid as 33.03 and 4.00: 4.00 and 0.48 go back, on a paper of 4.47 that links 4.00 and 0.47."""
    invoice = sold(shop, "DE", 3_112, "exclusive", collection_method="send_invoice", days_until_due=7)
    shop.post(f"/v1/invoices/{invoice}/finalize")
    customer = shop.customers[0]
    card = shop.get(f"/v1/customers/{customer}")["invoice_settings"]["default_payment_method"]
    for hours, amount in ((1, 3_303), (2, 400)):
        shop.now(datetime(2019, 8, 1, hours, tzinfo=UTC))
        intent = shop.post(
            "/v1/payment_intents", amount=amount, currency="eur", customer=customer, confirm=True, off_session=True,
            payment_method=card,
        )["id"]  # fmt: skip
        shop.post(f"/v1/invoices/{invoice}/attach_payment", payment_intent=intent)
    assert outage.declare() == [("refund", "succeeded", 448)]
    assert outage.refunded() == [48, 400]
    (paper,) = shop.get("/v1/credit_notes", invoice=invoice)["data"]
    assert (paper["total"], [one["amount_refunded"] for one in paper["refunds"]]) == (447, [400, 47])
    outage.desk.agrees(outage.id)


def test_a_held_draft_is_released_with_its_tax_or_left_to_a_person_where_there_is_no_place(
    shop: Shop, outage: Outage
) -> None:
    """September's 36.89 are drafted on the 1st and held until the outage ends on the 2nd at 02:24: 26.4 h of 720 h.

    36.89 x 26.4 / 720 are 1.35 (135.26): 1.14 and 0.22 (0.2166) are 1.36, 1.13 and 0.21 (0.2147) are 1.34. So 1.34.
    """
    for _ in range(2):
        sold(shop, "DE", 3_100, "exclusive")
    outage.declare()
    shop.now(datetime(2019, 9, 1, 12, tzinfo=UTC))
    shop.post(f"/v1/customers/{shop.customers[1]}", address="")
    end = datetime(2019, 9, 2, 2, 24, tzinfo=UTC)
    shop.now(end)
    outage.hear()
    outage.desk.resolve(outage.id, end)
    outage.desk.approve(outage.id)
    assert sorted(one for one in outage.given() if one[0] == "reduce") == [
        ("reduce", "needs_person", 135), ("reduce", "succeeded", 134),
    ]  # fmt: skip
    with outage.db.work(OPERATOR) as session:
        (waits,) = by_hand.waiting(session)["grants"]
        assert "it does not finalize the invoice: The customer's location isn't recognized" in waits["reason"]
    shop.post(f"/v1/customers/{shop.customers[1]}", address={"country": "DE"})
    with outage.db.work(OPERATOR) as session:
        finance = session.get_one(Member, outage.desk.people["finance"])
        by_hand.retry(session, waits["id"], finance, "The address is there again.", "test")
    outage.desk.approve(outage.id)
    assert [one for one in outage.given() if one[0] == "reduce"] == [("reduce", "succeeded", 134)] * 2
