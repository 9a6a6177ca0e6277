"""A Stripe with nothing behind it but lists: what stands in `books` is what it answers, created filters and all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.billing.stripe_json import Json, listed
from tests.billing.wire import Reply, Request, Wire, failure, listening

KNOWN_FILTERS = {"limit", "starting_after", "created[gte]", "created[lt]", "status", "expand[0]"}


@dataclass
class Books:
    """By the name in the path (`invoices`): objects by id, in any order. `fail` may answer in their place."""

    wire: Wire
    objects: dict[str, dict[str, Json]] = field(default_factory=dict)
    fail: Any = None

    def add(self, kind: str, *objects: Json) -> None:
        self.objects.setdefault(kind, {}).update((obj["id"], obj) for obj in objects)

    def remove(self, kind: str, id: str) -> Json:
        return self.objects[kind].pop(id)

    def change(self, kind: str, id: str, **fields: Any) -> None:
        self.objects[kind][id] = self.objects[kind][id] | fields

    def answer(self, request: Request) -> Reply:
        if self.fail is not None and (reply := self.fail(request)) is not None:
            return reply  # type: ignore[no-any-return]
        parts = request.path.removeprefix("/v1/").split("/")
        form = dict(request.form)
        if len(parts) == 1:
            return self._list(parts[0], form)
        if parts[2:] == ["balance_transactions"]:
            return self._list("balance_transactions", form | {"customer": parts[1]})
        found = self.objects.get(parts[0], {}).get(parts[1])
        return Reply(200, self._whole(parts[0], found)) if found else failure(404, "resource_missing")

    def _list(self, kind: str, form: dict[str, str]) -> Reply:
        filters = {name: value for name, value in form.items() if name not in KNOWN_FILTERS}
        rows = [obj for obj in self.objects.get(kind, {}).values() if self._fits(obj, filters)]
        rows = [obj for obj in rows if int(form.get("created[gte]", 0)) <= obj["created"]]
        rows = [obj for obj in rows if obj["created"] < int(form.get("created[lt]", 10**12))]
        if form.get("status", "all") != "all":
            rows = [obj for obj in rows if obj["status"] == form["status"]]
        rows.sort(key=lambda obj: (obj["created"], obj["id"]), reverse=True)
        if after := form.get("starting_after"):
            rows = rows[[obj["id"] for obj in rows].index(after) + 1 :]
        limit = int(form["limit"])
        return Reply(200, listed(*[self._whole(kind, obj) for obj in rows[:limit]], more=len(rows) > limit))

    def _fits(self, obj: Json, filters: dict[str, str]) -> bool:
        for name, value in filters.items():
            if name == "payment[type]":
                continue
            if name == "payment[payment_intent]":
                found = obj["payment"].get("payment_intent")
            elif name == "product":
                found = obj["product"]["id"]
            else:
                found = obj[name]
            if found != value:
                return False
        return True

    def _whole(self, kind: str, obj: Json) -> Json:
        if kind != "invoices":
            return obj
        payments = self.objects.get("invoice_payments", {}).values()
        mine = [payment for payment in payments if payment["invoice"] == obj["id"]]
        return obj | {"payments": listed(*mine)}


@contextmanager
def opened() -> Iterator[Books]:
    with listening() as wire:
        books = Books(wire)
        wire.answer = books.answer
        yield books


@dataclass
class Clock:
    """Business time that a test moves."""

    at: datetime = datetime(2019, 8, 26, 14, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at
