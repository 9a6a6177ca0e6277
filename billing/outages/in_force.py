"""Which incidents count for whom, and which share of each plan they took when: the loss schedules of planning."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.models import PlanWeight, Platform
from billing.outages.decisions import IncidentVersion
from billing.outages.loss import OutageSpan, Step, schedule
from billing.outages.models import Incident, IncidentScope, Run
from billing.stretches import Counting
from billing.windows import Window, unix

EVERYBODY = 0
"""The agency number in an incident's scope that means: all of them."""
COUNTED = ("declared", "resolved", "retired")
OVER = ("resolved", "retired")
"""Whose runs settle the drafts too that our pauses held: they are released after them."""
FOR_GOOD = datetime(2200, 1, 1, tzinfo=UTC)
"""Until when a platform that does not come back is lost: longer than anybody has paid for."""


@dataclass(frozen=True)
class Reach:
    """Everything that an incident touched in any of its versions: whoever lost by one may gain by the next."""

    since: datetime
    until: datetime | None
    agencies: frozenset[int]


@dataclass(frozen=True)
class Outage:
    """One incident as planning sees it, whether it is declared or only asked about (`id` '').

    One that was retracted took nothing: its impact is 0, and what is left of it is its reach. One that is `for_good`
    takes all that is paid for, and is known to: nobody has to wait until it has been lost.
    """

    id: str
    platform: str
    started_at: datetime
    ended_at: datetime | None
    impact_bp: int
    agencies: frozenset[int]
    policy: str | None = None
    declared_at: datetime | None = None
    earlier: Reach | None = None
    goes_on: bool = False
    """Its end is only how far it is paid for."""
    for_good: bool = False

    @property
    def reach(self) -> Reach:
        return self.earlier or Reach(self.started_at, self.ended_at, self.agencies)

    def until(self, moment: datetime) -> "Outage":
        """The same as far as it was paid for: until then, or its end; `FOR_GOOD`: all of it."""
        if moment >= FOR_GOOD or (self.ended_at is not None and self.ended_at <= moment):
            return self
        return replace(self, ended_at=moment, goes_on=True, for_good=False)

    def covers(self, agency_id: int) -> bool:
        return EVERYBODY in self.agencies or agency_id in self.agencies

    def span(self, as_of: datetime) -> OutageSpan:
        """An end that lies ahead is not known yet: nothing is given back before it is lost."""
        if self.for_good:
            return OutageSpan.over(self.platform, Window(self.started_at, FOR_GOOD), self.impact_bp)
        ended = self.ended_at if self.ended_at is not None and self.ended_at <= as_of else None
        span = OutageSpan.over(self.platform, Window(self.started_at, ended), self.impact_bp)
        return replace(span, recovers=not self.goes_on)


def beside(
    outage: Outage,
    others: Iterable[Outage],
    as_of: datetime,
    agencies: Collection[int],
    paid: Mapping[tuple[str, int], datetime],
) -> list[Outage]:
    """The other outages as far as a run for `outage` pays those agencies for them.

    One that is still going on counts no longer than an outage that is over, or than it has been paid for
    (`paid_until`): nobody knows yet whether the time since then was lost, and it has runs of its own. Else two
    platforms that came back at the same moment would be paid for until somebody resolved the second one, and what is
    given is never taken back.
    """
    if outage.ended_at is None or outage.ended_at > as_of:
        return list(others)
    found = []
    for other in others:
        if other.for_good or (other.ended_at is not None and other.ended_at <= as_of):
            found.append(other)
            continue
        together: defaultdict[datetime, list[int]] = defaultdict(list)
        for agency in agencies:
            if other.covers(agency):
                together[max(outage.ended_at, paid.get((other.id, agency), outage.ended_at))].append(agency)
        found += [
            replace(other, ended_at=until, agencies=frozenset(members), goes_on=True)
            for until, members in together.items()
            if other.started_at < until
        ]
    return found


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
    return _outages(session, Incident.state.in_(COUNTED))


def paid_until(session: Session, prompt: Collection[int]) -> dict[tuple[str, int], datetime]:
    """Until when each incident that goes on was paid for, per agency.

    By the last run that was approved; or, to a `prompt` agency, which is given everything as soon as it is owed, by
    whatever had been given before: when nothing was left to give as somebody last decided about the incident.
    """
    rows = session.execute(
        sa.select(Run.incident_id, Run.agency_id, sa.func.max(Run.as_of))
        .join(Incident, Incident.id == Run.incident_id)
        .where(Incident.state == "declared", Run.approval.is_not(None))
        .group_by(Run.incident_id, Run.agency_id)
    )
    found = {(incident, agency): until for incident, agency, until in rows}
    undecided = sa.select(Run.incident_id, Run.agency_id).where(Run.state.in_(("waiting", "declined")))
    left = {(incident, agency) for incident, agency in session.execute(undecided)}
    seen = session.execute(
        sa.select(IncidentVersion.incident_id, sa.func.max(IncidentVersion.at))
        .join(Incident, Incident.id == IncidentVersion.incident_id)
        .where(Incident.state == "declared")
        .group_by(IncidentVersion.incident_id)
    )
    for incident, at in seen:
        for agency in prompt:
            if (incident, agency) not in left:
                found[incident, agency] = max(at, found.get((incident, agency), at))
    return found


def outage_of(session: Session, incident_id: str) -> Outage:
    """One incident in whatever state it is, with all that its versions touched."""
    (outage,) = _outages(session, Incident.id == incident_id)
    versions = session.scalars(sa.select(IncidentVersion).where(IncidentVersion.incident_id == incident_id)).all()
    starts = [outage.started_at, *(version.started_at for version in versions)]
    ends = [outage.ended_at, *(version.ended_at for version in versions)]
    reach = Reach(
        min(starts),
        None if None in ends else max(end for end in ends if end is not None),
        outage.agencies.union(*(version.agencies for version in versions)),
    )
    return replace(outage, earlier=reach)


def _outages(session: Session, wanted: sa.ColumnElement[bool]) -> list[Outage]:
    rows = session.execute(
        sa.select(Incident, Platform.slug, sa.func.array_agg(IncidentScope.agency_id))
        .join(Platform, Platform.id == Incident.platform_id)
        .join(IncidentScope, IncidentScope.incident_id == Incident.id)
        .where(wanted)
        .group_by(Incident.id, Platform.slug)
        .order_by(Incident.id)
        .execution_options(populate_existing=True)
    )
    return [
        Outage(
            incident.id, platform, incident.started_at, incident.ended_at,
            0 if incident.state == "retracted" else incident.impact_bp, frozenset(agencies), incident.policy,
            incident.declared_at, for_good=incident.state == "retired",
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


def losses(
    outages: Iterable[Outage], agencies: Mapping[int, Counting], weights: Weights, as_of: datetime
) -> list[Losses]:
    """The schedules for each group of `agencies` that suffered the same incidents and counts alike, until `as_of`."""
    outages = list(outages)
    together: defaultdict[tuple[tuple[Outage, ...], Counting], list[int]] = defaultdict(list)
    for agency, counting in sorted(agencies.items(), key=lambda one: one[0]):
        together[tuple(outage for outage in outages if outage.covers(agency)), counting].append(agency)
    until = unix(as_of)
    found = []
    for group, ((suffered, counting), members) in enumerate(together.items()):
        spans = [outage.span(as_of) for outage in suffered]
        schedules = {plan: schedule(on, spans, until, counting) for plan, on in weights.of.items()}
        lossy = {plan: steps for plan, steps in schedules.items() if steps}
        found.append(Losses(group, tuple(members), lossy))
    return found
