"""Small values that several objects share."""

from typing import Any

from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World

NO_ADDRESS: dict[str, None] = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
NO_BILLING_DETAILS: dict[str, Any] = {"address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None}


def merged_metadata(before: dict[str, str] | None, given: Any) -> dict[str, str]:
    """Stripe merges metadata key by key: "" takes a key out, "" for the whole takes all of them out."""
    if given == "":
        return {}
    merged = {**(before or {}), **(given or {})}
    return {key: value for key, value in merged.items() if value != ""}


def address(given: Any) -> dict[str, Any] | None:
    return None if given in (None, "") else {**NO_ADDRESS, **{key: value or None for key, value in given.items()}}


def cleared(params: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of the named parameters that were given, with "" as the null that it asks for."""
    return {name: None if params[name] == "" else params[name] for name in names if name in params}


def edit(world: World, row: Row, event: str, **fields: Any) -> Row:
    """Change fields and, if any of them differed, write the event of it."""
    previous = world.change(row, **fields)
    if previous:
        world.emit(event, row, previous)
    return row


def deleted(row: Row) -> Row:
    """What Stripe answers to a delete, and to a read of a deleted customer."""
    return {"id": row["id"], "object": row["object"], "deleted": True}


def one_of(params: dict[str, Any], *names: str) -> str:
    """The one parameter of several that was given."""
    given = [name for name in names if params.get(name)]
    if len(given) != 1:
        few = "one" if not given else "only one"
        raise StripeError(
            f"You must provide {few} of the following parameters: {', '.join(names)}.",
            code="parameters_exclusive" if given else "parameter_missing",
            param=names[0],
        )
    return given[0]
