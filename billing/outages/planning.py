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

from billing import catalog
from billing.errors import NotFound, nearest
from billing.models import SyncCursor
from billing.money import Money, Totals, plain
from billing.outages import choosers, fingerprints, kindness, planned, reach, terms
from billing.outages.filling import Filling
from billing.outages.in_force import (
    COUNTED,
    EVERYBODY,
    FOR_GOOD,
    Losses,
    Outage,
    Weights,
    beside,
    outage_of,
    outages_in_force,
    paid_until,
    weights_of_plans,
)
from billing.outages.planning_sql import sums, tables
from billing.outages.terms import Terms
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
    terms: Terms
    fingerprint: str
    grants: int
    totals: Sequence[Mapping[str, Any]] = ()
    left_out: Sequence[Mapping[str, Any]] = ()
    pauses: int = 0

    @property
    def policy(self) -> str:
        """What it grants: prorated, full, credit or none."""
        return self.terms.policy.grants

    @property
    def affected(self) -> bool:
        return bool(self.grants or self.left_out or self.pauses)


@dataclass(frozen=True)
class Plan:
    """What one incident would do as of `as_of`: the sum of its agencies' plans."""

    outage: Outage
    as_of: datetime
    agencies: Sequence[AgencyPlan]
    losses: Sequence[Losses] = field(repr=False)
    fresh_at: datetime | None = None
    grants: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    """As scripts rely on them, where they were asked for."""
    reaches: reach.Reach | None = None
    """Whom a preview reaches."""

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
    def refunds(self) -> list[tuple[int, str, int]]:
        """What takes money of a balance in Stripe: agency, currency, amount."""
        return [(one.agency_id, entry["currency"], entry["refund"]) for one in self.agencies for entry in one.totals]

    @property
    def work(self) -> list[tuple[int, int, int]]:
        """What there is to send: agency, pauses, grants."""
        return [(one.agency_id, one.pauses, one.grants) for one in self.agencies]

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
            **(self.reaches.to_json() if self.reaches else {}),
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
            "grants": self.grants,
        }  # fmt: skip

    def in_words(self) -> list[str]:
        """The preview for a person."""
        still = "for good" if self.outage.for_good else "to now, still going on"
        until = f"to {iso(self.outage.ended_at)}" if self.outage.ended_at else still
        lines = [f"{self.outage.platform} from {iso(self.outage.started_at)} {until}, counted to {iso(self.as_of)}."]
        lines += [
            f"  {plain(Money(total['amount'], total['currency']))} to {total['customers']:,} customers"
            f" in {total['grants']:,} grants"
            for total in self.totals
        ] or ["  Nobody is owed anything."]
        lines.append(f"  {self.pauses:,} subscriptions are paused, {len(self.agencies):,} agencies are affected.")
        lines += self.reaches.in_words() if self.reaches else []
        for one in self.left_out:
            amounts = ", ".join(plain(Money(part["amount"], part["currency"])) for part in one["amount"])
            reason = one["reason"].replace("_", " ")
            lines.append(f"  Left out, {reason}: {one['count']:,}{f' ({amounts})' if amounts else ''}")
        fresh = f"of {iso(self.fresh_at)}" if self.fresh_at else "empty: run the first import"
        return [*lines, f"  The mirror of Stripe is {fresh}.", f"  fingerprint {self.fingerprint}"]


def preview(session: Session, now: datetime, declaration: Declaration, *, as_of: datetime | None = None) -> Plan:
    """The plan of a declaration, to the cent what its run will have. Changes nothing."""
    made = plan(session, proposed(session, declaration), as_of or now)
    return replace(made, reaches=reach.of(session, made.as_of))


def with_grants(session: Session, made: Plan, *, biggest: int | None = None) -> Plan:
    """The plan that this transaction made last with every grant in it, or with the `biggest` so many of them."""
    if biggest is None:
        return replace(made, grants=list(planned.told(session, made.losses)))
    shown = sorted(planned.planned_grants(session, made.losses, biggest=biggest), key=lambda one: -one.grant.amount)
    return replace(made, grants=[one.to_json() for one in shown])


def proposed(session: Session, declaration: Declaration) -> Outage:
    """Raises `NotFound` for an unknown platform or agency, with the nearest known names; `Conflict` for a platform that
    is disabled."""
    platform = catalog.platform_called(session, declaration.platform)
    named = {agency.id for agency in agencies_of(session, declaration.agencies)}
    return Outage(
        "", platform.slug, declaration.started_at, declaration.ended_at, declaration.impact_bp,
        frozenset(named or {EVERYBODY}), declaration.policy,
    )  # fmt: skip


def everywhere(outages: Sequence[Outage]) -> Outage:
    """One that takes nothing itself and reaches as far as all of these: to plan them together with `afresh`."""
    return replace(outages[0], id="", impact_bp=0, agencies=frozenset[int]().union(*(one.agencies for one in outages)))


def standing(session: Session, incident_id: str) -> Outage:
    """An incident as planning sees it now; one that was retracted took nothing, and is still planned for what it was.

    Everything that any of its versions touched is planned anew, so that the next run grants the difference.
    """
    return outage_of(session, incident_id)


def plan(
    session: Session,
    outage: Outage,
    as_of: datetime,
    *,
    drafts: bool = False,
    kept: Mapping[int, Terms] | None = None,
    afresh: Sequence[Outage] | None = None,
) -> Plan:
    """Plan one incident, whether it stands already or is only proposed; with `drafts` what our pauses held as well.

    Open outages are counted until `as_of`. What is owed is owed for all incidents together, so those that stand count,
    as `in_force.beside` says. `kept` are the terms of runs that are planned again; others follow today's policies.
    With `afresh` it is as if nothing had ever been granted, and as if these alone were the other incidents: what all of
    them together would have given.
    """
    scope = _in_scope(session, outage)
    weights = weights_of_plans(session)
    agencies = [agency.id for agency in scope]
    agreed = {agency: one.granting(outage.policy) for agency, one in terms.now(session, agencies).items()} | dict(
        kept or {}
    )
    if afresh is None:
        in_force = _giving([other for other in outages_in_force(session) if other.id != outage.id], agencies, session)
        prompt = [agency for agency in agencies if agreed[agency].policy.settle != "resolution"]
        others = beside(outage, in_force, as_of, agencies, paid_until(session, prompt) if in_force else {})
        full = _full(outage, in_force, agreed, terms.granted_by(session) if in_force else {})
    else:
        others = list(afresh)
        full = _full(outage, others, agreed, {})
    choosing = [] if afresh is not None else _choosing(session, outage, agreed, as_of, weights)
    filling = Filling(session, outage, as_of, weights, agreed, choosing, drafts, afresh is not None)
    for statement in tables.NOTHING_WAIVED:
        session.execute(sa.text(statement))
    kindness.count(filling, others, full)
    _waive(filling, others, full)
    groups = filling.losses([*others, outage])
    grain = filling.compute(groups, full)
    open_still = outage.ended_at is None or outage.ended_at > as_of
    pauses = _pauses(session, pausing=open_still and outage.impact_bp > 0)
    corrected = terms.left_something_out(session, outage.id)
    found = [
        one for one in _by_agency(session, scope, agreed, pauses, grain) if one.affected or one.agency_id in corrected
    ]
    return Plan(
        outage,
        as_of,
        found,
        groups,
        session.scalar(sa.select(sa.func.min(sa.func.greatest(SyncCursor.fresh_at, SyncCursor.imported_at)))),
    )


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


def are_everybody(session: Session, slugs: Sequence[str]) -> bool:
    """Whether these are all agencies that there are: because none is named, or because each of them is."""
    return not slugs or set(session.scalars(sa.select(Agency.slug))) <= set(slugs)


def _in_scope(session: Session, outage: Outage) -> list[Agency]:
    wanted = sa.select(Agency).order_by(Agency.id)
    if EVERYBODY not in outage.reach.agencies:
        wanted = wanted.where(Agency.id.in_(outage.reach.agencies))
    return list(session.scalars(wanted))


def _giving(others: Sequence[Outage], agencies: Sequence[int], session: Session) -> list[Outage]:
    """The others for those of these agencies to which each gives something, and as far as it does: of what one is to
    give nothing for, no other one gives anything either."""
    stopped = terms.gave_until(session) if others else {}
    found = []
    for one in others:
        together: defaultdict[datetime | None, list[int]] = defaultdict(list)
        for agency in agencies:
            if one.covers(agency) and one.policy != "none":
                together[stopped.get((one.id, agency), FOR_GOOD)].append(agency)
        found += [
            replace(one.until(until), agencies=frozenset(members))
            for until, members in together.items()
            if until is not None and until > one.started_at
        ]
    return found


def _full(
    outage: Outage, others: Sequence[Outage], agreed: Mapping[int, Terms], by_run: Mapping[tuple[str, int], str]
) -> list[tuple[int, Outage]]:
    """Which incidents give which agency's payments back whole; others by what their last run granted."""
    found = [(agency, outage) for agency, one in agreed.items() if one.policy.grants == "full"]
    found += [
        (agency, other)
        for other in others
        for agency, one in agreed.items()
        if by_run.get((other.id, agency), other.policy or one.policy.grants) == "full"
    ]
    return [(agency, one) for agency, one in found if one.impact_bp and one.covers(agency)]


def _choosing(
    session: Session, outage: Outage, agreed: Mapping[int, Terms], as_of: datetime, weights: Weights
) -> list[tuple[int, str, int, int]]:
    """Whose customers have still to choose, for which plans, and what was lost of them: `(agency, plan, since, until)`.

    Whatever another incident gives for the same invoices waits as well: which seconds were whose is not known before.
    """
    found = choosers.choosing(session, as_of)
    if not outage.id:
        found += [
            (agency, outage.platform, outage.started_at, outage.ended_at)
            for agency, one in agreed.items()
            if one.policy.choice_days and one.policy.grants != "none"
        ]
    return [
        (agency, plan, *agreed[agency].counting.around(unix(since), unix(as_of if until is None else until)))
        for agency, platform, since, until in found
        if agency in agreed
        for plan in weights.plans_on(platform)
    ]


def _waive(filling: Filling, others: Sequence[Outage], full: Sequence[tuple[int, Outage]]) -> None:
    """Leave in `plan_without` what customers who waived some of the incidents are owed for those that are left."""
    session = filling.session
    for waived in () if filling.afresh else choosers.one_by_one(session):
        kept_on = [replace(one, impact_bp=0) if one.id in waived else one for one in (*others, filling.outage)]
        filling.compute(filling.losses(kept_on), [(agency, one) for agency, one in full if one.id not in waived])
        session.execute(sa.text(tables.KEEP_WITHOUT), {"waived": waived, "counted": list(COUNTED)})


def _pauses(session: Session, *, pausing: bool) -> dict[int, int]:
    """How many subscriptions of each agency would be held."""
    for statement in sums.PAUSED:
        session.execute(sa.text(statement), {"pausing": pausing})
    return dict(session.execute(sa.text("SELECT agency_id, count(*) FROM plan_paused GROUP BY agency_id")).all())


def _by_agency(
    session: Session, scope: Sequence[Agency], agreed: Mapping[int, Terms], pauses: Mapping[int, int], grain: int
) -> list[AgencyPlan]:
    exactly = {"grain": grain, "most": sums.MOST // grain}
    names: dict[int, str] = dict(session.execute(sa.text(sums.FINGERPRINTS), exactly).all())
    totals: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for total in session.execute(sa.text(sums.TOTALS)).mappings():
        totals[total["agency_id"]].append({name: value for name, value in total.items() if name != "agency_id"})
    left: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in session.execute(sa.text(sums.LEFT_OUT)):
        amount = [{"currency": row.currency, "amount": row.amount}] if row.amount else []
        left[row.agency_id].append({"reason": row.reason, "count": row.count, "amount": amount})
    return [
        AgencyPlan(
            agency.id, agency.slug, agreed[agency.id], fingerprint=names.get(agency.id, ""),
            grants=sum(total["grants"] for total in totals[agency.id]), totals=totals[agency.id],
            left_out=_merged(left[agency.id]), pauses=pauses.get(agency.id, 0),
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
