"""Subscriptions drawn from a seed, as rows of the mirror and as the formula's own values side by side.

Around a leap day: months, weeks and years, changes of plan with seconds to spare, discounts, taxes, five currencies
(one without decimals, three that are sent in larger units), refunds and notes by others, lost disputes, invoices paid
by card, from the balance, outside Stripe, or not at all.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.models import (
    CreditNote,
    Customer,
    Invoice,
    InvoiceLine,
    Payment,
    Plan,
    PlanWeight,
    Platform,
    Subscription,
)
from billing.windows import unix

FIRST, LAST = datetime(2020, 2, 1, tzinfo=UTC), datetime(2020, 4, 1, tzinfo=UTC)
NOW = datetime(2020, 3, 20, 14, 7, 11, tzinfo=UTC)
PLATFORMS = ("facebook", "instagram", "x")
CURRENCIES = ("usd", "usd", "eur", "jpy", "isk", "kwd")
LENGTHS = (timedelta(days=7), timedelta(days=29), timedelta(days=31), timedelta(days=366))


@dataclass
class Bill:
    """One invoice as it was drawn: what the reference computes with."""

    id: str
    agency: int
    subscription: str
    currency: str
    status: str
    created_at: datetime
    lines: list[dict[str, Any]] = field(default_factory=list)
    by_card: int = 0
    by_balance: int = 0
    outside: int = 0
    due: int = 0
    credited: int = 0
    refunded_by_others: int = 0
    disputed: int = 0
    total: int = 0
    came_in: list[tuple[datetime, int]] = field(default_factory=list)
    """When how much of it was paid, less what went back to the payer since."""


@dataclass
class Drawn:
    bills: list[Bill] = field(default_factory=list)
    weights: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: dict[Any, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, model: Any, **row: Any) -> None:
        self.rows.setdefault(model, []).append(row)

    def insert(self, session: Session) -> None:
        for model in (Plan, PlanWeight, Customer, Subscription, Invoice, InvoiceLine, Payment, CreditNote):
            if rows := self.rows.get(model):
                session.execute(sa.insert(model), rows)


def windows(dice: Random) -> tuple[datetime, datetime | None]:
    """An outage that began before NOW, and ended, or goes on, or ends some time ahead."""
    start = FIRST + timedelta(seconds=dice.randrange(int((NOW - FIRST).total_seconds()) - 10))
    length = timedelta(seconds=dice.choice((3_600, 86_400, 400_000)) + dice.randrange(5_000))
    return start, None if dice.random() < 0.3 else start + length


def draw(session: Session, dice: Random, agencies: list[int], subscriptions: int, name: str) -> Drawn:
    drawn = Drawn()
    plans = _plans(session, dice, drawn, name)
    for number in range(subscriptions):
        _subscription(dice, drawn, plans, dice.choice(agencies), f"{name}_{number}")
    return drawn


def _plans(session: Session, dice: Random, drawn: Drawn, name: str) -> list[str]:
    platforms = dict(session.execute(sa.select(Platform.slug, Platform.id)).all())
    plans = []
    for number in range(8):
        plan = f"price_{name}_{number}"
        plans.append(plan)
        drawn.add(
            Plan, id=plan, product_id="prod", name=plan, currency="usd", unit_amount=100, interval="month",
            interval_count=1, metered=False, active=True, created_at=FIRST,
        )  # fmt: skip
        left = 10_000
        for slug in dice.sample(PLATFORMS, dice.randrange(4)):
            weight = dice.randint(1, left)
            drawn.weights.setdefault(plan, {})[slug] = weight
            drawn.add(PlanWeight, plan_id=plan, platform_id=platforms[slug], weight_bp=weight)
            left -= weight
            if not left:
                break
    return plans


def _subscription(dice: Random, drawn: Drawn, plans: list[str], agency: int, name: str) -> None:
    currency, length = dice.choice(CURRENCIES), dice.choice(LENGTHS)
    drawn.add(Customer, agency_id=agency, id=f"cus_{name}", currency=currency, created_at=FIRST)
    drawn.add(
        Subscription, agency_id=agency, id=f"sub_{name}", customer_id=f"cus_{name}", status="active",
        currency=currency, collection_method="charge_automatically", cancel_at_period_end=False, created_at=FIRST,
    )  # fmt: skip
    start = FIRST - length / 2 + timedelta(seconds=dice.randrange(int(length.total_seconds())))
    start = start.replace(microsecond=0)
    plan, price = dice.choice(plans), dice.choice((0, 100, 999, 3_100, 36_500, 123_457))
    for number in range(dice.randint(1, 3)):
        bill = Bill(f"in_{name}_{number}", agency, f"sub_{name}", currency, "paid", start)
        _line(dice, bill, plan, price, start, start + length)
        if dice.random() < 0.3:  # a second item
            _line(dice, bill, dice.choice(plans), dice.choice((500, 1_234)), start, start + length)
        _finish(dice, drawn, bill)
        if dice.random() < 0.4:
            plan, price = _change(dice, drawn, bill, plans, plan, price, (start, start + length))
        start += length


def _change(
    dice: Random, drawn: Drawn, of: Bill, plans: list[str], plan: str, price: int, period: tuple[datetime, datetime]
) -> tuple[str, int]:
    """Up or down in the middle: unused time comes back, the new plan's time is charged, on an invoice of its own."""
    start, end = period
    seconds = int((end - start).total_seconds())
    since = start + timedelta(seconds=dice.randrange(1, seconds))
    left = int((end - since).total_seconds())
    to, new_price = dice.choice(plans), dice.choice((0, 700, 3_100, 9_999))
    bill = Bill(f"{of.id}_c", of.agency, of.subscription, of.currency, "paid", since)
    _line(dice, bill, plan, -(price * left // seconds), since, end, tax=False)
    _line(dice, bill, to, new_price * left // seconds, since, end, tax=False)
    _finish(dice, drawn, bill)
    return to, new_price


def _line(dice: Random, bill: Bill, plan: str, net: int, start: datetime, end: datetime, *, tax: bool = True) -> None:
    off = net * dice.choice((0, 0, 0, 20, 100)) // 100
    net -= off
    bill.lines.append(
        {
            "agency_id": bill.agency, "id": f"il_{bill.id}_{len(bill.lines)}", "invoice_id": bill.id,
            "position": len(bill.lines), "subscription_id": bill.subscription, "plan_id": plan, "quantity": 1,
            "amount": net + off, "discount": off, "net": net, "tax": net * dice.choice((0, 0, 19)) // 100 if tax else 0,
            "period_start": start, "period_end": end, "proration": net < 0, "metered": dice.random() < 0.05,
        }
    )  # fmt: skip


def _finish(dice: Random, drawn: Drawn, bill: Bill) -> None:
    """How it was paid, and what others gave back of it since."""
    bill.total = sum(line["net"] + line["tax"] for line in bill.lines)
    asked = max(0, bill.total)
    way = dice.choices(("card", "cards", "balance", "outside", "open", "void"), (60, 8, 10, 6, 10, 6))[0]
    bill.by_balance = dice.randint(0, asked) if way == "balance" else 0
    bill.outside = dice.randint(0, asked - bill.by_balance) if way == "outside" else 0
    bill.status = {"open": "open", "void": "void"}.get(way, "paid")
    bill.due = asked if bill.status == "open" else 0
    bill.by_card = asked - bill.by_balance - bill.outside if bill.status == "paid" else 0
    cards = [bill.by_card]
    if way == "cards" and bill.by_card > 1:
        cards = [bill.by_card - bill.by_card // 3, bill.by_card // 3]
    drawn.add(
        Invoice, agency_id=bill.agency, id=bill.id, customer_id=f"cus_{bill.subscription[4:]}", number=bill.id,
        subscription_id=bill.subscription, status=bill.status, currency=bill.currency,
        billing_reason="subscription_cycle",
        collection_method="charge_automatically", auto_advance=False, automatic_tax=False, subtotal=bill.total,
        total=bill.total, amount_due=asked - bill.by_balance, amount_paid=bill.by_card + bill.outside,
        amount_remaining=bill.due, paid_off_stripe=bill.outside, starting_balance=-bill.by_balance, ending_balance=0,
        pre_payment_credited=0, post_payment_credited=0, created_at=bill.created_at,
        paid_at=bill.created_at if bill.status == "paid" else None,
    )  # fmt: skip
    if bill.status == "paid":
        bill.came_in.append((bill.created_at, bill.by_balance + bill.outside))
    for line in bill.lines:
        drawn.add(InvoiceLine, **line)
    for number, captured in enumerate(card for card in cards if card):
        elsewhere = dice.randint(0, captured) if dice.random() < 0.15 else 0
        disputed = captured - elsewhere if dice.random() < 0.04 else 0
        bill.came_in.append((bill.created_at + timedelta(minutes=number), captured - elsewhere - disputed))
        bill.refunded_by_others += elsewhere
        bill.disputed += disputed
        drawn.add(
            Payment, agency_id=bill.agency, id=f"pay_{bill.id}_{number}", invoice_id=bill.id,
            payment_intent=f"pi_{bill.id}_{number}", charge=None, currency=bill.currency, status="paid",
            paid_at=bill.created_at + timedelta(minutes=number), captured=captured, elsewhere=elsewhere,
            disputed=disputed,
        )  # fmt: skip
    if bill.by_balance and dice.random() < 0.3:
        bill.credited = dice.randint(1, bill.by_balance)
        _note(drawn, bill, total=bill.credited, refunded=0)
    elif bill.refunded_by_others and dice.random() < 0.5:
        _note(drawn, bill, total=bill.refunded_by_others, refunded=bill.refunded_by_others)
    drawn.bills.append(bill)


def _note(drawn: Drawn, bill: Bill, total: int, refunded: int) -> None:
    drawn.add(
        CreditNote, agency_id=bill.agency, id=f"cn_{bill.id}", invoice_id=bill.id,
        customer_id=f"cus_{bill.subscription[4:]}", number=f"cn_{bill.id}", status="issued", currency=bill.currency,
        total=total, pre_payment_amount=0, post_payment_amount=total, refunded=refunded, credited=total - refunded,
        out_of_band=0, created_at=bill.created_at,
    )  # fmt: skip


def period(line: dict[str, Any]) -> tuple[int, int]:
    return unix(line["period_start"]), unix(line["period_end"])
