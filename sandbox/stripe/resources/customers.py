"""Customers and their balance: negative is credit, spent on their next finalized invoice."""

from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.present import includes
from sandbox.stripe.resources import payment_methods
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import address, cleared, deleted, edit, merged_metadata
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World, index

index("customer", "email")
index("customer_balance_transaction", "customer", "invoice")

_PLAIN: Final = (
    "description",
    "email",
    "name",
    "phone",
    "preferred_locales",
    "tax_exempt",
    "business_name",
    "individual_name",
)
_MODELLED: Final = frozenset(
    {*_PLAIN, "address", "shipping", "metadata", "balance", "invoice_prefix", "next_invoice_sequence",
     "invoice_settings.default_payment_method", "invoice_settings.footer", "payment_method"}
)  # fmt: skip
_NO_SETTINGS: Final[Row] = {
    "custom_fields": None,
    "default_payment_method": None,
    "footer": None,
    "rendering_options": None,
}


@route("POST", "/v1/customers", takes="CustomerCreateParams", models=_MODELLED)
def create(world: World, params: dict[str, Any]) -> Row:
    return make(world, "cus_" + world.universe.token(14), params)


def copied(world: World, customer: Row) -> Row:
    """The customer of another account in this one, as Stripe's data copy leaves it: the same id, nothing that it
    bought. https://docs.stripe.com/get-started/data-migrations/pan-copy-self-serve"""
    params = {name: customer[name] for name in (*_PLAIN, "address", "metadata") if customer.get(name)}
    return make(world, customer["id"], params)


def make(world: World, id: str, params: dict[str, Any]) -> Row:
    customer: Row = {
        "id": id, "object": "customer", "address": address(params.get("address")), "balance": 0, "created": world.now,
        "currency": None, "customer_account": None, "default_source": None, "delinquent": False, "description": None,
        "email": None, "invoice_prefix": params.get("invoice_prefix", id[-8:].upper()),
        "invoice_settings": _NO_SETTINGS,
        "livemode": world.livemode, "metadata": merged_metadata(None, params.get("metadata")), "name": None,
        "next_invoice_sequence": params.get("next_invoice_sequence", 1), "phone": None, "preferred_locales": [],
        "shipping": cleared(params, "shipping").get("shipping"), "tax_exempt": "none", "test_clock": None,
        "_credit": {},
    }  # fmt: skip
    customer |= cleared(params, *_PLAIN)
    world.add(customer)
    if params.get("balance"):
        raise StripeError("A new customer has no currency yet: create a balance transaction instead.", param="balance")
    if "payment_method" in params:
        payment_methods.attach_to(world, params["payment_method"], id, "payment_method")
    world.change(customer, **_settings(world, customer, params))
    world.emit("customer.created", customer)
    return customer


@route("GET", "/v1/customers/{id}", takes="CustomerRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    if world.was_removed("customer", id):
        return {"id": id, "object": "customer", "deleted": True}
    return world.find("customer", id)


@route("POST", "/v1/customers/{id}", takes="CustomerModifyParams", models=_MODELLED - {"payment_method"})
def update(world: World, params: dict[str, Any], id: str) -> Row:
    customer = world.find("customer", id)
    fields = cleared(params, *_PLAIN, "shipping", "invoice_prefix", "next_invoice_sequence")
    if "address" in params:
        fields["address"] = address(params["address"])
    if "metadata" in params:
        fields["metadata"] = merged_metadata(customer["metadata"], params["metadata"])
    fields |= _settings(world, customer, params)
    edit(world, customer, "customer.updated", **fields)
    if "balance" in params and params["balance"] != customer["balance"]:
        if customer["currency"] is None:
            raise StripeError(
                "This customer has no currency yet: create a balance transaction instead.", param="balance"
            )
        adjust_balance(
            world, customer=id, amount=params["balance"] - customer["balance"], currency=customer["currency"]
        )
    return customer


def _settings(world: World, customer: Row, params: dict[str, Any]) -> dict[str, Any]:
    given = params.get("invoice_settings")
    if given is None:
        return {}
    settings = {**customer["invoice_settings"], **cleared(given, "default_payment_method", "footer")}
    method = settings["default_payment_method"]
    if given.get("default_payment_method"):
        row = payment_methods.attached(world, method, customer["id"]) or world.find(
            "payment_method", method, "invoice_settings[default_payment_method]"
        )
        settings["default_payment_method"] = row["id"]
        if row["customer"] != customer["id"]:
            raise StripeError(
                f"The customer does not have a payment method with the ID {method}. The payment method must be "
                "attached to the customer.",
                code="resource_missing",
                param="invoice_settings[default_payment_method]",
            )
    return {"invoice_settings": settings}


@route("DELETE", "/v1/customers/{id}")
def delete(world: World, params: dict[str, Any], id: str) -> Row:
    customer = world.find("customer", id)
    if any(row["status"] not in ("canceled", "incomplete_expired") for row in world.each("subscription", customer=id)):
        raise NotModelled("The sandbox does not model deleting a customer who has subscriptions: cancel them first.")
    world.emit("customer.deleted", customer)
    world.remove(customer)
    return deleted(customer)


@route("GET", "/v1/customers", takes="CustomerListParams", models={"email"})
def listed(world: World, params: dict[str, Any]) -> Row:
    return lists.page(world, "customer", params, "/v1/customers", email=params.get("email"))


@includes("customer", "invoice_credit_balance")
def _credit_balance(world: World, customer: Row) -> dict[str, int]:
    row = world.find("customer", customer["id"])
    return {currency: -amount for currency, amount in row["_credit"].items()}


# --- balance ----------------------------------------------------------------------------------------------------------


def adjust_balance(
    world: World, *, customer: str, amount: int, currency: str, type: str = "adjustment",
    credit_note: str | None = None,
    invoice: str | None = None, description: str | None = None, metadata: dict[str, str] | None = None,
) -> Row:  # fmt: skip
    """Book on a customer's balance; negative is credit. A customer has one currency for ever, as with Stripe."""
    row = world.find("customer", customer, "customer")
    held = row["currency"]
    if held is not None and held != currency and row["balance"]:
        raise StripeError(
            f"The customer's balance is in {held}; a balance transaction in {currency} cannot be booked.",
            param="currency",
        )
    entry: Row = {
        "id": world.new_id("cbtxn"), "object": "customer_balance_transaction", "amount": amount,
        "checkout_session": None,
        "created": world.now, "credit_note": credit_note, "currency": currency, "customer": customer,
        "customer_account": None, "description": description, "ending_balance": row["balance"] + amount,
        "invoice": invoice,
        "livemode": world.livemode, "metadata": metadata or {}, "type": type, "_key": world.idempotency_key,
    }  # fmt: skip
    world.add(entry)
    credit = {**row["_credit"], currency: row["_credit"].get(currency, 0) + amount}
    edit(world, row, "customer.updated", balance=entry["ending_balance"], currency=currency, _credit=credit)
    return entry


_ENTRIES: Final = "/v1/customers/{customer}/balance_transactions"


@route("POST", _ENTRIES, takes="CustomerCreateBalanceTransactionParams",
       models={"amount", "currency", "description", "metadata"})  # fmt: skip
def create_entry(world: World, params: dict[str, Any], customer: str) -> Row:
    world.find("customer", customer)
    return adjust_balance(
        world, customer=customer, amount=params["amount"], currency=params["currency"].lower(),
        description=params.get("description"), metadata=merged_metadata(None, params.get("metadata")),
    )  # fmt: skip


@route("GET", _ENTRIES, takes="CustomerListBalanceTransactionsParams", models={"invoice"})
def list_entries(world: World, params: dict[str, Any], customer: str) -> Row:
    world.find("customer", customer)
    url = f"/v1/customers/{customer}/balance_transactions"
    where: Row = {"customer": customer, "invoice": params.get("invoice")}
    return lists.page(world, "customer_balance_transaction", params, url, **where)


@route("GET", _ENTRIES + "/{id}", takes="CustomerRetrieveBalanceTransactionParams")
def retrieve_entry(world: World, params: dict[str, Any], customer: str, id: str) -> Row:
    return _entry(world, customer, id)


@route("POST", _ENTRIES + "/{id}", takes="CustomerModifyBalanceTransactionParams", models={"description", "metadata"})
def update_entry(world: World, params: dict[str, Any], customer: str, id: str) -> Row:
    entry = _entry(world, customer, id)
    fields = cleared(params, "description")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(entry["metadata"], params["metadata"])
    world.change(entry, **fields)
    return entry


def _entry(world: World, customer: str, id: str) -> Row:
    entry = world.find("customer_balance_transaction", id)
    if entry["customer"] != customer:
        raise StripeError(
            f"No such customer_balance_transaction: '{id}'", status=404, code="resource_missing", param="id"
        )
    return entry
