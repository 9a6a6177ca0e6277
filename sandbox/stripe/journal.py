"""The state file: one line of JSON per unit of work, appended; read back and compacted at start."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Safe to be killed at any moment: a torn last line is a unit whose answer nobody received, and is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                yield json.loads(line)

    def compact(self, whole: dict[str, Any]) -> None:
        """Replace the file by one line that says everything, then go on appending to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(self.path.name + ".new")
        fresh.write_bytes(_line(whole))
        fresh.replace(self.path)
        self.close()
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def write(self, unit: dict[str, Any]) -> None:
        assert self._file is not None, "compact opens the file"
        line = memoryview(_line(unit))
        while line:
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _line(unit: dict[str, Any]) -> bytes:
    return json.dumps(unit, separators=(",", ":")).encode() + b"\n"
