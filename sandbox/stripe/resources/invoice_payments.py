"""Invoice payments: which payment paid how much of which invoice."""

from typing import Any

from sandbox.stripe import lists
from sandbox.stripe.present import embedded, includes
from sandbox.stripe.routes import route
from sandbox.stripe.wire import NotModelled
from sandbox.stripe.world import Row, World


@includes("invoice", "payments")
def _payments(world: World, invoice: Row) -> Row:
    rows = world.rows("invoice_payment", invoice=invoice["id"])
    return embedded(world, rows[::-1][: lists.USUAL], f"/v1/invoices/{invoice['id']}/payments", len(rows) > lists.USUAL)


@route("GET", "/v1/invoice_payments/{id}", "InvoicePaymentRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("invoice_payment", id)


@route("GET", "/v1/invoice_payments", "InvoicePaymentListParams",
       {"invoice", "status", "payment.type", "payment.payment_intent"})  # fmt: skip
def listed(world: World, params: dict[str, Any]) -> Row:
    payment = params.get("payment") or {}
    if payment.get("type", "payment_intent") != "payment_intent":
        raise NotModelled("The sandbox knows no payment records.")
    equal = {"invoice": params.get("invoice"), "status": params.get("status"),
             "payment_intent": payment.get("payment_intent")}  # fmt: skip
    return lists.page(world, "invoice_payment", params, "/v1/invoice_payments", **equal)
