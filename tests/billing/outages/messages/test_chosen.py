"""Customers who may choose are told until when and where, and later what came of it, on a real SMTP server.

Declared on Monday, 26 August, 14:00 UTC; they may choose for three days. 31.00 × 162 h ÷ 744 h until then are 6.75.
"""

from typing import Any

import pytest
import sqlalchemy as sa

from billing.models import Customer
from billing.outages import choices, settling
from billing.outages.messages import wording
from billing.outages.models import Grant
from billing.outages.planning import Declaration
from tenants.db import OPERATOR, Scope
from tenants.models import Agency
from tenants.policy import set_policy
from tests.billing.outages.august import STARTED, at
from tests.billing.outages.messages.conftest import CORNER, QUIET, Post
from tests.billing.outages.messages.mailroom import text_of

pytestmark = pytest.mark.breaks("I4 every grant has ended or waits")
"""The states of grants are set by hand: no step is sent here."""

CLOSES = at(29, 14)
QUESTION = (
    "What you get is up to you: money back the way you paid, credit towards your next invoice, or nothing."
    " Choose until Aug 29, 2019, 2:00\u202fPM UTC: https://billing.example.com/portal/choices\n"
    "Without an answer it goes back the way you paid."
)


def says(post: Post, **changes: Any) -> None:
    with post.db.work(OPERATOR) as session:
        set_policy(session, at(1), session.get_one(Agency, post.august.agency.id), changes, post.august.finance, "test")


@pytest.fixture(autouse=True)
def _may_choose(post: Post) -> None:
    says(post, choice_days=3)


def choose(post: Post, incident: str, customer: str, choice: str) -> None:
    agency = post.august.agency.id
    with post.db.work(Scope(agency)) as session:
        choices.choose(session, at(27), agency, customer, incident, choice, "test")


def settled(post: Post, incident: str) -> None:
    """The run that follows the date, approved; everything of it arrived."""
    with post.db.work(OPERATOR) as session:
        settling.settle(session, CLOSES, incident)
    post.august.approve(incident)
    post.granted(incident)


def test_whoever_may_choose_is_told_until_when_where_and_what_happens_otherwise(post: Post, incident: str) -> None:
    post.deliver()
    for address in (CORNER, QUIET):
        (mail,) = post.room.to(address)
        assert QUESTION in text_of(mail)
        html = mail.get_body(("html",))
        assert html is not None
        assert '<a href="https://billing.example.com/portal/choices">' in html.get_content()


def test_the_date_is_written_as_the_customer_reads_it(post: Post, incident: str) -> None:
    post.set_all(Customer, Customer.id == "cus_quiet", locale="de-AT")
    post.set_all(Agency, Agency.slug == "acme", time_zone="Europe/Vienna")
    post.deliver()
    assert "Choose until 29.08.2019, 16:00 CEST: " in text_of(post.room.to(QUIET)[0])


def test_where_the_policy_is_credit_no_answer_means_credit(post: Post) -> None:
    says(post, grants="credit")
    post.paused(post.august.declare())
    post.deliver()
    assert "Without an answer it is credited to your balance." in text_of(post.room.to(CORNER)[0])


def test_what_follows_says_what_was_chosen(post: Post, incident: str) -> None:
    post.deliver()
    choose(post, incident, "cus_corner", "credit")
    settled(post, incident)
    post.deliver()
    chosen, silent = (text_of(post.room.to(address)[1]) for address in (CORNER, QUIET))
    assert "$6.75 has been credited to your balance" in chosen
    assert "You chose to have it credited towards your next invoice." in chosen
    assert "You could choose until Aug 29, 2019, 2:00\u202fPM UTC what you get for it. We had no answer" in silent
    assert "Choose until" not in chosen + silent


def test_a_way_that_was_chosen_for_another_outage_is_not_called_the_usual_one(post: Post, incident: str) -> None:
    other = post.august.declare(Declaration("facebook", STARTED, impact_bp=5_000))
    post.deliver()
    choose(post, other, "cus_corner", "credit")
    settled(post, incident)
    post.deliver()
    chosen, silent = (text_of(post.room.to(address)[-1]) for address in (CORNER, QUIET))
    assert "$6.75 has been credited to your balance" in chosen
    assert "We had no answer, so it goes as you chose for another outage." in chosen
    assert "We had no answer, so it goes the usual way." in silent


def test_whoever_wanted_nothing_is_promised_nothing_and_reminded_of_it_at_the_end(post: Post, incident: str) -> None:
    choose(post, incident, "cus_corner", "waive")
    post.deliver()
    declared = text_of(post.room.to(CORNER)[0])
    assert "You chose to get nothing back for it. You may change your mind until Aug 29, 2019" in declared
    assert "the way you paid" not in declared
    settled(post, incident)
    post.august.resolve(incident)
    post.released(incident)
    post.deliver()
    resumed, update = post.room.to(CORNER)[1:]
    assert (resumed["Subject"], update["Subject"]) == (
        "Your billing resumes: Facebook outage", "Update: Facebook outage",
    )  # fmt: skip
    assert "You chose to get nothing back for it." in text_of(resumed)
    assert not any("You chose" in text_of(mail) for mail in post.room.to(QUIET))


def test_an_agencys_own_words_cannot_leave_the_choice_out(post: Post, incident: str) -> None:
    with post.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, post.august.agency.id)
        for kind, body in (("declared", "Hello {customer}."), ("refunded", "{choice} Here is {amount}.")):
            wording.save(session, agency, kind, "News", body, post.august.finance, "test")
        shown, _ = wording.preview(session, at(26, 15), "declared", "cus_corner", "https://billing.example.com")
    assert shown.text == f"Hello Corner Bakery.\n\n{QUESTION}\n"
    post.deliver()
    assert text_of(post.room.to(CORNER)[0]) == shown.text
    choose(post, incident, "cus_corner", "money")
    settled(post, incident)
    post.deliver()
    assert text_of(post.room.to(CORNER)[1]) == "You chose to get it back the way you paid. Here is $6.75.\n"


def test_nobody_else_reads_of_choices(post: Post) -> None:
    says(post, choice_days=0)
    incident = post.august.declare()
    post.paused(incident)
    post.august.approve(incident)
    post.granted(incident)
    post.august.resolve(incident)
    post.released(incident)
    post.deliver()
    with post.db.work(OPERATOR) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Grant)) == 4
    assert len(post.room.to(CORNER)) == 3
    assert not any("choose" in text_of(mail).lower() or "chose" in text_of(mail) for mail in post.room.mails)
