"""The weights that plans have in Stripe's metadata, and how they come into the mirror."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.errors import BadRequest, close_to, nearest
from billing.facts import PlanFact
from billing.models import Plan, PlanWeight, Platform
from billing.upserts import text_array, upsert
from billing.weights import parse_weights
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


def platforms_known(session: Session) -> set[str]:
    """The slug of every platform, disabled ones too."""
    return set(session.scalars(sa.select(Platform.slug)))


def weights_in(fact: PlanFact, known: Collection[str]) -> dict[str, int]:
    """What stands in a price's or product's metadata, in basis points by platform.

    A platform like no `known` one is new. Raises `BadRequest` for what cannot be read, and for a platform whose name is
    close to a known one: it is more likely mistyped than new, and nobody would miss the refunds.
    """
    weights = parse_weights(fact.weights_text or "")
    for slug in sorted(weights.keys() - set(known)):
        if close_to(slug, known):
            raise BadRequest(
                f"No platform is called {slug}{nearest(slug, known)} Correct platform_weights in Stripe, or add it"
                f" with `flask plans weigh {fact.id} … --new-platform`."
            )
    return weights


def weigh_from_stripe(session: Session, facts: Sequence[PlanFact], known: Collection[str]) -> list[str]:
    """Make plans depend on what Stripe says; sentences for a person about what was not taken, or is new.

    Weights that were set here by hand stay. A plan whose weights in Stripe cannot be used keeps those that it had, and
    `weights_refused` says why. A new platform gets its row. A change to one of the `known` plans is audited: it changes
    what future refunds are.
    """
    before = weights_of(session, [fact.id for fact in facts])
    slugs = platforms_known(session)
    wanted: dict[str, dict[str, int]] = {}
    refused: dict[str, str | None] = {}
    sentences = []
    for fact in facts:
        if fact.id not in before:
            continue
        refused[fact.id] = None
        try:
            wanted[fact.id] = weights_in(fact, slugs)
        except BadRequest as refusal:
            refused[fact.id] = refusal.message
            sentences.append(left_as_they_were(fact.id, fact.name, before[fact.id], refusal.message))
            continue
        for slug in sorted(wanted[fact.id].keys() - slugs):
            slugs.add(slug)
            sentences.append(
                f"{slug} is a new platform, which {fact.name} ({fact.id}) brought. If it is mistyped, correct"
                " platform_weights in Stripe."
            )
    _note(session, refused)
    _weigh(session, before, {plan: weights for plan, weights in wanted.items() if weights != before[plan]}, known)
    return sentences


def left_as_they_were(plan: str, name: str, weights: dict[str, int], why: str) -> str:
    """The sentence about a plan whose weights in Stripe were not taken."""
    kept = ", ".join(f"{slug}={weight}" for slug, weight in sorted(weights.items()))
    kept = kept or "none, so that no outage counts for it"
    return f"The weights of {name} ({plan}) are left as they were ({kept}): {why}"


def _note(session: Session, refused: dict[str, str | None]) -> None:
    for plan, why in sorted(refused.items()):
        changed = Plan.weights_refused.is_distinct_from(why)
        session.execute(sa.update(Plan).where(Plan.id == plan, changed).values(weights_refused=why))


def _weigh(
    session: Session,
    before: dict[str, dict[str, int]],
    changed: dict[str, dict[str, int]],
    known: Collection[str],
) -> None:
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
