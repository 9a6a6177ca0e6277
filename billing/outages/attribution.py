"""Which incident took which second: every lost second is some incident's, whole or in exact parts. Pure.

For the reports alone; what is owed needs no such question. On each platform a second belongs to the incident with the
largest impact, of equal ones to the one that was declared first. Where several platforms lose at once, each takes its
weight × impact, and where that would be more than the whole, the part of the whole in proportion to it. So the parts
of all incidents add up to what the loss schedule says, and they move when one of them is retracted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from billing.outages.loss import WHOLE, OutageSpan


@dataclass(frozen=True)
class Claimant:
    """An incident and what it took. Earlier ones come first in the sequences of this module."""

    incident: str
    span: OutageSpan


def shares(
    weights: Mapping[str, int], claimants: Sequence[Claimant], until: int, start: int, end: int
) -> dict[str, Fraction]:
    """The lost share over [start, end) that each incident took, in 10^-8 seconds; `claimants` as they were declared.

    Open incidents are counted until `until`. The values add up to `loss.lost` of the same incidents.
    """
    running = [
        (max(start, one.span.start), min(end, until if one.span.end is None else one.span.end), one)
        for one in claimants
        if weights.get(one.span.platform, 0) > 0
    ]
    found: dict[str, Fraction] = {}
    edges = sorted({edge for begins, ends, _ in running if begins < ends for edge in (begins, ends)})
    for left, right in pairwise(edges):
        winners: dict[str, tuple[int, str]] = {}
        for begins, ends, one in running:
            if begins <= left and right <= ends and one.span.impact_bp > winners.get(one.span.platform, (0, ""))[0]:
                winners[one.span.platform] = (one.span.impact_bp, one.incident)
        parts = {platform: weights[platform] * impact for platform, (impact, _) in winners.items()}
        scale = Fraction(min(WHOLE, total), total) if (total := sum(parts.values())) else Fraction(0)
        for platform, (_, incident) in winners.items():
            found[incident] = found.get(incident, Fraction(0)) + (right - left) * parts[platform] * scale
    return found
