"""What can be asked of Stripe: one object as it is now, or lists, whole and to their end."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from billing import translate
from billing.answers import Gone, Unreadable
from billing.facts import (
    AccountFact,
    BalanceEntryFact,
    ChargeFact,
    CreditNoteFact,
    CustomerFact,
    DisputeFact,
    EventFact,
    InvoiceFact,
    PaymentFact,
    PlanFact,
    RefundFact,
    SubscriptionFact,
)
from billing.money import Money
from billing.windows import unix

PAGE: Final = 100
"""The most that Stripe puts on one page of a list."""

Json = Mapping[str, Any]
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Kind(Generic[F]):
    """One kind of object: where Stripe keeps it and how it is read. `within` is a list that must be whole in it."""

    name: str
    path: str
    read: Callable[[Json], F]
    expand: tuple[str, ...] = ()
    always: tuple[tuple[str, str], ...] = ()
    within: tuple[tuple[str, str], ...] = ()


PLAN: Final = Kind("price", "/v1/prices", translate.plan, expand=("product",))
CUSTOMER: Final = Kind("customer", "/v1/customers", translate.customer)
SUBSCRIPTION: Final = Kind(
    "subscription",
    "/v1/subscriptions",
    translate.subscription,
    always=(("status", "all"),),  # else ended ones are left out
    within=(("items", "/v1/subscription_items?subscription={id}"),),
)
INVOICE: Final = Kind(
    "invoice",
    "/v1/invoices",
    translate.invoice,
    expand=("payments",),
    within=(("lines", "/v1/invoices/{id}/lines"), ("payments", "/v1/invoice_payments?invoice={id}")),
)
PAYMENT: Final = Kind("invoice_payment", "/v1/invoice_payments", translate.payment)
REFUND: Final = Kind("refund", "/v1/refunds", translate.refund)
CREDIT_NOTE: Final = Kind("credit_note", "/v1/credit_notes", translate.credit_note)
DISPUTE: Final = Kind("dispute", "/v1/disputes", translate.dispute)
CHARGE: Final = Kind("charge", "/v1/charges", translate.charge)
EVENT: Final = Kind("event", "/v1/events", translate.event)


@dataclass(frozen=True, slots=True)
class Page(Generic[F]):
    """One page of a list, newest first. `after` is the cursor to the next one, None at the end."""

    facts: tuple[F, ...]
    after: str | None


class Reads(ABC):
    """The questions. Each raises what is named for what happens next: `Gone`, `Unreachable`, `ReadRefused`."""

    account: str

    @abstractmethod
    def _get(self, path: str, params: Json, what: str) -> Json:
        """The object that Stripe answers."""

    def one(self, kind: Kind[F], id: str) -> F:
        """The object as it is now. Raises `Gone` where Stripe has none."""
        asked = {"expand": list(kind.expand)} if kind.expand else {}
        return self._whole(kind, self._get(f"{kind.path}/{quoted(id)}", asked, kind.name))

    def page(
        self,
        kind: Kind[F],
        created_from: datetime | None = None,
        created_before: datetime | None = None,
        after: str | None = None,
        **filters: Any,
    ) -> Page[F]:
        """Up to 100 objects made in [from, before), newest first, each of them whole."""
        asked: dict[str, Any] = {**dict(kind.always), **filters, "limit": PAGE}
        created = {"gte": created_from and unix(created_from), "lt": created_before and unix(created_before)}
        if any(value is not None for value in created.values()):
            asked["created"] = {name: value for name, value in created.items() if value is not None}
        if kind.expand:
            asked["expand"] = [f"data.{part}" for part in kind.expand]
        if after:
            asked["starting_after"] = after
        entries, more = self._list(kind.path, asked)
        return Page(tuple(self._whole(kind, entry) for entry in entries), entries[-1]["id"] if more else None)

    def every(self, kind: Kind[F], **filters: Any) -> Iterator[F]:
        """All of them, newest first, over all pages. Raises `Unreadable` when Stripe's cursor runs in a circle."""
        met: set[str] = set()
        after: str | None = None
        while True:
            page = self.page(kind, after=after, **filters)
            yield from page.facts
            after = page.after
            if after is None:
                return
            if after in met:
                raise Unreadable(f"Stripe's list of {kind.name}s never ends: its cursor {after} came twice.")
            met.add(after)

    def account_fact(self) -> AccountFact:
        """The account that this gateway opens."""
        path = f"/v1/accounts/{quoted(self.account)}" if self.account else "/v1/account"
        return read_as(translate.account, self._get(path, {}, "account"))

    def available_balance(self) -> dict[str, int]:
        """What may be refunded from right now: smallest units per currency; may be negative."""
        answer = self._get("/v1/balance", {}, "balance")
        try:
            return {part["currency"]: int(part["amount"]) for part in answer["available"]}
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable("Stripe's balance cannot be read.") from error

    def is_live(self) -> bool:
        """Whether the key moves real money, as Stripe says it."""
        live = self._get("/v1/balance", {}, "balance").get("livemode")
        if not isinstance(live, bool):
            raise Unreadable("Stripe's balance does not say its mode.")
        return live

    def may_read_refunds(self) -> None:
        """Raises `LockedOut` for a key that may not read what every refund is looked for in."""
        for path in ("/v1/refunds", "/v1/credit_notes"):
            self._get(path, {"limit": 1}, "list")

    def subscription(self, id: str) -> SubscriptionFact:
        return self.one(SUBSCRIPTION, id)

    def invoice(self, id: str) -> InvoiceFact:
        return self.one(INVOICE, id)

    def customer(self, id: str) -> CustomerFact:
        """A deleted one too, with `deleted` set."""
        return self.one(CUSTOMER, id)

    def plan(self, id: str) -> PlanFact:
        return self.one(PLAN, id)

    def plans_of(self, product: str) -> list[PlanFact]:
        return list(self.every(PLAN, product=product))

    def refund(self, id: str) -> RefundFact:
        return self.one(REFUND, id)

    def credit_note(self, id: str) -> CreditNoteFact:
        return self.one(CREDIT_NOTE, id)

    def dispute(self, id: str) -> DisputeFact:
        return self.one(DISPUTE, id)

    def charge(self, id: str) -> ChargeFact:
        return self.one(CHARGE, id)

    def fee_of(self, payment_intent: str | None, charge: str | None) -> Money | None:
        """What Stripe took of a payment, in the balance's currency; None where nothing was booked yet."""
        if payment_intent:
            asked = {"expand": ["latest_charge.balance_transaction"]}
            path = f"/v1/payment_intents/{quoted(payment_intent)}"
            paid: Any = self._get(path, asked, "payment intent").get("latest_charge")
        else:
            asked = {"expand": ["balance_transaction"]}
            paid = self._get(f"/v1/charges/{quoted(charge or '')}", asked, "charge")
        booked = paid.get("balance_transaction") if isinstance(paid, dict) else None
        return read_as(translate.fee, booked) if isinstance(booked, dict) else None

    def payments_of(self, invoice: str) -> list[PaymentFact]:
        return list(self.every(PAYMENT, invoice=invoice))

    def invoices_paid_by(self, payment_intent: str) -> list[PaymentFact]:
        """The invoice payments of one payment intent: a charge no longer names its invoice itself."""
        return list(self.every(PAYMENT, payment={"type": "payment_intent", "payment_intent": payment_intent}))

    def refunds(
        self,
        payment_intent: str | None = None,
        charge: str | None = None,
        created_since: datetime | None = None,
    ) -> list[RefundFact]:
        """Refunds by anybody; a list reads its own writes."""
        return list(
            self.every(REFUND, created_from=created_since, **_given(payment_intent=payment_intent, charge=charge))
        )

    def credit_notes(self, invoice: str | None = None, created_since: datetime | None = None) -> list[CreditNoteFact]:
        return list(self.every(CREDIT_NOTE, created_from=created_since, **_given(invoice=invoice)))

    def disputes(self, payment_intent: str | None = None, charge: str | None = None) -> list[DisputeFact]:
        return list(self.every(DISPUTE, **_given(payment_intent=payment_intent, charge=charge)))

    def balance_entries(self, customer: str) -> list[BalanceEntryFact]:
        return list(self.every(entries_of(customer)))

    def balance_entry(self, customer: str, id: str) -> BalanceEntryFact:
        return self.one(entries_of(customer), id)

    def drafts(self, subscription: str) -> list[InvoiceFact]:
        return list(self.every(INVOICE, subscription=subscription, status="draft"))

    def open_invoices(self, subscription: str) -> list[InvoiceFact]:
        return list(self.every(INVOICE, subscription=subscription, status="open"))

    def events(self, created_from: datetime | None = None, **filters: Any) -> Iterator[EventFact]:
        """Newest first; Stripe keeps them for 30 days."""
        return self.every(EVENT, created_from=created_from, **filters)

    def preview_credit_note(self, body: Json) -> CreditNoteFact:
        """What `create_credit_note` would make of the same body; changes nothing. Raises `ReadRefused`."""
        sendable_body(body)
        return read_as(translate.credit_note_preview, self._get("/v1/credit_notes/preview", dict(body), "credit note"))

    def _list(self, path: str, params: Json) -> tuple[list[dict[str, Any]], bool]:
        """The entries of one page, and whether there are more."""
        answer = self._get(path, params, path)
        entries, more = answer.get("data"), answer.get("has_more")
        if answer.get("object") != "list" or not isinstance(entries, list) or not isinstance(more, bool):
            raise Unreadable(f"Stripe's list {path} is no list.")
        if not all(isinstance(entry, dict) and isinstance(entry.get("id"), str) for entry in entries):
            raise Unreadable(f"Stripe's list {path} has an entry without an id.")
        if more and not entries:
            raise Unreadable(f"Stripe's list {path} promises more than an empty page.")
        return entries, more

    def _whole(self, kind: Kind[F], obj: Json) -> F:
        """The fact, once every list inside the object that Stripe cut short has been read to its end."""
        if obj.get("object") != kind.name:
            raise Unreadable(f"Stripe sent a {obj.get('object')!r:.40} in place of a {kind.name}.")
        for name, path in kind.within:
            inner = obj.get(name)
            if isinstance(inner, dict) and inner.get("has_more"):
                obj = {**obj, name: self._all_within(path.format(id=quoted(str(obj.get("id")))))}
        return read_as(kind.read, obj)

    def _all_within(self, path: str) -> list[dict[str, Any]]:
        bare, _, query = path.partition("?")
        asked: dict[str, Any] = dict([query.split("=")]) if query else {}
        found: dict[str, dict[str, Any]] = {}
        more = True
        while more:
            after = {"starting_after": next(reversed(found))} if found else {}
            entries, more = self._list(bare, {**asked, "limit": PAGE, **after})
            known = len(found)
            found.update((entry["id"], entry) for entry in entries)
            if more and len(found) == known:
                raise Unreadable(f"Stripe's list {bare} never ends.")
        return list(found.values())


class Once(Reads):
    """Asks each question once, for looks that count as of before the first of them."""

    def __init__(self, reads: Reads) -> None:
        self.account = reads.account
        self._reads = reads
        self._answers: dict[tuple[str, str], Json] = {}

    def _get(self, path: str, params: Json, what: str) -> Json:
        question = (path, repr(sorted(params.items())))
        if question not in self._answers:
            self._answers[question] = self._reads._get(path, params, what)
        return self._answers[question]


def read_as(read: Callable[[Json], F], obj: Json) -> F:
    """`read(obj)`, or `Unreadable`, whatever is wrong with the object."""
    try:
        return read(obj)
    except (AttributeError, TypeError, KeyError) as error:
        raise Unreadable(f"Stripe's {obj.get('object')} {obj.get('id', '')} cannot be read.") from error


def entries_of(customer: str) -> Kind[BalanceEntryFact]:
    """The entries of one customer's balance: Stripe has no list of everybody's."""
    path = f"{CUSTOMER.path}/{quoted(customer)}/balance_transactions"
    return Kind("customer_balance_transaction", path, translate.balance_entry)


def _given(**filters: str | None) -> dict[str, str]:
    return {name: value for name, value in filters.items() if value is not None}


def quoted(id: str) -> str:
    """An id as one segment of a path, whatever is in it."""
    if not id or id in (".", ".."):
        raise Gone("Stripe has no object without an id.")
    return quote(id, safe="")


def sendable_body(body: Any) -> None:
    """Refuse what stripe-python would leave out without a word: None, [], {}; and floats, which are no amounts."""
    if body is None or isinstance(body, float):
        raise ValueError(f"{body!r} cannot be sent to Stripe")
    if isinstance(body, Mapping | list | tuple):
        for part in body.values() if isinstance(body, Mapping) else body:
            if isinstance(part, Mapping | list | tuple) and not part:
                raise ValueError(f"{part!r} would vanish on its way to Stripe")
            sendable_body(part)
