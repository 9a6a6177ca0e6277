"""Accounts: one's own, and those connected to it, reached by the header Stripe-Account."""

from typing import Any

from sandbox.stripe import lists
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import deleted, edit, merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World


def _row(world: World, id: str, email: str | None, country: str, metadata: dict[str, str]) -> Row:
    return {
        "id": id, "object": "account", "business_profile": None, "business_type": None,
        "capabilities": {"card_payments": "active", "transfers": "active"}, "charges_enabled": True, "country": country,
        "created": world.now, "default_currency": "usd", "details_submitted": True, "email": email,
        "metadata": metadata,
        "payouts_enabled": True, "type": "standard",
    }  # fmt: skip


def connect(platform: World, email: str | None, country: str = "US", metadata: dict[str, str] | None = None) -> Row:
    """A new account connected to `platform`, with a world of its own."""
    if platform.platform is not None:
        raise StripeError("A connected account cannot connect further accounts.")
    id = f"acct_{platform.universe.token(16)}"
    platform.universe.open_world(id, platform.account)
    return platform.add(_row(platform, id, email, country, metadata or {}))


def _own(world: World) -> Row:
    """The account itself; a connected one stands in its platform's books."""
    home = world if world.platform is None else world.universe.worlds[world.platform]
    return home.get("account", world.account) or home.add(_row(world, world.account, None, "US", {}))


@route("GET", "/v1/account", takes="AccountRetrieveParams")
def own(world: World, params: dict[str, Any]) -> Row:
    return _own(world)


@route("GET", "/v1/accounts/{id}", takes="AccountRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return _own(world) if id == world.account else world.find("account", id)


@route("POST", "/v1/accounts", takes="AccountCreateParams",
       models={"country", "email", "type", "metadata", "capabilities", "controller"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    return connect(
        world, params.get("email"), params.get("country", "US"), merged_metadata(None, params.get("metadata"))
    )


@route("POST", "/v1/accounts/{id}", takes="AccountUpdateParams", models={"email", "metadata"})
def update(world: World, params: dict[str, Any], id: str) -> Row:
    row = _own(world) if id == world.account else world.find("account", id)
    fields: Row = {"email": params.get("email", row["email"])}
    if "metadata" in params:
        fields["metadata"] = merged_metadata(row["metadata"], params["metadata"])
    return edit(world, row, "account.updated", **fields)


@route("DELETE", "/v1/accounts/{id}")
def delete(world: World, params: dict[str, Any], id: str) -> Row:
    """The account leaves its platform: from now on the platform's key does not open it."""
    row = world.find("account", id)
    if id not in world.universe.worlds or world.universe.worlds[id].platform != world.account:
        raise StripeError("This account cannot be deleted.", param="id")
    # Told as every event of a connected account is: with its id, to those who listen to connected accounts.
    leaving = world.universe.worlds[id]
    application = leaving.add({"id": world.new_id("ca"), "object": "application", "name": "Sandbox"})
    leaving.emit("account.application.deauthorized", application)
    world.universe.disconnect(id)
    world.remove(row)
    return deleted(row)


@route("GET", "/v1/accounts", takes="AccountListParams")
def listed(world: World, params: dict[str, Any]) -> Row:
    return lists.page(world, "account", params, "/v1/accounts", lambda row: row["id"] != world.account)
