"""What Stripe can be asked to do, each with what its answer must say to count as done."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from billing import translate
from billing.answers import Answer
from billing.facts import REFUND_STATES, BalanceEntryFact, CreditNoteFact, InvoiceFact, RefundFact, SubscriptionFact
from billing.money import Money
from billing.reads import INVOICE, SUBSCRIPTION, Json, Reads, entries_of, quoted

F = TypeVar("F")


class Writes(Reads):
    """The deeds. Each takes the idempotency key that its row has, sends once, and returns an `Answer`.

    A 200 that brings the wrong object, amount, currency or payment is UNKNOWN, never DONE.
    """

    @abstractmethod
    def _post(
        self,
        path: str,
        body: Json,
        key: str,
        read: Callable[[Json], F],
        wanted: str,
        as_asked: Callable[[F], bool],
        version: str | None = None,
        verb: Literal["post", "delete"] = "post",
    ) -> Answer[F]:
        """Send `body` under `key`, once; `read` what came back and hold it against what was asked for."""

    def create_credit_note(
        self, body: Json, key: str, expect: Money, version: str | None = None
    ) -> Answer[CreditNoteFact]:
        """`expect` is the note's total, tax included. Anything else in the answer is no success."""

        def as_asked(note: CreditNoteFact) -> bool:
            spread = sum(body.get(part, 0) for part in ("refund_amount", "credit_amount", "out_of_band_amount"))
            linked = {link["refund"] for link in body.get("refunds", ())}
            return (
                note.invoice_id == body["invoice"]
                and (note.total, note.currency) == (expect.amount, expect.currency)
                and note.pre_payment_amount + note.post_payment_amount == note.total
                and (not spread or linked or note.post_payment_amount == spread)
                and linked <= {refund for refund, _ in note.refunds}
                and _carries(note.metadata, body)
            )

        return self._post("/v1/credit_notes", body, key, translate.credit_note, "credit_note", as_asked, version)

    def create_refund(self, body: Json, key: str, expect: Money, version: str | None = None) -> Answer[RefundFact]:
        """DONE says that there is a refund: whether it succeeded is in its status."""

        def as_asked(refund: RefundFact) -> bool:
            return (
                (refund.amount, refund.currency) == (expect.amount, expect.currency)
                and body.get("payment_intent") in (None, refund.payment_intent)
                and body.get("charge") in (None, refund.charge)
                and refund.status in REFUND_STATES
                and _carries(refund.metadata, body)
            )

        return self._post("/v1/refunds", body, key, translate.refund, "refund", as_asked, version)

    def create_balance_entry(
        self, customer: str, body: Json, key: str, version: str | None = None
    ) -> Answer[BalanceEntryFact]:
        """`body["amount"]` negative: credit for the customer."""

        def as_asked(entry: BalanceEntryFact) -> bool:
            asked = (customer, body["amount"], body["currency"])
            return (entry.customer_id, entry.amount, entry.currency) == asked and _carries(entry.metadata, body)

        kind = entries_of(customer)
        return self._post(kind.path, body, key, kind.read, "customer_balance_transaction", as_asked, version)

    def pause(self, subscription: str, behavior: str, incident: str, key: str) -> Answer[SubscriptionFact]:
        """Stop collecting for `incident`, without an end. Read first: it would replace anybody's pause."""
        body = {"pause_collection": {"behavior": behavior}, "metadata": {"incident": incident}}
        return self._subscription(
            subscription,
            body,
            key,
            lambda fact: fact.pause_behavior == behavior and fact.pause_incident == incident,
        )

    def lift(self, subscription: str, key: str) -> Answer[SubscriptionFact]:
        """Take up collecting again. Drafts that were held stay drafts."""
        body = {"pause_collection": "", "metadata": {"incident": ""}}  # only "" lifts it, None is left out on the way
        return self._subscription(subscription, body, key, lambda fact: fact.pause_behavior is None)

    def restart(self, subscription: str, key: str) -> Answer[SubscriptionFact]:
        """Begin a fresh period now, and charge for it at once, without credit for what is left of the old one."""
        body = {"billing_cycle_anchor": {"type": "now"}, "proration_behavior": "none"}
        return self._subscription(subscription, body, key, lambda fact: True)

    def cancel(self, subscription: str, key: str) -> Answer[SubscriptionFact]:
        """End it now, without an invoice and without Stripe's own credit for unused time: we give that back ourselves.

        Stripe looks at no key of a DELETE; asked again, it says that the subscription is not there.
        """
        return self._subscription(
            subscription,
            {"invoice_now": False, "prorate": False},
            key,
            lambda fact: fact.status == "canceled",
            "delete",
        )

    def move(self, subscription: str, moves: Mapping[str, str], key: str) -> Answer[SubscriptionFact]:
        """Let items {item: plan} have other plans from their next period on, without prorations."""
        body = {
            "items": [{"id": item, "price": plan} for item, plan in moves.items()],
            "proration_behavior": "none",
        }

        def as_asked(fact: SubscriptionFact) -> bool:
            return moves.items() <= {item.id: item.plan_id for item in fact.items}.items()

        return self._subscription(subscription, body, key, as_asked)

    def stop_collecting(self, invoice: str, key: str) -> Answer[InvoiceFact]:
        """Stripe neither finalizes nor charges the invoice by itself any more."""
        return self._invoice(invoice, "", {"auto_advance": False}, key, lambda fact: not fact.auto_advance)

    def collect(self, invoice: str, key: str) -> Answer[InvoiceFact]:
        """Stripe charges the invoice by itself again, in its own time."""
        return self._invoice(
            invoice, "", {"auto_advance": True}, key, lambda fact: fact.auto_advance or fact.status == "paid"
        )

    def finalize(self, invoice: str, key: str) -> Answer[InvoiceFact]:
        """A draft becomes open (or paid, when nothing is due), and nothing is charged."""
        return self._invoice(invoice, "/finalize", {"auto_advance": False}, key, lambda fact: fact.status != "draft")

    def void_invoice(self, invoice: str, key: str, version: str | None = None) -> Answer[InvoiceFact]:
        return self._invoice(invoice, "/void", {}, key, lambda fact: fact.status == "void", version)

    def pay(self, invoice: str, key: str) -> Answer[InvoiceFact]:
        """Charge an open invoice now. A declined card is REFUSED, with its code."""
        return self._invoice(invoice, "/pay", {}, key, lambda fact: fact.status == "paid")

    def _subscription(
        self,
        id: str,
        body: Json,
        key: str,
        as_asked: Callable[[SubscriptionFact], bool],
        verb: Literal["post", "delete"] = "post",
    ) -> Answer[SubscriptionFact]:
        path = f"{SUBSCRIPTION.path}/{quoted(id)}"

        def read(obj: Json) -> SubscriptionFact:
            return self._whole(SUBSCRIPTION, obj)

        return self._post(
            path, body, key, read, "subscription", lambda fact: fact.id == id and as_asked(fact), verb=verb
        )

    def _invoice(
        self,
        id: str,
        verb: str,
        body: Json,
        key: str,
        as_asked: Callable[[InvoiceFact], bool],
        version: str | None = None,
    ) -> Answer[InvoiceFact]:
        path = f"{INVOICE.path}/{quoted(id)}{verb}"

        def read(obj: Json) -> InvoiceFact:
            return self._whole(INVOICE, obj)

        whole = {**body, "expand": list(INVOICE.expand)}
        return self._post(path, whole, key, read, "invoice", lambda fact: fact.id == id and as_asked(fact), version)


def _carries(metadata: Mapping[str, str], body: Json) -> bool:
    return all(metadata.get(name) == str(value) for name, value in body.get("metadata", {}).items())
