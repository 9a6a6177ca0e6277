"""What the demo takes for the truth: the sandbox's ledger, read for what went back, twice, or beyond what came in."""

from types import SimpleNamespace
from typing import Any

from sandbox import truth
from sandbox.truth import Ledger


def refund(amount: int, step: str = "", status: str = "succeeded") -> dict[str, Any]:
    return {"amount": amount, "status": status, "metadata": {"step": step} if step else {}}


def charge(*refunds: dict[str, Any], disputed: int = 0) -> dict[str, Any]:
    given = sum(one["amount"] for one in refunds if one["status"] != "failed")
    return {
        "charge": "ch_1", "customer": "cus_1", "currency": "usd", "captured": 3_100, "refunded": given,
        "disputed": disputed, "refunds": list(refunds),
    }  # fmt: skip


def note(step: str = "", before_payment: int = 0, by_hand: int | None = None) -> dict[str, Any]:
    return {
        "customer": "cus_1", "currency": "usd", "pre_payment_amount": before_payment, "out_of_band_amount": by_hand,
        "metadata": {"step": step} if step else {},
    }  # fmt: skip


def entry(kind: str, amount: int, step: str = "") -> dict[str, Any]:
    return {"customer": "cus_1", "currency": "usd", "type": kind, "amount": amount, "metadata": {"step": step}}


def read(**books: Any) -> Ledger:
    empty: dict[str, list[Any]] = {
        "charges": [], "credit_notes": [], "balance_transactions": [], "subscriptions": [], "sums": [],
    }  # fmt: skip
    return truth.ledger(SimpleNamespace(control=lambda _name: empty | books))  # type: ignore[arg-type]


def test_what_went_back_counts_once_by_the_way_it_went() -> None:
    # To the card 2.00 + 1.00 (a third refund failed), 3.00 off what is due, 4.00 by a person; to the balance 5.00 from
    # us and 6.00 by a credit note, of which 1.00 was spent on an invoice.
    found = read(
        charges=[charge(refund(200), refund(100, status="pending"), refund(50, status="failed"))],
        credit_notes=[note(before_payment=300), note(by_hand=400)],
        balance_transactions=[
            entry("adjustment", -500), entry("credit_note", -600), entry("applied_to_invoice", 100),
        ],
    )  # fmt: skip
    assert found.given == {"cus_1": {"refund": 300, "reduce": 300, "out_of_band": 400, "credit": 1_100}}
    assert (found.twice, found.beyond, found.unbalanced) == ([], [], [])


def test_a_step_that_is_in_stripe_twice_is_named() -> None:
    assert read(charges=[charge(refund(1, "7"), refund(1, "7"))]).twice == ["refund of step 7"]
    assert read(credit_notes=[note("7"), note("7")]).twice == ["credit note of step 7"]
    twice = [entry("adjustment", -1, "7"), entry("adjustment", -1, "7")]
    assert read(balance_transactions=twice).twice == ["balance entry of step 7"]
    once_each = read(charges=[charge(refund(1, "7"), refund(1, "8"), refund(1), refund(1))], credit_notes=[note("7")])
    assert once_each.twice == []


def test_a_charge_that_gave_back_more_than_it_took_is_named() -> None:
    assert read(charges=[charge(refund(3_100))]).beyond == []
    assert read(charges=[charge(refund(3_101))]).beyond == ["ch_1"]
    assert read(charges=[charge(refund(1), disputed=3_100)]).beyond == ["ch_1"]


def test_sums_that_do_not_add_up_are_shown() -> None:
    wrong = {"currency": "usd", "difference": 1}
    assert read(sums=[{"currency": "eur", "difference": 0}, wrong]).unbalanced == [wrong]
