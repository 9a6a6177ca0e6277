"""Explaining one customer's grants among many, beside two bare SQL statements that read the same rows and say nothing.

The goal is an answer within 50 ms, however many grants there are.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bench.planning import LINES, NOW, STARTED, filled
from billing.outages import explain, incidents
from billing.outages.models import Grant
from billing.outages.planning import Declaration
from sandbox import postgres
from tenants.db import OPERATOR, Database
from tenants.models import Member

ASKED: Final = 300
ROWS: Final = """
SELECT g.*, l.*, p.name FROM grants g JOIN grant_lines l ON l.agency_id = g.agency_id AND l.grant_id = g.id
LEFT JOIN plans p ON p.id = l.plan_id
WHERE g.incident_id = :incident AND g.customer_id = :customer
"""
LOSSES: Final = "SELECT * FROM run_losses WHERE run_id = :run AND plan_id = ANY(:plans)"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ob-") as folder:
        os.chmod(folder, 0o755)  # the database's account has to reach its own folder
        with postgres.start(Path(folder) / "postgres", fsync=False) as server:
            database = Database(filled(server, LINES))
            incident = declared(database)
            with database.work(OPERATOR) as session:
                customers = list(session.scalars(sa.select(Grant.customer_id).distinct().order_by(Grant.customer_id)))
            chosen = random.Random(7).sample(customers, min(ASKED, len(customers)))
            words = {
                "bare SQL": timed(database, chosen, lambda session, customer: read(session, incident, customer)),
                "explain": timed(database, chosen, lambda session, one: explain.explain(session, incident, one)),
            }
            database.dispose()
    base = statistics.median(words["bare SQL"])
    print(f"\nExplaining one of {len(customers):,} customers (goal: 50 ms)")
    for name, took in words.items():
        middle, slow = statistics.median(took), sorted(took)[len(took) * 99 // 100]
        print(
            f"  {name:<12} median {middle * 1000:6.2f} ms   99 % within {slow * 1000:6.2f} ms   {middle / base:6.2f} x"
        )


def declared(database: Database) -> str:
    """Facebook was out, and it got better and worse a few times: schedules of several steps."""
    with database.work(OPERATOR) as session:
        finance = Member(email="finance@operator.example", role="finance")
        session.add(finance)
        session.flush()
        for hours in (0, 24, 48):
            window = STARTED + timedelta(hours=hours), STARTED + timedelta(hours=hours + 4)
            part = Declaration("facebook", window[0], window[1], impact_bp=1_000 + hours)
            last = incidents.declare(session, NOW, part, finance, "bench").id
    return last


def read(session: Session, incident: str, customer: str) -> Any:
    rows = session.execute(sa.text(ROWS), {"incident": incident, "customer": customer}).mappings().all()
    found = {"run": rows[0]["run_id"], "plans": [row["plan_id"] for row in rows]}
    return session.execute(sa.text(LOSSES), found).all()


def timed(database: Database, customers: list[str], work: Callable[[Session, str], Any]) -> list[float]:
    """Seconds for each customer, in a unit of work each, once the caches are warm."""
    took = []
    for customer in [*customers[:20], *customers]:
        began = time.perf_counter()
        with database.work(OPERATOR) as session:
            work(session, customer)
        took.append(time.perf_counter() - began)
    return took[20:]


if __name__ == "__main__":
    main()
