"""How long it takes is said before somebody decides: what Stripe's limits allow, account by account."""

import pytest

from billing.outages import pace
from tenants.db import OPERATOR, Database
from tenants.settings import Rate
from tests.factories import AgencyFactory, building

LIVE = Rate(100, 25)


@pytest.mark.parametrize(
    ("rate", "pauses", "grants", "seconds"),
    [
        (LIVE, 0, 5_000, 200),  # 5,000 notes at 25 a second; their 15,000 calls would fit into 150 s
        (LIVE, 2_000, 1_000, 80),  # 2,000 pauses at 25 a second; 4,000 + 3,000 calls would fit into 70 s
        (LIVE, 1_000, 1_000, 50),  # 2,000 + 3,000 calls at 100 a second are 50 s; 1,000 at 25 are 40 s
        (Rate(25, 25), 100, 100, 20),  # test mode: 200 + 300 calls at 25 a second
        (LIVE, 0, 1, 1),  # never nothing
    ],
)
def test_the_narrower_limit_says_how_long(db: Database, rate: Rate, pauses: int, grants: int, seconds: int) -> None:
    with db.work(OPERATOR) as session:
        assert pace.expected(session, rate, [(1, pauses, grants)]) == pace.Pace(seconds, rate.account, rate.endpoint)


def test_accounts_do_not_wait_for_each_other(db: Database) -> None:
    with building(db):
        first, second, third = (AgencyFactory(stripe_account=account) for account in ("acct_1", None, None))
    work = [(first.id, 0, 1_000), (second.id, 0, 900), (third.id, 0, 600)]
    with db.work(OPERATOR) as session:
        found = pace.expected(session, LIVE, work)
    assert found is not None
    assert found.seconds == 60  # 1,500 of the operator's account at 25 a second; acct_1 takes 40 s meanwhile


@pytest.mark.parametrize(("rate", "work"), [(None, [(1, 5, 5)]), (LIVE, []), (LIVE, [(1, 0, 0)])])
def test_where_nothing_is_sent_or_no_rate_is_kept_nothing_is_said(
    db: Database, rate: Rate | None, work: list[tuple[int, int, int]]
) -> None:
    with db.work(OPERATOR) as session:
        assert pace.expected(session, rate, work) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 s"), (119, "119 s"), (121, "3 minutes"), (3_540, "59 minutes"), (3_541, "1 h 0 min"), (7_260, "2 h 1 min")],
)
def test_it_is_said_in_words(seconds: int, words: str) -> None:
    told = pace.Pace(seconds, 100, 25).in_words()
    assert told == (
        f"Sending takes about {words}: Stripe is called 100 times a second at most for an account, 25 times for the"
        " same thing."
    )
