"""The product from outside: its command line, and the web server that runs its worker."""

import csv
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from sandbox.processes import ROOT, Processes, ProcessFailed

BIN: Final = Path(sys.executable).parent
LONGEST: Final = 900.0
"""Seconds for one command."""


SURROUNDINGS: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")


class Product:
    """One installation: its settings, told through the environment alone, whatever `.env` says."""

    def __init__(
        self, *, database: str, owner: str, stripe: str, key: str, port: int, secret: str, anchors: str
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.settings = {
            "ENV_FILE": os.devnull,
            "DATABASE_URL": database,
            "DATABASE_OWNER_URL": owner,
            "CELERY_BROKER_URL": "memory://",
            "STRIPE_API_BASE": stripe,
            "STRIPE_SECRET_KEY": key,
            "STRIPE_WEBHOOK_SECRET": f"whsec_{secret}",
            "SECRET_KEY": secret,
            "PUBLIC_URL": self.url,
            "CLOCK": "sandbox",
            "ANCHORS": anchors,
        }
        self._port = port
        self._env = {**_surroundings(), **self.settings}
        self.took: list[tuple[str, float]] = []
        """Each command and the seconds that it took."""

    def flask(self, *words: str, stdin: str = "") -> dict[str, Any]:
        """What `flask WORDS --json` says. Raises `ProcessFailed` with its sentence when it refuses."""
        status, said, complaint = self._run(words, stdin)
        if status != 0:
            raise ProcessFailed(f"`flask {' '.join(words)}` ended with {status}: {complaint or said}")
        try:
            document: dict[str, Any] = json.loads(said)
        except ValueError:
            raise ProcessFailed(f"`flask {' '.join(words)}` did not print one JSON document: {said[:200]}") from None
        return document

    def refusal(self, *words: str) -> str:
        """The sentence with which `flask WORDS` refuses; "" when it does not."""
        status, said, complaint = self._run(words, "")
        if status == 0:
            return ""
        try:
            sentence: str = json.loads(complaint.splitlines()[-1])["error"]["message"]
        except (ValueError, LookupError, TypeError):
            raise ProcessFailed(f"`flask {' '.join(words)}` broke: {complaint or said}") from None
        return sentence

    def load_agencies(self, rows: Iterable[tuple[str, str, str, str]]) -> None:
        """Make agencies: name, slug, currency, time zone."""
        text = io.StringIO()
        csv.writer(text).writerows([("name", "slug", "currency", "time_zone"), *rows])
        self.flask("agencies", "load", "-", stdin=text.getvalue())

    def serve(self, processes: Processes) -> None:
        """Start the web server, with the worker inside; returns when it answers."""
        command = [str(BIN / "waitress-serve"), f"--listen=127.0.0.1:{self._port}", "--threads=16", "wsgi:app"]
        processes.start("web server", command, self._env, lambda _said: self._answers())

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=10) as answer:  # noqa: S310 - of this machine
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _run(self, words: tuple[str, ...], stdin: str) -> tuple[int, str, str]:
        began = time.monotonic()
        done = subprocess.run(
            [str(BIN / "flask"), *words, "--json"], env=self._env, cwd=ROOT, input=stdin, capture_output=True,
            text=True, timeout=LONGEST,
        )  # fmt: skip
        self.took.append((" ".join(words[:2]), time.monotonic() - began))
        return done.returncode, done.stdout, done.stderr.strip()


def _surroundings() -> dict[str, str]:
    """Of this process's environment what any program needs, and nothing that settings or libraries read."""
    return {name: value for name, value in os.environ.items() if name in SURROUNDINGS}
