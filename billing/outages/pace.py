"""How long pausing and giving back take: Stripe answers an account only so many calls a second.

What no faster machine and no more workers would change, said before somebody decides.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tenants.models import Agency
from tenants.settings import Rate

CALLS_OF_A_PAUSE: Final = 2
"""The subscription is read, then paused: two endpoints, one call at each."""
CALLS_OF_A_GRANT: Final = 3
"""The note's preview, the note and its refund read back: three endpoints, one call at each."""


@dataclass(frozen=True)
class Pace:
    """About how many seconds the slowest account takes, at `account` calls a second of it and `endpoint` of each kind.

    Grants of several payments take more calls than were counted, those without a refund fewer.
    """

    seconds: int
    account: float
    endpoint: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> str:
        return (
            f"Sending takes about {_long(self.seconds)}: Stripe is called {self.account:g} times a second at most for "
            f"an account, {self.endpoint:g} times for the same thing."
        )


def expected(session: Session, rate: Rate | None, work: Iterable[tuple[int, int, int]]) -> Pace | None:
    """How long so many pauses and grants, `(agency, pauses, grants)`, take. None: nothing is sent, or no rate is kept.

    Each account has its own rate, so they do not wait for each other; pauses and grants of one account go side by side.
    """
    if rate is None:
        return None
    accounts = dict(session.execute(sa.select(Agency.id, sa.func.coalesce(Agency.stripe_account, ""))).all())
    pauses, grants = Counter[str](), Counter[str]()
    for agency_id, paused, granted in work:
        pauses[accounts.get(agency_id, "")] += paused
        grants[accounts.get(agency_id, "")] += granted
    slowest = max((_seconds(rate, pauses[one], grants[one]) for one in pauses | grants), default=0.0)
    return Pace(ceil(slowest), rate.account, rate.endpoint) if slowest else None


def _seconds(rate: Rate, pauses: int, grants: int) -> float:
    together = pauses * CALLS_OF_A_PAUSE + grants * CALLS_OF_A_GRANT
    return max(max(pauses, grants) / rate.endpoint, together / rate.account)


def _long(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} s"
    minutes = ceil(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{minutes} minutes" if not hours else f"{hours} h {rest} min"
