"""Which share of a plan's value each platform carries, read from what people write."""

import re

from billing.errors import BadRequest

WHOLE_BP = 10_000


def parse_weights(text: str) -> dict[str, int]:
    """`"facebook=6000,instagram=4000"` as `{"facebook": 6000, "instagram": 4000}`, in basis points.

    Raises `BadRequest` with one sentence for anything else; `""` is no weights at all.
    """
    weights: dict[str, int] = {}
    for part in filter(None, re.split(r"[,\s]+", text.strip())):
        found = re.fullmatch(r"([a-z][a-z0-9_-]{0,39})=([0-9]{1,9})", part.lower())
        if not found:
            raise BadRequest(f"{part!r} is no weight: write platform=basis points, such as facebook=6000.")
        platform, weight = found[1], int(found[2])
        if platform in weights:
            raise BadRequest(f"{platform} has two weights: give one.")
        if not 1 <= weight <= WHOLE_BP:
            raise BadRequest(f"{part!r}: a weight is 1 to 10,000 basis points; leave the platform out for none.")
        weights[platform] = weight
    if sum(weights.values()) > WHOLE_BP:
        raise BadRequest(f"The weights add up to {sum(weights.values()):,} basis points; a plan has only 10,000.")
    return weights
