"""`make campaign`: what nobody can plan, many times over. Each run prints its figures; one that breaks ends it with 1.

`KILLS` says how many kills, and all else in proportion; `SEED` draws the same faults and moments again; `RUNS` names
the runs that are wanted. Runs whose brokers this machine has not are left out, and the last line says what the whole
campaign would have had beside what was run; a run that was named and left out ends it with 3.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from kombu import Connection

from sandbox import postgres
from tests.campaign import brokers, deliveries, halts, kills, operators, restarts
from tests.campaign.world import Broken
from tests.databases import HOME

WHOLE: Final = 10_000
"""Kills of a whole campaign."""
REDIS: Final = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
RABBIT: Final = os.environ.get("TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")

Run = Callable[[int, int, postgres.Server], dict[str, Any]]
"""Of (kills of the whole campaign, seed, a server for its databases): the figures."""
RUNS: Final[dict[str, Run]] = {
    "kills": lambda size, seed, server: kills.run(size, seed, server, [REDIS, RABBIT]),
    "brokers": lambda size, seed, server: brokers.run(_of(size, 100), seed, server, RABBIT),
    "halts": lambda size, seed, server: halts.run(_of(size, 100), seed, server, REDIS),
    "restarts": lambda size, seed, server: restarts.run(_of(size, 10), _of(size, 5_000), seed, REDIS),
    "deliveries": lambda size, seed, server: deliveries.run(_of(size, 100_000), seed, server, REDIS),
    "operators": lambda size, seed, _: operators.run(_of(size, 10_000), seed),
}
NEEDS: Final = {
    "kills": (REDIS, RABBIT), "brokers": (RABBIT, "redis-server"), "halts": (REDIS,), "restarts": (REDIS,),
    "deliveries": (REDIS,), "operators": (),
}  # fmt: skip
"""Brokers that must answer, and programs that must be there."""


def main() -> int:
    size, seed = int(os.environ.get("KILLS") or WHOLE), int(os.environ.get("SEED") or 1)
    named = os.environ.get("RUNS", "").split()
    wanted = named or list(RUNS)
    ended: list[str] = []
    if unknown := [name for name in wanted if name not in RUNS]:
        print(f"There is no run called {unknown[0]}: there are {', '.join(RUNS)}.", file=sys.stderr)
        return 2
    with postgres.start(HOME, fsync=False) as server:
        for name in wanted:
            if lacking := [one for one in NEEDS[name] if not _is_there(one)]:
                print(f"{name}: left out, this machine has no {lacking[0]}", flush=True)
                continue
            began = time.monotonic()
            try:
                figures = RUNS[name](size, seed, server)
            except Broken as broken:
                print(f"{name}: BROKEN with SEED={seed} KILLS={size}: {broken}", flush=True)
                return 1
            told = ", ".join(f"{value} {what}" for what, value in figures.items())
            print(f"{name}: {told}; {time.monotonic() - began:.0f} s in all", flush=True)
            ended.append(name)
    if others := [name for name in RUNS if name not in ended]:
        print(f"campaign: this was not the whole of it, {', '.join(others)} did not run", flush=True)
    return 3 if set(named) - set(ended) else 0


def _of(size: int, whole: int) -> int:
    """The same share of it as `size` is of the whole campaign's kills."""
    return max(1, whole * size // WHOLE)


def _is_there(what: str) -> bool:
    if "://" not in what:
        return shutil.which(what) is not None
    with suppress(OSError, *Connection(what).connection_errors), Connection(what, connect_timeout=2) as connection:
        connection.connect()
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
