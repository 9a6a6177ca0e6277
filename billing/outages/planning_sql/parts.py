"""What each line gets of its invoice's grant: in SQL where one line alone lost something, else by the formula."""

from typing import Final

PARTS: Final = """
CREATE TEMP TABLE plan_parts ON COMMIT DROP AS
SELECT i.agency_id, i.invoice_id, i.line_id, i.amount, i.lost, i.length
FROM plan_invoices i
WHERE i.amount > 0 AND i.lines = 1 AND i.whole_num = 0 AND i.line_id IS NOT NULL AND (i.given = 0 OR NOT EXISTS (
    SELECT FROM grants g JOIN grant_lines o ON o.agency_id = g.agency_id AND o.grant_id = g.id
    WHERE g.agency_id = i.agency_id AND g.invoice_id = i.invoice_id AND g.state = ANY(:live) AND o.line_id <> i.line_id
))
"""

LINES_OF_GRANTS: Final = """
SELECT i.agency_id, i.invoice_id, i.customer_id, i.currency, i.amount, i.refund, i.credit, i.reduce, i.out_of_band,
       i.before, i.want - i.amount AS clipped, i.rounded, i.unit, i.base_num, i.base_den, i.whole_num, i.whole_den,
       coalesce(i.wide_num, i.num) AS exact_num, coalesce(i.wide_den, i.den) AS exact_den,
       l.id AS line_id, l.position, l.plan_id, l.net, l.tax, l.metered, l.period_start, l.period_end, a.grp,
       coalesce(b.before, 0)::bigint AS line_before, x.slug, p.amount AS part
FROM plan_invoices i
JOIN plan_agencies a USING (agency_id)
JOIN agencies x ON x.id = i.agency_id
JOIN invoice_lines l ON l.agency_id = i.agency_id AND l.invoice_id = i.invoice_id
LEFT JOIN plan_parts p ON p.agency_id = l.agency_id AND p.invoice_id = l.invoice_id AND p.line_id = l.id
LEFT JOIN LATERAL (
    SELECT sum(o.amount) AS before FROM grants g JOIN grant_lines o ON o.agency_id = g.agency_id AND o.grant_id = g.id
    WHERE i.given > 0 AND g.agency_id = i.agency_id AND g.invoice_id = i.invoice_id AND o.line_id = l.id
    AND g.state = ANY(:live)
) b ON true
WHERE i.amount > 0 AND (:every OR NOT EXISTS (
    SELECT FROM plan_parts o WHERE o.agency_id = i.agency_id AND o.invoice_id = i.invoice_id
))
AND (CAST(:biggest AS int) IS NULL OR (i.agency_id, i.invoice_id) IN (
    SELECT agency_id, invoice_id FROM plan_invoices ORDER BY amount DESC, agency_id, invoice_id LIMIT :biggest
))
ORDER BY i.agency_id, i.invoice_id COLLATE "C", l.position, l.id
"""

# The grants whose split is a matter of course: one line lost something, and had whatever was given back before.
SIMPLE_GRANTS: Final = """
SELECT a.grp, x.slug, i.agency_id, i.invoice_id, i.customer_id, i.currency, i.amount, i.refund, i.credit, i.reduce,
       i.out_of_band, i.before, i.base_num, i.base_den, i.want - i.amount AS clipped,
       p.line_id, l.plan_id, l.net, l.tax, l.net + l.tax AS charged, p.lost, p.length,
       date_part('epoch', l.period_start)::bigint AS starts, coalesce(b.before, 0)::bigint AS line_before
FROM plan_parts p
JOIN plan_invoices i USING (agency_id, invoice_id)
JOIN invoice_lines l ON l.agency_id = p.agency_id AND l.id = p.line_id
JOIN plan_agencies a ON a.agency_id = p.agency_id
JOIN agencies x ON x.id = p.agency_id
LEFT JOIN LATERAL (
    SELECT sum(o.amount) AS before FROM grants g JOIN grant_lines o ON o.agency_id = g.agency_id AND o.grant_id = g.id
    WHERE i.given > 0 AND g.agency_id = i.agency_id AND g.invoice_id = i.invoice_id AND o.line_id = l.id
    AND g.state = ANY(:live)
) b ON true
ORDER BY p.agency_id, p.invoice_id COLLATE "C"
"""

ADD_PARTS: Final = """
INSERT INTO plan_parts
SELECT * FROM unnest(
    CAST(:agencies AS bigint[]), CAST(:invoices AS text[]), CAST(:lines AS text[]), CAST(:amounts AS bigint[]),
    CAST(:losses AS bigint[]), CAST(:lengths AS bigint[])
)
"""
