"""Plans, the platforms there are, and which share of a plan's value each of them carries."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import Conflict, NotFound, nearest
from billing.models import Plan, PlanWeight, Platform
from billing.money import Money, plain
from billing.weighing import left_as_they_were
from billing.weights import parse_weights
from tenants import audit

__all__ = [
    "disable",
    "enable",
    "parse_weights",
    "plans",
    "platform_called",
    "platforms",
    "price_in_words",
    "refused_weights",
    "weigh",
]


def plans(session: Session) -> list[dict[str, Any]]:
    """Every plan in sight with its weights, by name."""
    weighed: dict[str, dict[str, int]] = {}
    rows = sa.select(PlanWeight.plan_id, Platform.slug, PlanWeight.weight_bp).join(
        Platform, Platform.id == PlanWeight.platform_id
    )
    for plan_id, slug, weight in session.execute(rows.order_by(PlanWeight.weight_bp.desc(), Platform.slug)):
        weighed.setdefault(plan_id, {})[slug] = weight
    found = session.scalars(sa.select(Plan).order_by(Plan.name, Plan.id))
    return [_shown(plan, weighed.get(plan.id, {})) for plan in found]


def price_in_words(plan: Mapping[str, Any]) -> str:
    """What one of `plans` costs and for how long, e.g. "31.00 USD for 1 month"."""
    each = plan["unit_amount"]
    price = f"{plan['currency'].upper()} by its own table" if each is None else plain(Money(each, plan["currency"]))
    spans = plan["interval_count"] or 1
    span = f" for {spans} {plan['interval']}{'' if spans == 1 else 's'}" if plan["interval"] else ""
    return f"{price}{span}{', by use' if plan['metered'] else ''}{'' if plan['active'] else ', archived'}"


def weigh(
    session: Session,
    price_or_product: str,
    weights: dict[str, int],
    by: str,
    origin: str,
    *,
    new_platform: bool = False,
) -> list[dict[str, Any]]:
    """Set the weights of one price, or of every price of a product. From then on imports leave them alone.

    Raises `NotFound` for an unknown price or product, and for an unknown platform unless `new_platform` says that it
    is meant.
    """
    found = list(
        session.scalars(
            sa.select(Plan)
            .where((Plan.id == price_or_product) | (Plan.product_id == price_or_product))
            .order_by(Plan.id)
        )
    )
    if not found:
        raise NotFound(f"There is no plan {price_or_product}: give a price_… or prod_… of `flask plans list`.")
    known = {slug: id for id, slug in session.execute(sa.select(Platform.id, Platform.slug))}
    for slug in weights:
        if slug not in known:
            if not new_platform:
                near = nearest(slug, _enabled(session))
                raise NotFound(f"No platform is called {slug}{near} (--new-platform adds it.)")
            platform = Platform(slug=slug, name=slug.replace("-", " ").title())
            session.add(platform)
            session.flush()
            known[slug] = platform.id
    before = {plan["id"]: plan["weights"] for plan in plans(session)}
    for plan in found:
        session.execute(sa.delete(PlanWeight).where(PlanWeight.plan_id == plan.id))
        session.add_all(
            PlanWeight(plan_id=plan.id, platform_id=known[slug], weight_bp=weight) for slug, weight in weights.items()
        )
        plan.weights_from, plan.weights_refused = "here", None
        audit.record(
            session,
            by,
            origin,
            "plan.weighed",
            plan.id,
            before={"weights": before[plan.id]},
            after={"weights": weights},
        )
    session.flush()
    return [_shown(plan, weights) for plan in found]


def refused_weights(session: Session) -> list[str]:
    """A sentence for every plan whose weights in Stripe could not be used, and were left as they were."""
    return [
        left_as_they_were(plan["id"], plan["name"], plan["weights"], plan["weights_refused"])
        for plan in plans(session)
        if plan["weights_refused"]
    ]


def platforms(session: Session) -> list[dict[str, Any]]:
    """Every platform by its slug, and whether outages of it can be declared."""
    return [
        {"slug": one.slug, "name": one.name, "enabled": one.disabled_at is None}
        for one in session.scalars(sa.select(Platform).order_by(Platform.slug))
    ]


def platform_called(session: Session, slug: str) -> Platform:
    """The platform with this slug, for something that begins. What was declared for it already does not ask here.

    Raises `NotFound` with the nearest names of those that are enabled, `Conflict` for one that is disabled.
    """
    found = session.scalar(sa.select(Platform).where(Platform.slug == slug))
    if found is None:
        raise NotFound(f"No platform is called {slug[:40]!r}{nearest(slug, _enabled(session))}")
    if found.disabled_at is not None:
        raise Conflict(
            f"The platform {slug} is disabled: name another, or enable it again with `flask plans enable {slug}`."
        )
    return found


def disable(session: Session, slug: str, by: str, origin: str) -> None:
    """No outage of it can be declared from now on. Incidents that stand go on as if nothing had happened.

    Raises `NotFound`, and `Conflict` where it is disabled already.
    """
    _switch(session, slug, by, origin, enabled=False)


def enable(session: Session, slug: str, by: str, origin: str) -> None:
    """Outages of it can be declared again. Raises `NotFound`, and `Conflict` where it is enabled already."""
    _switch(session, slug, by, origin, enabled=True)


def _switch(session: Session, slug: str, by: str, origin: str, *, enabled: bool) -> None:
    verb = "enabled" if enabled else "disabled"
    platform = session.scalar(sa.select(Platform).where(Platform.slug == slug).with_for_update(key_share=True))
    if platform is None:
        raise NotFound(f"No platform is called {slug[:40]!r}. `flask plans list` shows those there are.")
    if (platform.disabled_at is None) == enabled:
        raise Conflict(f"The platform {slug} is {verb} already.")
    platform.disabled_at = None if enabled else sa.func.clock_timestamp()
    audit.record(
        session, by, origin, f"platform.{verb}", slug, before={"enabled": not enabled}, after={"enabled": enabled}
    )


def _enabled(session: Session) -> list[str]:
    return list(session.scalars(sa.select(Platform.slug).where(Platform.disabled_at.is_(None))))


def _shown(plan: Plan, weights: dict[str, int]) -> dict[str, Any]:
    return {
        "id": plan.id,
        "product": plan.product_id,
        "name": plan.name,
        "currency": plan.currency,
        "unit_amount": plan.unit_amount,
        "interval": plan.interval,
        "interval_count": plan.interval_count,
        "metered": plan.metered,
        "active": plan.active,
        "weights": weights,
        "weights_text": ", ".join(f"{slug}={weight}" for slug, weight in weights.items()),
        "weights_refused": plan.weights_refused,
    }
