"""Payments for tests."""

from typing import Any

import stripe


def paid(client: stripe.StripeClient, amount: int, card: str = "pm_card_visa", **fields: Any) -> stripe.PaymentIntent:
    """A payment that has been confirmed with a test card. `amount` in the smallest unit."""
    return client.v1.payment_intents.create(
        {"amount": amount, "currency": "usd", "payment_method": card, "confirm": True, **fields}
    )


def plain(obj: Any) -> dict[str, Any]:
    """A StripeObject as the JSON that came over the wire."""
    document: dict[str, Any] = obj.to_dict(recursive=True, for_json=True)
    return document
