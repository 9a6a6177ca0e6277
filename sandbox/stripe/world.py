"""One account's objects: tables in creation order, indexes, units of work that can be taken back."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from sandbox.stripe.wire import missing

if TYPE_CHECKING:
    from sandbox.stripe.universe import Universe

Row = dict[str, Any]

_INDEXES: Final[dict[str, dict[str, Callable[[Row], Any]]]] = {}
_LABELS: Final = {
    "payment_method": "PaymentMethod", "line_item": "line item", "tax_rate": "tax rate",
    "balance_transaction": "balance transaction",
}  # fmt: skip
_NAMED_IN_PATHS: Final = {"payment_intent": "intent", "dispute": "dispute"}
"""What Stripe's refusals call an id in the path, where that is not `id`."""


def index(table: str, *fields: str, **derived: Callable[[Row], Any]) -> None:
    """Make `rows(table, field=…)` cost only its result. `derived` names a value computed from the row's own fields."""
    found = _INDEXES.setdefault(table, {})
    for name in fields:
        found[name] = lambda row, name=name: row.get(name)  # type: ignore[misc]
    found.update(derived)


class Table:
    """Rows of one kind in creation order. A row keeps its position for ever; a removed one leaves a hole."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[Row | None] = []
        self.made: list[int] = []
        """Per position: `created`, so that a range of time is a bisection."""
        self.position: dict[str, int] = {}
        self.removed: set[str] = set()
        self.keys = _INDEXES.get(name, {})
        self.indexes: dict[str, dict[Any, list[int]]] = {key: {} for key in self.keys}

    def add(self, row: Row) -> None:
        id = row["id"]
        if id in self.position:
            raise ValueError(f"{self.name} {id} exists already")
        position = len(self.rows)
        self.rows.append(row)
        created = row.get("created") or 0
        self.made.append(max(created, self.made[-1]) if self.made else created)
        self.position[id] = position
        for key, value_of in self.keys.items():
            self.indexes[key].setdefault(value_of(row), []).append(position)

    def take_back(self) -> None:
        """Undo the newest `add`."""
        row = self.rows.pop()
        self.made.pop()
        assert row is not None
        del self.position[row["id"]]
        for key, value_of in self.keys.items():
            self.indexes[key][value_of(row)].pop()

    def remove(self, id: str) -> None:
        position = self.position.pop(id)
        row = self.rows[position]
        assert row is not None
        self.rows[position] = None
        self.removed.add(id)
        for key, value_of in self.keys.items():
            self._leave(key, value_of(row), position)

    def forget_before(self, moment: int) -> None:
        """Drop the rows made before a moment, without a trace. Only for tables that nothing refers to."""
        stop = bisect_left(self.made, moment)
        first = next((place for place in range(stop - 1, -1, -1) if self.rows[place] is None), -1) + 1
        for place in range(first, stop):
            row = self.rows[place]
            assert row is not None
            for key, value_of in self.keys.items():
                self._leave(key, value_of(row), place)
            del self.position[row["id"]]
            self.rows[place] = None

    def put_back(self, row: Row, position: int) -> None:
        """Undo a `remove`."""
        self.rows[position] = row
        self.position[row["id"]] = position
        self.removed.discard(row["id"])
        for key, value_of in self.keys.items():
            insort(self.indexes[key].setdefault(value_of(row), []), position)

    def update(self, row: Row, fields: Row, drop: Sequence[str] = ()) -> None:
        position = self.position[row["id"]]
        before = {key: value_of(row) for key, value_of in self.keys.items()}
        row.update(fields)
        for name in drop:
            del row[name]
        for key, value_of in self.keys.items():
            after = value_of(row)
            if after != before[key]:
                self._leave(key, before[key], position)
                insort(self.indexes[key].setdefault(after, []), position)

    def _leave(self, key: str, value: Any, position: int) -> None:
        bucket = self.indexes[key][value]
        del bucket[bisect_left(bucket, position)]
        if not bucket:
            del self.indexes[key][value]

    def positions(self, equal: dict[str, Any]) -> tuple[Sequence[int], dict[str, Any]]:
        """Positions that the best index leaves, and the conditions that are still to be checked."""
        best: Sequence[int] = range(len(self.rows))
        used = None
        for key, value in equal.items():
            if key in self.indexes:
                bucket = self.indexes[key].get(value, [])
                if len(bucket) < len(best) or used is None:
                    best, used = bucket, key
        return best, {key: value for key, value in equal.items() if key != used}

    def holds(self, row: Row, equal: dict[str, Any]) -> bool:
        return all((self.keys[key](row) if key in self.keys else row.get(key)) == value for key, value in equal.items())


class World:
    """One account. Handlers and due jobs run one at a time in one thread; an exception rolls the change back.

    Stored values are never changed in place: `change` replaces fields of the row, nested values are made anew.
    Fields whose name begins with `_` are the sandbox's own and never leave it.
    """

    def __init__(self, universe: "Universe", account: str, platform: str | None = None, livemode: bool = False) -> None:
        self.universe = universe
        self.account = account
        self.platform = platform
        """The account that this one is connected to, or None."""
        self.livemode = livemode
        self.tables: dict[str, Table] = {}
        self.kind: dict[str, str] = {}
        """id -> table, for references whose table the reader does not know."""

    @property
    def now(self) -> int:
        """Virtual unix seconds."""
        return self.universe.now

    @property
    def idempotency_key(self) -> str | None:
        """The key of the request being answered; None when Stripe acts by itself."""
        return self.universe.request[1]

    def new_id(self, prefix: str) -> str:
        """`re` or `re_` gives `re_` and 24 characters."""
        return f"{prefix.rstrip('_')}_{self.universe.token(24)}"

    def table(self, name: str) -> Table:
        found = self.tables.get(name)
        if found is None:
            found = self.tables[name] = Table(name)
        return found

    def add(self, obj: Row) -> Row:
        """Store a new row in the table that its `object` names; `id` must be set."""
        name = obj["object"]
        table = self.table(name)
        table.add(obj)
        self.kind[obj["id"]] = name

        def undo() -> None:
            table.take_back()
            del self.kind[obj["id"]]

        self.universe.did(undo, ("add", self.account, dict(obj)))
        return obj

    def get(self, table: str, id: str) -> Row | None:
        held = self.table(table)
        position = held.position.get(id)
        return None if position is None else held.rows[position]

    def find(self, table: str, id: str, param: str = "id", named: str | None = None) -> Row:
        """The row, or Stripe's `resource_missing`: 404 for the path's own id (`named` so by its endpoint), 400 for one
        that a parameter names."""
        row = self.get(table, id)
        if row is None:
            if param == "id":
                named = named or _NAMED_IN_PATHS.get(table)
            raise missing(_LABELS.get(table, table), id, param, named)
        return row

    def any(self, id: str) -> Row | None:
        """The row of whatever table holds this id."""
        table = self.kind.get(id, "event" if id.startswith("evt_") else None)
        return None if table is None else self.get(table, id)

    def each(self, table: str, **equal: Any) -> Iterator[Row]:
        """Like `rows`, without making the list."""
        held = self.table(table)
        positions, rest = held.positions(equal)
        for position in positions:
            row = held.rows[position]
            if row is not None and (not rest or held.holds(row, rest)):
                yield row

    def rows(self, table: str, **equal: Any) -> list[Row]:
        """Rows in creation order. Indexed fields (`index`) cost only their result."""
        return list(self.each(table, **equal))

    def change(self, obj: Row, **fields: Any) -> Row:
        """Replace fields and return the previous values of those that differ (None for one that was not there)."""
        changed = {key: value for key, value in fields.items() if key not in obj or obj[key] != value}
        if not changed:
            return {}
        table = self.table(obj["object"])
        previous = {key: obj[key] for key in changed if key in obj}
        added = [key for key in changed if key not in obj]
        table.update(obj, changed)
        self.universe.did(
            lambda: table.update(obj, previous, added), ("set", self.account, table.name, obj["id"], changed)
        )
        return {key: previous.get(key) for key in changed if not key.startswith("_")}

    def remove(self, obj: Row) -> None:
        """Take the row out of its table: `find` says that it is missing from now on, `was_removed` that it was here."""
        table = self.table(obj["object"])
        position = table.position[obj["id"]]
        table.remove(obj["id"])
        self.universe.did(lambda: table.put_back(obj, position), ("del", self.account, table.name, obj["id"]))

    def was_removed(self, table: str, id: str) -> bool:
        return id in self.table(table).removed

    def emit(self, type: str, obj: Row, previous: Row | None = None) -> None:
        """Write an event with the object as it is now. It is sent once the unit of work has ended well."""
        self.universe.emit(self, type, obj, previous)

    def at(self, when: int, job: str, **args: Any) -> None:
        """Run a due job at a virtual time, in due order. A job checks by itself whether it still applies."""
        self.universe.schedule(when, self.account, job, args)
