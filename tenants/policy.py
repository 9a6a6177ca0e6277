"""What an agency wants done in an outage. Add-only versions, each of which says only what it changes.

What an agency has not said follows the operator's own policy (that of agency 1), and what neither has said the default.
A run keeps the policy that it was planned with, so that what was computed can be computed again years later.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from marshmallow import Schema, ValidationError, fields, validate
from sqlalchemy.orm import Session

from tenants import audit, currencies
from tenants.models import OPERATOR_AGENCY, Agency, Member, PolicyVersion

GRANTS: Final = ("prorated", "full", "credit", "none")
YEAR: Final = 366
HOURS: Final = 48 * 3_600
"""The longest gap or recovery in seconds: what lasts longer is an outage of its own."""


class BadPolicy(Exception):
    """What was asked for is no policy: write it differently."""

    status = 400
    code = "bad_request"


class NotYourPolicy(Exception):
    """Somebody else sets this policy: ask them."""

    status = 403
    code = "not_allowed"


@dataclass(frozen=True)
class Policy:
    """An agency's policy, complete. Amounts are in the smallest unit of their currency."""

    grants: str = "prorated"
    """`prorated` and `credit` (always to the balance) follow the formula; `full` gives every payment that succeeded
    while the incident went on back whole; `none` gives nothing, and no other incident does for what that one took."""
    granularity: str = "second"
    """Lost time is rounded outward to the `second`, `hour` or `day` of the agency's time zone."""
    gap: int = 0
    """Seconds: two stretches of one platform that are closer count as one."""
    recovery: int = 0
    """Seconds after the end of an outage that count as lost as well."""
    minimums: Mapping[str, int] = field(default_factory=dict)
    """Per currency: what is less for a subscription waits for more of it, or goes to the balance."""
    below_minimum: str = "carry"
    pause_from_bp: int = 1
    """Billing is paused where an incident takes at least this share of a plan, in basis points."""
    hold: str = "keep_as_draft"
    """What becomes of renewals while billing is paused: `keep_as_draft` or `void`. Said anew, it is for what is paused
    from then on; a subscription that an incident holds already stays held as it is until that incident lets go."""
    settle: str = "both"
    """`both`: at declaration and at resolution; `resolution`: then alone; `every`: also each `settle_days`."""
    settle_days: int = 7
    choice_days: int = 0
    """For so many days after the declaration customers may take money, take credit, or waive; 0: they are not asked."""
    promise_days: int = 7
    """Business days within which all of an incident's money is to be back: after its declaration, or after the last day
    on which customers may choose."""

    def to_json(self) -> dict[str, Any]:
        """Every setting under its name, as `of_json` and the command line know it."""
        return asdict(self)


def _refuse_what_is_no_currency(code: str) -> None:
    if not currencies.is_currency(code):
        raise ValidationError(f"{code!r} is no currency: a minimum names one by its three letters, such as usd=100.")


class PolicySchema(Schema):
    """Any number of settings, each as it is to be from now on."""

    grants = fields.String(validate=validate.OneOf(GRANTS, error="A policy grants prorated, full, credit or none."))
    granularity = fields.String(
        validate=validate.OneOf(("second", "hour", "day"), error="Time is counted by second, hour or day.")
    )
    gap = fields.Integer(
        strict=True, validate=validate.Range(0, HOURS, error="A gap is 0 to 172,800 seconds, which are two days.")
    )
    recovery = fields.Integer(
        strict=True, validate=validate.Range(0, HOURS, error="A recovery is 0 to 172,800 seconds, which are two days.")
    )
    minimums = fields.Dict(
        keys=fields.String(
            validate=validate.And(
                validate.Regexp("[a-z]{3}$", error="A minimum names its currency, such as usd=100."),
                _refuse_what_is_no_currency,
            )
        ),
        values=fields.Integer(
            strict=True,
            validate=validate.Range(0, 10**9, error="A minimum is a whole number of the currency's smallest unit."),
        ),
    )
    below_minimum = fields.String(
        validate=validate.OneOf(("carry", "credit"), error="Below the minimum a grant is carried or credited.")
    )
    pause_from_bp = fields.Integer(
        strict=True,
        validate=validate.Range(1, 10_000, error="Billing is paused from a lost share of 1 to 10,000 basis points."),
    )
    hold = fields.String(
        validate=validate.OneOf(("keep_as_draft", "void"), error="Renewals are held as keep_as_draft or void.")
    )
    settle = fields.String(
        validate=validate.OneOf(
            ("both", "resolution", "every"), error="Settle at both, at resolution, or every N days."
        )
    )
    settle_days = fields.Integer(strict=True, validate=validate.Range(1, YEAR, error="Settle every 1 to 366 days."))
    choice_days = fields.Integer(
        strict=True, validate=validate.Range(0, 90, error="Let customers choose for 0 to 90 days; 0: do not ask them.")
    )
    promise_days = fields.Integer(
        strict=True, validate=validate.Range(0, 90, error="Promise it within 0 to 90 business days.")
    )


def of_json(settings: Mapping[str, Any]) -> Policy:
    """The policy that `Policy.to_json` wrote down."""
    return Policy(**settings)


def in_force(session: Session, agencies: Collection[int] | None = None) -> dict[int, Policy]:
    """The policy of each of these agencies, or of all of them."""
    found = sa.select(Agency.id)
    if agencies is not None:
        found = found.where(Agency.id.in_(agencies))
    said = _said(session)
    operators = said.get(OPERATOR_AGENCY, {})
    return {agency: Policy(**operators | said.get(agency, {})) for agency in session.scalars(found)}


def set_policy(
    session: Session, now: datetime, agency: Agency, changes: Mapping[str, Any], by: Member, origin: str
) -> Policy:
    """Add a version that says `changes` besides what the agency had said. Returns the policy from now on.

    What is left out stays, minimums of other currencies too. None takes a setting back, to follow the operator's.
    Runs that were planned keep theirs. Raises `BadPolicy` for what cannot be read, and `NotYourPolicy` for anybody but
    the agency's admin and operator finance.
    """
    if by.role != "finance" and not (by.role == "agency-admin" and by.agency_id == agency.id):
        raise NotYourPolicy(
            f"{by.email} is {by.role}: the policy of {agency.slug} is set by its admin or by the operator's finance."
        )
    kept = {name: value for name, value in changes.items() if value is not None}
    try:
        read: dict[str, Any] = PolicySchema().load(kept)
    except ValidationError as error:
        raise BadPolicy(_first_sentence(error.messages)) from error
    # Two people who set it at once must not both build on the same version.
    session.execute(sa.select(Agency.id).where(Agency.id == agency.id).with_for_update(key_share=True))
    before = in_force(session, [agency.id])[agency.id]
    had = _said(session).get(agency.id, {})
    if "minimums" in read:
        read["minimums"] = had.get("minimums", {}) | read["minimums"]
    settings = {name: value for name, value in (had | read).items() if name not in changes or name in kept}
    if settings == had:
        raise BadPolicy(f"That is the policy of {agency.slug} already: say what is to be different.")
    last = session.scalar(sa.select(sa.func.max(PolicyVersion.no)).where(PolicyVersion.agency_id == agency.id))
    session.add(PolicyVersion(agency_id=agency.id, no=(last or 0) + 1, settings=settings, set_by=by.id, set_at=now))
    session.flush()
    after = in_force(session, [agency.id])[agency.id]
    audit.record(
        session, by.email, origin, "agency.policy_set", agency.slug, agency_id=agency.id, before=before.to_json(),
        after=after.to_json(),
    )  # fmt: skip
    return after


def _said(session: Session) -> dict[int, dict[str, Any]]:
    """What the latest version of each agency says."""
    last = (
        sa.select(PolicyVersion.agency_id, sa.func.max(PolicyVersion.no).label("no"))
        .group_by(PolicyVersion.agency_id)
        .subquery()
    )
    latest = sa.select(PolicyVersion.agency_id, PolicyVersion.settings).join(
        last, sa.and_(last.c.agency_id == PolicyVersion.agency_id, last.c.no == PolicyVersion.no)
    )
    return {row.agency_id: row.settings for row in session.execute(latest)}


def _first_sentence(messages: Any) -> str:
    while isinstance(messages, Mapping):
        name, messages = next(iter(messages.items()))
    sentence = str(messages[0])
    return f"{name}: {sentence}" if sentence.startswith(("Unknown", "Not a")) else sentence
