"""One rule for a row's key in SQL and in Python, and the way back from a key to its row."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from aviary.source import key_text
from pelican.service import Pelican
from pelican.watch import watch
from tests.services.pelican.harness import MemoryQueue, Store, settings_for

NASTY = [
    "",
    " ",
    "a",
    'quote " and \\ backslash',
    "'; DROP TABLE products; --",
    "tab\tline\nreturn\rfeed\fback\b",
    "\x01\x1f\x7f\x80\x9f",
    "\u2028\u2029\ufffe\uffff",
    "naïve café — “curly”",
    "שלום עולם",
    "👩‍👩‍👧‍👦🦩",
    "%s %(x)s %% {braces}",
    '["a", "b"]',
    "x" * 600,
]
WEIRD_TABLE = '"We ird%s"."Ta.b""le"'


def sql_key(store: Store, values: Sequence[str]) -> str:
    columns = [f"k{number}" for number, _ in enumerate(values)]
    with store.connect() as connection:
        row = connection.execute("SELECT sync.key_expression(%s)", (columns,)).fetchone()
        assert row is not None
        fields = sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(sql.Literal(value), sql.Identifier(column))
            for value, column in zip(values, columns, strict=True)
        )
        found = connection.execute(sql.SQL("SELECT {} FROM (SELECT {}) r").format(sql.SQL(row[0]), fields)).fetchone()
        assert found is not None
        return str(found[0])


@pytest.mark.parametrize("value", NASTY)
def test_keys_in_sql_equal_keys_in_python(shared_store: Store, value: str) -> None:
    for values in ([value], [value, "b"], ["a", value, value]):
        assert sql_key(shared_store, values) == key_text(values)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(TEXT, min_size=1, max_size=4))
@example(["\u001f", "\x7f"])
@settings(max_examples=40, deadline=None)
def test_any_text_makes_the_same_key_in_sql_and_in_python(shared_store: Store, values: list[str]) -> None:
    assert sql_key(shared_store, values) == key_text(values)


@pytest.mark.parametrize(
    ("key_type", "values"),
    [
        ("text", [value for value in NASTY if value]),
        ("varchar(700)", ["a", "A", " a", "a ", "é", "e\u0301"]),
        ("char(3)", ["a", "ab", " a"]),
        ("uuid", ["6f1a8dfe-6f5e-4b39-8c60-5d4f2f5f0f53"]),
        ("smallint", ["-5"]),
        ("int", ["2147483647", "0"]),
        ("bigint", ["-9223372036854775808"]),
        ("numeric", ["1.0", "1.25", "-0.5"]),
        ("date", ["2024-02-29", "0044-03-15 BC", "infinity"]),
        ("timestamp", ["2024-02-29 12:30:00.5"]),
        ("timestamptz", ["2024-02-29 12:30:00.5+00"]),
        ("boolean", ["true", "false"]),
        ("mood", ["sad", "o'k"]),
        ("positive", ["7"]),
    ],
)
def test_a_row_is_found_again_by_its_key(shared_store: Store, key_type: str, values: list[str]) -> None:
    memory = MemoryQueue()
    with shared_store.connect() as connection:
        connection.execute("DROP TABLE IF EXISTS things; DROP TYPE IF EXISTS mood; DROP DOMAIN IF EXISTS positive")
        connection.execute("SELECT sync.unwatch(name) FROM sync.source WHERE name = 'things'")
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'o''k'); CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
        connection.execute(f"CREATE TABLE things (k {key_type} PRIMARY KEY, label text)")
        watch(connection, table="things", key=["k"], text="{label}", metadata=[])
        # The session's own way to print values must not find its way into a key.
        connection.execute("SET datestyle = 'German, DMY'; SET timezone = 'Asia/Tokyo'")
        for value in values:
            connection.execute("INSERT INTO things VALUES (%s, 'here')", (value,))
        connection.execute("SET datestyle = 'ISO'; SET timezone = 'UTC'")
        texts = {row[0] for row in connection.execute("SELECT k::text FROM things")}
    Pelican(settings_for(shared_store), memory).worker().run_until_idle()
    assert {(change.key, change.op) for change in memory.changes()} == {(text, "upsert") for text in texts}


def test_equal_values_that_print_differently_are_different_keys(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    with store.connect() as connection:
        connection.execute("CREATE TABLE things (k numeric PRIMARY KEY, label text)")
        watch(connection, table="things", key=["k"], text="{label}", metadata=[])
        connection.execute("INSERT INTO things VALUES (1.0, 'here')")
        connection.execute("UPDATE things SET k = 1.00")
    pelican.worker().run_until_idle()
    assert {(change.key, change.op) for change in memory.changes()} == {("1.0", "delete"), ("1.00", "upsert")}


def test_a_composite_key_and_weird_names_work_from_end_to_end(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    rows: list[tuple[Any, ...]] = [(value, day, f"label {n}") for n, value in enumerate(NASTY) for day in (1, 2)]
    with store.connect() as connection:
        connection.execute('CREATE SCHEMA "We ird%s"')
        connection.execute(
            f'CREATE TABLE {WEIRD_TABLE} ("Sel ect" text, "d%d" date, "Label" text, "many" int DEFAULT 3, '
            '"old_key" text DEFAULT \'x\', key text, "m""q" text[] DEFAULT \'{a,b}\', PRIMARY KEY ("Sel ect", "d%d"))'
        )
        watch(
            connection,
            table=WEIRD_TABLE,
            key=["Sel ect", "d%d"],
            text="{Label}{key}",
            metadata=["many", "old_key", 'm"q'],
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                f'INSERT INTO {WEIRD_TABLE.replace("%", "%%")} ("Sel ect", "d%%d", "Label") '
                "VALUES (%s, make_date(2024, 1, %s), %s)",
                rows,
            )
        pelican.worker().run_until_idle()
        connection.execute(f'UPDATE {WEIRD_TABLE} SET "many" = 4')
        connection.execute(f"DELETE FROM {WEIRD_TABLE} WHERE \"Sel ect\" = 'a'")
    pelican.worker().run_until_idle()
    state = {change.key: change for change in memory.changes()}
    assert set(state) == {key_text([value, f"2024-01-0{day}"]) for value in NASTY for day in (1, 2)}
    gone = {key for key, change in state.items() if change.op == "delete"}
    assert gone == {key_text(["a", "2024-01-01"]), key_text(["a", "2024-01-02"])}
    assert state[key_text([NASTY[3], "2024-01-02"])].metadata == {"many": 4, "old_key": "x", 'm"q': ["a", "b"]}
    assert state[key_text([NASTY[3], "2024-01-02"])].text_unchanged
