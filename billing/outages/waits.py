"""How long the engine waits: leases, and when it asks again. All of it is counted on the database's clock. Pure."""

from datetime import timedelta

LEASE = timedelta(seconds=120)
"""Longer than one call may take (5 s to connect, 25 s to answer, a few reads before it), so that nobody else starts the
same work while it may still be under way."""
SOON = timedelta(seconds=5)
LATER = timedelta(seconds=30)
KEY_LIFE = timedelta(hours=20)
"""Stripe forgets an idempotency key after 24 hours or later; four hours before that it is dead to us."""
TWICE_APART = timedelta(seconds=60)
"""Between the two looks that must both find nothing before a stored failure gets a new key."""
RECALLED = timedelta(minutes=10)
"""Between two looks for what may have been sent of an incident that was retracted."""
POLL_PENDING = timedelta(hours=1)
DAILY = timedelta(days=1)
_ASK_AGAIN = (
    timedelta(seconds=10), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1),
    timedelta(hours=6),
)  # fmt: skip


def ask_again_after(times: int) -> timedelta:
    """How long to wait after the answer stayed away for the `times`-th time, counted from 1."""
    return _ASK_AGAIN[min(max(times, 1), len(_ASK_AGAIN)) - 1]


def look_again_after(times: int) -> timedelta:
    """The same for what moves no money and is looked at anew each time: a renewal does not wait for hours, and however
    often Stripe was asked while it let nobody in says nothing of it."""
    return min(ask_again_after(times), timedelta(minutes=2))
