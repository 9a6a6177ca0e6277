"""Customers by the thousand, in a moment: one with all that it has, copied in the sandbox and in our rows alike."""

import json
import re
from collections.abc import Iterator
from typing import Final

from sandbox.stripe.service import Service
from sandbox.stripe.world import Row, World
from tests.faults.drifts import Books

ID: Final = r"((?:cus|sub|si|in|il|inpay|pi|ch|re|cn|cnli|pm|txn|cbtxn)_[0-9A-Za-z]{14,24})"
NUMBER: Final = "@@"
"""Stands in a template where the number of the copy will."""
NUMBERED: Final = {"grants": "id", "grant_lines": "grant_id", "steps": "id", "step_events": "step_id",
                   "attempts": "step_id", "pauses": "id"}  # fmt: skip
"""The tables whose rows have numbers instead of Stripe's ids, and where."""
ROWS: Final = {
    "customers": "id = '{cus}'", "subscriptions": "customer_id = '{cus}'",
    "subscription_items": "subscription_id = '{sub}'", "invoices": "id = '{invoice}'",
    "invoice_lines": "invoice_id = '{invoice}'", "payments": "invoice_id = '{invoice}'",
    "refunds": "step_id = {id}", "credit_notes": "step_id = {id}", "balance_entries": "step_id = {id}",
    "grants": "id = {grant}", "grant_lines": "grant_id = {grant}", "steps": "id = {id}",
    "step_events": "step_id = {id}", "attempts": "step_id = {id}", "pauses": "subscription_id = '{sub}'",
}  # fmt: skip
"""What one customer has, in the order of the foreign keys."""


def copied(books: Books, service: Service, n: int, copies: int, first: int) -> None:
    """Customer `n` stands there `copies` times more, with steps and so on numbered from `first`. Nothing is at work."""
    step = books.step(n)
    (world,) = service.universe.worlds.values()
    templates = [_template(json.dumps(row)) for row in _of_customer(world, books.shop.customers[n])]
    for number in range(first, first + copies):
        for text in templates:
            _add(world, json.loads(text.replace(NUMBER, str(number))), number)
    names = {"sub": books.shop.subscriptions[n], "cus": books.shop.customers[n], "invoice": books.invoices[n], **step}
    for table, which in ROWS.items():
        _copy(books, table, which.format(**names), first, first + copies - 1)


def _template(text: str) -> str:
    return re.sub(ID, rf"\g<1>x{NUMBER}", text)


def _of_customer(world: World, customer: str) -> Iterator[Row]:
    """Every row of its own, in the order in which they were made."""
    own = {customer}
    rows = [row for name, table in world.tables.items() if name != "event" for row in table.rows if row is not None]
    texts = {row["id"]: set(re.findall(ID, json.dumps(row))) for row in rows}
    while more := {id for id, named in texts.items() if id not in own and named & own and re.fullmatch(ID, id)}:
        own |= more
    yield from (row for row in rows if row["id"] in own)


def _add(world: World, row: Row, number: int) -> None:
    """Behind the sandbox's back: without an event, and without a trace in its journal."""
    if "step" in row.get("metadata", ()):
        row["metadata"]["step"] = str(number)
    world.table(row["object"]).add(row)
    world.kind[row["id"]] = row["object"]


def _copy(books: Books, table: str, which: str, first: int, last: int) -> None:
    own = {"agency_id": "1"} | ({NUMBERED[table]: "n"} if table in NUMBERED else {})
    own |= {"step_id": "n"} if table in ("refunds", "credit_notes", "balance_entries") else {}
    own |= {"grant_id": "n"} if table == "steps" else {}
    numbers = ", ".join(f"'{column}', {value}" for column, value in own.items())
    for (text,) in books.admin.execute(f"SELECT to_jsonb(t)::text FROM {table} t WHERE {which}").fetchall():
        books.sql(
            f"""
            INSERT INTO {table} OVERRIDING SYSTEM VALUE
            SELECT (row).* FROM generate_series({first}, {last}) n CROSS JOIN LATERAL jsonb_populate_record(
                NULL::{table}, replace(%s, '{NUMBER}', n::text)::jsonb || jsonb_build_object({numbers})) row
            """,
            _template(text),
        )
