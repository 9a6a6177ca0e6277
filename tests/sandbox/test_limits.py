"""Rate limits as docs.stripe.com/rate-limits describes them."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.stripe.limits import Limits
from sandbox.stripe.wire import StripeError
from tests.sandbox.conftest import Sandbox
from tests.sandbox.faulty import Refunding


@pytest.fixture
def refunding(sandbox: Sandbox) -> Iterator[Refunding]:
    running = Refunding(sandbox)
    yield running
    running.close()


class Wall:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def _outcomes(limits: Limits, account: str, endpoint: str, calls: int) -> Counter[str]:
    got: Counter[str] = Counter()
    for _ in range(calls):
        try:
            limits.admit(account, endpoint)
            got["let through"] += 1
        except StripeError as refusal:
            got[refusal.headers["Stripe-Rate-Limited-Reason"]] += 1
    return got


def test_each_endpoint_has_a_bucket_and_the_account_has_one_over_all() -> None:
    wall = Wall()
    limits = Limits(wall)
    limits.set({"global": 100, "endpoint": 25})
    assert _outcomes(limits, "a", "POST /v1/refunds", 30) == {"let through": 25, "endpoint-rate": 5}
    assert _outcomes(limits, "b", "POST /v1/refunds", 30) == {"let through": 25, "endpoint-rate": 5}
    for endpoint in ("1", "2", "3"):
        assert _outcomes(limits, "a", endpoint, 25) == {"let through": 25}
    # 4 x 25 are the account's 100.
    assert _outcomes(limits, "a", "4", 1) == {"global-rate": 1}
    wall.now += 0.1
    # A tenth of a second: 10 for the account, 2.5 for an endpoint.
    assert _outcomes(limits, "a", "1", 5) == {"let through": 2, "endpoint-rate": 3}
    assert _outcomes(limits, "a", "5", 10) == {"let through": 8, "global-rate": 2}
    wall.now += 3_600
    assert _outcomes(limits, "a", "1", 60) == {"let through": 25, "endpoint-rate": 35}


def test_a_call_that_is_refused_takes_no_token() -> None:
    wall = Wall()
    limits = Limits(wall)
    limits.set({"global": 2, "endpoints": {"GET /v1/refunds": 1}})
    assert _outcomes(limits, "a", "GET /v1/refunds", 5) == {"let through": 1, "endpoint-rate": 4}
    assert _outcomes(limits, "a", "GET /v1/charges", 2) == {"let through": 1, "global-rate": 1}
    assert limits.shown()["refused"] == {"endpoint-rate GET /v1/refunds": 4, "global-rate GET /v1/charges": 1}
    assert limits.shown()["allowed"] == 2


def test_a_limited_call_leaves_no_trace_and_an_advance_of_the_clock_refills_nothing(refunding: Refunding) -> None:
    sandbox = refunding.sandbox
    sandbox.control("POST", "limits", endpoint=0.001)
    assert refunding.send("a").status_code == 200
    limited = refunding.send("b")
    assert (limited.status_code, limited.headers["Stripe-Rate-Limited-Reason"]) == (429, "endpoint-rate")
    sandbox.advance(10 * 24 * 3600)
    assert refunding.send("b").status_code == 429
    assert sandbox.raw("GET", "/v1/refunds").status_code == 200
    assert sandbox.raw("GET", "/v1/refunds/re_1").status_code == 404
    assert sandbox.raw("GET", "/v1/refunds/re_2").status_code == 429
    sandbox.control("DELETE", "limits")
    done = refunding.send("b")
    assert (done.status_code, "Idempotent-Replayed" in done.headers) == (200, False)
    assert refunding.refunds() == [100, 100]


def test_replays_and_wrong_parameters_count_too(refunding: Refunding) -> None:
    """The limiter comes first."""
    refunding.send("a")
    refunding.sandbox.control("POST", "limits", endpoint=0.001, burst=2_000)
    assert refunding.send("a").headers["Idempotent-Replayed"] == "true"
    assert refunding.sandbox.raw("POST", "/v1/refunds", {"nonsense": "1"}).status_code == 400
    assert refunding.send("a").status_code == 429


@pytest.mark.parametrize(
    "limits",
    [{"endpoint": 0}, {"global": "many"}, {"burst": 0}, {"speed": 5}, {"endpoints": {"refunds": 5}}, {"endpoints": [1]},
     {"endpoints": {"POST /v1/refunds": -1}}],
)  # fmt: skip
def test_a_wrong_limit_is_refused_and_changes_nothing(sandbox: Sandbox, limits: dict[str, Any]) -> None:
    sandbox.control("POST", "limits", endpoint=25)
    answer = sandbox.raw("POST", "/_sandbox/limits", json.dumps(limits))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert sandbox.control("GET", "limits")["endpoint"] == 25
