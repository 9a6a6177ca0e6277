"""After every test that leaves money rows behind: what must always hold still does."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from billing.outages.invariants import breaches
from billing.outages.models import Grant
from billing.outages.reckoning import of
from tenants.db import OPERATOR
from tests.databases import WARM

KNOWN = "breaks"
"""`pytest.mark.breaks("rule", …)`: rows that the test makes by hand, or breaks on purpose, and that no code would."""
REPRODUCED = "grants are reproduced"
"""Every planned grant is what the formula makes of what was kept with it. Grants that tests write keep no `netted`."""


@pytest.fixture(autouse=True)
def invariants_hold(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test in whose database a rule of `billing.outages.invariants` is broken."""
    if not {"db", "clean_database"} & set(request.fixturenames):
        yield
        return
    urls = request.getfixturevalue("database_urls")
    yield
    broken = {name for mark in request.node.iter_markers(KNOWN) for name in mark.args}
    with WARM.opened(urls.app) as database, database.work(OPERATOR) as session:
        found = [one.sentence() for one in breaches(session) if one.invariant not in broken]
        if REPRODUCED not in broken:
            grants = session.scalars(sa.select(Grant).where(Grant.netted.is_not(None))).all()
            found += [f"grant {id} is not reproduced" for id, one in of(session, grants).items() if not one.reproduced]
    assert not found, "\n".join(found)
