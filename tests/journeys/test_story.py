"""The story of August 2019, as `make demo` tells it: the real commands, processes and wires, and few businesses."""

import contextlib
import io
from pathlib import Path

import pytest
from rich.console import Console

from sandbox import account, demo
from sandbox.cases import CASES, Case
from sandbox.performance import Performance, Seen
from sandbox.processes import Processes, a_free_port

BUSINESSES = len(CASES) + 48
"""Two of the crowd for each agency."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("demo")
    for folder in (made, *made.parents[:2]):
        folder.chmod(0o755)  # as root, PostgreSQL runs as nobody, who has to reach its own folder
    return made


@pytest.fixture(scope="module")
def seen(home: Path) -> Seen:
    """Performed once, for all of them."""
    with Processes(home / "logs") as processes:
        return Performance(processes, home, a_free_port(), BUSINESSES, lambda words: None).perform()


def test_every_claim_of_the_demo_holds(seen: Seen) -> None:
    proofs = demo.prove(seen)

    assert proofs.broken == []
    assert len(proofs.held) > 2 * len(CASES)


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


def test_the_account_is_short_and_says_what_went_where(seen: Seen) -> None:
    printed = Console(file=io.StringIO(), width=120, color_system=None)

    account.tell(printed, seen, demo.prove(seen))

    assert isinstance(printed.file, io.StringIO)
    text = printed.file.getvalue()
    assert len(text.splitlines()) < 125
    for words in ("to the card", "to the balance", "off what is due", "by a person", "disputed", "checks held"):
        assert words in text


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs a Linux /proc")
def test_nothing_is_left_running(seen: Seen, home: Path) -> None:
    assert (home / "logs" / "web server.log").exists()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            assert str(home).encode() not in (process / "cmdline").read_bytes()
    assert not (home / "postgres" / "18" / "postmaster.pid").exists()
