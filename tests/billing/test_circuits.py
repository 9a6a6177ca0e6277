"""When Stripe refuses our key, or mostly fails, it is left alone, and asked again one call at a time."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from billing import circuits, gateway
from billing.answers import LockedOut, Outcome, Unreachable
from billing.circuits import EVERYTHING, WINDOW, Circuit
from billing.money import Money
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import AuditEntry
from tests.billing import stripe_json as made
from tests.billing.outages.rows import house_at
from tests.billing.wire import Reply, Request, Wire, failure, listening


@pytest.fixture
def house(db: Database) -> House:
    return house_at("http://127.0.0.1:1", db)


def at(house: House, wire: Wire) -> House:
    return replace(house, settings=replace(house.settings, stripe_api_base=wire.url))


def shut(house: House) -> dict[str, str | None]:
    with house.database.work(OPERATOR) as session:
        rows = session.execute(sa.select(Circuit.account, Circuit.reason).where(Circuit.opened_at.is_not(None)))
        return dict(rows.all())


def time_to_see(house: House) -> None:
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(Circuit).where(Circuit.see_at.is_not(None)).values(see_at=sa.func.now()))


def counted(house: House, account: str, calls: int, failures: int) -> None:
    with house.database.work(OPERATOR) as session:
        circuits.count(session, account, calls, failures)


@pytest.mark.parametrize(
    ("status", "code", "verb", "opens"),
    [
        (401, None, "read", True),
        (401, None, "write", True),
        (403, None, "write", True),
        (403, "account_invalid", "read", True),
        (403, "more_permissions_required", "read", False),
        (403, None, "read", False),
        (404, "account_invalid", "read", False),
        (404, None, "read", False),
    ],
)
def test_a_refused_key_opens_its_accounts_circuit_at_once_and_no_others(
    house: House, status: int, code: str | None, verb: str, opens: bool
) -> None:
    """A key that lacks the scope of one report must not stop the refunds: a 403 counts where it refuses a write, or the
    account as a whole."""
    with listening() as wire:
        wire.answer = lambda request: failure(status, code)
        connection = gateway.connect(at(house, wire), "acct_1")
        if verb == "read":
            with pytest.raises(Exception, match="told so"):
                connection.refund("re_1")
        else:
            answer = connection.create_refund({"payment_intent": "pi_1", "amount": 1}, "key", Money(1, "usd"))
            assert answer.outcome is Outcome.LOCKED_OUT
        assert set(shut(house)) == ({"acct_1"} if opens else set())
        if opens:
            with pytest.raises(Unreachable, match="left alone"):
                connection.refund("re_1")
            assert len(wire.requests) == 1
        wire.answer = lambda request: Reply(200, made.refund())
        gateway.connect(at(house, wire), "acct_2").refund("re_1")


def test_one_call_goes_out_to_see_and_the_first_answer_closes_it(house: House) -> None:
    with house.database.work(OPERATOR) as session:
        circuits.open_up(session, "", "No answer.", 1)
        circuits.open_up(session, EVERYTHING, "No answer.", 1)
    with listening() as wire:
        inside: list[str] = []

        def answer(request: Request) -> Reply:
            with house.database.work(OPERATOR) as session:  # while it is out, nobody else is let through
                try:
                    circuits.admit(session, "")
                except Unreachable as refusal:
                    inside.append(refusal.message)
            return Reply(200, made.refund())

        wire.answer = answer
        connection = gateway.connect(at(house, wire), "")
        time_to_see(house)
        connection.refund("re_1")
        assert inside == ["Stripe is left alone for now. No answer."]
        assert shut(house) == {}
        connection.refund("re_1")
    with house.database.work(OPERATOR) as session:
        told = [one for one in session.scalars(sa.select(AuditEntry.action)) if one.startswith("stripe.")]
    assert sorted(told) == ["stripe.called_again"] * 2 + ["stripe.left_alone"] * 2


def test_it_waits_twice_as_long_each_time_and_a_minute_at_most(house: House) -> None:
    with house.database.work(OPERATOR) as session:
        circuits.open_up(session, "", "No answer.", 1)
    waits = []
    for _ in range(8):
        with house.database.work(OPERATOR) as session:
            circuits.saw(session, "", answered=False)
            waits.append(session.scalars(sa.select(Circuit.wait)).one())
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("failures", "opens"), [(10, False), (11, True)])
def test_more_than_a_fifth_of_fifty_calls_without_an_answer_opens_it(house: House, failures: int, opens: bool) -> None:
    counted(house, "", WINDOW - 1, failures)
    assert shut(house) == {}
    counted(house, "", 1, 0)
    assert set(shut(house)) == ({"", EVERYTHING} if opens else set())


def test_each_window_begins_anew(house: House) -> None:
    counted(house, "", WINDOW, 10)
    counted(house, "", WINDOW - 1, 10)
    assert shut(house) == {}


def test_a_stripe_that_is_gone_is_found_out_by_the_calls_themselves(house: House) -> None:
    """Nobody listens: each call fails, and the fifty-first is not made."""
    connection = gateway.connect(house, "")
    for _ in range(WINDOW):
        connection.create_refund({"payment_intent": "pi_1", "amount": 1}, "key", Money(1, "usd"))
    assert set(shut(house)) == {"", EVERYTHING}
    answer = connection.create_refund({"payment_intent": "pi_1", "amount": 1}, "key", Money(1, "usd"))
    assert (answer.outcome, answer.message[:27]) == (Outcome.NOT_SENT, "Stripe is left alone for no")


def test_a_limiter_and_a_refusal_are_answers(house: House) -> None:
    with listening() as wire:
        replies = iter([failure(429, "rate_limit"), failure(400, "charge_disputed"), failure(409)] * WINDOW)
        wire.answer = lambda request: next(replies)
        connection = gateway.connect(at(house, wire), "")
        for _ in range(12):
            connection.create_refund({"payment_intent": "pi_1", "amount": 1}, "key", Money(1, "usd"))
    with house.database.work(OPERATOR) as session:
        assert set(session.scalars(sa.select(Circuit.failures))) == {0}


def test_a_new_key_is_found_to_work_by_itself(house: House) -> None:
    with listening() as wire:
        refuses = [True]
        wire.answer = lambda request: failure(401) if refuses[0] else Reply(200, made.refund())
        connection = gateway.connect(at(house, wire), "")
        with pytest.raises(LockedOut):
            connection.refund("re_1")
        time_to_see(house)
        with pytest.raises(LockedOut):
            connection.refund("re_1")
        assert set(shut(house)) == {""}
        refuses[0] = False
        time_to_see(house)
        connection.refund("re_1")
        assert shut(house) == {}


def test_a_report_that_the_key_may_not_read_does_not_let_it_in_again(house: House) -> None:
    with listening() as wire:
        wire.answer = lambda request: failure(403)
        connection = gateway.connect(at(house, wire), "acct_1")
        connection.create_refund({"payment_intent": "pi_1", "amount": 1}, "key", Money(1, "usd"))
        time_to_see(house)
        with pytest.raises(LockedOut):
            connection.refund("re_1")
        assert set(shut(house)) == {"acct_1"}
        with pytest.raises(Unreachable, match="left alone"):
            connection.refund("re_1")
        assert len(wire.requests) == 2


@pytest.mark.parametrize("status", [401, 403])
def test_an_account_that_lets_us_in_no_more_shows_all_the_same_that_stripe_answers_again(
    house: House, status: int
) -> None:
    """Its refusals must not keep the others waiting after an outage."""
    with house.database.work(OPERATOR) as session:
        circuits.open_up(session, "acct_1", "Revoked.", 60)
        circuits.open_up(session, EVERYTHING, f"Of 50 calls 20 {circuits.UNANSWERED}", 1)
    with listening() as wire:
        wire.answer = lambda request: failure(status)
        time_to_see(house)
        with pytest.raises(LockedOut):
            gateway.connect(at(house, wire), "acct_1").refund("re_1")
        assert set(shut(house)) == {"acct_1"}
        wire.answer = lambda request: Reply(200, made.refund())
        gateway.connect(at(house, wire), "acct_2").refund("re_1")
