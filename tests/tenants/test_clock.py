"""Business time has one source, and says in a sentence when that source is gone."""

from datetime import UTC, datetime

import pytest

from sandbox.stripe.server import start_in_thread
from tenants.clock import ClockUnavailable, FixedClock, SandboxClock, SystemClock


def test_a_sandbox_that_is_not_there_is_a_sentence(free_port: int) -> None:
    with pytest.raises(ClockUnavailable, match="flask sandbox run"):
        SandboxClock(f"http://127.0.0.1:{free_port}").now()


def test_the_sandbox_says_what_time_it_is() -> None:
    handle = start_in_thread(seed="empty")
    try:
        told = SandboxClock(handle.url).now()
    finally:
        handle.stop()
    assert told.tzinfo is UTC
    assert told.microsecond == 0


def test_a_proxy_of_the_machine_is_not_asked_for_the_time(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    handle = start_in_thread(seed="empty")
    try:
        assert SandboxClock(handle.url).now().tzinfo is UTC
    finally:
        handle.stop()


def test_system_time_is_whole_seconds_in_utc() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= SystemClock().now() <= datetime.now(UTC)


def test_a_fixed_clock_stands_still() -> None:
    clock = FixedClock(datetime(2019, 8, 26, 14, tzinfo=UTC))
    assert clock.now() == clock.now()
