"""Many rows in one statement: added where they are missing, changed where they differ, left alone where they do not."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.orm import Session

from tenants.db import Base

READ_AT: Final = "synced_at"

Row = Mapping[str, Any]


def upsert(session: Session, model: type[Base], rows: Iterable[Row], cling: Collection[str] = ()) -> None:
    """Make the table say what `rows` say; a row that says so already is not touched, its `synced_at` neither.

    Columns that no row names keep what they have; those in `cling` are never set back to NULL. Of two rows with one
    key the later counts. Rows are written in the order of their keys, so that two writers at once wait for each other
    instead of ending in a deadlock.
    """
    _execute(session, model, rows, cling, telling=False)


def added(session: Session, model: type[Base], rows: Iterable[Row], cling: Collection[str] = ()) -> set[str]:
    """The same; and the ids of those rows that nobody had written before, not even in a transaction just now."""
    return {id for id, is_new in _execute(session, model, rows, cling, telling=True) if is_new}


def _execute(
    session: Session, model: type[Base], rows: Iterable[Row], cling: Collection[str], *, telling: bool
) -> Sequence[Any]:
    table = cast(sa.Table, model.__table__)
    key = [column.name for column in table.primary_key]
    chosen = [row for _, row in sorted({tuple(row[name] for name in key): row for row in rows}.items(), key=_by_key)]
    if not chosen:
        return ()
    names = tuple(chosen[0])
    values = {f"new_{name}": _as_sent(table, name, [row[name] for row in chosen]) for name in names}
    done = session.execute(_upserting(table, names, tuple(sorted(cling)), telling), values)
    return done.all() if telling else ()


@cache
def _upserting(table: sa.Table, names: tuple[str, ...], cling: tuple[str, ...], telling: bool) -> sa.Executable:
    """One statement for all rows that name the same columns, as large as it is."""
    key = [column.name for column in table.primary_key]
    new = _given(table, names)
    adding = insert(table).from_select(names, sa.select(*[_as_stored(table, new, name) for name in names]))
    values = {
        name: sa.func.coalesce(adding.excluded[name], table.c[name]) if name in cling else adding.excluded[name]
        for name in names
        if name not in key and name != READ_AT
    }
    differs = sa.tuple_(*[table.c[name] for name in values]).is_distinct_from(sa.tuple_(*values.values()))
    if READ_AT in names:
        values[READ_AT] = adding.excluded[READ_AT]
    whole = adding.on_conflict_do_update(index_elements=key, set_=values, where=differs)
    # xmax is 0 in a row that was inserted, and not in one that was there and was locked to be changed.
    return whole.returning(table.c.id, sa.literal_column("xmax = 0")) if telling else whole


def text_array(values: Collection[str]) -> sa.BindParameter[Any]:
    """`values` as one parameter, however many they are, for `= ANY(…)`."""
    return sa.bindparam(None, list(values), type_=ARRAY(sa.Text))


def _by_key(entry: tuple[tuple[Any, ...], Row]) -> tuple[Any, ...]:
    return entry[0]


def _given(table: sa.Table, names: Sequence[str]) -> Any:
    arrays, columns = [], []
    for name in names:
        kind = sa.Text() if isinstance(table.c[name].type, JSONB) else table.c[name].type
        arrays.append(sa.bindparam(f"new_{name}", type_=ARRAY(kind)))
        columns.append(sa.column(name, kind))
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived(name="new")


def _as_sent(table: sa.Table, name: str, values: list[Any]) -> list[Any]:
    # An array of JSON arrays would be taken for one of two dimensions.
    return [json.dumps(value) for value in values] if isinstance(table.c[name].type, JSONB) else values


def _as_stored(table: sa.Table, new: Any, name: str) -> sa.ColumnElement[Any]:
    kind = table.c[name].type
    return sa.cast(new.c[name], JSONB) if isinstance(kind, JSONB) else new.c[name]
