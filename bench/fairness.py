"""A small agency's 100 grants, alone and beside those of an agency with 50,000, at 25 calls a second of one endpoint.

All of it takes about ten minutes, most of them to make the businesses; SIZE=2000 takes one.
"""

import os
from typing import Final

import sqlalchemy as sa

from bench._ground import house, sandbox
from bench.sending import declared, sell, until, workers
from billing.outages.models import Grant
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency

BIG: Final = int(os.environ.get("SIZE") or 50_000)
SMALL: Final = 100
LIMITS: Final = {"global": 1_000, "endpoint": 25}
GOAL: Final = 2.0


def main() -> None:
    alone = until_the_small_one_is_done(0)
    beside = until_the_small_one_is_done(BIG)
    print(
        f"\n{SMALL:,} grants of a small agency, all due at once with those of others (goal: {GOAL:g} x its time alone)"
    )
    print(f"  alone                         {alone:7.1f} s   {1:5.2f} x")
    print(f"  beside {BIG:,} of another      {beside:7.1f} s   {beside / alone:5.2f} x")


def until_the_small_one_is_done(others: int) -> float:
    """Seconds from the second person's yes, with so many businesses of another agency in the same incident."""
    with sandbox() as api, house(api) as ours:
        with ours.database.work(OPERATOR) as session:
            session.add(Agency(slug="small", name="Small"))
        sell(api, SMALL + others, SMALL)
        declared(ours, ended=True)
        api.control("limits", LIMITS)
        with workers(ours, "1000/25"):
            return until(lambda: _given(ours) == SMALL)


def _given(ours: House) -> int:
    of_small = sa.select(Agency.id).where(Agency.slug == "small").scalar_subquery()
    given = sa.select(sa.func.count()).where(Grant.state == "succeeded", Grant.agency_id == of_small)
    with ours.database.work(OPERATOR) as session:
        return session.scalars(given).one()


if __name__ == "__main__":
    main()
