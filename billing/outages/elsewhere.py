"""What others have given back of an invoice: refunds by hand, lost disputes, credit notes that are not ours."""

from typing import Any

import sqlalchemy as sa

from billing.models import CreditNote, Invoice, Payment
from billing.outages.models import Grant


def by_others() -> sa.ColumnElement[int]:
    """Of a Grant: what others have given back of its invoice by now, in the currency's smallest unit."""
    return _given_back(Grant, Grant.agency_id, Grant.invoice_id)


def of_invoice() -> sa.ColumnElement[int]:
    """Of an Invoice: the same."""
    return _given_back(Invoice, Invoice.agency_id, Invoice.id)


def _given_back(of: type[Any], agency_id: Any, invoice_id: Any) -> sa.ColumnElement[int]:
    """Of a credit note only what it did not refund: refunds are counted by themselves."""
    lost = sa.case((Payment.dispute_open, 0), else_=Payment.disputed)
    refunded = sa.select(sa.func.coalesce(sa.func.sum(Payment.elsewhere + lost), 0)).where(
        Payment.agency_id == agency_id, Payment.invoice_id == invoice_id
    )
    credited = sa.select(sa.func.coalesce(sa.func.sum(CreditNote.total - CreditNote.refunded), 0)).where(
        CreditNote.agency_id == agency_id, CreditNote.invoice_id == invoice_id,
        CreditNote.step_id.is_(None), CreditNote.status != "void",
    )  # fmt: skip
    both = refunded.correlate(of).scalar_subquery() + credited.correlate(of).scalar_subquery()
    return sa.cast(both, sa.BigInteger)
