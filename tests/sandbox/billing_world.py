"""A small catalog and a clock for tests of the sandbox's billing: prices, customers, moments of August 2019."""

from datetime import UTC, datetime
from typing import Any

import stripe

from tests.sandbox.conftest import Sandbox

HOUR = 3_600
DAY = 86_400


def at(month: int, day: int, hour: int = 0, minute: int = 0, year: int = 2019) -> int:
    """A moment of 2019 in UTC."""
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp())


class Shop:
    """A sandbox whose clock begins at 1 August 2019, with one product and as many prices as a test asks for."""

    def __init__(self, sandbox: Sandbox, start: int = at(8, 1)) -> None:
        self.sandbox = sandbox
        self.api = sandbox.client.v1
        self.clock(start)
        self.product = self.api.products.create({"name": "Pages"}).id

    def clock(self, now: int) -> None:
        self.sandbox.control("POST", "clock", now=now)

    def price(self, amount: int, interval: str = "month", currency: str = "usd", count: int = 1) -> str:
        recurring: Any = {"interval": interval, "interval_count": count}
        return self.api.prices.create(
            {"product": self.product, "currency": currency, "unit_amount": amount, "recurring": recurring}
        ).id

    def customer(self, card: str | None = "pm_card_visa") -> str:
        row = self.api.customers.create({"name": "Elm Street Bakery", "email": "bakery@example.com"})
        if card is not None:
            self.new_card(row.id, card)
        return row.id

    def new_card(self, customer: str, card: str) -> str:
        attached = self.api.payment_methods.attach(card, {"customer": customer})
        self.api.customers.update(customer, {"invoice_settings": {"default_payment_method": attached.id}})
        return attached.id

    def subscribe(self, customer: str, *prices: str, **more: Any) -> stripe.Subscription:
        items: Any = [{"price": price} for price in prices]
        return self.api.subscriptions.create({"customer": customer, "items": items, **more})

    def subscription(self, id: str) -> stripe.Subscription:
        return self.api.subscriptions.retrieve(id)

    def invoices(self, customer: str) -> list[stripe.Invoice]:
        """Newest first, with their payments."""
        return self.api.invoices.list({"customer": customer, "expand": ["data.payments"]}).data

    def newest(self, customer: str) -> stripe.Invoice:
        return self.invoices(customer)[0]

    def events(self, *types: str) -> list[str]:
        """Types in the order in which they were written; only these, if any are named."""
        found = [event.type for event in self.api.events.list({"limit": 100}).data]
        return [type for type in reversed(found) if not types or type in types]


def lines(invoice: stripe.Invoice) -> list[tuple[int, int, int]]:
    """Amount, start and end of each line."""
    return [(line.amount, line.period.start, line.period.end) for line in invoice.lines.data]
