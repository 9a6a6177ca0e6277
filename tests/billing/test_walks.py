"""Windows of time: nothing is left out, nothing is read for nothing."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from billing.walks import MOST_PARTS, SECOND, Stretch, gaps, parts, rest_in_parts


def at(second: int) -> datetime:
    return datetime(2019, 8, 22, tzinfo=UTC) + timedelta(seconds=second)


def stretches(*pairs: tuple[int, int]) -> list[Stretch]:
    return [(at(start), at(end)) for start, end in pairs]


def test_gaps_are_what_no_window_has_read() -> None:
    assert gaps(at(0), at(10), []) == stretches((0, 10))
    assert gaps(at(0), at(10), stretches((0, 10))) == []
    assert gaps(at(0), at(10), stretches((4, 6))) == stretches((0, 4), (6, 10))
    assert gaps(at(0), at(10), stretches((7, 20), (0, 3), (2, 5))) == stretches((5, 7))
    assert gaps(at(0), at(10), stretches((20, 30))) == stretches((0, 10))
    assert gaps(at(0), at(20), stretches((0, 10))) == stretches((10, 20))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))))
def test_every_second_is_either_done_or_in_exactly_one_gap(pairs: list[tuple[int, int]]) -> None:
    done = [(min(pair), max(pair)) for pair in pairs]
    left = gaps(at(10), at(50), stretches(*done))
    for second in range(10, 50):
        was_read = any(start <= second < end for start, end in done)
        assert sum(start <= at(second) < end for start, end in left) == (0 if was_read else 1)


@given(st.integers(1, 10_000), st.integers(1, MOST_PARTS))
def test_parts_cover_a_stretch_once(seconds: int, count: int) -> None:
    cut = parts(at(0), at(seconds), count)
    assert len(cut) == min(count, seconds)
    assert cut[0][1] == at(seconds)
    assert cut[-1][0] == at(0)
    assert all(later[0] == earlier[1] for later, earlier in pairwise(cut))


def test_a_dense_window_is_split_and_a_sparse_one_is_not() -> None:
    # The first page covered [990, 1000): 10 s. 990 s + the shared second are left: some 99 pages, so 8 parts.
    assert len(rest_in_parts(at(0), at(1000), at(989))) == MOST_PARTS
    # It covered [400, 1000): 600 s of 1000, so one more page will do.
    assert rest_in_parts(at(0), at(1000), at(399)) == []
    # It covered [200, 1000): less than three pages are left.
    assert rest_in_parts(at(0), at(1000), at(199)) == []


def test_a_second_with_more_than_a_page_is_read_by_cursor() -> None:
    assert rest_in_parts(at(0), at(1000), at(999)) == []
    assert rest_in_parts(at(5), at(1000), at(5)) == []


def test_the_last_second_of_a_page_is_read_again() -> None:
    cut = rest_in_parts(at(0), at(1000), at(899))
    assert cut[0][1] == at(899) + SECOND
