"""The life of a subscription on the clock: first invoice, renewals, the end of a trial, pauses, the end.

While `pause_collection` is set, new invoices stay drafts, are voided, or take the customer's balance and are given up.
Drafts and open invoices that were there before go on as if there were no pause.
"""

from typing import Final

from sandbox.stripe import discounts
from sandbox.stripe.clock import due_job
from sandbox.stripe.collection import advance, default_method, end_under_pause, finalize_in_an_hour
from sandbox.stripe.invoice_states import void
from sandbox.stripe.invoicing import DAY, HOUR, draft, pull_pending, retotal
from sandbox.stripe.present import present
from sandbox.stripe.subscribed import aligned, enter, items_of, lines_for, note_billed
from sandbox.stripe.world import Row, World

ENDED: Final = frozenset({"canceled", "incomplete_expired"})
FIRST_PAYMENT: Final = 23 * HOUR
"""Seconds after which a subscription whose first payment failed expires."""


def differing(world: World, subscription: Row, before: Row) -> Row:
    """What an event says of an earlier look at a subscription: the values that are others now."""
    after = present(world, subscription)
    return {name: value for name, value in before.items() if after[name] != value}


def invoice_for(world: World, subscription: Row, items: list[Row], reason: str, start: int) -> Row:
    """A draft that bills the present period of these items and everything that is pending."""
    invoice = draft(
        world,
        subscription["customer"],
        subscription["currency"],
        subscription=subscription,
        period=(start, world.now),
        billing_reason=reason,
    )
    pull_pending(world, invoice, of_subscriptions={subscription["id"], None})
    lines_for(world, invoice, subscription, items)
    retotal(world, invoice)
    note_billed(world, invoice)
    left = discounts.in_force(world, subscription["discounts"])
    left = discounts.after_use(world, left) if items else left
    world.change(subscription, latest_invoice=invoice["id"], discounts=left)
    return invoice


def schedule(world: World, subscription: Row) -> None:
    """Renew when the first of the items' periods ends."""
    ends = [item["current_period_end"] for item in items_of(world, subscription)]
    world.at(min(ends), "renew_subscription", subscription=subscription["id"])


@due_job("renew_subscription")
def renew(world: World, subscription: str) -> None:
    """Bill the items whose period has ended. Safe to run any number of times."""
    row = world.find("subscription", subscription)
    due = [item for item in items_of(world, row) if item["current_period_end"] <= world.now]
    if row["status"] in ENDED or row["status"] in ("incomplete", "paused") or not due:
        return
    if row["cancel_at_period_end"]:
        end(world, row, "cancellation_requested")
        return
    if ends_without_card(world, row):
        return
    before = present(world, row)
    started = min(item["current_period_start"] for item in due)
    if row["status"] == "trialing":
        world.change(row, status="active")
    for item in due:
        enter(world, item, aligned(world, row, item, world.now))
    invoice = invoice_for(world, row, due, "subscription_cycle", started)
    world.emit("customer.subscription.updated", row, differing(world, row, before))
    leave_to_stripe(world, row, invoice)
    schedule(world, row)


def ends_without_card(world: World, subscription: Row) -> bool:
    """A trial that ends without a card to charge is paused or canceled, if its `trial_settings` say so."""
    wanted = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    card = subscription["default_payment_method"] or default_method(world, subscription["customer"])
    by_card = subscription["collection_method"] == "charge_automatically"
    if subscription["status"] != "trialing" or wanted == "create_invoice" or card or not by_card:
        return False
    if wanted == "cancel":
        end(world, subscription, None)
        return True
    why = {"subscription": {"type": "trial_end_without_payment_method"}, "transitioned_at": world.now,
           "type": "subscription"}  # fmt: skip
    world.change(subscription, status="paused", status_details={"paused": why}, trial_end=world.now)
    world.emit("customer.subscription.paused", subscription)
    return True


def leave_to_stripe(world: World, subscription: Row, invoice: Row, *, at_once: bool = False) -> None:
    """What happens next to a new invoice of a subscription, by its pause and its standing."""
    pause = subscription["pause_collection"]
    if pause is not None and pause["behavior"] != "keep_as_draft":
        world.emit("invoice.created", invoice)
        end_under_pause(world, invoice, pause["behavior"])
    elif pause is not None or subscription["status"] == "unpaid":
        world.change(invoice, auto_advance=False)
        world.emit("invoice.created", invoice)
    elif at_once and subscription["collection_method"] == "charge_automatically":
        world.emit("invoice.created", invoice)
        advance(world, invoice)
    else:
        finalize_in_an_hour(world, invoice)
        world.emit("invoice.created", invoice)


def end(world: World, subscription: Row, reason: str | None, status: str = "canceled") -> None:
    """Stop a subscription now. Its drafts and open invoices stay as they are, and nothing collects them any more."""
    for invoice in world.rows("invoice", subscription=subscription["id"]):
        if invoice["status"] in ("draft", "open"):
            previous = world.change(
                invoice, auto_advance=False, automatically_finalizes_at=None, next_payment_attempt=None
            )
            if previous:
                world.emit("invoice.updated", invoice, previous)
    world.change(
        subscription,
        canceled_at=subscription["canceled_at"] or world.now,
        cancellation_details={**subscription["cancellation_details"], "reason": reason},
        ended_at=world.now,
        status=status,
    )
    if status == "canceled":
        world.emit("customer.subscription.deleted", subscription)
    else:
        world.emit("customer.subscription.updated", subscription, {"status": "incomplete"})


@due_job("expire_subscription")
def _expire(world: World, subscription: str) -> None:
    row = world.find("subscription", subscription)
    if row["status"] != "incomplete":
        return
    invoice = world.find("invoice", row["latest_invoice"])
    if invoice["status"] == "open":
        void(world, invoice)
    end(world, row, None, "incomplete_expired")


@due_job("lift_pause")
def _lift(world: World, subscription: str) -> None:
    row = world.find("subscription", subscription)
    pause = row["pause_collection"]
    if row["status"] in ENDED or pause is None or pause["resumes_at"] is None or pause["resumes_at"] > world.now:
        return
    previous = world.change(row, pause_collection=None)
    if world.universe.assume.resuming_is_told:
        world.emit("customer.subscription.updated", row, previous)
    drafts = world.rows("invoice", subscription=subscription, status="draft")
    for invoice in drafts if world.universe.assume.resuming_releases_drafts else []:
        finalize_in_an_hour(world, invoice)


@due_job("trial_will_end")
def _trial_will_end(world: World, subscription: str) -> None:
    row = world.find("subscription", subscription)
    if row["status"] == "trialing" and row["trial_end"] <= world.now + 3 * DAY:
        world.emit("customer.subscription.trial_will_end", row)
