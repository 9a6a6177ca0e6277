"""What the report of one incident asks the database: `:incident`, and `:agency`, a slug or NULL for all in sight.

Amounts are integers of the currency's smallest Stripe unit; sums of them come back as whole Decimals.
"""

from typing import Final

_OF: Final = "(CAST(:agency AS text) IS NULL OR a.slug = :agency)"

# A note whose refund came back stands for the rest of it: what went to the balance, or off what was due.
_STANDS: Final = (
    "(s.state = 'succeeded' OR (s.state = 'failed' AND s.kind = 'credit_note' AND s.stripe_id IS NOT NULL))"
)

COUNTS: Final = f"""
WITH affected AS (
    SELECT g.agency_id, g.customer_id FROM grants g JOIN agencies a ON a.id = g.agency_id
    WHERE g.incident_id = :incident AND g.state <> 'cancelled' AND {_OF}
    UNION
    SELECT p.agency_id, s.customer_id FROM pauses p
    JOIN subscriptions s ON s.agency_id = p.agency_id AND s.id = p.subscription_id
    JOIN agencies a ON a.id = p.agency_id
    WHERE p.incident_id = :incident AND {_OF}
)
SELECT count(DISTINCT agency_id) AS agencies, count(*) AS customers,
       (SELECT count(*) FROM pauses p JOIN agencies a ON a.id = p.agency_id
        WHERE p.incident_id = :incident AND p.state NOT IN ('cancelled', 'left') AND {_OF}) AS subscriptions_paused
FROM affected
"""  # noqa: S608 - constants only

# A grant whose refund came back counts for what is left of it; its fallback is a grant of its own.
MONEY: Final = f"""
SELECT g.currency, count(*) AS grants,
       coalesce(sum(g.refund) FILTER (WHERE done), 0) AS refunded,
       coalesce(sum(g.credit) FILTER (WHERE done), 0) AS credited,
       coalesce(sum(g.reduce) FILTER (WHERE done), 0) AS reduced,
       coalesce(sum(g.out_of_band) FILTER (WHERE done AND g.by_hand), 0) AS paid_by_hand,
       coalesce(sum(g.amount - CASE WHEN g.by_hand THEN 0 ELSE g.out_of_band END) FILTER (WHERE done), 0) AS given,
       coalesce(sum(g.amount) FILTER (WHERE g.state IN ('sent', 'unknown', 'pending')), 0) AS on_its_way,
       coalesce(sum(g.amount) FILTER (WHERE g.state IN ('planned', 'approved', 'blocked')), 0) AS waiting,
       coalesce(sum(CASE WHEN done THEN g.out_of_band ELSE g.amount END) FILTER (WHERE g.state = 'needs_person'), 0)
           AS for_a_person,
       coalesce(sum(g.amount) FILTER (WHERE g.state = 'given_elsewhere'), 0) AS given_elsewhere,
       coalesce(sum(g.short) FILTER (WHERE NOT g.counted_anew), 0) AS rounded_away
FROM (
    SELECT g.*, EXISTS (
        SELECT FROM grants n WHERE n.agency_id = g.agency_id AND n.invoice_id = g.invoice_id AND n.id > g.id
        AND n.fallback_of IS NULL AND n.state NOT IN ('cancelled', 'failed')
    ) AS counted_anew, h.grant_id IS NOT NULL AS by_hand, g.state IN ('succeeded', 'needs_person') AND (
        h.grant_id IS NOT NULL OR EXISTS (
            SELECT FROM steps s WHERE s.agency_id = g.agency_id AND s.grant_id = g.id AND {_STANDS}
        )
    ) AND NOT EXISTS (
        SELECT FROM steps s WHERE s.agency_id = g.agency_id AND s.grant_id = g.id
        AND s.state NOT IN ('succeeded', 'failed', 'cancelled', 'given_elsewhere')
    ) AS done
    FROM grants g JOIN agencies a ON a.id = g.agency_id
    LEFT JOIN hand_payments h ON h.agency_id = g.agency_id AND h.grant_id = g.id
    WHERE g.incident_id = :incident AND g.state NOT IN ('cancelled', 'failed') AND {_OF}
) g
GROUP BY g.currency ORDER BY g.currency
"""  # noqa: S608

# What an agency's last run left out is left out still; a run that was declined gave nothing of what it was for.
LEFT_OUT: Final = f"""
WITH last AS (
    SELECT DISTINCT ON (r.agency_id) r.agency_id, r.id, r.state, r.left_out FROM runs r
    JOIN agencies a ON a.id = r.agency_id
    WHERE r.incident_id = :incident AND r.state <> 'superseded' AND {_OF} ORDER BY r.agency_id, r.no DESC
)
SELECT currency, reason, sum(count)::bigint AS count, sum(amount)::bigint AS amount
FROM (
    SELECT part ->> 'currency' AS currency, one ->> 'reason' AS reason, CAST(one ->> 'count' AS bigint) AS count,
           CAST(part ->> 'amount' AS bigint) AS amount
    FROM last CROSS JOIN jsonb_array_elements(left_out) one CROSS JOIN jsonb_array_elements(one -> 'amount') part
    WHERE one ->> 'reason' <> 'waived'
    UNION ALL
    SELECT g.currency, 'declined', 1, g.amount FROM last JOIN grants g ON g.agency_id = last.agency_id
    AND g.run_id = last.id WHERE last.state = 'declined' AND g.state = 'cancelled'
) l
GROUP BY currency, reason ORDER BY currency, reason
"""  # noqa: S608

WAIVED: Final = f"""
SELECT w.currency, sum(w.amount) AS amount, count(*) AS invoices, count(DISTINCT i.customer_id) AS customers
FROM waivers w JOIN agencies a ON a.id = w.agency_id
JOIN invoices i ON i.agency_id = w.agency_id AND i.id = w.invoice_id
WHERE w.incident_id = :incident AND {_OF} GROUP BY w.currency ORDER BY w.currency
"""  # noqa: S608

# A pause by `void` leaves no draft: Stripe voids each renewal as it makes it.
HELD: Final = f"""
SELECT i.currency, count(*) AS renewals, sum(greatest(0, i.total)) AS asked_for,
       sum(i.pre_payment_credited) + coalesce(sum(i.total - i.pre_payment_credited) FILTER (WHERE i.status = 'void'), 0)
           AS not_collected,
       sum(i.amount_paid) AS brought_in,
       coalesce(sum(i.amount_remaining) FILTER (WHERE i.status IN ('draft', 'open')), 0) AS open
FROM (
    SELECT DISTINCT h.agency_id, h.invoice_id FROM held_invoices h
    JOIN pauses p ON p.agency_id = h.agency_id AND p.id = h.pause_id JOIN agencies a ON a.id = h.agency_id
    WHERE p.incident_id = :incident AND h.kind = 'draft' AND {_OF}
    UNION
    SELECT i.agency_id, i.id FROM pauses p
    JOIN agencies a ON a.id = p.agency_id JOIN incidents n ON n.id = p.incident_id
    JOIN invoices i ON i.agency_id = p.agency_id AND i.subscription_id = p.subscription_id
    WHERE p.incident_id = :incident AND p.behavior = 'void' AND p.held_at IS NOT NULL AND {_OF}
    AND i.status = 'void' AND i.billing_reason = 'subscription_cycle'
    AND i.created_at BETWEEN n.declared_at AND coalesce(p.released_at, 'infinity')
) h JOIN invoices i ON i.agency_id = h.agency_id AND i.id = h.invoice_id
GROUP BY i.currency ORDER BY i.currency
"""  # noqa: S608

# What Stripe keeps of its fee is the part of it that was for the money that went back.
FEES: Final = f"""
SELECT currency, floor(sum(kept) + 0.5)::bigint AS not_returned, count(*) FILTER (WHERE known) AS payments,
       count(*) FILTER (WHERE NOT known) AS not_known_yet
FROM (
    SELECT coalesce(p.fee_currency, p.currency) AS currency, p.fee IS NOT NULL AS known,
           coalesce(p.fee * sum(s.refund) / p.captured, 0) AS kept
    FROM steps s
    JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
    JOIN payments p ON p.agency_id = s.agency_id AND p.id = s.payment_id
    JOIN agencies a ON a.id = s.agency_id
    WHERE g.incident_id = :incident AND s.state = 'succeeded' AND s.refund > 0 AND {_OF}
    GROUP BY p.agency_id, p.id
) k
GROUP BY currency ORDER BY currency
"""  # noqa: S608

PROMISE: Final = f"""
SELECT count(*) FILTER (WHERE g.state IN
           ('planned', 'approved', 'sent', 'unknown', 'pending', 'blocked', 'needs_person')) AS open,
       count(*) AS made,
       max(greatest(coalesce(n.created_at, r.created_at, b.created_at), h.paid_at)) FILTER (
           WHERE {_STANDS} OR h.grant_id IS NOT NULL
       ) AS last
FROM grants g JOIN agencies a ON a.id = g.agency_id
LEFT JOIN hand_payments h ON h.agency_id = g.agency_id AND h.grant_id = g.id
LEFT JOIN steps s ON s.agency_id = g.agency_id AND s.grant_id = g.id
LEFT JOIN credit_notes n ON n.agency_id = s.agency_id AND n.step_id = s.id
LEFT JOIN refunds r ON r.agency_id = s.agency_id AND r.step_id = s.id
LEFT JOIN balance_entries b ON b.agency_id = s.agency_id AND b.step_id = s.id
WHERE g.incident_id = :incident AND g.state NOT IN ('cancelled', 'failed') AND {_OF}
"""  # noqa: S608

RUNS: Final = f"""
SELECT a.slug AS agency, r.no, r.purpose, r.state, r.fingerprint, m.email AS approved_by
FROM runs r JOIN agencies a ON a.id = r.agency_id LEFT JOIN members m ON m.id = r.approved_by
WHERE r.incident_id = :incident AND r.state <> 'superseded' AND {_OF}
ORDER BY a.slug, r.no
"""  # noqa: S608

DOCUMENTS: Final = f"""
WITH came_back AS (
    SELECT s.agency_id, s.grant_id,
           sum(CASE s.kind WHEN 'credit_note' THEN s.refund ELSE s.amount END)::bigint AS amount, max(e.at) AS at
    FROM grants g JOIN steps s ON s.agency_id = g.agency_id AND s.grant_id = g.id
    JOIN step_events e ON e.agency_id = s.agency_id AND e.step_id = s.id AND e.to_state = 'failed'
    WHERE g.incident_id = :incident AND s.state = 'failed' AND s.stripe_id IS NOT NULL
    AND s.kind IN ('refund', 'credit_note')
    GROUP BY s.agency_id, s.grant_id
)
SELECT a.slug, g.customer_id, coalesce(c.name, ''), g.invoice_id, coalesce(made.note, ''), coalesce(made.refunds, ''),
       coalesce(made.entry, ''), g.currency, g.amount, g.refund, g.credit, g.reduce, g.out_of_band,
       coalesce(taxed.tax, 0)::bigint, g.state, made.at, coalesce(b.amount, 0), b.at,
       coalesce(least(gone.amount, b.amount), 0), gone.at,
       greatest(0, least(g.amount, coalesce(f.amount, 0) - coalesce(before.amount, 0))), coalesce(h.amount, 0),
       h.paid_at
FROM grants g
JOIN agencies a ON a.id = g.agency_id
JOIN customers c ON c.agency_id = g.agency_id AND c.id = g.customer_id
LEFT JOIN hand_payments h ON h.agency_id = g.agency_id AND h.grant_id = g.id
LEFT JOIN came_back b ON b.agency_id = g.agency_id AND b.grant_id = g.id
LEFT JOIN came_back f ON f.agency_id = g.agency_id AND f.grant_id = g.fallback_of
LEFT JOIN LATERAL (
    SELECT sum(o.amount)::bigint AS amount FROM grants o
    WHERE o.agency_id = g.agency_id AND o.fallback_of = g.fallback_of AND o.id < g.id AND o.state <> 'failed'
) before ON true
LEFT JOIN LATERAL (
    SELECT sum(o.amount)::bigint AS amount, max(o.settled_at) AS at FROM grants o
    WHERE o.agency_id = g.agency_id AND o.fallback_of = g.id AND o.state = 'cancelled'
) gone ON true
LEFT JOIN LATERAL (
    SELECT max(s.stripe_id) FILTER (WHERE s.kind = 'credit_note') AS note,
           string_agg(coalesce(s.refund_id, CASE WHEN s.kind = 'refund' THEN s.stripe_id END), ' ' ORDER BY s.no)
               FILTER (WHERE s.state <> 'failed') AS refunds,
           max(s.stripe_id) FILTER (WHERE s.kind = 'balance') AS entry,
           max(coalesce(n.created_at, r.created_at, b.created_at, i.voided_at)) AS at
    FROM steps s
    LEFT JOIN credit_notes n ON n.agency_id = s.agency_id AND n.step_id = s.id
    LEFT JOIN refunds r ON r.agency_id = s.agency_id AND r.id = coalesce(s.refund_id, s.stripe_id)
    LEFT JOIN balance_entries b ON b.agency_id = s.agency_id AND b.id = s.stripe_id
    LEFT JOIN invoices i ON s.kind = 'void' AND i.agency_id = s.agency_id AND i.id = s.stripe_id
    WHERE s.agency_id = g.agency_id AND s.grant_id = g.id
    AND (s.state = 'pending' OR {_STANDS} OR (s.state = 'failed' AND s.kind = 'refund' AND s.stripe_id IS NOT NULL))
) made ON true
LEFT JOIN LATERAL (
    SELECT round(sum(o.amount * t.tax / nullif(l.net + l.tax, 0)) * g.amount / nullif(sum(o.amount), 0)) AS tax
    FROM grant_lines o
    JOIN invoice_lines l ON l.agency_id = o.agency_id AND l.id = o.line_id
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(CAST(one ->> 'amount' AS numeric)), 0) AS tax FROM jsonb_array_elements(l.taxes) one
    ) t
    WHERE o.agency_id = g.agency_id AND o.grant_id = coalesce(g.fallback_of, g.id)
) taxed ON true
WHERE g.incident_id = :incident AND g.state <> 'cancelled' AND (g.state <> 'failed' OR b.amount > 0) AND {_OF}
ORDER BY a.slug, g.invoice_id COLLATE "C", g.id
"""  # noqa: S608
