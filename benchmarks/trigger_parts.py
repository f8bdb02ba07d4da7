"""What each part of a trigger costs an update of one row: twins of one table, each with a trigger that does more.

    .venv/bin/python -m benchmarks.trigger_parts
    .venv/bin/python -m benchmarks.trigger_parts --commit-delay 1000 --updates 2000   # a disk that takes a millisecond more
    PGOPTIONS="-c synchronous_commit=off" .venv/bin/python -m benchmarks.trigger_parts    # commits that wait for no disk

All tables hold the same rows and take the same updates, by turns of a hundred in an order that is shuffled each time; every
update is its own durable commit. The medians over the turns are told. CPU is the server process's, by the scheduler's own
clock (Linux). `bulk` is one statement that changes every row; only triggers for each row take part in it.
"""

import argparse
import json
import random
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from benchmarks.machine import describe
from benchmarks.triggers import BLOCK, Connection, Rows, Spent, copy, spent, update
from local import catalogue
from local.postgres import temporary_server
from pelican.migrate import migrate

PINNED = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
TRANSITION = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
SAME_TEXT = "record_image_eq(ROW(o.description, o.name), ROW(n.description, n.name))"
SAME = f"{SAME_TEXT} AND record_image_eq(ROW(o.sku, o.category, o.price), ROW(n.sku, n.category, n.price))"
COMPARE = f"new_key := n.id::text; text_unchanged := {SAME_TEXT}; IF {SAME} THEN RETURN NULL; END IF;"
RECORD = (
    "INSERT INTO sync.outbox (source_id, shard, keys, key_count, text_unchanged) "
    "VALUES (1, (hashtextextended(new_key, 0) & 15)::smallint, ARRAY[new_key], 1, text_unchanged);"
)
NOTIFY = "void := pg_notify('aviary', '');"
FETCH = (
    f"SELECT n.id::text, {SAME_TEXT}, {SAME} INTO new_key, text_unchanged, same "  # noqa: S608 - constants of this module
    "FROM old_rows o, new_rows n; IF same THEN RETURN NULL; END IF;"
)
WATCH = (
    "SELECT sync.watch('{0}', '{0}', '{{id}}', '{{description,name}}', '{{description}} {{name}}', "
    "'{{sku,name,category,price}}')"
)


class Part(NamedTuple):
    """A trigger for UPDATE. `body` None: no trigger; `in_c`: one that comes with Postgres; `watched`: ours."""

    title: str
    body: str | None
    options: str = ""
    level: str = "ROW"
    referencing: str = ""
    in_c: bool = False
    watched: bool = False

    @property
    def sees_every_row(self) -> bool:
        return self.level == "ROW"


PARTS = (
    Part("no trigger", None),
    Part("Postgres's own in C, which compares the two rows", None, in_c=True),
    Part("a function that does nothing, for each row", ""),
    Part("… that acts as its owner in pinned schemas", "", PINNED),
    Part("… and puts one number into a table without an index", "INSERT INTO public.bare VALUES (1);", PINNED),
    Part("compares the mapped columns", COMPARE, PINNED),
    Part("… and records the key in the outbox", COMPARE + RECORD, PINNED),
    Part("… and notifies", COMPARE + RECORD + NOTIFY, PINNED),
    Part("the same for each statement", FETCH + RECORD + NOTIFY, PINNED, "STATEMENT", TRANSITION),
    Part("ours", None, watched=True),
)


def prepare(connection: Connection, part: Part, table: str, rows: Rows) -> None:
    """Make `table` with these rows, and then its trigger."""
    connection.execute(sql.SQL("CREATE TABLE {} (LIKE products INCLUDING ALL)").format(sql.Identifier(table)))
    copy(connection, table, rows)
    connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
    if part.watched:
        connection.execute(WATCH.format(table).encode())
    elif part.in_c:
        connection.execute(
            f"CREATE TRIGGER part BEFORE UPDATE ON {table} FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()".encode()
        )
    elif part.body is not None:
        body = part.body
        if part.level == "ROW":
            body = body.replace("o.", "OLD.").replace("n.", "NEW.")
        connection.execute(
            f"CREATE FUNCTION {table}() RETURNS trigger LANGUAGE plpgsql {part.options} AS $$ DECLARE new_key text; "
            f"same boolean; text_unchanged boolean; void text; BEGIN {body} RETURN NULL; END $$".encode()
        )
        connection.execute(
            f"CREATE TRIGGER part AFTER UPDATE ON {table} {part.referencing} FOR EACH {part.level} "
            f"EXECUTE FUNCTION {table}()".encode()
        )


def change_every_row(connection: Connection, table: str, number: int) -> None:
    statement = sql.SQL("UPDATE {} SET description = 'Boils ' || id || ' litres at ' || {}").format(
        sql.Identifier(table), sql.Literal(number)
    )
    connection.execute(statement)


def single(connection: Connection, tables: list[str], rows: int, updates: int) -> dict[str, list[Spent]]:
    """What each block of BLOCK updates took, by table."""
    found: dict[str, list[Spent]] = {table: [] for table in tables}
    chosen = random.Random(0).sample(range(1, rows + 1), min(rows, updates))
    connection.execute("CHECKPOINT")
    for start in range(0, len(chosen), BLOCK):
        for table in random.Random(start).sample(tables, len(tables)):
            work = partial(update, connection, table, chosen[start : start + BLOCK], start)
            found[table].append(spent(connection, work))
    return found


def measure(rows: int, updates: int, bulks: int, commit_delay: int) -> dict[str, Any]:
    """The report: microseconds of one update, and of one row of a statement that changes all, by part."""
    values = [(p.sku, p.name, p.description, p.category, p.price) for p in catalogue.products(rows)]
    tables = [f"part_{number}" for number in range(len(PARTS))]
    bulk: dict[str, list[float]] = {table: [] for part, table in zip(PARTS, tables, strict=True) if part.sees_every_row}
    with temporary_server() as server, psycopg.connect(server.dsn(), autocommit=True) as connection:
        migrate(connection)
        connection.execute("CREATE TABLE bare (number bigint)")
        for part, table in zip(PARTS, tables, strict=True):
            prepare(connection, part, table, values)
        connection.execute("SELECT set_config('commit_delay', %s, false)", (str(commit_delay),))
        connection.execute("SET commit_siblings = 0")
        found = single(connection, tables, rows, updates)
        for number in range(bulks):
            for table in random.Random(number).sample(sorted(bulk), len(bulk)):
                started = time.perf_counter()
                change_every_row(connection, table, number)
                bulk[table].append((time.perf_counter() - started) / rows)
                connection.execute(sql.SQL("VACUUM {}").format(sql.Identifier(table)))
    report: dict[str, Any] = {"machine": describe(), "rows": rows, "updates": updates, "commit_delay": commit_delay}
    report["parts"] = {}
    for part, table in zip(PARTS, tables, strict=True):
        # The first block plans the statements.
        clock = [1e6 * one.clock / BLOCK for one in found[table][1:]]
        report["parts"][part.title] = {
            "microseconds": round(statistics.median(clock), 1),
            "quartiles": [round(value, 1) for value in statistics.quantiles(clock, n=4)[::2]],
            "cpu_microseconds": round(1e6 * statistics.median(one.cpu for one in found[table][1:]) / BLOCK, 1),
            "bulk_microseconds_a_row": round(1e6 * statistics.median(bulk[table]), 2) if bulk.get(table) else None,
        }
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each table (20000)")
    parser.add_argument("--updates", type=int, default=7_000, help="updates of each table (7000)")
    parser.add_argument("--bulks", type=int, default=3, help="statements that change every row (3)")
    parser.add_argument("--commit-delay", type=int, default=0, help="microseconds a commit waits besides (0)")
    parser.add_argument("--json", type=Path, help="write the report there")
    options = parser.parse_args()
    report = measure(options.rows, options.updates, options.bulks, options.commit_delay)
    base = report["parts"][PARTS[0].title]
    for title, one in report["parts"].items():
        clock, cpu, bulk = (one[what] for what in ("microseconds", "cpu_microseconds", "bulk_microseconds_a_row"))
        line = f"{title:52} {clock:8,.1f} µs ({clock / base['microseconds']:.2f} times), CPU {cpu:6.1f} µs"
        if bulk is not None:
            line += f", bulk {bulk:6.2f} µs a row ({bulk / base['bulk_microseconds_a_row']:.2f} times)"
        print(line)
    print(json.dumps(report["machine"]))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
