"""Where a process may die: on both sides of each commit that changed something, and of each call to Stripe.

A point is named by the functions that led to it, outermost first: `grants.send_due > _carry_on > _send: after commit`.
The hooks live in the process that calls `watch`, and the product knows nothing of them.
"""

import inspect
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any, Final

import requests
import sqlalchemy as sa
from sqlalchemy.orm import Session

OURS: Final = ("billing.", "tenants.", "webhooks.")
UNNAMED: Final = (
    "tenants.db",
    "tenants.clock",
    "billing.gateway",
    "billing.outages.tasks",
    "billing.outages.due",
    "billing.outages.turns",
)
"""How a transaction or a call is made, and who rings for the work, says nothing about what it is for."""
TALLIED: Final = "circuits.told"
"""Calls are counted a few at a time, as the clock has it: whoever dies there has lost a count, and nothing else."""
PLUMBING: Final = (__name__, "tenants.db", "contextlib")
OPENINGS: Final = (".work(", ".retried(")


def watch(reached: Callable[[str], None]) -> None:
    """Call `reached` with the name of each point that this process comes to, for as long as it lives."""
    commit, send = Session.commit, requests.Session.send

    def watched_commit(session: Session) -> None:
        session.flush()
        place = (_place() or _edge()) if _changed(session) else None
        if place and place.endswith(TALLIED):
            place = None
        if place:
            reached(f"{place}: before commit")
        commit(session)
        if place:
            reached(f"{place}: after commit")

    def watched_send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> Any:
        place = _place()
        if place:
            reached(f"{place}: before {request.method}")
        answer = send(session, request, **options)
        if place:
            reached(f"{place}: after {request.method}")
        return answer

    Session.commit = watched_commit  # type: ignore[method-assign]
    requests.Session.send = watched_send  # type: ignore[method-assign]


def _changed(session: Session) -> bool:
    """Whether the transaction has written or locked a row: without that, both sides of its commit are one."""
    return session.scalar(sa.text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")) is True


def _place() -> str | None:
    """The product's functions that led here. None: there are none that say what for."""
    ours = [frame for frame in _outermost_first() if _module(frame).startswith(OURS) and _module(frame) not in UNNAMED]
    named = [frame for frame in ours if not frame.f_code.co_name.startswith("<")]
    if not named:
        return None
    words, before = [], ""
    for frame in named:
        module, function = _module(frame).rpartition(".")[2], frame.f_code.co_name
        words.append(function if module == before else f"{module}.{function}")
        before = module
    return " > ".join(words) + _which(named[-1])


def _edge() -> str | None:
    """Whoever opened the unit of work that is not the product's: an edge, as which a test plays. Not its privates."""
    opened = next(frame for frame in reversed(_outermost_first()) if _module(frame) not in PLUMBING)
    return None if opened.f_code.co_name.startswith("_") else opened.f_code.co_name


def _outermost_first() -> list[FrameType]:
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _which(frame: FrameType) -> str:
    """Which of several transactions of one function it is."""
    lines = _openings(frame.f_code)
    earlier = [line for line in lines if line <= frame.f_lineno]
    return f" ({len(earlier)})" if len(lines) > 1 and earlier else ""


@cache
def _openings(code: CodeType) -> list[int]:
    lines, first = inspect.getsourcelines(code)
    return [first + no for no, line in enumerate(lines) if any(opening in line for opening in OPENINGS)]
