"""Reading a whole account: windows of `created` time side by side, each finished one remembered, so that a walk that
was cut off goes on where it was."""

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from billing.gateway import connect
from billing.models import SyncWindow
from billing.reads import PAGE, Kind
from tenants.db import OPERATOR
from tenants.house import House

SIDE_BY_SIDE: Final = 4
WORTH_SPLITTING: Final = 3
"""Pages that must be left in a window, as far as one can tell, for it to be split."""
MOST_PARTS: Final = 8
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD: Final = timedelta(minutes=5)
"""How far Stripe's clock may be ahead of ours."""
SECOND: Final = timedelta(seconds=1)

F = TypeVar("F")
Stretch = tuple[datetime, datetime]
Told = Callable[[int, int], None]


def gaps(start: datetime, end: datetime, done: Iterable[Stretch]) -> list[Stretch]:
    """What of [start, end) is in none of the windows that are done; pure."""
    left: list[Stretch] = []
    for begun, ended in sorted(done):
        if begun > start:
            left.append((start, min(begun, end)))
        start = max(start, ended)
        if start >= end:
            break
    if start < end:
        left.append((start, end))
    return [(begun, ended) for begun, ended in left if begun < ended]


def parts(start: datetime, end: datetime, count: int) -> list[Stretch]:
    """[start, end) in at most `count` equal parts of whole seconds, the latest first; pure."""
    seconds = (end - start) // SECOND
    cuts = sorted({start + SECOND * (seconds * part // count) for part in range(count)} | {end})
    return list(itertools.pairwise(cuts))[::-1]


def rest_in_parts(start: datetime, end: datetime, oldest: datetime) -> list[Stretch]:
    """How to go on with [start, end) once a first page has come down to `oldest`; () when the page after it will do.

    Objects of the oldest page's last second may be on the next page: that second is read again. Pure.
    """
    left, read = (oldest + SECOND) - start, end - (oldest + SECOND)
    if read <= timedelta(0) or left <= SECOND:
        return []
    pages = left / read
    return parts(start, oldest + SECOND, min(MOST_PARTS, int(pages))) if pages >= WORTH_SPLITTING else []


@dataclass(frozen=True, slots=True)
class Walk:
    """One kind of object over one account. `take` is handed each page, from several threads at once."""

    house: House
    account: str
    kind: Kind[Any]
    take: Callable[[datetime, Sequence[Any]], None]
    remember: bool = True

    def over(self, start: datetime, end: datetime, told: Told) -> int:
        """Take everything made in [start, end), except in windows that are done; returns how many there are in all.

        `told(read, expected)` is called after each page; `expected` grows while windows turn out to hold more.
        """
        read = _Count(told)
        with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="walk") as pool:
            running: set[Future[list[Stretch]]] = set()

            def begin(stretches: Iterable[Stretch]) -> None:
                for begun, ended in stretches:
                    running.add(pool.submit(self._stretch, begun, ended, read))

            begin(gaps(start, end, self._done(read)))
            try:
                while running:
                    ended, still = wait(running, return_when=FIRST_COMPLETED)
                    running.clear()
                    running |= still
                    for future in ended:
                        begin(future.result())
                    read.waiting = len(running)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        read.waiting = 0
        read.add(0)
        return read.objects

    def _stretch(self, start: datetime, end: datetime, read: "_Count") -> list[Stretch]:
        """Read [start, end) to its end, or its first page and return what is left of it in parts."""
        gateway = connect(self.house, self.account)
        after: str | None = None
        objects = 0
        while True:
            at = database_now(self.house)
            page = gateway.page(self.kind, start, end, after)
            self.take(at, page.facts)
            if page.after is None:
                read.add(len(page.facts))
                self._finish(start, end, objects + len(page.facts))
                return []
            oldest = page.facts[-1].created_at
            rest = rest_in_parts(start, end, oldest) if after is None else []
            if rest:
                whole = sum(1 for fact in page.facts if fact.created_at > oldest)
                read.add(whole)
                self._finish(oldest + SECOND, end, whole)
                return rest
            objects += len(page.facts)
            read.add(len(page.facts))
            after = page.after

    def _done(self, read: "_Count") -> list[Stretch]:
        if not self.remember:
            return []
        with self.house.database.work(OPERATOR) as session:
            known = sa.select(SyncWindow.starts_at, SyncWindow.ends_at, SyncWindow.objects).where(
                SyncWindow.stripe_account == self.account, SyncWindow.kind == self.kind.name
            )
            windows = session.execute(known).all()
        read.objects = sum(objects for _, _, objects in windows)
        return [(start, end) for start, end, _ in windows]

    def _finish(self, start: datetime, end: datetime, objects: int) -> None:
        if not self.remember:
            return
        window = SyncWindow(
            stripe_account=self.account, kind=self.kind.name, starts_at=start, ends_at=end, objects=objects
        )
        with self.house.database.work(OPERATOR) as session:
            session.merge(window)


class _Count:
    """How many objects have been read, told after each page; shared by the threads of one walk."""

    def __init__(self, told: Told) -> None:
        self.objects = 0
        self.waiting = 0
        self._told = told
        self._lock = threading.Lock()

    def add(self, objects: int) -> None:
        with self._lock:
            self.objects += objects
            self._told(self.objects, self.objects + PAGE * self.waiting)


def database_now(house: House) -> datetime:
    """The database's clock, which orders readings of all machines."""
    with house.database.work(OPERATOR) as session:
        now: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now
