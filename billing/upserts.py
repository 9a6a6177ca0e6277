"""Many rows in one statement: added where they are missing, changed where they differ, left alone where they do not."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    key the later counts.
    """
    table = cast(sa.Table, model.__table__)
    key = [column.name for column in table.primary_key]
    chosen = list({tuple(row[name] for name in key): row for row in rows}.values())
    if not chosen:
        return
    names = list(chosen[0])
    new = _given(table, names, chosen)
    adding = insert(table).from_select(names, sa.select(*[_as_stored(table, new, name) for name in names]))
    values = {
        name: sa.func.coalesce(adding.excluded[name], table.c[name]) if name in cling else adding.excluded[name]
        for name in names
        if name not in key and name != READ_AT
    }
    differs = sa.tuple_(*[table.c[name] for name in values]).is_distinct_from(sa.tuple_(*values.values()))
    if READ_AT in names:
        values[READ_AT] = adding.excluded[READ_AT]
    session.execute(adding.on_conflict_do_update(index_elements=key, set_=values, where=differs))


def text_array(values: Collection[str]) -> sa.BindParameter[Any]:
    """`values` as one parameter, however many they are, for `= ANY(…)`."""
    return sa.bindparam(None, list(values), type_=ARRAY(sa.Text))


def _given(table: sa.Table, names: Sequence[str], rows: Sequence[Row]) -> Any:
    arrays, columns = [], []
    for name in names:
        kind = table.c[name].type
        values = [row[name] for row in rows]
        if isinstance(kind, JSONB):  # an array of JSON arrays would be taken for one of two dimensions
            kind, values = sa.Text(), [json.dumps(value) for value in values]
        arrays.append(sa.bindparam(None, values, type_=ARRAY(kind)))
        columns.append(sa.column(name, kind))
    return sa.func.unnest(*arrays).table_valued(*columns).render_derived(name="new")


def _as_stored(table: sa.Table, new: Any, name: str) -> sa.ColumnElement[Any]:
    kind = table.c[name].type
    return sa.cast(new.c[name], JSONB) if isinstance(kind, JSONB) else new.c[name]
