"""One thread that ends what takes too long, for however many things are under way: a timer each costs a thread each."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LOOK_EVERY: Final = 0.1
"""Seconds between two looks: by so much an end may come late."""
IDLE_FOR: Final = 30.0
"""Seconds without anything under way, after which the thread ends; the next deadline starts another."""


class Deadlines:
    """Deadlines of one process; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[float, Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def within(self, seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
        """Call `give_up` once, from another thread, when the block is not over after so many seconds."""
        number = next(self._numbers)
        with self._lock:
            self._waiting[number] = (time.monotonic() + seconds, give_up)
            if self._thread is None or not self._thread.is_alive():  # a fork inherits the name of it and not the thread
                self._thread = threading.Thread(target=self._look, name="deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def _look(self) -> None:
        used = time.monotonic()
        while True:
            time.sleep(LOOK_EVERY)
            now = time.monotonic()
            with self._lock:
                used = now if self._waiting else used
                if now - used > IDLE_FOR:
                    self._thread = None
                    return
                late = [number for number, (until, _) in self._waiting.items() if until <= now]
                ends = [self._waiting.pop(number)[1] for number in late]
            for end in ends:
                end()
