"""The name of exactly one plan: what a person looked at, and what is sent. Pure."""

import hashlib
from collections.abc import Iterable


def of_incident(runs: Iterable[tuple[int, str]]) -> str:
    """The fingerprint of an incident out of `(agency, fingerprint)` of each of its runs that gives something back."""
    text = "\n".join(f"{agency}:{fingerprint}" for agency, fingerprint in sorted(runs))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
