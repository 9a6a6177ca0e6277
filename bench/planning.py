"""Planning 100,000 paid lines, beside bare SQL statements that compute the same, and beside a plain ORM loop.

The shortest statement only multiplies, adds and rounds per invoice. The second also keeps to what was paid, credited
and granted, which is what makes the sum right on any books. The third adds what else a plan tells: per agency and
currency how many grants for how many customers, a name for exactly these grants, how many subscriptions are paused.
None of them knows other incidents, netting between invoices, channels or policies. What of planning computes each
invoice's grant is shown by itself, beside the second; all of it beside the third. They take turns, and of each the best
turn counts.
Memory is this process's highest, above what it had before, for a tenth of the lines and for all of them.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.models import InvoiceLine, Plan, PlanWeight
from billing.money import round_half_up
from billing.outages import planning
from billing.outages.filling import Filling
from billing.outages.loss import OutageSpan, lost, schedule
from billing.windows import Window, unix
from sandbox import postgres
from tenants.db import OPERATOR, Database
from tenants.upgrade import upgrade

LINES = int(os.environ.get("SIZE") or 100_000)
STARTED, NOW = datetime(2019, 8, 22, 20, tzinfo=UTC), datetime(2019, 8, 26, 14, tzinfo=UTC)
TURNS = 9
FAIR = "SQL that keeps to what was paid"
WHOLE = "SQL that tells all that a plan tells"
GRANTS = "  each invoice's grant alone"

FILL = """
INSERT INTO plans (id, product_id, name, currency, metered, active, created_at)
SELECT 'price_' || n, 'prod', 'Plan', 'usd', false, true, now() FROM generate_series(0, 9) n;
INSERT INTO plan_weights SELECT 'price_' || n, p.id, 6000 FROM generate_series(0, 9) n, platforms p
WHERE p.slug = 'facebook';
INSERT INTO customers (agency_id, id, created_at) SELECT 1, 'cus_' || n, now() FROM generate_series(1, :lines) n;
INSERT INTO subscriptions (agency_id, id, customer_id, status, currency, collection_method, cancel_at_period_end,
    renews_at, created_at)
SELECT 1, 'sub_' || n, 'cus_' || n, 'active', 'usd', 'charge_automatically', false,
    timestamptz '2019-09-01' + n % 20 * interval '1 day', now()
FROM generate_series(1, :lines) n;
INSERT INTO subscription_items (agency_id, id, subscription_id, plan_id, quantity, period_start, period_end)
SELECT 1, 'si_' || n, 'sub_' || n, 'price_' || n % 10, 1, timestamptz '2019-08-01' + n % 20 * interval '1 day',
    timestamptz '2019-09-01' + n % 20 * interval '1 day'
FROM generate_series(1, :lines) n;
INSERT INTO invoices (agency_id, id, customer_id, subscription_id, status, currency, collection_method, auto_advance,
    automatic_tax, subtotal, total, amount_due, amount_paid, amount_remaining, paid_off_stripe, starting_balance,
    ending_balance, pre_payment_credited, post_payment_credited, created_at, paid_at)
SELECT 1, 'in_' || n, 'cus_' || n, 'sub_' || n, 'paid', 'usd', 'charge_automatically', false, false, 3100, 3100, 3100,
    3100, 0, 0, 0, 0, 0, 0, timestamptz '2019-08-01' + n % 20 * interval '1 day', now()
FROM generate_series(1, :lines) n;
INSERT INTO invoice_lines (agency_id, id, invoice_id, position, subscription_id, plan_id, quantity, amount, discount,
    net, tax, period_start, period_end, proration, metered)
SELECT 1, 'il_' || n, 'in_' || n, 0, 'sub_' || n, 'price_' || n % 10, 1, 3100, 0, 3100 + n % 700, 0,
    timestamptz '2019-08-01' + n % 20 * interval '1 day', timestamptz '2019-09-01' + n % 20 * interval '1 day', false,
    false
FROM generate_series(1, :lines) n;
INSERT INTO payments (agency_id, id, invoice_id, payment_intent, currency, status, captured)
SELECT 1, 'inpay_' || n, 'in_' || n, 'pi_' || n, 'usd', 'paid', 3100 FROM generate_series(1, :lines) n
"""
BARE = """
SELECT sum(owed) FROM (
    SELECT invoice_id, round(sum((net + tax) * w.weight_bp::numeric / 10000
        * extract(epoch FROM least(period_end, :now) - greatest(period_start, :started))
        / extract(epoch FROM period_end - period_start))) AS owed
    FROM invoice_lines l JOIN plan_weights w USING (plan_id)
    WHERE period_end > :started AND period_start < :now AND NOT metered
    GROUP BY invoice_id
) o
"""
_GRANTS = """
WITH lines AS (
    SELECT agency_id, invoice_id, round(sum((net + tax) * w.weight_bp::numeric / 10000
        * extract(epoch FROM least(period_end, :now) - greatest(period_start, :started))
        / extract(epoch FROM period_end - period_start))) AS owed
    FROM invoice_lines l JOIN plan_weights w USING (plan_id)
    WHERE period_end > :started AND period_start < :now AND NOT metered
    GROUP BY agency_id, invoice_id
),
paid AS (
    SELECT agency_id, invoice_id, sum(greatest(0, captured - reserved - refunded - elsewhere - disputed)) AS room,
           sum(elsewhere + disputed) AS gone
    FROM payments GROUP BY agency_id, invoice_id
),
noted AS (
    SELECT agency_id, invoice_id, sum(total - refunded) AS credited
    FROM credit_notes WHERE step_id IS NULL AND status <> 'void' GROUP BY agency_id, invoice_id
),
granted AS (
    SELECT agency_id, invoice_id, sum(amount) AS given
    FROM grants WHERE state NOT IN ('failed', 'cancelled') GROUP BY agency_id, invoice_id
),
found AS (
    SELECT agency_id, invoice_id, customer_id, currency, owed, least(
        greatest(0, owed - coalesce(given, 0)),
        greatest(0, total - coalesce(credited, 0) - coalesce(gone, 0) - coalesce(given, 0)),
        coalesce(room, 0)
    ) AS amount
    FROM lines
    JOIN (
        SELECT agency_id, id AS invoice_id, customer_id, currency, total FROM invoices WHERE status = 'paid'
    ) i USING (agency_id, invoice_id)
    LEFT JOIN paid USING (agency_id, invoice_id)
    LEFT JOIN noted USING (agency_id, invoice_id)
    LEFT JOIN granted USING (agency_id, invoice_id)
)
"""
WITHIN = _GRANTS + "SELECT sum(amount) FROM found"
TOLD = (
    _GRANTS
    + """
SELECT sum(t.amount), max(f.name), max(p.paused)
FROM (
    SELECT agency_id, currency, sum(amount) AS amount, sum(grants) AS grants, count(*) AS customers
    FROM (
        SELECT agency_id, currency, customer_id, sum(amount) AS amount, count(*) AS grants
        FROM found WHERE amount > 0 GROUP BY agency_id, currency, customer_id
    ) c
    GROUP BY agency_id, currency
) t
JOIN (
    SELECT agency_id, sha256(convert_to(string_agg(
        concat_ws('|', invoice_id, currency, amount, owed), E'\\n' ORDER BY hashtextextended(invoice_id, 0), invoice_id
    ), 'UTF8')) AS name
    FROM found WHERE amount > 0 GROUP BY agency_id
) f USING (agency_id)
LEFT JOIN (
    SELECT s.agency_id, count(*) AS paused
    FROM subscriptions s JOIN (
        SELECT DISTINCT agency_id, subscription_id FROM subscription_items JOIN plan_weights USING (plan_id)
    ) i ON i.agency_id = s.agency_id AND i.subscription_id = s.id
    WHERE s.status IN ('active', 'trialing', 'past_due', 'unpaid') GROUP BY s.agency_id
) p USING (agency_id)
"""
)


def planned(session: Session) -> int:
    plan = planning.plan(session, planning.proposed(session, planning.Declaration("facebook", STARTED)), NOW)
    return sum(total["amount"] for total in plan.totals)


def computing(seconds: list[float]) -> None:
    """From now on note how long planning takes to compute what each invoice gets."""
    compute = Filling.compute

    def timed(*given: Any, **named: Any) -> int:
        began = time.perf_counter()
        try:
            return compute(*given, **named)
        finally:
            seconds.append(time.perf_counter() - began)

    Filling.compute = timed  # type: ignore[method-assign]


def bare(session: Session) -> int:
    return int(session.execute(sa.text(BARE), {"now": NOW, "started": STARTED}).scalar_one())


def within(session: Session) -> int:
    return int(session.execute(sa.text(WITHIN), {"now": NOW, "started": STARTED}).scalar_one())


def told(session: Session) -> int:
    return int(session.execute(sa.text(TOLD), {"now": NOW, "started": STARTED}).one()[0])


def looped(session: Session) -> int:
    """As one would write it first: load every line, compute it in Python."""
    weights = {row.plan_id: row.weight_bp for row in session.scalars(sa.select(PlanWeight))}
    spans = [OutageSpan.over("facebook", Window(STARTED, NOW), 10_000)]
    steps = {
        plan.id: schedule({"facebook": weights[plan.id]}, spans, unix(NOW)) for plan in session.scalars(sa.select(Plan))
    }
    owed = 0
    for line in session.scalars(sa.select(InvoiceLine)).all():
        start, end = unix(line.period_start), unix(line.period_end)
        share = Fraction(lost(steps[line.plan_id or ""], start, end), 10**8 * (end - start))
        owed += round_half_up((line.net + line.tax) * share)
    return owed


def in_turn(database: Database, works: dict[str, Callable[[Session], int]], turns: int) -> dict[str, tuple[float, int]]:
    """The best of some turns of each, each in a unit of work of its own, and what it came to."""
    best: dict[str, tuple[float, int]] = {}
    for _ in range(turns):
        for name, work in works.items():
            with database.work(OPERATOR) as session:
                began = time.perf_counter()
                result = work(session)
                best[name] = min(best.get(name, (float("inf"), 0)), (time.perf_counter() - began, result))
    return best


def filled(server: postgres.Server, lines: int) -> str:
    urls = postgres.ensure_database(server, f"bench_{lines}")
    upgrade(urls.owner)
    database = Database(urls.app)
    with database.work(OPERATOR) as session:
        for statement in FILL.split(";"):
            session.execute(sa.text(statement), {"lines": lines} if ":lines" in statement else {})
    admin = sa.create_engine(urls.owner.replace("outage_owner@", "postgres@"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    admin.dispose()
    database.dispose()
    return urls.app


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ob-") as folder:
        os.chmod(folder, 0o755)  # the database's account has to reach its own folder
        with postgres.start(Path(folder) / "postgres", fsync=False) as server:
            url, small = filled(server, LINES), filled(server, LINES // 10)
            database = Database(url)
            computed: list[float] = []
            computing(computed)
            sums = in_turn(database, {"bare SQL": bare, FAIR: within, WHOLE: told, "planning": planned}, TURNS)
            parts = {GRANTS: (min(computed), sums["planning"][1])}
            sums |= parts | in_turn(database, {"ORM loop": looped}, 1)
            database.dispose()
            grown = [_memory(one) for one in (small, url)]
    assert len({result for _, result in sums.values()}) == 1, sums
    base, fair = sums["bare SQL"][0], sums[FAIR][0]
    print(f"\nPlanning {LINES:,} paid lines (goal: at most 1.5 x the SQL that computes the same)")
    for name, (seconds, _) in sums.items():
        print(f"  {name:<36} {seconds:7.2f} s   {seconds / fair:6.2f} x   ({seconds / base:6.2f} x the bare SQL)")
    print(f"  each invoice's grant alone is {sums[GRANTS][0] / fair:.2f} x the {FAIR},")
    print(f"  planning {sums['planning'][0] / sums[WHOLE][0]:.2f} x the {WHOLE}")
    print(f"  memory grew by {grown[0]:.0f} MB for {LINES // 10:,} lines, by {grown[1]:.0f} MB for {LINES:,}")


def _memory(url: str) -> float:
    """MB that planning adds to a fresh process's highest."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.planning", url], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return float(done.stdout.split()[-1])


def _measure(url: str) -> None:
    database = Database(url)
    with database.work(OPERATOR) as session:
        session.execute(sa.text("SELECT 1"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        planned(session)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


if __name__ == "__main__":
    _measure(sys.argv[1]) if len(sys.argv) > 1 else main()
