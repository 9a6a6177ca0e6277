"""What an account has at hand, where that matters. By default its bank covers what is missing, as Stripe's debits do;
guarded, a card's refund waits for money and any other refund fails (docs.stripe.com/refunds)."""

from sandbox.stripe.clock import due_job
from sandbox.stripe.world import Row, World


def at_hand(world: World, currency: str) -> int | None:
    """The available balance of a guarded currency; None where the bank covers everything."""
    row = _guard(world, currency)
    return row["available"] if row is not None and row["guarded"] else None


def guard(world: World, currency: str, guarded: bool) -> None:
    """From now on refunds wait for money, or do not."""
    row = _guard(world, currency)
    if row is None:
        row = world.add({"id": f"funds_{currency}", "object": "funds", "guarded": False, "available": 0, "since": 0})
    if row["guarded"] == guarded:
        return
    entries = world.rows("balance_transaction", currency=currency)
    ready = sum(entry["net"] for entry in entries if entry["available_on"] <= world.now)
    world.change(row, guarded=guarded, available=ready, since=row["since"] + 1)
    coming: dict[int, int] = {}
    for entry in entries if guarded else []:
        if entry["available_on"] > world.now:
            coming[entry["available_on"]] = coming.get(entry["available_on"], 0) + entry["net"]
    for when, amount in coming.items():
        _expect(world, row, currency, amount, when)
    _let_go_on(world, currency)


def booked(world: World, entry: Row) -> None:
    """Keep up with a movement that was just booked."""
    row = _guard(world, entry["currency"])
    if row is None or not row["guarded"]:
        return
    if entry["available_on"] > world.now:
        _expect(world, row, entry["currency"], entry["net"], entry["available_on"])
        return
    world.change(row, available=row["available"] + entry["net"])
    if entry["net"] > 0:
        _let_go_on(world, entry["currency"])


def _guard(world: World, currency: str) -> Row | None:
    return world.get("funds", f"funds_{currency}")


def _expect(world: World, row: Row, currency: str, amount: int, when: int) -> None:
    world.at(when, "money_arrives", currency=currency, amount=amount, since=row["since"])


def _let_go_on(world: World, currency: str) -> None:
    world.at(world.now, "send_waiting_refunds", currency=currency)


@due_job("money_arrives")
def _arrive(world: World, currency: str, amount: int, since: int) -> None:
    row = _guard(world, currency)
    if row is not None and row["guarded"] and row["since"] == since:
        world.change(row, available=row["available"] + amount)
        _let_go_on(world, currency)
