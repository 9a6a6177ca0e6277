"""What each invoice gets: what is owed for it, less what it had before, never above what was paid; and by which way.

Nearly every invoice is plain: it was paid by card, stands as it was billed, had nothing before, and what is owed for it
fits into a bigint. The first statement computes those. `REST` are the others, and `INVOICES` says for them the same and
all that the first leaves out; a test holds the two together.
"""

from typing import Final

from billing.outages.planning_sql import BILLED_AGAIN

_PLAIN: Final = """
CREATE TEMP TABLE plan_invoices ON COMMIT DROP AS
WITH cards AS (
    SELECT agency_id, invoice_id,
           sum_of(greatest(0, captured - CASE WHEN :afresh THEN 0 ELSE reserved + refunded END)) AS available,
           bool_or(elsewhere > 0 OR disputed > 0 OR dispute_open OR (payment_intent IS NULL AND charge IS NULL)) AS more
    FROM payments {among}
    GROUP BY agency_id, invoice_id
),
special AS (
    SELECT DISTINCT agency_id, invoice_id FROM (
        SELECT agency_id, invoice_id FROM credit_notes WHERE step_id IS NULL AND status <> 'void'
        UNION ALL SELECT agency_id, invoice_id FROM grants WHERE state = ANY(:live)
        UNION ALL SELECT agency_id, invoice_id FROM goodwill
        UNION ALL SELECT agency_id, invoice_id FROM basis
        UNION ALL SELECT agency_id, invoice_id FROM frozen_invoices WHERE lifted_at IS NULL
        UNION ALL SELECT i.agency_id, i.id FROM plan_turned JOIN invoices i USING (agency_id, subscription_id)
        UNION ALL SELECT i.agency_id, i.id FROM plan_choices JOIN invoices i USING (agency_id, customer_id)
    ) s
)
SELECT agency_id, CASE WHEN plain THEN amount END AS amount, amount AS refund, 0::bigint AS credit, 0::bigint AS reduce,
       0::bigint AS out_of_band, num, den, 0::bigint AS before, 1::bigint AS basis_seq, rounded AS want,
       0::bigint AS waived, metered, 1::bigint AS unit, rounded, 0::bigint AS given, lines, touched,
       1::bigint AS base_num, 1::bigint AS base_den, 0::bigint AS whole_num, 1::bigint AS whole_den, length, invoice_id,
       customer_id, currency, subscription_id, line_id, lost, NULL::text AS reason, NULL::numeric AS wide_num,
       NULL::numeric AS wide_den, NULL::text[] AS waives, NULL::numeric AS own_num, NULL::numeric AS own_den,
       0::bigint AS by_others
FROM (
    SELECT *, least(rounded, total, available) AS amount
    FROM (
        SELECT w.agency_id, w.num, w.den * :whole AS den, w.touched, w.lines, w.metered, w.lost, w.longest AS length,
               w.invoice_id, w.line_id, i.customer_id, i.currency, i.subscription_id, i.total, p.available,
               (2 * w.num + w.den * :whole) / (2 * w.den * :whole) AS rounded,
               w.may_be_plain AND w.num >= 0 AND w.whole_paid IS NULL AND s.invoice_id IS NULL AND p.more IS FALSE
               AND i.status = 'paid' AND i.total > 0 AND i.ending_balance <= i.starting_balance
               AND i.paid_off_stripe = 0 AND NOT (:afresh AND i.pre_payment_credited > 0)
               AND i.currency <> ALL(CAST(:odd_currencies AS text[])) AS plain
        FROM plan_whole w
        JOIN invoices i ON i.agency_id = w.agency_id AND i.id = w.invoice_id AND i.status <> 'deleted'
        LEFT JOIN special s ON s.agency_id = w.agency_id AND s.invoice_id = w.invoice_id
        LEFT JOIN cards p ON p.agency_id = w.agency_id AND p.invoice_id = w.invoice_id
        OFFSET 0
    ) i
    WHERE touched OR NOT plain
    OFFSET 0
) i
"""
# Whoever bills by the month has a good part of all payments in a plan: then to add up all of them is the shorter way.
PLAIN_OF_ALL: Final = _PLAIN.replace("{among}", "")
PLAIN_OF_THEIRS: Final = _PLAIN.replace("{among}", "JOIN plan_whole USING (agency_id, invoice_id)")
PAYMENTS: Final = "SELECT reltuples::bigint FROM pg_class WHERE oid = 'payments'::regclass"
"""How many there are, as PostgreSQL last estimated it."""

REST: Final = (
    "CREATE TEMP TABLE plan_rest (agency_id bigint, invoice_id text) ON COMMIT DROP",
    """
    WITH rest AS (DELETE FROM plan_invoices WHERE amount IS NULL RETURNING agency_id, invoice_id)
    INSERT INTO plan_rest SELECT agency_id, invoice_id FROM rest
    """,
)
# The planner has to know how few they are.
INVOICES: Final = (
    "ANALYZE plan_rest",
    """
INSERT INTO plan_invoices
WITH paid AS (
    SELECT p.agency_id, p.invoice_id, sum_of(CASE WHEN p.through_stripe THEN p.captured ELSE 0 END) AS by_card,
           sum_of(CASE WHEN p.through_stripe THEN 0 ELSE p.captured END) AS outside,
           sum_of(CASE WHEN p.through_stripe THEN p.room - p.room % coalesce(u.unit, 1) ELSE 0 END) AS available,
           sum_of(p.elsewhere + CASE WHEN p.dispute_open THEN 0 ELSE p.disputed END) AS gone,
           bool_or(p.dispute_open) AS dispute_open
    FROM (
        SELECT agency_id, invoice_id, currency, captured, elsewhere, disputed, dispute_open,
               payment_intent IS NOT NULL OR charge IS NOT NULL AS through_stripe,
               greatest(0, captured - CASE WHEN :afresh THEN 0 ELSE reserved + refunded END - elsewhere - disputed)
                   AS room
        FROM payments JOIN plan_rest USING (agency_id, invoice_id)
        OFFSET 0
    ) p
    LEFT JOIN unnest(CAST(:odd_currencies AS text[]), CAST(:odd_units AS bigint[])) AS u(currency, unit)
    ON u.currency = p.currency
    GROUP BY p.agency_id, p.invoice_id
),
past AS (
    -- What was credited, granted and promised before, of whatever kind, in one row an invoice.
    SELECT agency_id, invoice_id, sum(credited)::bigint AS credited, coalesce(sum(given), 0)::bigint AS given,
           coalesce(sum(settled), 0)::bigint AS settled, coalesce(sum(credit), 0)::bigint AS credit,
           coalesce(sum(out_of_band), 0)::bigint AS out_of_band, coalesce(sum(reducing), 0)::bigint AS reducing,
           coalesce(sum(unsent), 0)::bigint AS unsent, coalesce(sum(kindness), 0)::bigint AS kindness,
           coalesce(max(seq), 0) AS seq
    FROM (
        -- What others credited; the refunds that their notes made or linked are among the payments' `elsewhere`.
        SELECT agency_id, invoice_id, total - refunded AS credited, NULL::bigint AS given, NULL::bigint AS settled,
               NULL::bigint AS credit, NULL::bigint AS out_of_band, NULL::bigint AS reducing, NULL::bigint AS unsent,
               NULL::bigint AS kindness, NULL::int AS seq
        FROM credit_notes WHERE step_id IS NULL AND status <> 'void'
        UNION ALL
        SELECT agency_id, invoice_id, NULL, amount, amount - reduce, CASE WHEN fallback_of IS NULL THEN credit END,
               CASE WHEN fallback_of IS NULL THEN out_of_band END, CASE WHEN NOT reduced THEN reduce END, unsent, NULL,
               NULL
        FROM (
            -- Steps take their room on a payment when they are first sent; until then it has to be kept free for them.
            SELECT g.*, sum_of(s.refund) FILTER (
                       WHERE s.first_sent_at IS NULL AND s.state IN ('approved', 'blocked', 'needs_person')
                   ) AS unsent,
                   coalesce(bool_or(s.kind IN ('credit_note', 'void') AND s.stripe_id IS NOT NULL), false) AS reduced
            FROM (
                SELECT agency_id, id, invoice_id, amount, reduce, credit, out_of_band, fallback_of
                FROM grants JOIN plan_rest USING (agency_id, invoice_id) WHERE state = ANY(:live)
            ) g
            LEFT JOIN steps s ON s.agency_id = g.agency_id AND s.grant_id = g.id
            GROUP BY g.agency_id, g.id, g.invoice_id, g.amount, g.reduce, g.credit, g.out_of_band, g.fallback_of
        ) g
        UNION ALL
        -- Goodwill of other incidents is with the customer, but it was for nothing that this one may take.
        SELECT agency_id, invoice_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, amount, NULL FROM plan_kindness
        UNION ALL
        SELECT agency_id, invoice_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, seq FROM basis
    ) p
    JOIN plan_rest USING (agency_id, invoice_id)
    GROUP BY agency_id, invoice_id
),
facts AS NOT MATERIALIZED (
    SELECT w.*, i.customer_id, i.subscription_id, i.currency, i.status, i.created_at, i.total,
           i.amount_remaining, greatest(0, i.ending_balance - i.starting_balance) AS by_balance,
           greatest(i.paid_off_stripe, coalesce(p.outside, 0)) AS outside, coalesce(p.by_card, 0) AS by_card,
           coalesce(p.available, 0) AS available, coalesce(p.dispute_open, false) AS dispute_open,
           least(greatest(i.total, 0), greatest(0, i.total - coalesce(n.credited, 0) - coalesce(p.gone, 0)))
               AS standing,
           coalesce(n.given, 0) AS given, coalesce(n.settled, 0) AS settled, coalesce(n.credit, 0) AS credit_before,
           coalesce(n.out_of_band, 0) AS outside_before, coalesce(n.reducing, 0) AS reducing,
           coalesce(n.unsent, 0) AS unsent, coalesce(n.kindness, 0) AS kindness, coalesce(n.seq, 0) + 1 AS basis_seq,
           a.policy, a.choosing, a.later, a.carries, c.choice, nullif(c.waives, '{}') AS waives,
           coalesce(u.unit, 1) AS unit, z.invoice_id IS NOT NULL AS frozen,
           CASE
               WHEN i.status IN ('paid', 'open') THEN NULL
               WHEN i.status = 'void' AND :afresh AND EXISTS (
                   SELECT FROM grants g JOIN steps s ON s.agency_id = g.agency_id AND s.grant_id = g.id
                   WHERE g.agency_id = i.agency_id AND g.invoice_id = i.id AND s.kind = 'void' AND s.state = 'succeeded'
               ) THEN NULL
               WHEN i.status = 'draft' AND :with_drafts AND i.billing_reason LIKE 'subscription%' AND EXISTS (
                   SELECT FROM pauses h
                   WHERE h.agency_id = i.agency_id AND h.subscription_id = i.subscription_id
                   AND h.state IN ('planned', 'held', 'releasing', 'released')
               ) THEN NULL
               WHEN i.status = 'draft' AND NOT :with_drafts THEN 'held_draft'
               ELSE i.status
           END AS outside_of_plan
    FROM plan_rest r JOIN plan_whole w USING (agency_id, invoice_id)
    JOIN invoices i ON i.agency_id = w.agency_id AND i.id = w.invoice_id AND i.status <> 'deleted'
    JOIN plan_agencies a ON a.agency_id = w.agency_id
    LEFT JOIN plan_choices c ON c.agency_id = i.agency_id AND c.customer_id = i.customer_id
    LEFT JOIN unnest(CAST(:odd_currencies AS text[]), CAST(:odd_units AS bigint[])) AS u(currency, unit)
    ON u.currency = i.currency
    LEFT JOIN (
        SELECT DISTINCT agency_id, invoice_id FROM frozen_invoices WHERE lifted_at IS NULL
    ) z ON z.agency_id = w.agency_id AND z.invoice_id = w.invoice_id
    LEFT JOIN past n ON n.agency_id = w.agency_id AND n.invoice_id = w.invoice_id
    LEFT JOIN paid p ON p.agency_id = w.agency_id AND p.invoice_id = w.invoice_id
    OFFSET 0
),
based AS NOT MATERIALIZED (
    -- The part of it that still stands; and what goes back whole, of what was asked for less what we took off.
    SELECT *, CASE WHEN total <= 0 OR standing = total THEN 1 ELSE standing END AS base_num,
           CASE WHEN total <= 0 OR standing = total THEN 1 ELSE total END AS base_den,
           CASE WHEN asked > 0 AND whole_paid > 0 THEN least(whole_paid, asked) ELSE 0 END AS whole_num,
           CASE WHEN asked > 0 AND whole_paid > 0 THEN asked ELSE 1 END AS whole_den,
           NOT wide AND (total <= 0 OR standing = total) AND (asked > 0 AND whole_paid > 0) IS NOT TRUE AS plain
    FROM (SELECT *, standing - given + settled AS asked FROM facts) f
    OFFSET 0
),
valued AS NOT MATERIALIZED (
    SELECT b.*, den * :whole AS plain_den,
           CASE WHEN plain THEN NULL
                WHEN whole_num = 0 THEN coalesce(wide_num, num) * base_num
                ELSE ((whole_den - whole_num) * coalesce(wide_num, num)
                      + whole_num * whole_charged::numeric * coalesce(wide_den, den) * :whole) * base_num
           END AS exact_num,
           CASE WHEN plain THEN NULL ELSE coalesce(wide_den, den) * base_den * :whole * whole_den END AS exact_den
    FROM based b
),
netted AS (
    SELECT agency_id, invoice_id, highest - lag(highest, 1, 0::numeric) OVER newest_first AS num, den
    FROM (
        SELECT *, greatest(0, max(running) OVER newest_first) AS highest
        FROM (
            SELECT *, sum(own * div(den, own_den)) OVER newest_first AS running
            FROM (
                SELECT agency_id, invoice_id, subscription_id, created_at, own, own_den,
                       lcm_of(own_den) OVER (PARTITION BY agency_id, subscription_id) AS den
                FROM (
                    SELECT v.agency_id, v.invoice_id, v.subscription_id, v.created_at,
                           coalesce(v.exact_num, v.num) AS own, coalesce(v.exact_den, v.plain_den) AS own_den
                    FROM plan_turned t JOIN valued v USING (agency_id, subscription_id) WHERE v.outside_of_plan IS NULL
                ) t
            ) t
            WINDOW newest_first AS (PARTITION BY agency_id, subscription_id ORDER BY created_at DESC, invoice_id DESC)
        ) t
        WINDOW newest_first AS (PARTITION BY agency_id, subscription_id ORDER BY created_at DESC, invoice_id DESC)
    ) t
    WINDOW newest_first AS (PARTITION BY agency_id, subscription_id ORDER BY created_at DESC, invoice_id DESC)
),
judged AS (
    SELECT v.agency_id, v.invoice_id, v.customer_id, v.subscription_id, v.currency, v.status, v.lines, v.metered,
           v.line_id, v.lost, v.longest, v.amount_remaining, v.by_balance, v.outside, v.by_card, v.standing,
           v.base_num, v.base_den, v.whole_num, v.whole_den, v.touched,
           CASE WHEN n.num IS NULL THEN greatest(v.num, 0) END AS num, v.plain_den AS den,
           CASE WHEN n.num IS NOT NULL THEN n.num WHEN NOT v.plain THEN greatest(v.exact_num, 0) END AS wide_num,
           CASE WHEN n.num IS NOT NULL THEN n.den WHEN NOT v.plain THEN v.exact_den END AS wide_den,
           -- What the formula comes to, less what it comes to for the part of the invoice that others have left.
           CASE WHEN v.base_num = v.base_den THEN 0 ELSE (
               SELECT greatest(0, div(2 * f.num + f.den, 2 * f.den))
                      - greatest(0, div(2 * v.exact_num + v.exact_den, 2 * v.exact_den))
               FROM (SELECT CASE WHEN v.base_num = 0 THEN coalesce(v.wide_num, v.num)
                                 ELSE div(v.exact_num, v.base_num) END AS num,
                            CASE WHEN v.base_num = 0 THEN coalesce(v.wide_den, v.den) * :whole
                                 ELSE div(v.exact_den, v.base_den) END AS den) f
           )::bigint END AS by_others,
           CASE WHEN n.num IS NOT NULL THEN coalesce(v.exact_num, v.num) END AS own_num,
           CASE WHEN n.num IS NOT NULL THEN coalesce(v.exact_den, v.plain_den) END AS own_den,
           v.given, greatest(0, v.given - v.kindness) AS before, v.settled, v.credit_before, v.outside_before,
           v.reducing, greatest(0, v.available - v.unsent) AS refundable, v.basis_seq,
           v.unit, coalesce(v.choice, v.policy) = 'credit' AS as_credit, v.waives,
           CASE
               WHEN v.outside_of_plan IS NOT NULL THEN v.outside_of_plan
               WHEN v.frozen THEN 'frozen'
               WHEN v.dispute_open THEN 'disputed'
               WHEN v.policy = 'none' THEN 'policy_none'
               WHEN v.choosing AND v.status = 'paid' AND (v.whole_num > 0 OR EXISTS (
                   SELECT FROM plan_choosing c
                   JOIN invoice_lines l ON l.agency_id = c.agency_id AND l.plan_id = c.plan_id
                   WHERE c.agency_id = v.agency_id AND l.invoice_id = v.invoice_id
                   AND l.period_start < to_timestamp(c.until) AND l.period_end > to_timestamp(c.since)
               )) THEN 'choosing'
               WHEN v.later THEN 'settled_later'
           END AS reason
    FROM valued v
    LEFT JOIN netted n ON n.agency_id = v.agency_id AND n.invoice_id = v.invoice_id
    WHERE v.touched OR v.carries
    OFFSET 0
),
rounded AS (
    -- As if nothing had been given: what nobody has paid had been asked for, and our notes took it off.
    SELECT j.*, CASE WHEN wide_num IS NULL THEN (2 * num + den) / (2 * den)
                     ELSE div(2 * wide_num + wide_den, 2 * wide_den)::bigint END AS rounded,
           CASE WHEN status = 'draft' THEN standing
                WHEN :afresh THEN greatest(0, standing - by_balance - outside - by_card)
                WHEN status = 'open' THEN greatest(0, amount_remaining - reducing)
                ELSE 0 END / unit * unit AS due,
           by_balance + outside + by_card AS paid
    FROM judged j
    OFFSET 0
),
parted AS (
    SELECT *, CASE WHEN reason IS NULL
                   THEN least(greatest(0, rounded - before - waived), greatest(0, standing - given)) / unit * unit
                   ELSE 0 END AS can
    FROM rounded r CROSS JOIN LATERAL (
        SELECT CASE WHEN waives IS NULL THEN 0 ELSE greatest(0, rounded - greatest(before, coalesce((
                   SELECT o.rounded FROM plan_without o
                   WHERE o.agency_id = r.agency_id AND o.invoice_id = r.invoice_id AND o.many = cardinality(r.waives)
               ), 0))) END AS waived
    ) w
    OFFSET 0
),
shared AS (
    -- In the proportion in which it was paid, over all runs together: a cent that one run missed the next makes up.
    SELECT p.*,
           CASE WHEN by_balance = 0 OR rest = 0 THEN 0 ELSE least(rest, greatest(0,
               unit * div(2 * (settled + rest)::numeric * by_balance + paid * unit, 2 * paid * unit)::bigint
               - credit_before
           )) END AS balance_part,
           CASE WHEN outside = 0 OR rest = 0 THEN 0 ELSE least(rest, greatest(0,
               unit * div(2 * (settled + rest)::numeric * outside + paid * unit, 2 * paid * unit)::bigint
               - outside_before
           )) END AS outside_part,
           as_credit AND EXISTS (
               SELECT FROM subscriptions s
               WHERE s.agency_id = p.agency_id AND s.id = p.subscription_id AND {billed_again}
           ) AS to_balance
    FROM (SELECT *, least(can, due) AS reduce, can - least(can, due) AS rest FROM parted OFFSET 0) p
    OFFSET 0
)
SELECT agency_id, reduce + balance_part + out_of_band + money AS amount,
       CASE WHEN to_balance THEN 0 ELSE money END AS refund,
       balance_part + CASE WHEN to_balance THEN money ELSE 0 END AS credit, reduce, out_of_band, num, den, before,
       basis_seq, greatest(0, rounded - before - waived) AS want, waived, metered, unit, rounded, given, lines, touched,
       base_num, base_den, whole_num, whole_den, longest AS length, invoice_id, customer_id, currency, subscription_id,
       line_id, lost, reason, wide_num, wide_den, waives, own_num, own_den, by_others
FROM shared
CROSS JOIN LATERAL (SELECT least(outside_part, rest - balance_part) AS out_of_band) o
CROSS JOIN LATERAL (SELECT least(rest - balance_part - out_of_band, refundable) AS money) m
""".replace("{billed_again}", BILLED_AGAIN),
)
