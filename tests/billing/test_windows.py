"""Times are UTC and say so; windows run forward. And the errors' own words."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from billing import errors
from billing.errors import BadRequest, Refused, nearest
from billing.windows import Window, from_unix, in_words, iso, lasting, parse_time, unix


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2019, 8, 22, hour, minute, tzinfo=UTC)


def test_a_window_is_half_open_and_counts_seconds() -> None:
    assert Window(at(20), at(21)).seconds == 3600
    assert Window(at(20), at(20, 1)).intersection(Window(at(20, 1), at(21))) is None


def test_a_window_is_kept_in_utc() -> None:
    local = datetime(2019, 8, 22, 22, tzinfo=timezone(timedelta(hours=2)))
    assert Window(local) == Window(at(20))
    assert Window(local).start.tzinfo is UTC


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Window(at(1), at(5)), Window(at(3), at(9)), Window(at(3), at(5))),
        (Window(at(1), at(9)), Window(at(3), at(5)), Window(at(3), at(5))),
        (Window(at(1), None), Window(at(3), at(5)), Window(at(3), at(5))),
        (Window(at(1), None), Window(at(3), None), Window(at(3), None)),
        (Window(at(1), at(2)), Window(at(3), None), None),
    ],
)
def test_intersection(one: Window, other: Window, both: Window | None) -> None:
    assert one.intersection(other) == both == other.intersection(one)


@pytest.mark.parametrize("end", [at(20), at(19)])
def test_a_window_that_does_not_run_forward_is_refused(end: datetime) -> None:
    with pytest.raises(Refused, match="The end must come after the start: it starts at 2019-08-22T20:00:00Z"):
        Window(at(20), end)


def test_an_open_window_has_no_length() -> None:
    assert Window(at(1)).open
    with pytest.raises(ValueError, match="no length yet"):
        _ = Window(at(1)).seconds


NAIVE = datetime(2019, 8, 22)  # noqa: DTZ001 - what is refused


@pytest.mark.parametrize("naive", [(NAIVE, None), (at(1), NAIVE)])
def test_a_naive_time_is_refused(naive: tuple[datetime, datetime | None]) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        Window(*naive)


@pytest.mark.parametrize(
    "text",
    ["2019-08-22T20:00Z", " 2019-08-22T20:00:00Z ", "2019-08-22T22:00+02:00", "2019-08-22 15:30:00-04:30"],
)
def test_iso_8601_is_read(text: str) -> None:
    read = parse_time(text)
    assert read == at(20)
    assert read.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2019-08-22T20:00", "Write 2019-08-22T20:00Z for UTC, or end it with an offset"),
        ("2019-08-22", "Write 2019-08-22T00:00Z for UTC"),
        ("yesterday", "'yesterday' is not a time. Write it with its offset or Z, for example 2019-08-22T20:00Z."),
        ("", "'' is not a time"),
        ("2019-02-29T00:00Z", "is not a time"),
        ("0001-01-01T00:00+14:00", "is not a time"),  # before the first year in UTC
    ],
)
def test_what_is_no_time_is_refused_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_time(text)
    assert says in refusal.value.message


def test_times_are_written_in_utc_with_z() -> None:
    assert iso(at(20) + timedelta(microseconds=999_999)) == "2019-08-22T20:00:00Z"
    assert iso(datetime(2019, 8, 22, 22, tzinfo=timezone(timedelta(hours=2)))) == "2019-08-22T20:00:00Z"
    assert parse_time(iso(at(7))) == at(7)


def test_unix_seconds_and_back() -> None:
    # 18,130 days since 1970 (49 years of 365 days = 17,885, 12 leap days, 233 days to 22 August) × 86,400 + 72,000
    assert unix(at(20)) == 1_566_504_000 == 18_130 * 86_400 + 72_000
    assert from_unix(1_566_504_000) == at(20)
    assert unix(datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)) == -1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.Refused, 422, "refused"),
        (errors.BadRequest, 400, "bad_request"),
        (errors.NotAllowed, 403, "not_allowed"),
        (errors.NotFound, 404, "not_found"),
        (errors.Conflict, 409, "conflict"),
        (errors.PlanChanged, 409, "plan_changed"),
        (errors.AlreadyDeclared, 409, "already_declared"),
        (errors.Unavailable, 503, "unavailable"),
    ],
)
def test_every_refusal_has_its_status_and_code(error: type[Refused], status: int, code: str) -> None:
    refusal = error("Say it in a sentence.")
    assert (refusal.status, refusal.code, refusal.message, str(refusal)) == (
        status,
        code,
        "Say it in a sentence.",
        "Say it in a sentence.",
    )
    assert isinstance(refusal, Refused)


@pytest.mark.parametrize(
    ("word", "known", "ending"),
    [
        ("facebok", ["facebook", "instagram", "x"], ", did you mean facebook?"),
        ("FACEBOOK", ["facebook", "instagram"], ", did you mean facebook?"),
        ("plan-1", ["plan-2", "plan-3"], ", did you mean plan-3 or plan-2?"),
        ("qq", ["facebook", "x"], ". Known are: facebook, x."),
        ("qq", [], ". None is known yet."),
        ("qq", [f"p{n}" for n in range(9)], ". Known are: p0, p1, p2, p3, p4, p5, p6, p7 and 1 more."),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known(word: str, known: list[str], ending: str) -> None:
    assert nearest(word, known) == ending


def test_a_time_in_a_sentence_is_utc_whatever_zone_it_came_in() -> None:
    assert in_words(parse_time("2019-08-22T22:05+02:00")) == "22 August 2019, 20:05 UTC"
    assert in_words(parse_time("2019-08-22T20:05:09.5Z")) == "22 August 2019, 20:05:09 UTC"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (45, "45 s"), (60, "1 min"), (303, "5 min 3 s"), (3_600, "1 h"), (3_605, "1 h 5 s"),
        (180 * 3_600, "180 h"), (1_080 * 3_600 + 30 * 60 + 15, "1,080 h 30 min 15 s"),
    ],
)  # fmt: skip
def test_how_long_is_said_to_the_second_without_what_there_is_none_of(seconds: int, words: str) -> None:
    assert lasting(seconds) == words
