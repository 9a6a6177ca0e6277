"""`/portal`: a customer sees their own invoices and why money came back, and nothing of anybody else's."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from billing import formats, portal
from billing.models import (
    BalanceEntry,
    CreditNote,
    Customer,
    Invoice,
    InvoiceLine,
    Payment,
    Refund,
    Subscription,
)
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Agency
from tests.web import CSRF, app_of, browser, house_of, link_for_customer

AUGUST = datetime(2019, 8, 1, 12, 0, tzinfo=UTC)
WHY = "Facebook was unavailable from 22 August 2019, 20:00 to 30 August 2019, 09:00 UTC: $2.97 comes back to your card."


def customer(session: Session, agency_id: int, id: str, **fields: Any) -> None:
    session.add(
        Customer(
            agency_id=agency_id,
            id=id,
            **{"name": f"Name of {id}", "currency": "usd", "created_at": AUGUST, "email": None} | fields,
        )
    )
    session.flush()


def invoice(session: Session, agency_id: int, customer_id: str, id: str, **fields: Any) -> None:
    """Paid by card: 20.00 for August."""
    session.add(
        Invoice(
            agency_id=agency_id,
            customer_id=customer_id,
            id=id,
            **{
                "number": f"N-{id}", "status": "paid", "currency": "usd", "collection_method": "charge_automatically",
                "auto_advance": False, "automatic_tax": False, "subtotal": 2000, "total": 2000, "amount_due": 2000,
                "amount_paid": 2000, "amount_remaining": 0, "paid_off_stripe": 0, "starting_balance": 0,
                "ending_balance": 0, "pre_payment_credited": 0, "post_payment_credited": 0, "created_at": AUGUST,
                "paid_at": AUGUST,
            } | fields,
        )
    )  # fmt: skip
    session.flush()
    session.add(
        InvoiceLine(
            agency_id=agency_id, invoice_id=id, id=f"il_{id}", position=0, description="1 × Social Pro", quantity=1,
            amount=2000, discount=0, net=2000, tax=0, taxes=[], period_start=AUGUST,
            period_end=AUGUST + timedelta(days=31), proration=False, metered=False,
        )
    )  # fmt: skip
    session.add(
        Payment(
            agency_id=agency_id, invoice_id=id, id=f"inpay_{id}", payment_intent=f"pi_{id}", charge=f"ch_{id}",
            currency="usd", status="paid", paid_at=AUGUST, captured=2000,
        )
    )  # fmt: skip


def credit_note(session: Session, agency_id: int, customer_id: str, invoice_id: str, id: str, **fields: Any) -> None:
    """2.97 back to the card."""
    session.add(
        CreditNote(
            agency_id=agency_id,
            customer_id=customer_id,
            invoice_id=invoice_id,
            id=id,
            **{
                "number": f"N-{invoice_id}-CN", "status": "issued", "currency": "usd", "total": 297,
                "pre_payment_amount": 0, "post_payment_amount": 297, "refunded": 297, "credited": 0, "out_of_band": 0,
                "memo": WHY, "step_id": 7, "created_at": AUGUST + timedelta(days=25),
            } | fields,
        )
    )  # fmt: skip


def refund(session: Session, agency_id: int, payment_intent: str, id: str, **fields: Any) -> None:
    session.add(
        Refund(
            agency_id=agency_id,
            id=id,
            payment_intent=payment_intent,
            **{
                "currency": "usd",
                "amount": 297,
                "status": "succeeded",
                "created_at": AUGUST + timedelta(days=25),
            }
            | fields,
        )
    )


@pytest.fixture
def house(db: Database) -> House:
    """Acme in Berlin with Bella (money came back) and Otto (nothing did), Beta with Zoe."""
    with db.work(OPERATOR) as session:
        session.add_all([Agency(id=2, slug="acme", name="Acme", time_zone="Europe/Berlin")])
        session.add_all([Agency(id=3, slug="beta", name="Beta")])
        session.flush()
        for agency_id, name in ((2, "bella"), (2, "otto"), (3, "zoe")):
            customer(session, agency_id, f"cus_{name}")
            invoice(session, agency_id, f"cus_{name}", f"in_{name}")
        for agency_id, name in ((2, "bella"), (3, "zoe")):
            credit_note(session, agency_id, f"cus_{name}", f"in_{name}", f"cn_{name}")
            refund(session, agency_id, f"pi_in_{name}", f"re_{name}", credit_note_id=f"cn_{name}")
    return house_of(db)


@pytest.fixture
def app(house: House) -> Flask:
    return app_of(house, portal.blueprint)


@pytest.fixture
def bella(app: Flask, house: House) -> FlaskClient:
    return browser(app, link_for_customer(house, 2, "cus_bella"))


def test_the_customer_reads_why_and_how_money_came_back(bella: FlaskClient) -> None:
    page = bella.get("/portal").text
    assert WHY in page
    assert "$2.97" in page
    assert "back to how you paid" in page
    assert "Invoice N-in_bella" in page
    assert "Billed by Acme" in page


def test_nothing_of_another_customer_is_on_the_page(bella: FlaskClient) -> None:
    text = bella.get("/portal").text + bella.get("/portal/invoices/in_bella").text
    for foreign in ("otto", "zoe", "Beta"):
        assert foreign not in text


def test_an_invoice_shows_its_lines_payments_and_times_on_the_agencys_clock(bella: FlaskClient) -> None:
    page = bella.get("/portal/invoices/in_bella").text
    assert "1 × Social Pro" in page
    assert '<time datetime="2019-08-01T12:00:00Z">Aug 1, 2019, 2:00\u202fPM CEST</time>' in page  # two hours ahead
    assert "All times are those of Europe/Berlin." in page
    assert "Card or bank" in page
    assert WHY in page


def test_everything_is_written_as_the_customer_reads_it(bella: FlaskClient, db: Database) -> None:
    with db.work(OPERATOR) as session:
        session.execute(sa.update(Customer).where(Customer.id == "cus_bella").values(locale="de-DE", balance=-123_456))
        session.execute(sa.update(InvoiceLine).values(quantity=1_500))
    overview, page = bella.get("/portal").text, bella.get("/portal/invoices/in_bella").text
    assert "You have a credit of <strong>1.234,56\xa0$</strong>." in overview
    assert "20,00\xa0$" in overview
    assert ">01.08.2019</time>" in overview
    assert "2,97\xa0$ back to how you paid" in overview
    assert ">01.08.2019, 14:00 CEST</time>" in page
    assert '<td data-label="Quantity" class="number">1.500</td>' in page
    for theirs in (overview, page):
        assert "$2" not in theirs.replace(WHY, "")  # the memo is what was printed on the credit note
        assert "Aug 2019" not in theirs.replace(WHY, "")


def test_somebody_elses_invoice_and_no_invoice_look_the_same(bella: FlaskClient) -> None:
    for path in ("/portal/invoices/{}", "/portal?before={}"):
        answers = [bella.get(path.format(id)) for id in ("in_otto", "in_zoe", "in_nothing")]
        assert {answer.status_code for answer in answers} == {404}
        # The form's token says the second in which it was made.
        assert len({CSRF.sub("", answer.text) for answer in answers}) == 1


def test_who_got_nothing_back_reads_so(app: Flask, house: House) -> None:
    page = browser(app, link_for_customer(house, 2, "cus_otto")).get("/portal").text
    assert "Nothing so far" in page
    assert "Billing is paused" not in page


def test_a_customer_of_whom_nothing_is_known_is_told_so(app: Flask, house: House) -> None:
    gone = browser(app, link_for_customer(house, 2, "cus_gone"))
    assert gone.get("/portal").status_code == 404


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"refunded": 0, "credited": 297}, "$2.97 credited to your balance"),
        ({"refunded": 0, "pre_payment_amount": 297, "post_payment_amount": 0}, "$2.97 taken off what was due"),
        ({"refunded": 0, "out_of_band": 297}, "$2.97 paid back to you directly"),
    ],
)
def test_each_way_back_is_named(app: Flask, house: House, fields: dict[str, int], words: str) -> None:
    with house.database.work(OPERATOR) as session:
        credit_note(session, 2, "cus_otto", "in_otto", "cn_otto", **fields)
    page = browser(app, link_for_customer(house, 2, "cus_otto")).get("/portal").text
    assert words in page
    assert "back to how you paid" not in page


@pytest.mark.parametrize(
    ("status", "words"), [("pending", "On its way"), ("failed", "Returned by the bank"), ("succeeded", "Sent")]
)
def test_a_refunds_state_is_said_in_words(
    app: Flask, house: House, bella: FlaskClient, status: str, words: str
) -> None:
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(Refund).where(Refund.id == "re_bella").values(status=status))
    assert words in bella.get("/portal").text


def test_a_refund_by_hand_and_a_credit_instead_of_one_are_shown(app: Flask, house: House) -> None:
    with house.database.work(OPERATOR) as session:
        refund(session, 2, "pi_in_otto", "re_hand", amount=1000)
        session.add(
            BalanceEntry(
                agency_id=2, id="cbtxn_1", customer_id="cus_otto", currency="usd", amount=-450, type="adjustment",
                step_id=9, created_at=AUGUST,
            )
        )  # fmt: skip
    otto = browser(app, link_for_customer(house, 2, "cus_otto"))
    page = otto.get("/portal").text
    assert "$10.00" in page
    assert "$4.50" in page
    assert "credited to your balance instead" in page
    assert "$10.00" in otto.get("/portal/invoices/in_otto").text


def test_a_paused_customer_is_told_and_a_credit_is_shown(app: Flask, house: House) -> None:
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(Customer).where(Customer.id == "cus_otto").values(balance=-1250))
        session.add(
            Subscription(
                agency_id=2, id="sub_otto", customer_id="cus_otto", status="active", currency="usd",
                collection_method="charge_automatically", pause_behavior="keep_as_draft", pause_incident="inc_1",
                cancel_at_period_end=False, created_at=AUGUST,
            )
        )  # fmt: skip
    page = browser(app, link_for_customer(house, 2, "cus_otto")).get("/portal").text
    assert "Billing is paused" in page
    assert "$12.50" in page


def test_older_invoices_are_a_page_away(app: Flask, house: House, bella: FlaskClient) -> None:
    with house.database.work(OPERATOR) as session:
        for months in range(1, 27):  # with August's, 27 invoices: a page of 25, then 2
            invoice(session, 2, "cus_bella", f"in_{months:02}", created_at=AUGUST - timedelta(days=30 * months))
    first = bella.get("/portal").text
    assert first.count('data-label="Invoice"') == 25
    assert "before=in_24" in first
    second = bella.get("/portal?before=in_24").text
    assert second.count('data-label="Invoice"') == 2
    assert "N-in_25" in second
    assert "N-in_26" in second


def test_text_from_outside_is_text(app: Flask, house: House, bella: FlaskClient) -> None:
    with house.database.work(OPERATOR) as session:
        bad = "<script>alert(1)</script>{{ 7 * 7 }}"
        session.execute(sa.update(CreditNote).values(memo=bad))
        session.execute(sa.update(Customer).values(name=bad))
        session.execute(sa.update(InvoiceLine).values(description=bad))
    for path in ("/portal", "/portal/invoices/in_bella"):
        page = bella.get(path).text
        assert "<script>alert" not in page
        assert "{{ 7 * 7 }}" in page


def test_the_arithmetic_is_shown_as_whoever_knows_tells_it(app: Flask, bella: FlaskClient) -> None:
    asked: list[tuple[int, str]] = []

    def arithmetic(_session: Session, agency_id: int, invoice_id: str) -> list[str]:
        asked.append((agency_id, invoice_id))
        return ["20.00 USD × 1 ÷ 2 = 10.00 USD."]

    assert "The arithmetic" not in bella.get("/portal/invoices/in_bella").text
    app.extensions[portal.ARITHMETIC] = arithmetic
    assert "20.00 USD × 1 ÷ 2 = 10.00 USD." in bella.get("/portal/invoices/in_bella").text
    assert asked == [(2, "in_bella")]


def test_files_come_from_here_and_are_checked_again_before_use(app: Flask) -> None:
    for name in ("pico.min.css", "house.css", "htmx.min.js", "hx-sse.min.js", "icon.svg"):
        with app.test_client().get(f"/static/{name}") as answer:
            assert answer.status_code == 200
            assert answer.headers["ETag"]
            assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [
        (101234, "usd", "$1,012.34"),
        (-5, "usd", "−$0.05"),
        (1234, "jpy", "¥1,234"),
        (1230, "kwd", "KWD\xa01.230"),
        (120000, "isk", "ISK\xa01,200"),  # Stripe's two-decimal krona, whole
        (120050, "isk", "ISK\xa01,200.50"),  # not whole: shown as it is rather than rounded away
        (500, "mga", "MGA\xa0500"),
        (0, "eur", "€0.00"),
    ],
)
def test_money_is_written_with_its_currency_and_never_rounded(amount: int, currency: str, shown: str) -> None:
    assert formats.money(amount, currency) == shown
