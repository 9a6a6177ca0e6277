"""A preview says whom it reaches, each of them once, which renewals the pause holds, and how fresh the mirror is."""

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from billing.models import Payment, SyncCursor
from tenants.db import Database
from tests.billing.outages.august import FACEBOOK_IS_DOWN, August, at
from tests.factories import (
    AgencyFactory,
    CustomerFactory,
    InvoiceLineFactory,
    PlanFactory,
    SubscriptionItemFactory,
    building,
    paid_invoice,
    subscribed,
)

UNTIL = "2019-09-25T14:00:00Z"
"""Thirty days after the declaration."""


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


def previewed(august: August) -> dict[str, Any]:
    return august.preview().to_json()


def test_who_has_two_currencies_is_one_customer(august: August) -> None:
    with building(august.db):
        euros = PlanFactory(id="price_euros", currency="eur", weights={august.facebook: 10_000})
        both = august.customer()
        for plan in (august.pages, euros):
            paid_invoice(both, plan, subscription=subscribed(both, plan, currency=plan.currency))
        subscribed(august.customer(), august.pages, status="trialing")  # paused, and owed nothing
        paid_invoice(august.customer(), august.pages)  # owed, and no subscription to pause
    said = previewed(august)
    assert [(one["currency"], one["customers"]) for one in said["totals"]] == [("eur", 1), ("usd", 2)]
    assert (said["customers"], said["subscriptions"], said["invoices"], said["pauses"]) == (3, 3, 3, 3)
    text = "\n".join(august.preview().in_words())
    assert "  3 customers, 3 subscriptions and 3 invoices are affected." in text


def test_the_renewals_that_the_pause_holds(august: August) -> None:
    """31.00 and twice 31.00 on the 1st of September; 5.00 with usage beside it; 29.00 that are due already.

    Not held: what renews in a year, ends with its period, was paused by its merchant, or does not depend on it.
    """
    with building(august.db):
        yearly = PlanFactory(weights={august.facebook: 10_000}, interval="year", unit_amount=30_000)
        usage = PlanFactory(weights={august.facebook: 10_000}, metered=True, unit_amount=None)
        base = PlanFactory(weights={august.facebook: 10_000}, unit_amount=500)
        euros = PlanFactory(weights={august.facebook: 10_000}, currency="eur", unit_amount=900)
        other = PlanFactory(weights={august.instagram: 10_000})
        monthly = subscribed(august.customer(), august.pages)
        SubscriptionItemFactory(subscription=monthly, plan=august.duo, quantity=2)
        late = SubscriptionItemFactory(subscription=monthly, plan=yearly, period_end=at(1, month=12))
        assert late.period_end > monthly.renews_at
        subscribed(august.customer(), base, usage)
        subscribed(august.customer(), euros, currency="eur")
        subscribed(august.customer(), yearly, renews_at=at(1, month=12))
        subscribed(august.customer(), august.pages, cancel_at_period_end=True)
        subscribed(august.customer(), august.pages, pause_behavior="void")
        subscribed(august.customer(), other)
        customer = august.customer()
        due = subscribed(customer, yearly, renews_at=at(1, month=12))
        paid_invoice(customer, yearly, 2_900, subscription=due, status="open")
        paid_invoice(customer, yearly, 100, subscription=due, status="draft", auto_advance=False)
    said = previewed(august)
    assert said["renewals_until"] == UNTIL
    assert said["renewals"] == [
        {"currency": "eur", "amount": 900, "renewals": 1, "existing": 0, "unpriced": 0},
        # 9,300 + 500 + 2,900
        {"currency": "usd", "amount": 12_700, "renewals": 3, "existing": 1, "unpriced": 1},
    ]
    held = f"  3 renewals until {UNTIL} are held: 127.00 USD, 1 of them billed already"
    assert f"{held}, 1 with usage that is not known yet." in august.preview().in_words()


def test_an_outage_that_is_over_holds_no_renewal(august: August) -> None:
    with building(august.db):
        august.sell()
    over = august.preview(replace(FACEBOOK_IS_DOWN, ended_at=at(25))).to_json()
    assert (over["pauses"], over["renewals"]) == (0, [])
    assert (over["customers"], over["subscriptions"], over["invoices"]) == (1, 1, 1)


def test_what_is_billed_by_use_is_left_out_and_said_to_be(august: August) -> None:
    with building(august.db):
        usage = PlanFactory(weights={august.facebook: 10_000}, metered=True)
        invoice = august.sell()
        InvoiceLineFactory(invoice=invoice, plan_id=usage.id, net=700, metered=True)
    assert {"reason": "metered", "count": 1, "amount": []} in previewed(august)["left_out"]
    assert "  Left out, metered: 1" in august.preview().in_words()


def test_how_fresh_the_mirror_is(august: August) -> None:
    assert "  The mirror of Stripe is empty: run the first import." in august.preview().in_words()
    with building(august.db) as session:
        session.add(SyncCursor(stripe_account="", fresh_at=at(26, 13)))
    assert previewed(august)["mirror_fresh_at"] == "2019-08-26T13:00:00Z"
    assert "  The mirror of Stripe is of 2019-08-26T13:00:00Z." in august.preview().in_words()


def test_what_others_gave_back_is_said_to_make_grants_smaller(august: August) -> None:
    """Each would have had 3.75. Of 31.00 half, 7.75 and all of it went back otherwise: 1.875, 2.8125 and 0 are left.

    Rounded 1.88, 2.81 and 0: 1.87, 0.94 and 3.75 less, which is 6.56.
    """
    with building(august.db):
        for id in ("in_by_hand", "in_lost", "in_all", "in_whole"):
            august.sell(id=id)
    with building(august.db) as session:
        for invoice, changes in {
            "in_by_hand": {"elsewhere": 1_550}, "in_lost": {"disputed": 775}, "in_all": {"elsewhere": 3_100},
        }.items():  # fmt: skip
            session.execute(sa.update(Payment).where(Payment.invoice_id == invoice).values(changes))
    said = previewed(august)
    assert said["given_elsewhere"] == [{"currency": "usd", "amount": 656, "invoices": 3}]
    assert {one["invoice"]: (one["amount"], one["base"], one["clipped"]) for one in said["grants"]} == {
        "in_by_hand": (188, "1/2", 0), "in_lost": (281, "3/4", 0), "in_whole": (375, "1/1", 0),
    }  # fmt: skip
    assert said["left_out"] == []
    assert "  Less 6.56 USD for what others gave back of 3 invoices." in august.preview().in_words()


def test_what_no_payment_holds_any_more_is_said_to_be_clipped(august: August) -> None:
    """3.75 of 31.00, of which a payment of 1.00 is known: 2.75 stay owed."""
    with building(august.db):
        invoice = august.sell(id="in_clipped")
    with building(august.db) as session:
        session.execute(sa.update(Payment).where(Payment.invoice_id == invoice.id).values(captured=100))
    said = previewed(august)
    assert [(one["amount"], one["base"], one["clipped"]) for one in said["grants"]] == [(100, "1/1", 275)]
    clipped = {"reason": "nothing_refundable", "count": 1, "amount": [{"currency": "usd", "amount": 275}]}
    assert said["left_out"] == [clipped]
    assert said["given_elsewhere"] == []


def test_an_outage_beyond_the_period_is_clipped_to_it(august: August) -> None:
    """From the 10th of July to the 5th of August: of August 4 days of 31, 31.00 x 4 / 31 = 4.00."""
    with building(august.db):
        august.sell()
    over = august.preview(replace(FACEBOOK_IS_DOWN, started_at=at(10, month=7), ended_at=at(5)))
    ((line,),) = (one["lines"] for one in over.to_json()["grants"])
    assert line["lost"] == [{"from": "2019-08-01T00:00:00Z", "to": "2019-08-05T00:00:00Z", "share": "1/1"}]
    assert line["amount"] == 400


def test_plans_whose_weights_were_refused_are_named_where_they_matter(august: August) -> None:
    """Where it is subscribed to, or was paid for in that time, by somebody of the agencies that are asked about."""
    why = "No platform is called facebok: did you mean facebook?"
    with building(august.db):
        trial, paid, elsewhere, before, after, gone, unused = (
            PlanFactory(id=f"price_{name}", name=name.title(), weights_refused=why)
            for name in ("trial", "paid", "elsewhere", "before", "after", "gone", "unused")
        )
        subscribed(august.customer(), trial, status="trialing")
        subscribed(august.customer(), gone, status="canceled")
        paid_invoice(august.customer(), paid)
        paid_invoice(august.customer(), before, period=(at(1, month=7), at(1)))
        paid_invoice(august.customer(), after, period=(at(1, month=9), at(1, month=10)))
        other = CustomerFactory(agency=AgencyFactory(slug="other"))
        paid_invoice(other, elsewhere, subscription=subscribed(other, elsewhere))
        assert unused.id == "price_unused"
    of_acme = august.preview(replace(FACEBOOK_IS_DOWN, agencies=("acme",)))
    assert of_acme.to_json()["weights_refused"] == [
        {"plan": "price_paid", "name": "Paid", "why": why}, {"plan": "price_trial", "name": "Trial", "why": why},
    ]  # fmt: skip
    assert (
        "  The weights of Paid (price_paid), Trial (price_trial) in Stripe were refused, so that those of before count,"
        " or none: correct platform_weights there and import again, or set them with `flask plans weigh`."
    ) in of_acme.in_words()
    assert [one["plan"] for one in previewed(august)["weights_refused"]] == [
        "price_elsewhere", "price_paid", "price_trial",
    ]  # fmt: skip


def test_no_weights_refused_nothing_said(august: August) -> None:
    with building(august.db):
        august.sell()
    assert previewed(august)["weights_refused"] == []
    assert "refused" not in "\n".join(august.preview().in_words())
