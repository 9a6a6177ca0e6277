"""Windows of time: half open, UTC. Everything that goes in or out as text is ISO 8601 with its offset."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from billing.errors import BadRequest, Refused

_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Window:
    """The time in [start, end), in UTC; an `end` of None is not known yet.

    Raises ValueError for a time without its offset (a bug: `parse_time` refuses those) and Refused for a window that
    does not run forward.
    """

    start: datetime
    end: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _utc(self.start))
        if self.end is None:
            return
        object.__setattr__(self, "end", _utc(self.end))
        if self.end <= self.start:
            raise Refused(
                f"The end must come after the start: it starts at {iso(self.start)} and would end at {iso(self.end)}."
            )

    @property
    def open(self) -> bool:
        return self.end is None

    @property
    def seconds(self) -> int:
        """Its length in whole seconds. Raises ValueError while it is open: nobody knows yet."""
        if self.end is None:
            raise ValueError("An open window has no length yet.")
        return (self.end - self.start) // _SECOND

    def intersection(self, other: "Window") -> "Window | None":
        """The time that is in both, None where they do not meet (touching is not meeting)."""
        start = max(self.start, other.start)
        ends = [end for end in (self.end, other.end) if end is not None]
        end = min(ends) if ends else None
        return Window(start, end) if end is None or end > start else None


def parse_time(text: str) -> datetime:
    """A time in UTC out of ISO 8601 text with `Z` or an offset. Raises BadRequest with what to write instead."""
    try:
        read = datetime.fromisoformat(text.strip())
        if read.tzinfo is not None:
            return read.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{text[:40]!r} is not a time. Write it with its offset or Z, for example 2019-08-22T20:00Z."
        ) from None
    raise BadRequest(
        f"{text[:40]!r} does not say in which time zone it is. Write {read.isoformat(timespec='minutes')}Z for UTC,"
        " or end it with an offset like +02:00."
    )


def iso(moment: datetime) -> str:
    """`2019-08-22T20:00:00Z`; parts of a second are left out."""
    return _utc(moment).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def in_words(moment: datetime) -> str:
    """`22 August 2019, 20:00 UTC`, as a sentence for people says it; with its seconds where it has any."""
    at = _utc(moment)
    return f"{at.day} {at:%B %Y, %H:%M}" + (f":{at:%S}" if at.second else "") + " UTC"


def lasting(seconds: int) -> str:
    """`1,080 h 30 min 15 s`, without what there is none of."""
    minutes, rest = divmod(seconds, 60)
    parts = ((minutes // 60, "h"), (minutes % 60, "min"), (rest, "s"))
    return " ".join(f"{number:,} {unit}" for number, unit in parts if number) or "0 s"


def unix(moment: datetime) -> int:
    """Whole seconds since 1970 in UTC, as Stripe writes times; parts of a second are left out."""
    return (_utc(moment) - _EPOCH) // _SECOND


def from_unix(seconds: int) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone. Times are UTC, with tzinfo.")
    return moment.astimezone(UTC)
