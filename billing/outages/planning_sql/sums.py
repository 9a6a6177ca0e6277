"""What the plan comes to: minimums, fingerprints and totals per agency, who is left out, what is paused."""

from typing import Final

from billing.outages.planning_sql import BILLED_AGAIN

# A grant below its agency's minimum is judged with everything else that its subscription is owed now, and with what had
# to wait before; it waits on, or goes to the balance where that is of use. Who has no subscription any more waits for
# nothing.
BELOW_MINIMUM: Final = (
    """
    DELETE FROM plan_invoices i WHERE NOT i.touched AND NOT (
        i.amount > 0 AND i.reason IS NULL AND i.amount < (
            SELECT m.minimum FROM plan_minimums m WHERE m.agency_id = i.agency_id AND m.currency = i.currency
        )
    )
    """,
    """
    WITH small AS (
        SELECT i.agency_id, i.subscription_id, i.currency, bool_or(m.credit AND {billed_again}) AS credit
        FROM plan_invoices i JOIN plan_minimums m ON m.agency_id = i.agency_id AND m.currency = i.currency
        JOIN subscriptions s ON s.agency_id = i.agency_id AND s.id = i.subscription_id
        WHERE i.amount > 0 AND s.status NOT IN ('canceled', 'incomplete_expired')
        GROUP BY i.agency_id, i.subscription_id, i.currency HAVING sum(i.amount) < max(m.minimum)
    )
    UPDATE plan_invoices i
    SET reason = CASE WHEN s.credit THEN NULL ELSE 'below_minimum' END,
        credit = CASE WHEN s.credit THEN i.credit + i.refund ELSE 0 END, refund = 0,
        reduce = CASE WHEN s.credit THEN i.reduce ELSE 0 END,
        out_of_band = CASE WHEN s.credit THEN i.out_of_band ELSE 0 END,
        amount = CASE WHEN s.credit THEN i.amount ELSE 0 END
    FROM small s
    WHERE i.amount > 0 AND i.agency_id = s.agency_id AND i.subscription_id = s.subscription_id
    AND i.currency = s.currency
    """.replace("{billed_again}", BILLED_AGAIN),
    "DELETE FROM plan_invoices WHERE NOT touched AND amount = 0",
)

# Every column that decides what is sent, and on which past: a change of any of them is another plan. Most grants go to
# cards alone and are the first of their invoice, which need not be said each time. What is owed is told in 10^-8, as it
# does not depend on the grain: that may change with what another agency lost. The order has only to be the same each
# time, and numbers are sorted faster than ids; because of the FILTER each agency is sorted by itself.
FINGERPRINTS: Final = """
SELECT agency_id, encode(sha256(convert_to(string_agg(
           concat_ws('|', invoice_id, currency, amount,
               CASE WHEN wide_num IS NULL AND num <= :most THEN (num * :grain)::text
                    ELSE (coalesce(wide_num, num::numeric) * :grain)::text END,
               CASE WHEN wide_den IS NULL THEN (den * :grain)::text ELSE (wide_den * :grain)::text END,
               CASE WHEN refund < amount OR before > 0 OR basis_seq > 1
                    THEN concat_ws('|', refund, credit, reduce, out_of_band, before, basis_seq) END),
           E'\\n' ORDER BY hashtextextended(invoice_id, 0), invoice_id COLLATE "C"
       ) FILTER (WHERE amount > 0), 'UTF8')), 'hex') AS fingerprint
FROM plan_invoices WHERE amount > 0 GROUP BY agency_id
"""
MOST: Final = 9 * 10**18
"""`num` times the grain stays a bigint below it."""

TOTALS: Final = """
SELECT agency_id, currency, sum_of(amount) AS amount, sum_of(grants) AS grants, count(*) AS customers,
       sum_of(refund) AS refund, sum_of(credit) AS credit, sum_of(reduce) AS reduce, sum_of(out_of_band) AS out_of_band
FROM (
    SELECT agency_id, currency, customer_id, sum_of(amount) AS amount, count(*) AS grants, sum_of(refund) AS refund,
           sum_of(credit) AS credit, sum_of(reduce) AS reduce, sum_of(out_of_band) AS out_of_band
    FROM plan_invoices WHERE amount > 0 GROUP BY agency_id, currency, customer_id
) c
GROUP BY agency_id, currency ORDER BY agency_id, currency
"""

LEFT_OUT: Final = """
SELECT agency_id, l.reason, currency, sum(l.count)::bigint AS count, sum(l.amount)::bigint AS amount
FROM plan_invoices i CROSS JOIN LATERAL (
    SELECT 1 AS count, i.want - i.amount AS amount,
           CASE WHEN i.reason IS NOT NULL THEN i.reason
                WHEN i.want - i.amount < i.unit THEN 'currency_rounding' ELSE 'nothing_refundable' END AS reason
    WHERE i.want > i.amount
    UNION ALL
    SELECT 1, i.waived, 'waived' WHERE i.waived > 0
    UNION ALL
    SELECT i.metered, 0, 'metered' WHERE i.metered > 0 AND i.reason IS NULL
) l
WHERE i.want > i.amount OR i.waived > 0 OR i.metered > 0
GROUP BY agency_id, l.reason, currency ORDER BY agency_id, l.reason, currency
"""

# Fenced: else the planner takes the agency, which all three have, for three reasons to expect next to nothing.
TO_PAUSE: Final = """
SELECT s.agency_id, s.id, s.customer_id, s.currency, s.renews_at, i.hold,
       s.cancel_at_period_end OR (s.pause_behavior IS NOT NULL AND s.pause_incident IS NULL) AS bills_no_more
FROM (
    SELECT DISTINCT i.agency_id, i.subscription_id, p.hold
    FROM subscription_items i JOIN plan_pausing p ON p.agency_id = i.agency_id AND p.plan_id = i.plan_id
    OFFSET 0
) i
JOIN subscriptions s ON s.agency_id = i.agency_id AND s.id = i.subscription_id
WHERE s.status IN ('active', 'trialing', 'past_due', 'unpaid')
"""

PAUSED: Final = (
    "DROP TABLE IF EXISTS pg_temp.plan_paused",
    f"CREATE TEMP TABLE plan_paused ON COMMIT DROP AS SELECT * FROM ({TO_PAUSE}) s WHERE :pausing",  # noqa: S608
    "ANALYZE plan_paused (agency_id, id)",
)

REACH: Final = """
SELECT (SELECT count(*) FROM (
           SELECT agency_id, customer_id FROM plan_invoices WHERE amount > 0
           UNION SELECT agency_id, customer_id FROM plan_paused
       ) c) AS customers,
       (SELECT count(*) FROM (
           SELECT agency_id, subscription_id FROM plan_invoices WHERE amount > 0 AND subscription_id IS NOT NULL
           UNION SELECT agency_id, id FROM plan_paused
       ) s) AS subscriptions,
       (SELECT count(*) FROM plan_invoices WHERE amount > 0) AS invoices
"""

RENEWALS: Final = """
SELECT currency, sum(amount)::bigint AS amount, count(*) AS renewals, count(*) FILTER (WHERE existing) AS existing,
       count(*) FILTER (WHERE unpriced) AS unpriced
FROM (
    SELECT p.currency, coalesce(sum(l.unit_amount * i.quantity) FILTER (WHERE NOT l.metered), 0) AS amount,
           false AS existing, bool_or(l.metered OR l.unit_amount IS NULL) AS unpriced
    FROM plan_paused p
    JOIN subscription_items i
    ON i.agency_id = p.agency_id AND i.subscription_id = p.id AND i.period_end <= p.renews_at
    JOIN plans l ON l.id = i.plan_id
    WHERE p.renews_at <= :until AND NOT p.bills_no_more
    GROUP BY p.agency_id, p.id, p.currency
    UNION ALL
    SELECT i.currency, i.amount_remaining, true, false
    FROM plan_paused p JOIN invoices i ON i.agency_id = p.agency_id AND i.subscription_id = p.id
    WHERE i.status IN ('draft', 'open') AND i.auto_advance
) r
GROUP BY currency ORDER BY currency
"""

BY_OTHERS: Final = """
SELECT currency, sum_of(by_others) AS amount, count(*) AS invoices FROM plan_invoices
WHERE by_others > 0 AND (reason IS NULL OR reason = 'below_minimum') GROUP BY currency ORDER BY currency
"""

WEIGHTS_REFUSED: Final = """
SELECT p.id AS plan, p.name, p.weights_refused AS why FROM plans p
WHERE p.weights_refused IS NOT NULL AND (
    EXISTS (
        SELECT FROM subscription_items i JOIN plan_agencies a ON a.agency_id = i.agency_id
        JOIN subscriptions s ON s.agency_id = i.agency_id AND s.id = i.subscription_id
        WHERE i.plan_id = p.id AND s.status IN ('active', 'trialing', 'past_due', 'unpaid')
    )
    OR EXISTS (
        SELECT FROM invoice_lines l JOIN plan_agencies a ON a.agency_id = l.agency_id
        WHERE l.plan_id = p.id AND l.period_end > to_timestamp(a.since) AND l.period_start < to_timestamp(a.until)
    )
)
ORDER BY p.name, p.id
"""
