"""The lines of a credit note and what they add up to. A line takes its discounts and taxes along in proportion.

`amount` of a line is before discounts and exclusive tax; `tax_amounts`, where given, stand for the proportional ones.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from sandbox.stripe.invoicing import add_tax
from sandbox.stripe.proration import rounded
from sandbox.stripe.resources.tax_rates import rates, usable
from sandbox.stripe.shapes import merged_metadata, one_of
from sandbox.stripe.tax import Line, TaxShare, excluding_inclusive, worked_out
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World


@dataclass(frozen=True)
class Credited:
    """One line of a note."""

    amount: int
    of: Row | None
    """The invoice's line, or None for one of the note's own."""
    basis: str
    discounts: list[tuple[str, int]] = field(default_factory=list)
    taxes: list[TaxShare] = field(default_factory=list)
    words: Row = field(default_factory=dict)

    @property
    def discount(self) -> int:
        return sum(amount for _, amount in self.discounts)

    @property
    def total(self) -> int:
        return self.amount - self.discount + sum(tax.amount for tax in self.taxes if not tax.rate.inclusive)

    @property
    def excluding_tax(self) -> int:
        return self.amount - self.discount - sum(tax.amount for tax in self.taxes if tax.rate.inclusive)

    @property
    def before_discounts_and_tax(self) -> int:
        return excluding_inclusive([Line(self.amount, tuple(tax.rate for tax in self.taxes))])


def credited(world: World, invoice: Row, params: dict[str, Any]) -> list[Credited]:
    """The lines that the parameters ask for. Raises 400 for more than a line still has, or for what makes no sense."""
    automatic = invoice["automatic_tax"]["enabled"]
    if one_of(params, "amount", "lines") == "amount":
        if automatic:
            raise NotModelled(
                "The sandbox splits no amount over the lines of an invoice with automatic tax: name lines."
            )
        if params["amount"] < 1:
            raise StripeError(
                "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
            )
        return [Credited(params["amount"], None, "amount", words={"description": "Credit"})]
    found: list[Credited] = []
    for position, one in enumerate(params["lines"]):
        param = f"lines[{position}]"
        if automatic:
            _as_automatic_tax_wants(one, param)
        made = _of_line(world, invoice, one, param) if one["type"] == "invoice_line_item" else _own(world, one, param)
        found.append(made)
    named = [line.of["id"] for line in found if line.of is not None]
    if len(set(named)) != len(named):
        raise StripeError("An invoice line item may be credited once in a credit note.", param="lines")
    return found


def _of_line(world: World, invoice: Row, one: dict[str, Any], param: str) -> Credited:
    row = world.find("line_item", one.get("invoice_line_item", ""), f"{param}[invoice_line_item]")
    if row["invoice"] != invoice["id"]:
        raise StripeError(f"The line item {row['id']} is not on the invoice {invoice['id']}.", param=param)
    if set(one) & {"unit_amount", "unit_amount_decimal", "description", "tax_rates"}:
        raise StripeError("unit_amount, description and tax_rates go with custom_line_item.", param=param)
    basis = one_of(one, "amount", "quantity")
    amount = one["amount"] if basis == "amount" else _of_quantity(row, one["quantity"], param)
    if basis == "amount" and invoice["automatic_tax"]["enabled"]:
        amount = _with_its_tax(world, row, amount)
    _leaves_enough(world, row, amount, basis, param)
    share = Fraction(amount, row["amount"])
    discounts = [(off["discount"], rounded(off["amount"] * share)) for off in row["discount_amounts"]]
    if one.get("tax_amounts"):
        taxes = [_explicit(world, tax, f"{param}[tax_amounts]") for tax in one["tax_amounts"]]
    else:
        taxes = [_share_of(world, tax, share) for tax in row["taxes"]]
    words = {"description": row["description"], "quantity": one.get("quantity"),
             "metadata": merged_metadata({}, one.get("metadata"))}  # fmt: skip
    return Credited(amount, row, basis, discounts, taxes, words)


def _as_automatic_tax_wants(one: dict[str, Any], param: str) -> None:
    """Stripe works the tax out itself (`CreditNoteCreateParamsLine` of stripe-python says what then makes no sense)."""
    if one["type"] == "custom_line_item":
        raise StripeError("custom_line_item is not valid on an invoice with automatic tax.", param=f"{param}[type]")
    if one.get("tax_amounts"):
        raise StripeError("tax_amounts are not valid on an invoice with automatic tax.", param=f"{param}[tax_amounts]")


def _with_its_tax(world: World, row: Row, amount: int) -> int:
    """What an amount without any tax is of a line whose amount has tax in it."""
    inside = sum(tax["amount"] for tax in row["taxes"] if tax["tax_behavior"] == "inclusive")
    net = row["amount"] - sum(off["amount"] for off in row["discount_amounts"])
    if not inside or world.universe.assume.automatic_tax_amounts == "as_billed":
        return amount
    return rounded(Fraction(amount * net, net - inside))


def _of_quantity(row: Row, quantity: int, param: str) -> int:
    if not 1 <= quantity <= (row["quantity"] or 0):
        raise StripeError(f"The line item has a quantity of {row['quantity']}.", param=f"{param}[quantity]")
    return rounded(Fraction(row["amount"] * quantity, row["quantity"]))


def _leaves_enough(world: World, row: Row, amount: int, basis: str, param: str) -> None:
    before = [note for note in world.rows("credit_note_line_item", invoice_line_item=row["id"]) if not note["_void"]]
    if any(note["_basis"] != basis for note in before):
        raise StripeError(f"This line item was credited by {before[0]['_basis']}; go on that way.", param=param)
    left = row["amount"] - sum(note["amount"] for note in before)
    if amount * left <= 0 or abs(amount) > abs(left):
        raise StripeError(
            f"The amount {amount} is more than can still be credited of the line item {row['id']}: {left}.",
            param=f"{param}[{basis}]",
        )


def _explicit(world: World, tax: dict[str, Any], param: str) -> TaxShare:
    world.find("tax_rate", tax["tax_rate"], f"{param}[tax_rate]")
    return TaxShare(rates(world, [tax["tax_rate"]])[0], tax["amount"], tax["taxable_amount"])


def _share_of(world: World, tax: Row, share: Fraction) -> TaxShare:
    rate = rates(world, [tax["tax_rate_details"]["tax_rate"]])[0]
    return TaxShare(rate, rounded(tax["amount"] * share), rounded(tax["taxable_amount"] * share))


def _own(world: World, one: dict[str, Any], param: str) -> Credited:
    if not one.get("description") or "unit_amount" not in one or "quantity" not in one:
        raise StripeError("A custom_line_item needs description, quantity and unit_amount.", code="parameter_missing",
                          param=param)  # fmt: skip
    if set(one) & {"invoice_line_item", "amount", "tax_amounts"}:
        raise StripeError("invoice_line_item, amount and tax_amounts go with invoice_line_item.", param=param)
    amount = one["unit_amount"] * one["quantity"]
    line = Line(amount, rates(world, usable(world, one.get("tax_rates"), f"{param}[tax_rates]")))
    words = {"description": one["description"], "quantity": one["quantity"], "unit_amount": one["unit_amount"],
             "unit_amount_decimal": str(one["unit_amount"]),
             "metadata": merged_metadata({}, one.get("metadata"))}  # fmt: skip
    return Credited(amount, None, "amount", [], worked_out([line], [])[0].taxes, words)


def sums(lines: list[Credited]) -> Row:
    """The amounts of a note: the fields that its lines add up to."""
    off: dict[str, int] = {}
    taxes: dict[str, Row] = {}
    for line in lines:
        for id, amount in line.discounts:
            off[id] = off.get(id, 0) + amount
        for tax in line.taxes:
            add_tax(taxes, tax.rate, tax.amount, tax.taxable)
    total = sum(line.total for line in lines)
    discounts = [{"amount": amount, "discount": id} for id, amount in off.items()]
    return {
        "amount": total,
        "discount_amount": sum(line.discount for line in lines),
        "discount_amounts": discounts,
        "pretax_credit_amounts": [{**one, "type": "discount"} for one in discounts],
        "subtotal": sum(line.amount for line in lines),
        "subtotal_excluding_tax": sum(line.before_discounts_and_tax for line in lines),
        "total": total,
        "total_excluding_tax": sum(line.excluding_tax for line in lines),
        "total_taxes": list(taxes.values()),
    }


def line_row(world: World, note: str, line: Credited) -> Row:
    """A line as it is stored and shown."""
    discounts = [{"amount": amount, "discount": id} for id, amount in line.discounts]
    taxes: dict[str, Row] = {}
    for tax in line.taxes:
        add_tax(taxes, tax.rate, tax.amount, tax.taxable)
    return {
        "id": world.new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": line.amount,
        "description": None,
        "discount_amount": line.discount,
        "discount_amounts": discounts,
        **({} if line.of is None else {"invoice_line_item": line.of["id"]}),
        "livemode": world.livemode,
        "metadata": {},
        "pretax_credit_amounts": [{**one, "type": "discount"} for one in discounts],
        "quantity": None,
        "taxes": list(taxes.values()),
        "type": "custom_line_item" if line.of is None else "invoice_line_item",
        "unit_amount": None,
        "unit_amount_decimal": None,
        "_basis": line.basis,
        "_note": note,
        "_rates": list(taxes),
        "_void": False,
        **line.words,
    }
