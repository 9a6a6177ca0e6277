"""Facts as rows of the mirror: what stands in Stripe and what stands in a column have the same name."""

import functools
from collections.abc import Mapping
from typing import Any

from billing.facts import BalanceEntryFact, CreditNoteFact, CustomerFact, InvoiceFact, LineFact, RefundFact
from billing.models import BalanceEntry, CreditNote, Customer, InvoiceLine, Refund
from tenants.db import Base

Row = dict[str, Any]


def row_of(model: type[Base], fact: Any, **more: Any) -> Row:
    """The columns of `model` that `fact` has, by name, and `more`."""
    kind: type = type(fact)
    return {name: getattr(fact, name) for name in _shared(model, kind)} | more


def customer_row(fact: CustomerFact, **more: Any) -> Row:
    """`created_at` of a deleted customer is not known: then `more` must say something."""
    row = row_of(Customer, fact)
    if row["created_at"] is None:
        del row["created_at"]
    return more | row


def line_rows(invoice: InvoiceFact, metered: Mapping[str, bool], **more: Any) -> list[Row]:
    """The lines of an invoice in its order. `metered` says of every known plan whether it is; others count as none."""
    return [
        row_of(InvoiceLine, line)
        | {
            "invoice_id": invoice.id,
            "position": position,
            "plan_id": line.plan_id if line.plan_id in metered else None,
            "metered": line.plan_id is not None and metered.get(line.plan_id, False),
            "taxes": _taxes(line),
        }
        | more
        for position, line in enumerate(invoice.lines)
    ]


def refund_row(fact: RefundFact, engine: str | None, **more: Any) -> Row:
    return row_of(Refund, fact, step_id=step_of(fact.metadata, engine)) | more


def credit_note_row(fact: CreditNoteFact, engine: str | None, **more: Any) -> Row:
    refund_ids = sorted(refund for refund, _ in fact.refunds if refund)
    return row_of(CreditNote, fact, step_id=step_of(fact.metadata, engine), refund_ids=refund_ids) | more


def balance_entry_row(fact: BalanceEntryFact, engine: str | None, **more: Any) -> Row:
    return row_of(BalanceEntry, fact, step_id=step_of(fact.metadata, engine)) | more


def step_of(metadata: Mapping[str, str], engine: str | None) -> int | None:
    """The step that made an object, if this installation (`engine`) did: another one counts its steps from 1 too."""
    named = metadata.get("step", "")
    if metadata.get("engine") != engine or not (named.isascii() and named.isdigit() and len(named) <= 18):
        return None
    return int(named)


def _taxes(line: LineFact) -> list[dict[str, Any]]:
    return [
        {
            "tax_rate": tax.tax_rate,
            "amount": tax.amount,
            "inclusive": tax.inclusive,
            "taxable_amount": tax.taxable_amount,
        }
        for tax in line.taxes
    ]


@functools.cache
def _shared(model: type[Base], fact: type) -> tuple[str, ...]:
    return tuple(column.name for column in model.__table__.columns if hasattr(fact, column.name))
