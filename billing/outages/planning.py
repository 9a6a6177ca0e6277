"""Preview = plan: what a declaration, or a resolution, pauses and gives back. One pass over the mirror.

What is previewed, approved and executed comes from the same rows: `plan` leaves them in temporary tables
(`billing.outages.planning_sql`) and changes nothing else, `billing.outages.runs` copies them into runs. Memory does not
grow with the lines: they stay in the database, and what is read out of it is read in batches.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import NotFound, nearest
from billing.models import Platform, SyncCursor
from billing.money import UNITS, Money, Totals, plain
from billing.outages import fingerprints, planning_sql
from billing.outages.in_force import EVERYBODY, Losses, Outage, Weights, losses, outages_in_force, weights_of_plans
from billing.outages.planned import PlannedGrant, planned_grants
from billing.windows import iso, unix
from tenants.models import Agency

_PLANNING: Final = 7_302
"""The first key of the advisory lock under which one agency's plans are made, one after the other."""
MOST_STALE: Final = timedelta(hours=1)
"""How old the time of a preview may be when it is declared."""


@dataclass(frozen=True)
class Declaration:
    """An outage as somebody describes it. `agencies` are slugs, none: all of them. `impact_bp` in basis points."""

    platform: str
    started_at: datetime
    ended_at: datetime | None = None
    impact_bp: int = 10_000
    agencies: tuple[str, ...] = ()
    policy: str | None = None
    title: str = ""
    message: str = ""


@dataclass(frozen=True)
class AgencyPlan:
    """One agency's part of a plan, which becomes its run. `totals` and `left_out` are JSON as scripts rely on it."""

    agency_id: int
    slug: str
    policy: str
    fingerprint: str
    grants: int
    totals: Sequence[Mapping[str, Any]] = ()
    left_out: Sequence[Mapping[str, Any]] = ()
    pauses: int = 0

    @property
    def affected(self) -> bool:
        return bool(self.grants or self.left_out or self.pauses)


@dataclass(frozen=True)
class Plan:
    """What one incident would do as of `as_of`: the sum of its agencies' plans. `grants` only where asked for."""

    outage: Outage
    as_of: datetime
    agencies: Sequence[AgencyPlan]
    losses: Sequence[Losses] = field(repr=False)
    fresh_at: datetime | None = None
    grants: Sequence[PlannedGrant] = field(default=(), repr=False)

    @property
    def fingerprint(self) -> str:
        return fingerprints.of_incident((one.agency_id, one.fingerprint) for one in self.agencies if one.grants)

    @property
    def pauses(self) -> int:
        return sum(one.pauses for one in self.agencies)

    @property
    def totals(self) -> list[dict[str, Any]]:
        """Per currency: amount, grants and customers, and the amount's parts by the way they take."""
        together = Totals()
        for one in self.agencies:
            for entry in one.totals:
                counts = {name: value for name, value in entry.items() if name not in ("currency", "amount")}
                together.add(Money(entry["amount"], entry["currency"]), **counts)
        return [dict(entry) for entry in together.to_json()]

    @property
    def left_out(self) -> list[dict[str, Any]]:
        return _merged(entry for one in self.agencies for entry in one.left_out)

    def to_json(self) -> dict[str, Any]:
        """The preview as scripts rely on it."""
        return {
            "fingerprint": self.fingerprint,
            "as_of": iso(self.as_of),
            "platform": self.outage.platform,
            "incident": {
                "platform": self.outage.platform,
                "started_at": iso(self.outage.started_at),
                "ended_at": iso(self.outage.ended_at) if self.outage.ended_at else None,
                "impact": self.outage.impact_bp,
                "policy": self.outage.policy,
                "all_agencies": EVERYBODY in self.outage.agencies,
            },
            "totals": self.totals,
            "pauses": self.pauses,
            "left_out": self.left_out,
            "agencies": [
                {
                    "agency": one.slug, "policy": one.policy, "pauses": one.pauses, "grants": one.grants,
                    "totals": [dict(entry) for entry in one.totals],
                    "left_out": [dict(entry) for entry in one.left_out],
                }
                for one in self.agencies
            ],
            "mirror_fresh_at": iso(self.fresh_at) if self.fresh_at else None,
            "grants": [grant.to_json() for grant in self.grants],
        }  # fmt: skip

    def in_words(self) -> list[str]:
        """The preview for a person."""
        until = iso(self.outage.ended_at) if self.outage.ended_at else "now, still going on"
        lines = [f"{self.outage.platform} from {iso(self.outage.started_at)} to {until}, counted to {iso(self.as_of)}."]
        lines += [
            f"  {plain(Money(total['amount'], total['currency']))} to {total['customers']:,} customers"
            f" in {total['grants']:,} grants"
            for total in self.totals
        ] or ["  Nobody is owed anything."]
        lines.append(f"  {self.pauses:,} subscriptions are paused, {len(self.agencies):,} agencies are affected.")
        for one in self.left_out:
            amounts = ", ".join(plain(Money(part["amount"], part["currency"])) for part in one["amount"])
            reason = one["reason"].replace("_", " ")
            lines.append(f"  Left out, {reason}: {one['count']:,}{f' ({amounts})' if amounts else ''}")
        return [*lines, f"  fingerprint {self.fingerprint}"]


def preview(session: Session, now: datetime, declaration: Declaration, *, as_of: datetime | None = None) -> Plan:
    """The plan of a declaration with every grant in it, to the cent what its run will have. Changes nothing."""
    made = plan(session, proposed(session, declaration), as_of or now)
    return replace(made, grants=list(planned_grants(session, made.losses)))


def proposed(session: Session, declaration: Declaration) -> Outage:
    """Raises `NotFound` for an unknown platform or agency, with the nearest known names."""
    platform = platform_called(session, declaration.platform)
    named = {agency.id for agency in agencies_of(session, declaration.agencies)}
    return Outage(
        "", platform.slug, declaration.started_at, declaration.ended_at, declaration.impact_bp,
        frozenset(named or {EVERYBODY}), declaration.policy,
    )  # fmt: skip


def standing(session: Session, incident_id: str) -> Outage:
    """A declared incident as planning sees it."""
    return next(outage for outage in outages_in_force(session) if outage.id == incident_id)


def plan(session: Session, outage: Outage, as_of: datetime, *, drafts: bool = False) -> Plan:
    """Plan one incident, whether it stands already or is only proposed; with `drafts` what our pauses held as well.

    Open outages are counted until `as_of`. What is owed is owed for all incidents together, so those that stand count.
    """
    scope = _in_scope(session, outage)
    weights = weights_of_plans(session)
    others = [other for other in outages_in_force(session) if other.id != outage.id]
    groups = losses([*others, outage], [agency.id for agency in scope], weights, as_of)
    _compute(session, outage, groups, weights, as_of, drafts)
    open_still = outage.ended_at is None or outage.ended_at > as_of
    pauses = _pauses(session, weights.plans_on(outage.platform)) if open_still else {}
    found = [one for one in _by_agency(session, scope, outage, pauses) if one.affected]
    return Plan(outage, as_of, found, groups, session.scalar(sa.select(sa.func.min(SyncCursor.fresh_at))))


def lock(session: Session, outage: Outage) -> None:
    """Make plans of these agencies wait for each other, always in one order, until the transaction ends.

    What is to be planned on must be read by statements that begin after this one.
    """
    for agency in _in_scope(session, outage):
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_PLANNING, agency.id % 2**31)))


def agencies_of(session: Session, slugs: Sequence[str]) -> list[Agency]:
    """The agencies with these slugs. Raises `NotFound` for the first that is not there."""
    by_slug = {agency.slug: agency for agency in session.scalars(sa.select(Agency).order_by(Agency.id))}
    for slug in slugs:
        if slug not in by_slug:
            raise NotFound(f"There is no agency called {slug[:40]!r}{nearest(slug, by_slug)}")
    return [by_slug[slug] for slug in dict.fromkeys(slugs)]


def platform_called(session: Session, slug: str) -> Platform:
    """Raises `NotFound` with the nearest known names."""
    found = session.scalar(sa.select(Platform).where(Platform.slug == slug))
    if found is None:
        known = session.scalars(sa.select(Platform.slug)).all()
        raise NotFound(f"No platform is called {slug[:40]!r}{nearest(slug, known)}")
    return found


def _in_scope(session: Session, outage: Outage) -> list[Agency]:
    wanted = sa.select(Agency).order_by(Agency.id)
    if EVERYBODY not in outage.agencies:
        wanted = wanted.where(Agency.id.in_(outage.agencies))
    return list(session.scalars(wanted))


def _compute(
    session: Session, outage: Outage, groups: Sequence[Losses], weights: Weights, as_of: datetime, drafts: bool
) -> None:
    """Fill the temporary tables of this transaction anew."""
    for statement in (*planning_sql.SETTINGS, *planning_sql.TABLES):
        session.execute(sa.text(statement))
    members = [(agency, group.group) for group in groups for agency in group.agencies]
    session.execute(
        sa.text(planning_sql.FILL_AGENCIES),
        {"agencies": [agency for agency, _ in members], "groups": [no for _, no in members], "policy": outage.policy},
    )
    touched = frozenset(weights.plans_on(outage.platform))
    steps = [
        (group.group, plan_id, no, step.start, step.end, step.share, len(steps), plan_id in touched)
        for group in groups
        for plan_id, steps in group.schedules.items()
        for no, step in enumerate(steps, start=1)
    ]
    columns = ("groups", "plans", "nos", "starts", "ends", "shares", "steps", "touched")
    told = dict(zip(columns, zip(*steps, strict=True), strict=True)) if steps else dict.fromkeys(columns, ())
    session.execute(sa.text(planning_sql.FILL_STEPS), {name: list(values) for name, values in told.items()})
    span = outage.span(as_of)
    session.execute(
        sa.text(planning_sql.LINES),
        {
            "since": span.start, "until": unix(as_of) if span.end is None else span.end,
            "first": min((step[3] for step in steps), default=0), "last": max((step[4] for step in steps), default=0),
        },
    )  # fmt: skip
    session.execute(sa.text("ANALYZE plan_lines (agency_id, invoice_id)"))
    session.execute(
        sa.text(planning_sql.INVOICES),
        {
            "with_drafts": drafts, "live": list(planning_sql.LIVE), "odd_currencies": list(UNITS),
            "odd_units": list(UNITS.values()),
        },
    )  # fmt: skip


def _pauses(session: Session, plans: Sequence[str]) -> dict[int, int]:
    """How many subscriptions of each agency would be held."""
    counted = sa.text(f"SELECT agency_id, count(*) FROM ({planning_sql.TO_PAUSE}) s GROUP BY agency_id")  # noqa: S608
    return dict(session.execute(counted, {"plans": list(plans)}).all())


def _by_agency(
    session: Session, scope: Sequence[Agency], outage: Outage, pauses: Mapping[int, int]
) -> list[AgencyPlan]:
    summary = {row.agency_id: row for row in session.execute(sa.text(planning_sql.SUMMARY))}
    totals: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for total in session.execute(sa.text(planning_sql.TOTALS)).mappings():
        totals[total["agency_id"]].append({name: value for name, value in total.items() if name != "agency_id"})
    left: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in session.execute(sa.text(planning_sql.LEFT_OUT)):
        amount = [{"currency": row.currency, "amount": row.amount}] if row.amount else []
        left[row.agency_id].append({"reason": row.reason, "count": row.count, "amount": amount})
    return [
        AgencyPlan(
            agency.id, agency.slug, outage.policy or agency.policy,
            fingerprint=summary[agency.id].fingerprint if agency.id in summary else "",
            grants=summary[agency.id].grants if agency.id in summary else 0,
            totals=totals[agency.id], left_out=_merged(left[agency.id]), pauses=pauses.get(agency.id, 0),
        )
        for agency in scope
    ]  # fmt: skip


def _merged(entries: Any) -> list[dict[str, Any]]:
    """Entries of one reason together, their amounts per currency."""
    counts: defaultdict[str, int] = defaultdict(int)
    amounts: defaultdict[str, Totals] = defaultdict(Totals)
    for entry in entries:
        counts[entry["reason"]] += entry["count"]
        for part in entry["amount"]:
            amounts[entry["reason"]].add(Money(part["amount"], part["currency"]))
    return [
        {"reason": reason, "count": count, "amount": amounts[reason].to_json()}
        for reason, count in sorted(counts.items())
    ]
