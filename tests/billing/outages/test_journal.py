"""Entries of every account, by hand: what each document debits and credits."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from billing.outages.journal import (
    ALLOWANCES,
    CREDIT,
    IN_TRANSIT,
    OUTSIDE,
    PAYABLE,
    RECEIVABLE,
    STRIPE,
    TAX,
    postings,
)
from billing.outages.report import Document

NOTED, LATER, PAID = (datetime(2019, 9, day, tzinfo=UTC) for day in (1, 20, 25))
REFUND = Document(
    agency="acme", customer="cus_1", customer_name="", invoice="in_1", credit_note="cn_1", refunds="re_1",
    balance_entry="", currency="jpy", amount=1_100, refund=1_100, credit=0, reduce=0, out_of_band=0, tax=100,
    state="succeeded", on=NOTED, returned=0, returned_on=None, let_go=0, let_go_on=None, stands_in=0, by_hand=0,
    paid_on=None,
)  # fmt: skip
"""1,100 yen, of which 100 are tax."""
RETURNED = replace(REFUND, state="failed", credit_note="", returned=1_100, returned_on=LATER)
STANDS_IN = replace(REFUND, credit_note="", refunds="", refund=0, on=None, stands_in=1_100)


def booked(*given: Document) -> list[tuple[int, datetime, str, str, int]]:
    """Entry, day, document, account, and what is debited (or, negative, credited)."""
    return [(one.entry, one.on, one.document, one.account, one.debit - one.credit) for one in postings(given, "inc_1")]


@pytest.mark.parametrize(
    ("parts", "account"),
    [
        ({}, STRIPE),
        ({"state": "pending"}, IN_TRANSIT),
        ({"refund": 0, "credit": 1_100}, CREDIT),
        ({"refund": 0, "reduce": 1_100}, RECEIVABLE),
        ({"refund": 0, "out_of_band": 1_100, "state": "needs_person"}, PAYABLE),
    ],
)
def test_each_way_has_its_account(parts: dict[str, int], account: str) -> None:
    assert booked(replace(REFUND, **parts)) == [
        (1, NOTED, "cn_1", ALLOWANCES, 1_000), (1, NOTED, "cn_1", TAX, 100), (1, NOTED, "cn_1", account, -1_100),
    ]  # fmt: skip


def test_several_ways_are_one_entry() -> None:
    assert booked(replace(REFUND, refund=500, credit=400, reduce=200)) == [
        (1, NOTED, "cn_1", ALLOWANCES, 1_000), (1, NOTED, "cn_1", TAX, 100), (1, NOTED, "cn_1", STRIPE, -500),
        (1, NOTED, "cn_1", CREDIT, -400), (1, NOTED, "cn_1", RECEIVABLE, -200),
    ]  # fmt: skip


def test_what_is_owed_outside_stripe_is_settled_when_it_is_paid() -> None:
    paid = replace(REFUND, refund=0, out_of_band=1_100, by_hand=1_100, paid_on=PAID)
    assert booked(paid)[2:] == [
        (1, NOTED, "cn_1", PAYABLE, -1_100), (2, PAID, "cn_1", PAYABLE, 1_100), (2, PAID, "cn_1", OUTSIDE, -1_100),
    ]  # fmt: skip


def test_a_refund_that_came_back_is_reversed_and_what_stands_in_is_no_second_allowance() -> None:
    credit = replace(STANDS_IN, credit=1_100, balance_entry="cbtxn_1", on=LATER)
    assert booked(RETURNED, credit) == [
        (1, NOTED, "in_1", ALLOWANCES, 1_000), (1, NOTED, "in_1", TAX, 100), (1, NOTED, "in_1", STRIPE, -1_100),
        (2, LATER, "in_1", STRIPE, 1_100), (2, LATER, "in_1", PAYABLE, -1_100),
        (3, LATER, "cbtxn_1", PAYABLE, 1_100), (3, LATER, "cbtxn_1", CREDIT, -1_100),
    ]  # fmt: skip


def test_what_was_to_stand_in_and_was_called_off_is_no_allowance_any_more() -> None:
    assert booked(replace(RETURNED, let_go=1_100, let_go_on=PAID))[5:] == [
        (3, PAID, "in_1", PAYABLE, 1_100), (3, PAID, "in_1", ALLOWANCES, -1_000), (3, PAID, "in_1", TAX, -100),
    ]  # fmt: skip


def test_what_a_person_pays_for_a_refund_that_came_back() -> None:
    waits = replace(STANDS_IN, out_of_band=1_100, state="needs_person")
    assert len(booked(RETURNED, waits)) == 5  # owed to the customer since it came back, and paid to nobody
    paid = replace(waits, by_hand=1_100, paid_on=PAID)
    assert booked(RETURNED, paid)[5:] == [(3, PAID, "in_1", PAYABLE, 1_100), (3, PAID, "in_1", OUTSIDE, -1_100)]


def test_what_a_person_pays_of_which_stripe_had_made_nothing() -> None:
    """The card refused at once: the allowance is booked on the day on which somebody pays it."""
    paid = replace(STANDS_IN, stands_in=0, out_of_band=1_100, by_hand=1_100, paid_on=PAID)
    assert booked(paid) == [
        (1, PAID, "in_1", ALLOWANCES, 1_000), (1, PAID, "in_1", TAX, 100), (1, PAID, "in_1", PAYABLE, -1_100),
        (2, PAID, "in_1", PAYABLE, 1_100), (2, PAID, "in_1", OUTSIDE, -1_100),
    ]  # fmt: skip


def test_the_half_that_came_back_takes_its_tax_with_it() -> None:
    """600 stand, 500 came back: 1,100 were allowed once. Of 600 are 54.5 = 55 tax, and 55 x 1,100 / 600 = 100.8."""
    half = replace(REFUND, amount=600, refund=600, tax=55, returned=500, returned_on=LATER)
    assert booked(half)[:3] == [
        (1, NOTED, "cn_1", ALLOWANCES, 999), (1, NOTED, "cn_1", TAX, 101), (1, NOTED, "cn_1", STRIPE, -1_100),
    ]  # fmt: skip


def test_what_waits_or_was_given_by_others_is_not_booked() -> None:
    for state in ("planned", "approved", "sent", "unknown", "blocked", "given_elsewhere"):
        assert booked(replace(REFUND, state=state)) == []
    assert booked(replace(REFUND, on=None)) == []
