"""What import-linter cannot say: the formula rests on the standard library alone, and no drawer is called `utils`."""

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PURE = ("billing.money", "billing.windows", "billing.stretches", "billing.errors", "billing.outages.loss")
DRAWERS = {"utils", "util", "helpers", "common", "core", "services", "managers", "misc"}


def imported(module: str) -> set[str]:
    """The modules that `module` names in its import statements."""
    tree = ast.parse((PROJECT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import names its module in full"
            names |= (
                {node.module or ""}
                if node.module not in ("billing", "billing.outages")
                else {f"{node.module}.{alias.name}" for alias in node.names}
            )
    return names


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_the_standard_library_and_each_other(module: str) -> None:
    others = {name for name in imported(module) if name.split(".")[0] not in sys.stdlib_module_names}
    assert others <= set(PURE)


def test_every_file_is_named_for_what_it_knows() -> None:
    packages = ("billing", "tenants", "webhooks", "sandbox", "migrations", "tests", "bench")
    files = [file for package in packages for file in (PROJECT / package).rglob("*.py")]
    assert len(files) > 20
    assert [file for file in files if DRAWERS & {part.removesuffix(".py") for part in file.parts[-3:]}] == []
