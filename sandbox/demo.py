"""`make demo`: August 2019 on this machine. Replays the story, prints what happened, checks it, and goes on serving."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from sandbox import account, proofs, truth
from sandbox.calls import StripeRefused
from sandbox.cases import CASES
from sandbox.performance import Performance, Seen
from sandbox.postgres import PostgresError
from sandbox.processes import ROOT, Ended, Processes, ProcessFailed, ended_by_signals, port_is_free
from sandbox.proofs import Proofs

HOME: Final = ROOT / "var" / "demo"
BUSINESSES: Final = 2_000
BROKEN: Final = 1
WATCH_EVERY: Final = 0.5
"""Seconds between two looks at the processes while serving."""


class Refused(Exception):
    """The demo was asked for something that it cannot do; the message says what to do instead."""


def main() -> int:
    """Returns the exit status: 0 only if every check held and nothing broke."""
    console = Console(highlight=False, soft_wrap=False)
    try:
        size = _number("SIZE", BUSINESSES, len(CASES), 200_000)
        port = _number("PORT", 8_000, 1, 65_535)
        with ended_by_signals(), _alone(HOME):
            if not port_is_free(port):
                raise Refused(f"Port {port} is taken. Choose another one: PORT={port + 1} make demo")
            return _performed(console, size, port, once=os.environ.get("ONCE", "") not in ("", "0"))
    except (Refused, ProcessFailed, StripeRefused, PostgresError) as failure:
        console.print(str(failure), style="red", markup=False)
        return BROKEN
    except Ended as ended:
        _quietly(console, f"\nEnded ({ended}); nothing is left running.")
        return 0 if ended.serving else BROKEN


def _performed(console: Console, size: int, port: int, *, once: bool) -> int:
    began = time.monotonic()
    with Processes(HOME / "logs") as processes:
        with console.status("") as status:

            def say(words: str) -> None:
                if console.is_interactive:
                    status.update(f"{words} …")
                else:  # in a file nothing can move: it gets a line for each
                    console.print(f"  {words} …", style="dim")

            performance = Performance(processes, HOME, port, size, say)
            seen = performance.perform()
        checked = prove(seen)
        account.tell(console, seen, checked)
        phases = ", ".join(
            f"{words.partition(':')[0].lower()} {seconds:.0f} s" for words, seconds in performance.phases
        )
        console.print(f"  {time.monotonic() - began:.0f} s in all: {phases}.", style="dim")
        if not once:
            _serve(console, processes, performance, seen)
    return BROKEN if checked.broken else 0


def prove(seen: Seen) -> Proofs:
    """Hold everything that the performance saw against what it should have been."""
    checked = Proofs()
    assert seen.first is not None
    assert seen.second is not None
    assert seen.end is not None
    world, first, second = seen.world, seen.first, seen.second
    incident = first.shown["id"]
    checked.hold("The declarer's own approval is refused", bool(seen.own_approval))
    for name, act in (("first", first), ("second", second)):
        proofs.cases(checked, world, name, act.given)
        proofs.crowd(checked, world, name, act.given, act.owed)
        proofs.books(checked, f"After the {name} run", act.after)
    channels = truth.per_currency(first.given, first.after.currency)
    proofs.totals(checked, "first", channels, seen.preview["totals"])
    checked.same("Nothing is owed right after the first run", seen.preview_again["grants"], [])
    proofs.left_out(checked, seen.preview["left_out"])
    proofs.held(checked, world, first.after, incident, seen.subscriptions)
    proofs.not_charged(checked, seen.subscriptions, incident, first.after, second.before)
    proofs.released(checked, world, seen.end, seen.drafts)
    proofs.books(checked, "At the end", seen.end)
    checked.same("The mirror agrees with Stripe on every object", seen.checked["differences"], [])
    checked.same("The books agree with Stripe on every object", seen.reconciled["differences"], [])
    return checked


def _serve(console: Console, processes: Processes, performance: Performance, seen: Seen) -> None:
    """Show the way in, and watch until somebody ends it (`Ended`) or a part ends by itself (`ProcessFailed`)."""
    console.print(f"\n  Now serving at [b]{performance.product.url}[/b]. Each link signs in once:\n")
    for who, link in seen.links.items():
        console.print(f"    {who:<10}{link}", soft_wrap=True)
    console.print(f"\n  Public status page: {performance.product.url}/status")
    console.print(f"  Stripe sandbox:     {performance.stripe.base} with the key {performance.stripe.key}")
    console.print(
        f"  The command line:   set -a; . {_settings(performance)}; set +a; .venv/bin/flask incidents list",
        soft_wrap=True,
    )
    console.print("\n  Ctrl-C ends everything.")
    while True:
        try:
            processes.check()
            time.sleep(WATCH_EVERY)  # several processes: the end of any of them, and Ctrl-C, end this
        except Ended as ended:
            ended.serving = True
            raise


def _settings(performance: Performance) -> Path:
    """A file that lets this folder's commands speak with the demo, for whoever may read the folder."""
    path = HOME / "settings.env"
    lines = [f"{name}='{value}'\n" for name, value in performance.product.settings.items()]
    path.touch(mode=0o600)
    path.write_text("".join(lines))
    return path.relative_to(ROOT)


def _number(name: str, default: int, least: int, most: int) -> int:
    given = os.environ.get(name, "").strip()
    if not given:
        return default
    if not given.isdecimal() or not least <= int(given) <= most:
        raise Refused(f"{name} is {given!r}; give a whole number from {least:,} to {most:,}.")
    return int(given)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One demo at a time in this folder: a second one would take the first one's database away."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("A demo is running in this folder already. End it with Ctrl-C first.") from None
        yield


def _quietly(console: Console, words: str) -> None:
    """Say it, unless nobody is left to hear: the terminal may be what was closed."""
    try:
        console.print(words)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the interpreter's own flush at its end


if __name__ == "__main__":
    sys.exit(main())
