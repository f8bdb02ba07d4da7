"""What a user's own writes pay for the triggers: COPY and single-row updates on a watched table and on its twin.

    .venv/bin/python -m benchmarks.triggers
    .venv/bin/python -m benchmarks.triggers --rounds 9 --rows 100000 --updates 10000 --json build/triggers.json

Both tables are the catalogue's `products`, with the same indexes and the same rows, in one real Postgres with durable
commits. They take turns, COPYs round by round and updates by the hundred, so that a busy machine slows both alike. A ratio
is watched / plain of one round; its median and spread over the rounds are what is told. `cpu_ratio` is the same of the
server process's CPU time: steadier, and higher, because waiting for the disk at a commit is no part of it. Nobody ships
what is captured (no Pelican runs), and the outbox is emptied between rounds.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from psycopg import sql

from benchmarks.machine import describe, summary
from local import catalogue
from local.postgres import temporary_server
from pelican.migrate import migrate

Connection = psycopg.Connection[Any]
Rows = Sequence[tuple[object, ...]]


BLOCK = 100


class Spent(NamedTuple):
    """Seconds by the clock, and of the server process's CPU."""

    clock: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: object) -> "Spent":
        assert isinstance(other, Spent)
        return Spent(self.clock + other.clock, self.cpu + other.cpu)


def cpu_seconds(pid: int) -> float:
    """Of that process so far. A block of updates is about one tick of the usual counter, so Linux's finer one is read."""
    schedstat = Path(f"/proc/{pid}/schedstat")
    if schedstat.exists():
        return int(schedstat.read_text().split()[0]) / 1e9
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def spent(connection: Connection, work: Callable[[], None]) -> Spent:
    """By a call that uses `connection`."""
    pid = connection.info.backend_pid
    before, started = cpu_seconds(pid), time.perf_counter()
    work()
    clock = time.perf_counter() - started
    return Spent(clock, cpu_seconds(pid) - before)


def prepare(connection: Connection) -> None:
    """The watched table as the migrations make it, and a twin that nobody watches."""
    migrate(connection)
    connection.execute("CREATE TABLE plain (LIKE products INCLUDING ALL)")


def copy(connection: Connection, table: str, rows: Rows) -> None:
    statement = sql.SQL("COPY {} (sku, name, description, category, price) FROM STDIN").format(sql.Identifier(table))
    with connection.cursor() as cursor, cursor.copy(statement) as into:
        for row in rows:
            into.write_row(row)


def update(connection: Connection, table: str, ids: list[int], number: int) -> None:
    statement = sql.SQL("UPDATE {} SET description = %s, updated_at = now() WHERE id = %s").format(
        sql.Identifier(table)
    )
    with connection.cursor() as cursor:
        for key in ids:
            cursor.execute(statement, (f"Boils {number} litres of water {key} times a day", key), prepare=True)


def one_round(
    connection: Connection,
    number: int,
    rows: Rows,
    updates: int,
    found: dict[str, dict[str, list[Spent]]],
) -> None:
    """A COPY into each table and `updates` updates of each, added to `found`."""
    tables = ["plain", "products"] if number % 2 == 0 else ["products", "plain"]
    firsts: dict[str, int] = {}
    for table in tables:
        name = sql.Identifier(table)
        connection.execute(sql.SQL("TRUNCATE {}, sync.outbox").format(name))
        connection.execute("CHECKPOINT")
        found["copy"][table].append(spent(connection, partial(copy, connection, table, rows)))
        connection.execute(sql.SQL("VACUUM ANALYZE {}").format(name))
        firsts[table] = (connection.execute(sql.SQL("SELECT min(id) FROM {}").format(name)).fetchone() or (0,))[0]
    chosen = random.Random(number).sample(range(len(rows)), min(updates, len(rows)))
    taken = {table: Spent() for table in tables}
    connection.execute("CHECKPOINT")
    for start in range(0, len(chosen), BLOCK):
        for table in tables if start // BLOCK % 2 == 0 else reversed(tables):
            ids = [firsts[table] + offset for offset in chosen[start : start + BLOCK]]
            taken[table] += spent(connection, partial(update, connection, table, ids, number))
    for table in tables:
        found["update"][table].append(taken[table])


def measure(rows: int, updates: int, rounds: int) -> dict[str, Any]:
    """The report: a COPY of `rows` rows and `updates` updates of each table, `rounds` times."""
    products = list(catalogue.products(rows))
    values = [(p.sku, p.name, p.description, p.category, p.price) for p in products]
    found: dict[str, dict[str, list[Spent]]] = {what: {"plain": [], "products": []} for what in ("copy", "update")}
    with temporary_server() as server, psycopg.connect(server.dsn(), autocommit=True) as connection:
        prepare(connection)
        for number in range(rounds):
            one_round(connection, number, values, updates, found)
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    report: dict[str, Any] = {"machine": describe(), "rows": rows, "updates": updates}
    for what, count in (("copy", rows), ("update", updates)):
        plain, watched = found[what]["plain"], found[what]["products"]
        by_clock = [w.clock / p.clock for w, p in zip(watched, plain, strict=True)]
        by_cpu = [w.cpu / p.cpu for w, p in zip(watched, plain, strict=True)]
        report[what] = {
            "ratios": by_clock,
            "cpu_ratios": by_cpu,
            "ratio": summary(by_clock),
            "cpu_ratio": summary(by_cpu),
            "plain_microseconds_each": round(1e6 * statistics.median(one.clock for one in plain) / count, 1),
            "watched_microseconds_each": round(1e6 * statistics.median(one.clock for one in watched) / count, 1),
        }
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.triggers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000, help="rows of a COPY (100000)")
    parser.add_argument("--updates", type=int, default=10_000, help="single-row updates, each its own commit (10000)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each table (5)")
    parser.add_argument("--json", type=Path, help="write the report there")
    options = parser.parse_args()
    report = measure(options.rows, options.updates, options.rounds)
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
