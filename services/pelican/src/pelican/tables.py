"""What Postgres knows about a table that is or shall be watched, and whether it may be."""

import csv
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from aviary.source import InvalidSourceError, Source, check_metadata_columns

# Types whose text is the same in every session (the trigger pins what the dates depend on) and reads back as itself.
KEY_TYPES = (
    "smallint, integer, bigint, numeric, text, varchar, char, uuid, boolean, date, timestamp, timestamptz or an enum"
)
KEY_TYPE_NAMES = frozenset(
    ("int2", "int4", "int8", "numeric", "text", "varchar", "bpchar", "uuid", "bool", "date", "timestamp", "timestamptz")
)
CUT_TYPE_NAMES = frozenset(("text", "varchar", "citext"))

_RELATION = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relispartition,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid) AS inherits,
       c.relrowsecurity AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aviary_pelican' AND rolbypassrls),
       pg_has_role(c.relowner, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind <> 'i'"""
# A domain counts as the type below it.
_COLUMNS = """
SELECT a.attname, b.typname, b.typtype = 'e', pg_catalog.format_type(b.oid, -1), a.attnotnull
FROM pg_attribute a
CROSS JOIN LATERAL (
  WITH RECURSIVE base AS (
    SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
    UNION ALL
    SELECT t.oid, t.typname, t.typtype, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.typbasetype
    WHERE base.typtype = 'd')
  SELECT * FROM base WHERE typtype <> 'd') b
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum"""
# Only what can also serve equality and order of the column itself: same collation, default operators, whole table.
_UNIQUE_INDEXES = """
SELECT (SELECT array_agg(a.attname::text ORDER BY k.n)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE k.n <= i.indnkeyatts), i.indimmediate
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND m.amname = 'btree'
  AND NOT EXISTS (SELECT FROM unnest(i.indclass::oid[]) AS u(o) JOIN pg_opclass p ON p.oid = u.o WHERE NOT p.opcdefault)
  AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[], i.indcollation::oid[]) AS u(attnum, c)
                  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
                  WHERE u.c IS NOT NULL AND u.c <> 0 AND u.c <> a.attcollation)"""

_TRIGGERS = (
    "SELECT count(*) FROM pg_trigger WHERE tgrelid = %s AND tgname LIKE 'aviary\\_%%' AND tgenabled IN ('O', 'A')"
)

_WHY_NOT = {
    "p": "is partitioned, and a write that names a partition fires no trigger of the whole table: copy it into a plain one",
    "v": "is a view, which holds no rows: watch the table behind it",
    "m": "is a materialized view, and REFRESH fires no triggers: watch the table behind it",
    "f": "is a foreign table, and its rows change elsewhere without firing triggers here: watch it where it lives",
    "S": "is a sequence, not a table",
    "c": "is a composite type, not a table",
    "t": "is a TOAST table: watch the table that it belongs to",
}


class Column(NamedTuple):
    """`type` is what to cast to (a domain's base type, schema-qualified where needed); `type_name` its bare name."""

    name: str
    type_name: str
    is_enum: bool
    type: str
    not_null: bool


class Table(NamedTuple):
    """`unique_keys`: columns of each usable unique index with whether it is checked at once (not deferrable)."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    is_partition: bool
    inherits: bool
    row_security: bool
    owned: bool
    columns: dict[str, Column]
    unique_keys: list[tuple[list[str], bool]]

    @property
    def title(self) -> str:
        return f"{self.schema}.{self.name}"


def find(connection: psycopg.Connection[Any], name: str) -> Table:
    """The table that a person means by `name`: as SQL reads it, else with exactly these letters; `public` when no
    schema is given. Raises InvalidSourceError."""
    tried: list[tuple[str, str]] = []
    try:
        row = connection.execute("SELECT parse_ident(%s)", (name,)).fetchone()
        tried.append(_place(row[0] if row else []))
    except psycopg.errors.InvalidParameterValue:
        pass
    tried.append(_place(name.split(".", 1)))
    for schema, table in tried:
        if found := describe(connection, schema, table):
            return found
    raise InvalidSourceError(
        f"there is no table {name} in this database; name it as schema.table, with double quotes around capitals and dots"
    )


def _place(parts: Sequence[str]) -> tuple[str, str]:
    return ("public", parts[0]) if len(parts) == 1 else (parts[0], ".".join(parts[1:]))


def describe(connection: psycopg.Connection[Any], schema: str, table: str) -> Table | None:
    """The table of exactly this name, or None."""
    row = connection.execute(_RELATION, (schema, table)).fetchone()
    if row is None:
        return None
    columns = {c[0]: Column(*c) for c in connection.execute(_COLUMNS, (row[0],))}
    keys = [(k[0], k[1]) for k in connection.execute(_UNIQUE_INDEXES, (row[0],)) if k[0]]
    return Table._make([*row, columns, keys])


def has_columns(table: Table, source: Source) -> bool:
    """Whether every column that the source names is (still) there."""
    return {*source.key_columns, *source.text_columns, *source.metadata_columns} <= table.columns.keys()


def trouble(connection: psycopg.Connection[Any], source: Source) -> str:
    """What keeps a watched table from being followed, in one sentence; "" when nothing does."""
    table = describe(connection, source.schema, source.table)
    if table is None:
        return "the table is not there: it was dropped or renamed; unwatch it"
    if not has_columns(table, source):
        return "a column that it maps is not there: watch the table again with the columns of now"
    count = connection.execute(_TRIGGERS, (table.oid,)).fetchone()
    return (
        "" if count and count[0] == 4 else "triggers are missing or disabled: watch the table again, then backfill it"
    )


def split_columns(values: Sequence[str]) -> tuple[str, ...]:
    """Column names of a repeatable option, each of them a comma-separated list; `"a,b"` quotes one name."""
    names = [name for line in csv.reader(values, skipinitialspace=True) for name in line if name]
    return tuple(dict.fromkeys(names))


def check(table: Table, key: Sequence[str], text: Sequence[str], metadata: Sequence[str]) -> None:
    """Raise InvalidSourceError unless the table can be watched with this mapping."""
    _check_table(table)
    for role, names in (("key", key), ("text template", text), ("metadata", metadata)):
        for name in names:
            if name not in table.columns:
                raise InvalidSourceError(
                    f"{table.title} has no column {name!r}, which the {role} names; its columns are {', '.join(table.columns)}"
                )
    check_metadata_columns(metadata)
    _check_key(table, list(key))


def _check_table(table: Table) -> None:
    if table.kind in _WHY_NOT:
        raise InvalidSourceError(f"{table.title} {_WHY_NOT[table.kind]}")
    if table.persistence == "u":
        raise InvalidSourceError(
            f"{table.title} is unlogged, and a crash empties it without firing triggers: ALTER TABLE … SET LOGGED first"
        )
    if table.persistence == "t":
        raise InvalidSourceError(f"{table.title} is a temporary table, which no other session can read")
    if table.is_partition:
        raise InvalidSourceError(
            f"{table.title} is a partition, and a write that names the whole table fires no trigger of a partition: "
            "detach it first, or copy the rows into a plain table"
        )
    if table.inherits:
        raise InvalidSourceError(
            f"{table.title} takes part in inheritance, and a write to a parent fires no triggers of its children: "
            "end it (ALTER TABLE … NO INHERIT) or watch another table"
        )
    if not table.owned:
        raise InvalidSourceError(
            f"this database user does not own {table.title} and may not put triggers on it; run the command as its owner"
        )
    if table.row_security:
        raise InvalidSourceError(
            f"row level security of {table.title} would hide rows from aviary_pelican, and hidden rows look deleted; "
            "ALTER ROLE aviary_pelican BYPASSRLS first"
        )


def _check_key(table: Table, key: list[str]) -> None:
    columns = ", ".join(key)
    if not key:
        raise InvalidSourceError(f"{table.title} needs a key: name its unique column or columns with --key")
    for name in key:
        column = table.columns[name]
        if not (column.is_enum or column.type_name in KEY_TYPE_NAMES):
            raise InvalidSourceError(f"key column {name!r} is of type {column.type}; a key may be {KEY_TYPES}")
        if not column.not_null:
            raise InvalidSourceError(f"key column {name!r} may be NULL; ALTER TABLE … ALTER {name} SET NOT NULL first")
    same = [(names, immediate) for names, immediate in table.unique_keys if sorted(names) == sorted(key)]
    if not same:
        raise InvalidSourceError(
            f"{table.title} has no unique index on exactly ({columns}), so that is no key; "
            "CREATE UNIQUE INDEX for it, or name the columns of one that is there"
        )
    at_once = [names for names, immediate in same if immediate]
    if not at_once:
        raise InvalidSourceError(
            f"the unique constraint on ({columns}) of {table.title} is deferrable, so two rows may share a key for a "
            "while; make it NOT DEFERRABLE or add a unique index"
        )
    if key not in at_once:
        raise InvalidSourceError(
            f"the unique index of {table.title} has its columns in the order ({', '.join(at_once[0])}); give --key like that"
        )
