"""SIGKILL at random, of children in the middle of their work and of whole workers: every grant is in Stripe once."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from celery import Celery

from sandbox import postgres
from tests.campaign.workers import Worker
from tests.campaign.world import Broken, World, opened, until_over

CHILDREN: Final = 16
AT_LEAST: Final = 150
"""Grants, so that there is something left to be killed at when a worker has started."""
PATIENCE: Final = 60
WHOLE: Final = 500
"""One death in so many is that of a whole worker, its parent included."""
POSTS: Final = {"method": "POST", "path": "/v1/credit_notes"}
FAULTS: Final = (
    {"name": "answer lost", "match": POSTS, "kind": "timeout_after", "ms": 40, "rate": 0.10},
    {"name": "never arrived", "match": POSTS, "kind": "reset_before", "rate": 0.05},
    {"name": "500 and done", "match": POSTS, "kind": "500_after", "rate": 0.04},
    # Of the first key alone: what fails under the second one, too, is for a person.
    {"name": "500 and not done", "match": POSTS | {"key": "e*:n0"}, "kind": "500_before", "rate": 0.03},
    {"name": "slow down", "match": POSTS, "kind": "429", "rate": 0.08},
    {"name": "lands late", "match": POSTS, "kind": "late_effect", "ms": [20, 300], "rate": 0.03},
    # As long as Stripe takes in earnest: whoever is killed is mostly killed in the middle of a call.
    {"name": "slow", "match": {"path": "/v1/**"}, "kind": "slow", "ms": [20, 150], "rate": 1},
)


def run(kills: int, seed: int, server: postgres.Server, brokers: list[str]) -> dict[str, Any]:
    """So many kills over at least a fifth more grants, in equal parts on each broker."""
    with opened(max(AT_LEAST, kills * 122 // 100), seed, server) as world:
        world.fail(*({**rule, "seed": seed} for rule in FAULTS))
        grants = world.left()
        chance = random.Random(seed)
        done = 0
        for no, broker in enumerate(brokers, 1):
            environment = world.environment(broker, WARM="1", LOOK_EVERY="1")
            worker = Worker(environment, world.log(), CHILDREN)
            try:
                with _bell(environment) as ring:
                    done = _killing(world, worker, ring, chance, done, kills * no // len(brokers), kills, grants)
                if no == len(brokers):
                    world.behave()
                    until_over(world)
            finally:
                worker.kill()
        return {"kills": done, "brokers": len(brokers)} | world.verdict()


@contextmanager
def _bell(environment: dict[str, str]) -> Iterator[Callable[[], None]]:
    """Rings for one child: each that dies takes the message with it that had woken it."""
    with Celery(broker=environment["CELERY_BROKER_URL"]) as celery:
        yield lambda: celery.send_task("outages.send", args=["kills"], queue=environment["QUEUE"]) and None


def _killing(
    world: World, worker: Worker, ring: Callable[[], None], chance: random.Random, done: int, goal: int, kills: int,
    grants: int,
) -> int:  # fmt: skip
    """Kill until `goal` are dead, no faster than the work goes on, so that it lasts for all `kills`."""
    looked = moved = time.monotonic()
    ended = grants - world.left()
    for _ in range(CHILDREN):
        ring()
    while done < goal:
        time.sleep(chance.uniform(0, 0.05))
        if time.monotonic() > looked + 0.25:
            looked = time.monotonic()
            ended = grants - world.left()
            if ended == grants:
                raise Broken(f"every grant had ended after {done} of {kills} kills")
        if done > kills * ended / grants + 2 * CHILDREN:
            if time.monotonic() > moved + PATIENCE:
                raise Broken(f"nothing has moved for {PATIENCE} s after {done} kills; {dict(world.steps())}")
            continue
        moved = time.monotonic()
        if chance.randrange(WHOLE) == 0:
            done += len(worker.children()) + 1
            worker.restart()
        elif worker.process.poll() is not None:
            worker.restart()
        elif children := worker.children():
            with suppress(ProcessLookupError):
                os.kill(chance.choice(children), signal.SIGKILL)
                ring()
                done += 1
    return done
