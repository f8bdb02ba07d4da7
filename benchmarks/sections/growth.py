"""What grows with the table and must not: a claim, our own share of a search, reconcile's time and memory a row."""

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import psycopg

from benchmarks import preload
from benchmarks.asking import one_by_one
from benchmarks.machine import percentile
from benchmarks.reconcile import reconcile
from benchmarks.rig import Rig
from benchmarks.sections import ROUNDS, Row, Section, ratios
from benchmarks.sections.search import own_share
from local import catalogue
from pelican.outbox import LIVE, PostgresOutbox, Work

CLAIMS, CLAIM_KEYS = 60, 500
# Of each round, one after another: the stand-in looks through every vector, and must not compete with the frontend.
SEARCHES = 40
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (2_000, 6_000)
# The columns that a claim reads of a product.
_BARE = """
SELECT id, description, name, sku, category, price FROM public.products WHERE id = ANY (%s::text[]::bigint[])"""


def measure(quick: bool) -> Iterator[Section]:
    """A stack for each size, all there at once, so that the sizes can take turns."""
    sizes, rounds = (QUICK_SIZES, 2) if quick else (SIZES, ROUNDS)
    data: dict[str, Any] = {"sizes": list(sizes)}
    with ExitStack() as running:
        rigs: dict[int, Rig] = {}
        for size in sizes:
            print(f"growth: filling {size:,} rows", file=sys.stderr)
            rigs[size] = running.enter_context(Rig(settings={"AVIARY_PINECONE_TIMEOUT_SECONDS": "10"}))
            with rigs[size].connect() as connection:
                preload.fill(connection, 1, size)
                _backlog_of_all(connection)
        yield _claims(rigs, rounds, data)
        for size, rig in rigs.items():
            with rig.connect() as connection:
                connection.execute("TRUNCATE sync.outbox")
            # As many vectors in each, all over the table: the stand-in looks through every one, and what it reads for that
            # empties the caches that the frontend works from. Pinecone does neither.
            preload.vectors(rig, every=size // min(sizes))
        yield _searches(rigs, rounds, data)
        for size, rig in rigs.items():
            print(f"growth: {size:,} vectors", file=sys.stderr)
            preload.vectors(rig)
        yield from _reconciles(rigs, rounds, data)


def _backlog_of_all(connection: psycopg.Connection[Any]) -> None:
    """Every row in the outbox, as one UPDATE of the whole table leaves it, once the database has tidied up behind it."""
    connection.execute("UPDATE products SET description = description || '.'")
    connection.execute("VACUUM ANALYZE products")
    connection.execute("ANALYZE sync.outbox")
    connection.execute("CHECKPOINT")


def _ends(sizes: Sequence[int]) -> str:
    return f"{max(sizes):,} / {min(sizes):,} rows"


def _of_ends(found: Mapping[int, Sequence[float]]) -> list[float]:
    """Of the largest size to the smallest, round by round."""
    return ratios(found[max(found)], found[min(found)])


def _claims(rigs: Mapping[int, Rig], rounds: int, data: dict[str, Any]) -> Section:
    found: dict[int, list[float]] = {size: [] for size in rigs}
    bare: dict[int, list[float]] = {size: [] for size in rigs}
    for number in range(rounds):
        for size, rig in rigs.items():
            claim, select = _claim_ms(rig)
            found[size].append(claim)
            bare[size].append(select)
        print(f"growth: claims, round {number + 1} of {rounds}: {found}, bare: {bare}", file=sys.stderr)
    data["claim_ms"] = {str(size): values for size, values in found.items()}
    data["bare_select_ms"] = {str(size): values for size, values in bare.items()}
    return Section(
        [
            *(
                Row(f"claim of {CLAIM_KEYS} keys, table and backlog of {size:,}, p50", values, "ms")
                for size, values in found.items()
            ),
            Row(f"claim time, {_ends([*rigs])}", _of_ends(found), "times", at_most=1.2),
            Row(f"the same rows by a bare SELECT, {_ends([*rigs])}", _of_ends(bare), "times"),
        ],
        data,
    )


def _claim_ms(rig: Rig) -> tuple[float, float]:
    """The median of claims that are given up, and of reading the rows of the same claims by their primary key with
    nothing around it: a taller index and memory further away make that slower too, whatever a claim does."""

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(rig.server.dsn(user="aviary_pelican"), autocommit=True)

    outbox = PostgresOutbox(connect)
    taken, bare = [], []
    keys: dict[int, list[str]] = {}
    try:
        source = next(iter(outbox.find())).source_id
        for number in range(CLAIMS):
            work = Work(LIVE, source, number % 16)
            began = time.perf_counter()
            claim = outbox.claim(work, CLAIM_KEYS)
            milliseconds = (time.perf_counter() - began) * 1000
            if claim is None:
                raise SystemExit(f"shard {number % 16} had nothing to claim")
            # An outbox row is taken whole, and of a small table has fewer keys.
            taken.append(milliseconds * CLAIM_KEYS / len(claim.rows))
            keys[work.shard] = [row.key for row in claim.rows]
            outbox.release([claim])
        for number in range(CLAIMS):
            some = keys[number % 16]
            began = time.perf_counter()
            outbox.connection.execute(_BARE, (some,), prepare=True).fetchall()
            bare.append((time.perf_counter() - began) * 1000 * CLAIM_KEYS / len(some))
    finally:
        outbox.drop()
    # The first of each session plan and read the table's description.
    return round(statistics.median(taken[16:]), 3), round(statistics.median(bare[16:]), 3)


def _searches(rigs: Mapping[int, Rig], rounds: int, data: dict[str, Any]) -> Section:
    queries = [query.text for query in catalogue.queries()]
    own: dict[int, list[float]] = {size: [] for size in rigs}
    index: dict[int, list[float]] = {size: [] for size in rigs}
    for rig in rigs.values():
        rig.start("frontend")
        one_by_one(rig.stack.plan.port, [f"warming up {number}" for number in range(20)])
    for number in range(rounds):
        # Words that no round before has asked for: the vectors of those are kept.
        asking = queries[number * SEARCHES : (number + 1) * SEARCHES]
        for size, rig in rigs.items():
            asked = one_by_one(rig.stack.plan.port, asking)
            own[size].append(round(statistics.median(own_share(rig, asked)), 3))
            index[size].append(round(percentile([each.index_ms for each in asked], 0.5), 3))
        print(f"growth: searches, round {number + 1} of {rounds}: {own}", file=sys.stderr)
    for rig in rigs.values():
        rig.stop("frontend")
    data["own_search_ms"] = {str(size): values for size, values in own.items()}
    data["index_ms"] = {str(size): values for size, values in index.items()}
    return Section([Row(f"our own share of a search, {_ends([*rigs])}", _of_ends(own), "times", at_most=1.2)], data)


def _reconciles(rigs: Mapping[int, Rig], rounds: int, data: dict[str, Any]) -> Iterator[Section]:
    """Reports on tables and vectors that are in step; what is known so far after each."""
    micros: dict[int, list[float]] = {size: [] for size in rigs}
    mib: dict[int, list[float]] = {size: [] for size in rigs}
    for number in range(rounds):
        for size, rig in rigs.items():
            report = reconcile(rig.state)
            if report["status"] or report.get("rows") != size:
                raise SystemExit(f"reconcile of {size:,} rows that are in step said {report}")
            micros[size].append(report["walked_seconds"] / size * 1e6)
            mib[size].append(report["peak_resident_mib"])
            print(f"growth: reconcile of {size:,} rows, round {number + 1} of {rounds}: {report}", file=sys.stderr)
        data["reconcile_us_a_row"] = {str(size): values for size, values in micros.items()}
        data["reconcile_mib"] = {str(size): values for size, values in mib.items()}
        ends = _ends([*rigs])
        yield Section(
            [
                *(Row(f"reconcile of {size:,} rows, time a row", values, "µs") for size, values in micros.items()),
                Row(f"reconcile, time a row, {ends}", _of_ends(micros), "times", at_most=1.2),
                Row(f"reconcile, greatest memory, {ends}", _of_ends(mib), "times", at_most=1.2),
            ],
            data,
        )
