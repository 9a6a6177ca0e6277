"""Lists page newest first; expand reaches four levels."""

from typing import Any

import pytest
import stripe
from stripe import StripeClient

from tests.sandbox.conftest import NOON, Sandbox
from tests.sandbox.payments import paid


def names(page: Any) -> list[str]:
    return [row.name for row in page.data]


@pytest.fixture
def seven(sandbox: Sandbox, client: StripeClient) -> list[str]:
    """Ids of customers 1 to 7, made ten seconds apart."""
    ids = []
    for number in range(1, 8):
        ids.append(client.v1.customers.create({"name": str(number), "email": f"{number % 2}@example.com"}).id)
        sandbox.advance(10)
    return ids


def test_newest_first_ten_unless_told(client: StripeClient, seven: list[str]) -> None:
    for number in range(8, 13):
        client.v1.customers.create({"name": str(number)})
    page = client.v1.customers.list()
    assert names(page) == ["12", "11", "10", "9", "8", "7", "6", "5", "4", "3"]
    assert page.has_more is True
    assert page.url == "/v1/customers"


def test_cursors_walk_both_ways(client: StripeClient, seven: list[str]) -> None:
    first = client.v1.customers.list({"limit": 3})
    assert (names(first), first.has_more) == (["7", "6", "5"], True)
    last = client.v1.customers.list({"limit": 4, "starting_after": first.data[-1].id})
    assert (names(last), last.has_more) == (["4", "3", "2", "1"], False)
    back = client.v1.customers.list({"limit": 3, "ending_before": seven[1]})
    assert (names(back), back.has_more) == (["5", "4", "3"], True)
    assert names(client.v1.customers.list({"ending_before": seven[4]})) == ["7", "6"]
    assert [row.name for row in client.v1.customers.list({"limit": 2}).auto_paging_iter()] == list("7654321")


def test_a_list_does_not_shift_while_it_grows(client: StripeClient, seven: list[str]) -> None:
    first = client.v1.customers.list({"limit": 3})
    client.v1.customers.create({"name": "late"})
    client.v1.customers.delete(seven[2])
    rest = client.v1.customers.list({"limit": 10, "starting_after": first.data[-1].id})
    assert names(rest) == ["4", "2", "1"]


@pytest.mark.parametrize(
    ("created", "found"),
    [
        ({"gte": NOON + 20, "lt": NOON + 50}, "543"),
        ({"gt": NOON + 20, "lte": NOON + 50}, "654"),
        (NOON + 20, "3"),
        ({"lt": NOON}, ""),
        ({"gte": NOON + 61}, ""),
        ({"gt": NOON + 40, "lt": NOON + 10}, ""),
    ],
)
def test_a_range_of_time(client: StripeClient, seven: list[str], created: Any, found: str) -> None:
    assert names(client.v1.customers.list({"created": created})) == list(found)


def test_a_filter_and_a_cursor_together(client: StripeClient, seven: list[str]) -> None:
    page = client.v1.customers.list({"email": "1@example.com", "limit": 2, "starting_after": seven[5]})
    assert (names(page), page.has_more) == (["5", "3"], True)


@pytest.mark.parametrize(
    ("asked", "status", "code", "param"),
    [
        ({"limit": "many"}, 400, "parameter_invalid_integer", "limit"),
        ({"starting_after": "cus_unknown"}, 400, "resource_missing", "starting_after"),
        ({"ending_before": "cus_unknown"}, 400, "resource_missing", "ending_before"),
        ({"starting_after": "cus_a", "ending_before": "cus_b"}, 400, None, None),
    ],
)
def test_a_wrong_page_is_refused(
    client: StripeClient, asked: Any, status: int, code: str | None, param: str | None
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.customers.list(asked)
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (status, code, param)


def test_ids_become_objects_where_expand_asks(client: StripeClient) -> None:
    customer = client.v1.customers.create({"name": "Elm"})
    intent = paid(client, 900, customer=customer.id)
    client.v1.refunds.create({"payment_intent": intent.id, "amount": 100})
    bare = client.v1.charges.retrieve(str(intent.latest_charge))
    assert isinstance(bare.customer, str)
    assert "refunds" not in bare
    full = client.v1.charges.retrieve(
        str(intent.latest_charge),
        {"expand": ["refunds", "customer", "payment_intent.payment_method", "balance_transaction"]},
    )
    assert full["customer"]["name"] == "Elm"
    assert full["payment_intent"]["payment_method"]["card"]["last4"] == "4242"
    assert full["refunds"]["data"][0]["amount"] == 100
    # 900 less 2.9 % = 26.1, half up 26, and 30.
    assert full["balance_transaction"]["net"] == 844
    listed = client.v1.refunds.list({"expand": ["data.charge.payment_intent.customer"]})
    assert listed.data[0]["charge"]["payment_intent"]["customer"]["name"] == "Elm"


@pytest.mark.parametrize("path", ["nonsense", "amount", "customer.nonsense", "a.b.c.d.e"])
def test_what_cannot_be_expanded_is_refused(client: StripeClient, path: str) -> None:
    intent = paid(client, 900, customer=client.v1.customers.create({}).id)
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.payment_intents.retrieve(intent.id, {"expand": [path]})
    assert refused.value.param == "expand"
