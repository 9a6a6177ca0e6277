"""Ground to measure on: a sandbox in a process of its own, and a database; both are gone afterwards."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox import postgres
from sandbox.calls import Api
from tenants.clock import SandboxClock
from tenants.db import Database
from tenants.house import House
from tenants.settings import Settings, read
from tenants.upgrade import upgrade

ROOT: Final = Path(__file__).resolve().parent.parent
KEY: Final = "sk_test_sandbox"


@contextlib.contextmanager
def sandbox() -> Iterator[Api]:
    """An empty Stripe at a free port, held in memory."""
    command = [sys.executable, "-m", "sandbox.stripe", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield Api(process.stdout.readline().split()[-1], KEY)
        finally:
            process.terminate()


@contextlib.contextmanager
def house(api: Api) -> Iterator[House]:
    """The product on an empty database, pointed at that sandbox."""
    with tempfile.TemporaryDirectory(prefix="ob-") as folder:
        os.chmod(folder, 0o755)  # the database's account has to reach its own folder
        with postgres.start(Path(folder) / "postgres", fsync=False) as server:
            urls = postgres.ensure_database(server, "bench")
            upgrade(urls.owner)
            database = Database(urls.app)
            try:
                yield House(settings(api, urls.app), database, SandboxClock(api.base))
            finally:
                database.dispose()


def settings(api: Api, database_url: str) -> Settings:
    """As the product reads them, whatever this machine's environment says."""
    given = {
        "DATABASE_URL": database_url, "STRIPE_API_BASE": api.base, "STRIPE_SECRET_KEY": KEY, "CLOCK": "sandbox",
    }  # fmt: skip
    return read(given, dotenv=Path("/nonexistent"))
