"""What must always hold in our rows, each rule as one SQL statement that returns a row for each breach of it.

Run after every test that moves money, by the workers every minute, and before a person by `flask incidents reconcile`.
Rules that the database enforces are said again, so that a constraint or trigger that somebody dropped is noticed. Of
what Stripe has (I1 to I3) the mirror is asked: that the mirror is right is `billing.outages.reconcile`'s; that the
words of an audit entry fit its hash (I8) is `tenants.audit`'s.

Each statement is one pass over its tables: on 100,000 steps all of them together take a few seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.models import STEP_NEXT
from tenants.db import planned


@dataclass(frozen=True, order=True)
class Breach:
    """One object that breaks one rule. `stops` is what may not be sent by itself until somebody has looked:
    `payment:<id>`, `invoice:<id>`, `incident:<id>`, '' for everything, or `nothing` where the object touches nothing of
    ours."""

    invariant: str
    agency_id: int
    object: str
    what: str
    stops: str

    def sentence(self) -> str:
        return f"{self.invariant}: {self.object} {self.what}."

    def to_json(self) -> dict[str, Any]:
        return {"invariant": self.invariant, "agency": self.agency_id, "object": self.object, "what": self.what}


# By statistics of before they were filled, PostgreSQL would read a whole table for each row, or join everything of an
# agency with everything of it first: so hash joins alone, in the order they are written in.
HASHED: Final[dict[str, str | int]] = {
    "enable_nestloop": "off", "enable_mergejoin": "off", "join_collapse_limit": 1,
}  # fmt: skip


def breaches(session: Session, *names: str) -> list[Breach]:
    """Every breach of the rules called `names`, of all of them when none is named, at one moment. Changes nothing."""
    with planned(session, **HASHED):
        return sorted(one for name in names or INVARIANTS for one in _breaches_of(session, name))


def _breaches_of(session: Session, name: str) -> Iterator[Breach]:
    statement = sa.text(INVARIANTS[name])
    for row in session.execute(statement, told(name)):
        yield Breach(name, row.agency_id, row.object, row.what, row.stops)


def told(name: str) -> dict[str, Any]:
    """The parameters of the rule called `name`."""
    return {key: value for key, value in _TOLD.items() if f":{key}" in INVARIANTS[name]}


_MOVES: Final = [(before, after) for before, nexts in STEP_NEXT.items() for after in nexts]
_TOLD: Final[dict[str, Any]] = {
    "befores": [before for before, _ in _MOVES],
    "afters": [after for _, after in _MOVES],
    "states": list(STEP_NEXT),
}

INVARIANTS: Final[dict[str, str]] = {
    # No step has two objects, none has one that it did not ask for, and no object is of a step that is none. What is
    # in flight may have one that its answer has not told yet, and after a restore nothing has been told what it has.
    # What an agency's own account claims to be another agency's stops nothing of the other.
    "I1 a step has one object": """
        SELECT o.agency_id, CASE WHEN o.first = own.id THEN o.last ELSE o.first END AS object,
               coalesce('invoice:' || coalesce(g.invoice_id, o.invoice_id), 'payment:' || (
                   SELECT min(p.id) FROM payments p
                   WHERE p.agency_id = o.agency_id AND (p.payment_intent = o.intent OR p.charge = o.charge)
               ), 'nothing') AS stops,
               'says that it is of our step ' || o.step_id || CASE WHEN s.id IS NULL THEN ', and there is none'
                    WHEN NOT own.fits THEN ', which makes a ' || s.kind
                    WHEN own.id IS NOT NULL THEN ', which has made ' || own.id
                    WHEN o.first <> o.last THEN ', and so does ' || o.last
                    ELSE ', which is ' || s.state END AS what
        FROM (
            SELECT 'refund' AS kind, step_id, agency_id, min(id) AS first, max(id) AS last,
                   NULL AS invoice_id, min(payment_intent) AS intent, min(charge) AS charge
            FROM refunds WHERE step_id IS NOT NULL GROUP BY agency_id, step_id
            UNION ALL
            SELECT 'credit_note', step_id, agency_id, min(id), max(id), min(invoice_id), NULL, NULL
            FROM credit_notes WHERE step_id IS NOT NULL GROUP BY agency_id, step_id
            UNION ALL
            SELECT 'balance', step_id, agency_id, min(id), max(id), NULL, NULL, NULL
            FROM balance_entries WHERE step_id IS NOT NULL GROUP BY agency_id, step_id
        ) o LEFT JOIN steps s ON s.id = o.step_id
        LEFT JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id AND g.agency_id = o.agency_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN o.kind = s.kind THEN s.stripe_id ELSE s.refund_id END AS id,
                   o.kind = s.kind OR (o.kind = 'refund' AND s.kind = 'credit_note') AS fits
        ) own
        WHERE (s.id IS NULL OR NOT own.fits OR o.first <> o.last OR o.first <> own.id
               OR (own.id IS NULL AND (s.first_sent_at IS NULL OR s.state IN ('cancelled', 'given_elsewhere'))))
        AND NOT EXISTS (SELECT FROM control WHERE by = 'restore' AND NOT sending)
    """,
    # The answer is written with its object, and what was found is in an event: a day later the mirror has both.
    "I1 what a step made is there": """
        SELECT s.agency_id, 'step ' || s.id AS object, 'invoice:' || g.invoice_id AS stops,
               'has made ' || s.stripe_id || ', and a day later nothing is known of it' AS what
        FROM steps s JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
        JOIN sync_cursors c ON c.stripe_account = s.stripe_account
        LEFT JOIN refunds r ON r.id = s.stripe_id AND s.kind = 'refund'
        LEFT JOIN credit_notes n ON n.id = s.stripe_id AND s.kind = 'credit_note'
        WHERE s.kind IN ('refund', 'credit_note') AND s.state IN ('pending', 'succeeded')
        AND s.first_sent_at < least(clock_timestamp(), c.fresh_at) - interval '1 day'
        AND r.id IS NULL AND n.id IS NULL
    """,
    # Stripe refuses more, so that the mirror or `captured` is wrong, or two payments are taken for one.
    "I2 no more is refunded than was paid": """
        SELECT p.agency_id, 'payment ' || p.id AS object, 'payment:' || p.id AS stops,
               'took in ' || p.captured || ', of which ' || coalesce(i.amount, c.amount) || ' went back' AS what
        FROM (
            SELECT agency_id, payment_intent, CASE WHEN payment_intent IS NULL THEN charge END AS charge, min(id) AS id,
                   sum(captured) AS captured, sum(reserved + refunded) AS ours
            FROM payments GROUP BY 1, 2, 3
        ) p
        LEFT JOIN (
            SELECT agency_id, payment_intent, sum(amount) AS amount FROM refunds
            WHERE status NOT IN ('failed', 'canceled') GROUP BY 1, 2
        ) i ON i.agency_id = p.agency_id AND i.payment_intent = p.payment_intent
        LEFT JOIN (
            SELECT agency_id, charge, sum(amount) AS amount FROM refunds
            WHERE status NOT IN ('failed', 'canceled') GROUP BY 1, 2
        ) c ON c.agency_id = p.agency_id AND c.charge = p.charge
        WHERE p.ours > 0 AND coalesce(i.amount, c.amount) > p.captured
    """,
    "I2 no more is credited than was billed": """
        SELECT n.agency_id, 'invoice ' || n.invoice_id AS object, 'invoice:' || n.invoice_id AS stops,
               'was over ' || i.total || ', and its credit notes are over ' || n.total AS what
        FROM (
            SELECT agency_id, invoice_id, sum(total) AS total FROM credit_notes WHERE status <> 'void'
            GROUP BY agency_id, invoice_id HAVING bool_or(step_id IS NOT NULL)
        ) n JOIN invoices i ON i.agency_id = n.agency_id AND i.id = n.invoice_id
        WHERE n.total > i.total
    """,
    # Of the step's own object; of any other it is told above. What a balance gives stands there as a negative amount.
    "I3 our amount is Stripe's": """
        SELECT s.agency_id, 'step ' || s.id AS object, 'invoice:' || g.invoice_id AS stops,
               'asked for ' || asked.amount || ' ' || s.currency || ', and ' || o.id || ' is over ' || o.amount || ' '
                   || o.currency AS what
        FROM (
            SELECT 'refund' AS kind, agency_id, step_id, id, amount, currency FROM refunds WHERE step_id IS NOT NULL
            UNION ALL
            SELECT 'credit_note', agency_id, step_id, id, total, currency FROM credit_notes WHERE step_id IS NOT NULL
            UNION ALL
            SELECT 'balance', agency_id, step_id, id, -amount, currency FROM balance_entries WHERE step_id IS NOT NULL
        ) o JOIN steps s ON s.agency_id = o.agency_id AND s.id = o.step_id
        JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN o.kind = s.kind THEN s.stripe_id ELSE s.refund_id END AS id,
                   CASE WHEN o.kind = s.kind THEN s.amount ELSE s.refund END AS amount,
                   o.kind = s.kind OR (o.kind = 'refund' AND s.kind = 'credit_note') AS fits
        ) asked
        WHERE asked.fits AND (o.id = asked.id OR (asked.id IS NULL AND o.kind = s.kind AND s.first_sent_at IS NOT NULL))
        AND (o.amount <> asked.amount OR o.currency <> s.currency)
    """,
    # A step that waits says until when, one that needs somebody says why, one that has ended has nothing to wait for.
    "I4 every step has ended or waits": """
        SELECT s.agency_id, 'step ' || s.id AS object, 'incident:' || g.incident_id AS stops,
               CASE WHEN s.state <> ALL(:states) THEN 'is in a state that is none: ' || s.state
                    WHEN s.state IN ('blocked', 'needs_person') THEN 'is ' || s.state || ' and does not say why'
                    WHEN s.state IN ('pending', 'succeeded') AND s.stripe_id IS NULL
                    THEN 'is ' || s.state || ' without an object in Stripe'
                    WHEN s.due_at IS NULL OR s.due_at > clock_timestamp() + interval '3 days'
                    THEN 'is ' || s.state || ' and waits for no time'
                    ELSE 'is ' || s.state || ' and was never frozen' END AS what
        FROM steps s JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
        WHERE s.state <> ALL(:states)
        OR (s.state IN ('approved', 'sent', 'unknown', 'pending')
            AND (s.due_at IS NULL OR s.due_at > clock_timestamp() + interval '3 days'))
        OR (s.state IN ('blocked', 'needs_person') AND coalesce(s.reason, '') = '')
        OR (s.state IN ('pending', 'succeeded') AND s.stripe_id IS NULL)
        OR (s.state IN ('sent', 'unknown', 'pending', 'succeeded', 'failed')
            AND (s.body IS NULL OR s.first_sent_at IS NULL))
    """,
    # A grant is in the worst of its steps' states: one that has ended has no step at work, one at work has one. Of one
    # whose refunds have all come back the note that links them may still be on its way.
    "I4 every grant has ended or waits": """
        SELECT g.agency_id, 'grant ' || g.id AS object, 'incident:' || g.incident_id AS stops,
               CASE WHEN n.steps = 0 THEN 'is ' || g.state || ' and has no step'
                    WHEN g.state IN ('succeeded', 'failed', 'cancelled', 'given_elsewhere')
                    THEN 'is ' || g.state || ' while a step of it is still at work'
                    ELSE 'is ' || g.state || ' and no step of it is' END AS what
        FROM grants g
        CROSS JOIN LATERAL (SELECT g.fallback_of IS NOT NULL AND g.channel = 'manual' AS by_hand) h
        LEFT JOIN (
            SELECT agency_id, grant_id, count(*) AS steps,
                   count(*) FILTER (WHERE state IN ('approved', 'sent', 'unknown', 'pending')) AS waiting,
                   count(*) FILTER (WHERE state IN ('blocked', 'needs_person')) AS stuck,
                   count(*) FILTER (
                       WHERE kind = 'credit_note' AND no > 1 AND first_sent_at IS NOT NULL
                       AND state IN ('approved', 'sent', 'unknown', 'blocked', 'needs_person')
                   ) AS papers,
                   coalesce(bool_or(
                       kind = 'refund' AND state NOT IN ('failed', 'cancelled', 'given_elsewhere')), false) AS refunded
            FROM steps GROUP BY agency_id, grant_id
        ) s ON s.agency_id = g.agency_id AND s.grant_id = g.id
        CROSS JOIN LATERAL (
            SELECT coalesce(s.steps, 0) AS steps, coalesce(s.waiting, 0) AS waiting, coalesce(s.stuck, 0) AS stuck,
                   CASE WHEN g.state = 'failed' AND NOT s.refunded THEN s.papers ELSE 0 END AS papers
        ) n
        WHERE (g.state IN ('approved', 'sent', 'unknown', 'pending', 'blocked', 'succeeded', 'failed',
                           'given_elsewhere') AND n.steps = 0 AND NOT (h.by_hand AND g.state = 'succeeded' AND EXISTS (
            SELECT FROM hand_payments p WHERE p.agency_id = g.agency_id AND p.grant_id = g.id)))
        OR (g.state IN ('succeeded', 'failed', 'cancelled', 'given_elsewhere') AND n.waiting + n.stuck > n.papers)
        OR (g.state IN ('approved', 'sent', 'unknown', 'pending') AND n.waiting = 0)
        OR (g.state = 'blocked' AND n.stuck = 0)
        OR (g.state = 'needs_person' AND n.stuck = 0 AND g.out_of_band = 0 AND NOT h.by_hand)
    """,
    "I5 no step leaves its table": """
        SELECT e.agency_id, 'step ' || e.step_id AS object, 'incident:' || g.incident_id AS stops,
               'went from ' || e.from_state || ' to ' || e.to_state || ', which no step may' AS what
        FROM step_events e JOIN steps s ON s.agency_id = e.agency_id AND s.id = e.step_id
        JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
        WHERE NOT EXISTS (
            SELECT FROM unnest(CAST(:befores AS text[]), CAST(:afters AS text[])) AS m(before, after)
            WHERE m.before = e.from_state AND m.after = e.to_state
        )
    """,
    # Each event begins where the one before it ended, and the step is where its last event left it.
    "I5 every state has its events": """
        SELECT s.agency_id, 'step ' || s.id AS object, 'incident:' || g.incident_id AS stops,
               CASE WHEN l.last IS NULL THEN 'is ' || s.state || ' and nothing tells how it came there'
                    WHEN l.torn THEN 'has events that do not follow each other'
                    ELSE 'is ' || s.state || ' where its last event left it ' || l.last END AS what
        FROM steps s JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
        LEFT JOIN (
            SELECT agency_id, step_id, max(to_state) FILTER (WHERE next IS NULL) AS last,
                   bool_or(seq <> no OR (next IS NOT NULL AND next <> to_state)
                           OR (no = 1 AND from_state NOT IN ('planned', 'approved'))) AS torn
            FROM (
                SELECT *, row_number() OVER in_order AS no, lead(from_state) OVER in_order AS next FROM step_events
                WINDOW in_order AS (PARTITION BY agency_id, step_id ORDER BY seq)
            ) e GROUP BY agency_id, step_id
        ) l ON l.agency_id = s.agency_id AND l.step_id = s.id
        WHERE l.torn OR s.state <> coalesce(l.last, CASE WHEN s.state = 'planned' THEN 'planned' ELSE 'approved' END)
    """,
    # `owed` is what all incidents together owe for the invoice, so all of its grants together stay below the largest;
    # goodwill alone comes on top of it, up to the most that it ever was.
    "I6 nothing is given twice": """
        SELECT agency_id, 'invoice ' || invoice_id AS object, coalesce('payment:' || payment, incident) AS stops,
               'was granted ' || granted || ' of the ' || owed || ' that is owed for it'
                   || CASE WHEN goodwill > 0 THEN ', and ' || goodwill || ' of goodwill' ELSE '' END AS what
        FROM (
            SELECT g.agency_id, g.invoice_id, sum(g.amount) AS granted, max(div(2 * o.num + o.den, 2 * o.den)) AS owed,
                   min('incident:' || g.incident_id) AS incident,
                   (SELECT min(p.id) FROM payments p WHERE p.agency_id = g.agency_id AND p.invoice_id = g.invoice_id)
                       AS payment,
                   (SELECT coalesce(sum(w.highest), 0) FROM goodwill w
                    WHERE w.agency_id = g.agency_id AND w.invoice_id = g.invoice_id) AS goodwill
            FROM grants g CROSS JOIN LATERAL (
                SELECT split_part(g.owed, '/', 1)::numeric AS num, split_part(g.owed, '/', 2)::numeric AS den
            ) o
            WHERE g.state NOT IN ('planned', 'cancelled', 'failed') GROUP BY g.agency_id, g.invoice_id
        ) i WHERE granted > owed + goodwill
    """,
    "I6 no two runs on one past": """
        SELECT b.agency_id, 'invoice ' || b.invoice_id AS object, min('incident:' || r.incident_id) AS stops,
               'was planned on one past by ' || count(*) || ' approved runs' AS what
        FROM basis b JOIN runs r ON r.agency_id = b.agency_id AND r.id = b.run_id
        GROUP BY b.agency_id, b.invoice_id, b.seq HAVING count(*) > 1
    """,
    # What a step sends of its run: all of it, less what the refunds that a note links have sent already. A note whose
    # refund came back stands as a document for the rest.
    "I7 a run sent what its steps sent": """
        SELECT t.agency_id, 'run ' || t.run_id AS object, 'incident:' || r.incident_id AS stops,
               'says that ' || t.sent || ' ' || t.currency || ' were sent, its steps say ' || coalesce(s.sent, 0)
                   || ', and ' || t.approved || ' were approved' AS what
        FROM run_totals t
        JOIN runs r ON r.agency_id = t.agency_id AND r.id = t.run_id
        LEFT JOIN (
            SELECT g.agency_id, g.run_id, s.currency, sum(
                CASE WHEN s.state IN ('cancelled', 'given_elsewhere') THEN 0
                     WHEN s.kind <> 'credit_note' THEN CASE s.state WHEN 'failed' THEN 0 ELSE s.amount END
                     WHEN s.state = 'failed' AND s.stripe_id IS NULL THEN 0
                     ELSE s.amount - CASE s.state WHEN 'failed' THEN s.refund ELSE 0 END - coalesce((
                         SELECT sum((link ->> 'amount_refunded')::bigint)
                         FROM json_array_elements(s.body::json -> 'refunds') AS link
                     ), 0) END
            ) AS sent
            FROM steps s JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
            WHERE s.first_sent_at IS NOT NULL GROUP BY g.agency_id, g.run_id, s.currency
        ) s ON s.agency_id = t.agency_id AND s.run_id = t.run_id AND s.currency = t.currency
        WHERE t.sent <> coalesce(s.sent, 0) OR t.sent < 0 OR t.sent > t.approved
    """,
    "I7 nothing was sent without an approval": """
        SELECT r.agency_id, 'run ' || r.id AS object, 'incident:' || r.incident_id AS stops,
               CASE WHEN r.approval IS NULL THEN 'was sent and nobody had approved it'
                    WHEN r.approved_fingerprint IS DISTINCT FROM r.fingerprint
                    THEN 'was approved as another plan than it is'
                    ELSE 'was approved by whoever started it, or had changed the incident' END AS what
        FROM runs r
        WHERE (r.approval IS NULL AND (r.state IN ('running', 'halted') OR EXISTS (
            SELECT FROM grants g JOIN steps s ON s.agency_id = g.agency_id AND s.grant_id = g.id
            WHERE g.agency_id = r.agency_id AND g.run_id = r.id AND s.first_sent_at IS NOT NULL
        )))
        OR (r.approval IS NOT NULL AND (
            r.approved_fingerprint IS DISTINCT FROM r.fingerprint
            OR (r.approval = 'person' AND r.approved_by IS NULL)
            OR (r.approval = 'automatic' AND (
                r.limit_set_by IS NULL OR r.limit_set_at IS NULL OR r.limit_set_at >= r.declared_at))
            OR CASE r.approval WHEN 'person' THEN r.approved_by ELSE r.limit_set_by END IN (
                SELECT r.declared_by UNION ALL SELECT r.started_by UNION ALL
                SELECT v.by FROM incident_versions v WHERE v.incident_id = r.incident_id AND v.at < r.approved_at)
        ))
    """,
    "I7 what approved itself is within its day": """
        SELECT agency_id, 'limit of ' || day AS object, '' AS stops,
               'counts ' || coalesce(d.used, 0) || ' of ' || coalesce(d.allowed, 0) || ' ' || currency
                   || ', its runs ' || coalesce(r.approved, 0) AS what
        FROM limit_days d FULL JOIN (
            SELECT r.agency_id, t.currency, (r.approved_at AT TIME ZONE 'UTC')::date AS day, sum(t.approved) AS approved
            FROM runs r JOIN run_totals t ON t.agency_id = r.agency_id AND t.run_id = r.id
            WHERE r.approval = 'automatic' AND t.approved > 0 GROUP BY 1, 2, 3
        ) r USING (agency_id, currency, day)
        WHERE d.used > d.allowed OR coalesce(r.approved, 0) > coalesce(d.used, 0)
    """,
    "payments count what steps took": """
        SELECT p.agency_id, 'payment ' || p.id AS object, 'payment:' || p.id AS stops,
               'counts ' || p.reserved || ' reserved and ' || p.refunded || ' refunded of ' || p.captured
                   || ', its steps ' || coalesce(s.reserved, 0) || ' and ' || coalesce(s.refunded, 0) AS what
        FROM payments p LEFT JOIN (
            SELECT agency_id, payment_id, coalesce(sum(refund) FILTER (WHERE state = 'succeeded'), 0) AS refunded,
                   coalesce(sum(refund) FILTER (
                       WHERE state NOT IN ('succeeded', 'failed', 'cancelled', 'given_elsewhere')), 0) AS reserved
            FROM steps WHERE first_sent_at IS NOT NULL AND payment_id IS NOT NULL GROUP BY agency_id, payment_id
        ) s ON s.agency_id = p.agency_id AND s.payment_id = p.id
        WHERE p.reserved <> coalesce(s.reserved, 0) OR p.refunded <> coalesce(s.refunded, 0)
        OR p.reserved < 0 OR p.refunded < 0 OR p.reserved + p.refunded > p.captured
    """,
    # Of what was retracted the note is about what had gone out by then, and its lines are as they were approved.
    "parts make the whole": """
        SELECT g.agency_id, 'grant ' || g.id AS object, 'incident:' || g.incident_id AS stops,
               'is ' || g.amount || ' in parts of ' || g.refund || ' + ' || g.credit || ' + ' || g.reduce || ' + '
                   || g.out_of_band || ', in steps that refund ' || coalesce(s.refund, 0) || ' and lines of '
                   || coalesce(l.amount::text, 'nothing') AS what
        FROM grants g
        LEFT JOIN (
            SELECT agency_id, grant_id, bool_or(state IN ('failed', 'cancelled', 'given_elsewhere')) AS shrunk,
                   coalesce(sum(refund) FILTER (WHERE state NOT IN ('failed', 'cancelled')), 0) AS refund
            FROM steps GROUP BY agency_id, grant_id
        ) s ON s.agency_id = g.agency_id AND s.grant_id = g.id
        LEFT JOIN (
            SELECT agency_id, grant_id, sum(amount) AS amount FROM grant_lines GROUP BY agency_id, grant_id
        ) l ON l.agency_id = g.agency_id AND l.grant_id = g.id
        WHERE g.amount <= 0 OR least(g.refund, g.credit, g.reduce, g.out_of_band) < 0
        OR g.refund + g.credit + g.reduce + g.out_of_band <> g.amount
        OR (g.fallback_of IS NULL AND g.state NOT IN ('planned', 'cancelled', 'failed', 'given_elsewhere')
            AND (g.refund <> coalesce(s.refund, 0)
                 OR (NOT coalesce(s.shrunk, false) AND l.amount <> g.amount + g.short
                     AND (l.amount < g.amount + g.short OR g.incident_id NOT IN (
                         SELECT id FROM incidents WHERE state = 'retracted'
                     )))))
    """,
    "no object has two steps": """
        SELECT min(s.agency_id) AS agency_id, s.stripe_id AS object, min('incident:' || g.incident_id) AS stops,
               'is named by ' || count(*) || ' steps' AS what
        FROM steps s JOIN grants g ON g.agency_id = s.agency_id AND g.id = s.grant_id
        WHERE s.stripe_id IS NOT NULL GROUP BY s.stripe_account, s.stripe_id HAVING count(*) > 1
    """,
    "nothing is paused without a hold": """
        SELECT s.agency_id, 'subscription ' || s.id AS object, 'incident:' || s.pause_incident AS stops,
               'is paused by us for ' || s.pause_incident || ' and no incident holds it' AS what
        FROM subscriptions s
        WHERE s.pause_incident IS NOT NULL AND s.pause_behavior IS NOT NULL
        AND s.status NOT IN ('canceled', 'incomplete_expired', 'incomplete')
        AND EXISTS (SELECT FROM incidents i WHERE i.id = s.pause_incident)
        AND NOT EXISTS (
            SELECT FROM pauses p WHERE p.agency_id = s.agency_id AND p.subscription_id = s.id
            AND p.state IN ('planned', 'held', 'releasing', 'needs_person')
        )
    """,
    "I8 audit entries follow each other": """
        SELECT agency_id, 'audit entry ' || seq AS object, '' AS stops,
               'does not follow the one before it: an entry was removed, added or moved' AS what
        FROM (
            SELECT agency_id, seq, previous_hash, coalesce(lag(seq) OVER in_order, 0) + 1 AS no,
                   coalesce(lag(hash) OVER in_order, '') AS before
            FROM audit_entries WINDOW in_order AS (PARTITION BY agency_id ORDER BY seq)
        ) e WHERE seq <> no OR previous_hash <> before
    """,
}
