"""What an incident cost: the story of a small shop, and the numbers, papers and journal entries that are made of it."""

import csv
import io
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from billing import importing
from billing.errors import NotFound
from billing.money import Money
from billing.outages import approvals, damages, fees, incidents, journal, papers, queries, tasks
from billing.outages import report as reporting
from billing.outages.models import Update
from billing.outages.planning import Declaration
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, STARTED, Shop
from tests.pdf_text import text_of

RESOLVED = datetime(2019, 8, 30, 8, tzinfo=UTC)
LATER = datetime(2019, 9, 20, tzinfo=UTC)


@dataclass
class Story:
    shop: Shop
    house: House
    incident: str
    customers: list[str]

    def report(self, now: datetime = LATER) -> dict[str, Any]:
        with self.house.database.work(OPERATOR) as session:
            return reporting.report(session, now, self.incident)

    def loses(self, what: str) -> None:
        """The first customer says that it lost 45.00 besides."""
        with self.house.database.work(OPERATOR) as session:
            by = session.scalars(sa.select(Member).where(Member.role == "finance")).one()
            damages.report(session, RESOLVED, self.incident, self.customers[0], Money(4_500, "usd"), what, by, "test")

    def documents(self) -> list[reporting.Document]:
        with self.house.database.work(OPERATOR) as session:
            return list(reporting.documents(session, self.incident))


@pytest.fixture
def story(db: Database) -> Iterator[Story]:
    """Three customers of 31.00 a month: two paid by card, one of them with 10 % tax on top, one whose card declined.

    Facebook is gone from 22 August, 20:00 to 30 August, 08:00: 180 of the month's 744 hours.
    """
    with shops.opened() as shop:
        rate = shop.post("/v1/tax_rates", display_name="VAT", percentage=10, inclusive=False)["id"]
        shop.sell(1)
        shop.sell(1, default_tax_rates=[rate])
        shop.sell(1, collection_method="send_invoice", days_until_due=30)
        shop.now(DECLARED)
        house = shop.house(db)
        importing.import_account(house, "")
        with db.work(OPERATOR) as session:
            finance, approver = (Member(email=f"{name}@example.com", role=name) for name in ("finance", "approver"))
            session.add_all([finance, approver])
            session.flush()
            incident = incidents.declare(session, DECLARED, Declaration("facebook", STARTED), finance, "test").id
        _see_through(house, incident, approver)
        shop.now(RESOLVED)
        with db.work(OPERATOR) as session:
            incidents.resolve(session, RESOLVED, incident, session.get_one(Member, finance.id), "test")
        _see_through(house, incident, approver)
        yield Story(shop, house, incident, shop.customers)


def _see_through(house: House, incident: str, approver: Member) -> None:
    with house.database.work(OPERATOR) as session:
        fingerprint = queries.shown(session, incident)["fingerprint"]
    with house.database.work(OPERATOR) as session:
        by = session.get_one(Member, approver.id)
        approvals.approve(session, house.clock.now(), incident, by, fingerprint, "test")
    tasks.work_until_quiet(house, incident, 60)


def test_the_numbers_add_up_and_are_those_of_stripe(story: Story) -> None:
    told = story.report()
    # 31.00 x 180/744 = 7.50 to the first card; 34.10 x 180/744 = 8.25 to the second; 7.50 off the open invoice.
    (money,) = told["money"]
    assert {name: money[name] for name in ("refunded", "credited", "reduced", "given")} == {
        "refunded": 750 + 825, "credited": 0, "reduced": 750, "given": 2_325,
    }  # fmt: skip
    assert (money["on_its_way"], money["waiting"], money["for_a_person"]) == (0, 0, 0)
    assert sum(charge["refunded"] for charge in story.shop.ledger()["charges"]) == 1_575
    assert told["affected"] == {"agencies": 1, "customers": 3, "subscriptions_paused": 3}
    assert told["outage_seconds"] == 180 * 3_600
    assert told["promise"] == {
        "by": "2019-09-04T14:00:00Z", "kept": True, "open_grants": 0, "undecided": 0, "excepted": 0,
        "last_document": "2019-08-30T08:00:00Z",
    }  # fmt: skip


def test_the_fees_that_stripe_keeps_are_those_for_the_money_that_went_back(story: Story) -> None:
    assert story.report()["fees"] == [{"currency": "usd", "not_returned": 0, "payments": 0, "not_known_yet": 2}]
    assert fees.learn_due(story.house, 10) == 2
    assert fees.learn_due(story.house, 10) == 0
    # 2.9 % and 0.30: 31.00 cost 1.20, 34.10 cost 1.29. 1.20 x 7.50/31.00 + 1.29 x 8.25/34.10 = 0.6024 = 0.60
    assert story.report()["fees"] == [{"currency": "usd", "not_returned": 60, "payments": 2, "not_known_yet": 0}]


def test_the_journal_balances_and_books_the_tax_apart(story: Story) -> None:
    sums: dict[str, int] = defaultdict(int)
    entries: dict[int, int] = defaultdict(int)
    for posting in journal.postings(story.documents(), story.incident):
        assert min(posting.debit, posting.credit) == 0
        sums[posting.account] += posting.debit - posting.credit
        entries[posting.entry] += posting.debit - posting.credit
    assert set(entries.values()) == {0}
    assert len(entries) == 6  # three invoices, two runs
    # 34.10 x 90/744 = 4.125 makes 4.13 and then 4.12; of these 10/110 are tax: 0.3755 = 0.38 and 0.3745 = 0.37.
    assert sums == {
        journal.ALLOWANCES: 2_325 - 75, journal.TAX: 75, journal.STRIPE: -1_575, journal.RECEIVABLE: -750,
    }  # fmt: skip


def test_the_csv_is_one_row_per_grant_and_no_spreadsheet_runs_it(story: Story, db: Database) -> None:
    with db.work(OPERATOR) as session:
        session.execute(
            sa.text("UPDATE customers SET name = '=HYPERLINK(\"http://x\")' WHERE id = :id"), {"id": story.customers[0]}
        )
    rows = list(csv.DictReader(io.StringIO("".join(papers.documents_csv(story.documents())))))
    assert len(rows) == 6
    assert sum(int(row["amount"]) for row in rows) == 2_325
    assert {row["customer_name"] for row in rows} == {'\'=HYPERLINK("http://x")', ""}
    assert all(row["credit_note"].startswith("cn_") and row["on"].endswith("Z") for row in rows)


def test_the_papers_carry_their_evidence(story: Story) -> None:
    evidence = "".join(papers.documents_csv(story.documents()))
    for made in (
        papers.report_pdf(story.report(), evidence), papers.claim_pdf(story.report(), evidence, 'Ann #panic("x")'),
    ):  # fmt: skip
        assert made.startswith(b"%PDF-1.7")
        assert f"{story.incident}.csv".encode() in made or f"{story.incident}.csv".encode("utf-16-be") in made
    assert papers.report_pdf(story.report(), evidence) == papers.report_pdf(story.report(), evidence)
    too_long = evidence + "x" * papers.LARGEST_ATTACHMENT
    assert len(papers.claim_pdf(story.report(), too_long, "Ann")) < len(too_long) // 10


def test_the_papers_say_the_numbers_in_words_that_can_be_read(story: Story, db: Database) -> None:
    """7.50 and 8.25 to cards, 7.50 off an invoice: see above, and the fees too."""
    story.loses("Boosts")
    with db.work(OPERATOR) as session:
        session.add(
            Update(
                incident_id=story.incident, state="resolved", body="It is over.", published_at=RESOLVED,
                published_by=session.scalars(sa.select(Member.id).where(Member.role == "finance")).one(),
            )
        )  # fmt: skip
    fees.learn_due(story.house, 10)
    told = story.report()
    numbers = (
        "Facebook from 22 August 2019, 20:00 UTC to 30 August 2019, 08:00 UTC: 180 h.",
        "3 customers of 1 agency affected; billing was paused for 3 subscriptions.",
        # Grants, to cards, to the balance, off what was due, by hand, together, owed.
        "USD 6 15.75 0.00 7.50 0.00 23.25 23.25",
        "Because of this outage alone because of it goodwill USD 23.25 0.00",
        "Fees that Stripe keeps payments not known yet not returned USD 2 0 0.60",
        "What customers say they lost besides reports reported USD 1 45.00",
    )
    report = text_of(papers.report_pdf(told, "csv"))
    claim = text_of(papers.claim_pdf(told, "csv", "Ann Lee, Elm Street"))
    for words in numbers:
        assert words in report
        assert words in claim
    for words in (
        "All money was to be back by 4 September 2019, 14:00 UTC, and was.", "2019-08-30 08:00:00 UTC: It is over.",
        *(f"operator {run['no']} ({run['purpose']}) done approver@example.com" for run in told["runs"]),
        *(run["fingerprint"][:24] for run in told["runs"]),
        *(entry["hash"][:24] for entry in told["evidence"]),
    ):  # fmt: skip
        assert words in report
    assert claim.startswith("Ann Lee, Elm Street To Facebook Claim for the outage of Facebook")
    assert f"the attached file {story.incident}.csv names the invoice" in claim
    too_long = "x" * (papers.LARGEST_ATTACHMENT + 1)
    assert "is too long for this letter" in text_of(papers.claim_pdf(told, too_long, "Ann"))


def test_no_number_of_a_report_is_missing_from_its_papers(story: Story) -> None:
    """Each gets a value of its own: 137 is printed as 137 where it counts something, as 1.37 where it is money."""
    one_row = {
        "left_out": {"reason": "disputed", "currency": "usd", "count": 0, "amount": 0},
        "waived": {"currency": "usd", "amount": 0, "invoices": 0, "customers": 0},
        "held": {"currency": "usd", "renewals": 0, "asked_for": 0, "not_collected": 0, "brought_in": 0, "open": 0},
    }
    told = story.report() | {name: [row] for name, row in one_row.items()}
    values = itertools.count(137)
    for row in [told["affected"], *(told[name][0] for name in ("money", "fees", *one_row))]:
        row.update({name: next(values) for name, number in row.items() if isinstance(number, int)})
    told["because_of_it"] = {
        name: [{"currency": "usd", "amount": next(values)}] for name in ("granted", "goodwill")
    }  # fmt: skip
    given = range(137, next(values))
    for made in (papers.report_pdf(told, ""), papers.claim_pdf(told, "", "Ann")):
        words = set(text_of(made).split())
        missing = [number for number in given if not {str(number), f"{number / 100:.2f}"} & words]
        assert missing == [], text_of(made)


def test_what_customers_say_they_lost_is_kept_beside_and_pays_nothing(story: Story) -> None:
    story.loses("Boosted posts that vanished")
    told = story.report()
    assert [(one["amount"], one["what"]) for one in told["damages"]] == [(4_500, "Boosted posts that vanished")]
    assert told["money"][0]["given"] == 2_325
    text = "\n".join(papers.in_lines(told))
    for words in ("45.00", "23.25", "15.75", "7.50", "180 h", "and was."):
        assert words in text


def test_a_report_on_what_is_not_there_is_not_found(db: Database) -> None:
    with pytest.raises(NotFound), db.work(OPERATOR) as session:
        reporting.report(session, LATER, "inc_none")
