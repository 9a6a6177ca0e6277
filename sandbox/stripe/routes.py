"""Which function answers which call. Resources register themselves with `@route`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

Handler = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Route:
    """One call of Stripe's API as the sandbox answers it."""

    method: str
    path: str
    takes: str | None
    """Name of the TypedDict in `stripe.params` that says which parameters Stripe knows; None: none but `expand`."""
    models: frozenset[str]
    """Dotted names of the parameters that the handler honours; a name covers everything below it. Others answer 501."""
    handler: Handler


@dataclass
class _Node:
    literal: dict[str, "_Node"] = field(default_factory=dict)
    variable: "_Node | None" = None
    routes: dict[str, tuple[Route, list[str]]] = field(default_factory=dict)


_root = _Node()
ROUTES: list[Route] = []


def route(
    method: str, path: str, takes: str | None = None, models: frozenset[str] | set[str] = frozenset()
) -> Callable[[Handler], Handler]:
    """Register a handler `(world, params, **path variables) -> object`.

    `limit`, the cursors and `created` of a list and `expand` of anything need no naming in `models`."""

    def register(handler: Handler) -> Handler:
        found = Route(method, path, takes, frozenset(models), handler)
        node, names = _root, []
        for part in path.strip("/").split("/"):
            if part.startswith("{"):
                names.append(part[1:-1])
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.literal.setdefault(part, _Node())
        if method in node.routes:
            raise ValueError(f"{method} {path} is registered twice")
        node.routes[method] = (found, names)
        ROUTES.append(found)
        return handler

    return register


def match(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a call and its path variables. A literal part wins over a variable one."""
    values: list[str] = []
    node = _root
    for part in path.strip("/").split("/"):
        step = node.literal.get(part)
        if step is None:
            if node.variable is None or not part:
                return None
            values.append(part)
            step = node.variable
        node = step
    entry = node.routes.get(method)
    if entry is None:
        return None
    found, names = entry
    return found, dict(zip(names, values, strict=True))
