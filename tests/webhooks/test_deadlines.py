import threading
import time

import pytest

from webhooks import deadlines
from webhooks.deadlines import Deadlines


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "LOOK_EVERY", 0.01)


def test_only_what_takes_too_long_is_ended_and_only_once() -> None:
    watch, ended, late = Deadlines(), [], threading.Event()

    def end(name: str) -> None:
        ended.append(name)
        late.set()

    with watch.within(30, lambda: end("quick")), watch.within(0.02, lambda: end("slow")):
        assert late.wait(60)
    with watch.within(30, lambda: end("another")):
        pass
    assert ended == ["slow"]


def test_one_thread_watches_over_all_of_them_and_ends_when_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "IDLE_FOR", 0.05)
    watch = Deadlines()
    others = set(threading.enumerate())  # whatever else this process is doing, and may be done with at any moment

    def watching() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "deadlines" and one not in others]

    with watch.within(30, print), watch.within(30, print), watch.within(30, print):
        assert len(watching()) == 1
    until = time.monotonic() + 60
    while watching():
        assert time.monotonic() < until
        time.sleep(0.01)
    late = threading.Event()
    with watch.within(0, late.set):  # whoever comes later is watched over as well
        assert late.wait(60)
