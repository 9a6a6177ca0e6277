"""Customers who may choose: what each of them gets in the end, worked out by hand.

Of 31.00 for the 744 hours of August an hour is 31.00 / 744. The outage began on the 22nd at 20:00, was declared on the
26th at 14:00, and customers may choose until the 29th at 14:00: after 162 hours, which are 6.75. It ended on the 30th
at 08:00: after 180 hours, which are 7.50.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from billing import portal
from billing.errors import BadRequest, Conflict, NotFound
from billing.models import Customer, Invoice, Payment
from billing.outages import choices, customers, explain, incidents, newcomers, papers, report, settlements, settling
from billing.outages.models import Incident
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database, Scope
from tenants.models import Agency
from tenants.policy import set_policy
from tests.billing.outages.august import FACEBOOK_IS_DOWN, RESOLVED, August, at, parts
from tests.factories import AgencyFactory, CustomerFactory, building, paid_invoice, subscribed
from tests.web import CSRF, app_of, browser, house_of, link_for_customer, send

CHOSEN, CLOSES = at(27), at(29, 14)


@pytest.fixture
def august(db: Database) -> August:
    made = August(db)
    says(made, choice_days=3)
    return made


def says(august: August, **changes: Any) -> None:
    with august.db.work(OPERATOR) as session:
        set_policy(session, at(1), session.get_one(Agency, august.agency.id), changes, august.finance, "test")


def sold(august: August, **of_invoice: Any) -> Invoice:
    with building(august.db):
        return august.sell(**of_invoice)


def choose(august: August, incident: str, invoice: Invoice, choice: str, now: datetime = CHOSEN) -> None:
    with august.db.work(Scope(august.agency.id)) as session:
        choices.choose(session, now, august.agency.id, invoice.customer_id, incident, choice, "test")


def settle(august: August, incident: str, now: datetime = CLOSES) -> dict[str, int]:
    """What the run gave that is due by then, by invoice."""
    with august.db.work(OPERATOR) as session:
        settling.settle(session, now, incident)
    return august.give_back(incident)


def waived(august: August) -> dict[str, int]:
    return {row.invoice_id: row.amount for row in august.rows("SELECT invoice_id, amount FROM waivers")}


def left_out(august: August, incident: str) -> dict[str, int]:
    """Of the last run."""
    return {
        one["reason"]: sum(part["amount"] for part in one["amount"])
        for one in august.shown(incident)["runs"][-1]["left_out"]
    }


def test_money_credit_nothing_and_no_answer(august: August) -> None:
    silent, money, credit, nothing = (sold(august) for _ in range(4))
    assert {one["reason"]: one["amount"][0]["amount"] for one in august.preview().left_out} == {"choosing": 4 * 375}
    incident = august.declare()
    assert august.shown(incident)["totals"] == []
    assert left_out(august, incident) == {"choosing": 1_500}
    choose(august, incident, money, "credit")
    choose(august, incident, money, "money")  # they changed their mind
    choose(august, incident, credit, "credit")
    choose(august, incident, nothing, "waive")

    assert settle(august, incident, CLOSES - timedelta(seconds=1)) == {}
    assert settle(august, incident) == {silent.id: 675, money.id: 675, credit.id: 675}
    assert waived(august) == {nothing.id: 675}
    assert [parts(august.grants(incident)[one.id]) for one in (silent, money, credit)] == [
        {"refund": 675}, {"refund": 675}, {"credit": 675},
    ]  # fmt: skip
    assert settle(august, incident, CLOSES + timedelta(days=9)) == {}

    august.resolve(incident)
    assert august.give_back(incident) == {silent.id: 75, money.id: 75, credit.id: 75}
    assert waived(august) == {nothing.id: 750}
    # 4 x 7.50 owed = 15.00 refunded + 7.50 credited + 7.50 waived.
    with august.db.work(OPERATOR) as session:
        told = report.report(session, RESOLVED, incident)
    (all_of_it,) = told["money"]
    assert (all_of_it["refunded"], all_of_it["credited"]) == (1_500, 750)
    assert told["waived"] == [{"currency": "usd", "amount": 750, "invoices": 1, "customers": 1}]
    assert all_of_it["refunded"] + all_of_it["credited"] + told["waived"][0]["amount"] == 4 * 750
    assert "What customers waived" in "\n".join(papers.in_lines(told))


def looked_at(august: August, now: datetime) -> None:
    """A worker looks at what goes on, as it does every minute."""
    with august.db.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(followed_at=sa.func.now() - newcomers.EVERY))
    assert newcomers.look_due(house_of(august.db, clock=FixedClock(now)), 10) == 1


def test_the_customers_of_an_agency_that_is_made_while_it_goes_on_are_asked_from_then_on(august: August) -> None:
    """From the 27th, 14:00 to the 30th, 14:00: after 186 hours, which are 7.75. The other agency is asked as it was."""
    first = sold(august)
    incident = august.declare()
    theirs = made_late(august)
    late, customer = theirs.agency_id, theirs.customer_id
    for hour in (14, 15):
        looked_at(august, at(27, hour))
    with august.db.work(Scope(late)) as session:
        (offer,) = choices.offered(session, at(28), late, customer)
        assert (offer.incident_id, offer.closes_at) == (incident, at(30, 14))
        promise = settlements.promised_by(session, session.get_one(Incident, incident), late)
        assert promise == at(10, 14, month=9)  # seven business days later
        choices.choose(session, at(28), late, customer, incident, "credit", "test")
    assert settle(august, incident) == {first.id: 675}
    assert settle(august, incident, at(30, 13)) == {}
    assert settle(august, incident, at(30, 14)) == {theirs.id: 775}
    assert parts(august.grants(incident)[theirs.id]) == {"credit": 775}
    looked_at(august, at(30, 15))
    assert settle(august, incident, at(31)) == {}


def made_late(august: August) -> Invoice:
    """Sold by an agency that asks its customers, made while an incident goes on or after it."""
    with building(august.db):
        late = AgencyFactory(slug="late")
        customer = CustomerFactory(agency=late)
        invoice = paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages))
    with august.db.work(OPERATOR) as session:
        set_policy(session, at(27), session.get_one(Agency, late.id), {"choice_days": 3}, august.finance, "test")
    return invoice


def test_an_agency_that_is_made_and_planned_before_a_worker_looks_asks_all_the_same(august: August) -> None:
    """All of its 180 hours, 7.50, once they could choose for three days from the resolution on."""
    first = sold(august)
    incident = august.declare()
    assert settle(august, incident) == {first.id: 675}
    invoice = made_late(august)
    august.resolve(incident)
    assert august.give_back(incident) == {first.id: 75}
    assert settle(august, incident, RESOLVED + timedelta(days=3) - timedelta(seconds=1)) == {}
    with august.db.work(Scope(invoice.agency_id)) as session:
        choices.choose(session, at(31), invoice.agency_id, invoice.customer_id, incident, "credit", "test")
    assert settle(august, incident, RESOLVED + timedelta(days=3)) == {invoice.id: 750}
    assert parts(august.grants(incident)[invoice.id]) == {"credit": 750}


def test_an_agency_that_is_made_before_an_approval_asks_all_the_same(august: August) -> None:
    """What the others' run gives is what was looked at. Theirs is due on the 29th, after 162 hours: 6.75."""
    says(august, choice_days=0)
    first = sold(august)
    incident = august.declare()
    invoice = made_late(august)
    assert august.give_back(incident) == {first.id: 375}
    assert settle(august, incident) == {invoice.id: 675}


def test_an_agency_that_is_first_heard_of_by_what_it_billed_asks_all_the_same(august: August) -> None:
    """An outage from the 22nd, 20:00 to the 26th, 14:00, and an agency that is made on the 30th: 3.75, from a
    declaration that nobody makes again."""
    incident = august.declare(replace(FACEBOOK_IS_DOWN, ended_at=at(26, 14)))
    august.resolve(incident, at(27))
    invoice = made_late(august)
    with august.db.work(OPERATOR) as session:
        settlements.came_late(session, invoice.id)
    assert settle(august, incident, RESOLVED) == {}
    assert settle(august, incident, RESOLVED + timedelta(days=3) - timedelta(seconds=1)) == {}
    assert settle(august, incident, RESOLVED + timedelta(days=3)) == {invoice.id: 375}


def test_nobody_is_asked_once_something_was_planned_for_their_agency(august: August) -> None:
    says(august, choice_days=0)
    invoice = sold(august)
    incident = august.declare()
    says(august, choice_days=3)
    looked_at(august, at(27))
    assert offered(august, invoice) == []
    assert august.give_back(incident) == {invoice.id: 375}


def test_nobody_is_asked_about_an_incident_that_gives_nothing(august: August) -> None:
    with building(august.db):
        late = AgencyFactory(slug="late")
    august.declare(replace(FACEBOOK_IS_DOWN, policy="none"))
    with august.db.work(OPERATOR) as session:
        set_policy(session, at(27), session.get_one(Agency, late.id), {"choice_days": 3}, august.finance, "test")
    looked_at(august, at(27))
    assert august.rows("SELECT 1 FROM settlements") == []


def test_whoever_is_not_asked_is_given_at_once(august: August) -> None:
    says(august, choice_days=0)
    invoice = sold(august)
    incident = august.declare()
    assert august.give_back(incident) == {invoice.id: 375}
    assert settle(august, incident) == {}


def test_resolved_before_the_date_it_still_waits_for_the_answer(august: August) -> None:
    invoice = sold(august)
    incident = august.declare()
    # 20:00 on the 22nd to 08:00 on the 28th are 132 hours: 5.50.
    august.resolve(incident, at(28, 8))
    assert left_out(august, incident) == {"choosing": 550}
    choose(august, incident, invoice, "credit", at(28, 9))
    assert settle(august, incident) == {invoice.id: 550}
    assert parts(august.grants(incident)[invoice.id]) == {"credit": 550}


def test_what_is_not_paid_is_asked_for_less_at_once(august: August) -> None:
    """There is no way back to choose. What was taken off is not given up by a waiver afterwards."""
    with building(august.db):
        customer = august.customer()
        invoice = paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages), status="open")
    incident = august.declare()
    assert august.give_back(incident) == {invoice.id: 375}
    choose(august, incident, invoice, "waive")
    assert settle(august, incident) == {}
    assert waived(august) == {invoice.id: 300}


def test_credit_as_policy_money_as_choice(august: August) -> None:
    says(august, grants="credit")
    chosen, silent = sold(august), sold(august)
    incident = august.declare()
    choose(august, incident, chosen, "money")
    settle(august, incident)
    given = august.grants(incident)
    assert (parts(given[chosen.id]), parts(given[silent.id])) == ({"refund": 675}, {"credit": 675})


def test_a_waiver_follows_what_the_incident_becomes(august: August) -> None:
    invoice, other = sold(august), sold(august)
    incident = august.declare()
    choose(august, incident, invoice, "waive")
    assert settle(august, incident) == {other.id: 675}
    # Half of it after all, from 162 hours on: 3.375, of which 3.38 is the rounding; the other keeps 6.75.
    august.change(incident, CLOSES, impact_bp=5_000)
    assert waived(august) == {invoice.id: 338}
    assert august.goodwill(incident) == {other.id: 337}
    august.retract(incident, CLOSES)
    assert waived(august) == {}
    assert august.goodwill(incident) == {other.id: 675}


def test_nobody_is_paid_by_another_incident_for_what_they_waived(august: August) -> None:
    """Three fifths Facebook, two fifths Instagram, which was down from the 27th, 00:00 to the 28th, 00:00: a day."""
    instagram_down = replace(
        FACEBOOK_IS_DOWN, platform="instagram", started_at=at(27), ended_at=at(28), agencies=(), title="Instagram"
    )
    waives_facebook = sold(august, plan=august.duo)
    waives_both, wants = sold(august, plan=august.duo), sold(august, plan=august.duo)
    facebook = august.declare()
    for invoice in (waives_facebook, waives_both):
        choose(august, facebook, invoice, "waive")
    instagram = august.declare(instagram_down, at(28, 14))
    choose(august, instagram, waives_both, "waive", at(29))
    # What Facebook gives waits for the answers about Instagram, on the same invoices: until the 31st, 14:00.
    assert settle(august, facebook) == {}
    assert left_out(august, facebook)["choosing"] > 0
    august.resolve(facebook)  # 180 hours
    assert august.give_back(facebook) == {}
    # Instagram: 24 h x 2/5 of 31.00/744 = 0.40. Facebook: 180 h x 3/5 = 4.50. Together 4.90.
    assert settle(august, instagram, at(31, 14)) == {waives_facebook.id: 40, wants.id: 490}
    assert settle(august, facebook, at(31, 15)) == {}
    found = {
        (row.incident_id, row.invoice_id): row.amount
        for row in august.rows("SELECT incident_id, invoice_id, amount FROM waivers")
    }
    assert found == {
        (facebook, waives_facebook.id): 450, (facebook, waives_both.id): 450, (instagram, waives_both.id): 40,
    }  # fmt: skip
    with august.db.work(OPERATOR) as session:
        told = explain.explain(session, instagram, waives_facebook.customer_id)
    (grant,) = told["grants"]
    assert (grant["rounded"], grant["waived"], grant["amount"], grant["rest"]) == (490, 450, 40, 0)
    assert "Waived: $4.50." in told["text"]
    assert "Still owed" not in "".join(told["text"])


def test_a_platform_that_does_not_come_back_can_be_waived_too(august: August) -> None:
    """Everything paid beyond: from the 22nd, 20:00 to the end of August are 220 hours of 744: 9.17 (9.1666)."""
    waives, silent = sold(august), sold(august)
    incident = august.declare()
    with august.db.work(OPERATOR) as session:
        incidents.retire(session, at(28), incident, august.finance, "test", reason="Gone for good.")
    assert left_out(august, incident) == {"choosing": 2 * 917}
    choose(august, incident, waives, "waive", at(28, 1))
    assert settle(august, incident) == {silent.id: 917}
    assert waived(august) == {waives.id: 917}


def offered(august: August, invoice: Invoice) -> list[str]:
    with own(august) as session:
        return [one.incident_id for one in choices.offered(session, CHOSEN, august.agency.id, invoice.customer_id)]


def test_nobody_chooses_about_an_outage_that_is_not_theirs_any_more(august: August) -> None:
    invoice = sold(august, plan=august.duo)
    with building(august.db):
        AgencyFactory(slug="elsewhere")
    facebook = august.declare()
    august.declare(replace(FACEBOOK_IS_DOWN, platform="instagram", title="Instagram"))
    assert len(offered(august, invoice)) == 2
    august.change(facebook, at(26, 15), agencies=("elsewhere",))
    assert facebook not in offered(august, invoice)
    with own(august) as session, pytest.raises(NotFound):
        choices.choose(session, CHOSEN, august.agency.id, invoice.customer_id, facebook, "waive", "test")


def test_what_another_incident_gives_waits_for_no_choice_about_one_that_is_not_theirs(august: August) -> None:
    """Two fifths of 31.00 over 90 of 744 h: 1.50."""
    invoice = sold(august, plan=august.duo)
    with building(august.db):
        AgencyFactory(slug="elsewhere")
    facebook = august.declare()
    august.change(facebook, at(26, 14), agencies=("elsewhere",))
    says(august, choice_days=0)
    instagram = august.declare(replace(FACEBOOK_IS_DOWN, platform="instagram", title="Instagram"))
    assert august.give_back(instagram) == {invoice.id: 150}


def test_whoever_was_charged_nothing_is_asked_nothing(august: August) -> None:
    trial, paying = sold(august, net=0), sold(august)
    incident = august.declare()
    assert (offered(august, trial), offered(august, paying)) == ([], [incident])


@pytest.mark.parametrize(
    ("begins", "counts", "owed"),
    [
        (at(26, 18), {"granularity": "day"}, 25),  # 6 of its 744 hours, until the 27th: 31.00 x 6 / 744
        (at(26, 18), {"granularity": "hour"}, 0),
        (at(26, 14, 30), {"recovery": 3600}, 2),  # until 15:00: 31.00 x 0.5 / 744 = 0.0208
        (at(22, 12, month=7), {"granularity": "day"}, 50),  # its last 12 hours, until the 22nd, 12:00
        (at(22, 12, month=7), {"granularity": "hour"}, 0),
    ],
)
def test_whoever_waits_for_an_answer_is_asked_for_one_however_their_agency_counts(
    august: August, begins: datetime, counts: dict[str, Any], owed: int
) -> None:
    says(august, **counts)
    invoice = sold(august, period=(begins, begins + timedelta(hours=744)))
    incident = august.declare(replace(FACEBOOK_IS_DOWN, ended_at=at(26, 14)))
    assert (incident in offered(august, invoice)) is (owed > 0)
    assert settle(august, incident, now=CLOSES) == ({invoice.id: owed} if owed else {})


@pytest.mark.parametrize("status", ["void", "uncollectible", "deleted"])
def test_whoever_is_not_to_pay_is_asked_nothing(august: August, status: str) -> None:
    with building(august.db):
        customer = august.customer()
        subscription = subscribed(customer, august.pages)
        voided = paid_invoice(customer, august.pages, subscription=subscription, status=status)
        ours = paid_invoice(august.customer(), august.pages, status="open")
    incident = august.declare()
    assert (offered(august, voided), offered(august, ours)) == ([], [incident])
    with own(august) as session:
        assert choices.asked(session, august.agency.id, customer.id, incident) is None


def test_whoever_has_all_of_it_back_already_is_asked_nothing(august: August) -> None:
    """31.00, of which others gave back 31.00, or 30.00; a change of plan within the hour that came to nothing."""
    whole, nearly, changed = sold(august), sold(august), sold(august)
    with building(august.db) as session:
        for invoice, amount in ((whole, 3_100), (nearly, 3_000)):
            of_invoice = Payment.invoice_id == invoice.id
            session.execute(sa.update(Payment).where(of_invoice).values(elsewhere=amount))
        session.execute(sa.update(Invoice).where(Invoice.id == changed.id).values(total=0))
    incident = august.declare()
    assert [offered(august, one) for one in (whole, nearly, changed)] == [[], [incident], []]


@contextmanager
def own(august: August) -> Iterator[Session]:
    with august.db.work(Scope(august.agency.id)) as session:
        yield session


def test_what_cannot_be_chosen(august: August) -> None:
    invoice = sold(august)
    with building(august.db):
        stranger = CustomerFactory(agency=august.agency)
        elsewhere = AgencyFactory(slug="elsewhere")
        theirs = CustomerFactory(agency=elsewhere)
        paid_invoice(theirs, august.pages, subscription=subscribed(theirs, august.pages))
    incident = august.declare()
    for customer, said, refusal, sentence in (
        (invoice.customer_id, "everything", BadRequest, "money, credit, or nothing"),
        (invoice.customer_id, "", BadRequest, "money, credit, or nothing"),
        (stranger.id, "money", NotFound, "nothing to choose"),
        (theirs.id, "money", NotFound, "nothing to choose"),
    ):
        with own(august) as session, pytest.raises(refusal, match=sentence):
            choices.choose(session, at(27), august.agency.id, customer, incident, said, "test")
    with own(august) as session, pytest.raises(NotFound):
        choices.choose(session, at(27), august.agency.id, invoice.customer_id, "inc_nothing", "money", "test")
    with pytest.raises(Conflict, match="until 29 August 2019"):
        choose(august, incident, invoice, "money", CLOSES)
    with own(august) as session:
        assert choices.offered(session, CLOSES, august.agency.id, invoice.customer_id) == []
    settle(august, incident)
    # Whoever looked a moment before the date, and answers once the run is made, is told so.
    with pytest.raises(Conflict):
        choose(august, incident, invoice, "waive", CLOSES - timedelta(seconds=1))
    assert august.rows("SELECT 1 FROM choices") == []


@pytest.fixture
def app(august: August) -> Flask:
    made = app_of(house_of(august.db, clock=FixedClock(at(27))), portal.blueprint, customers.blueprint)
    made.extensions[portal.CHOOSABLE] = choices.offered
    return made


def test_a_customer_chooses_in_the_portal_for_nobody_but_themselves(august: August, app: Flask) -> None:
    mine, other = sold(august), sold(august)
    incident = august.declare()
    house = app.extensions["house"]
    client = browser(app, link_for_customer(house, august.agency.id, mine.customer_id))
    assert 'href="/portal/choices"' in client.get("/portal").text
    page = client.get("/portal/choices")
    assert 'until <time datetime="2019-08-29T14:00:00Z">Aug 29, 2019, 2:00\u202fPM UTC</time>' in page.text
    assert "Without an answer it goes back the way you paid." in page.text
    assert client.post(f"/portal/choices/{incident}", data={"choice": "waive"}).status_code == 400  # no token
    fields: dict[str, str | list[str]] = {"choice": "waive", "customer_id": other.customer_id}
    assert send(client, "/portal/choices", f"/portal/choices/{incident}", fields).status_code == 303
    (said,) = august.rows("SELECT customer_id, choice FROM choices")
    assert tuple(said) == (mine.customer_id, "waive")
    chosen = client.get("/portal/choices").text
    assert 'value="waive" required checked' in chosen
    assert "You chose: Nothing, thank you." in chosen
    assert "Without an answer" not in chosen
    (entry,) = august.rows("SELECT actor, after FROM audit_entries WHERE action = 'incident.chosen'")
    assert (entry.actor, entry.after["choice"]) == (mine.customer_id, "waive")
    assert send(client, "/portal/choices", f"/portal/choices/{incident}", {"choice": "all"}).status_code == 400
    assert send(client, "/portal/choices", "/portal/choices/inc_0", {"choice": "money"}).status_code == 404
    assert browser(app).get("/portal/choices").status_code in (302, 303, 401)


def test_whoever_answers_too_late_is_told_so_and_leaves_an_entry(august: August, app: Flask) -> None:
    mine = sold(august)
    incident, house = august.declare(), app.extensions["house"]
    client = browser(app, link_for_customer(house, august.agency.id, mine.customer_id))
    page = client.get("/portal/choices").text
    house.clock.at = CLOSES
    token = CSRF.search(page)
    assert token
    late = client.post(f"/portal/choices/{incident}", data={"choice": "waive", "csrf_token": token[1]})
    why = "You could choose until 29 August 2019, 14:00 UTC: what you are owed is on its way."
    assert (late.status_code, why in late.text) == (409, True)
    (entry,) = august.rows(
        "SELECT actor, origin, subject, after FROM audit_entries WHERE action = 'incident.choose_refused'"
    )
    assert tuple(entry) == (mine.customer_id, "portal", incident, {"why": why})


def test_a_customer_without_anything_to_choose_is_told_so(august: August, app: Flask) -> None:
    with building(august.db):
        bystander: Customer = CustomerFactory(agency=august.agency)
    august.declare()
    client = browser(app, link_for_customer(app.extensions["house"], august.agency.id, bystander.id))
    assert 'href="/portal/choices"' not in client.get("/portal").text
    page = client.get("/portal/choices").text
    assert "nothing to choose" in page
    assert "You paid" not in page
