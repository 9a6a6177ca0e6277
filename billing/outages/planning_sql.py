"""The plan of grants as SQL: one pass over the mirror, in whole numbers, from lines to parts.

What `billing.outages.loss` says for one subscription, said for all of them at once; a test holds the two together.
Fractions are kept as numerator and denominator. The tables live as long as their transaction: `plan_agencies` and
`plan_steps` are what planning was told, `plan_lines` what was lost of each line, `plan_invoices` what each invoice
gets, `plan_parts` what each line gets of that.
"""

from typing import Final

LIVE: Final = (
    "approved", "sent", "pending", "unknown", "succeeded", "blocked", "needs_person", "given_elsewhere",
)  # fmt: skip
"""States of a grant in which its amount is with the customer, on its way there, or was given by somebody else."""

SETTINGS: Final = ("SET LOCAL work_mem = '64MB'", "SET LOCAL jit = off")
"""A plan is a few large aggregations: in memory they take half the time, and to compile them takes longer still."""

TABLES: Final = (
    """
    DROP TABLE IF EXISTS
        pg_temp.plan_agencies, pg_temp.plan_steps, pg_temp.plan_lines, pg_temp.plan_invoices, pg_temp.plan_parts
    """,
    "CREATE TEMP TABLE plan_agencies (agency_id bigint PRIMARY KEY, grp int, policy text) ON COMMIT DROP",
    """
    CREATE TEMP TABLE plan_steps (
        grp int, plan_id text, no int, starts bigint, ends bigint, share bigint, steps int, touched boolean,
        PRIMARY KEY (grp, plan_id, no)
    ) ON COMMIT DROP
    """,
)

FILL_AGENCIES: Final = """
INSERT INTO plan_agencies
SELECT a.id, told.grp, coalesce(:policy, a.policy)
FROM unnest(CAST(:agencies AS bigint[]), CAST(:groups AS int[])) AS told(id, grp) JOIN agencies a USING (id)
"""

FILL_STEPS: Final = """
INSERT INTO plan_steps
SELECT * FROM unnest(
    CAST(:groups AS int[]), CAST(:plans AS text[]), CAST(:nos AS int[]), CAST(:starts AS bigint[]),
    CAST(:ends AS bigint[]), CAST(:shares AS bigint[]), CAST(:steps AS int[]), CAST(:touched AS boolean[])
)
"""

# Most plans lost one stretch of time: that one needs no look at the others.
LINES: Final = """
CREATE TEMP TABLE plan_lines ON COMMIT DROP AS
SELECT * FROM (
    SELECT l.agency_id, l.invoice_id, l.id AS line_id, l.plan_id, l.charged, l.metered,
           (l.ends - l.starts)::numeric AS length,
           s.share * greatest(0, least(l.ends, s.ends) - greatest(l.starts, s.starts))
           + CASE WHEN s.steps = 1 THEN 0 ELSE (
               SELECT coalesce(sum(m.share * (least(l.ends, m.ends) - greatest(l.starts, m.starts))), 0)::bigint
               FROM plan_steps m
               WHERE m.grp = s.grp AND m.plan_id = s.plan_id AND m.no > 1 AND m.starts < l.ends AND m.ends > l.starts
           ) END AS lost,
           s.touched AND l.starts < :until AND l.ends > :since AS touched
    FROM (
        SELECT a.grp, l.agency_id, l.invoice_id, l.id, l.plan_id, l.metered,
               CASE WHEN l.metered THEN 0 ELSE l.net + l.tax END::numeric AS charged,
               date_part('epoch', l.period_start)::bigint AS starts, date_part('epoch', l.period_end)::bigint AS ends
        FROM plan_agencies a JOIN invoice_lines l ON l.agency_id = a.agency_id
        WHERE l.period_end > to_timestamp(:first) AND l.period_start < to_timestamp(:last)
        AND l.period_end > l.period_start
        OFFSET 0
    ) l
    JOIN plan_steps s ON s.grp = l.grp AND s.plan_id = l.plan_id AND s.no = 1
) l
WHERE lost > 0
"""

# Materialized where many expressions further down would otherwise be computed again in each of their uses.
INVOICES: Final = """
CREATE TEMP TABLE plan_invoices ON COMMIT DROP AS
WITH whole AS (
    SELECT agency_id, invoice_id, bool_or(touched) AS touched, count(*) FILTER (WHERE NOT metered) AS lines,
           count(*) FILTER (WHERE metered) AS metered, min(length) AS shortest, max(length) AS longest,
           sum(charged * lost) AS num
    FROM plan_lines GROUP BY agency_id, invoice_id
),
mixed AS (
    -- Lines of different lengths meet on their least common multiple.
    SELECT agency_id, invoice_id, den, sum(charged * lost * div(den, length)) AS num
    FROM (
        SELECT l.*, lcm_of(l.length) OVER (PARTITION BY l.agency_id, l.invoice_id) AS den
        FROM plan_lines l JOIN whole w USING (agency_id, invoice_id) WHERE w.shortest <> w.longest
    ) l
    GROUP BY agency_id, invoice_id, den
),
paid AS (
    SELECT p.agency_id, p.invoice_id, count(*) FILTER (WHERE p.captured > 0 AND p.through_stripe) AS payments,
           coalesce(sum(p.captured) FILTER (WHERE p.through_stripe), 0) AS by_card,
           coalesce(sum(p.captured) FILTER (WHERE NOT p.through_stripe), 0) AS outside,
           coalesce(sum(p.room - p.room % coalesce(u.unit, 1)) FILTER (WHERE p.through_stripe), 0) AS available,
           coalesce(sum(p.elsewhere), 0) + coalesce(sum(p.disputed) FILTER (WHERE NOT p.dispute_open), 0) AS gone,
           bool_or(p.dispute_open) AS dispute_open
    FROM (
        SELECT p.*, p.payment_intent IS NOT NULL OR p.charge IS NOT NULL AS through_stripe,
               greatest(0, p.captured - p.reserved - p.refunded - p.elsewhere - p.disputed) AS room
        FROM payments p JOIN whole USING (agency_id, invoice_id)
    ) p
    LEFT JOIN unnest(CAST(:odd_currencies AS text[]), CAST(:odd_units AS bigint[])) AS u(currency, unit)
    ON u.currency = p.currency
    GROUP BY p.agency_id, p.invoice_id
),
noted AS (
    -- What others credited; the refunds that their notes made or linked are among the payments' `elsewhere` already.
    SELECT n.agency_id, n.invoice_id, sum(n.total - n.refunded) AS credited
    FROM credit_notes n JOIN whole USING (agency_id, invoice_id)
    WHERE n.step_id IS NULL AND n.status <> 'void'
    GROUP BY n.agency_id, n.invoice_id
),
granted AS (
    SELECT g.agency_id, g.invoice_id, sum(g.amount) AS before, sum(g.amount - g.reduce) AS settled,
           coalesce(sum(g.credit) FILTER (WHERE g.fallback_of IS NULL), 0) AS credit,
           coalesce(sum(g.out_of_band) FILTER (WHERE g.fallback_of IS NULL), 0) AS out_of_band,
           coalesce(sum(g.reduce) FILTER (WHERE NOT s.reduced), 0) AS reducing, coalesce(sum(s.unsent), 0) AS unsent
    FROM grants g JOIN whole USING (agency_id, invoice_id)
    CROSS JOIN LATERAL (
        -- Steps take their room on a payment when they are first sent; until then it has to be kept free for them.
        SELECT sum(s.refund) FILTER (
                   WHERE s.first_sent_at IS NULL AND s.state IN ('approved', 'blocked', 'needs_person')
               ) AS unsent,
               coalesce(bool_or(s.kind IN ('credit_note', 'void') AND s.stripe_id IS NOT NULL), false) AS reduced
        FROM steps s WHERE s.agency_id = g.agency_id AND s.grant_id = g.id
    ) s
    WHERE g.state = ANY(:live)
    GROUP BY g.agency_id, g.invoice_id
),
based AS (
    SELECT b.agency_id, b.invoice_id, max(b.seq) AS seq
    FROM basis b JOIN whole USING (agency_id, invoice_id) GROUP BY b.agency_id, b.invoice_id
),
valued AS (
    SELECT i.agency_id, i.id AS invoice_id, i.customer_id, i.subscription_id, i.currency, i.status, i.total,
           i.created_at, i.amount_remaining, greatest(0, i.ending_balance - i.starting_balance) AS by_balance, a.policy,
           greatest(i.paid_off_stripe, p.outside) AS outside, p.by_card, p.available, p.payments, p.dispute_open,
           w.touched, w.lines, w.metered, b.standing, b.base_num, b.base_den,
           coalesce(m.num, w.num) * b.base_num AS num,
           coalesce(m.den, w.shortest) * b.base_den * 100000000 AS den,
           CASE
               WHEN i.status IN ('paid', 'open') THEN NULL
               WHEN i.status = 'draft' AND :with_drafts AND i.billing_reason LIKE 'subscription%' AND EXISTS (
                   SELECT FROM pauses h
                   WHERE h.agency_id = i.agency_id AND h.subscription_id = i.subscription_id
                   AND h.state IN ('planned', 'held', 'releasing', 'released')
               ) THEN NULL
               WHEN i.status = 'draft' AND NOT :with_drafts THEN 'held_draft'
               ELSE i.status
           END AS outside_of_plan
    FROM whole w
    JOIN plan_agencies a USING (agency_id)
    JOIN invoices i ON i.agency_id = w.agency_id AND i.id = w.invoice_id AND i.status <> 'deleted'
    LEFT JOIN mixed m ON m.agency_id = w.agency_id AND m.invoice_id = w.invoice_id
    LEFT JOIN noted n ON n.agency_id = w.agency_id AND n.invoice_id = w.invoice_id
    LEFT JOIN paid p ON p.agency_id = w.agency_id AND p.invoice_id = w.invoice_id
    CROSS JOIN LATERAL (
        SELECT least(greatest(i.total, 0), greatest(0, i.total - coalesce(n.credited, 0) - coalesce(p.gone, 0)))
            AS standing
    ) s
    CROSS JOIN LATERAL (
        SELECT s.standing,
               CASE WHEN i.total <= 0 OR s.standing = i.total THEN 1 ELSE s.standing END AS base_num,
               CASE WHEN i.total <= 0 OR s.standing = i.total THEN 1 ELSE i.total END AS base_den
    ) b
),
turned AS (
    -- Subscriptions that had something taken back: only there one invoice changes what another is owed.
    SELECT DISTINCT agency_id, subscription_id FROM valued
    WHERE num < 0 AND subscription_id IS NOT NULL AND outside_of_plan IS NULL
),
netted AS (
    SELECT agency_id, invoice_id, highest - lag(highest, 1, 0::numeric) OVER newest_first AS num, den
    FROM (
        SELECT *, greatest(0, max(running) OVER newest_first) AS highest
        FROM (
            SELECT *, sum(own * div(den, own_den)) OVER newest_first AS running
            FROM (
                SELECT v.agency_id, v.invoice_id, v.subscription_id, v.created_at, v.num AS own, v.den AS own_den,
                       lcm_of(v.den) OVER (PARTITION BY v.agency_id, v.subscription_id) AS den
                FROM valued v JOIN turned USING (agency_id, subscription_id) WHERE v.outside_of_plan IS NULL
            ) t
            WINDOW newest_first AS (PARTITION BY agency_id, subscription_id ORDER BY created_at DESC, invoice_id DESC)
        ) t
        WINDOW newest_first AS (PARTITION BY agency_id, subscription_id ORDER BY created_at DESC, invoice_id DESC)
    ) t
    WINDOW newest_first AS (PARTITION BY agency_id, subscription_id ORDER BY created_at DESC, invoice_id DESC)
),
rounded AS MATERIALIZED (
    SELECT v.*, e.num AS exact_num, e.den AS exact_den, div(2 * e.num + e.den, 2 * e.den)::bigint AS rounded,
           coalesce(g.before, 0)::bigint AS before, coalesce(g.settled, 0) AS settled,
           coalesce(g.credit, 0) AS credit_before, coalesce(g.out_of_band, 0) AS outside_before,
           coalesce(g.reducing, 0) AS reducing,
           coalesce(v.available, 0) - coalesce(g.unsent, 0) AS refundable, coalesce(b.seq, 0) + 1 AS basis_seq,
           coalesce(u.unit, 1) AS unit
    FROM valued v
    LEFT JOIN netted n ON n.agency_id = v.agency_id AND n.invoice_id = v.invoice_id
    CROSS JOIN LATERAL (SELECT coalesce(n.num, greatest(v.num, 0)) AS num, coalesce(n.den, v.den) AS den) e
    LEFT JOIN granted g ON g.agency_id = v.agency_id AND g.invoice_id = v.invoice_id
    LEFT JOIN based b ON b.agency_id = v.agency_id AND b.invoice_id = v.invoice_id
    LEFT JOIN unnest(CAST(:odd_currencies AS text[]), CAST(:odd_units AS bigint[])) AS u(currency, unit)
    ON u.currency = v.currency
    WHERE v.touched
),
wanted AS (
    SELECT r.*, greatest(0, rounded - before) AS want,
           CASE
               WHEN outside_of_plan IS NOT NULL THEN outside_of_plan
               WHEN dispute_open THEN 'disputed'
               WHEN policy = 'none' THEN 'policy_none'
           END AS reason,
           least(greatest(0, rounded - before), greatest(0, standing - before)) AS fits
    FROM rounded r
),
reduced AS MATERIALIZED (
    SELECT w.*, CASE WHEN reason IS NULL THEN fits - fits % unit ELSE 0 END AS can,
           CASE status WHEN 'draft' THEN standing
                       WHEN 'open' THEN greatest(0, amount_remaining - reducing) ELSE 0 END AS due
    FROM wanted w
),
parted AS (
    SELECT r.*, least(can, due - due % unit) AS reduce,
           can - least(can, due - due % unit) AS rest, by_balance + coalesce(outside, 0) + coalesce(by_card, 0) AS paid
    FROM reduced r
),
shared AS (
    -- In the proportion in which it was paid, over all runs together: a cent that one run missed the next makes up.
    SELECT p.*,
           CASE WHEN by_balance = 0 OR rest = 0 THEN 0 ELSE least(rest, greatest(0,
               unit * div(2 * (settled + rest)::numeric * by_balance + paid * unit, 2 * paid * unit) - credit_before
           )) END AS balance_part,
           CASE WHEN coalesce(outside, 0) = 0 OR rest = 0 THEN 0 ELSE least(rest, greatest(0,
               unit * div(2 * (settled + rest)::numeric * outside + paid * unit, 2 * paid * unit) - outside_before
           )) END AS outside_part
    FROM parted p
),
carded AS (
    SELECT s.*, least(outside_part, rest - balance_part) AS out_of_band,
           least(rest - balance_part - least(outside_part, rest - balance_part), greatest(0, refundable)) AS money,
           policy = 'credit' AND EXISTS (
               SELECT FROM subscriptions b
               WHERE b.agency_id = s.agency_id AND b.id = s.subscription_id
               AND b.status NOT IN ('canceled', 'incomplete_expired')
           ) AS to_balance
    FROM shared s
)
SELECT agency_id, invoice_id, customer_id, subscription_id, currency, policy, lines, metered, base_num, base_den,
       exact_num, exact_den, rounded, before, basis_seq, unit, reason, want,
       (CASE WHEN to_balance THEN 0 ELSE money END)::bigint AS refund,
       (balance_part + CASE WHEN to_balance THEN money ELSE 0 END)::bigint AS credit,
       reduce::bigint, out_of_band::bigint, (reduce + balance_part + out_of_band + money)::bigint AS amount
FROM carded
"""

# Every column that decides what is sent, and on which past: a change of any of them is another plan.
SUMMARY: Final = """
SELECT agency_id, policy, count(*) FILTER (WHERE amount > 0) AS grants,
       encode(sha256(convert_to(coalesce(string_agg(
           concat_ws('|', invoice_id, currency, amount, refund, credit, reduce, out_of_band, exact_num, exact_den,
                     before, basis_seq),
           E'\\n' ORDER BY invoice_id COLLATE "C") FILTER (WHERE amount > 0), ''), 'UTF8')), 'hex') AS fingerprint
FROM plan_invoices GROUP BY agency_id, policy ORDER BY agency_id
"""

TOTALS: Final = """
SELECT agency_id, currency, sum(amount)::bigint AS amount, count(*) AS grants, count(DISTINCT customer_id) AS customers,
       sum(refund)::bigint AS refund, sum(credit)::bigint AS credit, sum(reduce)::bigint AS reduce,
       sum(out_of_band)::bigint AS out_of_band
FROM plan_invoices WHERE amount > 0 GROUP BY agency_id, currency ORDER BY agency_id, currency
"""

LEFT_OUT: Final = """
SELECT agency_id, reason, currency, sum(count)::bigint AS count, sum(amount)::bigint AS amount
FROM (
    SELECT agency_id, currency, 1 AS count, want - amount AS amount,
           CASE WHEN reason IS NOT NULL THEN reason
                WHEN want - amount < unit THEN 'currency_rounding' ELSE 'nothing_refundable' END AS reason
    FROM plan_invoices WHERE want > amount
    UNION ALL
    SELECT agency_id, currency, metered, 0, 'metered' FROM plan_invoices WHERE metered > 0 AND reason IS NULL
) l
GROUP BY agency_id, reason, currency ORDER BY agency_id, reason, currency
"""

TO_PAUSE: Final = """
SELECT s.agency_id, s.id, s.renews_at
FROM subscriptions s JOIN plan_agencies a ON a.agency_id = s.agency_id
WHERE s.status IN ('active', 'trialing', 'past_due', 'unpaid') AND EXISTS (
    SELECT FROM subscription_items i
    WHERE i.agency_id = s.agency_id AND i.subscription_id = s.id AND i.plan_id = ANY(:plans)
)
"""

PARTS: Final = """
CREATE TEMP TABLE plan_parts ON COMMIT DROP AS
SELECT l.agency_id, l.invoice_id, l.line_id, i.amount
FROM plan_lines l JOIN plan_invoices i USING (agency_id, invoice_id)
WHERE i.amount > 0 AND i.lines = 1 AND NOT l.metered AND (i.before = 0 OR NOT EXISTS (
    SELECT FROM grants g JOIN grant_lines o ON o.agency_id = g.agency_id AND o.grant_id = g.id
    WHERE g.agency_id = l.agency_id AND g.invoice_id = l.invoice_id AND g.state = ANY(:live) AND o.line_id <> l.line_id
))
"""

LINES_OF_GRANTS: Final = """
SELECT i.*, l.id AS line_id, l.position, l.plan_id, l.net, l.tax, l.metered, l.period_start, l.period_end, a.grp,
       coalesce(b.before, 0)::bigint AS line_before, x.slug, p.amount AS part
FROM plan_invoices i
JOIN plan_agencies a USING (agency_id)
JOIN agencies x ON x.id = i.agency_id
JOIN invoice_lines l ON l.agency_id = i.agency_id AND l.invoice_id = i.invoice_id
LEFT JOIN plan_parts p ON p.agency_id = l.agency_id AND p.invoice_id = l.invoice_id AND p.line_id = l.id
LEFT JOIN LATERAL (
    SELECT sum(o.amount) AS before FROM grants g JOIN grant_lines o ON o.agency_id = g.agency_id AND o.grant_id = g.id
    WHERE i.before > 0 AND g.agency_id = i.agency_id AND g.invoice_id = i.invoice_id AND o.line_id = l.id
    AND g.state = ANY(:live)
) b ON true
WHERE i.amount > 0 AND (:every OR NOT EXISTS (
    SELECT FROM plan_parts o WHERE o.agency_id = i.agency_id AND o.invoice_id = i.invoice_id
))
ORDER BY i.agency_id, i.invoice_id COLLATE "C", l.position, l.id
"""

ADD_PARTS: Final = """
INSERT INTO plan_parts
SELECT * FROM unnest(
    CAST(:agencies AS bigint[]), CAST(:invoices AS text[]), CAST(:lines AS text[]), CAST(:amounts AS bigint[])
)
"""
