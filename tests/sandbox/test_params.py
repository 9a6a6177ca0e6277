"""What is accepted is what `stripe.params` says."""

from decimal import Decimal
from typing import Any

import pytest

from sandbox.stripe import resources
from sandbox.stripe.params import _of, _Shape, checked
from sandbox.stripe.routes import ROUTES, Route
from sandbox.stripe.wire import NotModelled, StripeError, decode

resources.load()


def read(takes: str, form: str, *models: str) -> dict[str, Any]:
    return checked(takes, decode(form), frozenset(models), "POST /v1/x")


@pytest.mark.parametrize(
    ("takes", "form", "typed"),
    [
        ("RefundCreateParams", "amount=100&reason=duplicate", {"amount": 100, "reason": "duplicate"}),
        ("RefundCreateParams", "amount=-5", {"amount": -5}),
        ("PaymentIntentCreateParams", "amount=1&currency=usd&confirm=true", {"amount": 1, "currency": "usd",
        "confirm": True}),
        ("RefundCreateParams", "expand[]=charge&expand[]=payment_intent", {"expand": ["charge", "payment_intent"]}),
        ("RefundCreateParams", "metadata[a]=1&metadata[b]=", {"metadata": {"a": "1", "b": ""}}),
        ("RefundCreateParams", "metadata=", {"metadata": ""}),
        ("PriceCreateParams", "currency=usd&unit_amount_decimal=0.5", {"currency": "usd",
        "unit_amount_decimal": Decimal("0.5")}),
        ("CouponCreateParams", "percent_off=12.5", {"percent_off": 12.5}),
        ("InvoiceListParams", "created[gte]=5", {"created": {"gte": 5}}),
        ("InvoiceListParams", "created=5", {"created": 5}),
        ("SubscriptionModifyParams", "pause_collection=", {"pause_collection": ""}),
        ("SubscriptionModifyParams", "pause_collection[behavior]=void", {"pause_collection": {"behavior": "void"}}),
        ("SubscriptionCreateParams", "customer=c&items[0][price]=p&items[0][quantity]=2",
         {"customer": "c", "items": [{"price": "p", "quantity": 2}]}),
        ("SubscriptionCreateParams", "customer=c&trial_end=now", {"customer": "c", "trial_end": "now"}),
        ("SubscriptionCreateParams", "customer=c&trial_end=5", {"customer": "c", "trial_end": 5}),
    ],
)  # fmt: skip
def test_a_form_becomes_typed_values(takes: str, form: str, typed: dict[str, Any]) -> None:
    assert read(takes, form, *typed) == typed


@pytest.mark.parametrize(
    ("takes", "form", "code", "param", "message"),
    [
        ("RefundCreateParams", "foo=1", "parameter_unknown", "foo", "Received unknown parameter: foo"),
        ("RefundCreateParams", "foo=1&bar=2", "parameter_unknown", "foo", "Received unknown parameters: foo, bar"),
        ("SubscriptionModifyParams", "pause_collection[foo]=1", "parameter_unknown", "pause_collection[foo]",
         "Received unknown parameter: pause_collection[foo]"),
        ("SubscriptionCreateParams", "customer=c&items[0][foo]=1", "parameter_unknown", "items[0][foo]",
         "Received unknown parameter: items[0][foo]"),
        ("RefundCreateParams", "amount=abc", "parameter_invalid_integer", "amount", "Invalid integer: abc"),
        ("RefundCreateParams", "amount=1.0", "parameter_invalid_integer", "amount", "Invalid integer: 1.0"),
        ("RefundCreateParams", "reason=because", None, "reason",
         "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer"),
        ("SubscriptionModifyParams", "pause_collection[resumes_at]=1", "parameter_missing",
        "pause_collection[behavior]",
         "Missing required param: pause_collection[behavior]."),
        ("PaymentIntentCreateParams", "amount=1", "parameter_missing", "currency", "Missing required param: currency."),
        ("PaymentIntentCreateParams", "amount=1&currency=usd&confirm=maybe", None, "confirm", "Invalid boolean: maybe"),
        ("RefundCreateParams", "metadata=x", None, "metadata", "Invalid object"),
        ("SubscriptionCreateParams", "customer=c&items=x", None, "items", "Invalid array"),
        ("RefundCreateParams", "charge[a]=x", None, "charge", 'Invalid string: {"a": "x"}'),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_as_stripe_does(
    takes: str, form: str, code: str | None, param: str, message: str
) -> None:
    with pytest.raises(StripeError) as refused:
        read(
            takes,
            form,
            "customer",
            "items",
            "amount",
            "currency",
            "confirm",
            "reason",
            "metadata",
            "charge",
            "pause_collection",
        )
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)
    assert str(refused.value) == message


def test_an_empty_value_unsets_only_what_can_be_unset() -> None:
    with pytest.raises(StripeError) as refused:
        read("RefundCreateParams", "amount=", "amount")
    assert refused.value.code == "parameter_invalid_empty"


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("&".join(f"metadata[k{number}]=v" for number in range(51)), "at most 50 keys"),
        (f"metadata[{'k' * 41}]=v", "up to 40 characters"),
        (f"metadata[k]={'v' * 501}", "up to 500 characters"),
    ],
)
def test_metadata_has_stripes_limits(form: str, says: str) -> None:
    with pytest.raises(StripeError, match=says):
        read("RefundCreateParams", form, "metadata")


def test_a_parameter_that_the_route_does_not_honour_is_not_silently_dropped() -> None:
    with pytest.raises(NotModelled, match=r"items\[0\]\[tax_rates\]"):
        read(
            "SubscriptionCreateParams",
            "customer=c&items[0][price]=p&items[0][tax_rates][0]=t",
            "customer",
            "items.price",
        )


def _known(shape: _Shape, dotted: str) -> bool:
    shapes = [shape]
    for part in dotted.split("."):
        values = [one.fields[part] for one in shapes if part in one.fields]
        if not values:
            return False
        inner = [value.elements or value.entries or value for value in values]
        shapes = [below for value in [*values, *inner] for below in value.shapes]
    return True


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_names_parameters_that_stripe_has(route: Route) -> None:
    shape = _of(route.takes)
    assert [name for name in route.models if not _known(shape, name)] == []
