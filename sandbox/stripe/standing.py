"""How a subscription stands after something happened to one of its invoices."""

from sandbox.stripe.world import Row, World


def failed(world: World, invoice: Row) -> None:
    """An invoice was not paid when it should have been."""
    subscription = _of(world, invoice)
    if subscription is not None and subscription["status"] in ("active", "trialing"):
        become(world, subscription, "past_due")


def settled(world: World, invoice: Row) -> None:
    """An invoice is paid, voided or given up: with the newest one settled, the subscription is active again."""
    subscription = _of(world, invoice)
    if subscription is None or subscription["latest_invoice"] != invoice["id"]:
        return
    waits = ("past_due", "unpaid", "incomplete") if invoice["status"] == "paid" else ("past_due", "unpaid")
    if subscription["status"] in waits:
        become(world, subscription, "active")


def become(world: World, subscription: Row, status: str) -> None:
    """Change the status and say so."""
    world.emit("customer.subscription.updated", subscription, world.change(subscription, status=status))


def _of(world: World, invoice: Row) -> Row | None:
    return None if invoice["_subscription"] is None else world.get("subscription", invoice["_subscription"])
