"""What somebody does in Stripe between the plan and its sending: nobody here has heard of it, and Stripe shows it.

The outage begins on 22 August at 20:00 and is declared on the 26th at 14:00. It ends on 3 September: of August 220 of
744 hours were lost, of September 48 of 720. 31.00 x 48 / 720 are 2.07 (2.0667), taken off a renewal that was held.
"""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from billing import importing, readers
from billing.outages import explain
from billing.outages.models import Grant
from tenants.db import OPERATOR
from tests.journeys.shop import DECLARED, STARTED, Shop
from tests.journeys.test_channels import Outage, control, outage, paid_twice

__all__ = ["outage"]

RESOLVED = datetime(2019, 9, 3, tzinfo=UTC)


def held_draft(shop: Shop, outage: Outage, since: datetime = STARTED) -> str:
    """The renewal of September, which a run that waits for its approval is to take something off."""
    shop.sell(1)
    shop.now(DECLARED)
    importing.import_account(outage.desk.house, "")
    outage.id = outage.desk.declare("facebook", since)
    outage.desk.approve(outage.id)
    assert outage.given() == [("refund", "succeeded", 375)]
    shop.now(RESOLVED)
    outage.hear()
    outage.desk.resolve(outage.id, RESOLVED)
    (draft,) = (one for one in shop.get("/v1/invoices")["data"] if one["status"] == "draft")
    invoice: str = draft["id"]
    return invoice


@pytest.mark.parametrize(
    ("paid", "parts", "refunded"),
    [({}, ("refund", "succeeded", 207), 207), ({"paid_out_of_band": True}, ("manual", "needs_person", 207), 0)],
)
def test_a_held_draft_that_somebody_collects_gives_back_the_way_it_was_paid(
    shop: Shop, outage: Outage, paid: dict[str, Any], parts: tuple[str, str, int], refunded: int
) -> None:
    """Never to the balance, which paid nothing of it."""
    draft = held_draft(shop, outage)
    shop.post(f"/v1/invoices/{draft}/finalize", auto_advance=False)
    shop.post(f"/v1/invoices/{draft}/pay", **paid)
    outage.desk.approve(outage.id)
    outage.follow_up()
    assert sorted(outage.given()) == sorted([("refund", "succeeded", 375), ("refund", "succeeded", 542), parts])
    assert sum(outage.refunded()) == 917 + refunded
    assert shop.get(f"/v1/customers/{shop.customers[0]}")["balance"] == 0


@pytest.mark.parametrize("drafted", [True, False])
def test_an_invoice_that_somebody_voids_has_nothing_to_give_back_and_is_for_nobody(
    shop: Shop, outage: Outage, drafted: bool
) -> None:
    if drafted:
        invoice = held_draft(shop, outage)
        shop.post(f"/v1/invoices/{invoice}/finalize", auto_advance=False)
    else:
        [invoice] = shop.sell(1, collection_method="send_invoice", days_until_due=30)
        shop.post(f"/v1/invoices/{invoice}/finalize")
        shop.now(DECLARED)
        importing.import_account(outage.desk.house, "")
        outage.id = outage.desk.declare("facebook", STARTED)
    shop.post(f"/v1/invoices/{invoice}/void")
    outage.desk.approve(outage.id)
    outage.follow_up()
    assert outage.given() == ([("refund", "succeeded", 375), ("refund", "succeeded", 542)] if drafted else [])
    assert set(outage.runs()) == {"done"}


def test_a_lost_renewal_of_which_a_part_was_paid_is_not_voided(shop: Shop, outage: Outage) -> None:
    """All of September is lost: of 31.00, 10.00 were paid, and go back; the other 21.00 are not asked for any more."""
    shop.sell(1)
    outage.declare()
    for moment in (datetime(2019, 9, 10, tzinfo=UTC), datetime(2019, 10, 1, tzinfo=UTC)):
        shop.now(moment)
        outage.hear()
    outage.desk.resolve(outage.id, datetime(2019, 10, 1, tzinfo=UTC))
    september = shop.get("/v1/invoices")["data"][-2]["id"]
    shop.post(f"/v1/invoices/{september}/finalize", auto_advance=False)
    method = shop.post("/v1/payment_methods/pm_card_visa/attach", customer=shop.customers[0])["id"]
    intent = shop.post(
        "/v1/payment_intents", amount=1_000, currency="usd", customer=shop.customers[0], confirm=True,
        off_session=True, payment_method=method,
    )["id"]  # fmt: skip
    shop.post(f"/v1/invoices/{september}/attach_payment", payment_intent=intent)
    outage.desk.approve(outage.id)
    outage.follow_up()
    # August: 220 of 744 hours, 9.17, of which 3.75 were given.
    assert sorted(outage.given()) == [
        ("reduce", "succeeded", 3_100), ("refund", "succeeded", 375), ("refund", "succeeded", 542),
    ]  # fmt: skip
    by_amount = {charge["captured"]: charge["refunded"] for charge in shop.ledger()["charges"]}
    assert by_amount[1_000] == 1_000


def test_a_payment_that_its_bank_took_back_is_said_not_to_have_gone_back(shop: Shop, outage: Outage) -> None:
    """590 of 744 hours of 31.00 are 24.58: 4.00 of the newer payment, and 20.58 of the older one.

    The newer one is disputed before it is sent, and lost. Of the 27.00 that are left 26.13 were lost by the end of
    August: 720 of its 744 hours.
    """
    paid_twice(shop, "pm_card_visa")
    shop.now(DECLARED)
    importing.import_account(outage.desk.house, "")
    outage.id = outage.desk.declare("facebook", datetime(2019, 8, 2, tzinfo=UTC))
    (intent,) = (one["payment_intent"] for one in shop.ledger()["charges"] if one["captured"] == 400)
    dispute = control(shop, "disputes", payment_intent=intent)["id"]
    outage.desk.approve(outage.id)
    shop.now(datetime(2019, 9, 20, tzinfo=UTC))
    control(shop, f"disputes/{dispute}/close", outcome="lost")
    outage.follow_up()
    outage.follow_up()
    assert outage.given() == [("refund", "succeeded", 2_058), ("refund", "succeeded", 555)]
    with outage.db.work(OPERATOR) as session:
        told = explain.explain(session, outage.id, shop.customers[0])
        first = session.scalars(sa.select(Grant).order_by(Grant.id)).first()
        assert first is not None
        written = explain.computed(session, first, readers.reader_of(session, first.agency_id, first.customer_id))
    for text in (told["text"], written):
        at = text.index("Given back now: $24.58.")
        assert text[at + 1] == "Of that $4.00 was not given after all."
    assert told["text"].count("Of that $4.00 was not given after all.") == 1
    assert "Given back before: $20.58." in told["text"]
    assert all(one["reproduced"] for one in told["grants"])
