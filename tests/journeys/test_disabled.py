"""A platform is disabled in the middle of its outage: what was declared ends like any other."""

from datetime import UTC, datetime

import pytest

from billing import catalog, importing
from billing.errors import Conflict
from tenants.db import OPERATOR, Database
from tests.journeys.desk import Desk
from tests.journeys.shop import DECLARED, STARTED, Shop

RESOLVED = datetime(2019, 8, 30, 8, tzinfo=UTC)


def test_the_money_goes_back_and_the_pauses_are_lifted(shop: Shop, db: Database) -> None:
    shop.sell(2)
    desk = Desk(shop, shop.house(db))
    shop.now(DECLARED)
    importing.import_account(desk.house, "")
    incident = desk.declare("facebook", STARTED)
    with db.work(OPERATOR) as session:
        catalog.disable(session, "facebook", "cli", "cli")
    desk.approve(incident)
    assert [charge["refunded"] for charge in shop.ledger()["charges"]] == [375, 375]  # 31.00 x 90 h / 744 h
    assert all(desk.paused())
    shop.now(RESOLVED)
    desk.resolve(incident, RESOLVED)
    desk.approve(incident)
    assert [charge["refunded"] for charge in shop.ledger()["charges"]] == [750, 750]  # 180 h of them
    assert desk.paused() == [None, None]
    desk.agrees(incident)
    with pytest.raises(Conflict, match="The platform facebook is disabled"):
        desk.declare("facebook", RESOLVED)
