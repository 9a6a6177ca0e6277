"""Webhooks that come up to five times, in any order, never, or from somebody else: the mirror is as Stripe is.

An outage is approved, and four weeks pass in Stripe before anybody sends, with refunds and disputes by hand among them.
One event in ten is never delivered, the others one to five times, all of them shuffled; beside them come false ones.
Workers handle what comes and send meanwhile, through answers that are lost and slow, and what Stripe has to tell of
that comes in the same way: of notes and refunds of ours whose steps are still in flight.
"""

import json
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import takewhile
from typing import Any, Final

import sqlalchemy as sa
from flask import Flask

from billing import check, following
from billing.errors import Refused
from billing.outages import approvals
from billing.outages.models import Step
from sandbox import postgres
from sandbox.calls import Api
from tenants.db import OPERATOR
from tenants.house import House
from tests.campaign.kills import POSTS
from tests.campaign.workers import Worker
from tests.campaign.world import NOTHING_MOVES_FOR, Broken, World, opened, until
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
OUTAGE: Final = timedelta(weeks=3)
MANY: Final = 10_000
"""Deliveries of which some must meet a step in flight; of a few hundred it may happen that none does."""
DELIVERIES_OF_A_CUSTOMER: Final = 130
"""A few less than there are."""
FAULTS: Final = (
    {"name": "answer lost", "match": POSTS, "kind": "timeout_after", "ms": 40, "rate": 0.20},
    {"name": "never arrived", "match": POSTS, "kind": "reset_before", "rate": 0.05},
    {"name": "500 and done", "match": POSTS, "kind": "500_after", "rate": 0.05},
    {"name": "slow", "match": POSTS, "kind": "slow", "ms": [20, 300], "rate": 1},
)

Delivery = tuple[bytes, str, bool]
"""(body, signature, whether it is Stripe's)."""


def run(wanted: int, seed: int, server: postgres.Server, broker: str) -> dict[str, Any]:
    customers = max(2, wanted // DELIVERIES_OF_A_CUSTOMER)
    with opened(customers * 20, seed, server, declared=False) as world, closing(world.api) as api:
        chance = random.Random(seed)
        house = replace(world.house, settings=replace(world.house.settings, stripe_webhook_secrets=SECRETS))
        world.declare(OUTAGE)
        told = Told(api.get("/v1/events", limit=1)["data"][0]["id"])
        _weeks_pass(api, chance, customers)
        world.fail(*({**rule, "seed": seed} for rule in FAULTS))
        worker = Worker(world.environment(broker), world.log(), 2)
        try:
            _tell(world, house, told, chance)
            following.follow(house, "", inbox.taking("", live=False))
            waited = until(lambda: _waiting(house) == 0, "every event is handled", 300, world)
        finally:
            worker.kill()
        return world.verdict(undisturbed=False) | _verdict(house, told) | {
            "seconds to the last of them handled": round(waited),
        }  # fmt: skip


@dataclass
class Told:
    """What there was to tell after the event `newest`, and how it was delivered."""

    newest: str
    events: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    in_flight: int = 0
    """Events about objects of steps that nobody knew yet to have succeeded."""

    def news(self, api: Api) -> list[dict[str, Any]]:
        """The events that came about since, oldest first."""
        new = list(takewhile(lambda event: event["id"] != self.newest, api.every("/v1/events")))
        self.newest = new[0]["id"] if new else self.newest
        return new[::-1]


def _tell(world: World, house: House, told: Told, chance: random.Random) -> None:
    """Deliver what Stripe has to tell, wave by wave, until no step is at work and nothing more comes of them."""
    moved, before = time.monotonic(), world.steps()
    while (events := told.news(world.api)) or world.left():
        if events or before != world.steps():
            moved, before = time.monotonic(), world.steps()
        elif time.monotonic() > moved + NOTHING_MOVES_FOR:
            raise Broken(f"nothing has moved for {NOTHING_MOVES_FOR} s; {dict(before)}")
        time.sleep(0.1)  # what happened meanwhile makes the next wave
        told.in_flight += _of_steps_in_flight(world, events)
        deliveries = _deliveries(events, chance)
        times, wrong = _deliver(house, deliveries)
        told.events += events
        told.deliveries += deliveries
        told.times += times
        told.wrong += wrong
        _continue(world)


def _of_steps_in_flight(world: World, events: list[dict[str, Any]]) -> int:
    named = Counter(event["data"]["object"].get("metadata", {}).get("step") for event in events)
    with world.database.work(OPERATOR) as session:
        in_flight = session.scalars(sa.select(Step.id).where(Step.state.in_(("sent", "unknown")))).all()
    return sum(named[str(step)] for step in in_flight)


def _continue(world: World) -> None:
    """A person lets a run go on that halted itself: of few grants, those that others got in the way of are many."""
    with suppress(Refused), world.database.work(OPERATOR) as session:
        approvals.resume(session, world.incident, None, "campaign")


def _weeks_pass(api: Api, chance: random.Random, customers: int) -> None:
    """Refunds and disputes by hand, and a renewal of everybody each week."""
    for _ in range(WEEKS):
        paid = [
            charge
            for charge in api.get("/v1/charges", limit=100)["data"]
            if not charge["refunded"] and not charge["disputed"]
        ]
        for charge in chance.sample(paid, min(len(paid), customers) // 5):
            if chance.random() < 0.7:
                api.post("/v1/refunds", charge=charge["id"], amount=chance.randint(1, 700 - charge["amount_refunded"]))
            else:
                api.control("disputes", {"payment_intent": charge["payment_intent"]})
        api.control("clock", {"advance": EACH_WEEK})


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


def _verdict(house: House, told: Told) -> dict[str, Any]:
    with house.database.work(OPERATOR) as session:
        kept = set(session.scalars(sa.select(InboxEvent.event_id)))
    ids = {event["id"] for event in told.events}
    false = sum(not true for *_, true in told.deliveries)
    accepted = sorted(id for id in kept if id[-1] in "FD" and id[:-1] in ids)
    missing = sorted(ids - kept)
    differences = check.check(house, "")
    if not told.in_flight and len(told.deliveries) > MANY:
        raise Broken("no event met a step in flight")
    if told.wrong or accepted or missing or differences:
        raise Broken(
            f"{told.wrong[:3]}; false ones kept {accepted[:3]}; never heard of {missing[:3]}; {differences[:3]}"
        )
    in_order = sorted(told.times)
    return {
        "deliveries": len(told.deliveries), "events": len(ids), "of steps in flight": told.in_flight, "false": false,
        "false accepted": 0, "differences of the mirror": 0,
        "ms at most for 99 of 100": round(in_order[len(in_order) * 99 // 100] * 1000),
    }  # fmt: skip
