"""Holds what the sandbox sends against the annotations of stripe-python's classes."""

import ast
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from stripe._list_object import ListObject
from stripe._object_classes import get_object_class
from stripe._stripe_object import StripeObject, UntypedStripeObject


def problems(value: Any, kind: type | None = None, path: str = "") -> list[str]:
    """Everything that is wrong with one object as it came over the wire; [] when it is as Stripe's own client says.

    Unknown fields, fields of a wrong type, and fields missing that are not Optional."""
    if kind is None:
        kind = get_object_class("V1", value["object"])
    return list(_object(value, kind, path or value.get("object", "?")))


@cache
def _annotations(kind: type) -> dict[str, Any]:
    """Field -> annotation, resolved where it was written."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, StripeObject) or base is StripeObject:
            continue
        for name, hint in vars(base).get("__annotations__", {}).items():
            if not name.startswith("_") and name != "OBJECT_NAME":
                found[name] = _resolved(hint, base)
    return {name: hint for name, hint in found.items() if name != "last_response"}


@cache
def _words(module: str) -> dict[str, Any]:
    """What annotations in a module may name: its own words and those that it imports for type checkers only."""
    loaded = sys.modules[module]
    words = dict(vars(loaded))
    for node in ast.walk(ast.parse(Path(str(loaded.__file__)).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stripe"):
            source = import_module(node.module)
            words |= {name.asname or name.name: getattr(source, name.name) for name in node.names}
    return words


def _resolved(hint: Any, owner: type) -> Any:
    if isinstance(hint, str):
        return eval(hint, _words(owner.__module__), dict(vars(owner)))
    return hint


def _object(value: Any, kind: type, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {type(value).__name__}, not an object"
        return
    annotations = _annotations(kind)
    if value.get("deleted") is True:
        yield from (f"{path}.{name}: unknown" for name in value if name not in ("id", "object", "deleted"))
        return
    for name, inner in value.items():
        if name not in annotations:
            yield f"{path}.{name}: unknown to {kind.__qualname__}"
        else:
            yield from _typed(inner, annotations[name], kind, f"{path}.{name}")
    for name, hint in annotations.items():
        if name not in value and not _optional(hint):
            yield f"{path}.{name}: missing"


def _optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _typed(value: Any, hint: Any, owner: type, path: str) -> Iterator[str]:
    alternatives = list(_alternatives(hint, owner))
    tried = [list(_matches(value, one, owner, path)) for one in alternatives]
    if all(tried):
        # The alternative with the fewest complaints is the one that was meant.
        yield from min(tried, key=len)


def _alternatives(hint: Any, owner: type) -> Iterator[Any]:
    if isinstance(hint, str):
        hint = _resolved(hint, owner)
    if hasattr(hint, "__forward_arg__"):
        hint = _resolved(hint.__forward_arg__, owner)
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _alternatives(part, owner)
    else:
        yield hint


def _matches(value: Any, hint: Any, owner: type, path: str) -> Iterator[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    wrong = f"{path}: {value!r:.60} is no {getattr(hint, '__name__', hint)}"
    if hint is Any or isinstance(hint, TypeVar):
        return
    if hint in (type(None), None):
        if value is not None:
            yield wrong
    elif hint is Decimal:
        if not isinstance(value, str):
            yield f"{path}: Stripe sends exact decimals as strings, not {value!r}"
    elif hint is float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            yield wrong
    elif hint in (str, int, bool):
        if type(value) is not hint:
            yield wrong
    elif origin is Literal:
        if value not in arguments:
            yield wrong
    elif origin in (list, tuple):
        if not isinstance(value, list):
            yield wrong
        else:
            for place, inner in enumerate(value):
                yield from _typed(inner, arguments[0], owner, f"{path}[{place}]")
    elif origin is dict or origin is UntypedStripeObject:
        if not isinstance(value, dict):
            yield wrong
        else:
            for key, inner in value.items():
                yield from _typed(inner, arguments[-1], owner, f"{path}.{key}")
    elif origin is ListObject or hint is ListObject:
        yield from _list(value, arguments[0] if arguments else Any, owner, path)
    elif isinstance(hint, type) and issubclass(hint, UntypedStripeObject | StripeObject):
        if hint in (StripeObject, UntypedStripeObject):
            return
        named = getattr(hint, "OBJECT_NAME", None)
        if named is not None and isinstance(value, dict) and value.get("object") != named:
            yield wrong
        else:
            yield from _object(value, hint, path)
    elif isinstance(origin, type):
        yield f"{path}: the checker does not know {hint!r}"


def _list(value: Any, hint: Any, owner: type, path: str) -> Iterator[str]:
    if not isinstance(value, dict) or set(value) != {"object", "data", "has_more", "url"}:
        yield f"{path}: {str(value)[:80]} is no list object"
        return
    for place, inner in enumerate(value["data"]):
        yield from _typed(inner, hint, owner, f"{path}.data[{place}]")
