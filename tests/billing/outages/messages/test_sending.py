"""A queued message becomes exactly one mail, as far as SMTP allows, on a real SMTP server."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import EmailMessage

import pytest
import sqlalchemy as sa

from billing.errors import Conflict
from billing.models import Customer
from billing.outages.messages import sending
from billing.outages.messages.models import Message
from billing.outages.models import Grant
from tenants.db import OPERATOR
from tenants.models import Agency
from tests.billing.outages.messages.conftest import CORNER, QUIET, Post
from tests.billing.outages.messages.mailroom import SILENCE, text_of
from tests.factories import CustomerFactory, building, paid_invoice, subscribed

pytestmark = pytest.mark.breaks("I4 every grant has ended or waits")
"""The states of grants are set by hand: no step is sent here."""


def reasons(post: Post) -> list[str | None]:
    with post.db.work(OPERATOR) as session:
        return list(session.scalars(sa.select(Message.reason).order_by(Message.id)))


def test_a_refund_is_told_with_its_arithmetic(post: Post, refunded: str) -> None:
    post.deliver()
    declared, money = post.room.to(CORNER)
    assert declared["Subject"] == "Facebook outage: what it means for your billing"
    text = text_of(declared)
    assert "Billing of your subscription is paused: nothing is charged for it until the outage is over." in text
    assert "goes back to you, the way you paid, by September 4, 2019" in text  # 7 business days after 26 August
    assert money["Subject"] == "$3.75 back for the Facebook outage"  # 31.00 x 90 h / 744 h
    text = text_of(money)
    assert "$3.75 of invoice N-corner comes back to you" in text
    assert "$3.75 goes back to the card or account that you paid with." in text
    assert "$31.00 × 324,000 ÷ 2,678,400 = $3.75" in text
    assert "https://billing.example.com/portal" in text


def test_a_mail_says_who_wrote_it_and_that_no_machine_need_answer(post: Post, incident: str) -> None:
    post.set_all(Agency, Agency.slug == "acme", reply_to="help@acme.example", name="Acme, Inc.")
    post.deliver()
    (mail,) = post.room.to(QUIET)
    assert mail["From"].addresses[0].addr_spec == "billing@operator.example"
    assert mail["From"].addresses[0].display_name == "Acme, Inc."
    assert mail["To"].addresses[0].display_name == "Quiet Café"
    assert mail["Reply-To"] == "help@acme.example"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[0-9a-f-]{36}@billing\.example\.com>", mail["Message-ID"])
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    html = mail.get_body(("html",))
    assert html is not None
    assert '<a href="https://billing.example.com/portal">' in html.get_content()


def test_amounts_and_times_are_written_as_the_customer_reads_them(post: Post, refunded: str) -> None:
    post.set_all(Customer, Customer.id == "cus_quiet", locale="de-AT")
    post.set_all(Agency, Agency.slug == "acme", locale="en-GB", time_zone="Europe/Vienna")
    post.deliver()
    assert post.room.to(QUIET)[1]["Subject"] == "$ 3,75 back for the Facebook outage"
    assert "from 22.08.2019, 22:00 CEST to now" in text_of(post.room.to(QUIET)[1])  # Vienna is two hours ahead
    assert post.room.to(CORNER)[1]["Subject"] == "US$3.75 back for the Facebook outage"
    assert "from 22 Aug 2019, 22:00 CEST" in text_of(post.room.to(CORNER)[1])


@pytest.mark.parametrize(
    "name",
    ["Corner\r\nBcc: everybody@example.com", "Corner\nSubject: free money", "\u202eevil", '"Quoted" <x@y.example>',
     "{{7*7}} {amount} ${7*7}", "<script>alert(1)</script>", "Ünïcødé 焼き鳥", ""],
)  # fmt: skip
def test_what_a_customer_is_called_is_text_and_nothing_else(post: Post, incident: str, name: str) -> None:
    post.set_all(Customer, Customer.id == "cus_corner", name=name)
    post.deliver()
    (mail,) = post.room.to(CORNER)
    assert (mail["Bcc"], len(mail.get_all("Subject"))) == (None, 1)
    assert post.room.envelopes[post.room.mails.index(mail)].rcpt_tos == [CORNER]
    html = mail.get_body(("html",))
    assert html is not None
    assert "<script" not in html.get_content()
    shown = re.search(r"Hello (.*),\n", text_of(mail))
    assert shown is not None
    assert shown[1] == (" ".join(name.replace("\u202e", " ").split()) or "there")


@pytest.mark.parametrize(
    "address",
    [
        None,
        "",
        "nobody",
        "two@at@example.com",
        "a@b\r\nRCPT TO:<c@d.example>",
        "a b@example.com",
        "a@localhost",
        "@x.example",
        "corner..bakery@example.com",
        "bäckerei@example.com",
    ],
)
def test_who_has_no_address_is_shown_and_can_be_tried_again(post: Post, incident: str, address: str | None) -> None:
    post.set_all(Customer, Customer.id == "cus_corner", email=address)
    post.deliver()
    assert sorted(post.states("declared")) == ["sent", "unaddressed"]
    post.set_all(Customer, Customer.id == "cus_corner", email=CORNER)
    with post.db.work(OPERATOR) as session:
        message = session.query(Message).filter_by(state="unaddressed").one()
        sending.try_again(session, message.id, post.august.finance, "test")
    post.deliver()
    assert len(post.room.to(CORNER)) == 1


def test_a_server_that_is_busy_is_asked_again_later(post: Post, incident: str) -> None:
    post.room.answers.extend(["451 greylisted, come back", "250 OK"])
    post.deliver()
    assert sorted(post.states("declared")) == ["queued", "sent"]
    assert "The mail server answered 451: greylisted, come back" in reasons(post)
    post.deliver()
    assert sorted(post.states("declared")) == ["queued", "sent"]  # not yet
    post.due_now()
    post.deliver()
    assert post.states("declared") == ["sent", "sent"]
    assert len({mail["Message-ID"] for mail in post.room.mails}) == len(post.room.mails) == 2


def test_a_no_for_good_is_shown_and_not_repeated(post: Post, incident: str) -> None:
    post.room.refused_addresses.add(CORNER)
    post.deliver()
    post.due_now()
    post.deliver()
    assert sorted(post.states("declared")) == ["failed", "sent"]
    assert "The mail server answered 550: no such user here" in reasons(post)
    with post.db.work(OPERATOR) as session:
        sent = session.query(Message).filter_by(state="sent").one()
        with pytest.raises(Conflict, match="only one that failed"):
            sending.try_again(session, sent.id, post.august.finance, "test")


def test_no_server_for_three_days_is_given_up_and_said(post: Post, incident: str) -> None:
    dead = replace(post.house.settings, smtp_url="smtp://127.0.0.1:1")
    away = Post(post.august, replace(post.house, settings=dead), post.room)
    away.compose()
    for _ in range(len(sending.AGAIN)):
        away.deliver()
        assert away.states("declared") == ["queued", "queued"]
        away.due_now()
    away.deliver()
    assert away.states("declared") == ["failed", "failed"]
    assert all("does not answer" in (reason or "") for reason in reasons(post))
    assert sum(wait.total_seconds() for wait in sending.AGAIN) / 3_600 == pytest.approx(72.2, abs=0.1)


def test_where_the_server_fell_silent_the_same_mail_goes_out_again(post: Post, incident: str) -> None:
    """RFC 5321, 6.1: a server that has taken a mail may fail to say so, and the sender has to send it again."""
    post.room.answers.extend([SILENCE])
    post.deliver()
    assert sorted(post.states("declared")) == ["sending", "sent"]
    post.due_now()
    post.deliver()
    assert post.states("declared") == ["sent", "sent"]
    first, again = post.room.to(CORNER) if len(post.room.to(CORNER)) == 2 else post.room.to(QUIET)
    assert first["Message-ID"] == again["Message-ID"]
    assert _body(first) == _body(again)
    assert first["Date"] == again["Date"]


def test_a_crash_between_the_answer_and_its_commit_sends_nothing_else(
    post: Post, incident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    post.compose()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(sending, "_answered", dies)
        with pytest.raises(KeyboardInterrupt):
            sending.send_due(post.house)
    assert len(post.room.mails) == 1
    assert post.states("declared") == ["sending", "sending"]
    post.deliver()  # the lease of whoever died stands
    assert len(post.room.mails) == 1
    post.due_now()
    post.deliver()
    assert post.states("declared") == ["sent", "sent"]
    assert len(post.room.mails) == 3
    assert len({mail["Message-ID"] for mail in post.room.mails}) == 2


def test_many_workers_send_each_message_once(post: Post) -> None:
    with building(post.db):
        for number in range(60):
            customer = CustomerFactory(agency=post.august.agency, id=f"cus_{number:03}")
            paid_invoice(customer, post.august.pages, subscription=subscribed(customer, post.august.pages))
    incident = post.august.declare()
    post.paused(incident)
    post.august.approve(incident)
    post.granted(incident)
    with ThreadPoolExecutor(6) as pool:
        for work in [pool.submit(post.deliver) for _ in range(6)]:
            work.result()
    post.deliver()
    ids = [mail["Message-ID"] for mail in post.room.mails]
    assert len(ids) == len(set(ids)) == 2 * 62
    for number in range(60):
        mine = [mail["Subject"] for mail in post.room.to(f"cus_{number:03}@example.com")]
        assert mine == ["Facebook outage: what it means for your billing", "$3.75 back for the Facebook outage"]


def test_without_a_server_messages_wait_as_rows(post: Post, incident: str) -> None:
    silent = Post(post.august, replace(post.house, settings=replace(post.house.settings, smtp_url=None)), post.room)
    silent.deliver()
    assert silent.states("declared") == ["queued", "queued"]
    with post.db.work(OPERATOR) as session:
        assert session.execute(sending.oldest_due(silent.house)).one()[0] is None
    post.deliver()
    assert len(post.room.mails) == 2


def test_what_was_said_stays_what_was_said(post: Post, incident: str) -> None:
    """A retry sends the words of the first attempt, whatever has changed since."""
    post.room.answers.extend(["451 later", "451 later"])
    post.deliver()
    post.set_all(Customer, name="Another name")
    post.due_now()
    post.deliver()
    assert all("Another name" not in text_of(mail) for mail in post.room.mails)
    assert len(post.room.mails) == 2


def test_news_waits_for_what_it_is_news_of(post: Post, incident: str) -> None:
    post.room.answers.extend(["451 later", "451 later"])
    post.deliver()
    post.publish(incident, "News.")
    post.deliver()
    assert post.room.mails == []  # its own declaration has not left
    with post.db.work(OPERATOR) as session:
        due, now = session.execute(sending.oldest_due(post.house)).one()
        assert due > now
    post.due_now()
    post.deliver()
    assert [("News." in text_of(mail)) for mail in post.room.to(CORNER)] == [False, True]


def test_a_refund_that_failed_while_its_message_waited_is_not_told(post: Post, refunded: str) -> None:
    post.compose()
    post.set_all(Grant, Grant.invoice_id == "in_corner", state="failed")
    post.deliver()
    assert [mail["Subject"] for mail in post.room.to(CORNER)] == ["Facebook outage: what it means for your billing"]
    assert "The grant is failed by now." in reasons(post)


def _body(mail: EmailMessage) -> list[str]:
    """The parts as they were sent, without the boundary that is drawn anew."""
    return [str(part.get_content()) for part in mail.iter_parts()]
