"""What is measured, and how Prometheus reads it.

The format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Gauge:
    """One number that goes up and down, or one for each value of `label`."""

    name: str
    what: str
    values: Mapping[str, float]
    """By the value of `label`; by "" where there is none."""
    label: str = ""

    def lines(self) -> list[str]:
        told = [f"# HELP {self.name} {self.what}", f"# TYPE {self.name} gauge"]
        for value, number in sorted(self.values.items()):
            labels = f'{{{self.label}="{_escaped(value)}"}}' if self.label else ""
            told.append(f"{self.name}{labels} {float(number)!r}")
        return told


def exposition(gauges: Iterable[Gauge]) -> str:
    """All of them, as Prometheus reads them."""
    return "".join(f"{line}\n" for gauge in gauges for line in gauge.lines())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
