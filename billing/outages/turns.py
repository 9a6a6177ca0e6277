"""Queues that take turns: so that a long one keeps none of the others waiting, and an empty one costs nobody much."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from billing.outages import stopping

RESTS: Final = 1.0
"""Seconds for which a queue that was found empty is not asked again, while others have work."""

Queue = Callable[[int], int]
"""Does up to so many pieces of work, and returns of how many: fewer means that it has no more."""


@dataclass
class _Turn:
    queue: Queue
    asking: int = 0
    full: bool = False
    """It had as much to do as it might the last time: so whoever is free may join."""
    was_asked: bool = False
    asked_again_at: float = 0.0
    knew_of: int = 0
    """How many full turns there had been when it was asked."""


class Turns:
    """One round after another through some queues, for any number of threads at once.

    A queue of which nobody knows whether it has work is asked by one thread alone; the others go on to the next, and
    join where there is more than one turn of work.
    """

    def __init__(self, queues: Sequence[Queue], some: int, until: float, at_last: float) -> None:
        """Each queue may do `some` pieces in a turn. After `until` (time.monotonic()) only those begin that had none
        yet, for a slow one must not keep the others from ever being reached; after `at_last` none does."""
        self._turns = [_Turn(queue) for queue in queues]
        self._some, self._until, self._at_last = some, until, at_last
        self._next = self._full_turns = 0
        self._changed = threading.Condition()

    def work(self, may_begin: Callable[[], bool] = lambda: True) -> bool:
        """Take turns until no queue has more, or until the time is up. True: something may be left.

        `may_begin` is asked before each turn; where it may not, nothing more is done, and nothing is left for now.
        """
        while turn := self._take():
            did: int | None = None
            try:
                if not may_begin():
                    return False
                did = turn.queue(self._some)
            finally:
                self._end(turn, did)
        with self._changed:
            return any(turn.full or not turn.was_asked for turn in self._turns)

    def _take(self) -> _Turn | None:
        """The next queue that may have work; None once there is none, and nobody at work who might find some."""
        with self._changed:
            while not stopping.asked() and (now := time.monotonic()) < self._at_last:
                for no in range(len(self._turns)):
                    turn = self._turns[(self._next + no) % len(self._turns)]
                    if self._may_begin(turn, now):
                        self._next = (self._next + no + 1) % len(self._turns)
                        turn.asking += 1
                        turn.knew_of = self._full_turns
                        return turn
                if now >= self._until or not any(turn.asking for turn in self._turns):
                    return None
                self._changed.wait(min(self._until - now, RESTS))
            return None

    def _may_begin(self, turn: _Turn, now: float) -> bool:
        if turn.full and now < self._until:
            return True
        if turn.asking or not turn.was_asked:
            return not turn.asking
        if any(other.full or other.asking for other in self._turns):
            return turn.asked_again_at <= now < self._until
        # What was done since may have left work here: where a run has ended, its pauses are to be released.
        return turn.knew_of < self._full_turns and now < self._until

    def _end(self, turn: _Turn, did: int | None) -> None:
        with self._changed:
            turn.asking -= 1
            turn.was_asked = True
            turn.full = did is not None and did >= self._some
            self._full_turns += turn.full
            turn.asked_again_at = time.monotonic() + RESTS
            self._changed.notify_all()
