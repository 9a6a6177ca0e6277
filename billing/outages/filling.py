"""Fills the tables that planning works in (`billing.outages.planning_sql`), from what it was told to what each gets."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import gcd
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.money import UNITS
from billing.outages.in_force import COUNTED, Losses, Outage, Weights, losses
from billing.outages.loss import WHOLE
from billing.outages.planning_sql import LIVE, invoices, lost, sums, tables
from billing.outages.terms import Terms
from billing.windows import unix
from tenants.db import for_rows


@dataclass(frozen=True)
class Filling:
    """What one plan is computed from, however often that is done: with other incidents beside it, or with fewer.

    `agreed` are the terms of each agency; `choosing` says whose customers have still to choose, for which plans, and
    what was lost of them: `(agency, plan, since, until)`. With `drafts` what our pauses held counts as well, and
    `afresh` it is as if nothing had ever been granted.
    """

    session: Session
    outage: Outage
    as_of: datetime
    weights: Weights
    agreed: Mapping[int, Terms]
    choosing: Sequence[tuple[int, str, int, int]]
    drafts: bool
    afresh: bool

    def losses(self, outages: Iterable[Outage]) -> list[Losses]:
        """What these incidents together took of each plan."""
        counting = {agency: one.counting for agency, one in self.agreed.items()}
        return losses(outages, counting, self.weights, self.as_of)

    def compute(self, groups: Sequence[Losses], full: Sequence[tuple[int, Outage]]) -> int:
        """Fill the temporary tables of this transaction anew; `full` says which incidents give which agency's payments
        back whole. Returns the grain in which shares are counted in the tables.
        """
        session, outage, afresh = self.session, self.outage, self.afresh
        for statement in (*tables.SETTINGS, *tables.TABLES):
            session.execute(sa.text(statement))
        choose = frozenset(agency for agency, *_ in self.choosing)
        settled = self.drafts or afresh
        reached = _fill_agencies(session, outage, groups, self.agreed, self.as_of, choose, settled=settled)
        _fill(session, tables.FILL_CHOOSING, ("agencies", "plans", "since", "until"), self.choosing)
        if not afresh:
            told = {"incident": outage.id, "counted": list(COUNTED)}
            session.execute(sa.text(tables.FILL_CHOICES), told)
        held = pausing(outage, self.weights, self.agreed)
        _fill(session, tables.FILL_PAUSING, ("agencies", "plans", "holds"), held)
        minimums = _fill_minimums(session, self.agreed)
        on = frozenset(self.weights.plans_on(outage.platform))
        grain = gcd(WHOLE, *(step.share for group in groups for steps in group.schedules.values() for step in steps))
        found = _lose(session, groups, on, grain)
        if full:
            _give_back_whole(session, outage, full, self.weights, self.as_of, every=afresh)
        if afresh:
            session.execute(sa.text(lost.TOUCH_EVERYTHING))
        elif outage.id:
            of_incident = {"incident": outage.id, "plans": list(on), "live": list(LIVE)}
            session.execute(sa.text(lost.REACHED), {**reached, **of_incident})
            session.execute(sa.text(lost.TOUCH_REACHED))
        for statement in lost.TURNED:
            session.execute(sa.text(statement))
        self._invoices(found, grain)
        if minimums:
            for statement in sums.BELOW_MINIMUM:
                session.execute(sa.text(statement))
        return grain

    def _invoices(self, found: int, grain: int) -> None:
        """What each of the `found` invoices gets."""
        session = self.session
        many = found * 4 > (session.scalar(sa.text(invoices.PAYMENTS)) or 0)
        told = {
            "with_drafts": self.drafts, "live": [] if self.afresh else list(LIVE), "afresh": self.afresh,
            "odd_currencies": list(UNITS), "odd_units": list(UNITS.values()), "whole": WHOLE // grain,
        }  # fmt: skip
        plain = invoices.PLAIN_OF_ALL if many else invoices.PLAIN_OF_THEIRS
        with for_rows(session, found):
            for statement in (plain, *invoices.REST):
                rest: Any = session.execute(sa.text(statement), told)
        with for_rows(session, rest.rowcount):
            for statement in invoices.INVOICES if rest.rowcount else ():
                session.execute(sa.text(statement), told)


def _lose(session: Session, groups: Sequence[Losses], on: Collection[str], grain: int) -> int:
    """Fill in what was lost of each invoice. Returns of how many something was; `on` are the incident's plans."""
    steps = [
        (group.group, plan_id, no, step.start, step.end, step.share, step.share // grain, len(steps), plan_id in on)
        for group in groups
        for plan_id, steps in group.schedules.items()
        for no, step in enumerate(steps, start=1)
    ]
    columns = ("groups", "plans", "nos", "starts", "ends", "shares", "parts", "steps", "touched")
    _fill(session, tables.FILL_STEPS, columns, steps)
    for statement in tables.KNOWN:
        session.execute(sa.text(statement))
    first, last = min((step[3] for step in steps), default=0), max((step[4] for step in steps), default=0)
    counted = {"first": first, "last": last, "grain": grain}
    found: Any = session.execute(sa.text(lost.WHOLE), counted)
    for statement in (*lost.KNOWN, lost.WIDE):
        session.execute(sa.text(statement), counted)
    return int(found.rowcount)


def _fill(session: Session, statement: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows as one array per column, which is the fastest way in."""
    told = zip(*rows, strict=True) if rows else [()] * len(columns)
    session.execute(sa.text(statement), {name: list(values) for name, values in zip(columns, told, strict=True)})


def _fill_agencies(
    session: Session,
    outage: Outage,
    groups: Sequence[Losses],
    agreed: Mapping[int, Terms],
    as_of: datetime,
    choose: Collection[int],
    *,
    settled: bool,
) -> dict[str, int]:
    """Returns the widest time that the incident may have taken, as any of these agencies counts it."""
    reach = replace(outage, started_at=outage.reach.since, ended_at=outage.reach.until).span(as_of)
    end = unix(as_of) if reach.end is None else reach.end
    around = {agency: one.counting.around(reach.start, end) for agency, one in agreed.items()}
    rows = []
    for group in groups:
        for agency in group.agencies:
            one = agreed[agency]
            later = one.policy.settle == "resolution" and not settled
            carries, chosen = any(one.policy.minimums.values()), agency in choose
            plain = _plain(one) and not (later or carries or chosen)
            rows.append((agency, group.group, one.policy.grants, *around[agency], later, carries, chosen, plain))
    columns = ("agencies", "groups", "policies", "since", "until", "later", "carries", "choosing", "plain")
    _fill(session, tables.FILL_AGENCIES, columns, rows)
    return {
        "since": min((start for start, _ in around.values()), default=reach.start),
        "until": max((until for _, until in around.values()), default=end),
    }


def _plain(agreed: Terms) -> bool:
    """Whether its grants go back to cards as a matter of course."""
    return agreed.policy.grants == "prorated"


def pausing(outage: Outage, weights: Weights, agreed: Mapping[int, Terms]) -> list[tuple[int, str, str]]:
    """Plans of which the incident takes at least the share from which the agency's policy pauses billing, and how."""
    return [
        (agency, plan, one.policy.hold)
        for agency, one in agreed.items()
        if outage.covers(agency)
        for plan in weights.plans_on(outage.platform)
        if weights.of[plan][outage.platform] * outage.impact_bp >= one.policy.pause_from_bp * 10_000
        or one.policy.pause_from_bp == 1
    ]


def _fill_minimums(session: Session, agreed: Mapping[int, Terms]) -> bool:
    rows = [
        (agency, currency, minimum, one.policy.below_minimum == "credit")
        for agency, one in agreed.items()
        for currency, minimum in one.policy.minimums.items()
        if minimum
    ]
    _fill(session, tables.FILL_MINIMUMS, ("agencies", "currencies", "minimums", "credits"), rows)
    return bool(rows)


def _give_back_whole(
    session: Session,
    outage: Outage,
    full: Sequence[tuple[int, Outage]],
    weights: Weights,
    as_of: datetime,
    *,
    every: bool,
) -> None:
    """What was paid while these incidents went on, on any invoice with a plan that depends on their platform."""
    rows = [
        (agency, plan, one.started_at, min(one.ended_at or as_of, as_of), every or one is outage)
        for agency, one in full
        for plan in weights.plans_on(one.platform)
    ]
    _fill(session, tables.FILL_FULL, ("agencies", "plans", "since", "until", "this"), rows)
    for statement in (lost.WHOLE_PAYMENTS, *lost.TOUCH_WHOLE):
        session.execute(sa.text(statement))
