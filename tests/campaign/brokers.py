"""A broker that is emptied or restarted again and again: whatever was rung is lost, and no grant is."""

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import redis
from kombu import Connection, Queue

from sandbox import postgres
from tests.campaign.workers import Worker
from tests.campaign.world import World, opened, until_over

GRANTS_EACH: Final = 15
"""Grants for each time that the broker loses everything, so that there is work to be rung for until the end."""
RESTARTS: Final = 5
"""Of so many losses one is a restart of the broker, the others only empty it."""
SLOW: Final = {"match": {"method": "POST", "path": "/v1/**"}, "kind": "slow", "ms": [10, 60], "rate": 1}


def run(times: int, seed: int, server: postgres.Server, rabbit: str) -> dict[str, Any]:
    """Half of the losses on a Redis of its own, which is also killed; half on a queue of its own in RabbitMQ."""
    half = -(-times // 2)
    with opened(max(20, times * GRANTS_EACH), seed, server) as world:
        world.fail(SLOW)
        chance = random.Random(seed)
        with _own_redis(world.folder) as broker:
            _losing(world, broker.url, lambda environment: broker.lose(chance), half, chance)
        _losing(world, rabbit, lambda environment: _purge(rabbit, environment), times - half, chance, last=True)
        return {"losses": times, "seconds until all had ended": world.figures["waited"]} | world.verdict()


def _losing(
    world: World, url: str, lose: Callable[[dict[str, str]], None], times: int, chance: random.Random,
    last: bool = False,
) -> None:  # fmt: skip
    environment = world.environment(url, LOOK_EVERY="1")
    worker = Worker(environment, world.log(), 2)
    try:
        for _ in range(times):
            time.sleep(chance.uniform(0, 0.6))
            lose(environment)
        if last:
            world.figures["waited"] = round(until_over(world))
    finally:
        worker.kill()
        with suppress(OSError, redis.ConnectionError):
            _purge(url, environment)


class _Redis:
    def __init__(self, folder: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = folder
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = ["redis-server", "--port", str(self.port), "--save", "", "--dir", str(self.folder)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with redis.Redis.from_url(self.url) as client:
            for _ in range(200):
                with suppress(redis.ConnectionError):
                    client.ping()
                    return process
                time.sleep(0.02)
        raise RuntimeError("redis-server does not answer")

    def lose(self, chance: random.Random) -> None:
        if chance.randrange(RESTARTS) == 0:
            self.stop()
            time.sleep(chance.uniform(0, 0.5))
            self.process = self._start()
        else:
            with redis.Redis.from_url(self.url) as client:
                client.flushall()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def _own_redis(folder: Path) -> Iterator[_Redis]:
    if shutil.which("redis-server") is None:
        raise SystemExit("This run restarts a Redis of its own: install redis-server.")
    own = _Redis(folder)
    try:
        yield own
    finally:
        own.stop()


def _purge(url: str, environment: dict[str, str]) -> None:
    with Connection(url, connect_timeout=2) as connection, connection.channel() as channel:
        queue = Queue(environment["QUEUE"]).bind(channel)
        queue.declare()
        queue.purge()
