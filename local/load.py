"""Loads a CSV file into a watched table, all or nothing.

The database judges the rows, because it has the rules: every cell is first staged as text, then each type, NOT NULL,
CHECK and unique key of the table is asked about all rows, so that one run names every bad row. Only then are rows
written, in one statement: new keys are inserted, known ones updated, equal ones left alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from local.csvfile import CsvFile, Problem, parse

# A B-tree entry has 2,704 bytes at most, and a key is in one.
KEY_LIMIT_BYTES = 2_000
# Types that take NaN and infinities, which no index and no JSON has.
FLOATING = ("numeric", "real", "double precision")
NOT_FINITE = r"^\s*[+-]?(nan|inf|infinity)\s*$"


class LoadError(RuntimeError):
    """The file cannot be loaded at all; the message is one sentence."""


class Column(NamedTuple):
    """A column that a file may fill. `default` is its SQL expression, "" where it has none."""

    name: str
    type: str
    required: bool
    default: str


class Rule(NamedTuple):
    """A wish of the application that the table does not state: SQL over `{0}` that is true for a bad value."""

    column: str
    broken: str
    reason: str


class Result(NamedTuple):
    """What happened. With `problems` nothing was written."""

    problems: list[Problem]
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    unused: tuple[str, ...] = ()


# What the frontend demands of a product too.
RULES = {
    "public.products": [
        Rule("sku", "length({0}) > 100", "is longer than 100 characters"),
        Rule("name", "length({0}) > 500", "is longer than 500 characters"),
        Rule("description", "length({0}) > 1048576", "is longer than 1,048,576 characters"),
        Rule("category", "length({0}) > 100", "is longer than 100 characters"),
        Rule("price", "{0} < 0", "is negative"),
        Rule("attributes", "jsonb_typeof({0}) <> 'object'", "is JSON, but not an object"),
    ]
}
# Columns that say when a row was last written: set on update unless the file has them.
TOUCHED = {"public.products": "updated_at"}


def load(
    connection: psycopg.Connection[Any], source: str, data: bytes, mapping: Mapping[str, str] | None = None
) -> Result:
    """Load `data` into the table of `source`. One transaction: it has all rows or none.

    Raises LoadError or csvfile.HeaderError where there is no telling good rows from bad ones.
    """
    with connection.transaction():
        relation = _relation(connection, source)
        columns = _columns(connection, relation, mapping or {})
        file = parse(data, [column.name for column in columns], mapping)
        used = [column for column in columns if column.name in file.columns]
        missing = [column.name for column in columns if column.required and column.name not in file.columns]
        if missing:
            raise LoadError(
                f"no header is {' or '.join(missing)}, which every row needs; the file's unused headers are "
                f"{', '.join(file.unused) or 'none'}; use --map {missing[0]}=HEADER"
            )
        key = _key(connection, relation, file.columns)
        stage = _Stage(connection, used, file)
        problems = file.problems + stage.problems(relation, key)
        if problems:
            return Result(sorted(set(problems)), unused=file.unused)
        inserted, updated = stage.write(relation, key)
    return Result([], inserted, updated, len(file.rows) - inserted - updated, file.unused)


def _relation(connection: psycopg.Connection[Any], source: str) -> tuple[str, str]:
    known = {
        name: (schema, table)
        for name, schema, table in connection.execute("SELECT name, schema_name, table_name FROM sync.source")
    }
    if source not in known:
        raise LoadError(
            f"{source!r} is not watched (watched: {', '.join(sorted(known)) or 'nothing'}); "
            "make it so with `python -m pelican watch`"
        )
    return known[source]


def _columns(
    connection: psycopg.Connection[Any], relation: tuple[str, str], mapping: Mapping[str, str]
) -> list[Column]:
    """The table's columns in order, without generated ones, and without identity columns that nobody asked for: a
    file's own "id" is rarely the table's."""
    rows = connection.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,"
        " coalesce(pg_get_expr(d.adbin, d.adrelid), '')"
        " FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
        " WHERE a.attrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND a.attnum > 0 AND NOT a.attisdropped"
        " AND a.attgenerated = '' AND a.attidentity <> 'a' ORDER BY a.attnum",
        relation,
    ).fetchall()
    return [
        Column(name, type_, not_null and not default, default)
        for name, type_, not_null, identity, default in rows
        if not identity or name in mapping
    ]


def _key(connection: psycopg.Connection[Any], relation: tuple[str, str], columns: Sequence[str]) -> list[str]:
    """The columns that tell a known row: the primary key where the file has it, else another unique key, else none."""
    row = connection.execute(
        "SELECT array_agg(a.attname ORDER BY k.n) FROM pg_index i"
        " CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, n)"
        " LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
        " WHERE i.indrelid = format('%%I.%%I', %s::text, %s::text)::regclass"
        " AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = i.indnkeyatts"
        " GROUP BY i.indexrelid, i.indisprimary HAVING array_agg(a.attname::text) <@ %s::text[]"
        " ORDER BY i.indisprimary DESC, count(*), i.indexrelid LIMIT 1",
        (*relation, list(columns)),
    ).fetchone()
    return list(row[0]) if row else []


class _Stage:
    """The file's rows in two temporary tables: `staged` (texts) and, of those that are well-formed, `typed`."""

    def __init__(self, connection: psycopg.Connection[Any], columns: Sequence[Column], file: CsvFile) -> None:
        self._connection = connection
        self._columns = columns
        texts = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(c.name)) for c in columns)
        # Its own names may not clash with a column's, so the line has one that no person would choose.
        connection.execute(sql.SQL('CREATE TEMP TABLE staged ("_ line" integer, {}) ON COMMIT DROP').format(texts))
        with connection.cursor().copy("COPY pg_temp.staged FROM STDIN") as copy:
            for row in file.rows:
                copy.write_row((row.line, *row.cells))

    def problems(self, relation: tuple[str, str], key: Sequence[str]) -> list[Problem]:
        """Every row that the table, or the application, would not take."""
        found: list[Problem] = []
        for column in self._columns:
            found += self._malformed(column)
        self._make_typed(sorted({problem.line for problem in found}))
        for column in self._columns:
            if column.name in key and column.type.startswith(("text", "character")):
                too_long = f"octet_length({{0}}) > {KEY_LIMIT_BYTES}"
                found += self._broken(Rule(column.name, too_long, f"is a key of more than {KEY_LIMIT_BYTES:,} bytes"))
        for rule in RULES.get(".".join(relation), []):
            if any(column.name == rule.column for column in self._columns):
                found += self._broken(rule)
        return found + self._checks(relation) + self._duplicates(key)

    def write(self, relation: tuple[str, str], key: Sequence[str]) -> tuple[int, int]:
        """Insert and update; how many of each."""
        table = sql.Identifier(*relation)
        names = [sql.Identifier(column.name) for column in self._columns]
        rest = [name for name, column in zip(names, self._columns, strict=True) if column.name not in key]
        conflict: sql.Composed | sql.SQL = sql.SQL("")
        if key and rest:
            changes = [sql.SQL("{0} = excluded.{0}").format(name) for name in rest]
            touched = TOUCHED.get(".".join(relation))
            if touched and all(column.name != touched for column in self._columns):
                changes.append(sql.SQL("{} = now()").format(sql.Identifier(touched)))
            conflict = sql.SQL(
                "ON CONFLICT ({key}) DO UPDATE SET {changes} WHERE record_image_ne(ROW({old}), ROW({new}))"
            ).format(
                key=_list(sql.Identifier(name) for name in key),
                changes=_list(changes),
                old=_list(sql.SQL("t.{}").format(name) for name in rest),
                new=_list(sql.SQL("excluded.{}").format(name) for name in rest),
            )
        elif key:
            conflict = sql.SQL("ON CONFLICT DO NOTHING")
        try:
            row = self._connection.execute(
                sql.SQL(
                    "WITH written AS (INSERT INTO {table} AS t ({names}) SELECT {names} FROM pg_temp.typed"
                    ' ORDER BY "_ line" {conflict} RETURNING t.xmax = 0 AS is_new)'
                    " SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written"
                ).format(table=table, names=_list(names), conflict=conflict)
            ).fetchone()
        except psycopg.Error as error:
            raise LoadError(
                f"the table refused the rows, and nothing was loaded: {error.diag.message_primary}"
            ) from None
        return (row[0], row[1]) if row else (0, 0)

    def _malformed(self, column: Column) -> list[Problem]:
        name = sql.Identifier(column.name)
        found = []
        if column.required:
            blank = sql.SQL('SELECT "_ line" FROM pg_temp.staged WHERE {} IS NULL').format(name)
            found = [Problem(line, f"{column.name} is blank, and every row needs one") for (line,) in self._ask(blank)]
        if column.type.startswith(FLOATING):
            not_finite = sql.SQL('SELECT "_ line" FROM pg_temp.staged WHERE {} ~* {}').format(name, NOT_FINITE)
            found += [Problem(line, f"{column.name} is not a finite number") for (line,) in self._ask(not_finite)]
        wrong = sql.SQL(
            'SELECT "_ line", (pg_input_error_info({name}, {type})).message FROM pg_temp.staged'
            " WHERE NOT pg_input_is_valid({name}, {type})"
        ).format(name=name, type=column.type)
        known = {problem.line for problem in found}
        return found + [
            Problem(line, f"{column.name}: {message}") for line, message in self._ask(wrong) if line not in known
        ]

    def _make_typed(self, bad_lines: Sequence[int]) -> None:
        def value(column: Column) -> sql.Composable:
            cast = sql.SQL("{}::{}").format(sql.Identifier(column.name), sql.SQL(column.type))
            if column.default:
                cast = sql.SQL("coalesce({}, {})").format(cast, sql.SQL(column.default))
            return sql.SQL("{} AS {}").format(cast, sql.Identifier(column.name))

        self._connection.execute(
            sql.SQL(
                'CREATE TEMP TABLE typed ON COMMIT DROP AS SELECT "_ line", {} FROM pg_temp.staged'
                ' WHERE "_ line" <> ALL ({})'
            ).format(_list(value(column) for column in self._columns), sql.Literal(list(bad_lines)))
        )

    def _broken(self, rule: Rule) -> list[Problem]:
        broken = sql.SQL(rule.broken).format(sql.Identifier(rule.column))
        query = sql.SQL('SELECT "_ line" FROM pg_temp.typed WHERE {}').format(broken)
        return [Problem(line, f"{rule.column} {rule.reason}") for (line,) in self._ask(query)]

    def _checks(self, relation: tuple[str, str]) -> list[Problem]:
        """Rows that break a CHECK of the table whose columns are all in the file."""
        checks = self._connection.execute(
            "SELECT c.conname, pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c"
            " WHERE c.contype = 'c' AND c.conrelid = format('%%I.%%I', %s::text, %s::text)::regclass"
            " AND (SELECT array_agg(a.attname::text) FROM pg_attribute a"
            "  WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) <@ %s::text[]",
            (*relation, [column.name for column in self._columns]),
        ).fetchall()
        found = []
        for name, expression in checks:
            query = sql.SQL('SELECT "_ line" FROM pg_temp.typed WHERE NOT ({})').format(sql.SQL(expression))
            found += [Problem(line, f"breaks the table's rule {name}: {expression}") for (line,) in self._ask(query)]
        return found

    def _duplicates(self, key: Sequence[str]) -> list[Problem]:
        if not key:
            return []
        columns = _list(sql.Identifier(name) for name in key)
        query = sql.SQL(
            'SELECT "_ line", first FROM (SELECT "_ line", min("_ line") OVER (PARTITION BY {}) AS first'
            ' FROM pg_temp.typed WHERE ROW({}) IS NOT NULL) d WHERE "_ line" > first'
        ).format(columns, columns)
        return [Problem(line, f"has the same {' and '.join(key)} as line {first}") for line, first in self._ask(query)]

    def _ask(self, query: sql.Composed) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()


def _list(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
