"""Refusals, each named for what happens next. The message is the sentence that the person reads."""

from collections.abc import Iterable
from difflib import get_close_matches


class Refused(Exception):
    """A business refusal: nothing was changed. `status` is its HTTP status, `code` is stable for scripts.

    Whatever is not a Refused is a bug and a 500.
    """

    status = 422
    code = "refused"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(Refused):
    """What was sent cannot be read: write it differently."""

    status = 400
    code = "bad_request"


class NotAllowed(Refused):
    """Somebody else may do this: ask them."""

    status = 403
    code = "not_allowed"


class NotFound(Refused):
    """It is not there, or not theirs to see: look it up again."""

    status = 404
    code = "not_found"


class Conflict(Refused):
    """It is not in a state that allows this: look at it as it is now."""

    status = 409
    code = "conflict"


class PlanChanged(Conflict):
    """What was reviewed is no longer what would be sent: review it again."""

    code = "plan_changed"


class AlreadyDeclared(Conflict):
    """The same outage stands already: go on with that incident."""

    code = "already_declared"


class Unavailable(Refused):
    """Something outside does not answer: try again later, unchanged."""

    status = 503
    code = "unavailable"


def close_to(word: str, known: Iterable[str]) -> list[str]:
    """Up to three of the known names that `word` may be meant for, the closest first; [] where it is like none."""
    by_folded = {name.casefold(): name for name in sorted(set(known))}
    return [by_folded[match] for match in get_close_matches(word.casefold(), by_folded, n=3)]


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: `, did you mean facebook?`, or else which names are known."""
    names = sorted(set(known))
    if near := close_to(word, names):
        return f", did you mean {' or '.join(near)}?"
    if not names:
        return ". None is known yet."
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f". Known are: {', '.join(names[:8])}{rest}."
