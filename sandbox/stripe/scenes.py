"""What people and banks do while a test runs: controls that act on the objects, not on the calls."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from sandbox.calls import flat
from sandbox.stripe import automatic_tax, funds
from sandbox.stripe.faults import is_whole
from sandbox.stripe.resources import accounts, balance, customers, disputes, refunds, transfers
from sandbox.stripe.wire import Refused
from sandbox.stripe.world import Row, World

if TYPE_CHECKING:
    from sandbox.stripe.service import Service
    from sandbox.stripe.universe import Universe

DEFAULT_KEY: Final = "sandbox"
"""What follows `sk_test_` in the operator's key, where a control names no account."""


def world_of(universe: "Universe", account: str | None) -> World:
    """The account of that id, or the operator's. Raises `Refused`."""
    if account is None:
        return universe.world(universe.account_of(DEFAULT_KEY))
    return worlds_of(universe, account)[0]


def worlds_of(universe: "Universe", account: str | None) -> list[World]:
    """The account of that id, or all of them."""
    if account is None:
        return list(universe.worlds.values())
    if account not in universe.worlds:
        raise Refused(f"There is no account {account}.", 404)
    return [universe.worlds[account]]


def holder(universe: "Universe", id: str) -> tuple[World, Row]:
    """An object, whoever's it is. Raises `Refused`."""
    for world in universe.worlds.values():
        row = world.any(id)
        if row is not None:
            return world, row
    raise Refused(f"There is no object {id}.", 404)


def _by_hand(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"method", "path", "params": {…}, "account"}: any call, as a person makes it in Stripe's dashboard."""
    path, params, method = asked.get("path"), asked.get("params", {}), asked.get("method", "POST")
    if not isinstance(path, str) or not path.startswith("/v1/") or not isinstance(params, dict):
        raise Refused('Say {"method": "POST", "path": "/v1/refunds", "params": {"payment_intent": "pi_…"}}.')
    if set(asked) - {"path", "params", "method", "account"} or method not in ("POST", "DELETE", "GET"):
        raise Refused("By hand takes method (POST, GET or DELETE), path, params and account, nothing else.")
    form = urlencode(list(flat(params)))
    query, body = ("", form) if method == "POST" else (form, "")
    done = service.by_hand(world_of(service.universe, asked.get("account")), method, path, query, body)
    document: dict[str, Any] = json.loads(done.body)
    if done.status != 200:
        raise Refused(f"{method} {path}: {document['error']['message']}", done.status)
    return document


def _dispute(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"payment_intent" or "charge", "amount", "reason"}: the bank takes the money."""
    named = asked.get("charge") or asked.get("payment_intent")
    if not named:
        raise Refused("Say which charge or payment_intent is disputed.")
    world, _ = holder(service.universe, named)
    return service.universe.perform(
        lambda: disputes.open_dispute(world, named, asked.get("amount"), asked.get("reason", "fraudulent"))
    )


def _close_dispute(service: "Service", asked: dict[str, Any], id: str) -> dict[str, Any]:
    """{"outcome": "won" or "lost"}."""
    if asked.get("outcome") not in ("won", "lost"):
        raise Refused('Say {"outcome": "won"} or {"outcome": "lost"}.')
    world, _ = holder(service.universe, id)
    return service.universe.perform(lambda: disputes.close_dispute(world, id, asked["outcome"]))


def _fail_refund(service: "Service", asked: dict[str, Any], id: str) -> dict[str, Any]:
    """{"reason": a Stripe failure_reason}: the bank sends a refund back, even one that had succeeded."""
    world, refund = holder(service.universe, id)
    return service.universe.perform(
        lambda: refunds.fail(world, refund, asked.get("reason", "expired_or_canceled_card"))
    )


def _account(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"account": the platform}: a new account connected to it."""
    platform = world_of(service.universe, asked.get("account"))
    row = service.universe.perform(lambda: accounts.connect(platform, asked.get("email")))
    return {"id": row["id"], "platform": platform.account}


def _copy(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"customer", "to": an account}: a customer there as well, under the same id."""
    world, row = holder(service.universe, str(asked.get("customer")))
    to = world_of(service.universe, str(asked.get("to")))
    if row["object"] != "customer" or to.get("customer", row["id"]) is not None:
        raise Refused(f"{row['id']} cannot be copied there.")
    service.universe.perform(lambda: customers.copied(to, row))
    return {"customer": row["id"], "from": world.account, "to": to.account}


def _balance(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"currency": "usd", "covers": "bank" or "available", "top_up": amount, "pay_out": amount, "account"}, in this
    order; says what the balance is then."""
    if set(asked) - {"currency", "covers", "top_up", "pay_out", "account"}:
        raise Refused("A balance has currency, covers, top_up, pay_out and account, nothing else.")
    currency, covers = asked.get("currency", "usd"), asked.get("covers")
    if not isinstance(currency, str) or covers not in (None, "bank", "available"):
        raise Refused('covers is "available" (refunds wait for money) or "bank" (they do not); currency like "usd".')
    for name in ("top_up", "pay_out"):
        if name in asked and not is_whole(asked[name], 1):
            raise Refused(f"{name} is an amount in the smallest unit: a whole number from 1 on.")
    world = world_of(service.universe, asked.get("account"))

    def move() -> None:
        if covers is not None:
            funds.guard(world, currency, covers == "available")
        if "top_up" in asked:
            transfers.top_up(world, asked["top_up"], currency)
        if "pay_out" in asked:
            transfers.pay_out(world, asked["pay_out"], currency)

    service.universe.perform(move)
    # What waited for this money goes on at once.
    service.universe.advance(service.universe.now, patience=float("inf"))
    available, pending = balance.sums(world)
    return {
        "account": world.account, "currency": currency, "available": available.get(currency, 0),
        "pending": pending.get(currency, 0),
        "covers": "bank" if funds.at_hand(world, currency) is None else "available",
        "waiting": [row["id"] for row in world.rows("refund", _waits=True) if row["currency"] == currency],
    }  # fmt: skip


def _tax(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"place": "DE" or "US-CA", "percentage": "19", "account"}: what automatic tax takes there from now on."""
    if set(asked) - {"place", "percentage", "account"} or not isinstance(asked.get("place"), str):
        raise Refused('Say {"place": "DE", "percentage": "19"}; "account" may follow, nothing else.')
    world = world_of(service.universe, asked.get("account"))
    row = service.universe.perform(lambda: automatic_tax.register(world, asked["place"], asked.get("percentage")))
    return {"account": world.account, "place": asked["place"], "percentage": row["percentage"]}


SCENES: Final[dict[tuple[str, ...], Callable[..., Any]]] = {
    ("POST", "by_hand"): _by_hand,
    ("POST", "disputes"): _dispute,
    ("POST", "disputes", "*", "close"): _close_dispute,
    ("POST", "refunds", "*", "fail"): _fail_refund,
    ("POST", "accounts"): _account,
    ("POST", "copies"): _copy,
    ("GET", "balance"): _balance,
    ("POST", "balance"): _balance,
    ("POST", "tax"): _tax,
}
