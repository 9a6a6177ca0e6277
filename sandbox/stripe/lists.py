"""Stripe's lists: newest first, cursors, `limit`, ranges of time."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from sandbox.stripe.wire import StripeError, missing

if TYPE_CHECKING:
    from sandbox.stripe.world import Row, Table, World

SHORTEST: Final = 1
LONGEST: Final = 100
USUAL: Final = 10
PARAMETERS: Final = frozenset({"limit", "starting_after", "ending_before", "created"})


def page(
    world: "World",
    table: str,
    params: dict[str, Any],
    url: str,
    where: Callable[["Row"], bool] | None = None,
    **equal: Any,
) -> dict[str, Any]:
    """One page of a table: rows whose fields are `equal` (None: any) and that `where` lets through, newest first.

    Reads `limit`, `starting_after`, `ending_before` and `created` from the parameters."""
    held = world.table(table)
    wanted = {key: value for key, value in equal.items() if value is not None}
    positions, rest = held.positions(wanted)
    positions = _within(held, positions, params.get("created"))

    def passes(row: "Row | None") -> bool:
        return row is not None and (not rest or held.holds(row, rest)) and (where is None or where(row))

    return _cut(held, positions, params, url, passes)


def page_of(rows: "Sequence[Row]", params: dict[str, Any], url: str) -> dict[str, Any]:
    """One page of rows that are in the order of the answer already."""
    limit = _limit(params)
    ids = [row["id"] for row in rows]
    after, before = params.get("starting_after"), params.get("ending_before")
    _one_cursor(after, before)
    begin, end = 0, len(rows)
    if after is not None:
        begin = _at(ids, after, "starting_after") + 1
    if before is not None:
        end = _at(ids, before, "ending_before")
        begin = max(0, end - limit)
        return {"object": "list", "data": list(rows[begin:end]), "has_more": begin > 0, "url": url}
    return {"object": "list", "data": list(rows[begin : begin + limit]), "has_more": begin + limit < end, "url": url}


def _at(ids: list[str], id: str, param: str) -> int:
    try:
        return ids.index(id)
    except ValueError:
        raise missing("object", id, param) from None


def _limit(params: dict[str, Any]) -> int:
    """Stripe's reference says 1 to 100; recorded, it takes the nearest of these without a word."""
    limit: int = params.get("limit", USUAL)
    return max(SHORTEST, min(LONGEST, limit))


def _one_cursor(after: str | None, before: str | None) -> None:
    if after is not None and before is not None:
        raise StripeError("Received both starting_after and ending_before parameters. Please pass in only one.")


def _within(held: "Table", positions: Sequence[int], created: Any) -> Sequence[int]:
    """The positions made in a range: an exact second or any of gt, gte, lt, lte. Creation order is time order."""
    if created is None:
        return positions
    if isinstance(created, int):
        created = {"gte": created, "lte": created}
    low, high = 0, len(positions)
    for bound, second in created.items():
        cut = bisect_left if bound in ("gte", "lt") else bisect_right
        place = cut(positions, second, key=held.made.__getitem__)
        if bound in ("gte", "gt"):
            low = max(low, place)
        else:
            high = min(high, place)
    return positions[low : max(low, high)]


def _cut(
    held: "Table", positions: Sequence[int], params: dict[str, Any], url: str, passes: Callable[["Row | None"], bool]
) -> dict[str, Any]:
    limit = _limit(params)
    after, before = params.get("starting_after"), params.get("ending_before")
    _one_cursor(after, before)

    def cursor(id: str, param: str) -> int:
        position = held.position.get(id)
        if position is None:
            raise missing(held.name, id, param)
        return position

    if before is not None:
        start = bisect_right(positions, cursor(before, "ending_before"))
        rows = _take(held, iter(range(start, len(positions))), positions, limit, passes)
        data = rows[:limit][::-1]
    else:
        stop = len(positions) if after is None else bisect_left(positions, cursor(after, "starting_after"))
        rows = _take(held, iter(range(stop - 1, -1, -1)), positions, limit, passes)
        data = rows[:limit]
    return {"object": "list", "data": data, "has_more": len(rows) > limit, "url": url}


def _take(
    held: "Table", steps: Iterator[int], positions: Sequence[int], limit: int, passes: Callable[["Row | None"], bool]
) -> list["Row"]:
    """One more than the limit, to know whether there are more."""
    found: list[Row] = []
    for step in steps:
        row = held.rows[positions[step]]
        if passes(row):
            found.append(row)  # type: ignore[arg-type]
            if len(found) > limit:
                break
    return found
