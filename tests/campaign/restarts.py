"""PostgreSQL ended as by a power cut in the middle of a run: whoever was at work goes on by itself."""

import os
import random
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from billing.outages.models import Attempt
from sandbox import postgres
from tenants.db import OPERATOR
from tests.campaign.workers import Worker
from tests.campaign.world import Broken, World, opened, until, until_over

AGAIN_WITHIN: Final = 10.0
"""Seconds after the server is back within which something is claimed again."""
AT_LEAST: Final = 300
"""Grants, so that some seconds of work are left when a worker has started."""


def run(times: int, grants: int, seed: int, broker: str) -> dict[str, Any]:
    """On a server of its own, which keeps what it has committed."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-postgres-")))
        home.chmod(0o755)  # as root, PostgreSQL runs as nobody, who has to reach its own folder
        server = stack.enter_context(postgres.start(home))
        world = stack.enter_context(opened(max(AT_LEAST, grants), seed, server, outlives=True))
        chance = random.Random(seed)
        began, waits = world.left(), []  # before the worker starts, which gets something done while it starts
        worker = Worker(world.environment(broker, WARM="1"), world.log(), 3)
        stack.callback(worker.kill)
        for no in range(times):
            share = (no + 0.5) / times * 0.9
            until(lambda: world.left() < began * (1 - share), "so much has ended", 300, world)  # noqa: B023
            time.sleep(chance.uniform(0, 0.3))
            if not world.left():
                raise Broken(f"all {began} grants had ended before the server was to be: this machine needs more")
            pid = server.pid
            os.kill(pid, signal.SIGQUIT)
            while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
                time.sleep(0.01)
            server = stack.enter_context(postgres.start(home))
            waits.append(_claimed_again(world))
        until_over(world)
        worker.kill()
        return {"restarts": times, "seconds until the next claim, at most": round(max(waits), 1)} | world.verdict()


def _claimed_again(world: World) -> float:
    began = time.monotonic()
    before = _attempts(world)
    while _attempts(world) == before and world.left():
        if time.monotonic() > began + AGAIN_WITHIN:
            raise Broken(f"nothing was claimed within {AGAIN_WITHIN:.0f} s of a restart")
        time.sleep(0.05)
    return time.monotonic() - began


def _attempts(world: World) -> int:
    with world.database.work(OPERATOR) as session:
        return session.scalars(sa.select(sa.func.count()).select_from(Attempt)).one()
