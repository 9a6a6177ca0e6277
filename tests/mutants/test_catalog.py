"""Every breakage still fits the program as it is; whether the tests notice it is said by `make mutants`."""

import ast
from pathlib import Path

import pytest

from tests.mutants.catalog import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_every_breakage_still_has_its_place_and_its_tests(mutant: Mutant) -> None:
    changed = {file: (ROOT / file).read_text() for file, *_ in mutant.edits}
    for file, old, new in mutant.edits:
        assert changed[file].count(old) == 1, f"{file}: {old}"
        changed[file] = changed[file].replace(old, new)
    for text in changed.values():
        ast.parse(text)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).exists(), test


def test_no_two_breakages_share_a_name() -> None:
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
