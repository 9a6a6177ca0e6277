"""What nobody could look up about Stripe, as switches. Each default is the documented or the likelier answer; money
must be safe under both."""

import typing
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_origin

from sandbox.stripe.wire import Refused


@dataclass(frozen=True)
class Assumptions:
    """Set by `POST /_sandbox/reset {"assume": {…}}`, kept until the next reset."""

    linked_refund_counts: bool = False
    """Linking a refund to a credit note counts it against what may still be credited, once more."""
    replayed_500_says_so: bool = True
    """The replay of a 500 has the header `Idempotent-Replayed`."""
    keys_live_hours: int = 24
    """Virtual hours after which a key is new again."""
    refund_amount_takes: Literal["newest", "oldest", "refused"] = "newest"
    """Which of several payments a note's `refund_amount` goes back to first."""
    older_drafts_obey_pause: bool = False
    """A draft that was there before `pause_collection` is treated like one made under it."""
    resuming_releases_drafts: bool = False
    """When `resumes_at` passes, drafts made under the pause are finalized."""
    resuming_is_told: bool = True
    """When `resumes_at` passes, there is an event."""
    note_refund_has_metadata: bool = False
    """The refund that a note makes carries the note's metadata."""
    payments_in_lists: Literal["shown", "absent", "refused"] = "shown"
    """`expand[]=data.payments` in a list of invoices."""
    past_due_can_be_paused: bool = True
    """`pause_collection` of a subscription that is past due or unpaid."""
    balance_part_is_creditable: bool = True
    """A note may give back what customer balance or money outside Stripe paid."""
    note_counts_as_refund: bool = False
    """A note with `refund_amount` counts against the limit of `POST /v1/refunds`, too."""
    automatic_tax_amounts: Literal["without_tax", "as_billed"] = "without_tax"
    """What a note's line amount means on an invoice with automatic tax whose price has the tax in it."""
    previews_must_add_up: bool = True
    """A note's preview is refused, as the note is, where its parts do not add up to its post-payment amount."""
    refunds_wait_days: int | None = None
    """Virtual days after which a refund that waits for balance fails; null: it waits for ever."""
    disputed_code: str | None = "charge_disputed"
    """The error code for a refund of a disputed payment."""

    def as_fields(self) -> dict[str, Any]:
        return asdict(self)


def read(given: Any) -> Assumptions:
    """The assumptions of a control; what it leaves out has its default. Raises `Refused`."""
    known = typing.get_type_hints(Assumptions)
    if not isinstance(given, dict) or set(given) - set(known):
        raise Refused(f"assume is an object that may have {', '.join(field.name for field in fields(Assumptions))}.")
    for name, value in given.items():
        if not _fits(value, known[name]):
            raise Refused(f"assume.{name} is {_words(known[name])}.")
    return Assumptions(**given)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, one) for one in get_args(hint))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f'"{one}"' for one in get_args(hint))
    if get_args(hint):
        return " or ".join(_words(one) for one in get_args(hint))
    return {bool: "true or false", int: "a whole number from 1 on", str: "a text"}.get(hint, "null")
