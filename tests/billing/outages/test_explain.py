"""The whole arithmetic of a grant, as its customer reads it, from what was kept: the same years later."""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.models import Customer, Plan
from billing.outages import approvals, explain, steps
from billing.outages.models import Grant, GrantLine, Incident, Step
from billing.outages.planning import Declaration
from billing.owners import customer_called
from tenants import policy
from tenants.db import OPERATOR, Database
from tenants.models import Agency
from tests.billing.outages.august import DECLARED, RESOLVED, August, at, begun
from tests.factories import AgencyFactory, CustomerFactory, building, paid_invoice, subscribed

AM, PM = "\u202fAM UTC", "\u202fPM UTC"


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


@pytest.fixture
def incident(august: August) -> str:
    """One customer paid 31.00 and 9.00 for August, and 3.75 of the first has been given back by the declaration."""
    with building(august.db):
        customer = august.customer(id="cus_corner", name="Corner Bakery")
        for id, net in (("in_big", 3_100), ("in_small", 900)):
            paid_invoice(customer, august.duo, net, subscription=subscribed(customer, august.duo), id=id)
    made = august.declare()
    august.give_back(made)
    return made


def told(august: August, incident: str) -> dict[str, Any]:
    with august.db.work(OPERATOR) as session:
        return explain.explain(session, incident, "cus_corner")


def set_all(august: August, table: type, **values: Any) -> None:
    with august.db.work(OPERATOR) as session:
        session.execute(sa.update(table).values(**values).execution_options(synchronize_session=False))


def test_it_says_everything_that_it_takes_to_compute_it_again(august: August, incident: str) -> None:
    august.resolve(incident, RESOLVED)
    august.give_back(incident)
    said = told(august, incident)
    # Facebook is three fifths of it. 90 h of 744 h: 31.00 × 0.6 × 90 ÷ 744 = 2.25. Until Friday, 08:00, 180 h: 4.50.
    first, later = (grant for grant in said["grants"] if grant["invoice"] == "in_big")
    assert (first["granted_before"], first["amount"], later["granted_before"], later["amount"]) == (0, 225, 225, 225)
    assert (first["reproduced"], later["reproduced"]) == (True, True)
    assert later["lines"][0]["lost"] == [{"from": "2019-08-22T20:00:00Z", "to": "2019-08-30T08:00:00Z", "share": "3/5"}]
    assert later["policy"]["grants"] == "prorated"
    assert later["policy"]["terms"]["granularity"] == "second"
    text = said["text"]
    assert text[0] == (f"Corner Bakery: Facebook outage, Aug 22, 2019, 8:00{PM} to Aug 30, 2019, 8:00{AM}")
    # 0.6 × 648,000 s = 388,800 s
    last = text[[number for number, line in enumerate(text) if line == "Invoice in_big"][1] :]
    assert last[2:8] == [
        f"  60 % of it was lost from Aug 22, 2019, 8:00{PM} to Aug 30, 2019, 8:00{AM}: 648,000 seconds.",
        "  $31.00 × 388,800 ÷ 2,678,400 = $4.50.",
        "Owed in all: $4.50, rounded $4.50.",
        "Given back before: $2.25.",
        "Given back now: $2.25.",
        "Under the policy of that day it goes back in proportion to the time that was paid for and lost.",
    ]
    assert last[8] == "  $2.25 to the card or account it was paid with"


def test_years_later_it_says_the_same_whatever_has_changed_since(august: August, incident: str) -> None:
    before = told(august, incident)
    with august.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, august.agency.id)
        agency.time_zone = "Asia/Tokyo"
        changes = {"granularity": "day", "grants": "full", "recovery": 3_600}
        policy.set_policy(session, DECLARED, agency, changes, august.finance, "test")
        session.execute(sa.text("UPDATE plan_weights SET weight_bp = 1"))
        session.execute(sa.update(Plan).values(name="Renamed", unit_amount=1, metered=True, active=False))
        session.execute(sa.update(Incident).values(impact_bp=1, ended_at=DECLARED + timedelta(days=900)))
        session.execute(sa.text("UPDATE invoice_lines SET net = 1, period_end = period_end + interval '1 day'"))
    after = told(august, incident)
    assert after["grants"] == before["grants"]
    assert after["text"][1:] == before["text"][1:]  # the heading names the incident as it is said to be now


def test_it_is_written_as_its_customer_reads_it(august: August, incident: str) -> None:
    with august.db.work(OPERATOR) as session:
        session.execute(sa.update(Customer).values(locale="de-DE"))
    text = told(august, incident)["text"]
    assert text[0] == "Corner Bakery: Facebook outage, 22.08.2019, 20:00 UTC to now"
    assert "  31,00\xa0$ × 194.400 ÷ 2.678.400 = 2,25\xa0$." in text
    set_all(august, Customer, locale="tlh-nonsense")
    set_all(august, Agency, locale="ja-JP")
    assert "  $31.00 × 194,400 ÷ 2,678,400 = $2.25." in told(august, incident)["text"]


@pytest.mark.breaks("grants are reproduced", "parts make the whole", "I6 nothing is given twice")
@pytest.mark.parametrize(
    ("table", "changes"),
    [
        (GrantLine, {"owed": "226/1"}),
        (GrantLine, {"amount": 224}),
        (Grant, {"owed": "901/4"}),  # 225.25, which is rounded to the same
        (Grant, {"owed": "899/4"}),
        (Grant, {"base": "1/2"}),
        (Grant, {"whole": "1/2"}),
        (Grant, {"granted_before": 1}),
        (Grant, {"amount": 226, "refund": 226}),
        (Grant, {"amount": 224, "refund": 224}),
        (Grant, {"netted": "1/1"}),
        (Grant, {"waived": 1}),
        (Grant, {"clipped": 1}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value.__tablename__,
)
def test_kept_numbers_that_somebody_changed_are_no_longer_called_reproduced(
    august: August, incident: str, superuser: Database, table: type[GrantLine | Grant], changes: dict[str, Any]
) -> None:
    """31.00 × 0.6 × 90 ÷ 744 = 2.25 are kept as 225/1, owed to an invoice that stands whole and had nothing before."""
    ids = sa.select(Grant.id).where(Grant.invoice_id == "in_big")
    its = GrantLine.grant_id.in_(ids) if table is GrantLine else Grant.id.in_(ids)
    with superuser.work(OPERATOR) as session:
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))  # past the trigger that keeps it
        session.execute(sa.update(table).where(its).values(changes).execution_options(synchronize_session=False))
    said = {grant["invoice"]: grant["reproduced"] for grant in told(august, incident)["grants"]}
    assert said == {"in_big": False, "in_small": True}


def test_what_a_later_invoice_took_back_is_kept_with_the_grant_that_it_lowers(august: August) -> None:
    with building(august.db):
        customer = august.customer(id="cus_corner")
        subscription = subscribed(customer, august.duo)
        paid_invoice(customer, august.duo, 3_100, subscription=subscription, id="in_first")
        paid_invoice(customer, august.duo, -620, subscription=subscription, id="in_less", created_at=at(10))
    incident = august.declare()
    # 31.00 × 0.6 × 90 ÷ 744 = 2.25, and of the 6.20 that were taken back 0.45: 1.80.
    grant = august.grants(incident)["in_first"]
    assert (grant.amount, grant.owed, grant.netted, grant.waived, grant.clipped) == (180, "180/1", "45/1", 0, 0)
    assert [one["reproduced"] for one in told(august, incident)["grants"]] == [True]


def test_a_policy_that_counts_by_the_day_says_so(august: August) -> None:
    with building(august.db):
        august.sell(id="in_corner")
    with august.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, august.agency.id)
        agency.time_zone = "Europe/Vienna"
        changes = {"granularity": "day", "recovery": 3_600}
        policy.set_policy(session, DECLARED - timedelta(days=30), agency, changes, august.finance, "test")
    incident = august.declare()
    with august.db.work(OPERATOR) as session:
        grant = session.scalars(sa.select(Grant).where(Grant.incident_id == incident)).one()
        text = explain.of_grant(session, grant)["text"]
    assert (
        "Under the policy of that day it goes back in proportion to the time that was paid for and lost, counted in"
        " whole days of Europe/Vienna, with 3,600 seconds of recovery."
    ) in text
    # The month of the invoice is UTC's; the days are Vienna's.
    assert "Aug 22, 2019, 12:00\u202fAM CEST to Aug 27, 2019, 12:00\u202fAM CEST" in " ".join(text)


def test_a_part_that_went_another_way_in_the_end_is_not_owed_still(august: August) -> None:
    """A third was paid from the balance; the refund of the rest fails, and becomes credit as well."""
    with building(august.db):
        customer = august.customer(id="cus_corner")
        subscription = subscribed(customer, august.pages)
        paid_invoice(
            customer, august.pages, 3_000, subscription=subscription,
            starting_balance=-1_000, ending_balance=0, amount_paid=2_000,
        )  # fmt: skip
    made = august.declare()
    august.approve(made)
    with august.db.work(OPERATOR) as session:
        note = session.scalars(sa.select(Step).where(Step.state == "approved")).one()
        begun(session, note)
        steps.move(session, note, steps.Move("failed", "The card is closed.", stripe_id="cn_1"))
    said = told(august, made)
    # 30.00 x 15/124 = 3.629 = 3.63, of which 10/30 are 1.21; the refund was 2.42.
    first, instead = said["grants"]
    assert (first["amount"], first["parts"]["credit"], first["reproduced"]) == (363, 121, True)
    assert (instead["fallback_of"], instead["parts"]["credit"]) == (first["grant"], 242)
    text = "\n".join(said["text"])
    assert "Given back now: $3.63." in text
    assert "Instead of a refund that did not work: $2.42" in text
    assert "Still owed" not in text


def test_a_customer_that_two_agencies_have_is_named_with_its_agency(august: August, incident: str) -> None:
    """Stripe copies customers from one account to another under the same id."""
    with building(august.db):
        theirs = CustomerFactory(agency=AgencyFactory(slug="bright-lantern"), id="cus_twin")
        ours = CustomerFactory(agency=august.agency, id="cus_twin")
        invoice = paid_invoice(ours, august.pages, 3100, subscription=subscribed(ours, august.pages))
    with august.db.work(OPERATOR) as session:
        with pytest.raises(Conflict, match="2 agencies have a customer cus_twin: write acme/cus_twin or "):
            explain.explain(session, incident, "cus_twin")
        assert customer_called(session, "bright-lantern/cus_twin").agency_id == theirs.agency_id
        with pytest.raises(NotFound, match="no customer nobody/cus_twin"):
            customer_called(session, "nobody/cus_twin")
    again = august.declare(Declaration("facebook", at(10), at(11)))
    august.give_back(again)
    with august.db.work(OPERATOR) as session:
        found = [explain.explain(session, again, f"{one}/cus_twin")["grants"] for one in ("acme", "bright-lantern")]
    assert [[grant["invoice"] for grant in grants] for grants in found] == [[invoice.id], []]


def test_of_whoever_had_nothing_it_says_why_as_far_as_that_is_known(august: August) -> None:
    """3.75 that a bank disputes, and that somebody declined, are owed; nothing is to whoever pays nothing."""
    with building(august.db):
        customer = august.customer(id="cus_corner")
        subscription = subscribed(customer, august.pages)
        paid = paid_invoice(customer, august.pages, subscription=subscription).id
        stranger = august.customer(id="cus_stranger")
    dispute = "UPDATE payments SET dispute_open = :open WHERE invoice_id = :id RETURNING id"
    august.rows(dispute, open=True, id=paid)
    made = august.declare()
    (_, text) = told(august, made)["text"]
    assert text == (
        "Nothing goes back to this customer for this incident: nothing is owed, or it is among what the last run left"
        " out (disputed)."
    )
    august.rows(dispute, open=False, id=paid)
    august.change(made, started_at=at(22, 20, 1))
    with august.db.work(OPERATOR) as session:
        approvals.decline(session, made, august.approver, "The weights are wrong.", "test")
    (_, text) = told(august, made)["text"]
    assert text == "What was planned was declined, and stays owed: The weights are wrong."
    with august.db.work(OPERATOR) as session:
        (_, text) = explain.explain(session, made, stranger.id)["text"]
    assert text == "Nothing goes back to this customer for this incident."
