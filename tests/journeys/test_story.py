"""The story of August 2019, as `make demo` tells it: the real commands, processes and wires, and few businesses."""

import contextlib
import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox import demo
from sandbox.cases import CASES, Case
from sandbox.performance import Act, Seen
from sandbox.processes import a_free_port
from sandbox.proofs import Proofs
from sandbox.truth import Ledger

BUSINESSES = len(CASES) + 48
"""Two of the crowd for each agency."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("demo")
    for folder in (made, *made.parents[:2]):
        folder.chmod(0o755)  # as root, PostgreSQL runs as nobody, who has to reach its own folder
    return made


@dataclass
class Told:
    """How `make demo` ended, what it printed and what it had seen."""

    status: int
    printed: str
    seen: Seen


@pytest.fixture(scope="module")
def told(home: Path) -> Told:
    """Performed once, for all of them."""
    kept: list[Seen] = []

    def prove(seen: Seen, honestly: Callable[[Seen], Proofs] = demo.prove) -> Proofs:
        kept.append(seen)
        return honestly(seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "prove", prove)
        status, printed = ran(patch, home)
    assert kept, printed
    return Told(status, printed, kept[0])


def ran(patch: pytest.MonkeyPatch, home: Path) -> tuple[int, str]:
    """`ONCE=1 make demo` in `home`: its exit status, and what it printed."""
    patch.setattr(demo, "HOME", home)
    for name, value in (("ONCE", "1"), ("SIZE", str(BUSINESSES)), ("PORT", str(a_free_port())), ("COLUMNS", "120")):
        patch.setenv(name, value)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = demo.main()
    return status, printed.getvalue()


@pytest.fixture
def seen(told: Told) -> Seen:
    """A copy, for breaking."""
    api = told.seen.world.api
    return copy.deepcopy(told.seen, {id(api): api})


def test_every_claim_of_the_demo_holds(told: Told) -> None:
    proofs = demo.prove(told.seen)

    assert proofs.broken == []
    assert len(proofs.held) > 2 * len(CASES)
    assert told.status == 0


def test_each_claim_has_a_break_that_shows_it(seen: Seen) -> None:
    of_cases = {f"The {run} run gave {case.name} what was worked out by hand" for case in CASES for run in RUNS}
    assert {*demo.prove(seen).held} - of_cases == {*BREAKS}


RUNS = ("first", "second")


def act(seen: Seen, run: str) -> Act:
    found = getattr(seen, run)
    assert isinstance(found, Act)
    return found


def gives_one_more(seen: Seen, run: str, customer: str) -> None:
    """A cent that went back and that nobody had worked out."""
    after = act(seen, run).after
    had = after.given.get(customer, {})
    after.given[customer] = {**had, "credit": had.get("credit", 0) + 1}  # type: ignore[index]
    after.currency.setdefault(customer, "usd")  # type: ignore[attr-defined]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cent_too_much_for_a_customer_of_the_story_is_reported(seen: Seen, run: str, case: Case) -> None:
    gives_one_more(seen, run, seen.world.customers[case.name])

    broken = demo.prove(seen).broken
    assert any(one.startswith(f"The {run} run gave {case.name} what was worked out by hand: found") for one in broken)


def somebody_of_the_crowd(seen: Seen) -> str:
    by_hand = set(seen.world.customers.values())
    return next(customer for customer in act(seen, "first").given if customer not in by_hand)


def end(seen: Seen) -> Ledger:
    assert seen.end is not None
    return seen.end


def subscription_of(seen: Seen, case: str) -> str:
    found: str = seen.world.subscriptions[seen.world.customers[case]]["id"]
    return found


def a_draft(seen: Seen) -> Any:
    return next(iter(seen.drafts.values()))


BREAKS: dict[str, Callable[[Seen], Any]] = {
    "The declarer's own approval is refused": lambda seen: setattr(seen, "own_approval", ""),
    "The first run gave everybody else what their invoices say": lambda seen: gives_one_more(
        seen, "first", somebody_of_the_crowd(seen)
    ),
    "The second run gave everybody else what their invoices say": lambda seen: gives_one_more(
        seen, "second", somebody_of_the_crowd(seen)
    ),
    "After the first run, no step of ours is in Stripe twice": lambda seen: act(seen, "first").after.twice.append("s"),
    "After the first run, no charge gave back more than it took": lambda seen: act(seen, "first").after.beyond.append(
        "ch_1"
    ),
    "After the first run, the sandbox's books add up": lambda seen: act(seen, "first").after.unbalanced.append({}),
    "After the second run, no step of ours is in Stripe twice": lambda seen: act(seen, "second").after.twice.append(
        "s"
    ),
    "After the second run, no charge gave back more than it took": lambda seen: act(seen, "second").after.beyond.append(
        "ch_1"
    ),
    "After the second run, the sandbox's books add up": lambda seen: act(seen, "second").after.unbalanced.append({}),
    "At the end, no step of ours is in Stripe twice": lambda seen: end(seen).twice.append("s"),
    "At the end, no charge gave back more than it took": lambda seen: end(seen).beyond.append("ch_1"),
    "At the end, the sandbox's books add up": lambda seen: end(seen).unbalanced.append({}),
    "The first run's totals are those of Stripe's books": lambda seen: seen.preview["totals"].pop(),
    "Nothing is owed right after the first run": lambda seen: seen.preview_again["grants"].append({"amount": 1}),
    "Who was left out is named": lambda seen: seen.preview["left_out"].clear(),
    "Billing is held for exactly those who depend on Facebook": lambda seen: act(seen, "first").after.pauses.update(
        {subscription_of(seen, "independent"): {"behavior": "keep_as_draft"}}
    ),
    "Each of our pauses says for which incident it stands": lambda seen: seen.subscriptions[
        subscription_of(seen, "plain")
    ]["metadata"].clear(),
    "Nobody was charged while their billing was held": lambda seen: act(seen, "second").before.charges.update(
        {"ch_new": {"customer": seen.world.customers["plain"]}}
    ),
    "Nothing is paused any more, except what its owner paused": lambda seen: end(seen).pauses.update(
        {subscription_of(seen, "plain"): {"behavior": "keep_as_draft"}}
    ),
    "No draft was left behind": lambda seen: a_draft(seen).update(status="draft"),
    "Each draft was collected, less what its customer had lost": lambda seen: a_draft(seen).update(amount_remaining=1),
    "The mirror agrees with Stripe on every object": lambda seen: seen.checked["differences"].append({"id": "in_1"}),
    "The books agree with Stripe on every object": lambda seen: seen.reconciled["differences"].append({"id": "in_1"}),
}
"""Claim -> what makes it untrue. Those about the customers of the story have a test of their own."""


@pytest.mark.parametrize("claim", BREAKS)
def test_a_claim_that_does_not_hold_is_reported(seen: Seen, claim: str) -> None:
    BREAKS[claim](seen)

    proofs = demo.prove(seen)
    assert claim not in proofs.held
    assert any(broken.startswith(claim) for broken in proofs.broken)


@pytest.mark.parametrize(
    ("case", "pause"), [("plain", None), ("own pause", {"behavior": "keep_as_draft"}), ("own pause", None)]
)
def test_a_pause_that_is_missing_or_not_its_owners_is_reported(
    seen: Seen, case: str, pause: dict[str, str] | None
) -> None:
    act(seen, "first").after.pauses[subscription_of(seen, case)] = pause  # type: ignore[index]

    assert [broken.partition(":")[0] for broken in demo.prove(seen).broken] == [
        "Billing is held for exactly those who depend on Facebook"
    ]


class Rehearsed:
    """A performance that has taken place already, with something broken in it."""

    phases = (("Rehearsing", 0.0),)

    def __init__(self, seen: Seen) -> None:
        self.perform = lambda: seen


def test_a_demo_with_a_claim_that_does_not_hold_says_so_and_ends_with_1(
    seen: Seen, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "Performance", lambda *_: Rehearsed(seen))
    assert ran(monkeypatch, home)[0] == 0

    seen.reconciled["differences"].append({"id": "in_1"})
    status, printed = ran(monkeypatch, home)
    assert status == 1
    assert "checks did not hold:" in printed
    assert "- The books agree with Stripe on every object: found [{'id': 'in_1'}], expected []" in printed
    assert "checks held" not in printed


class Unfinished:
    """A performance that ends in the middle, and knows what a file that is printed to held by then."""

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self.file, self.say = file, say
        self.held = ""

    def perform(self) -> Seen:
        self.say("Holding billing")
        self.held = self.file.read_text()
        raise demo.Refused("That is all.")


def test_a_file_is_told_at_once_what_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made = tmp_path / "printed", []

    def performance(*given: Any) -> Unfinished:
        made.append(Unfinished(file, given[-1]))
        return made[0]

    monkeypatch.setattr(demo, "Performance", performance)
    monkeypatch.setattr(demo, "HOME", tmp_path / "demo")
    monkeypatch.setenv("PORT", str(a_free_port()))
    with file.open("w") as stdout, contextlib.redirect_stdout(stdout):
        assert demo.main() == 1
    assert made[0].held == "  Holding billing …\n"
    assert file.read_text() == "  Holding billing …\nThat is all.\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_customer_has_what_was_worked_out_by_hand(seen: Seen, case: Case) -> None:
    """The arithmetic stands beside each case in `sandbox.cases`."""
    customer = seen.world.customers[case.name]
    assert seen.first is not None
    assert seen.second is not None

    assert seen.first.given.get(customer, {}) == case.first
    assert seen.second.given.get(customer, {}) == case.second


def test_the_two_runs_together_are_the_whole_outage_of_the_plain_customer(seen: Seen) -> None:
    # 31.00 for the 744 h of August, of which 22 August 20:00 to 30 August 08:00 are 180 h: 31.00 x 180/744 = 7.50.
    assert seen.first is not None
    assert seen.end is not None
    before, end = seen.first.before.given, seen.end.given
    customer = seen.world.customers["plain"]

    assert before.get(customer, {}) == {}
    assert end[customer] == {"refund": 750}


def test_the_account_is_short_and_says_what_went_where(told: Told) -> None:
    assert len([line for line in told.printed.splitlines() if not line.endswith(" …")]) < 125
    for words in ("to the card", "to the balance", "off what is due", "by a person", "disputed", "checks held"):
        assert words in told.printed


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs a Linux /proc")
def test_nothing_is_left_running(told: Told, home: Path) -> None:
    assert (home / "logs" / "web server.log").exists()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            assert str(home).encode() not in (process / "cmdline").read_bytes()
    assert not (home / "postgres" / "18" / "postmaster.pid").exists()
