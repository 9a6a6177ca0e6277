"""Which incidents count for whom, and which share of each plan they took when: the loss schedules of planning."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.models import PlanWeight, Platform
from billing.outages.loss import OutageSpan, Step, schedule
from billing.outages.models import Incident, IncidentScope
from billing.windows import Window, unix

EVERYBODY = 0
"""The agency number in an incident's scope that means: all of them."""
COUNTED = ("declared", "resolved")


@dataclass(frozen=True)
class Outage:
    """One incident as planning sees it, whether it is declared or only asked about (`id` '')."""

    id: str
    platform: str
    started_at: datetime
    ended_at: datetime | None
    impact_bp: int
    agencies: frozenset[int]
    policy: str | None = None

    def covers(self, agency_id: int) -> bool:
        return EVERYBODY in self.agencies or agency_id in self.agencies

    def span(self, as_of: datetime) -> OutageSpan:
        """An end that lies ahead is not known yet: nothing is given back before it is lost."""
        ended = self.ended_at if self.ended_at is not None and self.ended_at <= as_of else None
        return OutageSpan.over(self.platform, Window(self.started_at, ended), self.impact_bp)


@dataclass(frozen=True)
class Losses:
    """The schedules of all plans for agencies that suffered the same incidents. `group` numbers those agencies."""

    group: int
    agencies: tuple[int, ...]
    schedules: Mapping[str, Sequence[Step]]


@dataclass(frozen=True)
class Weights:
    """`{plan: {platform: basis points}}`."""

    of: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def plans_on(self, platform: str) -> list[str]:
        return sorted(plan for plan, weights in self.of.items() if weights.get(platform, 0) > 0)


def outages_in_force(session: Session) -> list[Outage]:
    """Every incident that counts now, with the agencies that it covers."""
    rows = session.execute(
        sa.select(Incident, Platform.slug, sa.func.array_agg(IncidentScope.agency_id))
        .join(Platform, Platform.id == Incident.platform_id)
        .join(IncidentScope, IncidentScope.incident_id == Incident.id)
        .where(Incident.state.in_(COUNTED))
        .group_by(Incident.id, Platform.slug)
        .order_by(Incident.id)
        .execution_options(populate_existing=True)
    )
    return [
        Outage(
            incident.id, platform, incident.started_at, incident.ended_at, incident.impact_bp, frozenset(agencies),
            incident.policy,
        )
        for incident, platform, agencies in rows
    ]  # fmt: skip


def weights_of_plans(session: Session) -> Weights:
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    rows = session.execute(
        sa.select(PlanWeight.plan_id, Platform.slug, PlanWeight.weight_bp).join(
            Platform, Platform.id == PlanWeight.platform_id
        )
    )
    for plan, platform, weight in rows:
        found[plan][platform] = weight
    return Weights(found)


def losses(outages: Iterable[Outage], agencies: Collection[int], weights: Weights, as_of: datetime) -> list[Losses]:
    """The schedules for each group of `agencies` that suffered the same incidents, counted until `as_of`."""
    outages = list(outages)
    together: defaultdict[tuple[Outage, ...], list[int]] = defaultdict(list)
    for agency in sorted(agencies):
        together[tuple(outage for outage in outages if outage.covers(agency))].append(agency)
    until = unix(as_of)
    found = []
    for group, (suffered, members) in enumerate(together.items()):
        spans = [outage.span(as_of) for outage in suffered]
        schedules = {plan: schedule(on, spans, until) for plan, on in weights.of.items()}
        lossy = {plan: steps for plan, steps in schedules.items() if steps}
        found.append(Losses(group, tuple(members), lossy))
    return found
