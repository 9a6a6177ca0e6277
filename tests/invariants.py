"""After every test that leaves money rows behind: what must always hold still does."""

from collections.abc import Iterator

import pytest

from billing.outages.invariants import breaches
from tenants.db import OPERATOR
from tests.databases import WARM

KNOWN = "breaks"
"""`pytest.mark.breaks("rule", …)`: rows that the test makes by hand, or breaks on purpose, and that no code would."""


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
    assert not found, "\n".join(found)
