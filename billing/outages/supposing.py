"""What would it cost? Every policy side by side for one outage, and one policy for all the outages of a year.

Nothing here changes anything: each answer is a plan like any other, which nobody freezes into runs.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from billing.errors import BadRequest
from billing.money import Money, plain
from billing.outages import planning
from billing.outages.in_force import outages_in_force
from billing.outages.planning import Declaration
from billing.windows import iso
from tenants.policy import GRANTS

LONGEST = 120


def compare(session: Session, now: datetime, declaration: Declaration) -> dict[str, Any]:
    """What each policy would give back for this outage, whatever the declaration asks for: its totals, by its name.

    Each agency's other settings stay as they are.
    """
    outage = planning.proposed(session, declaration)
    plans = {name: planning.plan(session, replace(outage, policy=name), now) for name in GRANTS}
    return {name: {"totals": plan.totals, "left_out": plan.left_out} for name, plan in plans.items()}


def compared_in_words(policies: dict[str, Any]) -> list[str]:
    return [f"  {name:<9} {_amounts(one['totals'])}" for name, one in policies.items()]


def simulate(session: Session, now: datetime, policy: str, months: int = 12) -> dict[str, Any]:
    """What the incidents of the last `months` would have cost under `policy`, as if none had ever been granted for.

    Each as if it had been alone, and `together`: each second counts once, so that may be less than their sum. Raises
    `BadRequest` for a policy or a number of months that cannot be.
    """
    if policy not in GRANTS:
        raise BadRequest(f"A policy is {', '.join(GRANTS[:-1])} or {GRANTS[-1]}.")
    if not 1 <= months <= LONGEST:
        raise BadRequest(f"Look back 1 to {LONGEST} months.")
    since = _months_before(now, months)
    outages = [
        replace(one, policy=policy, earlier=None)
        for one in sorted(outages_in_force(session), key=lambda one: (one.started_at, one.id))
        if one.started_at >= since
    ]
    alone = [planning.plan(session, one, now, afresh=()) for one in outages]
    together = planning.plan(session, planning.everywhere(outages), now, afresh=outages) if outages else None
    return {
        "policy": policy,
        "since": iso(since),
        "as_of": iso(now),
        "incidents": [
            {
                "id": one.id,
                "platform": one.platform,
                "started_at": iso(one.started_at),
                "ended_at": iso(one.ended_at) if one.ended_at else None,
                "totals": plan.totals,
            }
            for one, plan in zip(outages, alone, strict=True)
        ],
        "totals": together.totals if together else [],
    }


def simulated_in_words(told: dict[str, Any]) -> list[str]:
    lines = [f"Incidents since {told['since']} under the policy {told['policy']}, as if nothing had been given back:"]
    lines += [
        f"  {one['id']}  {one['platform']:<10} {one['started_at']}  {_amounts(one['totals'])}"
        for one in told["incidents"]
    ] or ["  There were none."]
    return [*lines, f"  Together, each second counted once: {_amounts(told['totals'])}"]


def _amounts(totals: list[dict[str, Any]]) -> str:
    return ", ".join(plain(Money(one["amount"], one["currency"])) for one in totals) or "nothing"


def _months_before(moment: datetime, months: int) -> datetime:
    """The same day of that month, or its last one where it is shorter."""
    years, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    for day in range(moment.day, 27, -1):
        try:
            return moment.replace(year=years, month=month + 1, day=day)
        except ValueError:
            continue
    return moment.replace(year=years, month=month + 1)
