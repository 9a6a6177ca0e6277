"""Writers that are at work on the same rows at the same time."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import sqlalchemy as sa

from billing.models import Plan
from billing.upserts import upsert
from tenants.db import OPERATOR, Database

MANY, ROUNDS = 400, 12


def _plans(name: str) -> list[dict[str, Any]]:
    return [
        {
            "id": f"price_{number:04d}", "product_id": "prod_1", "name": name, "currency": "usd", "metered": False,
            "active": True, "created_at": datetime(2019, 8, 1, tzinfo=UTC),
        }
        for number in range(MANY)
    ]  # fmt: skip


def test_the_same_rows_in_opposite_orders_wait_for_each_other(db: Database) -> None:
    together = Barrier(2)

    def write(rows: Sequence[dict[str, Any]]) -> None:
        together.wait(10)
        with db.work(OPERATOR) as session:
            upsert(session, Plan, rows)

    with ThreadPoolExecutor(2) as pool:
        for number in range(ROUNDS):
            rows = _plans(f"Plan {number}")
            for done in [pool.submit(write, rows), pool.submit(write, rows[::-1])]:
                done.result()
    with db.work(OPERATOR) as session:
        names = sa.select(Plan.name, sa.func.count()).group_by(Plan.name)
        assert [tuple(row) for row in session.execute(names)] == [(f"Plan {ROUNDS - 1}", MANY)]
