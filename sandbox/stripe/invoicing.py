"""Drafts: an invoice, its lines and its totals. What happens to it after that is `collection`'s."""

from collections.abc import Iterable
from typing import Any, Final

from sandbox.stripe import automatic_tax, blanks, discounts
from sandbox.stripe.present import embedded, present, presents
from sandbox.stripe.resources.tax_rates import rates
from sandbox.stripe.tax import Line, Rate, Worked, excluding_inclusive, worked_out
from sandbox.stripe.world import Row, World, index

HOUR: Final = 3_600
DAY: Final = 86_400
SHOWN: Final = 10
"""Lines that stand in the invoice itself; the rest is listed."""

index("invoice", "customer", "status", subscription=lambda row: row["_subscription"])
index("line_item", "invoice")
index("invoiceitem", "customer", "invoice")


def balance_of(world: World, customer: str, currency: str) -> int:
    """The customer's balance in one currency, as Stripe writes it: negative is credit."""
    row = world.find("customer", customer, "customer")
    return int(row["_credit"].get(currency, 0))


def draft(
    world: World,
    customer: str,
    currency: str,
    *,
    subscription: Row | None = None,
    period: tuple[int, int] | None = None,
    **fields: Any,
) -> Row:
    """A new draft without lines. The caller adds them, calls `retotal`, then emits `invoice.created`."""
    who = world.find("customer", customer, "customer")
    start, end = period or (world.now, world.now)
    balance = balance_of(world, customer, currency)
    return world.add({**blanks.invoice(world, who), **_of_subscription(world, subscription), "currency": currency,
                      "period_start": start, "period_end": end, "starting_balance": balance, **fields})  # fmt: skip


def _of_subscription(world: World, subscription: Row | None) -> Row:
    if subscription is None:
        return {"parent": None, "_subscription": None}
    details = {
        "metadata": dict(subscription["metadata"]),
        "subscription": subscription["id"],
        "subscription_proration_date": None,
    }
    sends = subscription["collection_method"] == "send_invoice"
    return {
        "automatic_tax": automatic_tax.of_invoice(subscription["automatic_tax"]["enabled"]),
        "collection_method": subscription["collection_method"],
        "discounts": discounts.in_force(world, subscription["discounts"]),
        "parent": {"quote_details": None, "subscription_details": details, "type": "subscription_details"},
        "_subscription": subscription["id"],
        "_rates": subscription["_rates"],
        "_days_until_due": subscription["days_until_due"] if sends else None,
    }


def line(
    world: World,
    invoice: Row,
    *,
    amount: int,
    period: tuple[int, int],
    parent: Row,
    rate_ids: list[str] | None = None,
    **fields: Any,
) -> Row:
    """Add a line. `rate_ids` None: the invoice's default tax rates, as they are now."""
    details = parent.get("subscription_item_details") or parent["invoice_item_details"]
    quantity = fields.get("quantity", 1)
    return world.add(
        {
            "id": world.new_id("il"),
            "object": "line_item",
            "amount": amount,
            "currency": invoice["currency"],
            "description": None,
            "discount_amounts": [],
            "discountable": True,
            "discounts": [],
            "invoice": invoice["id"],
            "livemode": world.livemode,
            "metadata": {},
            "parent": parent,
            "period": {"start": period[0], "end": period[1]},
            "pretax_credit_amounts": [],
            "pricing": None,
            "quantity": quantity,
            "quantity_decimal": None if quantity is None else str(quantity),
            "subscription": details["subscription"],
            "subtotal": amount,
            "taxes": [],
            "_rates": rate_ids,
            **fields,
        }
    )


def subscription_parent(item: Row, proration: bool, invoice_item: str | None = None, credited: Any = None) -> Row:
    """The `parent` of a line that bills a subscription's item."""
    return {
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": invoice_item,
            "proration": proration,
            "proration_details": {"credited_items": credited},
            "subscription": item["subscription"],
            "subscription_item": item["id"],
        },
        "type": "subscription_item_details",
    }


def pull_pending(world: World, invoice: Row, *, of_subscriptions: Iterable[str | None]) -> None:
    """Bill the customer's pending invoice items that belong to these subscriptions (None: to none)."""
    wanted = set(of_subscriptions)
    for item in world.rows("invoiceitem", customer=invoice["customer"], invoice=None):
        if item["_subscription"] in wanted and item["currency"] == invoice["currency"]:
            bill(world, invoice, item)


def bill(world: World, invoice: Row, item: Row) -> Row:
    """Put one invoice item on a draft."""
    made = line(
        world,
        invoice,
        amount=item["amount"],
        period=(item["period"]["start"], item["period"]["end"]),
        parent=_parent_of(item),
        rate_ids=item["_rates"],
        description=item["description"],
        discountable=item["discountable"],
        metadata=item["metadata"],
        pricing=item["pricing"],
        quantity=item["quantity"],
    )
    world.change(item, invoice=invoice["id"], _line=made["id"])
    return made


def _parent_of(item: Row) -> Row:
    credited = None
    if item["proration"]:
        credited = (item["proration_details"]["credited_items"] or {}).get("invoice_line_item_details")
    if item["_subscription_item"] is not None:
        known = {"id": item["_subscription_item"], "subscription": item["_subscription"]}
        return subscription_parent(known, item["proration"], item["id"], credited)
    details = {
        "invoice_item": item["id"],
        "proration": item["proration"],
        "proration_details": {"credited_items": credited},
        "subscription": item["_subscription"],
    }
    return {"invoice_item_details": details, "subscription_item_details": None, "type": "invoice_item_details"}


def retotal(world: World, invoice: Row) -> None:
    """Work out a draft anew from its lines: discounts, taxes, totals, what is due."""
    rows = world.rows("line_item", invoice=invoice["id"])
    automatic_tax.look(world, invoice)
    lines = [_priced(world, invoice, row) for row in rows]
    found = worked_out(lines, discounts.offs(world, invoice["discounts"]))
    for row, worked in zip(rows, found, strict=True):
        off = [{"amount": amount, "discount": id} for id, amount in worked.discounts]
        world.change(
            row,
            discount_amounts=off,
            pretax_credit_amounts=[{**one, "type": "discount"} for one in off],
            taxes=[_tax(tax.rate, tax.amount, tax.taxable) for tax in worked.taxes],
        )
    total = sum(worked.total for worked in found)
    due = max(0, total + invoice["starting_balance"])
    off = summed_discounts(found)
    world.change(
        invoice,
        amount_due=due,
        amount_remaining=due,
        subtotal=sum(worked.amount for worked in found),
        subtotal_excluding_tax=excluding_inclusive(lines),
        total=total,
        total_discount_amounts=off,
        total_excluding_tax=sum(worked.excluding_tax for worked in found),
        total_pretax_credit_amounts=[{**one, "type": "discount"} for one in off],
        total_taxes=summed_taxes(found),
    )


def _priced(world: World, invoice: Row, row: Row) -> Line:
    if invoice["automatic_tax"]["enabled"]:
        return Line(row["amount"], automatic_tax.rates_of(world, invoice, row), row["discountable"])
    ids = invoice["_rates"] if row["_rates"] is None else row["_rates"]
    return Line(row["amount"], rates(world, ids), row["discountable"])


def _tax(rate: Rate, amount: int, taxable: int) -> Row:
    return {
        "amount": amount,
        "tax_behavior": "inclusive" if rate.inclusive else "exclusive",
        "tax_rate_details": {"tax_rate": rate.id},
        "taxability_reason": rate.reason,
        "taxable_amount": taxable,
        "type": "tax_rate_details",
    }


def summed_discounts(found: Iterable[Worked]) -> list[Row]:
    """Per discount, over all lines."""
    sums: dict[str, int] = {}
    for worked in found:
        for id, amount in worked.discounts:
            sums[id] = sums.get(id, 0) + amount
    return [{"amount": amount, "discount": id} for id, amount in sums.items()]


def summed_taxes(found: Iterable[Worked]) -> list[Row]:
    """Per tax rate, over all lines."""
    sums: dict[str, Row] = {}
    for worked in found:
        for tax in worked.taxes:
            add_tax(sums, tax.rate, tax.amount, tax.taxable)
    return list(sums.values())


def add_tax(sums: dict[str, Row], rate: Rate, amount: int, taxable: int) -> None:
    before = sums.get(rate.id) or _tax(rate, 0, 0)
    sums[rate.id] = {
        **before,
        "amount": before["amount"] + amount,
        "taxable_amount": before["taxable_amount"] + taxable,
    }


@presents("invoice")
def _shown(world: World, invoice: Row) -> Row:
    rows = world.rows("line_item", invoice=invoice["id"])
    return {
        "lines": embedded(world, rows[:SHOWN], f"/v1/invoices/{invoice['id']}/lines", len(rows) > SHOWN),
        "default_tax_rates": [present(world, world.find("tax_rate", id)) for id in invoice["_rates"]],
    }
