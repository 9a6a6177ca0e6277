"""The first import of an account of 20,000 invoices, beside a bare loop that only reads the same pages."""

import http.client
import json
import os
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from bench._ground import KEY, house, sandbox
from billing import importing
from sandbox import seeds
from sandbox.calls import Api

INVOICES = int(os.environ.get("SIZE") or 20_000)
LISTS = (
    "/v1/prices?", "/v1/customers?", "/v1/subscriptions?", "/v1/invoices?expand[]=data.payments&", "/v1/refunds?",
    "/v1/credit_notes?", "/v1/disputes?",
)  # fmt: skip


def main() -> None:
    with sandbox() as api:
        seconds = timed(lambda: seeds.account_of(api, INVOICES))
        print(f"An account of about {INVOICES:,} invoices was made in {seconds:.1f} s.")
        found = [0]
        bare = timed(lambda: found.append(read_bare(api)))
        with house(api) as ours:
            reports = []
            first = timed(lambda: reports.append(importing.import_account(ours, "")))
            again = timed(lambda: importing.import_account(ours, ""))
    invoices = reports[0].objects["invoices"]
    print(f"{invoices:,} invoices, {found[-1]:,} objects in lists:\n")
    print(f"  {'':<34}{'seconds':>9}{'per 1,000 invoices':>20}{'ratio':>8}")
    for words, took in (
        ("read every page, one by one, keep none", bare), ("first import", first), ("import again", again),
    ):  # fmt: skip
        print(f"  {words:<34}{took:>9.1f}{took / invoices * 1000:>20.2f}{took / bare:>8.2f}")


def read_bare(api: Api) -> int:
    """How many objects the lists hold; each page is read and parsed, and that is all."""
    connection = http.client.HTTPConnection(urlsplit(api.base).netloc)
    objects = 0
    for path in LISTS:
        after = ""
        while True:
            connection.request("GET", f"{path}limit=100{after}", headers={"Authorization": f"Bearer {KEY}"})
            page = json.loads(connection.getresponse().read())
            objects += len(page["data"])
            if not page["has_more"]:
                break
            after = f"&starting_after={page['data'][-1]['id']}"
    connection.close()
    return objects


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
