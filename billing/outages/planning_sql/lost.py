"""What the incidents took of each invoice: its lines and their plans' steps, added up in whole numbers.

Shares are counted in the largest part of 10^8 that divides them all (`:grain`), so that nearly every sum fits into a
bigint. `wide` are the invoices where it does not, or whose lines differ in length: theirs are in `wide_num` and
`wide_den`, as are later those of which a part was given back by others, or goes back whole.
"""

from typing import Final

# Most plans lost one stretch of time: that one needs no look at the others. Subqueries that end in OFFSET 0 are
# computed once and passed on row by row; without it every use of a column would compute its expression again.
_LINES: Final = """
    SELECT agency_id, invoice_id, line_id, touched, plain, charged, lost, length,
           CASE WHEN length < 10000000000 AND lost::float8 * abs(charged) < 1e15 THEN charged * lost END AS taken,
           CASE WHEN metered THEN NULL ELSE length END AS paid_ahead
    FROM (
        SELECT l.agency_id, l.invoice_id, l.line_id, l.metered, l.charged, l.ends - l.starts AS length,
               s.part * greatest(0, least(l.ends, s.ends) - greatest(l.starts, s.starts))
               + CASE WHEN s.steps = 1 THEN 0 ELSE (
                   SELECT coalesce(sum(m.part * (least(l.ends, m.ends) - greatest(l.starts, m.starts))), 0)::bigint
                   FROM plan_steps m
                   WHERE m.grp = s.grp AND m.plan_id = s.plan_id AND m.no > 1
                   AND m.starts < l.ends AND m.ends > l.starts
               ) END AS lost,
               s.touched AND l.starts < a.until AND l.ends > a.since AS touched, a.plain
        FROM (
            SELECT agency_id, invoice_id, id AS line_id, plan_id, metered,
                   CASE WHEN metered THEN 0 ELSE net + tax END AS charged,
                   date_part('epoch', period_start)::bigint AS starts, date_part('epoch', period_end)::bigint AS ends
            FROM invoice_lines
            WHERE period_end > to_timestamp(:first) AND period_start < to_timestamp(:last) {among}
            OFFSET 0
        ) l
        JOIN plan_agencies a ON a.agency_id = l.agency_id
        JOIN plan_steps s ON s.grp = a.grp AND s.plan_id = l.plan_id AND s.no = 1
        OFFSET 0
    ) l
    WHERE lost > 0
"""

# Where one line alone lost something (`lines` is 1), `line_id`, `lost` (in 10^-8 seconds) and `longest` are its own.
# Metered lines carry no prepaid time: they are counted, and that is all.
WHOLE: Final = f"""
CREATE TEMP TABLE plan_whole ON COMMIT DROP AS
SELECT agency_id, CASE WHEN wide THEN 0 ELSE num END AS num, CASE WHEN wide THEN 1 ELSE coalesce(den, 1) END AS den,
       coalesce(longest, 1) AS longest, wide, plain AND NOT wide AS may_be_plain, touched, lines,
       entries - lines AS metered, lost * :grain AS lost, NULL::bigint AS whole_paid, NULL::bigint AS whole_charged,
       invoice_id, line_id, CASE WHEN wide THEN 0::numeric END AS wide_num,
       CASE WHEN wide THEN 1::numeric END AS wide_den
FROM (
    SELECT agency_id, invoice_id, sum_of(taken) AS num, min(paid_ahead) AS den, max(paid_ahead) AS longest,
           count(taken) < count(*) OR coalesce(min(paid_ahead) < max(paid_ahead), false) AS wide,
           bool_or(touched) AS touched, bool_and(plain) AS plain, count(paid_ahead) AS lines, count(*) AS entries,
           min(lost) FILTER (WHERE paid_ahead IS NOT NULL) AS lost,
           min(line_id) FILTER (WHERE paid_ahead IS NOT NULL) AS line_id
    FROM ({_LINES.format(among="")}) l
    GROUP BY agency_id, invoice_id
) w
"""  # noqa: S608 - constants only

# The planner has to know that there are as many invoices as rows, and how few are wide; a small sample tells it.
KNOWN: Final = ("SET LOCAL default_statistics_target = 10", "ANALYZE plan_whole (agency_id, invoice_id, wide)")

# Lines of different lengths meet on their least common multiple.
WIDE: Final = f"""
UPDATE plan_whole w SET wide_num = m.num, wide_den = m.den
FROM (
    SELECT agency_id, invoice_id, den, sum(charged * lost * div(den, length)) AS num
    FROM (
        SELECT agency_id, invoice_id, charged::numeric, lost::numeric, length::numeric,
               lcm_of(length) OVER (PARTITION BY agency_id, invoice_id) AS den
        FROM ({
    _LINES.format(among="AND (agency_id, invoice_id) IN (SELECT agency_id, invoice_id FROM plan_whole WHERE wide)")
}) l
        WHERE paid_ahead IS NOT NULL
    ) l
    GROUP BY agency_id, invoice_id, den
) m
WHERE m.agency_id = w.agency_id AND m.invoice_id = w.invoice_id
"""  # noqa: S608 - constants only

# An incident that was cut takes its losses with it, and with them the invoices: what it gave them has to be looked at.
REACHED: Final = """
CREATE TEMP TABLE plan_reached ON COMMIT DROP AS
SELECT g.agency_id, g.invoice_id, g.currency
FROM grants g JOIN plan_agencies USING (agency_id)
JOIN grant_lines l ON l.agency_id = g.agency_id AND l.grant_id = g.id
WHERE (
    EXISTS (SELECT FROM runs r WHERE r.incident_id = :incident)
    OR EXISTS (SELECT FROM incident_versions v WHERE v.incident_id = :incident AND v.no > 1)
)
AND (g.state = ANY(:live) OR g.incident_id = :incident) AND l.plan_id = ANY(:plans)
AND l.period_start < to_timestamp(:until) AND l.period_end > to_timestamp(:since)
UNION
SELECT w.agency_id, w.invoice_id, w.currency FROM goodwill w WHERE w.incident_id = :incident
"""
TOUCH_REACHED: Final = """
UPDATE plan_whole w SET touched = true FROM plan_reached r
WHERE r.agency_id = w.agency_id AND r.invoice_id = w.invoice_id AND NOT w.touched
"""
TOUCH_EVERYTHING: Final = "UPDATE plan_whole SET touched = true WHERE NOT touched"

# What succeeded while an incident under the policy `full` went on, and has gone back no other way. What was paid from
# the balance or outside Stripe was paid when the invoice was.
WHOLE_PAYMENTS: Final = """
INSERT INTO plan_whole_payments
WITH meanwhile AS (
    SELECT p.agency_id, p.invoice_id, p.id,
           greatest(0, p.captured - p.elsewhere - CASE WHEN p.dispute_open THEN 0 ELSE p.disputed END) AS paid,
           bool_or(f.this) AS this
    FROM plan_full f
    JOIN payments p ON p.agency_id = f.agency_id AND p.paid_at >= f.since AND p.paid_at < f.until AND p.captured > 0
    WHERE (p.payment_intent IS NOT NULL OR p.charge IS NOT NULL) AND EXISTS (
        SELECT FROM invoice_lines l
        WHERE l.agency_id = p.agency_id AND l.invoice_id = p.invoice_id AND l.plan_id = f.plan_id
    )
    GROUP BY p.agency_id, p.id
    UNION ALL
    SELECT i.agency_id, i.id, i.id,
           greatest(0, i.ending_balance - i.starting_balance) + greatest(i.paid_off_stripe, (
               SELECT coalesce(sum(p.captured), 0) FROM payments p
               WHERE p.agency_id = i.agency_id AND p.invoice_id = i.id AND p.payment_intent IS NULL AND p.charge IS NULL
           )), bool_or(f.this)
    FROM plan_full f JOIN invoices i ON i.agency_id = f.agency_id AND i.paid_at >= f.since AND i.paid_at < f.until
    WHERE EXISTS (
        SELECT FROM invoice_lines l
        WHERE l.agency_id = i.agency_id AND l.invoice_id = i.id AND l.plan_id = f.plan_id
    )
    GROUP BY i.agency_id, i.id
)
SELECT m.agency_id, m.invoice_id, m.paid, c.charged, c.lines, c.metered, m.this
FROM (
    SELECT agency_id, invoice_id, sum(paid)::bigint AS paid, bool_or(this) AS this FROM meanwhile WHERE paid > 0
    GROUP BY agency_id, invoice_id
) m
CROSS JOIN LATERAL (
    SELECT coalesce(sum(l.net + l.tax) FILTER (WHERE NOT l.metered), 0)::bigint AS charged,
           count(*) FILTER (WHERE NOT l.metered) AS lines, count(*) FILTER (WHERE l.metered) AS metered
    FROM invoice_lines l WHERE l.agency_id = m.agency_id AND l.invoice_id = m.invoice_id
) c
"""
TOUCH_WHOLE: Final = (
    """
    UPDATE plan_whole w
    SET touched = w.touched OR x.this, whole_paid = x.paid, whole_charged = x.charged FROM plan_whole_payments x
    WHERE x.agency_id = w.agency_id AND x.invoice_id = w.invoice_id
    """,
    """
    INSERT INTO plan_whole (
        agency_id, invoice_id, touched, lines, metered, num, den, longest, wide, may_be_plain, whole_paid, whole_charged
    )
    SELECT x.agency_id, x.invoice_id, x.this, x.lines, x.metered, 0, 1, 1, false, false, x.paid, x.charged
    FROM plan_whole_payments x
    WHERE NOT EXISTS (
        SELECT FROM plan_whole w WHERE w.agency_id = x.agency_id AND w.invoice_id = x.invoice_id
    )
    """,
    "ANALYZE plan_whole (agency_id, invoice_id, wide)",
)

# Subscriptions that had something taken back: only there one invoice changes what another is owed.
TURNED: Final = (
    """
    CREATE TEMP TABLE plan_turned ON COMMIT DROP AS
    SELECT DISTINCT i.agency_id, i.subscription_id
    FROM plan_whole w JOIN invoices i ON i.agency_id = w.agency_id AND i.id = w.invoice_id
    WHERE i.subscription_id IS NOT NULL AND (w.num < 0 OR w.wide_num < 0 OR w.whole_charged < 0)
    """,
    "ANALYZE plan_turned",
)
