"""Webhooks that come up to five times, in any order, never, or from somebody else: the mirror is as Stripe is.

Four weeks pass in Stripe, with refunds and disputes by hand among them. One event in ten is never delivered, the others
one to five times, all of them shuffled; beside them come false ones. Workers handle what comes meanwhile.
"""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from flask import Flask

from billing import check, mirror
from sandbox import postgres
from sandbox.calls import Api
from sandbox.seeds import KEY
from tenants.db import OPERATOR
from tenants.house import House
from tests.campaign.workers import Worker
from tests.campaign.world import Broken, World, opened, until
from tests.webhooks.posting import PATH, SECRETS, signed
from webhooks import inbox
from webhooks.models import InboxEvent
from webhooks.views import blueprint

DROPPED: Final = 0.10
MOST: Final = 5
FORGED: Final = 0.05
DATED: Final = 0.02
"""Shares of the deliveries that are added: of another body or secret, and from the past or the future."""
SENDERS: Final = 2
WEEKS: Final = 4
EACH_WEEK: Final = 7 * 86_400
DELIVERIES_OF_A_CUSTOMER: Final = 100
"""A few less than there are."""

Delivery = tuple[bytes, str, bool]
"""(body, signature, whether it is Stripe's)."""


def run(wanted: int, seed: int, server: postgres.Server, broker: str) -> dict[str, Any]:
    customers = max(2, wanted // DELIVERIES_OF_A_CUSTOMER)
    with opened(customers * 20, seed, server, declared=False) as world:
        chance = random.Random(seed)
        house = replace(world.house, settings=replace(world.house.settings, stripe_webhook_secrets=SECRETS))
        mirror.import_account(house, "")
        events = _weeks_pass(world, chance)
        deliveries = _deliveries(events, chance)
        worker = Worker(world.environment(broker), world.log(), 2)
        try:
            times, wrong = _deliver(house, deliveries)
            mirror.follow(house, "", inbox.taking("", live=False))
            waited = until(lambda: _waiting(house) == 0, "every event is handled", 300, world)
        finally:
            worker.kill()
        return _verdict(house, events, deliveries, times, wrong) | {
            "seconds to the last of them handled": round(waited),
        }  # fmt: skip


def _weeks_pass(world: World, chance: random.Random) -> list[dict[str, Any]]:
    """Refunds and disputes by hand, and a renewal of everybody each week: the events of all that, oldest first."""
    api = Api(world.stripe, KEY)
    known = {event["id"] for event in api.every("/v1/events")}
    for _ in range(WEEKS):
        paid = [
            charge
            for charge in api.get("/v1/charges", limit=100)["data"]
            if not charge["refunded"] and not charge["disputed"]
        ]
        for charge in chance.sample(paid, len(paid) // 5):
            if chance.random() < 0.7:
                api.post("/v1/refunds", charge=charge["id"], amount=chance.randint(1, 700 - charge["amount_refunded"]))
            else:
                api.control("disputes", {"payment_intent": charge["payment_intent"]})
        api.control("clock", {"advance": EACH_WEEK})
    events = [event for event in api.every("/v1/events") if event["id"] not in known]
    api.close()
    return events[::-1]


def _deliveries(events: list[dict[str, Any]], chance: random.Random) -> list[Delivery]:
    made: list[Delivery] = []
    now = time.time()
    for event in events:
        raw = json.dumps(event).encode()
        times = 0 if chance.random() < DROPPED else chance.randint(1, MOST)
        made += [(raw, signed(raw, at=now), True)] * times
        if chance.random() < FORGED * 2.5:
            other = json.dumps(event | {"id": f"{event['id']}F"}).encode()
            made.append((other, chance.choice([signed(raw, at=now), signed(other, "whsec_other", at=now)]), False))
        if chance.random() < DATED * 2.5:
            other = json.dumps(event | {"id": f"{event['id']}D"}).encode()
            made.append((other, signed(other, at=now + chance.choice([-86_400, 86_400])), False))
    chance.shuffle(made)
    return made


def _deliver(house: House, deliveries: list[Delivery]) -> tuple[list[float], list[str]]:
    """How long each answer took, in seconds; and what was answered wrongly."""
    app = Flask("campaign")
    app.extensions["house"] = house
    app.register_blueprint(blueprint)
    wrong: list[str] = []

    def send(some: list[Delivery]) -> list[float]:
        client, times = app.test_client(), []
        for raw, signature, true in some:
            fresh = signed(raw) if true else signature  # Stripe signs anew whatever it sends
            began = time.perf_counter()
            status = client.post(PATH, data=raw, headers={"Stripe-Signature": fresh}).status_code
            times.append(time.perf_counter() - began)
            if status != (200 if true else 400):
                wrong.append(f"{status} to {'a true' if true else 'a false'} delivery")
        return times

    with ThreadPoolExecutor(SENDERS) as pool:
        parts = pool.map(send, [deliveries[no::SENDERS] for no in range(SENDERS)])
        return [one for part in parts for one in part], wrong


def _waiting(house: House) -> int:
    with house.database.work(OPERATOR) as session:
        counted = sa.select(sa.func.count()).where(InboxEvent.state == "received")
        return session.scalars(counted).one()


def _verdict(
    house: House, events: list[dict[str, Any]], deliveries: list[Delivery], times: list[float], wrong: list[str]
) -> dict[str, Any]:
    with house.database.work(OPERATOR) as session:
        kept = set(session.scalars(sa.select(InboxEvent.event_id)))
    false = sum(not true for *_, true in deliveries)
    accepted = sorted(id for id in kept if id[-1] in "FD" and id[:-1] in {event["id"] for event in events})
    missing = [event["id"] for event in events if event["id"] not in kept]
    differences = check.check(house, "")
    if wrong or accepted or missing or differences:
        raise Broken(f"{wrong[:3]}; false ones kept {accepted[:3]}; never heard of {missing[:3]}; {differences[:3]}")
    in_order = sorted(times)
    return {
        "deliveries": len(deliveries), "events": len(events), "false": false, "false accepted": 0,
        "differences from Stripe": 0, "ms at most for 99 of 100": round(in_order[len(times) * 99 // 100] * 1000),
    }  # fmt: skip
