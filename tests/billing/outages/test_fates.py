"""What becomes of a subscription whose platform does not come back, and what cannot become of it."""

import pytest

from billing.errors import BadRequest
from billing.outages.fates import Fate, fate
from billing.outages.in_force import Weights

WEIGHTS = Weights({
    "pages": {"facebook": 10_000}, "duo": {"facebook": 6_000, "instagram": 4_000},
    "suite": {"facebook": 5_000, "x": 5_000}, "photos": {"instagram": 10_000}, "posts": {"x": 10_000},
})  # fmt: skip
MOVES = {"duo": "photos", "suite": "posts", "pages": "posts"}


@pytest.mark.parametrize(
    ("items", "becomes"),
    [
        ({"si_1": "photos"}, None),
        ({"si_1": "pages"}, Fate("cancel", {})),
        ({"si_1": "duo", "si_2": "suite"}, Fate("move", {"si_1": "photos", "si_2": "posts"})),
        ({"si_1": "pages", "si_2": "photos"}, Fate("move", {"si_1": "posts"})),
    ],
)
def test_it_ends_or_moves_or_is_left_alone(items: dict[str, str], becomes: Fate | None) -> None:
    assert fate(items, WEIGHTS, "facebook", MOVES) == becomes


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ({"si_1": "suite", "si_2": "pages"}, "Somebody who has pages and suite would have posts twice"),
        ({"si_1": "duo", "si_2": "photos"}, "Somebody who has duo would have photos twice"),
    ],
)
def test_what_stripe_would_refuse_is_refused_when_it_is_asked_for(items: dict[str, str], sentence: str) -> None:
    """Two items of one price: https://github.com/stripe-archive/submigrate/issues/1"""
    with pytest.raises(BadRequest, match=sentence):
        fate(items, WEIGHTS, "facebook", MOVES)
