"""Money between the account's balance and its own bank. Made by a scene only: the API does not model them."""

from sandbox.stripe.resources import balance
from sandbox.stripe.world import Row, World


def top_up(world: World, amount: int, currency: str) -> Row:
    """Money from the bank, available at once."""
    row = world.add({
        "id": world.new_id("tu"), "object": "topup", "amount": amount, "balance_transaction": None,
        "created": world.now, "currency": currency, "description": None, "expected_availability_date": world.now,
        "failure_code": None, "failure_message": None, "livemode": world.livemode, "metadata": {}, "source": None,
        "statement_descriptor": None, "status": "succeeded", "transfer_group": None,
    })  # fmt: skip
    entry = balance.book(world, type="topup", amount=amount, currency=currency, source=row["id"])
    world.change(row, balance_transaction=entry["id"])
    world.emit("topup.succeeded", row)
    return row


def pay_out(world: World, amount: int, currency: str) -> Row:
    """Money to the bank, gone at once."""
    row = world.add({
        "id": world.new_id("po"), "object": "payout", "amount": amount, "application_fee": None,
        "application_fee_amount": None, "arrival_date": world.now, "automatic": False, "balance_transaction": None,
        "created": world.now, "currency": currency, "description": None, "destination": None,
        "failure_balance_transaction": None, "failure_code": None, "failure_message": None,
        "livemode": world.livemode, "metadata": {}, "method": "standard", "original_payout": None,
        "payout_method": None, "reconciliation_status": "not_applicable", "reversed_by": None, "source_type": "card",
        "statement_descriptor": None, "status": "paid", "trace_id": None, "type": "bank_account",
    })  # fmt: skip
    entry = balance.book(world, type="payout", amount=-amount, currency=currency, source=row["id"])
    world.change(row, balance_transaction=entry["id"])
    world.emit("payout.paid", row)
    return row
