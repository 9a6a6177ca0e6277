"""The weights that plans have in Stripe's metadata, and how they come into the mirror."""

from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.models import Plan, PlanWeight, Platform
from billing.upserts import text_array, upsert
from tenants import audit


def weights_of(session: Session, plans: Collection[str]) -> dict[str, dict[str, int]]:
    """What each of these plans depends on, for those whose weights come from Stripe."""
    found: dict[str, dict[str, int]] = {
        plan: {}
        for plan in session.scalars(
            sa.select(Plan.id).where(Plan.id == sa.any_(text_array(plans)), Plan.weights_from == "stripe")
        )
    }
    weights = sa.select(PlanWeight.plan_id, Platform.slug, PlanWeight.weight_bp).join(
        Platform, Platform.id == PlanWeight.platform_id
    )
    for plan, slug, weight in session.execute(weights.where(PlanWeight.plan_id == sa.any_(text_array(found)))):
        found[plan][slug] = weight
    return found


def weigh_from_stripe(session: Session, wanted: dict[str, dict[str, int]], known: Collection[str]) -> None:
    """Make plans depend on what Stripe says. Weights that were set here by hand stay; a new platform gets its row.

    A change to one of the `known` plans is audited: it changes what future refunds are.
    """
    before = weights_of(session, wanted)
    changed = {plan: wanted[plan] for plan in before if wanted[plan] != before[plan]}
    if not changed:
        return
    slugs = sorted({slug for weights in changed.values() for slug in weights})
    if slugs:
        named = [{"slug": slug, "name": slug.replace("-", " ").title()} for slug in slugs]
        session.execute(insert(Platform).values(named).on_conflict_do_nothing())
    platforms = dict(
        session.execute(sa.select(Platform.slug, Platform.id).where(Platform.slug == sa.any_(text_array(slugs)))).all()
    )
    session.execute(sa.delete(PlanWeight).where(PlanWeight.plan_id == sa.any_(text_array(changed))))
    rows = [
        {"plan_id": plan, "platform_id": platforms[slug], "weight_bp": weight}
        for plan, weights in changed.items()
        for slug, weight in weights.items()
    ]
    upsert(session, PlanWeight, rows)
    for plan in sorted(changed.keys() & set(known)):
        was, now = {"weights": before[plan]}, {"weights": changed[plan]}
        audit.record(session, "engine", "stripe", "plan.weighed", plan, before=was, after=now)
