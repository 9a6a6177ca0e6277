"""Billing stops while the outage lasts and goes on after it: renewals become drafts, drafts are released."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from billing import importing, mirror
from billing.outages import tasks
from billing.outages.models import HeldInvoice, Incident, Pause
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, Shop

RENEWAL = datetime(2019, 9, 1, tzinfo=UTC)
RESOLVED = datetime(2019, 9, 3, 9, tzinfo=UTC)


@pytest.fixture
def house(shop: Shop, db: Database) -> House:
    return shop.house(db)


def resolved(database: Database) -> None:
    with database.work(OPERATOR) as session:
        incident = session.get_one(Incident, "inc_1")
        incident.state, incident.ended_at = "resolved", RESOLVED
        incident.policy = "none"  # what is owed for the drafts is tests.journeys.test_unheard_drafts' business


def test_renewals_are_held_as_drafts_and_collected_after_the_release(shop: Shop, house: House, db: Database) -> None:
    shop.sell(3)
    shop.post(f"/v1/subscriptions/{shop.subscriptions[2]}", pause_collection={"behavior": "void"})  # its owner's
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.pause_all(session)
    tasks.work_until_quiet(house, "inc_1", timeout=20)
    assert shops.seen(db, Pause) == {"held": 2, "left": 1}

    shop.now(RENEWAL + timedelta(hours=3))  # three subscriptions renew: two drafts, one voided by its owner's pause
    invoices = [shop.get("/v1/invoices", subscription=id)["data"][0] for id in shop.subscriptions]
    assert [one["status"] for one in invoices] == ["draft", "draft", "void"]

    resolved(db)
    shop.now(RESOLVED)
    tasks.work_until_quiet(house, "inc_1", timeout=20)
    assert shops.seen(db, Pause) == {"released": 2, "left": 1}
    behaviors = [shop.subscription(id)["pause_collection"] for id in shop.subscriptions]
    assert [one and one["behavior"] for one in behaviors] == [None, None, "void"]
    assert shops.seen(db, HeldInvoice) == {"collecting": 2}

    shop.now(RESOLVED + timedelta(hours=3))
    for invoice in invoices[:2]:
        assert shop.get(f"/v1/invoices/{invoice['id']}")["status"] == "paid"
        mirror.refresh(house, "", "invoice", invoice["id"])
    assert not shop.get("/v1/invoices", status="draft")["data"]


def test_a_draft_in_its_last_hour_is_stopped_with_the_pause(shop: Shop, house: House, db: Database) -> None:
    """It was made before the pause: without `auto_advance=false` it would be finalized and charged."""
    shop.sell(1)
    shop.now(RENEWAL + timedelta(minutes=30))
    (draft,) = shop.get("/v1/invoices", status="draft")["data"]
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.pause_all(session)
        pause = session.scalars(sa.select(Pause)).one()
        session.add(
            HeldInvoice(
                agency_id=pause.agency_id, invoice_id=draft["id"], pause_id=pause.id, kind="draft",
                found_auto_advance=True, state="planned",
            )
        )  # fmt: skip
    tasks.work_until_quiet(house, "inc_1", timeout=20)
    shop.now(RENEWAL + timedelta(hours=5))
    assert shop.get(f"/v1/invoices/{draft['id']}")["status"] == "draft"
    resolved(db)
    tasks.work_until_quiet(house, "inc_1", timeout=20)
    shop.now(RENEWAL + timedelta(hours=8))
    assert shop.get(f"/v1/invoices/{draft['id']}")["status"] == "paid"
