"""Plans and which share of their value each platform carries."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import NotFound, nearest
from billing.models import Plan, PlanWeight, Platform
from billing.weights import parse_weights
from tenants import audit

__all__ = ["parse_weights", "plans", "weigh"]


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
    platforms = {slug: id for id, slug in session.execute(sa.select(Platform.id, Platform.slug))}
    for slug in weights:
        if slug not in platforms:
            if not new_platform:
                raise NotFound(f"No platform is called {slug}{nearest(slug, platforms)} (--new-platform adds it.)")
            platform = Platform(slug=slug, name=slug.replace("-", " ").title())
            session.add(platform)
            session.flush()
            platforms[slug] = platform.id
    before = {plan["id"]: plan["weights"] for plan in plans(session)}
    for plan in found:
        session.execute(sa.delete(PlanWeight).where(PlanWeight.plan_id == plan.id))
        session.add_all(
            PlanWeight(plan_id=plan.id, platform_id=platforms[slug], weight_bp=weight)
            for slug, weight in weights.items()
        )
        plan.weights_from = "here"
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
    }
