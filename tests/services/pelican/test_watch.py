"""`watch` and `unwatch`: what they take, what they refuse and how they say so."""

from collections.abc import Sequence

import psycopg
import pytest

from aviary.source import InvalidSourceError
from pelican.cli import main
from pelican.service import Pelican
from pelican.watch import source_named, unwatch, watch
from tests.services.pelican.harness import MemoryQueue, Store, command, settings_for

SCHEMA = """
CREATE TABLE articles (id int PRIMARY KEY, title text, body text, author text, year int, _key text, "$x" text);
CREATE TABLE no_index (id int NOT NULL, title text);
CREATE TABLE nullable (id int UNIQUE, title text);
CREATE TABLE deferred (id int NOT NULL UNIQUE DEFERRABLE, title text);
CREATE TABLE partial (id int NOT NULL, title text); CREATE UNIQUE INDEX ON partial (id) WHERE id > 0;
CREATE TABLE pairs (a int, b int, title text, PRIMARY KEY (a, b));
CREATE TABLE floats (id float8 PRIMARY KEY, title text);
CREATE TABLE ranges (id int, title text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE ranges_1 PARTITION OF ranges FOR VALUES FROM (0) TO (9);
CREATE TABLE parents (id int PRIMARY KEY, title text);
CREATE TABLE children (PRIMARY KEY (id)) INHERITS (parents);
CREATE VIEW a_view AS SELECT * FROM articles;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM articles;
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, title text);
CREATE TABLE hidden (id int PRIMARY KEY, title text); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE TABLE "Odd.Name" (id int PRIMARY KEY, title text);
CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE distant (id int, title text) SERVER elsewhere;
"""


@pytest.fixture(scope="module", autouse=True)
def tables(shared_store: Store) -> None:
    shared_store.execute(SCHEMA)


def refusal(store: Store, *arguments: str) -> str:
    """The sentence that the command refuses with."""
    done = command(store, *arguments)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("pelican: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing", "id", "{title}"], "there is no table nothing in this database; name it as schema.table"),
        (["no_index", "id", "{title}"], "public.no_index has no unique index on exactly (id)"),
        (["nullable", "id", "{title}"], "key column 'id' may be NULL; ALTER TABLE"),
        (["deferred", "id", "{title}"], "the unique constraint on (id) of public.deferred is deferrable"),
        (["partial", "id", "{title}"], "public.partial has no unique index on exactly (id)"),
        (["pairs", "a", "{title}"], "public.pairs has no unique index on exactly (a)"),
        (["pairs", "b,a", "{title}"], "has its columns in the order (a, b); give --key like that"),
        (["floats", "id", "{title}"], "key column 'id' is of type double precision; a key may be smallint,"),
        (["ranges", "id", "{title}"], "public.ranges is partitioned, and a write that names a partition"),
        (["ranges_1", "id", "{title}"], "public.ranges_1 is a partition, and a write that names the whole table"),
        (["parents", "id", "{title}"], "public.parents takes part in inheritance"),
        (["children", "id", "{title}"], "public.children takes part in inheritance"),
        (["a_view", "id", "{title}"], "public.a_view is a view, which holds no rows"),
        (["a_matview", "id", "{title}"], "public.a_matview is a materialized view"),
        (["unlogged", "id", "{title}"], "public.unlogged is unlogged, and a crash empties it"),
        (["distant", "id", "{title}"], "public.distant is a foreign table, and its rows change elsewhere"),
        (["hidden", "id", "{title}"], "row level security of public.hidden would hide rows from aviary_pelican"),
        (["articles", "nr", "{title}"], "public.articles has no column 'nr', which the key names; its columns are id,"),
        (["articles", "id", "{titel}"], "public.articles has no column 'titel', which the text template names"),
        (["articles", "id", "{title}", "autor"], "public.articles has no column 'autor', which the metadata names"),
        (["articles", "id", "no column"], "text template 'no column' names no column"),
        (["articles", "id", "{title"], "text template '{title' does not parse"),
        (["articles", "id", "{title!r}"], "is not a plain column name"),
        (["articles", "id", "{0}"], "text template field {0} is a position, not a column"),
        (["articles", "id", "{title}", "_key"], "metadata column '_key' has a reserved name"),
        (["articles", "id", "{title}", "$x"], "metadata column '$x' has a reserved name"),
        (["articles", "", "{title}"], "public.articles needs a key"),
        (["products", "sku", "{name}"], "public.products is watched with the key (id), which names its vectors"),
        (["products", "id", "{name}", "", "goods"], "public.products is watched under the name products"),
        (["articles", "id", "{title}", "", "a b"], "the name 'a b' cannot be a namespace"),
        (["articles", "id", "{title}", "", "products"], "another table is watched under the name products"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_one_sentence(
    shared_store: Store, arguments: Sequence[str], sentence: str
) -> None:
    table, key, text, metadata, name = (*arguments, "", "")[:5]
    with shared_store.connect() as connection, pytest.raises(InvalidSourceError) as refused:
        watch(
            connection,
            table=table,
            key=[k for k in key.split(",") if k],
            text=text,
            metadata=[m for m in metadata.split(",") if m],
            name=name or None,
        )
    assert sentence in str(refused.value)
    assert shared_store.value("SELECT count(*) FROM sync.source") == 1


def test_a_refusal_is_one_sentence_and_exit_code_2(shared_store: Store) -> None:
    sentence = refusal(shared_store, "watch", "--table", "ranges", "--key", "id", "--text", "{title}")
    assert "public.ranges is partitioned" in sentence
    assert "no table is watched under the name 'nothing'" in refusal(shared_store, "unwatch", "--source", "nothing")


def test_a_table_of_somebody_else_is_refused(shared_store: Store) -> None:
    with (
        shared_store.connect("aviary_pelican") as connection,
        pytest.raises(ValueError, match=r"does not own public\.art"),
    ):
        watch(connection, table="articles", key=["id"], text="{title}", metadata=[])


@pytest.mark.parametrize("name", ['public."Odd.Name"', '"Odd.Name"', "public.Odd.Name"])
def test_a_table_is_found_by_its_sql_name_and_by_its_letters(shared_store: Store, name: str) -> None:
    with shared_store.connect() as connection:
        watched = watch(connection, table=name, key=["id"], text="{title}", metadata=[])
        assert (watched.source.table, watched.source.name) == ("Odd.Name", "odd-name")
        unwatch(connection, "odd-name")


def test_a_busy_table_is_refused_and_no_writer_queues_up_for_long(
    shared_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pelican.watch.LOCK_TIMEOUT", "50ms")
    with shared_store.connect() as writer, shared_store.connect() as connection, writer.transaction():
        writer.execute("INSERT INTO articles (id) VALUES (1000)")
        with pytest.raises(ValueError, match=r"public\.articles is in use"):
            watch(connection, table="articles", key=["id"], text="{title}", metadata=[])


def test_the_command_watches_a_table_and_sends_the_rows_that_are_there(store: Store) -> None:
    store.execute(SCHEMA)
    store.execute("INSERT INTO articles SELECT n, 'Title ' || n, 'Body', 'Ann', 2000 FROM generate_series(1, 5) AS n")
    arguments = ("watch", "--table", "public.articles", "--key", "id", "--text", "{title}\\n{body}\\t!")
    done = command(store, *arguments, "--metadata", "author,year")
    assert (done.returncode, done.stderr) == (0, "")
    assert "public.articles is now watched as articles" in done.stdout
    with store.connect() as connection:
        source = source_named(connection, "articles")
        assert source.text_template == "{title}\n{body}\t!"
        assert (source.key_columns, source.metadata_columns) == (("id",), ("author", "year"))
    done = command(store, "backfill", "--source", "articles")
    assert done.returncode == 0, done.stderr
    assert "of 5 keys sent" in done.stderr
    memory = MemoryQueue()
    Pelican(settings_for(store), memory).worker().run_until_idle()
    assert {(c.key, c.text, c.metadata["author"]) for c in memory.changes()} == {
        (str(n), f"Title {n}\nBody\t!", "Ann") for n in range(1, 6)
    }
    assert {(batch.lane, batch.namespace) for batch in memory.batches()} == {("backfill", "articles")}
    listed = command(store, "sources")
    assert "articles: public.articles by (id)" in listed.stdout
    assert "5 of about 5 keys enqueued, finished" in listed.stdout


def test_an_empty_database_is_told_to_migrate(postgres_server: object, store: Store) -> None:
    store.execute("DROP SCHEMA sync CASCADE")
    assert "run `python -m pelican migrate` first" in refusal(store, "sources")


def test_a_new_mapping_takes_effect_at_once_and_sends_everything_again(
    store: Store, pelican: Pelican, memory: MemoryQueue
) -> None:
    store.add_products(3)
    worker = pelican.worker()
    while worker.turn().name == "WORKED":
        pass
    before = len(memory.changes())
    with store.connect() as connection:
        unchanged = watch(
            connection,
            table="products",
            key=["id"],
            text="{description} {name}",
            metadata=["price", "category", "name", "sku"],
        )
        assert not unchanged.changed
        changed = watch(connection, table="products", key=["id"], text="{name}", metadata=["attributes"])
        assert changed.changed
        assert not changed.is_new
        connection.execute("UPDATE products SET description = 'not mapped any more', price = 7")
        connection.execute("UPDATE products SET attributes = '{\"a\": 1}' WHERE id = 2")
    # The same session as before: it must notice by itself that the mapping is another one.
    worker.run_until_idle()
    after = memory.changes()[before:]
    assert [(c.key, c.text, c.metadata) for c in after] == [("2", "Bottle 2", {"attributes": '{"a": 1}'})]
    assert store.value("SELECT count(*) FROM sync.backfill WHERE finished_at IS NULL") == 1


def test_no_backfill_leaves_the_rows_that_are_there_alone(store: Store) -> None:
    store.execute("CREATE TABLE notes (id int PRIMARY KEY, title text); INSERT INTO notes VALUES (1, 'a')")
    done = command(store, "watch", "--table", "notes", "--key", "id", "--text", "{title}", "--no-backfill")
    assert done.returncode == 0, done.stderr
    assert store.execute("SELECT * FROM sync.backfill") == []


def test_an_unwatched_table_costs_its_writers_nothing_more(store: Store, pelican: Pelican) -> None:
    store.add_products(2)
    with store.connect() as connection:
        unwatch(connection, "products")
        connection.execute("UPDATE products SET name = 'Mug'")
        assert connection.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'aviary%'").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM sync.outbox").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege), store.connect("aviary_pelican") as other:
            other.execute("TABLE products")
    pelican.worker().run_until_idle()


@pytest.mark.parametrize("name", ["", "migrate", "watch", "unwatch", "backfill", "sources"])
def test_every_command_explains_itself_with_an_example(store: Store, name: str) -> None:
    done = command(store, *name.split(), "--help")
    assert done.returncode == 0
    assert "example" in done.stdout
    assert f"python -m pelican {name}".strip() in done.stdout


def test_missing_settings_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AVIARY_QUEUE_URL", raising=False)
    assert refusal(store) == (
        "pelican: settings: AVIARY_QUEUE_URL: Field required; `python -m pelican --help` says what each command needs\n"
    )


def test_a_database_that_is_not_there_is_told_in_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AVIARY_POSTGRES_DSN", "postgresql://me:SECRET@/nowhere?host=/nonexistent")
    assert main(["sources"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pelican: the database does not answer: ")
    assert captured.err.count("\n") == 1
    assert "SECRET" not in captured.err
