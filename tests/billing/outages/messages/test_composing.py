"""Which facts become messages: final ones, each once, whoever looks and however often."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from billing.models import Subscription
from billing.outages import incidents
from billing.outages.messages import composing
from billing.outages.messages.models import Message
from billing.outages.models import Grant, Incident, Pause
from billing.outages.planning import Declaration
from tenants.db import OPERATOR
from tenants.models import Agency
from tenants.policy import set_policy
from tests.billing.outages.august import DECLARED, RESOLVED, STARTED, at
from tests.billing.outages.messages.conftest import CORNER, Post, second_subscription
from tests.billing.outages.messages.mailroom import text_of
from tests.factories import AgencyFactory, CustomerFactory, building, paid_invoice, subscribed

pytestmark = pytest.mark.breaks("I4 every grant has ended or waits")
"""The states of grants are set by hand: no step is sent here."""

BOTH = ["cus_corner", "cus_quiet"]


def told(post: Post, kind: str) -> list[str]:
    return sorted(customer for of, customer, _state in post.messages() if of == kind)


def test_nothing_is_told_before_stripe_has_confirmed_the_pause(post: Post) -> None:
    incident = post.august.declare()
    post.compose()
    assert post.messages() == []
    post.paused(incident)
    post.compose()
    assert sorted(post.messages()) == [("declared", "cus_corner", "queued"), ("declared", "cus_quiet", "queued")]


def test_looking_again_tells_nobody_twice(post: Post, refunded: str) -> None:
    post.compose()
    before = post.messages()
    post.set_all(Pause, told=None)  # as if nobody had taken account of anything
    post.set_all(Grant, told=None)
    post.compose()
    assert post.messages() == before
    assert [kind for kind, _customer, _state in before] == ["declared"] * 2 + ["refunded"] * 2


def test_ten_lookers_at_once_write_one_message_each(post: Post, refunded: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        for look in [pool.submit(composing.compose_due, post.house) for _ in range(20)]:
            look.result()
    post.compose()
    assert (told(post, "declared"), told(post, "refunded")) == (BOTH, BOTH)


def test_a_customer_with_two_subscriptions_hears_once(post: Post) -> None:
    second_subscription(post, "cus_corner", "sub_second")
    post.paused(post.august.declare())
    post.deliver()
    assert told(post, "declared") == BOTH
    assert "Billing of 2 subscriptions is paused" in text_of(post.room.to(CORNER)[0])


def test_where_nothing_was_paused_the_approved_refund_is_what_is_declared(post: Post) -> None:
    """An outage that was over before it was declared pauses nothing."""
    incident = post.august.declare(replace(Declaration("facebook", STARTED), ended_at=at(23, 20)))
    post.compose()
    assert post.messages() == []  # the plan may still become another
    post.august.approve(incident)
    post.deliver()
    assert told(post, "declared") == BOTH
    assert "paused:" not in text_of(post.room.to(CORNER)[0])


@pytest.mark.parametrize(
    "state", ["sent", "unknown", "pending", "blocked", "failed", "needs_person", "given_elsewhere"]
)
def test_money_is_told_of_when_it_is_there_and_not_before(post: Post, incident: str, state: str) -> None:
    post.august.approve(incident)
    post.granted(incident, state)
    post.compose()
    assert told(post, "refunded") == []
    post.set_all(Grant, Grant.incident_id == incident, state="succeeded")
    post.compose()
    assert told(post, "refunded") == BOTH


def test_a_refund_that_comes_back_is_corrected(post: Post, refunded: str) -> None:
    post.deliver()
    grant = post.august.grants(refunded)["in_corner"]
    post.fell_back(grant, 375, by_credit=True, state="approved")
    post.compose()
    assert told(post, "correction") == []  # where it goes now is not final yet
    post.set_all(Grant, Grant.fallback_of == grant.id, state="succeeded")
    post.deliver()
    correction = text_of(post.room.to(CORNER)[-1])
    assert told(post, "correction") == ["cus_corner"]
    assert "we told you that $3.75 of invoice N-corner would come back to you" in correction
    assert "It could not reach you that way. $3.75 has been credited to your balance instead" in correction
    assert told(post, "refunded") == BOTH  # nobody is told twice that money came


@pytest.mark.breaks("parts make the whole")
@pytest.mark.breaks("grants are reproduced")
def test_a_part_that_comes_back_is_corrected_as_a_part(post: Post, refunded: str) -> None:
    post.deliver()
    grant = post.august.grants(refunded)["in_corner"]
    post.fell_back(grant, 100, by_credit=True, state="succeeded")
    post.deliver()
    correction = text_of(post.room.to(CORNER)[-1])
    assert "we told you that $3.75 of invoice" in correction
    assert "Of that, $1.00 could not reach you that way. $1.00 has been credited" in correction


def test_what_a_person_pays_back_is_told_when_it_changes_and_when_it_is_paid(post: Post, refunded: str) -> None:
    post.deliver()
    grant = post.august.grants(refunded)["in_corner"]
    other = post.fell_back(grant, 375, by_credit=False, state="needs_person")
    post.deliver()
    assert "Acme pays $3.75 back to you directly instead." in text_of(post.room.to(CORNER)[-1])
    post.set_all(Grant, Grant.id == other, state="succeeded")
    post.deliver()
    assert "$3.75 has been paid back to you directly." in text_of(post.room.to(CORNER)[-1])
    assert [kind for kind, customer, _state in post.messages() if customer == "cus_corner"] == [
        "declared", "refunded", "correction", "refunded",
    ]  # fmt: skip


def test_what_failed_before_anybody_heard_of_it_is_no_correction(post: Post, refunded: str) -> None:
    post.compose()  # written, not sent
    grant = post.august.grants(refunded)["in_corner"]
    post.fell_back(grant, 375, by_credit=True, state="succeeded")
    post.deliver()
    of_corner = [(kind, state) for kind, customer, state in post.messages() if customer == "cus_corner"]
    assert of_corner == [("declared", "sent"), ("refunded", "withdrawn"), ("refunded", "sent")]
    assert "$3.75 has been credited to your balance" in text_of(post.room.to(CORNER)[-1])


def test_updates_reach_everybody_who_knows_of_the_incident_and_the_first_is_not_repeated(
    post: Post, incident: str
) -> None:
    post.deliver()
    post.publish(incident, "Facebook says: tomorrow.")
    post.deliver()
    post.deliver()
    texts = [text_of(mail) for mail in post.room.to(CORNER)]
    assert len(texts) == 2
    assert "has not been available to us since 22 August 2019" in texts[0]
    assert "Facebook says: tomorrow." in texts[1]


def test_whoever_is_touched_later_reads_all_news_in_one_message(post: Post, incident: str) -> None:
    post.publish(incident, "Second news.")
    post.deliver()  # corner and quiet: the first message has both
    late = second_subscription(post, "cus_corner", "sub_late")
    assert late.customer_id == "cus_corner"
    assert told(post, "update") == []
    assert "Second news." in text_of(post.room.to(CORNER)[0])


def test_billing_resumes_once_nothing_of_the_customer_is_on_hold(post: Post) -> None:
    second_subscription(post, "cus_corner", "sub_second")
    incident = post.august.declare()
    post.paused(incident)
    post.deliver()
    post.august.resolve(incident)
    post.released(incident, "sub_second", "sub_quiet")
    post.compose()
    assert told(post, "resumed") == ["cus_quiet"]
    post.released(incident)
    post.deliver()
    assert told(post, "resumed") == BOTH
    assert "is over since Aug 30, 2019, 8:00\u202fAM UTC. Billing" in text_of(post.room.to(CORNER)[-1])


def test_billing_that_another_incident_still_holds_has_not_resumed(post: Post) -> None:
    first, second = post.august.declare(), post.august.declare(Declaration("facebook", STARTED, impact_bp=5_000))
    for incident in (first, second):
        post.paused(incident)
        post.august.resolve(incident)
    post.released(first)
    post.compose()
    assert told(post, "resumed") == []
    post.released(second)
    post.compose()
    assert told(post, "resumed") == BOTH
    with post.db.work(OPERATOR) as session:
        assert set(session.scalars(sa.select(Message.incident_id).where(Message.kind == "resumed"))) == {second}


@pytest.mark.parametrize(
    "became",
    [{"status": "canceled"}, {"cancel_at_period_end": True}, {"pause_behavior": "void"}],
    ids=["cancelled", "about to end", "paused by somebody else"],
)
def test_billing_that_does_not_go_on_has_not_resumed(post: Post, became: dict[str, object]) -> None:
    second_subscription(post, "cus_quiet", "sub_goes_on")
    incident = post.august.declare()
    post.paused(incident)
    post.set_all(Subscription, Subscription.id.in_(("sub_corner", "sub_quiet")), **became)
    post.august.resolve(incident)
    post.released(incident)
    post.compose()
    assert told(post, "resumed") == ["cus_quiet"]  # of its other subscription


def test_who_was_cancelled_with_the_platform_hears_of_the_end_and_of_no_next_invoice(post: Post, incident: str) -> None:
    post.deliver()
    with post.db.work(OPERATOR) as session:
        incidents.retire(session, RESOLVED, incident, post.august.finance, "test", reason="Gone for good.")
    post.set_all(Subscription, status="canceled")
    post.released(incident)
    post.deliver()
    (last,) = post.room.to(CORNER)[1:]
    assert "Whatever lives on it alone ends now" in text_of(last)
    assert told(post, "resumed") == []


def test_an_incident_that_is_reopened_may_be_over_again(post: Post, incident: str) -> None:
    """In the same second, for all that it matters."""
    for _ in range(2):
        post.august.resolve(incident)
        post.released(incident)
        post.compose()
        post.august.reopen(incident)
        post.paused(incident)
        post.compose()
    post.august.resolve(incident)
    post.released(incident)
    post.compose()
    assert (told(post, "declared"), told(post, "resumed")) == (BOTH, sorted(BOTH * 3))


@pytest.mark.parametrize("who", ["it is reopened", "another one holds", "its owner holds"])
def test_billing_that_was_paused_again_before_the_mail_left_has_not_resumed(
    post: Post, incident: str, who: str
) -> None:
    post.deliver()
    post.august.resolve(incident)
    post.released(incident)
    post.room.answers.extend(["451 later"] * 4)  # of what it is over, and that billing resumes, to both
    post.deliver()
    if who == "it is reopened":
        post.august.reopen(incident)
        post.paused(incident)
    elif who == "another one holds":
        post.paused(post.august.declare(Declaration("facebook", STARTED, impact_bp=5_000)))
    else:
        post.set_all(Subscription, pause_behavior="void")
    post.due_now()
    post.deliver()
    assert not any("Your billing resumes" in mail["Subject"] for mail in post.room.mails)
    assert post.states("resumed") == ["withdrawn"] * 2


def test_what_is_retracted_before_anybody_heard_of_it_stays_unsaid(post: Post, incident: str) -> None:
    post.compose()
    post.publish(incident, "Never mind.")
    post.set_all(Incident, Incident.id == incident, state="retracted")
    post.deliver()
    post.released(incident)
    post.deliver()
    assert post.room.mails == []
    assert {state for _kind, _customer, state in post.messages()} == {"withdrawn"}


def test_who_had_heard_hears_that_it_was_nothing(post: Post, incident: str) -> None:
    post.deliver()
    post.set_all(Incident, Incident.id == incident, state="retracted")
    post.released(incident)
    post.deliver()
    assert "turned out not to concern you after all" in text_of(post.room.to(CORNER)[-1])


@pytest.mark.parametrize("message", ["We are sorry.", ""])
def test_with_nothing_given_back_nothing_is_promised(post: Post, message: str) -> None:
    incident = post.august.declare(Declaration("facebook", STARTED, policy="none", message=message))
    post.paused(incident)
    post.deliver()
    text = text_of(post.room.to(CORNER)[0])
    assert (message or "has not been available to us since") in text
    assert "back" not in text


def test_where_one_agency_gives_nothing_back_the_customers_of_the_others_read_what_they_get(post: Post) -> None:
    with building(post.db):
        other = AgencyFactory(slug="other")
        customer = CustomerFactory(agency=other, id="cus_other", email="other@florist.example")
        paid_invoice(customer, post.august.pages, subscription=subscribed(customer, post.august.pages))
    with post.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, other.id)
        set_policy(session, DECLARED, agency, {"grants": "none"}, post.august.finance, "test")
    post.paused(post.august.declare())
    post.deliver()
    (theirs,), (ours,) = post.room.to("other@florist.example"), post.room.to(CORNER)
    assert "is paused" in text_of(theirs)
    assert "back to you" not in text_of(theirs)
    assert "What you paid for the time that you lost goes back to you, the way you paid, by Sep" in text_of(ours)


def test_customers_read_by_when_their_own_agency_pays(post: Post) -> None:
    """Another's customers choose for 30 days first; seven business days after Monday 26 August is 4 September."""
    with building(post.db):
        other = AgencyFactory(slug="other")
    with post.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, other.id)
        set_policy(session, DECLARED, agency, {"choice_days": 30}, post.august.finance, "test")
    post.paused(post.august.declare())
    post.deliver()
    (ours,) = post.room.to(CORNER)
    assert "the way you paid, by September 4, 2019." in text_of(ours)


def test_the_worker_knows_since_when_somebody_waits_to_be_told(post: Post) -> None:
    def since() -> object:
        with post.db.work(OPERATOR) as session:
            return session.execute(composing.oldest_due()).one()[0]

    assert since() is None
    incident = post.august.declare()
    post.compose()
    assert since() is None
    post.paused(incident)
    assert since() is not None
    post.compose()
    assert since() is None
    assert DECLARED < RESOLVED
