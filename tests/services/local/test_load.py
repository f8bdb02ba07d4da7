"""A CSV file into a watched table of a real Postgres: every bad row is named, and then nothing is written."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from local.csvfile import HeaderError, Problem
from local.load import LoadError, Result, load
from pelican.migrate import migrate
from tests.conftest import Database

Connection = psycopg.Connection[Any]
HEADER = "sku,name,description,category,price,attributes\n"


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        migrate(connection)
        yield connection


def load_products(connection: Connection, text: str, mapping: dict[str, str] | None = None) -> Result:
    return load(connection, "products", text.encode(), mapping)


def products(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT sku, name, description, category, price::text, attributes FROM products ORDER BY sku"
    ).fetchall()


def watch(connection: Connection, table: str, key: list[str], text: str) -> None:
    connection.execute(
        "SELECT sync.watch(%s::regclass, %s, %s, %s, %s, '{}')", (f"public.{table}", table, key, [text], f"{{{text}}}")
    )


def test_rows_arrive_as_they_are_in_the_file(connection: Connection) -> None:
    result = load_products(
        connection,
        "\ufeffSKU,Name,description,Category,PRICE,attributes,colour\n"
        'A1,Kettle,"Boils\nwater, fast",Kitchen,12.50,"{""litres"": 1.7}",red\n'
        "A2,كوب 🫖,,,,,\n",
    )
    assert result == Result([], inserted=2, unused=("colour",))
    assert products(connection) == [
        ("A1", "Kettle", "Boils\nwater, fast", "Kitchen", "12.50", {"litres": 1.7}),
        ("A2", "كوب 🫖", None, None, None, {}),
    ]


def test_what_was_loaded_is_in_the_outbox_and_what_did_not_change_is_not(connection: Connection) -> None:
    load_products(connection, HEADER + "A1,Kettle,,,1,\nA2,Cup,,,2,\n")
    connection.execute("TRUNCATE sync.outbox")
    result = load_products(connection, HEADER + "A1,Kettle,,,1,\nA2,Mug,,,2,\nA3,Jug,,,3,\n")
    assert result == Result([], inserted=1, updated=1, unchanged=1)
    outbox = connection.execute("SELECT sum(cardinality(keys)) FROM sync.outbox").fetchone()
    assert outbox == (2,)


def test_an_update_by_file_keeps_other_columns_and_says_when(connection: Connection) -> None:
    load_products(connection, HEADER + "A1,Kettle,boils,Kitchen,1,\n")
    connection.execute("UPDATE products SET updated_at = '2020-01-01', created_at = '2020-01-01'")
    load_products(connection, "sku,name\nA1,Samovar\n")
    assert products(connection) == [("A1", "Samovar", "boils", "Kitchen", "1.00", {})]
    touched = connection.execute("SELECT updated_at > '2021-01-01', created_at > '2021-01-01' FROM products").fetchone()
    assert touched == (True, False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("A1,Cup,,,NaN,", "price is not a finite number"),
        ("A1,Cup,,,Infinity,", "price is not a finite number"),
        ("A1,Cup,,,-inf,", "price is not a finite number"),
        ("A1,Cup,,,-0.01,", "price is negative"),
        ("A1,Cup,,,cheap,", 'price: invalid input syntax for type numeric: "cheap"'),
        ("A1,Cup,,,10000000000,", "price: numeric field overflow"),
        ("A1,,,,1,", "name is blank, and every row needs one"),
        ("A1,  ,,,1,", "name is blank, and every row needs one"),
        (",Cup,,,1,", "sku is blank, and every row needs one"),
        ("A1,Cup,,,1,{", "attributes: invalid input syntax for type json"),
        ("A1,Cup,,,1,[]", "attributes is JSON, but not an object"),
        ('A1,Cup,,,1,"{""a"": ""\\u0000""}"', "attributes: unsupported Unicode escape sequence"),
        ("A0,Cup,,,1,", "has the same sku as line 2"),
        (f"{'x' * 101},Cup,,,1,", "sku is longer than 100 characters"),
        (f"A1,{'x' * 501},,,1,", "name is longer than 500 characters"),
        (f"A1,Cup,{'x' * 1_048_577},,1,", "description is longer than 1,048,576 characters"),
        (f"A1,Cup,,{'x' * 101},1,", "category is longer than 100 characters"),
        ("A1,Cup,,,1", "5 cells, but the header has 6"),
        ("A1,C\0p,,,1,", "a NUL byte, which text in Postgres cannot hold; remove it"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_loaded(connection: Connection, row: str, reason: str) -> None:
    result = load_products(connection, f"{HEADER}A0,Good,,,1,\n{row}\nA9,Good,,,1,\n")
    assert result == Result([Problem(3, reason)])
    assert products(connection) == []


def test_every_bad_row_is_named_in_one_run_in_order_of_lines(connection: Connection) -> None:
    result = load_products(
        connection, HEADER + 'A1,Cup,"two\nlines",,NaN,\nA2,,,,x,\nA3,Jug\nA4,Pot,,,-1,\nA4,Pan,,,1,\nA5,"Lid\n'
    )
    assert result.problems == [
        Problem(2, "price is not a finite number"),
        Problem(4, "name is blank, and every row needs one"),
        Problem(4, 'price: invalid input syntax for type numeric: "x"'),
        Problem(5, "2 cells, but the header has 6"),
        Problem(6, "price is negative"),
        Problem(7, "has the same sku as line 6"),
        Problem(8, "a quote opens here and is never closed"),
    ]
    assert products(connection) == []


def test_a_million_characters_are_loaded(connection: Connection) -> None:
    assert load_products(connection, HEADER + f"A1,Book,{'word ' * 200_000},,1,\n").inserted == 1


def test_the_ids_of_the_file_are_not_the_ids_of_the_table_unless_asked_for(connection: Connection) -> None:
    assert load_products(connection, "id,sku,name\n77,A1,Cup\n").unused == ("id",)
    assert load_products(connection, "id,sku,name\n78,A2,Mug\n", {"id": "id"}).inserted == 1
    assert connection.execute("SELECT id, sku FROM products ORDER BY sku").fetchall() == [(1, "A1"), (78, "A2")]


def test_a_column_that_every_row_needs_must_be_in_the_file(connection: Connection) -> None:
    with pytest.raises(
        LoadError, match="no header is name, which every row needs; the file's unused headers are title"
    ):
        load_products(connection, "sku,title\nA1,Cup\n")
    assert load_products(connection, "sku,title\nA1,Cup\n", {"name": "Title"}).inserted == 1


def test_a_file_of_an_unknown_table_is_refused(connection: Connection) -> None:
    with pytest.raises(LoadError, match=r"'articles' is not watched \(watched: products\)"):
        load(connection, "articles", b"a\n1\n")


def test_a_file_that_is_no_text_is_refused(connection: Connection) -> None:
    with pytest.raises(HeaderError):
        load(connection, "products", b"\x89PNG\r\n\x1a\n\0\0\0")


def test_another_watched_table_is_held_to_its_own_rules(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE public.notes (author text, day date, body varchar(5), stars int NOT NULL DEFAULT 3,"
        " CONSTRAINT few CHECK (stars < 6), PRIMARY KEY (author, day))"
    )
    watch(connection, "notes", ["author", "day"], "body")
    bad = load(
        connection,
        "notes",
        b"author,day,body,stars\nann,2024-02-30,x,1\nann,2024-03-01,toolong,1\nann,2024-03-02,x,9\n"
        b"ann,2024-03-03,x,\nann,3 March 2024,x,\n",
    )
    assert [(line, reason.split(":")[0]) for line, reason in bad.problems] == [
        (2, "day"),
        (3, "body"),
        (4, "breaks the table's rule few"),
        (6, "has the same author and day as line 5"),
    ]
    assert load(connection, "notes", b"author,day,body,stars\nann,2024-03-03,x,\n").inserted == 1
    assert connection.execute("SELECT stars FROM notes").fetchall() == [(3,)]


def test_a_table_without_a_unique_key_takes_every_row(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.lines (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)")
    watch(connection, "lines", ["id"], "body")
    for _ in range(2):
        assert load(connection, "lines", b"body\nx\nx\n").inserted == 2


def test_a_refusal_by_the_database_itself_loads_nothing(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.tags (id int PRIMARY KEY, tag text UNIQUE)")
    watch(connection, "tags", ["id"], "tag")
    with pytest.raises(LoadError, match="the table refused the rows, and nothing was loaded: duplicate key"):
        load(connection, "tags", b"id,tag\n1,red\n2,red\n")
    assert connection.execute("SELECT count(*) FROM tags").fetchone() == (0,)
