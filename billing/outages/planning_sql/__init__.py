"""The plan of grants as SQL: one pass over the mirror, in whole numbers, from lines to parts.

What `billing.outages.loss` says for one subscription, said for all of them at once; a test holds the two together.
Fractions are kept as numerator and denominator. The tables live as long as their transaction: `plan_agencies` and
`plan_steps` are what planning was told (`tables`), `plan_whole` what was lost of each invoice (`lost`), `plan_invoices`
what each invoice gets (`invoices`, summed up in `sums`), `plan_parts` what each line gets of that (`parts`).
"""

from typing import Final

LIVE: Final = (
    "approved", "sent", "pending", "unknown", "succeeded", "blocked", "needs_person", "given_elsewhere",
)  # fmt: skip
"""States of a grant in which its amount is with the customer, on its way there, or was given by somebody else."""

BILLED_AGAIN: Final = """
    s.status NOT IN ('canceled', 'incomplete_expired') AND NOT s.cancel_at_period_end AND NOT EXISTS (
        SELECT FROM incidents x JOIN retirements t ON t.incident_id = x.id AND t.subscription_id = s.id
        WHERE x.state = 'retired' AND t.agency_id = s.agency_id AND t.kind = 'cancel' AND t.state <> 'done'
    )
"""
"""Of a subscription `s`: that it goes on, so that it is of use to its customer to have something on the balance."""
