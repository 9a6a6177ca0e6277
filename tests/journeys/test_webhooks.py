"""The sandbox signs and sends, our page keeps, our worker looks: nothing but the wire in between."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.serving import make_server

from billing import importing
from billing.models import Invoice, Payment, Subscription
from billing.outages import approvals, fingerprints, tasks
from billing.outages.models import Grant, HeldInvoice, Pause, Run, Step
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tests.faults.processes import eventually
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, Shop
from webhooks import tasks as webhook_tasks
from webhooks.models import InboxEvent
from webhooks.views import blueprint

EVENTS = [
    "customer.subscription.updated", "invoice.created", "invoice.updated", "invoice.paid", "refund.created",
    "refund.updated", "refund.failed", "credit_note.created",
]  # fmt: skip


@pytest.fixture
def house(shop: Shop, db: Database) -> Iterator[House]:
    """A house that is open: a page that takes webhooks, and a worker on threads, as `flask run` has them."""
    house = shop.house(db)
    app = Flask("test")
    app.register_blueprint(blueprint)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    endpoint = shop.post(
        "/v1/webhook_endpoints", url=f"http://127.0.0.1:{server.port}/webhooks/stripe", enabled_events=EVENTS
    )
    house = replace(house, settings=replace(house.settings, stripe_webhook_secrets=("whsec_old", endpoint["secret"])))
    app.extensions["house"] = house
    celery = tasks.make_celery(house)
    webhook_tasks.join(celery, house)
    db.ring = tasks.bell(celery)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    worker = tasks.work_in_this_process(celery, concurrency=2)
    yield house
    worker.stop()
    server.shutdown()
    serving.join()
    server.server_close()


def found(db: Database, what: sa.Select[tuple[object]]) -> list[object]:
    with db.work(OPERATOR) as session:
        return list(session.scalars(what))


def test_what_happens_in_stripe_is_in_the_mirror_soon(shop: Shop, house: House, db: Database) -> None:
    shop.sell(1)
    importing.import_account(house, "")
    shop.post(f"/v1/subscriptions/{shop.subscriptions[0]}", pause_collection={"behavior": "void"})
    eventually(lambda: found(db, sa.select(Subscription.pause_behavior)) == ["void"], "the pause is known")
    eventually(lambda: set(found(db, sa.select(InboxEvent.state))) == {"handled"}, "every event is handled")


def test_a_refund_that_comes_back_is_booked_and_falls_back_by_itself(shop: Shop, house: House, db: Database) -> None:
    (invoice,) = shop.sell(1)
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.approved_run(session)
        shops.grant(session, invoice, refund=400)
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    (refund,) = found(db, sa.select(Step.refund_id))
    shop.post(f"/_sandbox/refunds/{refund}/fail")
    states = sa.select(Grant.state).order_by(Grant.id)
    eventually(lambda: found(db, states) == ["failed", "succeeded"], "credited instead")
    assert shop.get(f"/v1/customers/{shop.customers[0]}")["balance"] == -400
    assert found(db, sa.select(Payment.refunded)) == [0]


def test_renewals_under_a_pause_reach_us_as_drafts_and_their_collection_as_paid(
    shop: Shop, house: House, db: Database
) -> None:
    shop.sell(1)
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.pause_all(session)
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    shop.now(DECLARED.replace(month=9, day=1, hour=2))
    drafts = sa.select(Invoice.id).where(Invoice.status == "draft")
    eventually(lambda: len(found(db, drafts)) == 1, "the draft is known")
    with db.work(OPERATOR) as session:
        session.execute(sa.text("UPDATE incidents SET state = 'resolved', ended_at = '2019-09-01T01:00Z'"))
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    assert found(db, sa.select(Pause.state)) == ["released"]
    eventually(lambda: found(db, sa.select(Run.state)) == ["waiting"], "what the draft is owed is planned first")
    with db.work(OPERATOR) as session:
        fingerprint = fingerprints.of_incident(session.execute(sa.select(Run.agency_id, Run.fingerprint)).all())
        approver = session.scalars(sa.select(Member).where(Member.role == "approver")).one()
        approvals.approve(session, house.clock.now(), "inc_1", approver, fingerprint, "cli")
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    shop.now(DECLARED.replace(month=9, day=1, hour=8))
    eventually(lambda: found(db, sa.select(HeldInvoice.state)) == ["collected"], "known as paid")
