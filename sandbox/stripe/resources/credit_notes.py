"""Credit notes: what a finalized invoice says too much. First less is due; what was paid already goes back.

Of a note's total, `pre_payment_amount` lowers what is due; the rest, `post_payment_amount`, must be given back to the
cent through refunds, the customer's balance, or outside of Stripe. One transaction does all of it.
"""

from dataclasses import dataclass
from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.crediting import Credited, credited, line_row, sums
from sandbox.stripe.invoice_states import reduce
from sandbox.stripe.invoicing import SHOWN
from sandbox.stripe.present import embedded, present, presents
from sandbox.stripe.resources import charges
from sandbox.stripe.resources.customers import adjust_balance
from sandbox.stripe.resources.refunds import LIVE, refund_payment
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, edit, merged_metadata
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World, index

index("credit_note", "customer", "invoice")
index("credit_note_line_item", "invoice_line_item", "_note")

_MODELS: Final = {
    "invoice", "amount", "lines", "credit_amount", "refund_amount", "out_of_band_amount", "refunds.refund",
    "refunds.amount_refunded", "refunds.type", "memo", "metadata", "reason", "effective_at", "email_type",
}  # fmt: skip


@dataclass(frozen=True)
class Ways:
    """How the part that was paid goes back."""

    refund: int
    credit: int
    out_of_band: int
    linked: list[tuple[Row, int]]

    @property
    def total(self) -> int:
        return self.refund + self.credit + self.out_of_band + sum(amount for _, amount in self.linked)


@route("POST", "/v1/credit_notes", "CreditNoteCreateParams", _MODELS)
def create(world: World, params: dict[str, Any]) -> Row:
    note, lines, ways = _worked_out(world, params)
    invoice = world.find("invoice", note["invoice"])
    world.add(note)
    for line in lines:
        world.add(line_row(world, note["id"], line))
    refunds = [*note["refunds"], *_refund(world, invoice, ways.refund, note["metadata"])]
    entry = None
    if ways.credit:
        entry = adjust_balance(
            world,
            customer=note["customer"],
            amount=-ways.credit,
            currency=note["currency"],
            type="credit_note",
            credit_note=note["id"],
            invoice=note["invoice"],
        )
    world.change(note, refunds=refunds, customer_balance_transaction=entry and entry["id"])
    world.emit("credit_note.created", note)
    if note["post_payment_amount"]:
        after = invoice["post_payment_credit_notes_amount"] + note["post_payment_amount"]
        previous = world.change(invoice, post_payment_credit_notes_amount=after)
        if not note["pre_payment_amount"]:
            world.emit("invoice.updated", invoice, previous)
    if note["pre_payment_amount"]:
        reduce(world, invoice, note["pre_payment_amount"])
    return note


@route("GET", "/v1/credit_notes/preview", "CreditNotePreviewParams", _MODELS)
def preview(world: World, params: dict[str, Any]) -> Row:
    """The note that `create` would make. Changes nothing."""
    note, lines, _ = _worked_out(world, params, only_looks=True)
    rows = [line_row(world, note["id"], line) for line in lines]
    return {
        **present(world, note),
        "lines": embedded(world, rows[:SHOWN], "/v1/credit_notes/preview/lines", len(rows) > SHOWN),
    }


@route("GET", "/v1/credit_notes/preview/lines", "CreditNotePreviewLinesListParams", _MODELS)
def preview_lines(world: World, params: dict[str, Any]) -> Row:
    note, lines, _ = _worked_out(world, params, only_looks=True)
    rows = [present(world, line_row(world, note["id"], line)) for line in lines]
    return lists.page_of(rows, params, "/v1/credit_notes/preview/lines")


def _worked_out(world: World, params: dict[str, Any], *, only_looks: bool = False) -> tuple[Row, list[Credited], Ways]:
    """The note without its effects. Raises every refusal but those of the refund itself."""
    invoice = world.find("invoice", params["invoice"], "invoice")
    if invoice["status"] in ("draft", "void"):
        raise StripeError(f"Credit notes cannot be created for an invoice with status {invoice['status']}.",
                          code="invoice_not_editable", param="invoice")  # fmt: skip
    lines = credited(world, invoice, params)
    amounts = sums(lines)
    total = amounts["total"]
    if total < 1:
        raise StripeError("The total of a credit note must be positive.", param="lines")
    linked = _linked(world, invoice, params.get("refunds") or [])
    ways = Ways(
        _way(params, "refund_amount"), _way(params, "credit_amount"), _way(params, "out_of_band_amount"), linked
    )
    _within_ceiling(world, invoice, total, linked)
    pre = min(total, invoice["amount_remaining"])
    _of_what_cards_paid(world, invoice, total - pre)
    if ways.refund and len(_payments(world, invoice)) > 1 and world.universe.assume.refund_amount_takes == "refused":
        raise StripeError("refund_amount cannot be used with several payments.", param="refund_amount")
    adds_up = ways.total == total - pre or (only_looks and not world.universe.assume.previews_must_add_up)
    if not adds_up:
        raise StripeError(
            f"The sum of refund_amount, credit_amount, out_of_band_amount and refunds ({ways.total}) must equal the "
            f"credit note's post_payment_amount ({total - pre}).",
            param="refund_amount",
        )
    if ways.refund > sum(charges.refundable(charge) for charge in _paid_charges(world, invoice)):
        raise StripeError(
            f"The refund amount {ways.refund} is more than can be refunded of this invoice.", param="refund_amount"
        )
    return _note(world, invoice, params, amounts, pre, ways), lines, ways


def _way(params: dict[str, Any], name: str) -> int:
    amount: int = params.get(name, 0)
    if amount < 0:
        raise StripeError("Invalid non-negative integer", code="parameter_invalid_integer", param=name)
    return amount


def _note(world: World, invoice: Row, params: dict[str, Any], amounts: Row, pre: int, ways: Ways) -> Row:
    post = amounts["total"] - pre
    number = len(world.rows("credit_note", invoice=invoice["id"])) + 1
    id = world.new_id("cn")
    return {
        "id": id,
        "object": "credit_note",
        **amounts,
        "amount_shipping": 0,
        "created": world.now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_account": None,
        "customer_balance_transaction": None,
        "effective_at": params.get("effective_at", world.now),
        "invoice": invoice["id"],
        "livemode": world.livemode,
        "memo": params.get("memo"),
        "metadata": merged_metadata({}, params.get("metadata")),
        "number": f"{invoice['number']}-CN-{number:02d}",
        "out_of_band_amount": ways.out_of_band or None,
        "pdf": f"https://pay.stripe.com/credit_notes/{id}/pdf",
        "post_payment_amount": post,
        "pre_payment_amount": pre,
        "reason": params.get("reason"),
        "refunds": [_refund_entry(refund, amount) for refund, amount in ways.linked],
        "shipping_cost": None,
        "status": "issued",
        "type": "pre_payment" if not post else "post_payment" if not pre else "mixed",
        "voided_at": None,
        "_key": world.idempotency_key,
    }


def _refund_entry(refund: Row, amount: int) -> Row:
    return {"amount_refunded": amount, "payment_record_refund": None, "refund": refund["id"], "type": "refund"}


# --- what may be credited -------------------------------------------------------------------------------------------


def _payments(world: World, invoice: Row) -> list[Row]:
    """Newest first."""
    rows = world.rows("invoice_payment", invoice=invoice["id"])
    return [row for row in reversed(rows) if row["status"] == "paid"]


def _paid_charges(world: World, invoice: Row) -> list[Row]:
    intents = [world.find("payment_intent", row["payment"]["payment_intent"]) for row in _payments(world, invoice)]
    return [world.find("charge", intent["latest_charge"]) for intent in intents]


def _linked_before(world: World, invoice: Row) -> dict[str, int]:
    """Per refund, what earlier notes of this invoice link of it, those that they made themselves included."""
    found: dict[str, int] = {}
    for note in world.rows("credit_note", invoice=invoice["id"]):
        for entry in note["refunds"]:
            found[entry["refund"]] = found.get(entry["refund"], 0) + entry["amount_refunded"]
    return found


def _linked(world: World, invoice: Row, wanted: list[dict[str, Any]]) -> list[tuple[Row, int]]:
    own = {charge["id"] for charge in _paid_charges(world, invoice)} if wanted else set()
    before = _linked_before(world, invoice)
    found: list[tuple[Row, int]] = []
    for position, one in enumerate(wanted):
        param = f"refunds[{position}]"
        if one.get("type", "refund") != "refund" or not one.get("refund"):
            raise NotModelled("The sandbox knows no payment records: link refunds.")
        refund = world.find("refund", one["refund"], f"{param}[refund]")
        if refund["charge"] not in own:
            raise StripeError(
                f"The refund {refund['id']} is not of a payment of this invoice.", param=f"{param}[refund]"
            )
        if refund["status"] not in LIVE:
            raise StripeError(f"The refund {refund['id']} is {refund['status']}.", param=f"{param}[refund]")
        left = refund["amount"] - before.get(refund["id"], 0)
        amount = one.get("amount_refunded", left)
        if not 1 <= amount <= left:
            raise StripeError(f"Of the refund {refund['id']} {left} can be linked.", param=f"{param}[amount_refunded]")
        before[refund["id"]] = before.get(refund["id"], 0) + amount
        found.append((refund, amount))
    return found


def _within_ceiling(world: World, invoice: Row, total: int, linked: list[tuple[Row, int]]) -> None:
    """All notes of an invoice and the refunds that no note speaks of never exceed its total."""
    notes = [row for row in world.rows("credit_note", invoice=invoice["id"]) if row["status"] == "issued"]
    spoken = _linked_before(world, invoice)
    for refund, amount in [] if world.universe.assume.linked_refund_counts else linked:
        spoken[refund["id"]] = spoken.get(refund["id"], 0) + amount
    direct = sum(
        refund["amount"] - spoken.get(refund["id"], 0)
        for charge in _paid_charges(world, invoice)
        for refund in world.rows("refund", charge=charge["id"])
        if refund["status"] in LIVE
    )
    left = invoice["total"] - sum(note["total"] for note in notes) - direct
    if total > left:
        raise StripeError(
            f"The credit note's total ({total}) is more than can still be credited of this invoice ({max(0, left)}).",
            param="amount",
        )


def _of_what_cards_paid(world: World, invoice: Row, post: int) -> None:
    paid = sum(charges.refundable(charge) for charge in _paid_charges(world, invoice))
    if post > paid and not world.universe.assume.balance_part_is_creditable:
        raise StripeError(
            f"The credit note gives back {post}, more than cards paid of this invoice ({paid}).", param="amount"
        )


def _refund(world: World, invoice: Row, amount: int, metadata: dict[str, str]) -> list[Row]:
    """Refund so much of an invoice, the newest payment first."""
    made = []
    assume = world.universe.assume
    order = -1 if assume.refund_amount_takes == "oldest" else 1
    said = metadata if assume.note_refund_has_metadata else None
    for charge in _paid_charges(world, invoice)[::order] if amount else []:
        part = min(amount, charges.refundable(charge))
        if part > 0:
            made.append(_refund_entry(refund_payment(world, charge=charge["id"], amount=part, metadata=said), part))
            amount -= part
        if not amount:
            break
    return made


# --- the rest -------------------------------------------------------------------------------------------------------


@presents("credit_note")
def _shown(world: World, note: Row) -> Row:
    rows = world.rows("credit_note_line_item", _note=note["id"])
    return {"lines": embedded(world, rows[:SHOWN], f"/v1/credit_notes/{note['id']}/lines", len(rows) > SHOWN)}


@presents("credit_note_line_item")
def _shown_line(world: World, line: Row) -> Row:
    return {"tax_rates": [present(world, world.find("tax_rate", id)) for id in line["_rates"]]}


@route("GET", "/v1/credit_notes/{id}", "CreditNoteRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("credit_note", id)


@route("POST", "/v1/credit_notes/{id}", "CreditNoteModifyParams", {"memo", "metadata"})
def update(world: World, params: dict[str, Any], id: str) -> Row:
    note = world.find("credit_note", id)
    fields = cleared(params, "memo")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(note["metadata"], params["metadata"])
    return edit(world, note, "credit_note.updated", **fields)


@route("POST", "/v1/credit_notes/{id}/void", "CreditNoteVoidCreditNoteParams")
def void(world: World, params: dict[str, Any], id: str) -> Row:
    """Only while the invoice is open: what went back to somebody cannot be taken away."""
    note = world.find("credit_note", id)
    invoice = world.find("invoice", note["invoice"])
    if note["status"] != "issued" or note["post_payment_amount"] or invoice["status"] != "open":
        raise StripeError("You can only void a credit note of an open invoice that has given nothing back.", param="id")
    world.change(note, status="void", voided_at=world.now)
    for line in world.rows("credit_note_line_item", _note=id):
        world.change(line, _void=True)
    reduce(world, invoice, -note["pre_payment_amount"])
    world.emit("credit_note.voided", note)
    return note


@route("GET", "/v1/credit_notes", "CreditNoteListParams", {"invoice", "customer"})
def listed(world: World, params: dict[str, Any]) -> Row:
    equal = {"invoice": params.get("invoice"), "customer": params.get("customer")}
    return lists.page(world, "credit_note", params, "/v1/credit_notes", **equal)


@route("GET", "/v1/credit_notes/{id}/lines", "CreditNoteListLinesParams")
def list_lines(world: World, params: dict[str, Any], id: str) -> Row:
    world.find("credit_note", id)
    return lists.page_of(world.rows("credit_note_line_item", _note=id), params, f"/v1/credit_notes/{id}/lines")
