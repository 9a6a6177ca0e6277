"""The account's own balance: every movement of money is one balance transaction."""

from typing import Any, Final

from sandbox.stripe import funds, lists
from sandbox.stripe.present import presents
from sandbox.stripe.routes import route
from sandbox.stripe.world import Row, World, index

index("balance_transaction", "source", "type", "currency")

SETTLES: Final = 2 * 24 * 3600
"""Seconds until a charge's money is available."""
PER_MILLE: Final = 29
FIXED: Final = 30
"""Stripe's fee as the sandbox takes it, in every currency alike: 2.9 % (half up) and 30 of the smallest unit."""
DISPUTE_FEE: Final = 1500

_CATEGORY: Final = {
    "charge": "charge", "refund": "refund", "refund_failure": "refund_failure", "adjustment": "dispute",
    "topup": "topup", "payout": "payout",
}  # fmt: skip


def fee_for(amount: int) -> int:
    return min(amount, (amount * PER_MILLE + 500) // 1000 + FIXED)


def book(
    world: World, *, type: str, amount: int, currency: str, source: str, fee: int = 0, delay: int = 0,
    category: str | None = None, description: str | None = None, fee_for_what: str = "Stripe processing fees",
) -> Row:  # fmt: skip
    """One movement: `amount` (negative: money leaves) less `fee`, available `delay` seconds from now."""
    details = [
        {
            "amount": fee,
            "application": None,
            "currency": currency,
            "description": fee_for_what,
            "type": "stripe_fee",
        }
    ]
    entry = world.add({
        "id": world.new_id("txn"), "object": "balance_transaction", "amount": amount, "available_on": world.now + delay,
        "balance_type": "payments", "created": world.now, "currency": currency, "description": description,
        "exchange_rate": None, "fee": fee, "fee_details": details if fee else [], "net": amount - fee,
        "reporting_category": category or _CATEGORY[type], "source": source, "status": "pending", "type": type,
    })  # fmt: skip
    funds.booked(world, entry)
    return entry


@presents("balance_transaction")
def _status(world: World, row: Row) -> Row:
    return {"status": "available" if row["available_on"] <= world.now else "pending"}


def sums(world: World) -> tuple[dict[str, int], dict[str, int]]:
    """What is available and what is still on its way, by currency."""
    available: dict[str, int] = {}
    pending: dict[str, int] = {}
    for row in world.each("balance_transaction"):
        side = available if row["available_on"] <= world.now else pending
        side[row["currency"]] = side.get(row["currency"], 0) + row["net"]
    return available, pending


@route("GET", "/v1/balance", takes="BalanceRetrieveParams")
def retrieve(world: World, params: dict[str, Any]) -> Row:
    available, pending = sums(world)
    currencies = sorted({*available, *pending}) or ["usd"]

    def amounts(side: dict[str, int]) -> list[Row]:
        return [
            {"amount": side.get(currency, 0), "currency": currency, "source_types": {"card": side.get(currency, 0)}}
            for currency in currencies
        ]

    return {
        "object": "balance",
        "available": amounts(available),
        "livemode": world.livemode,
        "pending": amounts(pending),
    }


@route("GET", "/v1/balance_transactions", takes="BalanceTransactionListParams", models={"source", "type", "currency"})
def listed(world: World, params: dict[str, Any]) -> Row:
    equal = {name: params.get(name) for name in ("source", "type", "currency")}
    if str(equal["source"]).startswith("du_"):
        # Recorded: Stripe finds nothing by a dispute, though the entries name it as their source.
        return lists.page_of([], params, "/v1/balance_transactions")
    return lists.page(world, "balance_transaction", params, "/v1/balance_transactions", **equal)


@route("GET", "/v1/balance_transactions/{id}", takes="BalanceTransactionRetrieveParams")
def retrieve_entry(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("balance_transaction", id)
