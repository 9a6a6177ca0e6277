"""The bodies that are sent: lines, tax, discounts, allocation. Amounts in cents; the arithmetic stands beside."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.locales import Reader
from billing.money import Money
from billing.outages.notes import (
    ELSEWHERE,
    MEMO_LIMIT,
    NoteLine,
    Parts,
    balance_entry,
    credit_note,
    frozen,
    less,
    needs_preview,
    refund,
    settled_against,
    way_back,
    why,
)

META = {"step": "7", "incident": "inc_1", "engine": "abc"}


def plain_line(back: int, amount: int = 9_300, id: str = "il_1") -> NoteLine:
    return NoteLine(id, amount, amount, 0, (), back)


def note(lines: list[NoteLine], parts: Parts, **more: Any) -> dict:
    return credit_note("in_1", lines, parts, memo="why", metadata=META, **more)


def test_a_plain_line_is_credited_by_what_it_gives_back() -> None:
    body = note([plain_line(1_200)], Parts(refund=1_200))
    assert body["lines"] == [{"type": "invoice_line_item", "invoice_line_item": "il_1", "amount": 1_200}]
    assert body["refund_amount"] == 1_200
    assert not {"credit_amount", "out_of_band_amount"} & body.keys()


def test_stripe_is_kept_from_writing_to_the_customer_and_told_why() -> None:
    body = note([plain_line(1)], Parts(refund=1))
    assert (body["email_type"], body["reason"], body["metadata"]) == ("none", "product_unsatisfactory", META)


def test_a_line_that_gives_nothing_back_is_left_out() -> None:
    body = note([plain_line(0), plain_line(5, id="il_2")], Parts(refund=5))
    assert [line["invoice_line_item"] for line in body["lines"]] == ["il_2"]


def test_exclusive_tax_is_sent_apart_so_that_the_total_is_exact() -> None:
    # 100.00 + 20.00 tax; 13.33 of 120.00 comes back: before tax 1333 x 100/120 = 1110.83 -> 1111, tax 222.
    line = NoteLine("il_1", 10_000, 10_000, 2_000, ({"tax_rate": "txr_1", "amount": 2_000, "inclusive": False},), 1_333)
    (sent,) = note([line], Parts(refund=1_333))["lines"]
    assert sent["amount"] == 1_111
    assert sent["tax_amounts"] == [{"amount": 222, "tax_rate": "txr_1", "taxable_amount": 1_111}]


def test_two_exclusive_taxes_share_what_comes_back_in_proportion() -> None:
    # 100.00 + 6.00 + 3.00; 54.50 back is half: 50.00 and 4.50 tax, as 3.00 and 1.50.
    taxes = ({"tax_rate": "a", "amount": 600, "inclusive": False}, {"tax_rate": "b", "amount": 300, "inclusive": False})
    (sent,) = note([NoteLine("il_1", 10_000, 10_000, 900, taxes, 5_450)], Parts(refund=5_450))["lines"]
    assert sent["amount"] == 5_000
    assert [tax["amount"] for tax in sent["tax_amounts"]] == [300, 150]


def test_inclusive_tax_is_inside_the_line_and_sent_by_nobody() -> None:
    line = NoteLine("il_1", 12_000, 12_000, 0, ({"tax_rate": "t", "amount": 2_000, "inclusive": True},), 600)
    assert note([line], Parts(refund=600))["lines"] == [
        {"type": "invoice_line_item", "invoice_line_item": "il_1", "amount": 600}
    ]


def test_where_stripe_works_out_the_tax_a_line_is_sent_without_any() -> None:
    # 120.00, of which 20.00 are tax: of 6.00 with it 5.00 are without. As billed it would be 6.00.
    line = NoteLine("il_1", 12_000, 12_000, 0, ({"tax_rate": "t", "amount": 2_000, "inclusive": True},), 600)
    sent = [
        note([line], Parts(refund=600), automatic_tax=True, as_billed=as_billed)["lines"][0]["amount"]
        for as_billed in (False, True)
    ]
    assert sent == [500, 600]


@pytest.mark.parametrize(
    ("parts", "short", "left"),
    [
        (Parts(reduce=9, refund=5), 0, Parts(reduce=9, refund=5)),
        (Parts(reduce=9, refund=5), 1, Parts(reduce=9, refund=4)),
        (Parts(reduce=3, credit=5), 2, Parts(reduce=3, credit=3)),
        (Parts(reduce=9, refund=1), 1, Parts(reduce=9)),
        (Parts(reduce=9, refund=1), 2, None),
        (Parts(refund=1), 1, None),
        (Parts(credit=2, links=(("re_2", 9), ("re_1", 2))), 1, Parts(credit=1, links=(("re_2", 9), ("re_1", 2)))),
        (Parts(links=(("re_2", 9), ("re_1", 2))), 1, Parts(links=(("re_2", 9), ("re_1", 1)))),
        (Parts(links=(("re_2", 9), ("re_1", 1))), 1, None),
    ],
)
def test_a_note_that_gives_a_little_less(parts: Parts, short: int, left: Parts | None) -> None:
    assert less(parts, short) == left


def test_a_discounted_line_is_sent_before_its_discount() -> None:
    # 100.00 less 25 %: 75.00. 15.00 comes back = 20.00 before the discount.
    (sent,) = note([NoteLine("il_1", 10_000, 7_500, 0, (), 1_500)], Parts(refund=1_500))["lines"]
    assert sent["amount"] == 2_000


@given(st.integers(1, 100_000), st.data())
def test_the_amount_before_the_discount_leaves_exactly_what_is_given_back(amount: int, data: st.DataObject) -> None:
    net = data.draw(st.integers(1, amount))
    back = data.draw(st.integers(1, net))
    (sent,) = note([NoteLine("il_1", amount, net, 0, (), back)], Parts(refund=back))["lines"]
    off = (2 * sent["amount"] * (amount - net) + amount) // (2 * amount)  # half up, in integers
    assert sent["amount"] - off == back
    assert sent["amount"] <= amount


def test_a_nudge_goes_to_the_line_where_rounding_decides() -> None:
    lines = [plain_line(500), NoteLine("il_2", 10_000, 7_500, 0, (), 1_500)]
    sent = note(lines, Parts(refund=2_000), nudge=1)["lines"]
    assert [line["amount"] for line in sent] == [500, 2_001]


def test_a_ceiling_below_the_lines_is_shared_out_in_proportion() -> None:
    # 300 and 100 were lost, 200 can go: 150 and 50.
    sent = note([plain_line(300), plain_line(100, id="il_2")], Parts(refund=200))["lines"]
    assert [line["amount"] for line in sent] == [150, 50]


def test_a_mid_period_change_sends_its_negative_line_as_negative() -> None:
    sent = note([plain_line(300), plain_line(-100, amount=-4_000, id="il_2")], Parts(refund=200))["lines"]
    assert [line["amount"] for line in sent] == [300, -100]


def test_refunds_made_before_are_linked_and_not_made_again() -> None:
    body = note([plain_line(500)], Parts(links=(("re_2", 300), ("re_1", 200))))
    assert body["refunds"] == [{"refund": "re_2", "amount_refunded": 300}, {"refund": "re_1", "amount_refunded": 200}]
    assert "refund_amount" not in body


def test_only_tax_and_discounts_need_a_preview() -> None:
    assert not needs_preview([plain_line(1)], automatic_tax=False)
    assert needs_preview([plain_line(1)], automatic_tax=True)
    assert needs_preview([NoteLine("il", 100, 90, 0, (), 1)], automatic_tax=False)
    assert not needs_preview([NoteLine("il", 100, 90, 0, (), 0)], automatic_tax=False)


@pytest.mark.parametrize(
    ("planned", "remaining", "by_balance", "parts"),
    [
        (Parts(refund=500), 0, False, Parts(refund=500)),
        (Parts(refund=500), 200, False, None),  # it was paid when planned, and is due again: not the invoice we saw
        (Parts(reduce=500), 2_000, False, Parts(reduce=500)),
        (Parts(reduce=500), 0, False, None),  # paid since
        (Parts(reduce=300, refund=200), 300, False, Parts(reduce=300, refund=200)),
        (Parts(reduce=500), 200, True, Parts(reduce=200, credit=300)),  # the balance paid 300 of the draft
        (Parts(reduce=500), 0, True, Parts(credit=500)),
    ],
)
def test_parts_hold_against_the_invoice_as_it_is_now(
    planned: Parts, remaining: int, by_balance: bool, parts: Parts | None
) -> None:
    assert settled_against(planned, remaining, by_balance=by_balance) == parts


def test_a_refund_names_one_payment() -> None:
    assert refund(payment_intent="pi_1", charge="ch_1", amount=5, metadata=META) == {
        "payment_intent": "pi_1", "amount": 5, "metadata": META,
    }  # fmt: skip
    assert refund(payment_intent=None, charge="ch_1", amount=5, metadata=META)["charge"] == "ch_1"


def test_credit_is_a_negative_balance_entry() -> None:
    assert balance_entry(amount=500, currency="usd", memo="why", metadata=META)["amount"] == -500


def test_the_frozen_text_keeps_the_order_of_the_keys() -> None:
    assert frozen({"b": 1, "a": {"z": "ü", "y": 2}}) == '{"b":1,"a":{"z":"ü","y":2}}'


def test_one_sentence_says_why_money_came_back() -> None:
    start = datetime(2019, 8, 22, 20, tzinfo=UTC)
    reader = Reader("de-DE", "Europe/Berlin")
    sentence = why(
        "Facebook", start, datetime(2019, 8, 30, 9, 5, tzinfo=UTC), impact_bp=10_000, ongoing=False,
        amount=Money(1_234, "eur"), way=way_back(Parts(refund=1_000, credit=234)), reader=reader,
    )  # fmt: skip
    assert sentence == (
        "Facebook was unavailable from 22.08.2019, 22:00 CEST to 30.08.2019, 11:05 CEST: for that time, "
        "12,34\xa0€ of this invoice goes back to how you paid and is credited to your balance."
        " Your billing pages show how it was computed."
    )
    ongoing = why(
        "X", start, datetime(2019, 8, 26, 14, tzinfo=UTC), impact_bp=5_000, ongoing=True, amount=Money(5, "jpy"),
        way=way_back(Parts(reduce=5)), reader=reader, arithmetic="10 × 1 ÷ 2 = 5.",
    )  # fmt: skip
    assert ongoing == (
        "X has been impaired since 22.08.2019, 22:00 CEST: for the time until 26.08.2019, 16:00 CEST, "
        "5\xa0¥ of this invoice is taken off what is due. 10 × 1 ÷ 2 = 5."
    )


def test_a_memo_holds_the_arithmetic_where_stripe_prints_all_of_it_and_no_half_of_it() -> None:
    start = datetime(2019, 8, 22, 20, tzinfo=UTC)

    def written(arithmetic: str) -> str:
        return why(
            "Facebook", start, start, impact_bp=10_000, ongoing=False, amount=Money(1, "usd"), way="goes back",
            reader=Reader(), arithmetic=arithmetic,
        )  # fmt: skip

    room = MEMO_LIMIT - len(written("")) + len(ELSEWHERE)
    assert written("x" * room).endswith("x")
    assert len(written("x" * room)) == MEMO_LIMIT
    assert written("x" * (room + 1)) == written("")
