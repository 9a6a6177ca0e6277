"""A very small Stripe with a memory, whose answers a test may spoil: what the fault cases of one step are tried on.

It keeps the idempotency rules of https://docs.stripe.com/api/idempotent_requests: whatever an endpoint answered under a
key is repeated, a 500 too; the limiter comes first and leaves no trace.
"""

import itertools
import re
import threading
from collections.abc import Callable
from typing import Any

from tests.billing import stripe_json as made
from tests.billing.wire import Reply, Request, Wire, failure

SPOILS = ("limited", "busy", "locked_out", "lost_before", "lost_after", "failed_before", "failed_after", "unstored_500")


class SmallStripe:
    """`spoil("POST", "/v1/refunds", "lost_after")` spoils the next such request; several wait in line."""

    def __init__(self, wire: Wire) -> None:
        self.url = wire.url
        self.invoices: dict[str, dict[str, Any]] = {}
        self.subscriptions: dict[str, dict[str, Any]] = {}
        self.refunds: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.disputes: dict[str, dict[str, Any]] = {}
        self.captured: dict[str, int] = {}
        self.livemode = False
        self.refund_status = "succeeded"
        self.shown = True
        """Whether lists show objects: False is a list that lags, or an object that somebody hides."""
        self.sent: list[Request] = []
        self.before_answering: Callable[[Request], None] = lambda request: None
        self._stored: dict[str, tuple[list[tuple[str, str]], Reply]] = {}
        self._spoiled: dict[tuple[str, str], list[str]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        wire.answer = self._answer

    def spoil(self, method: str, path: str, *how: str) -> None:
        self._spoiled.setdefault((method, path), []).extend(how)

    def dispute(self, intent: str, amount: int, status: str = "needs_response") -> None:
        self.disputes[intent] = {
            "id": intent.replace("pi", "dp"), "object": "dispute", "payment_intent": intent,
            "charge": intent.replace("pi", "ch"), "amount": amount, "currency": "usd", "status": status,
            "created": 1_566_600_000, "metadata": {},
        }  # fmt: skip

    def forget(self) -> None:
        """Every key and its answer, as Stripe does after a day at the earliest."""
        with self._lock:
            self._stored.clear()

    def posts(self, path: str) -> list[Request]:
        return [request for request in self.sent if request.method == "POST" and request.path == path]

    def _answer(self, request: Request) -> Reply:
        with self._lock:
            self.sent.append(request)
            waiting = self._spoiled.get((request.method, request.path))
            how = waiting.pop(0) if waiting else ""
            reply = self._under_key(request, how) if request.method == "POST" else self._spoiled_read(request, how)
        self.before_answering(request)
        return Reply(drop=True) if how in ("lost_before", "lost_after") else reply

    def _spoiled_read(self, request: Request, how: str) -> Reply:
        if how in ("locked_out", "refused"):
            return failure(403 if how == "locked_out" else 400)
        return failure(503, type="api_error") if how else self._read(request)

    def _under_key(self, request: Request, how: str) -> Reply:
        if how == "limited":
            return failure(429, "rate_limit")
        if how == "busy":
            return failure(409, "idempotency_key_in_use")
        if how == "locked_out":
            return failure(401)
        if how == "unstored_500":
            return failure(500, type="api_error")
        key = request.headers["Idempotency-Key"]
        if key in self._stored:
            form, reply = self._stored[key]
            if form != request.form:
                return failure(400, type="idempotency_error")
            return Reply(reply.status, reply.body, {"Idempotent-Replayed": "true"})
        if how == "lost_before":
            return Reply()
        if how == "failed_before":
            reply = failure(500, type="api_error")
        elif how.startswith("refused:"):
            reply = failure(400, how.removeprefix("refused:"))
        else:
            reply = self._write(request)
            if how == "failed_after":
                reply = failure(500, type="api_error")
        self._stored[key] = (request.form, reply)
        return reply

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._ids)}"

    def _write(self, request: Request) -> Reply:
        form = dict(request.form)
        metadata = {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[")}
        if request.path == "/v1/refunds":
            return self._refund(form.get("payment_intent", ""), int(form["amount"]), metadata)
        if request.path == "/v1/credit_notes":
            return self._note(form, metadata)
        if match := re.fullmatch(r"/v1/customers/(\w+)/balance_transactions", request.path):
            entry = made.balance_entry(
                id=self._id("cbtxn"), customer=match[1], amount=int(form["amount"]), currency=form["currency"],
                metadata=metadata,
            )  # fmt: skip
            self.entries.append(entry)
            return Reply(200, entry)
        if match := re.fullmatch(r"/v1/subscriptions/(\w+)", request.path):
            subscription = self.subscriptions[match[1]]
            if "pause_collection[behavior]" in form:
                behavior = form["pause_collection[behavior]"]
                subscription["pause_collection"] = {"behavior": behavior, "resumes_at": None}
            elif form.get("pause_collection") == "":
                subscription["pause_collection"] = None
            merged = subscription["metadata"] | metadata
            subscription["metadata"] = {name: value for name, value in merged.items() if value}
            return Reply(200, subscription)
        if match := re.fullmatch(r"/v1/invoices/(\w+)(/\w+)?", request.path):
            return self._invoice(self.invoices[match[1]], match[2] or "", form)
        return failure(501)

    def _invoice(self, invoice: dict[str, Any], verb: str, form: dict[str, str]) -> Reply:
        if verb == "/finalize":
            if invoice["status"] != "draft":
                return failure(400, "invoice_not_editable")
            invoice.update(status="open", auto_advance=False)
        elif verb == "/void":
            invoice.update(status="void", amount_remaining=0)
        elif "auto_advance" in form:
            invoice["auto_advance"] = form["auto_advance"] == "true"
        return Reply(200, invoice)

    def _refund(self, intent: str, amount: int, metadata: dict[str, str]) -> Reply:
        left = self.captured.get(intent, 0) - sum(
            one["amount"] for one in self.refunds if one["payment_intent"] == intent and one["status"] != "failed"
        )
        if amount > left:
            return failure(400, "charge_already_refunded" if not left else None)
        refund = made.refund(
            id=self._id("re"), amount=amount, payment_intent=intent, charge=intent.replace("pi", "ch"),
            metadata=metadata, status=self.refund_status,
            failure_reason="expired_or_canceled_card" if self.refund_status == "failed" else None,
        )  # fmt: skip
        self.refunds.append(refund)
        return Reply(200, refund)

    def _note(self, form: dict[str, str], metadata: dict[str, str]) -> Reply:
        invoice = self.invoices[form["invoice"]]
        total = sum(int(value) for name, value in form.items() if re.fullmatch(r"lines\[\d+\]\[amount\]", name))
        total += sum(
            int(v) for name, v in form.items() if re.fullmatch(r"lines\[\d+\]\[tax_amounts\].*\[amount\]", name)
        )
        refunded = int(form.get("refund_amount", 0))
        links = [
            {"type": "refund", "refund": value, "amount_refunded": int(form[f"refunds[{name[8]}][amount_refunded]"]),
             "payment_record_refund": None}
            for name, value in form.items() if re.fullmatch(r"refunds\[\d\]\[refund\]", name)
        ]  # fmt: skip
        before = min(total, invoice["amount_remaining"])
        spread = refunded + int(form.get("credit_amount", 0)) + int(form.get("out_of_band_amount", 0))
        if spread + sum(link["amount_refunded"] for link in links) != total - before:
            return failure(400, None)
        if refunded:
            made_refund = self._refund(invoice["payment_intent_of_test"], refunded, {})
            if made_refund.status != 200:
                return made_refund
            links = [{"type": "refund", "refund": made_refund.body["id"], "amount_refunded": refunded,
                      "payment_record_refund": None}]  # fmt: skip
        invoice["amount_remaining"] -= before
        if before and not invoice["amount_remaining"]:
            invoice["status"] = "paid"
        note = made.credit_note(
            id=self._id("cn"), number=self._id("N"), invoice=invoice["id"], customer=invoice["customer"], total=total,
            pre_payment_amount=before, post_payment_amount=total - before, refunds=links, metadata=metadata,
            out_of_band_amount=int(form.get("out_of_band_amount", 0)) or None, memo=form.get("memo"),
        )  # fmt: skip
        self.notes.append(note)
        return Reply(200, note)

    def _read(self, request: Request) -> Reply:
        form = dict(request.form)
        kinds = "subscriptions|invoices|refunds|credit_notes|charges|disputes|payment_intents"
        if match := re.fullmatch(rf"/v1/({kinds})/(\w+)", request.path):
            return self._one(match[1], match[2])
        if request.path == "/v1/account":
            return Reply(200, {"id": "acct_own", "object": "account"})
        if request.path == "/v1/balance":
            return Reply(200, {"object": "balance", "livemode": self.livemode, "available": []})
        if request.path.startswith("/v1/prices/"):
            return Reply(200, made.price(id=request.path.rsplit("/", 1)[1]))
        if request.path == "/v1/subscriptions":
            return Reply(200, made.listed(*self.subscriptions.values()))
        if request.path == "/v1/invoices":
            drafts = [
                one for one in self.invoices.values()
                if one["status"] == form["status"]
                and form.get("subscription") in (None, one["parent"]["subscription_details"]["subscription"])
            ]  # fmt: skip
            return Reply(200, made.listed(*drafts))
        rows: list[dict[str, Any]] = []
        if request.path == "/v1/refunds":
            rows = [one for one in self.refunds if form.get("payment_intent") in (None, one["payment_intent"])]
        elif request.path == "/v1/credit_notes":
            rows = [one for one in self.notes if form.get("invoice") in (None, one["invoice"])]
        elif request.path == "/v1/disputes":
            rows = [one for one in self.disputes.values() if one["payment_intent"] == form.get("payment_intent")]
        elif request.path.endswith("/balance_transactions"):
            rows = self.entries
        else:
            return failure(501)
        return Reply(200, made.listed(*(reversed(rows) if self.shown else ())))

    def _one(self, kind: str, id: str) -> Reply:
        if kind == "payment_intents" and id in self.captured:  # 2.9 % and 0.30 of it are Stripe's, as for most cards
            booked = {"object": "balance_transaction", "fee": self.captured[id] * 29 // 1_000 + 30, "currency": "usd"}
            charge = {"id": id.replace("pi", "ch"), "object": "charge", "balance_transaction": booked}
            return Reply(200, {"id": id, "object": "payment_intent", "latest_charge": charge})
        if kind == "charges":
            intent = id.replace("ch", "pi")
            taken = sum(one["amount"] for one in self.refunds if one["payment_intent"] == intent)
            captured = self.captured[intent]
            return Reply(200, {"id": id, "object": "charge", "payment_intent": intent, "customer": "cus_1",
                               "currency": "usd", "status": "succeeded", "captured": True, "amount": captured,
                               "amount_captured": captured, "amount_refunded": taken, "disputed": False,
                               "created": 1_565_000_000})  # fmt: skip
        tables = {"subscriptions": self.subscriptions, "invoices": self.invoices, "disputes": self.disputes}
        listed = self.notes if kind == "credit_notes" else self.refunds
        rows = tables.get(kind) or {one["id"]: one for one in listed}
        return Reply(200, rows[id]) if id in rows else failure(404, "resource_missing")
