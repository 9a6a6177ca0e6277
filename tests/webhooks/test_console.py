"""`/console/webhooks`: what agencies' servers were told, and what failed can be tried again."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from billing import portal
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tests.billing.outages.august import DECLARED, August
from tests.factories import building
from tests.web import app_of, browser, house_of, link_for, send
from tests.webhooks.hooks import THIS_MACHINE, Receiver, receiving
from webhooks import console, deliveries, endpoints, notices
from webhooks.models import Delivery


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_finance_sees_what_failed_and_tries_it_again(db: Database, server: Receiver) -> None:
    august = August(db)
    with building(db):
        august.sell()
    house = house_of(db, clock=FixedClock(DECLARED))
    house = replace(house, settings=replace(house.settings, webhook_networks=THIS_MACHINE))
    app = app_of(house, console.blueprint, portal.blueprint)
    finance, approver = (browser(app, link_for(house, member)) for member in (august.finance, august.approver))
    assert "No agency has an endpoint yet" in finance.get("/console/webhooks").text
    with db.work(OPERATOR) as session:
        endpoints.add(session, august.agency, server.url, august.finance, "test", THIS_MACHINE)
    august.declare()
    server.answers.append((500, {}))
    notices.derive_due(house)
    deliveries.send_due(house)
    shown = finance.get("/console/webhooks").text
    assert "It answered 500." in shown
    assert "Failing" in shown
    with db.work(OPERATOR) as session:
        session.execute(sa.update(Delivery).values(state="failed"))
    page = "/console/webhooks?state=failed"
    action = re.search(r'action="(/console/webhooks/\d+/again)"', finance.get(page).text)
    assert action is not None
    assert send(approver, page, action[1], {}).status_code == 403
    assert send(finance, page, action[1], {}).status_code == 303
    deliveries.send_due(house)
    shown = finance.get("/console/webhooks?state=delivered").text
    assert "Published update" in shown
    assert len(server.calls) == 2


def test_what_was_sent_to_an_endpoint_that_is_not_there_is_not_found(db: Database) -> None:
    august, house = August(db), house_of(db)
    finance = browser(app_of(house, console.blueprint, portal.blueprint), link_for(house, august.finance))
    assert finance.get("/console/webhooks?to=7").status_code == 404


@pytest.mark.parametrize("query", ["state=nonsense", "to=x", "before=-1", "before=" + "9" * 40])
def test_an_address_that_makes_no_sense_is_refused_in_a_sentence(db: Database, query: str) -> None:
    august = August(db)
    house = house_of(db)
    finance = browser(app_of(house, console.blueprint, portal.blueprint), link_for(house, august.finance))
    assert finance.get(f"/console/webhooks?{query}").status_code == 400
