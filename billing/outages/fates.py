"""What becomes of a subscription whose platform does not come back: it ends, or it moves to plans without it. Pure but
for `write`, which puts the decisions down as rows for the workers, and `call_off`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.errors import BadRequest, NotFound
from billing.models import Plan, Subscription, SubscriptionItem
from billing.outages.decisions import Retirement
from billing.outages.in_force import EVERYBODY, Weights, weights_of_plans

WHOLE: Final = 10_000
ALIVE: Final = ("active", "trialing", "past_due", "unpaid", "paused")
SOLD_SINCE: Final = (
    "It was sold after its platform had been given up: move it in Stripe to a plan without that, or cancel it."
)


@dataclass(frozen=True)
class Fate:
    """`moves` is {subscription item: plan}, empty where the subscription is cancelled."""

    kind: str
    moves: Mapping[str, str]


def fate(items: Mapping[str, str], weights: Weights, platform: str, moves: Mapping[str, str]) -> Fate | None:
    """Of a subscription with `items` {item: plan}; `moves` says which plan takes the place of which. None: not touched.

    It is cancelled when everything that it has lives on that platform alone. Raises `BadRequest` for a plan that has no
    successor and needs one, and for successors that would be in it twice.
    """
    on = _on(items, weights, platform)
    if not on:
        return None
    if _lives_there_alone(items, weights, platform):
        return Fate("cancel", {})
    _all_succeeded([on], moves, platform)
    after = {item: moves[plan] if item in on else plan for item, plan in items.items()}
    twice = [plan for plan, count in Counter(after.values()).items() if count > 1]
    if twice:
        raise BadRequest(
            f"Somebody who has {' and '.join(sorted(on.values()))} would have {twice[0]} twice, which Stripe refuses:"
            " name another plan for one of them, or move that subscription in Stripe first."
        )
    return Fate("move", {item: moves[plan] for item, plan in on.items()})


def _on(items: Mapping[str, str], weights: Weights, platform: str) -> dict[str, str]:
    return {item: plan for item, plan in items.items() if weights.of.get(plan, {}).get(platform)}


def _lives_there_alone(items: Mapping[str, str], weights: Weights, platform: str) -> bool:
    return all(weights.of.get(plan, {}).get(platform) == WHOLE for plan in items.values())


def _all_succeeded(moving: Iterable[Mapping[str, str]], moves: Mapping[str, str], platform: str) -> None:
    """Raises `BadRequest` that names every plan of these {item: plan} for which `moves` has no successor."""
    lacking = sorted({plan for on in moving for plan in on.values()} - moves.keys())
    if lacking:
        which = lacking[0] if len(lacking) == 1 else f"each of {len(lacking)} plans"
        raise BadRequest(
            f"Say which plan takes the place of {which}, as there are customers who also have something that does not"
            f" depend on {platform}: {' '.join(f'--move {plan}=PLAN' for plan in lacking)}. `flask plans list` shows"
            " what is sold in the same currency and for the same interval."
        )


def check_moves(session: Session, moves: Mapping[str, str], platform: str) -> None:
    """Raises `NotFound` or `BadRequest` for a successor that is not there or cannot take the place."""
    weights = weights_of_plans(session)
    plans = {plan.id: plan for plan in session.scalars(sa.select(Plan).where(Plan.id.in_([*moves, *moves.values()])))}
    for old, new in moves.items():
        for named in (old, new):
            if named not in plans:
                raise NotFound(f"There is no plan {named[:40]!r}. `flask plans list` shows those there are.")
        if weights.of.get(new, {}).get(platform):
            raise BadRequest(f"{new} depends on {platform} too: choose a plan without it.")
        if not plans[new].active:
            raise BadRequest(f"{new} is archived in Stripe, which moves nobody to it: choose another plan.")
        if plans[old].agency_id != plans[new].agency_id:
            raise BadRequest(f"{new} is not sold on the Stripe account of {old}: choose another plan.")
        terms = [(plans[one].currency, plans[one].interval, plans[one].interval_count) for one in (old, new)]
        if terms[0] != terms[1]:
            raise BadRequest(f"{new} is not sold in the currency and for the interval of {old}: choose another plan.")


def write(
    session: Session, incident_id: str, platform: str, agencies: frozenset[int], moves: Mapping[str, str]
) -> dict[str, int]:
    """One row for each subscription that ends or moves; how many of each kind. Safe to repeat."""
    weights = weights_of_plans(session)
    plans = weights.plans_on(platform)
    touched = sa.select(SubscriptionItem.agency_id, SubscriptionItem.subscription_id).where(
        SubscriptionItem.plan_id.in_(plans)
    )
    wanted = (
        sa.select(SubscriptionItem)
        .join(
            Subscription,
            sa.and_(
                Subscription.agency_id == SubscriptionItem.agency_id,
                Subscription.id == SubscriptionItem.subscription_id,
            ),
        )
        .where(
            Subscription.status.in_(ALIVE),
            sa.tuple_(SubscriptionItem.agency_id, SubscriptionItem.subscription_id).in_(touched),
        )
    )
    if EVERYBODY not in agencies:
        wanted = wanted.where(SubscriptionItem.agency_id.in_(agencies))
    together: defaultdict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    for item in session.scalars(wanted):
        together[item.agency_id, item.subscription_id][item.id] = item.plan_id
    _all_succeeded(
        (
            _on(items, weights, platform)
            for items in together.values()
            if not _lives_there_alone(items, weights, platform)
        ),
        moves,
        platform,
    )
    counted: defaultdict[str, int] = defaultdict(int)
    rows: list[dict[str, Any]] = []
    for (agency_id, subscription), items in together.items():
        decided = fate(items, weights, platform, moves)
        if decided is not None:
            counted[decided.kind] += 1
            rows.append(
                {
                    "agency_id": agency_id, "incident_id": incident_id, "subscription_id": subscription,
                    "kind": decided.kind, "moves": {items[item]: plan for item, plan in decided.moves.items()},
                    "state": "planned", "reason": None,
                }
            )  # fmt: skip
    _add(session, rows)
    return dict(counted)


def find_late(session: Session, incident_id: str, platform: str, agencies: frozenset[int]) -> dict[int, int]:
    """Leave to a person what was sold, or changed to a plan on that platform, since `write`: nobody decided about it.

    What had ended or moved, and has come back to a plan on it, is found again. Returns how many were found of each
    agency. Safe to repeat.
    """
    known = sa.exists().where(
        Retirement.agency_id == Subscription.agency_id, Retirement.incident_id == incident_id,
        Retirement.subscription_id == Subscription.id, Retirement.state != "done",
    )  # fmt: skip
    depends = sa.exists().where(
        SubscriptionItem.agency_id == Subscription.agency_id, SubscriptionItem.subscription_id == Subscription.id,
        SubscriptionItem.plan_id.in_(weights_of_plans(session).plans_on(platform)),
    )  # fmt: skip
    late = sa.select(Subscription.agency_id, Subscription.id).where(Subscription.status.in_(ALIVE), depends, ~known)
    if EVERYBODY not in agencies:
        late = late.where(Subscription.agency_id.in_(agencies))
    rows: list[dict[str, Any]] = [
        {
            "agency_id": agency_id, "incident_id": incident_id, "subscription_id": subscription, "kind": "move",
            "moves": {}, "state": "needs_person", "reason": SOLD_SINCE,
        }
        for agency_id, subscription in session.execute(late)
    ]  # fmt: skip
    _add(session, rows)
    return Counter(row["agency_id"] for row in rows)


def call_off(session: Session, incident_id: str, reason: str) -> bool:
    """Of an incident that was retracted: leave alone whatever has not ended or moved. What is in flight ends known.

    Returns whether any subscription has ended or moved, or may have, as Stripe was asked for it.
    """
    met = sa.or_(
        sa.and_(Retirement.state == "done", Retirement.reason.is_(None)),
        sa.and_(Retirement.state == "planned", Retirement.attempt_no > 0),
        Retirement.lease_until > sa.func.clock_timestamp(),
    )
    # Locked, so that none begins between this look and the end.
    of_incident = sa.select(met).where(Retirement.incident_id == incident_id).order_by(Retirement.subscription_id)
    found = session.scalars(of_incident.with_for_update()).all()
    session.execute(
        sa.update(Retirement)
        .where(Retirement.incident_id == incident_id, Retirement.state != "done")
        .values(state="done", reason=reason, lease_until=None)
        .execution_options(synchronize_session=False)
    )
    return any(found)


def _add(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """What is done already of the same subscription gives way, and is looked at in Stripe at once."""
    if rows:
        added = insert(Retirement)
        anew: dict[str, Any] = {name: added.excluded[name] for name in ("kind", "moves", "state", "reason")}
        anew |= {"due_at": sa.func.clock_timestamp(), "done_at": None}
        keys = ["incident_id", "subscription_id", "agency_id"]
        session.execute(
            added.on_conflict_do_update(index_elements=keys, set_=anew, where=Retirement.state == "done"),
            list(rows),
            execution_options={"synchronize_session": False},
        )
