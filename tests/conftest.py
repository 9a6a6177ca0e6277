"""What every test may ask for: a server and databases of its own, and the outside parts where the machine has them."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import redis
from kombu import Connection

from sandbox import postgres
from tenants.db import Database
from tests.databases import HOME, WARM, Cleaner, cloned


def pytest_unconfigure(config: pytest.Config) -> None:
    """Workers let go of the server by themselves; one that was killed could not, so the controller looks again."""
    if not hasattr(config, "workerinput"):
        postgres.stop_unused(HOME)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """The embedded PostgreSQL, one for all test processes. Tests may make databases of their own in it."""
    with postgres.start(HOME, fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def database_urls(postgres_server: postgres.Server, worker_id: str) -> Iterator[postgres.Urls]:
    """`(owner, app)`: logins to this process's migrated database. What tests commit stays: see `clean_database`."""
    with cloned(postgres_server, f"test_{os.getpid()}_{worker_id}") as urls:
        yield urls


@pytest.fixture(scope="session")
def _cleaner(postgres_server: postgres.Server, database_urls: postgres.Urls) -> Cleaner:
    return Cleaner(postgres_server.url(urlsplit(database_urls.app).path[1:], "postgres"))


@pytest.fixture
def clean_database(database_urls: postgres.Urls, _cleaner: Cleaner) -> postgres.Urls:
    """`(owner, app)` of a database that holds what the migrations put there and nothing else."""
    _cleaner.clean()
    return database_urls


@pytest.fixture
def db(clean_database: postgres.Urls) -> Iterator[Database]:
    """A clean database, opened as the plain role of the program."""
    with WARM.opened(clean_database.app) as database:
        yield database


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis to use, at TEST_REDIS_URL or on this machine; keys of a test carry a name of its own."""
    url = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15")
    with suppress(redis.ConnectionError), redis.Redis.from_url(url, socket_connect_timeout=2) as client:
        client.ping()
        return url
    pytest.skip(f"no Redis answers at {url}")


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """A RabbitMQ to use, at TEST_AMQP_URL or on this machine; queues of a test carry a name of its own."""
    url = os.environ.get("TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
    with suppress(OSError), Connection(url, connect_timeout=2) as connection:
        connection.connect()
        return url
    pytest.skip(f"no RabbitMQ answers at {url}")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a chromium or Chrome of this machine, for playwright's `executable_path`."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    pytest.skip("no chromium on this machine")


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
