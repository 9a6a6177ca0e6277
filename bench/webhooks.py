"""A flood of Stripe's events at the page that takes them: 500 a second, half of them duplicates, forged or old."""

import hashlib
import hmac
import http.client
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import sqlalchemy as sa

from bench._ground import KEY, ROOT, house, sandbox
from tenants.db import OPERATOR
from webhooks.models import InboxEvent

RATE = int(os.environ.get("RATE", "500"))
SECONDS = int(os.environ.get("SECONDS", "20"))
SENDERS = 16
PROCESSES = 2
WARM = 3
"""Seconds of the flood that are not judged: what has just begun compiles whatever it uses for the first time."""
GOAL_MS = 50.0
SECRET = "whsec_bench"


def main() -> None:
    with sandbox() as api, house(api) as here:
        environ = {
            **os.environ, "DATABASE_URL": here.settings.database_url, "STRIPE_API_BASE": api.base,
            "STRIPE_SECRET_KEY": KEY, "STRIPE_WEBHOOK_SECRET": SECRET, "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        }  # fmt: skip
        command = [
            sys.executable, "-m", "gunicorn", "-w", str(PROCESSES), "-k", "gthread", "--threads", "8",
            "-b", "127.0.0.1:0", "wsgi:app",
        ]  # fmt: skip
        with subprocess.Popen(command, env=environ, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                port = next(urlsplit(line.split()[-2]).port for line in server.stderr if "Listening at" in line)
                threading.Thread(target=server.stderr.read, daemon=True).start()
                flood(port or 0, pages_too=True)
            finally:
                server.terminate()
        with here.database.work(OPERATOR) as session:
            kept = session.scalar(sa.select(sa.func.count()).select_from(InboxEvent))
        print(f"  {kept:,} events kept, each once")


def flood(port: int, *, pages_too: bool) -> None:
    """Send at `RATE`, whether or not the answers keep up, and say how long each took from when it was due."""
    numbers, took, seen = itertools.count(), [], Counter[str]()
    begun = time.monotonic() + 0.5
    lock = threading.Lock()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while True:
            with lock:
                number = next(numbers)
            due = begun + number / RATE
            if number >= RATE * (WARM + SECONDS):
                return
            time.sleep(max(0.0, due - time.monotonic()))  # each leaves at its own moment, however long others take
            manner, raw, header = letter(number)
            connection.request("POST", "/webhooks/stripe", raw, {"Stripe-Signature": header})
            answer = connection.getresponse()
            answer.read()
            late = time.monotonic() - due
            with lock:
                if number >= RATE * WARM:
                    took.append(late)
                seen[f"{manner}: {answer.status}"] += 1

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    time.sleep(WARM)  # the flood lasts so long before anything counts; no sender knows of the pages
    pages = [page(port) for _ in range(10)] if pages_too else []
    for sender in senders:
        sender.join()
    took.sort()
    middle, most = (took[int(len(took) * share)] * 1_000 for share in (0.5, 0.99))
    print(f"\n  {len(took):,} deliveries at {RATE}/s: half within {middle:.1f} ms, 99 % within {most:.1f} ms")
    print(f"  {most / GOAL_MS:.2f} of the {GOAL_MS:.0f} ms that it may take; a page beside it {max(pages):.3f} s")
    print("  " + ", ".join(f"{count:,} {what}" for what, count in sorted(seen.items())))


def letter(number: int) -> tuple[str, bytes, str]:
    """One delivery: an event, or the same again, or one that nobody signed, or that was signed long ago."""
    manner = random.Random(number).choices(("true", "again", "forged", "old"), (50, 35, 10, 5))[0]
    event = {
        "id": f"evt_{number if manner != 'again' else max(0, number - 1_000)}", "object": "event", "api_version": None,
        "created": int(time.time()), "livemode": False, "type": "customer.updated",
        "data": {"object": {"id": f"cus_{number}", "object": "customer", "about": "x" * 2_000}}, "request": None,
    }  # fmt: skip
    raw = json.dumps(event).encode()
    at = int(time.time()) - (3_600 if manner == "old" else 0)
    digest = hmac.new(SECRET.encode(), b"%d." % at + raw, hashlib.sha256).hexdigest()
    return manner, raw, f"t={at},v1={digest if manner != 'forged' else '0' * 64}"


def page(port: int) -> float:
    """Seconds that a page takes meanwhile."""
    time.sleep(0.3)  # ten of them are spread over three seconds of the flood
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/status")
    assert connection.getresponse().status == 200
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
