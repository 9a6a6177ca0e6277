"""What planning is told: the tables that it works in, and how they are filled."""

from typing import Final

SETTINGS: Final = ("SET LOCAL work_mem = '64MB'", "SET LOCAL jit = off")
"""A plan is a few large aggregations: in memory they take half the time, and to compile them takes longer still."""

TABLES: Final = (
    """
    DROP TABLE IF EXISTS
        pg_temp.plan_agencies, pg_temp.plan_steps, pg_temp.plan_whole, pg_temp.plan_turned, pg_temp.plan_reached,
        pg_temp.plan_rest, pg_temp.plan_invoices, pg_temp.plan_parts, pg_temp.plan_pausing, pg_temp.plan_full,
        pg_temp.plan_whole_payments, pg_temp.plan_minimums, pg_temp.plan_choosing, pg_temp.plan_choices
    """,
    """
    CREATE TEMP TABLE plan_agencies (
        agency_id bigint PRIMARY KEY, grp int, policy text, since bigint, until bigint, later boolean,
        carries boolean, choosing boolean, plain boolean
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE plan_choosing (
        agency_id bigint, plan_id text, since bigint, until bigint
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE plan_choices (
        agency_id bigint, customer_id text, choice text, waives text[]
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE plan_pausing (
        agency_id bigint, plan_id text, hold text, PRIMARY KEY (agency_id, plan_id)
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE plan_full (
        agency_id bigint, plan_id text, since timestamptz, until timestamptz, this boolean
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE plan_whole_payments (
        agency_id bigint, invoice_id text, paid bigint, charged bigint, lines bigint, metered bigint, this boolean,
        PRIMARY KEY (agency_id, invoice_id)
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE plan_minimums (
        agency_id bigint, currency text, minimum bigint, credit boolean, PRIMARY KEY (agency_id, currency)
    ) ON COMMIT DROP
    """,
    """
    CREATE TEMP TABLE plan_steps (
        grp int, plan_id text, no int, starts bigint, ends bigint, share bigint, part bigint, steps int,
        touched boolean, PRIMARY KEY (grp, plan_id, no)
    ) ON COMMIT DROP
    """,
)

FILL_AGENCIES: Final = """
INSERT INTO plan_agencies
SELECT * FROM unnest(
    CAST(:agencies AS bigint[]), CAST(:groups AS int[]), CAST(:policies AS text[]),
    CAST(:since AS bigint[]), CAST(:until AS bigint[]), CAST(:later AS boolean[]), CAST(:carries AS boolean[]),
    CAST(:choosing AS boolean[]), CAST(:plain AS boolean[])
)
"""

FILL_CHOOSING: Final = """
INSERT INTO plan_choosing
SELECT * FROM unnest(
    CAST(:agencies AS bigint[]), CAST(:plans AS text[]), CAST(:since AS bigint[]), CAST(:until AS bigint[])
)
"""

FILL_CHOICES: Final = """
INSERT INTO plan_choices
SELECT c.agency_id, c.customer_id,
       (array_agg(c.choice ORDER BY c.incident_id = :incident DESC, c.chosen_at DESC) FILTER (
           WHERE c.choice <> 'waive'
       ))[1],
       coalesce(array_agg(c.incident_id ORDER BY c.incident_id) FILTER (WHERE c.choice = 'waive'), '{}')
FROM choices c JOIN plan_agencies USING (agency_id) JOIN incidents i ON i.id = c.incident_id
WHERE i.state = ANY(:counted) GROUP BY c.agency_id, c.customer_id
"""

# What customers who waived some of the incidents are owed for the others; first without one, then without two of them …
NOTHING_WAIVED: Final = (
    "DROP TABLE IF EXISTS pg_temp.plan_without",
    "CREATE TEMP TABLE plan_without (agency_id bigint, invoice_id text, many int, rounded bigint) ON COMMIT DROP",
)
KEEP_WITHOUT: Final = """
INSERT INTO plan_without
SELECT agency_id, invoice_id, cardinality(CAST(:waived AS text[])), rounded FROM plan_invoices
WHERE (agency_id, customer_id) IN (
    SELECT c.agency_id, c.customer_id FROM choices c JOIN incidents i ON i.id = c.incident_id
    WHERE c.choice = 'waive' AND i.state = ANY(:counted)
    GROUP BY c.agency_id, c.customer_id
    HAVING (array_agg(c.incident_id ORDER BY c.incident_id))[1:cardinality(CAST(:waived AS text[]))]
           = CAST(:waived AS text[])
)
"""

# Goodwill of other incidents. One that has gone on since it was worked out has used it up first for what it took since.
KINDNESS: Final = (
    "DROP TABLE IF EXISTS pg_temp.plan_kindness, pg_temp.plan_grown",
    "CREATE TEMP TABLE plan_grown (agency_id bigint, invoice_id text, amount bigint) ON COMMIT DROP",
    """
    CREATE TEMP TABLE plan_kindness ON COMMIT DROP AS
    SELECT agency_id, invoice_id, sum(amount)::bigint AS amount
    FROM goodwill WHERE incident_id <> :incident AND NOT :afresh GROUP BY agency_id, invoice_id
    """,
    "ANALYZE plan_kindness",
)
KEEP_GROWN: Final = """
INSERT INTO plan_grown
SELECT agency_id, invoice_id, CAST(:sign AS bigint) * rounded
FROM plan_invoices JOIN plan_kindness USING (agency_id, invoice_id)
"""
USE_UP: Final = """
UPDATE plan_kindness k SET amount = k.amount - least(g.grown, o.amount)
FROM (
    SELECT agency_id, invoice_id, sum(amount)::bigint AS grown FROM plan_grown GROUP BY agency_id, invoice_id
    HAVING sum(amount) > 0
) g
JOIN (
    SELECT agency_id, invoice_id, sum(amount)::bigint AS amount
    FROM goodwill WHERE incident_id = ANY(:growing) GROUP BY agency_id, invoice_id
) o USING (agency_id, invoice_id)
WHERE k.agency_id = g.agency_id AND k.invoice_id = g.invoice_id
"""

FILL_PAUSING: Final = """
INSERT INTO plan_pausing
SELECT * FROM unnest(CAST(:agencies AS bigint[]), CAST(:plans AS text[]), CAST(:holds AS text[]))
"""

FILL_MINIMUMS: Final = """
INSERT INTO plan_minimums
SELECT * FROM unnest(
    CAST(:agencies AS bigint[]), CAST(:currencies AS text[]), CAST(:minimums AS bigint[]), CAST(:credits AS boolean[])
)
"""

FILL_FULL: Final = """
INSERT INTO plan_full
SELECT * FROM unnest(
    CAST(:agencies AS bigint[]), CAST(:plans AS text[]), CAST(:since AS timestamptz[]), CAST(:until AS timestamptz[]),
    CAST(:this AS boolean[])
)
"""

FILL_STEPS: Final = """
INSERT INTO plan_steps
SELECT * FROM unnest(
    CAST(:groups AS int[]), CAST(:plans AS text[]), CAST(:nos AS int[]), CAST(:starts AS bigint[]),
    CAST(:ends AS bigint[]), CAST(:shares AS bigint[]), CAST(:parts AS bigint[]), CAST(:steps AS int[]),
    CAST(:touched AS boolean[])
)
"""

# Without this the planner takes each of them for hundreds of rows, most of all where one is empty.
KNOWN: Final = (
    "ANALYZE plan_agencies", "ANALYZE plan_steps", "ANALYZE plan_choices", "ANALYZE plan_choosing",
    "ANALYZE plan_pausing",
)  # fmt: skip
