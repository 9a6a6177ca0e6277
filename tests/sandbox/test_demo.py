"""What the demo says once it serves."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sandbox import demo
from sandbox.processes import Ended


class Over:
    """Processes that are ended at the first look at them."""

    def check(self) -> None:
        raise Ended("SIGINT")


def test_what_is_to_be_copied_stands_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_settings", lambda _performance: Path("var/demo/settings.env"))
    link = f"http://127.0.0.1:8000/sign-in/{'x' * 87}"
    product, stripe = (
        SimpleNamespace(url="http://127.0.0.1:8000"),
        SimpleNamespace(base="http://127.0.0.1:43947", key="k"),
    )
    performance: Any = SimpleNamespace(product=product, stripe=stripe)
    seen: Any = SimpleNamespace(links={"Finance": link})
    processes: Any = Over()
    console = Console(file=io.StringIO(), width=80)
    with pytest.raises(Ended):
        demo._serve(console, processes, performance, seen)
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert any(
        line.endswith("set -a; . var/demo/settings.env; set +a; .venv/bin/flask incidents list") for line in said
    )
    assert any(line.endswith(link) for line in said)
