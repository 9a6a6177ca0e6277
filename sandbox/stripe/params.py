"""What a call may say: validators built from the TypedDicts of `stripe.params`, which state Stripe's own parameters."""

import json
import sys
import types
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from functools import cache, cached_property
from typing import Any, Final, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import typing_extensions
from stripe import params as stripe_params
from stripe._request_options import RequestOptions

from sandbox.stripe.lists import PARAMETERS
from sandbox.stripe.wire import NotModelled, StripeError

METADATA_KEYS: Final = 50
METADATA_KEY: Final = 40
METADATA_VALUE: Final = 500
_OPTIONS: Final = frozenset(RequestOptions.__annotations__)
_ELSEWHERE: Final = {**vars(sys.modules[RequestOptions.__module__]), "StripeContext": object}
"""What inherited annotations name: their own module's words, and one that only type checkers import."""


def checked(takes: str | None, given: dict[str, Any], models: frozenset[str], call: str) -> dict[str, Any]:
    """The parameters of one call, typed: numbers as int, float or Decimal, "" where Stripe lets a field be unset.

    Unknown ones are refused as Stripe does; known ones that the route does not honour raise `NotModelled`."""
    if not given and takes is None:
        return {}
    shape = _of(takes)
    seen = _Seen()
    typed = shape.read(given, "", "", seen)
    if seen.unknown:
        plural = "s" if len(seen.unknown) > 1 else ""
        names = ", ".join(seen.unknown)
        raise StripeError(
            f"Received unknown parameter{plural}: {names}", code="parameter_unknown", param=seen.unknown[0]
        )
    if seen.refused is not None:
        raise seen.refused
    reads = call.startswith("GET ")
    for written, dotted in seen.names:
        if not _covered(dotted, models, reads):
            raise NotModelled(f"The sandbox does not model the parameter {written} of {call}.")
    return typed


def _covered(dotted: str, models: frozenset[str], reads: bool) -> bool:
    parts = dotted.split(".")
    if parts[0] == "expand" or (reads and parts[0] in PARAMETERS):
        return True
    if any(".".join(parts[:end]) in models for end in range(1, len(parts) + 1)):
        return True
    return any(name.startswith(dotted + ".") for name in models)


class _Seen:
    """What one pass over the parameters found. It goes on after a mistake: an unknown name is answered first."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.refused: StripeError | None = None
        self.names: list[tuple[str, str]] = []

    def refuse(self, message: str, param: str, code: str | None = None) -> None:
        self.refused = self.refused or StripeError(message, code=code, param=param)


class _Shape:
    """An object with named fields."""

    def __init__(self, typed: Any) -> None:
        self._typed = typed

    @cached_property
    def fields(self) -> dict[str, "_Value"]:
        if self._typed is None:
            return {"expand": _Value(list[str])}
        words = {**_ELSEWHERE, **vars(sys.modules[self._typed.__module__])}
        hints = get_type_hints(self._typed, words, include_extras=True)
        options = _OPTIONS if set(hints) >= _OPTIONS else frozenset()
        return {name: _Value(hint) for name, hint in hints.items() if name not in options}

    @cached_property
    def required(self) -> list[str]:
        return [name for name, value in self.fields.items() if value.required]

    def read(self, given: Any, written: str, dotted: str, seen: _Seen) -> dict[str, Any]:
        typed = {}
        for name, value in given.items():
            inner = f"{written}[{name}]" if written else name
            field = self.fields.get(name)
            if field is None:
                seen.unknown.append(inner)
                continue
            below = f"{dotted}.{name}" if dotted else name
            seen.names.append((inner, below))
            typed[name] = field.read(value, inner, below, seen)
        for name in self.required:
            if name not in given:
                inner = f"{written}[{name}]" if written else name
                seen.refuse(f"Missing required param: {inner}.", inner, "parameter_missing")
        return typed


class _Value:
    """One parameter: the alternatives that its annotation allows."""

    def __init__(self, hint: Any) -> None:
        self.required = True
        if get_origin(hint) in (typing_extensions.NotRequired, NotRequired):
            self.required = False
            hint = get_args(hint)[0]
        self.words: list[str] = []
        self.plain: set[Any] = set()
        self.shapes: list[_Shape] = []
        self.elements: _Value | None = None
        self.entries: _Value | None = None
        for part in _parts(hint):
            self._allow(part)
        self.unsets = "" in self.words
        self.words = [word for word in self.words if word != ""]

    def _allow(self, part: Any) -> None:
        origin = get_origin(part)
        if origin in (Literal, typing_extensions.Literal):
            self.words += [str(word) for word in get_args(part)]
        elif origin is list:
            self.elements = _Value(get_args(part)[0])
        elif origin is dict:
            self.entries = _Value(get_args(part)[1])
        elif is_typeddict(part) or typing_extensions.is_typeddict(part):
            self.shapes.append(_shape(part))
        elif part in (str, int, float, bool, Decimal, Any):
            self.plain.add(part)
        # What is left is UntypedStripeObject[…], which says the same as the dict beside it.

    def read(self, given: Any, written: str, dotted: str, seen: _Seen) -> Any:
        if isinstance(given, str):
            return self._read_text(given, written, seen)
        if self.elements is not None and all(key.isdigit() for key in given):
            listed = sorted(given.items(), key=lambda entry: int(entry[0]))
            return [self.elements.read(value, f"{written}[{key}]", dotted, seen) for key, value in listed]
        if self.shapes:
            return self._fitting(given).read(given, written, dotted, seen)
        if self.entries is not None:
            return self._read_entries(given, written, dotted, seen)
        if Any in self.plain:
            return given
        kind = "array" if self.elements is not None else "string" if str in self.plain else "value"
        seen.refuse(f"Invalid {kind}: {json.dumps(given)}", written)
        return None

    def _read_text(self, given: str, written: str, seen: _Seen) -> Any:
        if given == "":
            if not (self.unsets or Any in self.plain):
                seen.refuse(
                    f"You passed an empty string for '{written}'. We assume empty values are an attempt to unset a "
                    f"parameter; however '{written}' cannot be unset. You should remove '{written}' from your request "
                    "or supply a non-empty value.",
                    written,
                    "parameter_invalid_empty",
                )
            return given
        if given in self.words:
            return given
        for kind, reader in _READERS:
            if kind in self.plain:
                typed = reader(given)
                if typed is not None:
                    return typed
        if self.words:
            seen.refuse(f"Invalid {written}: must be one of {_listed(self.words)}", written)
        elif str in self.plain or Any in self.plain:
            return given
        elif int in self.plain:
            seen.refuse(f"Invalid integer: {given}", written, "parameter_invalid_integer")
        elif self.plain & {float, Decimal}:
            seen.refuse(f"Invalid decimal: {given}; must be a decimal number", written)
        elif bool in self.plain:
            seen.refuse(f"Invalid boolean: {given}", written)
        else:
            seen.refuse("Invalid array" if self.elements is not None else "Invalid object", written)
        return None

    def _fitting(self, given: dict[str, Any]) -> _Shape:
        """Of several shapes the one that knows most of the names."""
        return max(self.shapes, key=lambda shape: sum(name in shape.fields for name in given))

    def _read_entries(self, given: dict[str, Any], written: str, dotted: str, seen: _Seen) -> dict[str, Any]:
        assert self.entries is not None
        if dotted.split(".")[-1] == "metadata":
            _check_metadata(given, written, seen)
        typed = {}
        for key, value in given.items():
            # An empty value takes a key out of the metadata.
            typed[key] = value if value == "" else self.entries.read(value, f"{written}[{key}]", dotted, seen)
        return typed


def _read_int(text: str) -> int | None:
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    return int(sign + digits) if digits.isascii() and digits.isdigit() else None


def _read_decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _read_float(text: str) -> float | None:
    number = _read_decimal(text)
    return None if number is None else float(number)


def _read_bool(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


_READERS: Final[tuple[tuple[Any, Any], ...]] = (
    (int, _read_int), (Decimal, _read_decimal), (float, _read_float), (bool, _read_bool),
)  # fmt: skip


def _check_metadata(given: dict[str, Any], written: str, seen: _Seen) -> None:
    if len(given) > METADATA_KEYS:
        seen.refuse(f"Metadata can have at most {METADATA_KEYS} keys.", written)
    for key, value in given.items():
        if len(key) > METADATA_KEY:
            seen.refuse(
                f"Metadata keys can have up to {METADATA_KEY} characters. Your key '{key}' has {len(key)} characters.",
                written,
            )
        if len(value) > METADATA_VALUE:
            seen.refuse(
                f"Metadata values can have up to {METADATA_VALUE} characters, but you passed in a value that is "
                f"{len(value)} characters. Invalid value: {value}",
                f"{written}[{key}]",
            )


def _parts(hint: Any) -> Iterator[Any]:
    """The alternatives of a union, unions within it included."""
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _parts(part)
    else:
        yield hint


def _listed(words: list[str]) -> str:
    if len(words) < 3:
        return " or ".join(words)
    return f"{', '.join(words[:-1])}, or {words[-1]}"


@cache
def _of(takes: str | None) -> _Shape:
    return _shape(None if takes is None else getattr(stripe_params, takes))


@cache
def _shape(typed: Any) -> _Shape:
    return _Shape(typed)
