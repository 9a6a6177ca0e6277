"""`make mutants`: break the program on purpose, one safeguard at a time, and see that its tests notice.

Works on copies of the tree in the temporary folder. Ends with 1 when a breakage survives its tests, or when the tests
fail without any.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from sandbox import postgres
from tests.mutants.catalog import MUTANTS, Mutant

ROOT: Final = Path(__file__).resolve().parents[2]
AT_ONCE: Final = 2
PATIENCE: Final = 300
NOTICED, PASSED = 1, 0
"""How pytest ends: a test failed, all passed. Anything else is no answer."""


class Copy:
    """One copy of the tree with a database server of its own, for one breakage after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        whole = {file: (self.root / file).read_text() for file, *_ in mutant.edits}
        try:
            for file, old, new in mutant.edits:
                text = (self.root / file).read_text()
                if text.count(old) != 1:
                    raise SystemExit(f"{mutant.name}: {file} has {text.count(old)} times {old!r}.")
                (self.root / file).write_text(text.replace(old, new))
            yield
        finally:
            for file, text in whole.items():
                (self.root / file).write_text(text)

    def tested(self, tests: tuple[str, ...]) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(
            command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE
        )
        return done.returncode, done.stdout


@contextmanager
def copied(folder: Path) -> Iterator[Copy]:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    with postgres.start(folder / "var" / "tests" / "postgres", fsync=False):  # held, or each run would start one
        yield Copy(folder)


def main(wanted: list[str]) -> int:
    mutants = [one for one in MUTANTS if not wanted or one.name in wanted]
    with ExitStack() as stack:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for _ in range(AT_ONCE):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-")))
            folder.chmod(0o755)  # as root, PostgreSQL runs as nobody, who has to reach its own folder
            copies.put(stack.enter_context(copied(folder)))
        if not _sound(copies, mutants):
            return 1
        with ThreadPoolExecutor(AT_ONCE) as pool:
            verdicts = list(pool.map(lambda one: _judged(copies, one), mutants))
    survived = verdicts.count(False)
    print(f"{len(verdicts) - survived} of {len(verdicts)} breakages were noticed.")
    return 1 if survived else 0


def _sound(copies: "SimpleQueue[Copy]", mutants: list[Mutant]) -> bool:
    """Whether the tests pass where nothing is broken: else their failure would say nothing."""
    copy = copies.get()
    ended, told = copy.tested(tuple(sorted({test for one in mutants for test in one.tests})))
    copies.put(copy)
    if ended != PASSED:
        print(told[-3_000:], "These tests fail although nothing is broken.", sep="\n")
    return ended == PASSED


def _judged(copies: "SimpleQueue[Copy]", mutant: Mutant) -> bool:
    copy, began = copies.get(), time.monotonic()
    try:
        with copy.broken(mutant):
            ended, told = copy.tested(mutant.tests)
    finally:
        copies.put(copy)
    word = {NOTICED: "noticed", PASSED: "SURVIVED"}.get(ended, "NO ANSWER")
    by = next((line.partition(" - ")[0] for line in told.splitlines() if line.startswith("FAILED ")), "")
    print(f"{word:9} {time.monotonic() - began:5.1f} s  {mutant.name:60} {by.removeprefix('FAILED ')}", flush=True)
    if ended not in (NOTICED, PASSED):
        print(told[-2_000:])
    return ended == NOTICED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
