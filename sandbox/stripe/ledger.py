"""What really happened to the money: the truth that checks compare with."""

from typing import Any

from sandbox.stripe.world import Row, World


def of(worlds: list[World]) -> dict[str, Any]:
    """Every charge, credit note and balance entry of these accounts, and proof that the books add up."""
    return {
        "charges": [_charge(world, row) for world in worlds for row in world.each("charge")],
        "credit_notes": [_note(world, row) for world in worlds for row in world.each("credit_note")],
        "balance_transactions": [
            _entry(world, row) for world in worlds for row in world.each("customer_balance_transaction")
        ],
        "subscriptions": [
            {
                "id": row["id"],
                "account": world.account,
                "status": row["status"],
                "pause_collection": row["pause_collection"],
            }
            for world in worlds
            for row in world.each("subscription")
        ],
        "sums": [entry for world in worlds for entry in _sums(world)],
    }


def _charge(world: World, row: Row) -> Row:
    payments = world.rows("invoice_payment", payment_intent=row["payment_intent"])
    notes = {
        part["refund"]: note["id"]
        for payment in payments
        for note in world.each("credit_note", invoice=payment["invoice"])
        for part in note["refunds"]
    }
    refunds = [
        {"id": refund["id"], "amount": refund["amount"], "status": refund["status"], "metadata": refund["metadata"],
         "idempotency_key": refund["_key"], "credit_note": notes.get(refund["id"])}
        for refund in world.each("refund", charge=row["id"])
    ]  # fmt: skip
    return {
        "charge": row["id"], "payment_intent": row["payment_intent"], "account": world.account,
        "customer": row["customer"],
        "invoice": payments[0]["invoice"] if payments else None, "currency": row["currency"], "status": row["status"],
        "captured": row["amount_captured"], "refunded": row["amount_refunded"], "disputed": row["_disputed_amount"],
        "refunds": refunds,
    }  # fmt: skip


def _note(world: World, row: Row) -> Row:
    return {
        "id": row["id"], "account": world.account, "invoice": row["invoice"], "customer": row["customer"],
        "currency": row["currency"], "status": row["status"], "total": row["total"],
        "pre_payment_amount": row["pre_payment_amount"], "post_payment_amount": row["post_payment_amount"],
        "out_of_band_amount": row["out_of_band_amount"], "refunds": row["refunds"], "metadata": row["metadata"],
        "customer_balance_transaction": row["customer_balance_transaction"], "idempotency_key": row.get("_key"),
    }  # fmt: skip


def _entry(world: World, row: Row) -> Row:
    return {
        "id": row["id"], "account": world.account, "customer": row["customer"], "amount": row["amount"],
        "currency": row["currency"], "type": row["type"], "credit_note": row["credit_note"], "invoice": row["invoice"],
        "metadata": row["metadata"], "idempotency_key": row["_key"],
    }  # fmt: skip


def _sums(world: World) -> list[Row]:
    """Per currency, in smallest units: what the objects say must be what was booked; `difference` is zero, or the
    sandbox has a bug. Customer balances alike."""
    books: dict[str, Row] = {}

    def book(currency: str, name: str, amount: int) -> None:
        empty = dict.fromkeys(
            (
                "captured",
                "refunded",
                "disputed",
                "topped_up",
                "paid_out",
                "fees",
                "booked",
                "customer_credit",
                "credit_booked",
            ),
            0,
        )
        sums = books.setdefault(currency, empty)
        sums[name] += amount

    for charge in world.each("charge"):
        book(charge["currency"], "captured", charge["amount_captured"])
        book(charge["currency"], "refunded", charge["amount_refunded"] if charge["captured"] else 0)
        book(charge["currency"], "disputed", charge["_disputed_amount"])
    for row in world.each("topup"):
        book(row["currency"], "topped_up", row["amount"])
    for row in world.each("payout"):
        book(row["currency"], "paid_out", row["amount"])
    for entry in world.each("balance_transaction"):
        book(entry["currency"], "booked", entry["net"])
        book(entry["currency"], "fees", entry["fee"])
    for customer in world.each("customer"):
        for currency, amount in customer["_credit"].items():
            book(currency, "customer_credit", -amount)
    for entry in world.each("customer_balance_transaction"):
        if world.get("customer", entry["customer"]) is not None:
            book(entry["currency"], "credit_booked", -entry["amount"])
    for sums in books.values():
        owned = sums["captured"] + sums["topped_up"]
        owned -= sums["refunded"] + sums["disputed"] + sums["fees"] + sums["paid_out"]
        sums["difference"] = abs(owned - sums["booked"]) + abs(sums["customer_credit"] - sums["credit_booked"])
    return [{"account": world.account, "currency": currency, **sums} for currency, sums in sorted(books.items())]
