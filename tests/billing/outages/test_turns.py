"""Queues that take turns: nobody is kept waiting, nobody is asked in vain, and nobody's work is done by one alone."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from billing.outages import turns
from billing.outages.turns import Turns

SOME = 5


def turns_of(*queues: Callable[[int], int], lasts: float = 30.0) -> Turns:
    until = time.monotonic() + lasts
    return Turns(queues, SOME, until, until + 30.0)


def test_each_has_its_turn_although_the_first_one_used_all_the_time() -> None:
    """Pauses that wait for Stripe's rate use all the time up, and go on: grants have their turn each time."""
    done: list[str] = []

    def queue(name: str, many: int) -> Callable[[int], int]:
        return lambda _: done.append(name) or many

    assert turns_of(queue("pauses", SOME), queue("grants", 1), lasts=0).work()
    assert turns_of(queue("pauses", SOME - 1), queue("grants", SOME), lasts=0).work()
    assert not turns_of(queue("pauses", 0), queue("grants", 0), lasts=0).work()
    assert done == ["pauses", "grants"] * 3


def test_after_the_last_moment_nobody_begins() -> None:
    done: list[str] = []
    over = time.monotonic()
    assert Turns([lambda _: done.append("pauses") or 0], SOME, over, over).work()
    assert done == []


def test_what_is_empty_is_asked_once_while_others_have_work(monkeypatch: pytest.MonkeyPatch) -> None:
    left, asked = 23, 0

    def grants(many: int) -> int:
        nonlocal left
        did = min(left, many)
        left -= did
        return did

    def pauses(_: int) -> int:
        nonlocal asked
        asked += 1
        return 0

    assert not turns_of(pauses, grants).work()
    assert (left, asked) == (0, 2)  # 5 + 5 + 5 + 5 + 3: before the first of them, and when all that is done
    left, asked = 23, 0
    monkeypatch.setattr(turns, "RESTS", 0.0)
    assert not turns_of(pauses, grants).work()
    assert (left, asked) == (0, 5)  # rested enough: once in each round, and not once more when nobody has work


def test_whoever_is_free_joins_where_there_is_more_and_nobody_asks_beside_another() -> None:
    together, meeting = threading.Barrier(4), threading.Event()
    asked: list[str] = []

    def grants(many: int) -> int:
        asked.append("grants")
        if len(asked) == 1:
            meeting.wait(10)  # the other three come by and find this one asking, and have nothing else to do
            return many
        if not together.broken and together.n_waiting < 4 and len(asked) <= 5:
            together.wait(10)  # passes only once four are in here at the same time
        return 0

    made = turns_of(grants)
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(made.work) for _ in range(4)]
        meeting.set()
        assert [one.result() for one in working] == [False] * 4
    assert len(asked) == 5  # one alone, then four together


def test_what_goes_wrong_ends_its_own_thread_and_no_other() -> None:
    done: list[int] = []

    def broken(_: int) -> int:
        raise ZeroDivisionError

    made = turns_of(broken, lambda many: done.append(many) or 0)
    with pytest.raises(ZeroDivisionError):
        made.work()
    assert not made.work()
    assert done == [SOME]
