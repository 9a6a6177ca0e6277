"""Halted at random moments: from a second after the commit on nothing begins, and continued all of it is done."""

import random
import time
from typing import Any, Final

from billing.outages import approvals
from sandbox import postgres
from tenants.db import OPERATOR
from tests.campaign.kills import POSTS
from tests.campaign.workers import Worker
from tests.campaign.world import Broken, World, opened, until, until_over

GRANTS_EACH: Final = 20
AT_LEAST: Final = 100
"""Grants, so that there is something left to halt when a worker has started."""
LIMIT: Final = 1.0
"""Seconds after the commit from which on nothing may begin."""
SLOW: Final = {"match": POSTS, "kind": "slow", "ms": [10, 80], "rate": 1}


def run(times: int, seed: int, server: postgres.Server, broker: str) -> dict[str, Any]:
    with opened(max(AT_LEAST, times * GRANTS_EACH), seed, server) as world:
        world.fail(SLOW)
        chance = random.Random(seed)
        worker = Worker(world.environment(broker, WARM="1"), world.log(), 3)
        try:
            latest = [_flip(world, chance) for _ in range(times)]
            world.behave()
            until_over(world)
        finally:
            worker.kill()
        told = {"halts": times, "with a call after the commit": sum(late > 0 for late in latest)}
        return told | {"ms after the commit, at most": round(max(latest) * 1000)} | world.verdict()


def _flip(world: World, chance: random.Random) -> float:
    """Let it go for a moment and halt it: how many seconds after that the last call began, 0 if none did."""
    before = world.ended()
    until(lambda: world.ended() > before, "something is sent", 60, world)
    time.sleep(chance.uniform(0, 0.3))
    world.delete("requests")
    with world.database.work(OPERATOR) as session:
        approvals.halt(session, world.incident, None, "campaign")
    halted_at = time.time()
    time.sleep(LIMIT + 0.3)
    began = [one["arrived"] for one in world.api.control("requests")["requests"] if one["method"] == "POST"]
    late = max((at - halted_at for at in began if at > halted_at), default=0.0)
    if late > LIMIT:
        raise Broken(f"a call began {late:.2f} s after it was halted")
    with world.database.work(OPERATOR) as session:
        approvals.resume(session, world.incident, None, "campaign")
    return late
