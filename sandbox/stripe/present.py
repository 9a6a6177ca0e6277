"""What a stored row looks like from outside: embedded lists, fields shown on demand, `expand`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sandbox.stripe.wire import StripeError

if TYPE_CHECKING:
    from sandbox.stripe.world import Row, World

DEEPEST: Final = 4
Tree = dict[str, Any]

_presenters: dict[str, Callable[["World", "Row"], "Row"]] = {}
_includable: dict[tuple[str, str], Callable[["World", "Row"], Any]] = {}


def presents(table: str) -> Callable[[Callable[["World", "Row"], "Row"]], Callable[["World", "Row"], "Row"]]:
    """Register `(world, row) -> fields` that every answer adds to a row of this table: embedded lists and objects."""

    def register(made: Callable[["World", "Row"], "Row"]) -> Callable[["World", "Row"], "Row"]:
        _presenters[table] = made
        return made

    return register


def includes(table: str, field: str) -> Callable[[Callable[["World", "Row"], Any]], Callable[["World", "Row"], Any]]:
    """Register `(world, row) -> value` of a field that is only there when `expand` asks for it."""

    def register(made: Callable[["World", "Row"], Any]) -> Callable[["World", "Row"], Any]:
        _includable[table, field] = made
        return made

    return register


def present(world: "World", row: "Row") -> "Row":
    """A row as Stripe shows it, not expanded."""
    shown = {key: value for key, value in row.items() if not key.startswith("_")}
    made = _presenters.get(row["object"])
    if made is not None:
        shown.update(made(world, row))
    return shown


def embedded(world: "World", rows: list["Row"], url: str, has_more: bool = False) -> "Row":
    """A list object of these rows."""
    return {"object": "list", "data": [present(world, row) for row in rows], "has_more": has_more, "url": url}


def tree_of(paths: list[str]) -> Tree:
    tree: Tree = {}
    for path in paths:
        parts = path.split(".")
        if len(parts) > DEEPEST + (parts[0] == "data"):
            raise StripeError(
                f"You cannot expand more than {DEEPEST} levels of a property. Property: {path}", param="expand"
            )
        inner = tree
        for part in parts:
            inner = inner.setdefault(part, {})
    return tree


def answer(world: "World", obj: Any, paths: list[str]) -> Any:
    """What a handler returned, as it goes over the wire."""
    if obj.get("object") == "list":
        paths = _in_lists(world, obj, paths)
        shown = {**obj, "data": [_shown(world, row) for row in obj["data"]]}
    else:
        shown = _shown(world, obj)
    return _expanded(world, shown, tree_of(paths), "") if paths else shown


def _in_lists(world: "World", page: "Row", paths: list[str]) -> list[str]:
    payments = [path for path in paths if path.startswith("data.payments") and page["url"] == "/v1/invoices"]
    if payments and world.universe.assume.payments_in_lists == "refused":
        raise StripeError(f"This property cannot be expanded ({payments[0]}).", param="expand")
    absent = payments if world.universe.assume.payments_in_lists == "absent" else []
    return [path for path in paths if path not in absent]


def _shown(world: "World", obj: Any) -> Any:
    stored = "id" in obj and "object" in obj and world.get(obj["object"], obj["id"]) is obj
    return present(world, obj) if stored else obj


def _expanded(world: "World", value: Any, tree: Tree, path: str) -> Any:
    if not tree or value is None:
        return value
    if isinstance(value, list):
        return [_expanded(world, element, tree, path) for element in value]
    if isinstance(value, str):
        row = world.any(value)
        if row is None:
            raise StripeError(f"This property cannot be expanded ({path}).", param="expand")
        return _expanded(world, present(world, row), tree, path)
    if not isinstance(value, dict):
        raise StripeError(f"This property cannot be expanded ({path}).", param="expand")
    made = dict(value)
    for name, below in tree.items():
        where = f"{path}.{name}" if path else name
        made[name] = _field(world, made, name, below, where)
    return made


def _field(world: "World", obj: "Row", name: str, below: Tree, where: str) -> Any:
    on_demand = _includable.get((obj.get("object", ""), name))
    if on_demand is not None:
        return _expanded(world, on_demand(world, obj), below, where)
    if name not in obj:
        raise StripeError(f"This property cannot be expanded ({where}).", param="expand")
    return _expanded(world, _resolved(world, obj[name], where), below, where)


def _resolved(world: "World", value: Any, where: str) -> Any:
    """An id as the object that it names; objects and nothing stay what they are."""
    if isinstance(value, str):
        row = world.any(value)
        if row is None:
            raise StripeError(f"This property cannot be expanded ({where}).", param="expand")
        return present(world, row)
    if isinstance(value, list):
        return [_resolved(world, element, where) for element in value]
    if value is None or isinstance(value, dict):
        return value
    raise StripeError(f"This property cannot be expanded ({where}).", param="expand")
