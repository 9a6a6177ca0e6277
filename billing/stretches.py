"""How an agency counts lost time: by seconds, hours or days of its time zone, always in the customer's favour. Pure.

Times are unix seconds (UTC), lengths seconds.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from billing.windows import from_unix, unix

GRANULARITIES: Final = ("second", "hour", "day")
HOUR: Final = 3_600


@dataclass(frozen=True)
class Counting:
    """Rounded outward to `granularity` in `time_zone`; two closer than `gap` are one, and `tail` follows each."""

    granularity: str = "second"
    time_zone: str = "UTC"
    gap: int = 0
    tail: int = 0

    def floor(self, moment: int) -> int:
        """The beginning of the second, hour or day that the moment lies in. Days have 23, 24 or 25 hours."""
        if self.granularity == "second":
            return moment
        local = from_unix(moment).astimezone(ZoneInfo(self.time_zone))
        if self.granularity == "hour":
            # Some zones are a quarter or half an hour beside the others.
            offset = int((local.utcoffset() or timedelta()).total_seconds())
            return (moment + offset) // HOUR * HOUR - offset
        return self._midnight(local.date())

    def ceil(self, moment: int) -> int:
        """The end of the second, hour or day that the moment lies in; a moment that begins one is left as it is."""
        begun = self.floor(moment)
        if begun == moment:
            return moment
        if self.granularity == "hour":
            return begun + HOUR
        return self._midnight(from_unix(moment).astimezone(ZoneInfo(self.time_zone)).date() + timedelta(days=1))

    def around(self, start: int, end: int) -> tuple[int, int]:
        """All that a stretch may take: its recovery, what joins it to its neighbours, whole hours or days."""
        return self.floor(start - self.gap), self.ceil(end + self.tail + self.gap)

    def _midnight(self, day: date) -> int:
        """Of two midnights the first; where clocks skip it, the moment at which they do."""
        return unix(datetime.combine(day, time(), ZoneInfo(self.time_zone)))
